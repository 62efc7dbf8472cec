/* Checks by the golden outputs that tests of several devices share. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "tests/common/model_helpers.h"

void check_random_text_greedy(const struct chain_options *o)
{
	struct golden *g = golden_open(RANDOM_TEXT "/golden.safetensors");
	const uint32_t *want = golden_ids(g, "a.greedy64", 64);
	float *logits = floats(96 * 512);
	uint32_t got[64];
	struct chain c;

	chain_open(&c, RANDOM_TEXT, o);
	chain_feed(&c, 0, golden_ids(g, "a.input_ids", 96), 96, 0, logits);
	chain_greedy(&c, 0, logits + 95 * 512, got, 64);
	assert_memory_equal(got, want, sizeof(got));
	chain_close(&c);
	free(logits);
	golden_close(g);
}

static uint32_t ids_of(json_t *list, uint32_t *ids, uint32_t room)
{
	size_t n = json_array_size(list);

	assert_in_range(n, 1, room);
	for (size_t i = 0; i < n; i++)
		ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
	return (uint32_t)n;
}

void check_mini_greedy(const struct chain_options *o)
{
	json_t *root = json_load_file(MINI_GREEDY, 0, NULL), *text;
	float *logits = floats((size_t)64 * 4096);
	uint32_t prompt[64], want[256], got[256], n, n_prompt;
	struct chain c;
	size_t i;

	assert_non_null(root);
	assert_true(json_array_size(json_object_get(root, "greedy")) > 0);
	chain_open(&c, MINI, o);
	json_array_foreach(json_object_get(root, "greedy"), i, text) {
		n_prompt = ids_of(json_object_get(text, "prompt_ids"), prompt, 64);
		n = ids_of(json_object_get(text, "ids"), want, 256);
		chain_drop(&c, 0);
		chain_feed(&c, 0, prompt, n_prompt, 0, logits);
		chain_greedy(&c, 0, logits + (size_t)(n_prompt - 1) * 4096, got, n);
		assert_memory_equal(got, want, n * sizeof(*got));
	}
	chain_close(&c);
	free(logits);
	json_decref(root);
}

void chunk_input(const struct chain *c, const uint32_t *chunk, uint32_t input[CHUNK])
{
	input[0] = (uint32_t)c->config->bos;
	memcpy(input + 1, chunk, (CHUNK - 1) * sizeof(*input));
}

double chunks_mean_nll(const char *path, const uint32_t *ids, uint32_t chunks,
                       const struct chain_options *o)
{
	float *logits = floats((size_t)CHUNK * 4096);
	uint32_t input[CHUNK];
	double sum = 0;
	struct chain c;

	chain_open(&c, path, o);
	assert_int_equal(c.config->vocab, 4096);
	for (uint32_t n = 0; n < chunks; n++, ids += CHUNK) {
		chunk_input(&c, ids, input);
		chain_drop(&c, 0);
		chain_feed(&c, 0, input, CHUNK, 0, logits);
		for (uint32_t i = 0; i + 1 < CHUNK; i++)
			sum += nll_of(logits + (size_t)i * 4096, 4096, ids[i]);
	}
	chain_close(&c);
	free(logits);
	return sum / (chunks * (CHUNK - 1));
}

uint32_t chunks_wanted(uint32_t unless_told)
{
	const char *text = getenv("GP_CHUNKS");
	uint64_t n = unless_told;

	if (text && gp_parse_u64("GP_CHUNKS", text, 1, CHUNKS, &n) < 0)
		fail_msg("%s", gp_error());
	return (uint32_t)n;
}

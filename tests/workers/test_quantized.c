/* Integer products against the same quantised weights in float32: perplexity of
 * the bundled model within 0.1%.
 * GP_CHUNKS=n limits the chunks, to four at least. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/common/model_helpers.h"
#include "tests/common/process.h"

#define CHUNK 512u
#define CHUNKS 24u
#define FEWEST_CHUNKS 4u       /* of less the noise of single tokens is seen */
#define ALL_CHUNKS 200u
#define TOLERANCE 0.001

static void convert(const char *from, const char *to, const char *type)
{
	struct result r;

	RUN(&r, program("convert"), "-q", from, "-o", to, "--type", type);
	if (r.status)
		fail_msg("convert to %s: %s", type, r.err);
	result_free(&r);
}

static double mean_nll(const char *path, const uint32_t *ids, uint32_t chunks)
{
	float *logits = malloc((size_t)CHUNK * 4096 * sizeof(*logits));
	double sum = 0;
	struct chain c;

	assert_non_null(logits);
	chain_open(&c, path, &(struct chain_options){ .threads = 2 });
	assert_int_equal(c.config->vocab, 4096);
	for (uint32_t n = 0; n < chunks; n++, ids += CHUNK) {
		uint32_t input[CHUNK];

		input[0] = (uint32_t)c.config->bos;
		memcpy(input + 1, ids, (CHUNK - 1) * sizeof(*input));
		chain_drop(&c, 0);
		chain_feed(&c, 0, input, CHUNK, 0, logits);
		for (uint32_t i = 0; i + 1 < CHUNK; i++)
			sum += nll_of(logits + (size_t)i * 4096, 4096, ids[i]);
	}
	chain_close(&c);
	free(logits);
	return sum / (chunks * (CHUNK - 1));
}

static uint32_t chunks_wanted(void)
{
	const char *text = getenv("GP_CHUNKS");
	uint64_t n = CHUNKS;

	if (text && gp_parse_u64("GP_CHUNKS", text, 1, ALL_CHUNKS, &n) < 0)
		fail_msg("%s", gp_error());
	n = n < FEWEST_CHUNKS ? FEWEST_CHUNKS : n;
	return n < CHUNKS ? (uint32_t)n : CHUNKS;
}

static void perplexity_is_that_of_the_weights(void **state)
{
	static const char *const types[] = { "q4_0", "q8_0", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs" };
	struct golden *g = golden_open(MINI_GOLDEN);
	const uint32_t *ids = golden_ids(g, "valid.ids", ALL_CHUNKS * CHUNK);
	const uint32_t n = chunks_wanted();
	/* Few tokens: their noise does not average out. */
	const double tolerance = n < CHUNKS ? 4 * TOLERANCE : TOLERANCE;
	char folder[] = "/tmp/gp-quantized.XXXXXX", small[96], whole[96];

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(small, sizeof(small), "%s/small.gguf", folder);
	snprintf(whole, sizeof(whole), "%s/f32.gguf", folder);
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++) {
		convert(MINI, small, types[t]);
		convert(small, whole, "f32");
		const double got = mean_nll(small, ids, n), want = mean_nll(whole, ids, n);

		print_message("%s: perplexity %.5f, of its weights in float32 %.5f\n", types[t],
		              exp(got), exp(want));
		unlink(small);
		unlink(whole);
		if (!(fabs(exp(got - want) - 1) <= tolerance))
			fail_msg("%s: %.3f%% apart", types[t], 100 * (exp(got - want) - 1));
	}
	rmdir(folder);
	golden_close(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(perplexity_is_that_of_the_weights),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Outputs of the reference implementation (float32), golden.safetensors and
 * golden.json beside each model, against the stages. GP_CHUNKS=n limits the
 * perplexity run to the first n of its 200 chunks. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "tests/common/model_helpers.h"
#include "workers/workers.h"

/* The largest error of the logits of one sequence. */
static double logit_error(const char *path, const uint32_t *ids, uint32_t n, const float *want,
                          enum gp_type kv_type)
{
	float *got = file_logits(path, ids, n, 0, &(struct chain_options){ .kv_type = kv_type });
	const double error = largest_difference(want, got, (size_t)n * 512);

	free(got);
	return error;
}

/* ---- gemma3-random-text ---------------------------------------------------- */
static void test_random_text_logits(void **state)
{
	struct golden *g = golden_open(RANDOM_TEXT "/golden.safetensors");
	const uint32_t *a = golden_ids(g, "a.input_ids", 96);
	const uint32_t *b = golden_ids(g, "b.input_ids", 300);
	const float *a_logits = golden_f32(g, "a.logits", 96 * 512);
	const float *b_logits = golden_f32(g, "b.logits", 300 * 512);

	(void)state;
	assert_true(logit_error(RANDOM_TEXT, a, 96, a_logits, GP_TYPE_F32) <= 1e-3);
	assert_true(logit_error(RANDOM_TEXT, b, 300, b_logits, GP_TYPE_F32) <= 1e-3);
	assert_true(logit_error(RANDOM_TEXT, a, 96, a_logits, GP_TYPE_F16) <= 2e-2);
	assert_true(logit_error(RANDOM_TEXT, b, 300, b_logits, GP_TYPE_F16) <= 2e-2);
	golden_close(g);
}

static void test_random_text_greedy(void **state)
{
	(void)state;
	check_random_text_greedy(&(struct chain_options){ 0 });
}

struct bare {                  /* one stage without a head */
	struct gp_model *model;
	void *dev;
	struct gp_stage *stage;
};

static void bare_open(struct bare *b, uint32_t first, uint32_t end, bool embeds)
{
	struct gp_stage_shape shape = {
		.first_layer = first, .end_layer = end, .embeds = embeds, .max_rows = 96,
		.max_sequences = 1, .context = 96, .kv_type = GP_TYPE_F32,
	};

	if (gp_model_open(&b->model, RANDOM_TEXT) < 0)
		fail_msg("%s", gp_error());
	shape.config = gp_model_config(b->model);
	if (gp_cpu_device.open(&b->dev, &(struct gp_device_options){ .threads = 1 }) < 0 ||
	    gp_stage_create(&b->stage, b->model, &shape, gp_cpu_device.ops, b->dev, NULL, NULL) < 0)
		fail_msg("%s", gp_error());
}

static void bare_close(struct bare *b)
{
	gp_stage_destroy(b->stage);
	gp_cpu_device.close(b->dev);
	gp_model_close(b->model);
}

static void final_norm(float *x, uint32_t rows)
{
	struct gp_model *m;
	const struct gp_tensor *t;
	float w[128];

	assert_int_equal(gp_model_open(&m, RANDOM_TEXT), 0);
	t = gp_model_tensor(m, GP_T_OUTPUT_NORM, 0);
	assert_int_equal(t->cols, GP_ARRAY_LEN(w));
	gp_dequantize(t->type, t->data, w, GP_ARRAY_LEN(w));
	for (uint32_t r = 0; r < rows; r++, x += GP_ARRAY_LEN(w)) {
		double sum = 0;

		for (uint32_t i = 0; i < GP_ARRAY_LEN(w); i++)
			sum += (double)x[i] * (double)x[i];
		for (uint32_t i = 0; i < GP_ARRAY_LEN(w); i++)
			x[i] = (float)((double)x[i] * (1 + (double)w[i]) /
			               sqrt(sum / (double)GP_ARRAY_LEN(w) + 1e-6));
	}
	gp_model_close(m);
}

/* The embedding, then each layer as a stage of its own on what the last one gave. */
static void test_random_text_hidden(void **state)
{
	enum { ROWS = 96, HIDDEN = 128, LAYERS = 8 };
	struct golden *g = golden_open(RANDOM_TEXT "/golden.safetensors");
	const uint32_t *ids = golden_ids(g, "a.input_ids", ROWS);
	float *x = floats(ROWS * HIDDEN);
	struct gp_stage_row rows[ROWS];
	char key[32];

	(void)state;
	for (uint32_t i = 0; i < ROWS; i++)
		rows[i] = (struct gp_stage_row){ .pos = i, .token = ids[i] };
	for (uint32_t k = 0; k <= LAYERS; k++) {
		struct bare b;
		const float *want;

		bare_open(&b, k ? k - 1 : 0, k, k == 0);
		if (gp_stage_run(b.stage, rows, ROWS, k ? x : NULL, x) < 0)
			fail_msg("%s", gp_error());
		bare_close(&b);
		if (k == LAYERS)
			final_norm(x, ROWS);
		snprintf(key, sizeof(key), "a.hidden.%u", k);
		want = golden_f32(g, key, ROWS * HIDDEN);
		assert_true(largest_difference(want, x, ROWS * HIDDEN) <=
		            1e-3 * largest_magnitude(want, ROWS * HIDDEN));
	}
	free(x);
	golden_close(g);
}

/* ---- gemma3-random-vision, its language model -------------------------------- */
static void test_random_vision_text(void **state)
{
	enum { N = 80 };
	uint32_t ids[N];
	struct chain c;
	float *want, *got;

	(void)state;
	chain_open(&c, RANDOM_VISION, &(struct chain_options){ 0 });
	want = floats((size_t)N * c.config->vocab);
	got = floats((size_t)N * c.config->vocab);
	for (uint32_t i = 0; i < N; i++)
		ids[i] = (i * 37 + 2) % 500;
	reference_logits(c.model, ids, N, want);
	chain_feed(&c, 0, ids, N, 0, got);
	assert_true(largest_difference(want, got, (size_t)N * c.config->vocab) <= 1e-3);
	chain_close(&c);
	free(want);
	free(got);
}

/* ---- gemma3-mini ----------------------------------------------------------- */
static void test_mini_last_logits(void **state)
{
	struct golden *g = golden_open(MINI_GOLDEN);
	const float *want = golden_f32(g, "chunk0.last_logits", 64 * 4096);
	const uint32_t *ids = golden_ids(g, "valid.ids", CHUNKS * CHUNK);
	const struct {
		enum gp_type kv_type;
		double tolerance;
	} kinds[] = { { GP_TYPE_F32, 2e-3 }, { GP_TYPE_F16, 2e-2 }, { GP_TYPE_Q8_0, 0.3 } };
	float *got = floats((size_t)CHUNK * 4096);
	uint32_t input[CHUNK];
	struct chain c;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(kinds); i++) {
		chain_open(&c, MINI, &(struct chain_options){ .kv_type = kinds[i].kv_type });
		assert_int_equal(c.config->vocab, 4096);
		chunk_input(&c, ids, input);
		chain_feed(&c, 0, input, CHUNK, 0, got);
		assert_true(largest_difference(want, got + (size_t)(CHUNK - 64) * 4096, 64 * 4096) <=
		            kinds[i].tolerance);
		chain_close(&c);
	}
	free(got);
	golden_close(g);
}

/* Row i of valid.nll: -log p of the first 511 ids of chunk i. Sums into total. */
static void score_chunk(struct chain *c, const uint32_t *ids, const float *want, float *logits,
                        double total[2])
{
	uint32_t input[CHUNK];

	chunk_input(c, ids, input);
	chain_drop(c, 0);
	chain_feed(c, 0, input, CHUNK, 0, logits);
	for (uint32_t i = 0; i + 1 < CHUNK; i++) {
		double nll = nll_of(logits + (size_t)i * c->config->vocab, c->config->vocab, ids[i]);

		if (!(fabs(nll - (double)want[i]) <= 1e-3))
			fail_msg("position %u: %.6f, the reference has %.6f", i, nll, (double)want[i]);
		total[0] += (double)want[i];
		total[1] += nll;
	}
}

static void test_mini_perplexity(void **state)
{
	struct golden *g = golden_open(MINI_GOLDEN);
	const float *want = golden_f32(g, "valid.nll", CHUNKS * (CHUNK - 1));
	const uint32_t *ids = golden_ids(g, "valid.ids", CHUNKS * CHUNK);
	float *logits = floats((size_t)CHUNK * 4096);
	const uint32_t n = chunks_wanted(CHUNKS);
	double total[2] = { 0, 0 }, scored = (double)n * (CHUNK - 1), ratio;
	struct chain c;

	(void)state;
	chain_open(&c, MINI, &(struct chain_options){ .threads = 2 });
	for (uint32_t i = 0; i < n; i++)
		score_chunk(&c, ids + (size_t)i * CHUNK, want + (size_t)i * (CHUNK - 1), logits,
		            total);
	ratio = exp((total[1] - total[0]) / scored);
	print_message("perplexity of %u chunks: %.5f, reference %.5f\n", n,
	              exp(total[1] / scored), exp(total[0] / scored));
	assert_true(fabs(ratio - 1) <= 0.0005);
	if (n == CHUNKS)
		assert_true(fabs(exp(total[1] / scored) - 30.253884) <= 30.253884 * 0.0005);
	chain_close(&c);
	free(logits);
	golden_close(g);
}

static void test_mini_greedy(void **state)
{
	(void)state;
	check_mini_greedy(&(struct chain_options){ 0 });
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_text_logits),
		cmocka_unit_test(test_random_text_greedy),
		cmocka_unit_test(test_random_text_hidden),
		cmocka_unit_test(test_random_vision_text),
		cmocka_unit_test(test_mini_last_logits),
		cmocka_unit_test(test_mini_greedy),
		cmocka_unit_test(test_mini_perplexity),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

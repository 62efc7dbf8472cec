/* What the Vulkan device does in several ways, held against one another: operations
 * fused and plain, steps of few rows by their number, candidates and whole rows. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/common/model_helpers.h"
#include "tests/common/process.h"
#include "tests/common/vulkan_driver.h"
#include "workers/vulkan/vulkan_device.h"

#define IDS 102400u            /* of the golden text */

/* ---- fused and plain ------------------------------------------------------------ */
static void test_fused(void **state)
{
	struct golden *g = golden_open(RANDOM_TEXT "/golden.safetensors");
	const uint32_t *ids = golden_ids(g, "b.input_ids", 300);
	const float *want = golden_f32(g, "b.logits", 300 * 512);

	(void)state;
	for (uint32_t without = 0; without < 8; without = without ? without * 2 : 1) {
		struct gp_device_ops ops = *gp_vulkan_device.ops;
		struct gp_worker_device device = gp_vulkan_device;
		struct chain c;
		char what[64];

		device.ops = &ops;
		if (without & 1)
			ops.append_attention = NULL;
		if (without & 2)
			ops.add_norm = NULL;
		if (without & 4)
			ops.gated_matmul = NULL;
		chain_open(&c, RANDOM_TEXT, &(struct chain_options){ .device = &device });
		for (uint32_t chunk = 1; chunk <= 8; chunk += 7) {
			snprintf(what, sizeof what, "plain %u, steps of %u", without, chunk);
			assert_near(what, want, chain_logits(&c, ids, 80, chunk), 80 * 512, 2e-3);
		}
		chain_close(&c);
	}
	golden_close(g);
}

/* ---- few rows ------------------------------------------------------------------- */
static double mean_nll(const float *logits, const uint32_t *ids, uint32_t n, uint32_t vocab)
{
	double sum = 0;

	for (uint32_t i = 0; i + 1 < n; i++)
		sum += nll_of(logits + (size_t)i * vocab, vocab, ids[i + 1]);
	return sum / (n - 1);
}

/* Inputs in 8 bits cost what they cost the CPU worker, whatever the number of rows. */
static void test_few_rows(void **state)
{
	static const char *const types[] = { "q8_0", "q4_0", "q4_k", "q6_k", "q3_k", "q5_k", "iq4_nl",
	                                     "iq4_xs" };
	static const uint32_t chunks[] = { 1, 2, 3, 8, 16, 24 };
	struct golden *g = golden_open(MINI_GOLDEN);
	const uint32_t *ids = golden_ids(g, "valid.ids", IDS), n = 48;
	char folder[] = "/tmp/gp-vulkan.XXXXXX", path[64], what[64];
	struct result r;

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof path, "%s/small.gguf", folder);
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++) {
		RUN(&r, program("convert"), "-q", MINI, "-o", path, "--type", types[t]);
		assert_int_equal(r.status, 0);
		result_free(&r);
		float *cpu = file_logits(path, ids, n, 0, &(struct chain_options){ 0 });
		const double want = mean_nll(cpu, ids, n, 4096);
		float *first = NULL;
		struct chain c;

		chain_open(&c, path, &(struct chain_options){ .device = &gp_vulkan_device });
		/* Every other one, to save time. */
		for (size_t i = t % 2; i < GP_ARRAY_LEN(chunks); i += 2) {
			float *got = chain_logits(&c, ids, n, chunks[i]);
			const double nll = mean_nll(got, ids, n, 4096);

			snprintf(what, sizeof what, "%s in steps of %u", types[t], chunks[i]);
			print_message("%s: nll %.5f, the CPU's %.5f\n", what, nll, want);
			if (!(fabs(nll - want) <= 0.02))
				fail_msg("%s: nll %.5f, the CPU's %.5f", what, nll, want);
			if (first)
				assert_near(what, first, got, (size_t)n * 4096, 0.5);
			else
				first = got;
		}
		chain_close(&c);
		free(first);
		free(cpu);
		unlink(path);
	}
	rmdir(folder);
	golden_close(g);
}

/* ---- large activations ----------------------------------------------------------- */
/* Against the CPU, of the largest logit; by one row, by a few, by many. */
static void check_large(const char *path, const char *type, double tolerance)
{
	static const uint32_t chunks[] = { 1, 4, 8, 40 };
	enum { N = 40, VOCAB = 160 };
	const double few = 1e-4;         /* as 8-bit inputs on the CPU */
	uint32_t ids[N];
	struct chain c;

	for (uint32_t i = 0; i < N; i++)
		ids[i] = 3 + i * 31 % 150;
	float *want = file_logits(path, ids, N, 0, &(struct chain_options){ 0 });
	const double most = largest_magnitude(want, (size_t)N * VOCAB);

	assert_true(isfinite(most) && most > 0);
	chain_open(&c, path, &(struct chain_options){ .device = &gp_vulkan_device });
	for (size_t i = 0; i < GP_ARRAY_LEN(chunks); i++)
		assert_near(type, want, chain_logits(&c, ids, N, chunks[i]), (size_t)N * VOCAB,
		            (chunks[i] > 4 ? tolerance : few) * most);
	chain_close(&c);
	free(want);
}

static void check_converted(const char *path, const char *type, double tolerance)
{
	char folder[] = "/tmp/gp-vulkan.XXXXXX", small[64];
	struct result r;

	assert_non_null(mkdtemp(folder));
	snprintf(small, sizeof small, "%s/small.gguf", folder);
	RUN(&r, program("convert"), "-q", path, "-o", small, "--type", type);
	if (r.status)
		fail_msg("convert: %s", r.err);
	result_free(&r);
	check_large(small, type, tolerance);
	unlink(small);
	rmdir(folder);
}

/* A residual stream of 1e6, as halves do not hold it, and inputs of products like it. */
static void test_large_activations(void **state)
{
	static const struct gp_config config = {
		.n_layers = 3, .hidden = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32, .ffn = 96,
		.vocab = 160, .window = 16, .context = 4096, .is_global = { [1] = true },
		.rope_base_local = 10000, .rope_base_global = 1000000, .rope_scale_global = 8,
		.attn_scale = 0.2f, .rms_eps = 1e-6f, .norm_offset = 1, .bos = 2, .eos = 1,
	};
	static const struct { const char *type; double tolerance; } cases[] = {
		{ "f32", 1e-4 }, { "bf16", 1e-2 }, { "q8_0", 5e-2 }, { "q4_0", 5e-2 } };
	char path[64];

	(void)state;
	random_model_create(path, &config, 11);
	random_model_poison(path, "model.layers.0.post_feedforward_layernorm.weight", 9, 1e6f);
	random_model_poison(path, "model.layers.1.pre_feedforward_layernorm.weight", 5, 1e6f);
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++)
		check_converted(path, cases[i].type, cases[i].tolerance);
	random_model_remove(path);
}

/* Rows of FFN of a width that no chunk of a matrix unit divides, nor 8. */
static void test_odd_ffn(void **state)
{
	static const struct gp_config config = {
		.n_layers = 2, .hidden = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32, .ffn = 100,
		.vocab = 160, .window = 16, .context = 4096,
		.rope_base_local = 10000, .rope_base_global = 10000, .rope_scale_global = 1,
		.attn_scale = 0.2f, .rms_eps = 1e-6f, .norm_offset = 1, .bos = 2, .eos = 1,
	};
	char path[64];

	(void)state;
	random_model_create(path, &config, 12);
	check_converted(path, "f16", 1e-2);
	random_model_remove(path);
}

/* The window ends inside a block: local layers read parts of blocks. Steps of 100 rows are
 * attended to in tiles, where there are such, the last of which is not full. */
static void test_kv_types(void **state)
{
	static const struct gp_config config = {
		.n_layers = 3, .hidden = 192, .n_heads = 4, .n_kv_heads = 2, .head_dim = 64,
		.ffn = 256, .vocab = 160, .window = 100, .context = 4096, .is_global = { [1] = true },
		.rope_base_local = 10000, .rope_base_global = 1000000, .rope_scale_global = 8,
		.attn_scale = 0.125f, .rms_eps = 1e-6f, .norm_offset = 1, .bos = 2, .eos = 1,
	};
	static const enum gp_type types[] = { GP_TYPE_F32, GP_TYPE_F16, GP_TYPE_Q8_0 };
	enum { N = 230, VOCAB = 160 };
	uint32_t ids[N];
	char path[64];

	(void)state;
	random_model_create(path, &config, 13);
	for (uint32_t i = 0; i < N; i++)
		ids[i] = 3 + i * 31 % 150;
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++) {
		const struct chain_options cpu = { .kv_type = types[t] };
		const struct chain_options vulkan = { .kv_type = types[t],
		                                      .device = &gp_vulkan_device };
		float *want = file_logits(path, ids, N, 0, &cpu);
		const double most = largest_magnitude(want, (size_t)N * VOCAB);
		const double tolerance = types[t] == GP_TYPE_F32 ? 1e-4 : types[t] == GP_TYPE_F16 ? 1e-3 :
		                         2e-2;
		struct chain c;

		chain_open(&c, path, &vulkan);
		for (uint32_t chunk = 7; chunk <= 100; chunk += 93)
			assert_near(gp_type_info(types[t])->name, want, chain_logits(&c, ids, N, chunk),
			            (size_t)N * VOCAB, (chunk > 8 ? fmax(tolerance, 1e-3) : tolerance) * most);
		chain_close(&c);
		free(want);
	}
	random_model_remove(path);
}

/* ---- several sequences ------------------------------------------------------------ */
#define SEQUENCES 12u
#define STEPS 3u

/* A step with prompts of all, which are of other lengths, then some that decode. */
static float *logits_of_sequences(struct chain *c)
{
	const uint32_t vocab = c->config->vocab;
	float *logits = floats((size_t)STEPS * SEQUENCES * vocab);
	struct gp_stage_row rows[256];
	uint32_t length[SEQUENCES] = { 0 };

	for (uint32_t step = 0; step < STEPS; step++) {
		uint32_t n = 0;

		for (uint32_t s = 0; s < SEQUENCES; s++) {
			const uint32_t end = length[s] + (step ? 1 : s == 0 ? 75 : s == 3 ? 17 : s + 1);

			for (; length[s] < end; length[s]++)
				rows[n++] = (struct gp_stage_row){
					.seq = s, .pos = length[s], .token = 3 + (s * 31 + length[s] * 7) % 150,
					.wants_logits = length[s] + 1 == end };
		}
		chain_step(c, rows, n, logits + (size_t)step * SEQUENCES * vocab);
	}
	return logits;
}

/* Heads of a KV head are a chunk of matrix operations, as 27B's; its window ends within
 * a prompt. Attention takes that prompt in tiles and the others row by row. */
static void test_sequences(void **state)
{
	static const struct gp_config config = {
		.n_layers = 3, .hidden = 256, .n_heads = 4, .n_kv_heads = 2, .head_dim = 128,
		.ffn = 320, .vocab = 160, .window = 40, .context = 4096, .is_global = { [1] = true },
		.rope_base_local = 10000, .rope_base_global = 1000000, .rope_scale_global = 8,
		.attn_scale = 0.2f, .rms_eps = 1e-6f, .norm_offset = 1, .bos = 2, .eos = 1,
	};
	static const char *const types[] = { "bf16", "q4_0" };
	static const enum gp_type kv_types[] = { GP_TYPE_F16, GP_TYPE_Q8_0 };
	const size_t n = (size_t)STEPS * SEQUENCES * config.vocab;
	char path[64], folder[] = "/tmp/gp-vulkan.XXXXXX", small[64];
	struct result r;

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(small, sizeof small, "%s/small.gguf", folder);
	random_model_create(path, &config, 6);
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++) {
		struct chain_options o = { .max_sequences = SEQUENCES, .kv_type = kv_types[t] };
		struct chain c;

		RUN(&r, program("convert"), "-q", path, "-o", small, "--type", types[t]);
		assert_int_equal(r.status, 0);
		result_free(&r);
		chain_open(&c, small, &o);
		float *want = logits_of_sequences(&c);
		chain_close(&c);
		o.device = &gp_vulkan_device;
		chain_open(&c, small, &o);
		assert_near(types[t], want, logits_of_sequences(&c), n,
		            2e-2 * largest_magnitude(want, n));
		chain_close(&c);
		free(want);
		unlink(small);
	}
	random_model_remove(path);
	rmdir(folder);
}

/* ---- candidates ----------------------------------------------------------------- */
static void check_candidates(const float *rows, const float *got, const struct gp_stage_row *row,
                             uint32_t n, uint32_t vocab)
{
	struct gp_kernels k;

	gp_kernels_init(&k, GP_CPU_ALL);
	for (uint32_t i = 0; i < n; i++) {
		struct gp_candidate want[GP_MAX_CANDIDATES];
		struct gp_best best = { .c = want, .most = row[i].candidates };

		gp_best_scan(&best, &k, rows + (size_t)i * vocab, 0, vocab);
		gp_best_sort(&best);
		assert_memory_equal(got, want, row[i].candidates * sizeof *want);
		got += row[i].candidates * sizeof *want / sizeof *got;
	}
}

static void test_candidates(void **state)
{
	static const uint32_t wanted[] = { 1, 2, 40, 1, 64, 7, 3, 1 };
	struct gp_stage_row rows[8];
	float *whole = floats(8 * 4096), *best = floats(8 * 4096);
	struct chain c;

	(void)state;
	chain_open(&c, MINI, &(struct chain_options){ .device = &gp_vulkan_device,
	                                              .max_sequences = 8 });
	for (uint32_t i = 0; i < 8; i++)
		rows[i] = (struct gp_stage_row){ .seq = i, .token = 10 + 7 * i, .wants_logits = true };
	assert_int_equal(gp_stage_run(c.stage[0], rows, 8, NULL, whole), 0);
	for (uint32_t i = 0; i < 8; i++) {
		chain_drop(&c, i);
		rows[i].candidates = wanted[i];
	}
	assert_int_equal(gp_stage_run(c.stage[0], rows, 8, NULL, best), 0);
	check_candidates(whole, best, rows, 8, 4096);
	chain_close(&c);
	free(whole);
	free(best);
}

/* ---- recorded at load ------------------------------------------------------------ */
static uint32_t count_recordings(const struct chain *c)
{
	const struct vulkan_device *d = c->dev[0];
	uint32_t n = 0;

	for (uint32_t i = 0; i < 4 * d->row_buckets * d->logit_buckets; i++)
		n += d->recordings[i] != NULL;
	return n;
}

static void decode(struct chain *c, uint32_t n, uint32_t pos, uint32_t candidates)
{
	struct gp_stage_row rows[8];
	float *logits = floats((size_t)n * c->config->vocab);

	for (uint32_t i = 0; i < n; i++)
		rows[i] = (struct gp_stage_row){ .seq = i, .pos = pos, .token = 3 + i,
		                                 .wants_logits = true, .candidates = candidates };
	chain_step(c, rows, n, logits);
	free(logits);
}

/* Neither a prompt nor decoding records anything. */
static void test_recorded_at_load(void **state)
{
	struct gp_stage_row prompt[40];
	float logits[512];
	struct chain c;

	(void)state;
	chain_open(&c, RANDOM_TEXT, &(struct chain_options){ .device = &gp_vulkan_device,
	                                                     .max_sequences = 5 });
	const uint32_t n = count_recordings(&c);
	for (uint32_t i = 0; i < 5; i++) {
		decode(&c, i + 1, 0, 0);
		for (uint32_t j = 0; j <= i; j++)
			chain_drop(&c, j);
		decode(&c, i + 1, 0, 1);
		for (uint32_t j = 0; j <= i; j++)
			chain_drop(&c, j);
	}
	for (uint32_t i = 0; i < 40; i++)
		prompt[i] = (struct gp_stage_row){ .pos = i, .token = 3 + i, .wants_logits = i == 39 };
	chain_step(&c, prompt, 3, NULL);
	chain_step(&c, prompt + 3, 37, logits);
	assert_int_equal(count_recordings(&c), n);
	chain_close(&c);
}

/* ---- tables in parts ---------------------------------------------------------------- */
/* No room for partial sums: with some, a stage's layers would cut their products along the
 * elements or not by how much memory an allocation has, and sums differ by more than parts. */
static int open_whole(void **dev, const struct gp_device_options *o)
{
	const int rc = gp_vulkan_device.open(dev, o);

	if (rc == 0)
		((struct vulkan_device *)*dev)->features.units = 0;
	return rc;
}

static int open_limited(void **dev, const struct gp_device_options *o)
{
	const int rc = open_whole(dev, o);

	if (rc == 0)
		((struct vulkan_device *)*dev)->most_allocation = 4 << 20;
	return rc;
}

/* A table that no allocation holds gives the same logits as one in one piece; the last of
 * its seven parts has one row, whose sums have an order of their own, since more subgroups
 * share them. */
static void test_split_table(void **state)
{
	static const struct gp_config config = {
		.n_layers = 1, .hidden = 256, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32,
		.ffn = 7680, .vocab = 6 * 5632 + 1, .window = 16, .context = 4096,
		.rope_base_local = 10000, .rope_base_global = 10000, .rope_scale_global = 1,
		.attn_scale = 0.2f, .rms_eps = 1e-6f, .norm_offset = 1, .bos = 2, .eos = 1,
	};
	static const char *const types[] = { "f16", "q4_0" };   /* whole, and taken apart */
	struct gp_worker_device limited = gp_vulkan_device, whole = gp_vulkan_device;
	char path[64], folder[] = "/tmp/gp-vulkan.XXXXXX", small[64];
	uint32_t ids[12];
	struct result r;
	struct chain c;

	(void)state;
	limited.open = open_limited;
	whole.open = open_whole;
	for (uint32_t i = 0; i < 12; i++)
		ids[i] = i == 5 ? config.vocab - 1 : 3 + i * 2713 % 30000;
	assert_non_null(mkdtemp(folder));
	snprintf(small, sizeof small, "%s/small.gguf", folder);
	random_model_create(path, &config, 5);
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++) {
		struct chain_options o = { .max_rows = 12 };

		RUN(&r, program("convert"), "-q", path, "-o", small, "--type", types[t]);
		if (r.status)
			fail_msg("convert: %s", r.err);
		result_free(&r);
		for (uint32_t chunk = 1; chunk <= 12; chunk += 11) {
			o.device = &whole;
			float *want = file_logits(small, ids, 12, chunk, &o);
			o.device = &limited;
			chain_open(&c, small, &o);
			assert_true(((struct vulkan_device *)c.dev[0])->weights[0].next != 0);
			assert_near(types[t], want, chain_logits(&c, ids, 12, chunk),
			            12 * (size_t)config.vocab, 1e-5);
			chain_close(&c);
			free(want);
		}
		unlink(small);
	}
	random_model_remove(path);
	rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fused), cmocka_unit_test(test_few_rows),
		cmocka_unit_test(test_large_activations), cmocka_unit_test(test_odd_ffn),
		cmocka_unit_test(test_kv_types), cmocka_unit_test(test_sequences),
		cmocka_unit_test(test_candidates), cmocka_unit_test(test_recorded_at_load),
		cmocka_unit_test(test_split_table),
	};

	return cmocka_run_group_tests(tests, keep_driver, let_driver_go);
}

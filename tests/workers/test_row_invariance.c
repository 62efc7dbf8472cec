/* A row's logits are bit-identical however its step was put together: memcmp
 * against each sequence alone, in steps as large as they may be, one stage, one
 * thread; for each instruction set and KV type. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/common/model_helpers.h"
#include "tests/common/process.h"

#define SEQUENCES 3u
#define LENGTH 150u            /* of the first; each next one is 20 shorter */

static const char *const sets[] = { "scalar", "avx2", "avx512", "avx512vnni" };

static uint32_t length_of(uint32_t seq)
{
	return LENGTH - seq * 20;
}

/* Any ids will do; two sequences share their first 50, inside a block, and no more. */
static void fill_ids(uint32_t ids[SEQUENCES][LENGTH], uint32_t vocab)
{
	for (uint32_t s = 0; s < SEQUENCES; s++)
		for (uint32_t i = 0; i < LENGTH; i++)
			ids[s][i] = (i * 2654435761u / 7 + (i < 50 ? 0 : s * 91 + 3)) % vocab;
}

struct baseline {
	const char *path;
	enum gp_type kv_type;
	uint32_t vocab;
	uint32_t ids[SEQUENCES][LENGTH];
	float *logits[SEQUENCES];
	float *got;                /* room for one sequence */
};

static void baseline_open(struct baseline *b, const char *path, enum gp_type kv_type)
{
	struct chain c;

	b->path = path;
	b->kv_type = kv_type;
	chain_open(&c, path, &(struct chain_options){ .kv_type = kv_type });
	b->vocab = c.config->vocab;
	fill_ids(b->ids, b->vocab);
	for (uint32_t s = 0; s < SEQUENCES; s++) {
		assert_non_null(b->logits[s] = calloc((size_t)LENGTH * b->vocab, sizeof(float)));
		chain_feed(&c, s, b->ids[s], length_of(s), 0, b->logits[s]);
	}
	assert_non_null(b->got = calloc((size_t)LENGTH * b->vocab, sizeof(float)));
	chain_close(&c);
}

static void baseline_close(struct baseline *b)
{
	for (uint32_t s = 0; s < SEQUENCES; s++)
		free(b->logits[s]);
	free(b->got);
}

/* Rows [from, from + n) of seq, now in got, against the baseline. */
static void check_rows(const struct baseline *b, uint32_t seq, uint32_t from, uint32_t n,
                       const float *got)
{
	assert_memory_equal(got, b->logits[seq] + (size_t)from * b->vocab,
	                    (size_t)n * b->vocab * sizeof(float));
}

static void check_cuts(const struct baseline *b, uint32_t stages, uint32_t threads, uint32_t chunk)
{
	struct chain c;

	chain_open(&c, b->path, &(struct chain_options){ .n_stages = stages, .threads = threads,
	                                                 .kv_type = b->kv_type });
	memset(b->got, 0xff, (size_t)LENGTH * b->vocab * sizeof(float));
	chain_feed(&c, 1, b->ids[0], LENGTH, chunk, b->got);
	check_rows(b, 0, 0, LENGTH, b->got);
	chain_close(&c);
}

/* Steps that mix rows of all sequences, each with as many as a counter says. */
static void check_mixed(const struct baseline *b, uint32_t stages, uint32_t threads)
{
	struct gp_stage_row rows[64];
	uint32_t done[SEQUENCES] = { 0 }, x = 1;
	struct chain c;

	chain_open(&c, b->path, &(struct chain_options){ .n_stages = stages, .threads = threads,
	                                                 .kv_type = b->kv_type });
	while (done[0] < LENGTH) {
		uint32_t n = 0, most = 1 + (x = x * 5 + 3) % 20;

		for (uint32_t i = 0; i < most * SEQUENCES; i++) {
			uint32_t s = (i * 7 + x) % SEQUENCES;

			if (done[s] < length_of(s) && n < GP_ARRAY_LEN(rows)) {
				rows[n++] = (struct gp_stage_row){
					.seq = s, .pos = done[s], .token = b->ids[s][done[s]],
					.wants_logits = true };
				done[s]++;
			}
		}
		if (!n)
			continue;
		chain_step(&c, rows, n, b->got);
		for (uint32_t i = 0; i < n; i++)
			check_rows(b, rows[i].seq, rows[i].pos, 1, b->got + (size_t)i * b->vocab);
	}
	chain_close(&c);
}

/* Logits of some rows only, a shared prefix, a rollback: the same bits again. */
static void check_kv_operations(const struct baseline *b)
{
	struct gp_stage_row row = { .wants_logits = true };
	struct chain c;
	struct gp_kv_cache *kv;

	chain_open(&c, b->path, &(struct chain_options){ .threads = 2, .kv_type = b->kv_type });
	kv = gp_stage_kv(c.stage[0]);
	chain_feed(&c, 0, b->ids[0], 100, 0, b->got);
	assert_int_equal(gp_kv_copy(kv, 1, 0, 50), 0);
	assert_int_equal(gp_kv_copy(kv, 2, 1, 45), 0);
	chain_feed(&c, 1, b->ids[1] + 50, length_of(1) - 50, 0, b->got);
	check_rows(b, 1, 50, length_of(1) - 50, b->got);
	chain_feed(&c, 2, b->ids[2] + 45, length_of(2) - 45, 3, b->got);
	check_rows(b, 2, 45, length_of(2) - 45, b->got);
	assert_int_equal(gp_kv_truncate(kv, 0, 83), 0);
	chain_feed(&c, 0, b->ids[1], 10, 0, b->got);
	assert_int_equal(gp_kv_truncate(kv, 0, 83), 0);
	chain_feed(&c, 0, b->ids[0] + 83, 20, 0, b->got);
	check_rows(b, 0, 83, 20, b->got);
	row.pos = 103;
	row.token = b->ids[0][103];
	chain_step(&c, &row, 1, b->got);
	check_rows(b, 0, 103, 1, b->got);
	chain_close(&c);
}

static void check_all(const char *path, enum gp_type kv_type, bool slow)
{
	struct baseline b;

	baseline_open(&b, path, kv_type);
	check_cuts(&b, 2, 2, 7);
	check_mixed(&b, 3, 2);
	if (!slow) {
		check_cuts(&b, 1, 1, 1);
		check_cuts(&b, 2, 1, 64);
		check_cuts(&b, 3, 3, 100);
		check_cuts(&b, 6, 2, 0);
		check_mixed(&b, 1, 1);
		check_kv_operations(&b);
	}
	baseline_close(&b);
}

/* Each instruction set from the given one up that this machine has; less with
 * the scalar one, which is some thirty times as slow. */
static void check_model(const char *path, size_t from, const enum gp_type *kv, size_t n_kv)
{
	for (size_t i = from; i < GP_ARRAY_LEN(sets); i++) {
		unsigned mask;

		assert_int_equal(gp_cpu_mask(sets[i], &mask), 0);
		if ((mask & gp_cpu_flags()) != mask)
			continue;
		setenv("GP_CPU", sets[i], 1);
		for (size_t k = 0; k < (i ? n_kv : 1); k++)
			check_all(path, kv[k], i == 0);
	}
	unsetenv("GP_CPU");
}

static void test_random_text(void **state)
{
	const enum gp_type kv[] = { GP_TYPE_F32, GP_TYPE_F16 };

	(void)state;
	check_model(RANDOM_TEXT, 0, kv, GP_ARRAY_LEN(kv));
}

/* Wide enough that every operation is shared among the threads. */
static char wide_path[64];

static int create_wide(void **state)
{
	const struct gp_config wide = {
		.n_layers = 7, .hidden = 256, .n_heads = 4, .n_kv_heads = 1, .head_dim = 64,
		.ffn = 512, .vocab = 512, .window = 40, .context = 4096, .is_global = { [5] = true },
		.rope_base_local = 10000, .rope_base_global = 1000000, .rope_scale_global = 1,
		.attn_scale = 0.125f, .rms_eps = 1e-6f, .norm_offset = 1, .bos = 2, .eos = 1,
	};

	(void)state;
	random_model_create(wide_path, &wide, 11);
	return 0;
}

static int remove_wide(void **state)
{
	(void)state;
	random_model_remove(wide_path);
	return 0;
}

static void test_wide(void **state)
{
	const enum gp_type kv[] = { GP_TYPE_Q8_0 };

	(void)state;
	check_model(wide_path, 1, kv, GP_ARRAY_LEN(kv));
}

/* Integer products: the same model in formats whose blocks fit it. */
static void test_quantized(void **state)
{
	static const char *const types[] = { "q4_0", "q8_0", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs" };
	const enum gp_type kv[] = { GP_TYPE_F16 };
	char path[96];

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(types); i++) {
		struct result r;

		snprintf(path, sizeof(path), "%s/%s.gguf", wide_path, types[i]);
		RUN(&r, program("convert"), "-q", wide_path, "-o", path, "--type", types[i]);
		assert_int_equal(r.status, 0);
		result_free(&r);
		check_model(path, 1, kv, GP_ARRAY_LEN(kv));
		assert_int_equal(unlink(path), 0);
	}
}

/* ---- long enough for parts of the positions, shared among threads --------- */
enum { LONG = 1300, LONG_TAIL = 12 };

static void feed_long(const char *path, enum gp_type kv_type, uint32_t threads, uint32_t chunk,
                      float *logits, uint32_t *vocab)
{
	uint32_t ids[LONG];
	struct chain c;

	chain_open(&c, path, &(struct chain_options){ .threads = threads, .kv_type = kv_type });
	*vocab = c.config->vocab;
	for (uint32_t i = 0; i < LONG; i++)
		ids[i] = i * 2654435761u / 7 % *vocab;
	/* The tail one by one: the tiles of a single row. */
	chain_feed(&c, 0, ids, LONG - LONG_TAIL, chunk, logits);
	chain_feed(&c, 0, ids + LONG - LONG_TAIL, LONG_TAIL, 1,
	           logits + (size_t)(LONG - LONG_TAIL) * *vocab);
	chain_close(&c);
}

static void test_long(void **state)
{
	/* Threads, rows of a step. 48 with 2: more split states than there is room for. */
	static const uint32_t cuts[][2] = { { 2, 48 }, { 3, 64 }, { 2, 11 }, { 9, 50 } };
	const size_t room = (size_t)LONG * 512 * sizeof(float);
	float *want = malloc(room), *got = malloc(room);
	uint32_t vocab;

	(void)state;
	for (size_t i = 1; i < GP_ARRAY_LEN(sets); i++) {
		unsigned mask;

		assert_int_equal(gp_cpu_mask(sets[i], &mask), 0);
		if ((mask & gp_cpu_flags()) != mask)
			continue;
		setenv("GP_CPU", sets[i], 1);
		feed_long(wide_path, GP_TYPE_F16, 1, 64, want, &vocab);
		assert_true(vocab == 512);
		for (size_t c = 0; c < GP_ARRAY_LEN(cuts); c++) {
			memset(got, 0xff, room);
			feed_long(wide_path, GP_TYPE_F16, cuts[c][0], cuts[c][1], got, &vocab);
			assert_memory_equal(want, got, room);
		}
	}
	unsetenv("GP_CPU");
	free(want);
	free(got);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_text),
		cmocka_unit_test_setup_teardown(test_wide, create_wide, remove_wide),
		cmocka_unit_test_setup_teardown(test_quantized, create_wide, remove_wide),
		cmocka_unit_test_setup_teardown(test_long, create_wide, remove_wide),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

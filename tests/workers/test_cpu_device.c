/* The CPU device: its threads, odd shapes against the independent reference,
 * what it refuses, cancelling. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <time.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "tests/common/model_helpers.h"
#include "workers/cpu/threads.h"
#include "workers/workers.h"

/* ---- threads --------------------------------------------------------------- */
struct count {
	uint32_t n;
	uint32_t seen[GP_MAX_THREADS];
	uint32_t cells[1000];
};

static void count_cells(void *arg, uint32_t thread, uint32_t n_threads)
{
	struct count *c = arg;
	uint32_t begin, end;

	gp_threads_split(c->n, 16, thread, n_threads, &begin, &end);
	for (uint32_t i = begin; i < end; i++)
		c->cells[i]++;
	c->seen[thread]++;
}

/* All cells touched once a run, whatever the threads and cores. */
static void test_threads(void **state)
{
	static const uint32_t counts[] = { 1, 2, 3, 9 };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(counts); i++) {
		struct gp_threads *t;
		struct count c = { .n = 999 };

		assert_int_equal(gp_threads_create(&t, counts[i], 1), 0);
		assert_int_equal(gp_threads_count(t), counts[i]);
		for (uint32_t run = 0; run < 300; run++) {
			gp_threads_run(t, count_cells, &c);
			if (run % 100 == 0) /* long enough for all to fall asleep */
				nanosleep(&(struct timespec){ 0, 2000000 }, NULL);
		}
		for (uint32_t k = 0; k < c.n; k++)
			assert_int_equal(c.cells[k], 300);
		assert_int_equal(c.cells[999], 0);
		for (uint32_t k = 0; k < counts[i]; k++)
			assert_int_equal(c.seen[k], 300);
		gp_threads_destroy(t);
	}
	gp_threads_destroy(NULL);
}

static void *create_pool(void *arg)
{
	return (void *)(intptr_t)gp_threads_create(arg, 16, 0);
}

/* As in a worker: made by a thread that is gone when the pool ends. */
static void test_threads_ended_by_another(void **state)
{
	struct gp_threads *t = NULL;
	pthread_t maker;
	void *rc;

	(void)state;
	assert_int_equal(pthread_create(&maker, NULL, create_pool, &t), 0);
	assert_int_equal(pthread_join(maker, &rc), 0);
	assert_null(rc);
	gp_threads_destroy(t);
}

static int node_of_even(uint32_t cpu)
{
	return cpu % 2 == 0;
}

/* Cores of two threads: 0 and 1, 2 and 3, ... */
static uint32_t rank_of_pairs(uint32_t cpu, const uint32_t *allowed, uint32_t n)
{
	(void)allowed;
	(void)n;
	return cpu % 2;
}

static uint32_t rank_none(uint32_t cpu, const uint32_t *allowed, uint32_t n)
{
	(void)cpu;
	(void)allowed;
	(void)n;
	return 0;
}

static int node_of_low(uint32_t cpu)
{
	return cpu < 4;
}

/* Odd cores on node 0, even ones on node 1. */
static void test_cores_by_node(void **state)
{
	uint32_t cpus[] = { 0, 1, 2, 3, 6, 7, 9 }, all[1024];
	uint32_t pairs[] = { 0, 1, 2, 3, 4, 5, 6, 7 };
	const uint32_t want[] = { 1, 3, 7, 9, 0, 2, 6 };
	const uint32_t want_pairs[] = { 4, 6, 0, 2, 5, 7, 1, 3 };

	(void)state;
	assert_int_equal(gp_cpus_in_order(cpus, GP_ARRAY_LEN(cpus), node_of_even, rank_none), 2);
	assert_memory_equal(cpus, want, sizeof(want));
	assert_int_equal(gp_cpus_in_order(cpus, 1, node_of_even, rank_none), 1);
	assert_int_equal(gp_cpus_in_order(cpus, 0, node_of_even, rank_none), 0);
	assert_int_equal(gp_cpus_in_order(pairs, 8, node_of_low, rank_of_pairs), 2);
	assert_memory_equal(pairs, want_pairs, sizeof(want_pairs));
	const uint32_t n = gp_cpus_allowed(all, GP_ARRAY_LEN(all));
	assert_true(n >= 1);
	assert_true(gp_cpus_in_order(all, n, gp_node_of_cpu(), gp_rank_in_core) >= 1);
}

/* Lists as the kernel writes them; a sibling that may not be used does not count. */
static void test_rank_in_core(void **state)
{
	const uint32_t all[] = { 0, 1 }, odd[] = { 1 };

	(void)state;
	assert_int_equal(gp_rank_in_list("0-1\n", 0, all, 2), 0);
	assert_int_equal(gp_rank_in_list("0-1\n", 1, all, 2), 1);
	assert_int_equal(gp_rank_in_list("0,1\n", 1, all, 2), 1);
	assert_int_equal(gp_rank_in_list("0-1\n", 1, odd, 1), 0);
	assert_int_equal(gp_rank_in_list("1\n", 1, all, 2), 0);
	assert_int_equal(gp_rank_in_list("nonsense", 1, all, 2), 0);
}

static void test_threads_refused(void **state)
{
	struct gp_threads *t;

	(void)state;
	assert_int_equal(gp_threads_create(&t, GP_MAX_THREADS + 1, 0), -EINVAL);
	assert_null(t);
	assert_int_equal(gp_threads_create(&t, 0, 0), 0);
	assert_true(gp_threads_count(t) >= 1);
	gp_threads_destroy(t);
}

static void test_split(void **state)
{
	(void)state;
	for (uint32_t n = 0; n < 70; n++) {
		for (uint32_t threads = 1; threads < 9; threads++) {
			uint32_t at = 0, begin, end;

			for (uint32_t t = 0; t < threads; t++, at = end) {
				gp_threads_split(n, 16, t, threads, &begin, &end);
				assert_int_equal(begin, at);
				assert_true(end >= begin && (begin % 16 == 0 || begin == n));
			}
			assert_int_equal(at, n);
		}
	}
	uint32_t begin, end;

	gp_threads_split(UINT32_MAX, 16, 255, 256, &begin, &end);
	assert_int_equal(end, UINT32_MAX);
}

/* ---- odd shapes ------------------------------------------------------------ */
static const struct gp_config plain = {
	.n_layers = 2, .hidden = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32, .ffn = 96,
	.vocab = 160, .window = 16, .context = 4096, .is_global = { [1] = true },
	.rope_base_local = 10000, .rope_base_global = 1000000, .rope_scale_global = 8,
	.attn_scale = 0.2f, .rms_eps = 1e-6f, .norm_offset = 1, .bos = 2, .eos = 1,
};

static void check_against_reference(const struct gp_config *config, enum gp_type kv_type,
                                    double tolerance)
{
	enum { N = 200 };
	char path[64];
	uint32_t ids[N];
	float *want, *got;
	struct chain c;

	random_model_create(path, config, 5);
	chain_open(&c, path, &(struct chain_options){ .threads = 2, .kv_type = kv_type,
	                                              .max_rows = 130 });
	random_model_remove(path);
	want = calloc((size_t)N * config->vocab, sizeof(*want));
	got = calloc((size_t)N * config->vocab, sizeof(*got));
	assert_true(want && got);
	for (uint32_t i = 0; i < N; i++)
		ids[i] = i * 31 % config->vocab;
	reference_logits(c.model, ids, N, want);
	chain_feed(&c, 3, ids, N, 0, got);
	if (!(largest_difference(want, got, (size_t)N * config->vocab) <= tolerance))
		fail_msg("off by %g", largest_difference(want, got, (size_t)N * config->vocab));
	chain_close(&c);
	free(want);
	free(got);
}

static void test_window_of_one(void **state)
{
	struct gp_config c = plain;

	(void)state;
	c.window = 1;
	check_against_reference(&c, GP_TYPE_F32, 1e-3);
}

static void test_one_layer(void **state)
{
	struct gp_config c = plain;

	(void)state;
	c.n_layers = 1;
	c.is_global[0] = true;
	check_against_reference(&c, GP_TYPE_F32, 1e-3);
	c.is_global[0] = false;
	c.window = 65;
	check_against_reference(&c, GP_TYPE_F32, 1e-3);
}

static void test_head_groups(void **state)
{
	struct gp_config c = plain;

	(void)state;
	c.n_kv_heads = c.n_heads;
	check_against_reference(&c, GP_TYPE_F32, 1e-3);
	c.n_kv_heads = 1;
	c.head_dim = 8;
	check_against_reference(&c, GP_TYPE_F32, 1e-3);
	c.n_heads = 1;
	c.head_dim = 256;
	check_against_reference(&c, GP_TYPE_F32, 1e-3);
}

static void test_kv_types(void **state)
{
	(void)state;
	check_against_reference(&plain, GP_TYPE_F16, 2e-2);
	check_against_reference(&plain, GP_TYPE_Q8_0, 0.2);
}

/* ---- refusals -------------------------------------------------------------- */
struct one {                   /* a model and a device, for shapes that may not work */
	char path[64];
	struct gp_model *model;
	void *dev;
	struct gp_stage_shape shape;
};

static void one_open(struct one *o)
{
	random_model_create(o->path, &plain, 3);
	if (gp_model_open(&o->model, o->path) < 0 || gp_cpu_device.open(&o->dev, &(struct gp_device_options){ .threads = 2 }) < 0)
		fail_msg("%s", gp_error());
	random_model_remove(o->path);
	o->shape = (struct gp_stage_shape){
		.config = gp_model_config(o->model), .first_layer = 0, .end_layer = 2,
		.embeds = true, .has_head = true, .max_rows = 8, .max_logit_rows = 2,
		.max_sequences = 2, .context = 100, .kv_type = GP_TYPE_F32,
	};
}

static void one_close(struct one *o)
{
	gp_cpu_device.close(o->dev);
	gp_model_close(o->model);
}

static int try_shape(struct one *o, const struct gp_stage_shape *shape)
{
	struct gp_stage *s;
	int rc = gp_stage_create(&s, o->model, shape, gp_cpu_device.ops, o->dev, NULL, NULL);

	assert_true((rc == 0) == (s != NULL));
	gp_stage_destroy(s);
	return rc;
}

static void test_shapes_refused(void **state)
{
	struct one o;
	struct gp_stage_shape s;

	(void)state;
	one_open(&o);
	assert_int_equal(try_shape(&o, &o.shape), 0);
#define REFUSED(change) do { s = o.shape; change; \
		assert_int_equal(try_shape(&o, &s), -EINVAL); } while (0)
	REFUSED(s.kv_type = GP_TYPE_Q4_0);
	REFUSED(s.end_layer = 3);
	REFUSED(s.end_layer = 1);
	REFUSED(s.first_layer = 1);
	REFUSED((s.first_layer = 2, s.end_layer = 1));
	REFUSED(s.max_rows = 0);
	REFUSED(s.max_sequences = 0);
	REFUSED(s.context = 0);
	REFUSED(s.max_logit_rows = 0);
#undef REFUSED
	assert_int_equal(try_shape(&o, &o.shape), 0);
	one_close(&o);
}

static void test_rows_refused(void **state)
{
	struct one o;
	struct gp_stage *s;
	float logits[2 * 160];
	struct gp_stage_row rows[9];

	(void)state;
	one_open(&o);
	assert_int_equal(gp_stage_create(&s, o.model, &o.shape, gp_cpu_device.ops, o.dev, NULL,
	                                 NULL), 0);
	for (uint32_t i = 0; i < 9; i++)
		rows[i] = (struct gp_stage_row){ .seq = 0, .pos = i, .token = i };
	assert_int_equal(gp_stage_run(s, rows, 0, NULL, logits), -EINVAL);
	assert_int_equal(gp_stage_run(s, rows, 9, NULL, logits), -EINVAL);
	rows[1].pos = 2;
	assert_int_equal(gp_stage_run(s, rows, 2, NULL, logits), -ERANGE);
	assert_non_null(strstr(gp_error(), "position 2"));
	rows[1] = (struct gp_stage_row){ .seq = 2 };
	assert_int_equal(gp_stage_run(s, rows, 2, NULL, logits), -EINVAL);
	rows[1] = (struct gp_stage_row){ .seq = 1, .token = 160 };
	assert_int_equal(gp_stage_run(s, rows, 2, NULL, logits), -EINVAL);
	assert_non_null(strstr(gp_error(), "160"));
	rows[0].wants_logits = true;
	assert_int_equal(gp_stage_run(s, rows, 1, NULL, NULL), -EINVAL);
	rows[1] = (struct gp_stage_row){ .pos = 1, .token = 1, .wants_logits = true };
	rows[2].wants_logits = true;
	assert_int_equal(gp_stage_run(s, rows, 3, NULL, logits), -EINVAL);
	rows[0].candidates = 81; /* would take more room than the row */
	assert_int_equal(gp_stage_run(s, rows, 1, NULL, logits), -EINVAL);
	assert_non_null(strstr(gp_error(), "81 best"));
	rows[0].candidates = 0;
	assert_int_equal(gp_kv_length(gp_stage_kv(s), 0), 0);
	for (uint32_t pos = 0; pos < 100; pos++) {
		rows[0].pos = pos;
		assert_int_equal(gp_stage_run(s, rows, 1, NULL, logits), 0);
	}
	rows[0].pos = 100;
	assert_int_equal(gp_stage_run(s, rows, 1, NULL, logits), -ERANGE);
	assert_non_null(strstr(gp_error(), "context of 100"));
	gp_stage_destroy(s);
	one_close(&o);
}

static void test_weights_refused(void **state)
{
	static const float data[64];
	const struct gp_tensor bad[] = {
		{ "none", GP_TYPE_F32, 0, 8, data, 0, 0, 0, false, 0 },
		{ "short", GP_TYPE_F32, 2, 8, data, 60, 0, 0, false, 0 },
		{ "block", GP_TYPE_Q8_0, 2, 33, data, 68, 0, 0, false, 0 },
		{ "huge", GP_TYPE_F32, UINT64_MAX / 2, UINT64_MAX / 2, data, 64, 0, 0, false, 0 },
	};
	struct one o;
	gp_handle h;

	(void)state;
	one_open(&o);
	assert_int_equal(try_shape(&o, &o.shape), 0);
	for (size_t i = 0; i < GP_ARRAY_LEN(bad); i++)
		assert_true(gp_cpu_device.ops->load(o.dev, &bad[i], 0, &h) < 0);
	one_close(&o);
}

static void test_bad_instruction_set(void **state)
{
	void *dev;

	(void)state;
	setenv("GP_CPU", "mmx", 1);
	assert_int_equal(gp_cpu_device.open(&dev, &(struct gp_device_options){ .threads = 1 }), -EINVAL);
	assert_null(dev);
	assert_non_null(strstr(gp_error(), "GP_CPU"));
	unsetenv("GP_CPU");
	gp_cpu_device.close(NULL);
}

/* ---- cancel, memory -------------------------------------------------------- */
/* Operations that cancel the step after some of them have run. */
static struct gp_device_ops cancelling;
static uint32_t adds_left;

static int add_then_cancel(void *dev, enum gp_buffer to, enum gp_buffer from)
{
	int rc = gp_cpu_device.ops->add(dev, to, from);

	if (adds_left && --adds_left == 0)
		gp_cpu_device.ops->cancel(dev);
	return rc;
}

static void test_cancel(void **state)
{
	struct gp_stage_row row = { .wants_logits = true };
	float want[160], got[160];
	struct one o;
	struct gp_stage *s;

	(void)state;
	one_open(&o);
	cancelling = *gp_cpu_device.ops;
	cancelling.add = add_then_cancel;
	assert_int_equal(gp_stage_create(&s, o.model, &o.shape, &cancelling, o.dev, NULL, NULL), 0);
	assert_int_equal(gp_stage_run(s, &row, 1, NULL, want), 0);
	row.seq = 1;
	adds_left = 2;
	assert_int_equal(gp_stage_run(s, &row, 1, NULL, got), -ECANCELED);
	assert_int_equal(gp_kv_drop(gp_stage_kv(s), 1), 0);
	assert_int_equal(gp_stage_run(s, &row, 1, NULL, got), 0);
	assert_memory_equal(got, want, sizeof(got));
	gp_stage_destroy(s);
	one_close(&o);
}

static void test_memory_is_counted(void **state)
{
	struct gp_stage_row rows[8] = { 0 };
	struct one o;
	struct gp_stage *s;
	uint64_t loaded, grown;

	(void)state;
	one_open(&o);
	assert_int_equal(gp_stage_create(&s, o.model, &o.shape, gp_cpu_device.ops, o.dev, NULL,
	                                 NULL), 0);
	loaded = gp_cpu_device.ops->memory_bytes(o.dev);
	assert_true(loaded >= gp_model_bytes(o.model, 0, 2, true));
	for (uint32_t i = 0; i < 8; i++)
		rows[i].pos = i;
	assert_int_equal(gp_stage_run(s, rows, 8, NULL, NULL), 0);
	grown = gp_cpu_device.ops->memory_bytes(o.dev);
	assert_true(grown >= loaded + 2ull * 2 * 2 * GP_KV_BLOCK * 32 * sizeof(float));
	gp_stage_destroy(s);
	one_close(&o);
}

/* ---- the best of the logits ------------------------------------------------- */
#define WIDE 40000u            /* a vocabulary that the threads share */

static int best_first(const void *a, const void *b)
{
	const struct gp_candidate *p = a, *q = b;

	return p->logit != q->logit ? (p->logit > q->logit ? -1 : 1) :
	       p->id < q->id ? -1 : p->id > q->id;
}

/* Whole rows, and rows of 1, 7 and 256 candidates, side by side in one step. */
static void check_step(struct chain *c, const float *whole)
{
	static const uint32_t wants[] = { 7, 0, 256, 1, 0 };
	struct gp_stage_row rows[GP_ARRAY_LEN(wants)];
	struct gp_candidate *all = calloc(WIDE, sizeof(*all));
	float *got = calloc(GP_ARRAY_LEN(wants) * WIDE, sizeof(*got)), *at = got;

	assert_true(all && got);
	for (uint32_t i = 0; i < GP_ARRAY_LEN(wants); i++)
		rows[i] = (struct gp_stage_row){ .pos = i, .token = i * 3, .wants_logits = true,
		                                 .candidates = wants[i] };
	chain_step(c, rows, GP_ARRAY_LEN(wants), got);
	for (uint32_t i = 0; i < GP_ARRAY_LEN(wants); i++) {
		for (uint32_t k = 0; k < WIDE; k++)
			all[k] = (struct gp_candidate){ whole[(size_t)i * WIDE + k], k };
		qsort(all, WIDE, sizeof(*all), best_first);
		if (wants[i])
			assert_memory_equal(at, all, wants[i] * sizeof(*all));
		else
			assert_memory_equal(at, whole + (size_t)i * WIDE, WIDE * sizeof(*at));
		at += wants[i] ? wants[i] * 2 : WIDE;
	}
	free(all);
	free(got);
}

static void test_candidates(void **state)
{
	static const uint32_t threads[] = { 1, 2, 3, 7 };
	const uint32_t ids[] = { 0, 3, 6, 9, 12 };
	struct gp_config config = plain;
	float *whole = calloc(GP_ARRAY_LEN(ids) * WIDE, sizeof(*whole));
	char path[64];

	(void)state;
	assert_non_null(whole);
	config.vocab = WIDE;
	random_model_create(path, &config, 9);
	for (size_t i = 0; i < GP_ARRAY_LEN(threads); i++) {
		struct chain c;

		chain_open(&c, path, &(struct chain_options){
			.threads = threads[i], .kv_type = GP_TYPE_F32, .max_rows = 8 });
		chain_feed(&c, 1, ids, GP_ARRAY_LEN(ids), 0, whole);
		check_step(&c, whole);
		chain_close(&c);
	}
	random_model_remove(path);
	free(whole);
}

static void test_numerics(void **state)
{
	(void)state;
	check_numerics_find(&gp_cpu_device);
}

static void test_describe(void **state)
{
	char text[256];

	(void)state;
	gp_cpu_device.describe(&(struct gp_device_options){ 0 }, text);
	assert_non_null(strstr(text, "core"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_threads_refused),
		cmocka_unit_test(test_threads_ended_by_another),
		cmocka_unit_test(test_cores_by_node),
		cmocka_unit_test(test_split),
		cmocka_unit_test(test_window_of_one),
		cmocka_unit_test(test_one_layer),
		cmocka_unit_test(test_head_groups),
		cmocka_unit_test(test_kv_types),
		cmocka_unit_test(test_shapes_refused),
		cmocka_unit_test(test_rows_refused),
		cmocka_unit_test(test_weights_refused),
		cmocka_unit_test(test_bad_instruction_set),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_memory_is_counted),
		cmocka_unit_test(test_candidates),
		cmocka_unit_test(test_numerics), cmocka_unit_test(test_describe),
		cmocka_unit_test(test_rank_in_core),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

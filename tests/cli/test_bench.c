/* gempipe bench: what it counts, what it flags, what it prints. How fast
 * anything was decides nothing here. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/common/process.h"
#include "tools/common/cost.h"
#include "tools/common/rulers.h"

/* ---- verdicts ------------------------------------------------------------------- */
static const char *verdict(enum gp_type weights, double gb_per_s, double gop_per_s)
{
	static const struct rulers r = {
		.threads = 2, .read_gb_per_s = 20, .int8_gop_per_s = 800, .float_gflop_per_s = 200,
	};
	const struct speed s = {
		.weights = weights, .model_bytes = 4000, .gb_per_s = gb_per_s, .gop_per_s = gop_per_s,
	};

	return rulers_verdict(&r, &s, 1000);
}

static void test_above_a_ruler(void **state)
{
	(void)state;
	assert_string_equal(verdict(GP_TYPE_Q4_0, 19, 700), "");
	assert_string_equal(verdict(GP_TYPE_Q4_0, 20.9, 839), "");
	assert_string_equal(verdict(GP_TYPE_Q4_0, 21.1, 700), "error: above the memory bandwidth");
	assert_string_equal(verdict(GP_TYPE_Q4_0, 1, 841), "error: above the arithmetic peak");
	assert_string_equal(verdict(GP_TYPE_Q4_0, 30, 900), "error: above the arithmetic peak");
	assert_string_equal(verdict(GP_TYPE_BF16, 1, 211), "error: above the arithmetic peak");
	assert_string_equal(verdict(GP_TYPE_F32, 1, 209), "");
	assert_string_equal(verdict(GP_TYPE_F16, NAN, 1), "error: above the memory bandwidth");
	assert_string_equal(verdict(GP_TYPE_F16, 1, INFINITY), "error: above the arithmetic peak");
}

/* A cache may be faster than the memory; no cache makes arithmetic faster. */
static void test_cache_resident(void **state)
{
	const struct rulers r = { .threads = 1, .read_gb_per_s = 20, .float_gflop_per_s = 200 };
	struct speed s = { .weights = GP_TYPE_F32, .model_bytes = 3999, .gb_per_s = 50 };

	(void)state;
	assert_string_equal(rulers_verdict(&r, &s, 1000), "cache-resident");
	s.gop_per_s = 300;
	assert_string_equal(rulers_verdict(&r, &s, 1000), "error: above the arithmetic peak");
	/* Without 8-bit instructions there is no ruler to exceed. */
	s.weights = GP_TYPE_Q8_0;
	assert_string_equal(rulers_verdict(&r, &s, 1000), "cache-resident");
	/* A cache of unknown size holds nothing. */
	assert_string_equal(rulers_verdict(&r, &s, 0), "error: above the memory bandwidth");
}

static void test_longest_rulers(void **state)
{
	struct rulers r = { .threads = 2, .read_gb_per_s = 10, .float_gflop_per_s = 300 };
	const struct rulers other = { .threads = 2, .read_gb_per_s = 20, .float_gflop_per_s = 200 };

	(void)state;
	rulers_keep_longest(&r, &other);
	assert_true(r.read_gb_per_s > 19 && r.float_gflop_per_s > 299 && !(r.int8_gop_per_s > 0));
}

/* ---- costs ------------------------------------------------------------------------ */
/* The bundled model: 6 layers, the last global, window 256, hidden 512, 8 heads
 * and 2 of keys and values of 64, ffn 1024, vocabulary 4096. */
#define LAYER_PARAMETERS (2.0 * 512 * 512 + 2 * 128 * 512 + 3 * 512 * 1024)
#define HEAD_PARAMETERS (4096.0 * 512)
#define ROW_BYTES (512 * 2) /* of the embedding */

static void assert_cost(struct cost got, double bytes, double ops)
{
	if (!(fabs(got.bytes - bytes) < 0.01 && fabs(got.ops - ops) < 0.01))
		fail_msg("%.3f bytes and %.3f operations, wanted %.3f and %.3f", got.bytes, got.ops,
			 bytes, ops);
}

static void test_cost_of_decode(void **state)
{
	const double ops = 2 * (6 * LAYER_PARAMETERS + HEAD_PARAMETERS), position = 4 * 8 * 64;
	struct cost_rows r = { .n = 1, .together = 1, .rows_per_step = 1, .logits = true };
	struct gp_model *m;

	(void)state;
	assert_int_equal(gp_model_open(&m, MINI), 0);
	const double weights = (double)gp_model_bytes(m, 0, 6, true);
	assert_cost(cost_per_token(m, GP_TYPE_F32, &r), weights + ROW_BYTES + 6 * 2 * 2 * 64 * 4,
		    ops + 6 * position);
	/* Local layers see 256 positions of 301, the global one all. */
	r.first = 300;
	r.rows_per_step = 8;
	assert_cost(cost_per_token(m, GP_TYPE_F16, &r),
		    weights / 8 + ROW_BYTES + (5 * 256 + 301) * 2 * 2 * 64 * 2,
		    ops + (5 * 256 + 301) * position);
	/* The mean of three; 34 bytes hold 32 numbers in Q8_0. */
	r.n = 3;
	assert_cost(cost_per_token(m, GP_TYPE_Q8_0, &r),
		    weights / 8 + ROW_BYTES + (5 * 256 + 302) * 2 * 2 * 68,
		    ops + (5 * 256 + 302) * position);
	gp_model_close(m);
}

/* Two steps of 256 rows: a step reads keys and values once. */
static void test_cost_of_prefill(void **state)
{
	const struct cost_rows r = { .n = 512, .together = 256, .rows_per_step = 256 };
	const double local = (256 * 257 / 2 + 256 * 256) / 512.0, global = 513 / 2.0;
	struct gp_model *m;

	(void)state;
	assert_int_equal(gp_model_open(&m, MINI), 0);
	assert_cost(cost_per_token(m, GP_TYPE_F16, &r),
		    (double)gp_model_bytes(m, 0, 6, false) / 256 + ROW_BYTES +
			    (5 * (256 + 511) + (256 + 512)) * 2 * 2 * 64 * 2 / 512.0,
		    12 * LAYER_PARAMETERS + (5 * local + global) * 4 * 8 * 64);
	gp_model_close(m);
}

/* ---- what is printed ---------------------------------------------------------------- */
static double number_of(json_t *o, const char *name)
{
	json_t *v = json_object_get(o, name);

	if (!json_is_number(v))
		fail_msg("no number \"%s\"", name);
	return json_number_value(v);
}

static void assert_text(json_t *o, const char *name, const char *want)
{
	assert_string_equal(json_string_value(json_object_get(o, name)), want);
}

static void check_result(json_t *o)
{
	static const char *const numbers[] = { "ms_per_token", "bytes_per_token", "gb_per_s",
					       "bandwidth_share", "flop_per_token", "gflop_per_s",
					       "arithmetic_share" };
	json_t *speed = json_object_get(o, "tokens_per_s");
	const double median = number_of(speed, "median");

	assert_true(number_of(speed, "min") > 0);
	assert_true(number_of(speed, "min") <= median && median <= number_of(speed, "max"));
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
		assert_true(number_of(o, numbers[i]) > 0);
	assert_text(o, "kv_type", "Q8_0");
	assert_text(o, "arithmetic_ruler", "float32");
	assert_non_null(json_string_value(json_object_get(o, "note")));
	assert_true(number_of(o, "stages") == 2 && number_of(o, "threads") == 2);
}

/* Positions show that contexts were filled and that runs went on from there. */
static void test_json(void **state)
{
	static const struct {
		const char *test;
		double batch, context, mean_position;
	} want[] = {
		{ "prefill", 1, 0, 7.5 },  { "prefill", 1, 40, (47.5 + 63.5) / 2 },
		{ "decode", 1, 0, 2.5 },   { "decode", 1, 40, (41.5 + 46.5) / 2 },
		{ "decode", 2, 0, 2.5 },   { "decode", 2, 40, (41.5 + 46.5) / 2 },
	};
	struct result r;

	(void)state;
	RUN(&r, program("bench"), "-m", MINI, "-p", "16", "-n", "4", "-b", "1,2", "-c", "0,40", "-r",
	    "2", "--json", "--kv-type", "q8_0", "--stages", "cpu:0-2,cpu:3-5", "--threads", "1");
	assert_int_equal(r.status, 0);
	json_t *o = json_loads(r.out, 0, NULL), *results = json_object_get(o, "results");
	json_t *machine = json_object_get(o, "machine");
	assert_int_equal(json_array_size(results), 6);
	for (size_t i = 0; i < 6; i++) {
		json_t *result = json_array_get(results, i);

		assert_text(result, "test", want[i].test);
		assert_true(number_of(result, "batch") == want[i].batch);
		assert_true(number_of(result, "context") == want[i].context);
		assert_true(fabs(number_of(result, "mean_position") - want[i].mean_position) < 1e-3);
		check_result(result);
	}
	assert_true(number_of(machine, "threads") == 2);
	assert_true(number_of(machine, "read_gb_per_s_one_thread") > 0);
	assert_true(number_of(machine, "float32_gflop_per_s") > 0);
	assert_int_equal(json_array_size(json_object_get(o, "stages")), 2);
	assert_non_null(json_string_value(json_object_get(o, "version")));
	json_decref(o);
	result_free(&r);
}

static void test_table_fits_100_columns(void **state)
{
	struct result r;
	char *save = NULL;
	int rows = 0;

	(void)state;
	RUN(&r, program("bench"), "-m", MINI, "-p", "8", "-n", "2", "-c", "100", "-r", "1");
	assert_int_equal(r.status, 0);
	for (char *line = strtok_r(r.out, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (strlen(line) > 100)
			fail_msg("%zu columns: %s", strlen(line), line);
		rows += !strncmp(line, "prefill ", 8) || !strncmp(line, "decode ", 7);
	}
	assert_int_equal(rows, 2);
	/* No terminal, no progress. */
	assert_null(strstr(r.err, "context"));
	result_free(&r);
}

/* The scalar set has no 8-bit products to measure; the worker says what it uses. */
static void test_cpu_mask(void **state)
{
	struct result r;

	(void)state;
	RUN(&r, program("bench"), "-m", MINI, "-p", "4", "-n", "2", "-r", "1", "--cpu-mask",
	    "scalar", "--json");
	assert_int_equal(r.status, 0);
	assert_non_null(strstr(r.out, "(at most scalar)\""));
	assert_non_null(strstr(r.out, "\"int8_gop_per_s\": null"));
	result_free(&r);
}

/* Each share its line; of what repeats the prompt all guesses are right. */
static void test_guesses(void **state)
{
	struct result r;
	json_t *one, *other;

	(void)state;
	RUN(&r, program("bench"), "--guess", "-m", MINI, "--lookup", "6", "-p", "30", "-n", "40", "-b", "2",
	    "-r", "1", "--accept", "1,0.5", "--threads", "1", "--json", "-q");
	if (r.status)
		fail_msg("%s", r.err);
	assert_non_null(one = json_loads(r.out, JSON_DISABLE_EOF_CHECK, NULL));
	assert_non_null(other = json_loads(strchr(r.out, '\n'), 0, NULL));
	json_t *counts = json_object_get(one, "lookup");
	assert_true(number_of(one, "accept") == 1 && number_of(one, "batch") == 2);
	assert_true(number_of(one, "plain_tokens_per_s") > 0 && number_of(one, "speedup") > 0);
	assert_true(number_of(counts, "proposed") > 0);
	assert_true(number_of(counts, "proposed") == number_of(counts, "accepted"));
	assert_true(number_of(json_object_get(one, "draft"), "proposed") == 0);
	assert_true(number_of(other, "accept") == 0.5);
	json_decref(one);
	json_decref(other);
	result_free(&r);
}

static double looked_up(const char *const *argv)
{
	struct result r;

	run_program(&r, argv);
	if (r.status)
		fail_msg("%s", r.err);
	json_t *o = json_loads(r.out, 0, NULL);
	const double proposed = number_of(json_object_get(o, "lookup"), "proposed");
	json_decref(o);
	result_free(&r);
	return proposed;
}

#define GUESS program("bench"), "--guess", "-m", MINI, "-p", "30", "-n", "40", "-r", "1", "--accept", "1", \
	      "--threads", "1", "--json", "-q"

/* As the help says: where nothing else guesses and all is on the CPU. */
static void test_default_lookup(void **state)
{
	const char *const none[] = { GUESS, NULL }, *const draft[] = { GUESS, "--draft", MINI, NULL };
	struct result r;

	(void)state;
	assert_true(looked_up(none) > 0);
	assert_true(looked_up(draft) == 0);
	RUN(&r, GUESS, "--stages", "npu:0-5", "--npu", "sim");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "nothing guesses where a stage is on npu; give --lookup N"));
	result_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_above_a_ruler), cmocka_unit_test(test_cache_resident),
		cmocka_unit_test(test_longest_rulers),
		cmocka_unit_test(test_cost_of_decode), cmocka_unit_test(test_cost_of_prefill),
		cmocka_unit_test(test_json), cmocka_unit_test(test_table_fits_100_columns), cmocka_unit_test(test_cpu_mask),
		cmocka_unit_test(test_guesses), cmocka_unit_test(test_default_lookup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

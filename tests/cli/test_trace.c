/* --trace: spans of all processes on one clock, arrows between them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/common/process.h"

static json_t *events;

static int record(void **state)
{
	char path[] = "/tmp/gp-trace-XXXXXX";
	struct result r;

	(void)state;
	if (close(mkstemp(path)) != 0)
		return -1;
	RUN(&r, program("run"), "-m", MINI, "-p", "In the beginning", "-n", "8", "--stages",
	    "cpu:0-2,cpu:3-5", "--trace", path, "-q");
	json_t *all = json_load_file(path, 0, NULL);
	unlink(path);
	events = json_incref(json_object_get(all, "traceEvents"));
	json_decref(all);
	const int status = r.status;
	result_free(&r);
	return status == 0 && json_is_array(events) ? 0 : -1;
}

static int drop(void **state)
{
	(void)state;
	json_decref(events);
	return 0;
}

/* A killed worker leaves half a line; the trace stays JSON. */
static void test_killed_worker(void **state)
{
	char path[] = "/tmp/gp-trace-XXXXXX";
	const char *const argv[] = { program("run"), "-m", MINI, "-p", "In the beginning", "-n", "300",
				     "--stages", "cpu:0-2,cpu:3-5", "--trace", path, NULL };
	struct process p;
	struct result r;
	pid_t workers[8];

	(void)state;
	assert_int_equal(close(mkstemp(path)), 0);
	process_start(&p, argv, 0);
	for (int i = 0; i < 2000 && lseek(p.out_fd, 0, SEEK_END) < 400; i++)
		sleep_ms(10);
	assert_int_equal(process_workers(p.pid, workers, 8), 2);
	kill(workers[1], SIGKILL);
	process_finish(&p, &r, 120);
	assert_int_equal(r.status, 0);
	json_t *all = json_load_file(path, 0, NULL);
	unlink(path);
	assert_true(json_is_array(json_object_get(all, "traceEvents")));
	json_decref(all);
	result_free(&r);
}

static void test_unwritable(void **state)
{
	struct result r;

	(void)state;
	RUN(&r, program("run"), "-m", MINI, "-p", "x", "-n", "2", "--trace", "/nowhere/t.json");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "/nowhere/t.json"));
	assert_string_equal(r.out, "");
	result_free(&r);
}

static const char *text(const json_t *e, const char *key)
{
	const char *s = json_string_value(json_object_get(e, key));

	return s ? s : "";
}

static bool is(const json_t *e, const char *ph, const char *name)
{
	return strcmp(text(e, "ph"), ph) == 0 && strcmp(text(e, "name"), name) == 0;
}

static size_t count(const char *ph, const char *name)
{
	size_t n = 0, i;
	json_t *e;

	json_array_foreach(events, i, e)
		n += is(e, ph, name);
	return n;
}

static void test_processes(void **state)
{
	static const char *const names[] = { "coordinator", "stage 0: cpu", "stage 1: cpu" };

	(void)state;
	assert_int_equal(count("M", "process_name"), 3);
	for (size_t k = 0; k < 3; k++) {
		bool found = false;
		size_t i;
		json_t *e;

		json_array_foreach(events, i, e)
			found |= is(e, "M", "process_name") &&
				 strcmp(text(json_object_get(e, "args"), "name"), names[k]) == 0;
		assert_true(found);
	}
}

static void test_spans(void **state)
{
	static const char *const names[] = { "ring wait", "embed", "attention local",
					     "attention global", "ffn", "head", "send", "sample" };

	(void)state;
	/* The prompt and seven of the eight tokens, through two stages. */
	assert_int_equal(count("X", "step"), 2 * 8);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (!count("X", names[i]))
			fail_msg("no span '%s'", names[i]);
}

static double number(const json_t *e, const char *key)
{
	return json_number_value(json_object_get(e, key));
}

static const json_t *arrow_start(double id)
{
	size_t i;
	json_t *e;

	json_array_foreach(events, i, e)
		if (is(e, "s", "slot") && number(e, "id") == id)
			return e;
	return NULL;
}

static void test_arrows(void **state)
{
	size_t i, n = 0;
	json_t *e;

	(void)state;
	json_array_foreach(events, i, e) {
		if (!is(e, "f", "slot"))
			continue;
		const json_t *from = arrow_start(number(e, "id"));

		assert_non_null(from);
		/* One clock: an arrow never points into the past, nor to its own process. */
		assert_true(number(from, "ts") <= number(e, "ts"));
		assert_true(number(from, "pid") != number(e, "pid"));
		n++;
	}
	assert_int_equal(n, 3 * 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_processes), cmocka_unit_test(test_spans),
		cmocka_unit_test(test_arrows), cmocka_unit_test(test_killed_worker),
		cmocka_unit_test(test_unwritable),
	};

	return cmocka_run_group_tests(tests, record, drop);
}

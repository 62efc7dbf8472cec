/* The device's spans in --trace lie inside the steps that they belong to. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/common/process.h"

#define STEPS 6u       /* the prompt, and five of six tokens */
#define SLACK_US 50.0  /* of two clocks read one after the other */

static double number(const json_t *e, const char *key)
{
	return json_number_value(json_object_get(e, key));
}

static bool is(const json_t *e, const char *category, const char *name)
{
	const char *c = json_string_value(json_object_get(e, "cat"));
	const char *n = json_string_value(json_object_get(e, "name"));

	return c && n && strcmp(c, category) == 0 && strcmp(n, name) == 0;
}

/* What is prepared before the first step lies in none. */
static bool is_before_steps(const json_t *events, const json_t *span)
{
	json_t *e;
	size_t i;

	json_array_foreach(events, i, e)
		if (is(e, "stage", "step") && number(e, "pid") == number(span, "pid") &&
		    number(e, "ts") < number(span, "ts") + number(span, "dur"))
			return false;
	return true;
}

static bool lies_in_step(const json_t *events, const json_t *span)
{
	const double begin = number(span, "ts"), end = begin + number(span, "dur");
	json_t *e;
	size_t i;

	json_array_foreach(events, i, e)
		if (is(e, "stage", "step") && number(e, "pid") == number(span, "pid") &&
		    begin >= number(e, "ts") - SLACK_US &&
		    end <= number(e, "ts") + number(e, "dur") + SLACK_US)
			return true;
	return false;
}

static void check_trace(void)
{
	char path[] = "/tmp/gp-trace-XXXXXX";
	struct result r;
	unsigned n = 0;
	json_t *e;
	size_t i;

	assert_int_equal(close(mkstemp(path)), 0);
	RUN(&r, program("run"), "-m", MINI, "-p", "In the beginning", "-n", "6", "--stages",
	    "cpu:0-2,vulkan:3-5", "--trace", path, "-q");
	assert_int_equal(r.status, 0);
	json_t *all = json_load_file(path, 0, NULL);
	unlink(path);
	const json_t *events = json_object_get(all, "traceEvents");
	json_array_foreach(events, i, e) {
		if (!is(e, "gpu", "submission"))
			continue;
		assert_true(number(e, "dur") > 0);
		n += lies_in_step(events, e);
		assert_true(lies_in_step(events, e) || is_before_steps(events, e));
	}
	assert_int_equal(n, STEPS);
	json_decref(all);
	result_free(&r);
}

static void test_calibrated(void **state)
{
	(void)state;
	check_trace();
}

/* A device that cannot tell the host's clock: its spans begin where it was given the
 * work. A real one cannot be dressed up so. */
static void test_uncalibrated(void **state)
{
	char preload[4096];
	struct result r;

	(void)state;
	RUN(&r, program("devices"));
	const bool emulated = strstr(r.out, "emulation") != NULL;
	result_free(&r);
	if (!emulated)
		skip();
	snprintf(preload, sizeof preload, "%s", program("x"));
	strcpy(strstr(preload, "/bin/gempipe-x"), "/tests/preload/vulkan_card.so");
	setenv("LD_PRELOAD", preload, 1);
	check_trace();
	unsetenv("LD_PRELOAD");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_calibrated), cmocka_unit_test(test_uncalibrated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

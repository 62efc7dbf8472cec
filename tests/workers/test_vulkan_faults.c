/* A device that is lost, hangs, or has no memory: what its worker says, and that the
 * text goes on. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/common/process.h"

#define TOKENS "24"

static char *undisturbed;

static int set_up(void **state)
{
	(void)state;
	undisturbed = text_of_mini(TOKENS);
	return undisturbed ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	free(undisturbed);
	return 0;
}

/* The text, with the fault in one of two workers. */
static void run_with(const char *fault, const char *option, struct result *r)
{
	char once[] = "/tmp/gp-fault.XXXXXX", preload[4096];
	const int fd = mkstemp(once);

	assert_true(fd >= 0);
	close(fd);
	unlink(once);
	/* BUILD/bin/gempipe-.. -> BUILD/tests/preload */
	snprintf(preload, sizeof preload, "%s", program("x"));
	strcpy(strstr(preload, "/bin/gempipe-x"), "/tests/preload/vulkan_faults.so");
	setenv("LD_PRELOAD", preload, 1);
	setenv("GP_FAULT", fault, 1);
	setenv("GP_FAULT_ONCE", once, 1);
	RUN(r, program("run"), "-m", MINI, "-p", "In the beginning", "-n", TOKENS, "--stages",
	    "cpu:0-2,vulkan:3-5", option);
	unsetenv("LD_PRELOAD");
	unsetenv("GP_FAULT");
	unsetenv("GP_FAULT_ONCE");
	assert_int_equal(unlink(once), 0);   /* it did happen */
}

static void assert_says(const struct result *r, const char *text)
{
	if (!strstr(r->err, text))
		fail_msg("'%s' is not in: %s", text, r->err);
}

/* kept: its worker had to be killed. */
static void survives(const char *fault, const char *option, const char *text, bool kept)
{
	struct result r;

	run_with(fault, option, &r);
	assert_says(&r, text);
	assert_says(&r, "worker 1 (layers 3-5)");
	assert_says(&r, "try 1 of 3");
	if ((strstr(r.err, "worker 1 has said nothing") != NULL) != kept)
		fail_msg("%s", r.err);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, undisturbed);
	result_free(&r);
}

static void test_lost(void **state)
{
	(void)state;
	survives("lost:12", "-v", "the device was lost in a step", false);
}

/* Each operation is waited for, so the layer is known. */
static void test_lost_in_layer(void **state)
{
	(void)state;
	survives("lost:16", "--check-numerics", "worker 1 (layers 3-5): layer 4: ", false);
}

/* Whatever would wait for the device is left alone. */
static void test_hang(void **state)
{
	(void)state;
	survives("hang:12", "-v", "the device hangs: a step took over", false);
}

static void test_stuck(void **state)
{
	(void)state;
	survives("stuck:12", "-v", "the device hangs: a step took over", true);
}

/* Will not be better the next time: ends at once, and says what to do. */
static void test_no_memory(void **state)
{
	struct result r;

	(void)state;
	run_with("memory:2", "-v", &r);
	assert_int_equal(r.status, 1);
	assert_string_equal(r.out, "");
	assert_says(&r, "Vulkan: no memory for");
	assert_says(&r, "give this stage fewer layers");
	assert_null(strstr(r.err, "try 2"));
	result_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lost), cmocka_unit_test(test_lost_in_layer),
		cmocka_unit_test(test_hang), cmocka_unit_test(test_stuck),
		cmocka_unit_test(test_no_memory),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

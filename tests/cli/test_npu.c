/* NPU stages as a user sees them: on the simulated device, without one, and when it fails. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/common/process.h"
#include "tests/common/sanitizers.h"

#define NPU_STAGES "--stages", "cpu:0-2,npu:3-5"
#define SIMULATED NPU_STAGES, "--npu", "sim"
#define RUN_MINI program("run"), "-m", MINI, "-p", "In the beginning", "-n", "40"

static char *plain;            /* what the CPU says */

static int set_up(void **state)
{
	(void)state;
	setenv("GP_NPU_USE", "always", 1);
	plain = text_of_mini("40");
	return plain ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	free(plain);
	unsetenv("GP_NPU_USE");
	return 0;
}

/* Says it somewhere on stderr. */
static void assert_says(const struct result *r, const char *text)
{
	if (!strstr(r->err, text))
		fail_msg("no \"%s\" in: %s", text, r->err);
}

/* ---- simulated ----------------------------------------------------------------------- */
/* Of the prompt's step three products a layer, of those after it none; 6 are measurements. */
static void test_same_text(void **state)
{
	struct result r;

	(void)state;
	RUN(&r, RUN_MINI, SIMULATED, "-v");
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, plain);
	assert_says(&r, "1     simulated npu 3-5");
	assert_says(&r, " tokens/s (simulated NPU: the speed of the simulator");
	assert_says(&r, "simulated NPU: 15 commands");
	result_free(&r);
	RUN(&r, RUN_MINI, "--npu-layers", "6", "--npu", "sim", "--device-memory", "npu=64M");
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, plain);
	assert_says(&r, "0     simulated npu 0-5");
	result_free(&r);
}

/* Where it decides for itself, a model of this size is faster on the host. */
static void test_only_where_it_pays(void **state)
{
	struct result r;

	(void)state;
	NOT_UNDER_SANITIZERS();
	unsetenv("GP_NPU_USE");
	RUN(&r, RUN_MINI, SIMULATED, "-v");
	setenv("GP_NPU_USE", "always", 1);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, plain);
	assert_says(&r, "simulated NPU: 6 commands");
	result_free(&r);
}

/* And removes the file. */
static char *file_text(const char *path)
{
	FILE *f = fopen(path, "re");
	char *text = NULL;
	size_t room = 0;

	assert_non_null(f);
	assert_true(getdelim(&text, &room, '\0', f) > 0);
	fclose(f);
	unlink(path);
	return text;
}

/* Nothing that shows a time or a device leaves the word out. */
static void test_labels(void **state)
{
	char path[] = "/tmp/gp-npu-trace-XXXXXX";
	struct result r;

	(void)state;
	NOT_UNDER_SANITIZERS();
	close(mkstemp(path));
	RUN(&r, RUN_MINI, SIMULATED, "--trace", path);
	assert_int_equal(r.status, 0);
	result_free(&r);
	char *text = file_text(path);
	assert_non_null(strstr(text, "stage 1: simulated npu"));
	assert_non_null(strstr(text, "product (simulated NPU)"));
	assert_null(strstr(text, "product (NPU)"));
	free(text);
	RUN(&r, program("bench"), "-m", MINI, "-p", "8", "-n", "2", "-r", "1", SIMULATED, "--json");
	assert_int_equal(r.status, 0);
	assert_non_null(strstr(r.out, "\"device\": \"simulated npu\""));
	assert_non_null(strstr(r.out, "SIMULATED NPU Phoenix"));
	assert_non_null(strstr(r.out, "\"note\": \"simulated"));
	result_free(&r);
	RUN(&r, program("bench"), "--device", "npu", "--npu", "sim", "--json");
	assert_int_equal(r.status, 0);
	assert_non_null(strstr(r.out, "\"simulated\": true"));
	result_free(&r);
}

static void every_line_says_simulated(struct result *r)
{
	char *save = NULL;
	unsigned lines = 0;

	assert_int_equal(r->status, 0);
	for (char *l = strtok_r(r->out, "\n", &save); l; l = strtok_r(NULL, "\n", &save), lines++)
		if (strncmp(l, "SIMULATED ", 10) != 0)
			fail_msg("'%s' does not say SIMULATED", l);
	assert_true(lines >= 5);
	result_free(r);
}

static void test_reports(void **state)
{
	struct result r;

	(void)state;
	NOT_UNDER_SANITIZERS();
	RUN(&r, program("check"), "npu", "--verify", "--npu", "sim");
	assert_non_null(strstr(r.out, "9 of 9 products passed"));
	assert_null(strstr(r.out, "FAIL"));
	every_line_says_simulated(&r);
	RUN(&r, program("bench"), "--device", "npu", "--npu", "sim");
	every_line_says_simulated(&r);
	setenv("GP_NPU_SIM_FAULT", "lost@3", 1);
	RUN(&r, program("check"), "npu", "--verify", "--npu", "sim");
	unsetenv("GP_NPU_SIM_FAULT");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.out, "SIMULATED FAIL"));
	assert_non_null(strstr(r.out, "2 of 9 products passed"));
	result_free(&r);
}

/* ---- none, and wrong input ------------------------------------------------------------- */
static void test_no_device(void **state)
{
	struct result r;

	(void)state;
	if (access("/dev/accel/accel0", F_OK) == 0)
		skip();
	RUN(&r, RUN_MINI, NPU_STAGES);
	assert_int_equal(r.status, 1);
	assert_string_equal(r.out, "");
	assert_says(&r, "worker 1 (npu, layers 3-5): NPU: ");
	result_free(&r);
	RUN(&r, program("check"), "npu", "--verify");
	assert_int_equal(r.status, 1);
	assert_string_equal(r.out, "");
	assert_says(&r, "NPU");
	result_free(&r);
}

static void test_usage(void **state)
{
	static const struct { const char *words[5], *says; int status; } cases[] = {
		{ { "--stages", "npu:0-5", "--npu", "real" }, "must be sim", 1 },
		{ { "--npu", "sim" }, "no stage is on an npu", 1 },
		{ { "--npu-layers", "7" }, "--npu-layers 7: the model has only 6", 1 },
		{ { "--npu-layers", "0" }, "--npu-layers", 2 },
		{ { "--npu-layers", "3", "--stages", "cpu:0-5" }, "is for --stages auto", 1 },
		{ { "--stages", "npu[1]:0-5" }, "npu[1]", 1 },
	};
	struct result r;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		const char *const *w = cases[i].words;

		RUN(&r, RUN_MINI, w[0], w[1], w[2], w[3]);
		assert_int_equal(r.status, cases[i].status);
		assert_says(&r, cases[i].says);
		result_free(&r);
	}
	RUN(&r, program("check"), "npu");
	assert_int_equal(r.status, 2);
	result_free(&r);
	RUN(&r, program("bench"), "--device", "gpu");
	assert_int_equal(r.status, 2);
	result_free(&r);
}

/* ---- faults ----------------------------------------------------------------------------- */
static void test_faults_at_load(void **state)
{
	static const struct { const char *fault, *says; } cases[] = {
		{ "no-device", "/dev/accel/accel0" }, { "permission", "join the group render" },
		{ "firmware", "firmware" }, { "old-driver", "too old" }, { "memlock", "ulimit -l" },
		{ "contexts", "no context left" },
	};
	struct result r;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		setenv("GP_NPU_SIM_FAULT", cases[i].fault, 1);
		RUN(&r, RUN_MINI, SIMULATED, "-q");
		assert_int_equal(r.status, 1);
		assert_string_equal(r.out, "");
		assert_says(&r, cases[i].says);
		assert_null(strstr(r.err, "starting it again"));
		result_free(&r);
	}
	unsetenv("GP_NPU_SIM_FAULT");
}

/* Every process fails in its prompt, or in the first of the six commands that measure: two of
 * them, and then the host does it. */
static void test_wedged(void **state)
{
	static const char *const faults[] = { "timeout@9", "wedged@7", "lost@15", "wedged@1" };
	struct result r;

	(void)state;
	NOT_UNDER_SANITIZERS();
	for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
		setenv("GP_NPU_SIM_FAULT", faults[i], 1);
		RUN(&r, RUN_MINI, SIMULATED);
		assert_int_equal(r.status, 0);
		assert_string_equal(r.out, plain);
		assert_says(&r, "its NPU failed 2 times in a row");
		assert_says(&r, "the host computes this stage");
		assert_says(&r, "try 2 of 3");
		assert_says(&r, "1     host for npu  3-5");
		result_free(&r);
	}
	unsetenv("GP_NPU_SIM_FAULT");
}

/* A device that stays wedged and refuses the next process: that counts, too. */
static void test_stuck(void **state)
{
	char path[] = "/tmp/gp-npu-stuck-XXXXXX", trace[] = "/tmp/gp-npu-trace-XXXXXX";
	struct result r;

	(void)state;
	NOT_UNDER_SANITIZERS();
	close(mkstemp(path));
	unlink(path);
	setenv("GP_NPU_SIM_STUCK", path, 1);
	setenv("GP_NPU_SIM_FAULT", "stuck@9", 1);
	close(mkstemp(trace));
	RUN(&r, RUN_MINI, SIMULATED, "--trace", trace);
	unsetenv("GP_NPU_SIM_FAULT");
	unsetenv("GP_NPU_SIM_STUCK");
	char *text = file_text(trace);
	assert_non_null(strstr(text, "stage 1: host for npu"));
	free(text);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, plain);
	assert_says(&r, "firmware does not answer");
	assert_says(&r, "its NPU failed 2 times in a row");
	assert_says(&r, "1     host for npu  3-5");
	result_free(&r);
}

static void test_killed(void **state)
{
	const char *const argv[] = { RUN_MINI, SIMULATED, NULL };
	pid_t workers[8];
	struct process p;
	struct result r;

	(void)state;
	NOT_UNDER_SANITIZERS();
	process_start(&p, argv, 0);
	for (int i = 0; i < 500 && process_workers(p.pid, workers, 8) < 2; i++)
		sleep_ms(10);
	sleep_ms(100);
	if (process_workers(p.pid, workers, 8) == 2)
		kill(workers[1], SIGKILL);
	process_finish(&p, &r, 120);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, plain);
	assert_null(strstr(r.err, "in a row; the host"));
	result_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_text), cmocka_unit_test(test_only_where_it_pays),
		cmocka_unit_test(test_labels), cmocka_unit_test(test_reports),
		cmocka_unit_test(test_no_device), cmocka_unit_test(test_usage),
		cmocka_unit_test(test_faults_at_load), cmocka_unit_test(test_wedged),
		cmocka_unit_test(test_stuck), cmocka_unit_test(test_killed),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

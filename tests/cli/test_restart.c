/* Workers that die, workers started by hand, a coordinator that dies. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/common/process.h"

#define TOKENS "300"

static char *undisturbed;
static char runtime_dir[64];

/* A runtime folder of its own: what is left in it is this test's. */
static int set_up(void **state)
{
	(void)state;
	snprintf(runtime_dir, sizeof runtime_dir, "/tmp/gp-restart-XXXXXX");
	if (!mkdtemp(runtime_dir) || setenv("XDG_RUNTIME_DIR", runtime_dir, 1) != 0)
		return -1;
	undisturbed = text_of_mini(TOKENS);
	return undisturbed ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	free(undisturbed);
	return rmdir(runtime_dir);
}

static void assert_nothing_left(void)
{
	DIR *d = opendir(runtime_dir);
	struct dirent *e;

	assert_non_null(d);
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			fail_msg("left behind: %s", e->d_name);
	closedir(d);
}

static void start_two_stages(struct process *p)
{
	const char *const argv[] = { program("run"), "-m", MINI, "-p", "In the beginning", "-n",
				     TOKENS, "--stages", "cpu:0-2,cpu:3-5", NULL };

	process_start(p, argv, 0);
}

static size_t output_bytes(const struct process *p)
{
	char *text = process_output(p->out_fd);
	const size_t n = strlen(text);

	free(text);
	return n;
}

/* Until more text has come than there was. */
static void await_text(const struct process *p, size_t than)
{
	for (int i = 0; i < 3000 && output_bytes(p) <= than; i++)
		sleep_ms(10);
	assert_true(output_bytes(p) > than);
}

static void kill_in_mid_text(size_t victim)
{
	struct process p;
	struct result r;
	pid_t workers[8];

	start_two_stages(&p);
	for (int round = 0; round < 3; round++) {
		await_text(&p, output_bytes(&p));
		if (process_workers(p.pid, workers, 8) == 2)
			kill(workers[victim], SIGKILL);
	}
	process_finish(&p, &r, 120);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, undisturbed);
	assert_non_null(strstr(r.err, "killed by signal 9"));
	result_free(&r);
	assert_nothing_left();
}

static void test_first_worker_killed(void **state)
{
	(void)state;
	kill_in_mid_text(0);
}

static void test_last_worker_killed(void **state)
{
	(void)state;
	kill_in_mid_text(1);
}

static void test_both_workers_killed(void **state)
{
	struct process p;
	struct result r;
	pid_t workers[8];

	(void)state;
	start_two_stages(&p);
	await_text(&p, 20);
	const size_t n = process_workers(p.pid, workers, 8);
	for (size_t i = 0; i < n; i++)
		kill(workers[i], SIGKILL);
	assert_int_equal(n, 2);
	process_finish(&p, &r, 120);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, undisturbed);
	result_free(&r);
	assert_nothing_left();
}

static void test_many_sequences_survive(void **state)
{
	char path[] = "/tmp/gp-prompts-XXXXXX";
	const char *const argv[] = { program("run"), "-m", MINI, "--prompts", path, "-n", "120",
				     "--parallel", "2", "--stages", "cpu:0-2,cpu:3-5", NULL };
	struct result calm, disturbed;
	struct process p;
	pid_t workers[8];
	const int fd = mkstemp(path);

	(void)state;
	assert_true(write(fd, "The king\nA computer is\nOnce\n", 28) == 28);
	close(fd);
	run_program(&calm, argv);
	process_start(&p, argv, 0);
	for (int i = 0; i < 500 && process_workers(p.pid, workers, 8) < 2; i++)
		sleep_ms(10);
	sleep_ms(700);
	if (process_workers(p.pid, workers, 8) == 2)
		kill(workers[1], SIGKILL);
	process_finish(&p, &disturbed, 120);
	unlink(path);
	assert_int_equal(calm.status | disturbed.status, 0);
	assert_string_equal(calm.out, disturbed.out);
	result_free(&calm);
	result_free(&disturbed);
	assert_nothing_left();
}

/* A folder with a worker program that is a shell script. */
static void make_worker(char dir[32], const char *script)
{
	char path[64];

	snprintf(dir, 32, "/tmp/gp-worker-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/gempipe-worker-cpu", dir);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	fputs(script, f);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(path, 0755), 0);
	setenv("GEMPIPE_WORKER_DIR", dir, 1);
}

static void drop_worker(const char *dir)
{
	char path[64];

	snprintf(path, sizeof path, "%s/gempipe-worker-cpu", dir);
	unlink(path);
	rmdir(dir);
	unsetenv("GEMPIPE_WORKER_DIR");
}

static void test_gives_up(void **state)
{
	struct result r;
	char dir[32];

	(void)state;
	make_worker(dir, "#!/bin/sh\nkill -SEGV $$\n");
	RUN(&r, program("run"), "-m", MINI, "-p", "x");
	drop_worker(dir);
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "killed by signal 11"));
	assert_non_null(strstr(r.err, "try 2 of 3"));
	assert_null(strstr(r.err, "try 3 of 3"));
	result_free(&r);
	assert_nothing_left();
}

static void test_missing_worker(void **state)
{
	struct result r;

	(void)state;
	setenv("GEMPIPE_WORKER_DIR", "/nonexistent", 1);
	RUN(&r, program("run"), "-m", MINI, "-p", "x");
	unsetenv("GEMPIPE_WORKER_DIR");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "/nonexistent/gempipe-worker-cpu"));
	result_free(&r);
	assert_nothing_left();
}

static void test_coordinator_killed(void **state)
{
	struct process p;
	struct result r;
	pid_t workers[8];

	(void)state;
	start_two_stages(&p);
	await_text(&p, 20);
	const size_t n = process_workers(p.pid, workers, 8);
	assert_int_equal(n, 2);
	kill(p.pid, SIGKILL);
	for (size_t i = 0; i < n; i++)
		assert_true(process_gone(workers[i], 1000));
	process_finish(&p, &r, 10);
	result_free(&r);
	assert_nothing_left();
}

/* Each death has new text between it and the same worker's last one. */
static void test_workers_killed_in_turn(void **state)
{
	static const size_t victims[] = { 0, 0, 1, 0, 1, 1 };
	struct process p;
	struct result r;
	pid_t workers[8];
	size_t killed = 0;

	(void)state;
	start_two_stages(&p);
	for (size_t i = 0; i < sizeof victims / sizeof victims[0]; i++) {
		await_text(&p, output_bytes(&p) + 40);
		if (process_workers(p.pid, workers, 8) == 2)
			killed += kill(workers[victims[i]], SIGKILL) == 0;
	}
	process_finish(&p, &r, 120);
	assert_true(killed >= 3);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, undisturbed);
	result_free(&r);
	assert_nothing_left();
}

static size_t chunks_done(const struct process *p)
{
	char *text = process_output(p->err_fd);
	size_t n = 0;

	for (const char *at = text; (at = strstr(at, "chunk ")); at++)
		n++;
	free(text);
	return n;
}

/* Scoring makes no tokens, but it gets on: more deaths than tries, and what was
 * done between them counts. Two chunks: one may have been under way when the
 * worker died. */
static void test_scoring_survives(void **state)
{
	const char *const argv[] = { program("perplexity"), "-m", MINI, "-f",
				     "tests/data/gemma3-mini-valid.txt", "--chunks", "24", "--json",
				     "--max-rows", "64", "-v", NULL };
	struct process p;
	struct result calm, r;
	pid_t workers[8];
	unsigned killed = 0;

	(void)state;
	run_program(&calm, argv);
	process_start(&p, argv, 0);
	for (int i = 0; i < 4; i++) {
		const size_t before = chunks_done(&p);

		for (int wait = 0; wait < 6000 && chunks_done(&p) < before + 2 &&
		     !process_gone(p.pid, 0); wait++)
			sleep_ms(10);
		if (process_workers(p.pid, workers, 8) == 1)
			killed += kill(workers[0], SIGKILL) == 0;
	}
	process_finish(&p, &r, 240);
	assert_true(killed >= 3);
	assert_int_equal(calm.status | r.status, 0);
	assert_string_equal(calm.out, r.out);
	result_free(&calm);
	result_free(&r);
	assert_nothing_left();
}

/* A terminal that closes tells the whole process group. */
static void test_terminal_closed(void **state)
{
	struct process p;
	struct result r;

	(void)state;
	start_two_stages(&p);
	await_text(&p, 20);
	kill(p.pid, SIGHUP);
	process_finish(&p, &r, 10);
	assert_int_equal(r.status, 130);
	result_free(&r);
	assert_nothing_left();
}

/* nohup's choice. */
static void test_hang_up_ignored(void **state)
{
	struct process p;
	struct result r;

	(void)state;
	signal(SIGHUP, SIG_IGN);
	start_two_stages(&p);
	signal(SIGHUP, SIG_DFL);
	await_text(&p, 20);
	kill(p.pid, SIGHUP);
	process_finish(&p, &r, 120);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, undisturbed);
	result_free(&r);
}

/* A worker that hangs while all wait for it is ended, however many others go on
 * sending heartbeats. */
static void test_stopped_worker_in_recovery(void **state)
{
	const char *const argv[] = { program("run"), "-m", MINI, "-p", "In the beginning", "-n",
				     TOKENS, "--threads", "1", "--stages",
				     "cpu:0,cpu:1,cpu:2,cpu:3,cpu:4-5", NULL };
	struct process p;
	struct result r;
	pid_t workers[8];

	(void)state;
	process_start(&p, argv, 0);
	await_text(&p, 20);
	assert_int_equal(process_workers(p.pid, workers, 8), 5);
	kill(workers[1], SIGSTOP);
	kill(workers[3], SIGKILL);
	process_finish(&p, &r, 120);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, undisturbed);
	assert_non_null(strstr(r.err, "is it stopped?"));
	result_free(&r);
	assert_nothing_left();
}

static void test_interrupt(void **state)
{
	struct process p;
	struct result r;

	(void)state;
	start_two_stages(&p);
	await_text(&p, 20);
	kill(p.pid, SIGINT);
	process_finish(&p, &r, 10);
	assert_int_equal(r.status, 130);
	assert_int_equal(strncmp(r.out, undisturbed, strlen(r.out) - 1), 0);
	result_free(&r);
	assert_nothing_left();
}

/* While the models load too, the second of two: here its worker never comes. */
static void test_interrupt_of_a_load(void **state)
{
	const char *const argv[] = { program("run"), "-m", MINI, "-p", "x", "--draft", MINI,
				     "--draft-stages", "external:0-5", NULL };

	(void)state;
	process_interrupt(argv, "--stage 0\n", SIGINT, 130);
	assert_nothing_left();
}

/* ---- by hand ------------------------------------------------------------------ */

static void find_endpoint(const struct process *p, char endpoint[256])
{
	assert_true(process_says(p->err_fd, "--stage 1\n", 30));
	char *text = process_output(p->err_fd);
	const char *from = strstr(text, "ipc://");
	assert_non_null(from);
	snprintf(endpoint, 256, "%.*s", (int)strcspn(from, " "), from);
	free(text);
}

static void test_external_worker(void **state)
{
	const char *const argv[] = { program("run"), "-m", MINI, "-p", "In the beginning", "-n",
				     TOKENS, "--stages", "cpu:0-2,external:3-5", NULL };
	char endpoint[256];
	struct process p, first, second;
	struct result r, w;

	(void)state;
	process_start(&p, argv, 0);
	find_endpoint(&p, endpoint);
	const char *const worker[] = { program("worker-cpu"), "--connect", endpoint, "--stage", "1",
				       NULL };
	process_start(&first, worker, 0);
	await_text(&p, 20);
	kill(first.pid, SIGINT);
	process_finish(&first, &w, 10);
	assert_int_equal(w.status, 0);
	result_free(&w);
	assert_true(process_says(p.err_fd, "goodbye", 10));
	process_start(&second, worker, 0);
	process_finish(&p, &r, 120);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, undisturbed);
	process_finish(&second, &w, 10);
	assert_int_equal(w.status, 0);
	result_free(&w);
	result_free(&r);
	assert_nothing_left();
}

/* Ctrl-C is answered while the pipeline waits for a worker that left. */
static void test_interrupt_while_waiting(void **state)
{
	const char *const argv[] = { program("run"), "-m", MINI, "-p", "In the beginning", "-n",
				     TOKENS, "--stages", "cpu:0-2,external:3-5", NULL };
	char endpoint[256];
	struct process p, worker;
	struct result r, w;

	(void)state;
	process_start(&p, argv, 0);
	find_endpoint(&p, endpoint);
	process_start(&worker, (const char *const[]){ program("worker-cpu"), "--connect", endpoint,
						      "--stage", "1", NULL }, 0);
	await_text(&p, 20);
	kill(worker.pid, SIGKILL);
	process_finish(&worker, &w, 10);
	assert_int_equal(w.status, 128 + SIGKILL);
	result_free(&w);
	assert_true(process_says(p.err_fd, "worker 1 left", 10));
	kill(p.pid, SIGINT);
	process_finish(&p, &r, 10);
	assert_int_equal(r.status, 130);
	result_free(&r);
	assert_nothing_left();
}

static void test_unwanted_worker(void **state)
{
	const char *const argv[] = { program("run"), "-m", MINI, "-p", "x", "--stages",
				     "cpu:0-2,external:3-5", NULL };
	char endpoint[256];
	struct process p;
	struct result r, w;

	(void)state;
	process_start(&p, argv, 0);
	find_endpoint(&p, endpoint);
	RUN(&w, program("worker-cpu"), "--connect", endpoint, "--stage", "7");
	assert_int_equal(w.status, 1);
	assert_non_null(strstr(w.err, "there is no stage 7"));
	result_free(&w);
	kill(p.pid, SIGINT);
	process_finish(&p, &r, 10);
	assert_int_not_equal(r.status, 0);
	result_free(&r);
	RUN(&w, program("worker-cpu"), "--connect", endpoint, "--stage", "1");
	assert_int_equal(w.status, 1);
	result_free(&w);
	assert_nothing_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_worker_killed), cmocka_unit_test(test_last_worker_killed),
		cmocka_unit_test(test_both_workers_killed),
		cmocka_unit_test(test_many_sequences_survive), cmocka_unit_test(test_gives_up),
		cmocka_unit_test(test_missing_worker), cmocka_unit_test(test_coordinator_killed),
		cmocka_unit_test(test_workers_killed_in_turn),
		cmocka_unit_test(test_scoring_survives), cmocka_unit_test(test_terminal_closed),
		cmocka_unit_test(test_hang_up_ignored),
		cmocka_unit_test(test_stopped_worker_in_recovery),
		cmocka_unit_test(test_interrupt), cmocka_unit_test(test_interrupt_of_a_load),
		cmocka_unit_test(test_external_worker),
		cmocka_unit_test(test_interrupt_while_waiting),
		cmocka_unit_test(test_unwanted_worker),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

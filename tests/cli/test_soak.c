/* gempipe serve under mixed load, with workers killed: at the end it holds what it held at the
 * beginning. GP_SOAK_SECONDS: for how long (seconds by default); GP_SOAK_MODEL: another model. */
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
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/common/http.h"

#define NAME "soak"
#define M "\"model\":\"" NAME "\""

static struct http_server server;

/* ---- what it holds ------------------------------------------------------------------ */

enum { MOST = 3 };
struct held {
	double mb[MOST];        /* resident, of the server and its two workers */
	int files[MOST];
};

static int count_files(pid_t pid)
{
	char path[64];
	int n = 0;

	snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	DIR *d = opendir(path);
	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n - 2;
}

static struct held look(void)
{
	pid_t pids[MOST] = { server.process.pid };
	struct held h;

	for (int i = 0; i < 500 && process_workers(server.process.pid, pids + 1, MOST - 1) < MOST - 1; i++)
		sleep_ms(20);
	sleep_ms(200); /* connections that are gone are closed by now */
	for (size_t i = 0; i < MOST; i++) {
		h.mb[i] = process_resident_mb(pids[i]);
		h.files[i] = count_files(pids[i]);
	}
	return h;
}

static void show(const char *when, const struct held *h)
{
	print_message("%-6s server %.1f MB, %d files; workers %.1f and %.1f MB, %d and %d files\n", when,
		      h->mb[0], h->files[0], h->mb[1], h->mb[2], h->files[1], h->files[2]);
}

/* ---- load ----------------------------------------------------------------------------- */

static unsigned luck = 1;

static unsigned draw(unsigned n)
{
	luck = luck * 1664525u + 1013904223u;
	return (luck >> 8) % n;
}

/* Of all kinds: lengths, beginnings in common, several answers, streams or not. */
static void make_body(char body[8192])
{
	size_t n = (size_t)sprintf(body, "{" M ",\"prompt\":\"Part %u", draw(4));

	for (unsigned i = draw(150); i; i--)
		n += (size_t)sprintf(body + n, " and %u", i % 7);
	sprintf(body + n, "\",\"max_tokens\":%u,\"n\":%u,\"seed\":%u,\"ignore_eos\":true,\"stream\":%s%s%s}",
		1 + draw(60), 1 + draw(3), draw(1000), draw(2) ? "true" : "false",
		draw(4) ? "" : ",\"logprobs\":3", draw(5) ? "" : ",\"service_tier\":\"flex\"");
}

/* One of many that come together; some leave before they have their answer, some send what is
 * no request. */
static int visit(void)
{
	char body[8192];

	make_body(body);
	switch (draw(8)) {
	case 0:
		return http_connect(&server);
	case 1:
		body[draw((unsigned)strlen(body))] = '\0';
		return http_begin(&server, "/v1/completions", body);
	default:
		return http_begin(&server, "/v1/completions", body);
	}
}

static void leave(int fd)
{
	if (draw(3)) {
		shutdown(fd, draw(4) ? SHUT_RDWR : SHUT_WR);
		close(fd);
		return;
	}
	const struct timeval little = { .tv_usec = 300000 };
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &little, sizeof little);
	free(http_read(fd));
}

static void load_for(double seconds, bool kill_workers)
{
	enum { TOGETHER = 12 };
	const uint64_t end = gp_now_ns() + (uint64_t)(seconds * 1e9);
	int fds[TOGETHER];

	while (gp_now_ns() < end) {
		for (size_t i = 0; i < TOGETHER; i++)
			fds[i] = visit();
		sleep_ms(draw(200));
		for (size_t i = 0; i < TOGETHER; i++)
			leave(fds[i]);
		pid_t pids[2];
		if (kill_workers && draw(40) == 0 && process_workers(server.process.pid, pids, 2) == 2)
			kill(pids[draw(2)], SIGKILL);
	}
	for (int i = 0; i < 3000 && http_metric(&server, "requests_live") +
				     http_metric(&server, "requests_queued") > 0; i++)
		sleep_ms(20);
	assert_true(http_metric(&server, "requests_live") == 0);
}

/* Whoever leaves makes room in the caches too. */
static void assert_answers(void)
{
	int status;
	json_t *o = http_post(&server, "/v1/completions", "{" M ",\"prompt\":\"x\",\"max_tokens\":3}", &status);

	assert_int_equal(status, 200);
	json_decref(o);
}

static void test_memory_is_flat(void **state)
{
	const char *text = getenv("GP_SOAK_SECONDS");
	const double seconds = text ? strtod(text, NULL) : 4;
	struct held first, last;

	(void)state;
	/* Until all slots and prefixes were in use, and all threads' heaps. */
	load_for(seconds < 60 ? 3 : 45, false);
	first = look();
	show("before", &first);
	load_for(seconds, true);
	assert_answers();
	last = look();
	show("after", &last);
	print_message("%.0f requests were cancelled, %.0f tokens made\n",
		      http_metric(&server, "requests_cancelled_total"),
		      http_metric(&server, "generated_tokens_total"));
	for (size_t i = 0; i < MOST; i++) {
		assert_true(last.mb[i] < 1.1 * first.mb[i] + 16);
		assert_in_range(last.files[i], first.files[i] - 3, first.files[i] + 3);
	}
}

static int set_up(void **state)
{
	const char *model = getenv("GP_SOAK_MODEL");
	const char *stages = model ? "cpu:0-12,cpu:13-25" : "cpu:0-2,cpu:3-5"; /* 1B */
	const char *const options[] = { "-m", model ? model : MINI, "--name", NAME, "--threads", "1",
					"--stages", stages, "--max-sequences", "6", "--ctx", "1024", "--kv-tokens", "2048" };

	(void)state;
	http_start(&server, options, GP_ARRAY_LEN(options));
	return 0;
}

static int tear_down(void **state)
{
	struct result r;

	(void)state;
	http_stop(&server, &r);
	if (r.status != 0)
		print_error("%s", r.err);
	result_free(&r);
	return r.status;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_memory_is_flat) };

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

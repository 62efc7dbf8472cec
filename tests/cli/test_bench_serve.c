/* gempipe bench --serve: what it asks, counts and prints. How fast anything was decides
 * nothing here. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <jansson.h>
#include <math.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/common/http.h"
#include "tools/common/load.h"

#define BENCH program("bench"), "--serve"

static bool is_built(void)
{
	if (access(program("load"), X_OK) == 0)
		return true;
	print_message("skipped: built without libcurl\n");
	return false;
}

/* ---- parts ------------------------------------------------------------------------ */

static void test_percentiles(void **state)
{
	struct load_times t = { 0 };

	(void)state;
	assert_true(isnan(load_times_at(&t, 0.5)));
	for (int i = 0; i < 1000; i++)
		assert_int_equal(load_times_add(&t, 1000 - i), 0);
	load_times_sort(&t);
	assert_true(t.first == 1000);
	assert_true(load_times_at(&t, 0.5) == 500);
	assert_true(load_times_at(&t, 0.95) == 950);
	assert_true(load_times_at(&t, 0.99) == 990);
	assert_true(load_times_at(&t, 1) == 1000);
	assert_true(load_times_at(&t, 1e-9) == 1);
	free(t.ms);
}

static void test_lengths(void **state)
{
	char path[] = "/tmp/gp-lengths-XXXXXX";
	static const char text[] = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
				   "2023-11-16 18:42:31.6489990,432,99\n\n# none\n30 7\n1,1\n";
	struct load_lengths l;

	(void)state;
	const int fd = mkstemp(path);
	assert_true(write(fd, text, sizeof text - 1) == sizeof text - 1);
	close(fd);
	assert_int_equal(load_lengths_read(&l, path, 2), 0);
	assert_int_equal(l.n, 3);
	assert_int_equal(l.of[0].prompt, 216);
	assert_int_equal(l.of[0].output, 49);
	assert_int_equal(l.of[1].prompt, 15);
	assert_int_equal(l.of[1].output, 3);
	assert_int_equal(l.of[2].prompt, 1);
	assert_int_equal(l.of[2].output, 1);
	assert_int_equal(l.longest, 265);
	assert_int_equal(l.shortest_prompt, 1);
	load_lengths_free(&l);
	unlink(path);
	assert_int_equal(load_lengths_read(&l, "128:16", 1), 0);
	assert_int_equal(l.n, 1);
	assert_int_equal(l.of[0].prompt, 128);
	assert_int_equal(l.of[0].output, 16);
	load_lengths_free(&l);
	assert_int_equal(load_lengths_read(&l, NULL, 1), 0);
	assert_int_equal(l.n, 32);
	assert_int_equal(l.longest, 4081 + 482);
	assert_int_equal(l.shortest_prompt, 215);
	load_lengths_free(&l);
}

/* ---- the whole ---------------------------------------------------------------------- */

static json_t *results_of(const char *const *argv, size_t n)
{
	struct result r;

	run_program(&r, argv);
	if (r.status != 0)
		fail_msg("status %d: %s", r.status, r.err);
	json_t *o = json_loads(r.out, 0, NULL), *list = json_object_get(o, "results");
	assert_int_equal(json_array_size(list), n);
	json_incref(list);
	json_decref(o);
	result_free(&r);
	return list;
}

static json_int_t count(json_t *o, const char *name)
{
	json_t *v = json_object_get(o, name);

	assert_true(json_is_integer(v));
	return json_integer_value(v);
}

/* n of them, in order. */
static void assert_times(json_t *o, const char *name, json_int_t n)
{
	static const char *const shares[] = { "p50", "p95", "p99", "max" };
	json_t *t = json_object_get(o, name);
	double before = 0;

	assert_int_equal(count(t, "n"), n);
	for (size_t i = 0; i < 4; i++) {
		const double v = json_number_value(json_object_get(t, shares[i]));

		assert_true(v > 0 && v >= before);
		before = v;
	}
}

static void test_clients(void **state)
{
	const char *const argv[] = { BENCH, "-m", MINI, "--threads", "1", "-b", "1,3", "--requests", "6",
				     "--lengths", "20:9", "--json", "-q", NULL };

	(void)state;
	if (!is_built())
		return;
	json_t *list = results_of(argv, 2);
	for (size_t i = 0; i < 2; i++) {
		json_t *o = json_array_get(list, i);

		assert_int_equal(count(o, "clients"), i ? 3 : 1);
		assert_true(json_is_null(json_object_get(o, "requests_per_s_offered")));
		assert_int_equal(count(o, "requests"), 6);
		assert_int_equal(count(o, "failed"), 0);
		assert_int_equal(count(o, "prompt_tokens"), 6 * 20);
		assert_int_equal(count(o, "output_tokens"), 6 * 9);
		assert_times(o, "time_to_first_token_ms", 6);
		assert_times(o, "request_ms", 6);
		/* Not every token has a text of its own. */
		assert_in_range(count(json_object_get(o, "time_between_tokens_ms"), "n"), 6, 6 * 8);
		const double rate = json_number_value(json_object_get(o, "output_tokens_per_s"));
		const double s = json_number_value(json_object_get(o, "seconds"));
		assert_true(fabs(rate * s - 54) < 0.01);
	}
	json_decref(list);
}

/* Requests come when they come, however long answers take. */
static void test_rate(void **state)
{
	const char *const argv[] = { BENCH, "-m", MINI, "--threads", "1", "--rate", "40", "--requests", "20",
				     "--divide", "50", "--json", "-q", NULL };

	(void)state;
	if (!is_built())
		return;
	json_t *list = results_of(argv, 1), *o = json_array_get(list, 0);
	assert_true(json_is_null(json_object_get(o, "clients")));
	assert_int_equal(count(o, "requests"), 20);
	assert_int_equal(count(o, "failed"), 0);
	/* 20 gaps of a mean of 25 ms, from a fixed seed. */
	assert_true(json_number_value(json_object_get(o, "seconds")) > 0.25);
	assert_times(o, "request_ms", 20);
	json_decref(list);
}

/* Another server, with a key, and failures that are told. */
static void test_url(void **state)
{
	char path[] = "/tmp/gp-keys-XXXXXX", url[64];
	const char *const options[] = { "-m", MINI, "--threads", "1", "--ctx", "64", "--api-key-file", path };
	struct http_server s;
	struct result r;

	(void)state;
	if (!is_built())
		return;
	const int fd = mkstemp(path);
	assert_true(write(fd, "secret\n", 7) == 7);
	close(fd);
	http_start(&s, options, GP_ARRAY_LEN(options));
	snprintf(url, sizeof url, "http://127.0.0.1:%u/v1", s.port);
	const char *const argv[] = { BENCH, "--url", url, "--api-key-file", path, "-b", "2", "--lengths",
				     "10:5", "--shared", "8", "--json", NULL };
	json_t *list = results_of(argv, 1);
	assert_int_equal(count(json_array_get(list, 0), "output_tokens"), 8 * 5);
	assert_int_equal(count(json_array_get(list, 0), "shared_tokens"), 8);
	json_decref(list);
	RUN(&r, BENCH, "--url", url, "-b", "2", "--lengths", "10:5");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "401"));
	result_free(&r);
	RUN(&r, BENCH, "--url", url, "--api-key-file", path, "-b", "2", "--lengths", "100:5");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "all 8 requests failed: status 400"));
	result_free(&r);
	assert_int_equal(http_stop(&s, NULL), 0);
	unlink(path);
}

/* ---- a server that breaks off ------------------------------------------------------ */

#define PIECE "data: {\"choices\":[{\"text\":\"a\"}]}\n\n"
#define DONE "data: [DONE]\n\n"

/* The request matters only in that all of it is read. */
static void take_request(int fd)
{
	char text[16384];
	size_t n = 0, body = 0;
	const char *at = NULL;
	ssize_t got;

	while ((!at || n < (size_t)(at - text) + 4 + body) &&
	       (got = read(fd, text + n, sizeof text - 1 - n)) > 0) {
		text[n += (size_t)got] = '\0';
		at = strstr(text, "\r\n\r\n");
		const char *length = strstr(text, "Content-Length: ");
		body = length ? strtoul(length + 16, NULL, 10) : 0;
	}
}

static void answer(int fd, const char *body)
{
	static const char head[] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

	take_request(fd);
	if (write(fd, head, sizeof head - 1) < 0 || write(fd, body, strlen(body)) < 0)
		_exit(1);
	close(fd);
}

/* One body after the other, whatever is asked for. */
static pid_t start_answers(const char *const *bodies, size_t n, char url[64])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t bytes = sizeof a;
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (const struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &bytes), 0);
	snprintf(url, 64, "http://127.0.0.1:%u/v1", ntohs(a.sin_port));
	const pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (size_t i = 0; i < n; i++)
			answer(accept(fd, NULL, NULL), bodies[i]);
		_exit(0);
	}
	close(fd);
	return pid;
}

static void assert_failed(json_t *level, const char *why)
{
	assert_int_equal(count(level, "requests"), 2);
	assert_int_equal(count(level, "failed"), 1);
	assert_string_equal(json_string_value(json_object_get(level, "failure")), why);
	assert_times(level, "request_ms", 1);
}

/* They have status 200, for they had begun. */
static void test_broken_streams(void **state)
{
	static const char *const bodies[] = {
		"{\"data\":[{\"id\":\"m\"}]}", PIECE DONE,
		PIECE "data: {\"error\":{\"message\":\"a worker fell\"}}\n\n" DONE, PIECE DONE,
		PIECE PIECE, PIECE "data: [DONE]",
		PIECE "event: error\ndata: none\n\n" DONE, PIECE DONE,
	};
	char url[64];

	(void)state;
	if (!is_built())
		return;
	const pid_t pid = start_answers(bodies, GP_ARRAY_LEN(bodies), url);
	const char *const argv[] = { BENCH, "--url", url, "-b", "1,1,1", "--requests", "2", "--lengths",
				     "8:2", "--json", "-q", NULL };
	json_t *list = results_of(argv, 3);
	assert_failed(json_array_get(list, 0), "an error in the stream: a worker fell");
	assert_failed(json_array_get(list, 1), "the stream ended without data: [DONE]");
	assert_failed(json_array_get(list, 2), "an error in the stream: no reason given");
	json_decref(list);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_misuse(void **state)
{
	static const struct {
		const char *option, *value, *names;
		int status;
	} cases[] = {
		{ "--lengths", "0:5", "--lengths", 1 }, { "--lengths", "/nowhere", "/nowhere", 1 },
		{ "--rate", "0", "--rate", 2 }, { "--rate", "x", "--rate", 2 },
		{ "--clients", "0", "--clients", 2 }, { "--clients", ",", "','", 2 },
		{ "--url", "http://a/v1", "--url", 2 }, { "--api-key-file", "f", "--url", 2 },
	};
	struct result r;

	(void)state;
	if (!is_built())
		return;
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++) {
		RUN(&r, BENCH, "-m", MINI, cases[i].option, cases[i].value);
		assert_int_equal(r.status, cases[i].status);
		if (!strstr(r.err, cases[i].names))
			fail_msg("%s %s: %s", cases[i].option, cases[i].value, r.err);
		result_free(&r);
	}
}

/* What is asked for and cannot be had names the option that was given. */
static void test_lengths_that_do_not_fit(void **state)
{
	struct result r;

	(void)state;
	if (!is_built())
		return;
	RUN(&r, BENCH, "-m", MINI, "--lengths", "16:4", "--shared", "17");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "--shared 17: the shortest prompt has 16 tokens"));
	result_free(&r);
	RUN(&r, BENCH, "-m", MINI, "--lengths", "9000:9000");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "18000 tokens together, the model was trained for 8192; give "
				      "shorter --lengths"));
	assert_null(strstr(r.err, "--ctx"));
	result_free(&r);
	RUN(&r, BENCH, "-m", MINI, "--lengths", "40:30", "--ctx", "64");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "70 tokens together, --ctx is 64"));
	result_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_percentiles), cmocka_unit_test(test_lengths),
		cmocka_unit_test(test_clients), cmocka_unit_test(test_rate), cmocka_unit_test(test_url),
		cmocka_unit_test(test_broken_streams), cmocka_unit_test(test_misuse),
		cmocka_unit_test(test_lengths_that_do_not_fit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

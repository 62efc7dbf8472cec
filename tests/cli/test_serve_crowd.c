/* gempipe serve among clients that are slow, half gone, or take what they can: the others are
 * served as if they were not there. GP_IDLE and GP_SLOW: how many in the crowd, to measure. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/common/http.h"
#include "tests/common/sanitizers.h"

#define NAME "gemma3-mini-bf16"
#define COMPLETIONS "/v1/completions"
#define CHAT "/v1/chat/completions"
#define M "\"model\":\"" NAME "\""
#define LONG "{" M ",\"prompt\":\"In the beginning\",\"temperature\":0,\"ignore_eos\":true,\"stream\":true"
#define HEAD "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

static struct http_server server;

static void start(struct http_server *s, const char *option, const char *value)
{
	const char *const options[] = { "-m", MINI, "--threads", "1", "--max-sequences", "8", option,
					value };

	http_start(s, options, GP_ARRAY_LEN(options));
}

/* Takes nothing of an answer that is larger than all buffers on the way. */
static int begin_slow(const struct http_server *s)
{
	const int fd = http_connect_small(s, 2048);

	http_send_post(fd, CHAT, "{" M ",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
		       "\"ignore_eos\":true,\"stream\":true,\"max_tokens\":120,\"logprobs\":true,"
		       "\"top_logprobs\":20}");
	return fd;
}

/* ---- time runs out ---------------------------------------------------------------- */

static bool is_closed(int fd)
{
	char some[512];

	return recv(fd, some, sizeof some, MSG_DONTWAIT) == 0 || send(fd, "a", 1, MSG_NOSIGNAL) < 0;
}

/* Each is closed after a second or so, though something moves all the time. */
static void test_slow_requests(void **state)
{
	enum { N = 5 };
	static const char *const begun[N] = {
		"", "GET / HTTP/1.1\r\nX-", HEAD "Content-Length: 100000\r\n\r\n{",
		HEAD "Transfer-Encoding: chunked\r\n\r\n10000\r\n{",
	};
	struct http_server s;
	int fds[N], open = N;
	bool closed[N] = { false };

	(void)state;
	start(&s, "--client-timeout", "1");
	const uint64_t begin = gp_now_ns();
	for (int i = 0; i < N; i++) {
		fds[i] = http_connect(&s);
		http_send(fds[i], begun[i] ? begun[i] : "", begun[i] ? strlen(begun[i]) : 0);
	}
	for (int round = 0; round < 200 && open; round++) {
		for (int i = 0; i < N; i++) {
			/* The last one says nothing at all. */
			if (closed[i] || !(i + 1 < N ? is_closed(fds[i]) : recv(fds[i], (char[1]){ 0 }, 1,
									       MSG_DONTWAIT) == 0))
				continue;
			assert_true(gp_now_ns() - begin > 800000000u);
			closed[i] = true;
			open--;
			close(fds[i]);
		}
		sleep_ms(50);
	}
	assert_int_equal(open, 0);
	assert_int_equal(http_stop(&s, NULL), 0);
}

/* It takes a little now and then, so that something moves; all of it would take a minute. */
static void await_end(const struct http_server *s, int fd)
{
	const uint64_t begin = gp_now_ns();
	char some[512];

	while (http_metric(s, "connections") > 1) {
		assert_true(gp_now_ns() - begin < 8000000000u);
		recv(fd, some, sizeof some, 0);
		sleep_ms(100);
	}
	close(fd);
}

/* An answer that takes longer than that is not cut while it is made, only what a client
 * then leaves lying. */
static void test_slow_answers(void **state)
{
	struct http_server s;

	(void)state;
	start(&s, "--client-timeout", "1");
	uint64_t took = 0;
	for (unsigned tokens = 1500; took < 1100000000u && tokens <= 6000; tokens *= 2) {
		const uint64_t begin = gp_now_ns();
		char body[256];

		snprintf(body, sizeof body, LONG ",\"max_tokens\":%u}", tokens);
		char *text = http_stream_text(http_read(http_begin(&s, COMPLETIONS, body)));
		took = gp_now_ns() - begin;
		assert_true(strlen(text) > tokens);
		free(text);
	}
	await_end(&s, begin_slow(&s));
	assert_int_equal(http_stop(&s, NULL), 0);
}

/* Who has said all and closes that half is taken for gone, which is not told apart. */
static void test_half_closed(void **state)
{
	const double before = http_metric(&server, "requests_cancelled_total");
	const int fd = http_begin(&server, COMPLETIONS, LONG "}");

	(void)state;
	shutdown(fd, SHUT_WR);
	for (int i = 0; i < 500 && http_metric(&server, "requests_cancelled_total") == before; i++)
		sleep_ms(20);
	assert_true(http_metric(&server, "requests_cancelled_total") == before + 1);
	free(http_read(fd));
	http_await_metric(&server, "requests_live", 0, 0);
}

/* ---- memory ------------------------------------------------------------------------- */

/* A short prompt in a megabyte of JSON, which are 25 as a tree: nothing of it is kept while the
 * request waits. */
static void test_wide_bodies(void **state)
{
	enum { PARTS = 38000, WAITING = 12 };
	static const char part[] = "{\"type\":\"text\",\"text\":\"\"},";
	int fds[WAITING];

	(void)state;
	NOT_UNDER_SANITIZERS(); /* freed memory stays theirs for long */
	char *body = malloc(PARTS * sizeof part + 512);
	assert_non_null(body);
	size_t n = (size_t)sprintf(body, "{" M ",\"stream\":true,\"ignore_eos\":true,\"messages\":[{\"role\":"
				   "\"user\",\"content\":[");
	for (size_t i = 0; i < PARTS; i++, n += sizeof part - 1)
		memcpy(body + n, part, sizeof part);
	strcpy(body + n, "{\"type\":\"text\",\"text\":\"Hello\"}]}]}");
	const double before = process_resident_mb(server.process.pid);
	assert_true(before > 0);
	for (size_t i = 0; i < WAITING; i++)
		fds[i] = http_begin(&server, CHAT, body);
	for (int i = 0; i < 1000 && http_metric(&server, "requests_live") +
				     http_metric(&server, "requests_queued") < WAITING; i++)
		sleep_ms(20);
	assert_true(http_metric(&server, "requests_live") + http_metric(&server, "requests_queued") ==
		    WAITING);
	const double waiting = process_resident_mb(server.process.pid);
	assert_true(waiting > 0 && waiting - before < 150);
	for (size_t i = 0; i < WAITING; i++)
		close(fds[i]);
	free(body);
	http_await_metric(&server, "requests_live", 0, 0);
	http_await_metric(&server, "requests_queued", 0, 0);
}

/* ---- a crowd -------------------------------------------------------------------------- */

static size_t count_of(const char *name, size_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoul(text, NULL, 10) : otherwise;
}

/* The fastest of some streams, for a busy machine; ms for a token. */
static double ms_per_token(void)
{
	enum { TRIES = 5, TOKENS = 150 };
	double best = 1e9;

	for (int i = 0; i < TRIES; i++) {
		const uint64_t begin = gp_now_ns();

		free(http_stream_text(http_read(http_begin(&server, COMPLETIONS,
							   LONG ",\"max_tokens\":150}"))));
		const double ms = (double)(gp_now_ns() - begin) / 1e6 / TOKENS;
		best = ms < best ? ms : best;
	}
	return best;
}

static void test_crowd(void **state)
{
	const size_t idle = count_of("GP_IDLE", 200), slow = count_of("GP_SLOW", 16);

	(void)state;
	NOT_UNDER_SANITIZERS();
	int *fds = calloc(idle + slow, sizeof *fds);
	const double alone = ms_per_token();
	assert_non_null(fds);
	for (size_t i = 0; i < idle + slow; i++)
		fds[i] = i < idle ? http_connect(&server) : begin_slow(&server);
	/* Their answers are made, and lie there. */
	http_await_metric(&server, "requests_queued", 0, 0);
	http_await_metric(&server, "requests_live", 0, 0);
	assert_true(http_metric(&server, "connections") > (double)(idle + slow));
	const double among = ms_per_token();
	print_message("%.3f ms a token alone, %.3f among %zu idle connections and %zu that never read\n",
		      alone, among, idle, slow);
	for (size_t i = 0; i < idle + slow; i++)
		close(fds[i]);
	free(fds);
	http_await_metric(&server, "connections", 0, 1);
}

static int set_up(void **state)
{
	struct rlimit l;

	(void)state;
	if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
	start(&server, "--max-queue", "1000");
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	return http_stop(&server, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_slow_requests), cmocka_unit_test(test_slow_answers),
		cmocka_unit_test(test_half_closed), cmocka_unit_test(test_wide_bodies),
		cmocka_unit_test(test_crowd),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

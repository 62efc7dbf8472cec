/* gempipe serve, for well-behaved clients and for others. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "model/model.h"
#include "tests/common/http.h"

#define NAME "gemma3-mini-bf16"
#define COMPLETIONS "/v1/completions"
#define CHAT "/v1/chat/completions"
#define M "\"model\":\"" NAME "\""
#define START "{" M ",\"prompt\":\"In the beginning\",\"temperature\":0"
#define HELLO "{" M ",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]"

static struct http_server server;
static char *undisturbed;       /* of START, 60 tokens */

static const char *text_of(json_t *answer, size_t choice)
{
	json_t *c = json_array_get(json_object_get(answer, "choices"), choice);
	const char *text = json_string_value(json_object_get(c, "text"));

	if (!text)
		text = json_string_value(json_object_get(json_object_get(c, "message"), "content"));
	assert_non_null(text);
	return text;
}

static const char *finish_of(json_t *answer)
{
	json_t *c = json_array_get(json_object_get(answer, "choices"), 0);

	return json_string_value(json_object_get(c, "finish_reason"));
}

static json_t *post(const char *path, const char *body)
{
	return http_must_post(&server, path, body);
}

static void test_completion(void **state)
{
	json_t *o = post(COMPLETIONS, START ",\"max_tokens\":60}");
	int prompt = 0, made = 0;

	(void)state;
	assert_string_equal(text_of(o, 0), undisturbed);
	assert_string_equal(finish_of(o), "length");
	assert_int_equal(json_unpack(o, "{s:{s:i, s:i}}", "usage", "prompt_tokens", &prompt,
				     "completion_tokens", &made), 0);
	assert_true(prompt > 1);
	assert_int_equal(made, 60);
	json_decref(o);
}

static void test_stream(void **state)
{
	static const char *const bodies[][2] = {
		{ COMPLETIONS, START ",\"max_tokens\":60" },
		{ COMPLETIONS, "{" M ",\"prompt\":\"Once\",\"temperature\":3,\"top_k\":0,\"top_p\":1,"
			       "\"seed\":5,\"max_tokens\":150" },
		{ CHAT, HELLO ",\"temperature\":2,\"seed\":7,\"max_tokens\":80" },
		{ CHAT, HELLO ",\"temperature\":1,\"seed\":9,\"max_tokens\":80,\"stop\":[\"a\",\"the\"]" },
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(bodies); i++) {
		char whole[512], pieces[512];

		snprintf(whole, sizeof whole, "%s}", bodies[i][1]);
		snprintf(pieces, sizeof pieces, "%s,\"stream\":true}", bodies[i][1]);
		json_t *o = post(bodies[i][0], whole);
		char *text = http_stream_text(http_read(http_begin(&server, bodies[i][0], pieces)));
		assert_string_equal(text, text_of(o, 0));
		free(text);
		json_decref(o);
	}
}

static void test_choices(void **state)
{
	json_t *two = post(CHAT, HELLO ",\"n\":2,\"seed\":40,\"max_tokens\":20}");
	json_t *one = post(CHAT, HELLO ",\"seed\":41,\"max_tokens\":20}");

	(void)state;
	/* Each has a seed of its own. */
	assert_string_equal(text_of(two, 1), text_of(one, 0));
	assert_string_not_equal(text_of(two, 0), text_of(two, 1));
	json_decref(one);
	json_decref(two);
}

/* Here the load waits for a worker that never comes. */
static void test_interrupt_of_a_load(void **state)
{
	const char *const argv[] = { program("serve"), "-m", MINI, "--port", "0", "--stages", "external:0-5",
				     NULL };

	(void)state;
	process_interrupt(argv, "--stage 0\n", SIGTERM, 130);
}

static void test_stop_strings(void **state)
{
	json_t *o = post(COMPLETIONS, START ",\"max_tokens\":60,\"stop\":\"Jeho\"}");
	const char *at = strstr(undisturbed, "Jeho");

	(void)state;
	assert_non_null(at);
	assert_int_equal(strlen(text_of(o, 0)), at - undisturbed);
	assert_memory_equal(text_of(o, 0), undisturbed, (size_t)(at - undisturbed));
	assert_string_equal(finish_of(o), "stop");
	json_decref(o);
}

static void test_logprobs(void **state)
{
	json_t *o = post(CHAT, HELLO ",\"max_tokens\":6,\"temperature\":0,\"logprobs\":true,"
			       "\"top_logprobs\":3}");
	json_t *list = json_object_get(json_object_get(json_array_get(json_object_get(o, "choices"), 0),
						       "logprobs"), "content"), *e;
	size_t i;

	(void)state;
	assert_in_range(json_array_size(list), 1, 6);
	json_array_foreach(list, i, e) {
		json_t *top = json_object_get(e, "top_logprobs");
		double sum = 0, before = 0;

		/* Greedy takes the likeliest. */
		assert_int_equal(json_array_size(top), 3);
		assert_string_equal(json_string_value(json_object_get(e, "token")),
				    json_string_value(json_object_get(json_array_get(top, 0), "token")));
		for (size_t k = 0; k < 3; k++) {
			const double p = json_number_value(json_object_get(json_array_get(top, k), "logprob"));

			assert_true(p <= before);
			before = p;
			sum += exp(p);
		}
		assert_true(sum > 0.01 && sum <= 1.00001);
	}
	json_decref(o);
	o = post(COMPLETIONS, START ",\"max_tokens\":4,\"logprobs\":2}");
	list = json_object_get(json_array_get(json_object_get(o, "choices"), 0), "logprobs");
	assert_int_equal(json_array_size(json_object_get(list, "tokens")), 4);
	assert_int_equal(json_array_size(json_object_get(list, "token_logprobs")), 4);
	assert_int_equal(json_object_size(json_array_get(json_object_get(list, "top_logprobs"), 0)), 2);
	json_decref(o);
}

static void test_logit_bias(void **state)
{
	json_t *o = post(COMPLETIONS, START ",\"max_tokens\":3,\"logit_bias\":{\"300\":100}}");

	(void)state;
	/* One token and no other. */
	const size_t n = strlen(text_of(o, 0)) / 3;
	assert_true(n && strlen(text_of(o, 0)) == 3 * n);
	assert_memory_equal(text_of(o, 0), text_of(o, 0) + n, n);
	json_decref(o);
}

static void test_control_tokens_are_text(void **state)
{
	json_t *o = post("/tokenize", "{\"content\":\"<eos><end_of_turn>\",\"add_special\":true}");
	json_t *list = json_object_get(o, "tokens"), *id;
	struct gp_tokenizer *t;
	size_t i;

	(void)state;
	assert_int_equal(gp_tokenizer_open(&t, MINI), 0);
	const struct gp_vocab *v = gp_tokenizer_vocab(t);
	assert_int_equal(json_integer_value(json_array_get(list, 0)), v->bos);
	json_array_foreach(list, i, id)
		assert_true(i == 0 || v->kind[json_integer_value(id)] != GP_TOKEN_CONTROL);
	json_decref(o);
	gp_tokenizer_close(t);
}

static void test_small_ones(void **state)
{
	static const struct {
		const char *method, *path;
		int status;
		const char *text;
	} cases[] = {
		{ "GET", "/health", 200, "\"ok\"" },
		{ "GET", "/v1/models", 200, "\"id\":\"" NAME "\"" },
		{ "GET", "/metrics", 200, "gempipe_time_to_first_token_seconds_bucket{le=\"+Inf\"} " },
		{ "GET", "/metrics", 200, "gempipe_guesses_proposed_total{by=\"draft\"} 0" },
		{ "GET", "/metrics", 200, "gempipe_stage_busy_seconds_total{stage=\"1\",device=\"cpu\"" },
		{ "GET", "/stats", 200, "\"stages\":[{\"device\":\"cpu\"" },
		{ "GET", "/", 200, "<!doctype html>" },
		{ "GET", "/nothing", 404, "nothing at this address" },
		{ "GET", "/v1/completions", 405, "another method" },
		{ "POST", "/v1/completions", 415, "application/json" },
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++) {
		int status;
		char *text = http_ask(&server, cases[i].method, cases[i].path, "Host: localhost\r\n", "",
				      &status);

		assert_int_equal(status, cases[i].status);
		assert_non_null(strstr(text, cases[i].text));
		free(text);
	}
}

/* Each is refused, and what is wrong has its name in the message. */
static void test_refusals(void **state)
{
	static const struct {
		const char *path, *body;
		int status;
		const char *names;
	} cases[] = {
		{ COMPLETIONS, START ",\"tools\":[]}", 400, "'tools'" },
		{ CHAT, HELLO ",\"response_format\":{\"type\":\"text\"}}", 400, "'response_format'" },
		{ CHAT, HELLO ",\"prompt\":\"x\"}", 400, "'prompt'" },
		{ COMPLETIONS, START ",\"n\":17}", 400, "'n'" },
		{ COMPLETIONS, START ",\"n\":1.5}", 400, "'n'" },
		{ COMPLETIONS, START ",\"max_tokens\":0}", 400, "'max_tokens'" },
		{ COMPLETIONS, START ",\"top_p\":1.5}", 400, "'top_p'" },
		{ COMPLETIONS, START ",\"stop\":[\"\"]}", 400, "'stop'" },
		{ COMPLETIONS, START ",\"stream\":1}", 400, "'stream'" },
		{ COMPLETIONS, START ",\"stream_options\":{\"x\":true}}", 400, "'stream_options.x'" },
		{ COMPLETIONS, START ",\"logit_bias\":{\"x\":1}}", 400, "logit_bias" },
		{ COMPLETIONS, START ",\"logit_bias\":{\"99999999\":1}}", 400, "99999999" },
		{ COMPLETIONS, "{" M "}", 400, "'prompt'" },
		{ COMPLETIONS, "{" M ",\"prompt\":[]}", 400, "prompt" },
		{ COMPLETIONS, "{" M ",\"prompt\":[-1]}", 400, "'prompt'" },
		{ COMPLETIONS, "{" M ",\"prompt\":[99999999]}", 400, "99999999" },
		{ COMPLETIONS, "{\"model\":\"gpt-4\",\"prompt\":\"x\"}", 404, NAME },
		{ COMPLETIONS, "{\"prompt\":\"x\"}", 400, "'model'" },
		{ CHAT, "{" M "}", 400, "message" },
		{ CHAT, "{" M ",\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", 400, "tool" },
		{ CHAT, "{" M ",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", 400,
		  "images" },
		{ CHAT, "{" M ",\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"name\":\"y\"}]}", 400,
		  "name" },
		{ CHAT, HELLO ",\"top_logprobs\":2}", 400, "'top_logprobs'" },
		{ CHAT, HELLO ",\"temperature\":0,\"temperature\":1}", 400, "JSON" },
		{ CHAT, "[1]", 400, "JSON" }, { CHAT, "", 400, "JSON" }, { CHAT, "{", 400, "JSON" },
		{ "/tokenize", "{\"content\":1}", 400, "content" },
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++) {
		int status;
		json_t *o = http_post(&server, cases[i].path, cases[i].body, &status);
		const char *message =
			json_string_value(json_object_get(json_object_get(o, "error"), "message"));

		assert_int_equal(status, cases[i].status);
		assert_non_null(message);
		if (!strstr(message, cases[i].names))
			fail_msg("%s: %s", cases[i].body, message);
		json_decref(o);
	}
}

static void test_too_long(void **state)
{
	char *body = malloc(100000);
	int status, n;

	(void)state;
	assert_non_null(body);
	n = sprintf(body, "{" M ",\"prompt\":\"");
	memset(body + n, 'q', 90000);
	strcpy(body + n + 90000, "\"}");
	json_t *o = http_post(&server, COMPLETIONS, body, &status);
	assert_int_equal(status, 400);
	json_decref(o);
	free(body);
}

/* ---- many, and none too kind -------------------------------------------------- */

static void kill_worker(size_t victim)
{
	pid_t workers[8];

	for (int i = 0; i < 500 && process_workers(server.process.pid, workers, 8) < 2; i++)
		sleep_ms(10);
	assert_int_equal(process_workers(server.process.pid, workers, 8), 2);
	kill(workers[victim], SIGKILL);
}

/* Streams stay open when workers die, and bring what they would have brought. */
static void test_workers_killed_under_load(void **state)
{
	enum { STREAMS = 8 };
	int fds[STREAMS];
	char bodies[STREAMS][256], *calm[STREAMS];

	(void)state;
	for (size_t i = 0; i < STREAMS; i++) {
		snprintf(bodies[i], sizeof bodies[i], "{" M ",\"prompt\":\"Once %zu\",\"stream\":true,"
			 "\"max_tokens\":120,\"seed\":%zu,\"temperature\":%d}", i, i, (int)(i % 2));
		calm[i] = http_stream_text(http_read(http_begin(&server, COMPLETIONS, bodies[i])));
	}
	for (size_t i = 0; i < STREAMS; i++)
		fds[i] = http_begin(&server, COMPLETIONS, bodies[i]);
	for (size_t victim = 0; victim < 2; victim++) {
		sleep_ms(300);
		kill_worker(victim);
	}
	for (size_t i = 0; i < STREAMS; i++) {
		char *text = http_stream_text(http_read(fds[i]));

		assert_string_equal(text, calm[i]);
		free(text);
		free(calm[i]);
	}
}

static void await_metric(const char *name, double value)
{
	http_await_metric(&server, name, value, value);
}

/* Who leaves, with or without a stream, leaves nothing that goes on. */
static void test_gone_clients(void **state)
{
	static const char *const bodies[] = {
		START ",\"max_tokens\":8000,\"logit_bias\":{\"1\":-100},\"stream\":true}",
		START ",\"max_tokens\":8000,\"logit_bias\":{\"1\":-100}}",
	};
	const double before = http_metric(&server, "requests_cancelled_total");
	char some[64];

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(bodies); i++) {
		const int fd = http_begin(&server, COMPLETIONS, bodies[i]);

		if (i == 0)
			assert_true(recv(fd, some, sizeof some, 0) > 0);
		else
			await_metric("requests_live", 1);
		close(fd);
		await_metric("requests_cancelled_total", before + (double)i + 1);
		await_metric("requests_live", 0);
	}
}

/* Who leaves at once may be gone before the request is queued, or is watched. */
static void test_clients_gone_at_once(void **state)
{
	enum { CLIENTS = 200 };
	static const char body[] = START ",\"max_tokens\":8000,\"logit_bias\":{\"1\":-100},\"stream\":true}";

	const double before = http_metric(&server, "requests_cancelled_total");

	(void)state;
	for (size_t i = 0; i < CLIENTS; i++)
		close(http_begin(&server, COMPLETIONS, body));
	await_metric("requests_cancelled_total", before + CLIENTS);
	await_metric("requests_live", 0);
}

/* Connections that say nothing, half a request, or take no answer: others are served. */
static void test_idle_and_slow(void **state)
{
	enum { IDLE = 300, SLOW = 10 };
	int idle[IDLE], slow[SLOW];
	static const char half[] = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-";

	(void)state;
	for (size_t i = 0; i < IDLE; i++) {
		idle[i] = http_connect(&server);
		http_send(idle[i], half, i % 2 ? sizeof half - 1 : 0);
	}
	/* 300 kB each, of which less than half fits into what lies between. */
	for (size_t i = 0; i < SLOW; i++)
		slow[i] = http_connect_small(&server, 2048);
	for (size_t i = 0; i < SLOW; i++)
		http_send_post(slow[i], COMPLETIONS, START ",\"ignore_eos\":true,\"max_tokens\":200,"
			       "\"logprobs\":20,\"stream\":true}");
	test_completion(state);
	assert_true(http_metric(&server, "connections") >= IDLE);
	for (size_t i = 0; i < IDLE; i++)
		close(idle[i]);
	for (size_t i = 0; i < SLOW; i++)
		close(slow[i]);
	await_metric("requests_live", 0);
	await_metric("requests_queued", 0);
}

static void refused_raw(const char *data, size_t bytes, int wanted)
{
	const int fd = http_connect(&server);
	int status;

	http_send(fd, data, bytes);
	shutdown(fd, SHUT_WR);
	free(http_body(http_read(fd), &status));
	if (wanted)
		assert_int_equal(status, wanted);
	else
		assert_true(status == 0 || status >= 400);
}

/* On a server of its own, which waits a second for the end of what is none. */
static void test_hostile_bytes(void **state)
{
	const char *const options[] = { "-m", MINI, "--threads", "1", "--client-timeout", "1" };
	const struct http_server shared = server;
	static const char *const raw[] = {
		"GET / HTTP/9.9\r\n\r\n", "GET\r\n\r\n",
		"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
		("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
		 "Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
	};
	/* Whose end the server waits for. */
	static const char *const begun[] = { "\r\n\r\n\r\n", "{\"a\":1}" };
	static const char large[] = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
				    "application/json\r\nContent-Length: 99999999999\r\n\r\n";
	static const char rebound[] = "GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n";
	char *nested = calloc(1, 300000), *header = calloc(1, 100100);
	int status;

	(void)state;
	assert_true(nested && header);
	http_start(&server, options, GP_ARRAY_LEN(options));
	for (size_t i = 0; i < GP_ARRAY_LEN(raw); i++)
		refused_raw(raw[i], strlen(raw[i]), 0);
	for (size_t i = 0; i < GP_ARRAY_LEN(begun); i++) {
		const int fd = http_connect(&server);

		http_send(fd, begun[i], strlen(begun[i]));
		close(fd);
	}
	refused_raw(large, sizeof large - 1, 413);
	refused_raw(rebound, sizeof rebound - 1, 403);
	memset(nested, '[', 299999);
	json_decref(http_post(&server, COMPLETIONS, nested, &status));
	assert_int_equal(status, 400);
	memset(header + sprintf(header, "GET / HTTP/1.1\r\nX: "), 'x', 100000);
	refused_raw(header, strlen(header), 0);
	free(header);
	free(nested);
	test_completion(state);
	assert_int_equal(http_stop(&server, NULL), 0);
	server = shared;
}

/* A body without an end is read for 16 MiB, in the hope of one, and some lies in sockets. */
static void test_endless_body(void **state)
{
	static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
				   "application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
	char chunk[65536 + 16];
	const int fd = http_connect(&server), little = 65536;
	size_t sent = 0;

	(void)state;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &little, sizeof little);
	const int n = sprintf(chunk, "10000\r\n");
	memset(chunk + n, ' ', 65536);
	memcpy(chunk + n + 65536, "\r\n", 2);
	http_send(fd, head, sizeof head - 1);
	while (sent < (64u << 20) &&
	       send(fd, chunk, (size_t)n + 65538, MSG_NOSIGNAL) == n + 65538)
		sent += 65536;
	assert_in_range(sent, 16u << 20, 24u << 20);
	close(fd);
	test_completion(state);
}

/* ---- other servers -------------------------------------------------------------- */

static void test_keys(void **state)
{
	char path[] = "/tmp/gp-keys-XXXXXX";
	const int fd = mkstemp(path);
	const char *const options[] = { "-m", MINI, "--threads", "1", "--api-key-file", path, "--name",
					"mini" };
	struct http_server s;
	int status;

	(void)state;
	assert_true(write(fd, "\nfirst-key\nsecond\n", 18) == 18);
	close(fd);
	http_start(&s, options, GP_ARRAY_LEN(options));
	free(http_ask(&s, "GET", "/v1/models", "Host: anywhere\r\n", "", &status));
	assert_int_equal(status, 401);
	free(http_ask(&s, "GET", "/stats", "Host: anywhere\r\n", "", &status));
	assert_int_equal(status, 401);
	/* The page has to be there to ask for a key. */
	free(http_ask(&s, "GET", "/", "Host: anywhere\r\n", "", &status));
	assert_int_equal(status, 200);
	free(http_ask(&s, "GET", "/v1/models", "Host: a\r\nAuthorization: Bearer first-ke\r\n", "", &status));
	assert_int_equal(status, 401);
	free(http_ask(&s, "GET", "/v1/models", "Host: a\r\nAuthorization: Bearer \r\n", "", &status));
	assert_int_equal(status, 401);
	char *text = http_ask(&s, "GET", "/v1/models", "Host: a\r\nAuthorization: Bearer second\r\n", "",
			      &status);
	assert_int_equal(status, 200);
	assert_non_null(strstr(text, "\"mini\""));
	free(text);
	assert_int_equal(http_stop(&s, NULL), 0);
	unlink(path);
}

static void test_not_for_others_without_keys(void **state)
{
	struct result r;

	(void)state;
	RUN(&r, program("serve"), "-m", MINI, "--threads", "1", "--host", "0.0.0.0");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "--api-key-file"));
	result_free(&r);
}

static void test_full_queue(void **state)
{
	const char *const options[] = { "-m", MINI, "--threads", "1", "--max-sequences", "1",
					"--max-queue", "1" };
	struct http_server s;
	int status, fds[2];

	(void)state;
	http_start(&s, options, GP_ARRAY_LEN(options));
	fds[0] = http_begin(&s, COMPLETIONS, START ",\"max_tokens\":8000,\"stream\":true}");
	for (int i = 0; i < 500 && http_metric(&s, "requests_live") < 1; i++)
		sleep_ms(20);
	fds[1] = http_begin(&s, COMPLETIONS, START ",\"max_tokens\":8000,\"stream\":true}");
	for (int i = 0; i < 500 && http_metric(&s, "requests_queued") < 1; i++)
		sleep_ms(20);
	json_decref(http_post(&s, COMPLETIONS, START "}", &status));
	assert_int_equal(status, 429);
	/* Ctrl-C ends it with streams open. */
	assert_int_equal(http_stop(&s, NULL), 0);
	close(fds[0]);
	close(fds[1]);
}

static int set_up(void **state)
{
	static const char *const options[] = { "-m", MINI, "--threads", "1", "--stages",
					       "cpu:0-2,cpu:3-5", "--max-sequences", "6" };
	struct rlimit l;

	(void)state;
	if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
	undisturbed = text_of_mini("60");
	if (!undisturbed)
		return -1;
	undisturbed[strcspn(undisturbed, "\n")] = '\0';
	http_start(&server, options, GP_ARRAY_LEN(options));
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	free(undisturbed);
	return http_stop(&server, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_completion), cmocka_unit_test(test_stream),
		cmocka_unit_test(test_choices), cmocka_unit_test(test_stop_strings),
		cmocka_unit_test(test_logprobs), cmocka_unit_test(test_logit_bias),
		cmocka_unit_test(test_control_tokens_are_text), cmocka_unit_test(test_small_ones),
		cmocka_unit_test(test_refusals), cmocka_unit_test(test_too_long),
		cmocka_unit_test(test_workers_killed_under_load), cmocka_unit_test(test_gone_clients),
		cmocka_unit_test(test_clients_gone_at_once),
		cmocka_unit_test(test_interrupt_of_a_load),
		cmocka_unit_test(test_idle_and_slow), cmocka_unit_test(test_hostile_bytes),
		cmocka_unit_test(test_endless_body), cmocka_unit_test(test_keys),
		cmocka_unit_test(test_not_for_others_without_keys), cmocka_unit_test(test_full_queue),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

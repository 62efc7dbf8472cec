/* What one client of gempipe serve can take from the others, and what a client learns of what it
 * did wrong. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <signal.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "model/model.h"
#include "tests/common/http.h"
#include "tests/common/sanitizers.h"
#include "tests/common/tiny_model.h"

#define NAME "gemma3-mini-bf16"
#define COMPLETIONS "/v1/completions"
#define CHAT "/v1/chat/completions"
#define M "\"model\":\"" NAME "\""
#define START "{" M ",\"prompt\":\"In the beginning\",\"temperature\":0"
#define USER(content) "{" M ",\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":" content "}]}"
#define HEAD "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

static struct http_server server;

static void start(struct http_server *s, const char *option, const char *value)
{
	const char *const options[] = { "-m", MINI, "--threads", "1", option, value };

	http_start(s, options, GP_ARRAY_LEN(options));
}

static json_t *post(const char *body)
{
	return http_must_post(&server, COMPLETIONS, body);
}

static json_t *choice_of(json_t *o)
{
	return json_array_get(json_object_get(o, "choices"), 0);
}

static const char *text_of(json_t *o)
{
	return json_string_value(json_object_get(choice_of(o), "text"));
}

/* ---- connections -------------------------------------------------------------------- */

/* In the middle of an answer or of a request, while older connections are idle. */
static void test_who_left_takes_no_place(void **state)
{
	int idle[6];
	char some[200];

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(idle); i++) {
		idle[i] = http_connect(&server);
		http_send(idle[i], "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 41);
		assert_true(recv(idle[i], some, sizeof some, 0) > 0);
	}
	const double before = http_metric(&server, "connections");
	for (int i = 0; i < 12; i++) {
		const int fd = http_begin(&server, COMPLETIONS, START ",\"stream\":true,\"ignore_eos\":true,"
					  "\"max_tokens\":500}");
		assert_true(recv(fd, some, sizeof some, 0) > 0);
		close(fd);
	}
	for (int i = 0; i < 12; i++) {
		const int fd = http_connect(&server);

		http_send(fd, HEAD, strlen(HEAD));
		close(fd);
	}
	/* The last of them may wait for something else to happen. */
	http_await_metric(&server, "connections", 0, before + 2);
	for (size_t i = 0; i < GP_ARRAY_LEN(idle); i++)
		close(idle[i]);
}

/* What a proxy may have read otherwise is not gone on with. */
static void test_two_ends_of_a_body(void **state)
{
	static const char *const heads[] = {
		"Content-Length: 5\r\nContent-Length: 50\r\n\r\n12345",
		"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(heads); i++) {
		const int fd = http_connect(&server);
		int status;

		http_send(fd, HEAD, strlen(HEAD));
		http_send(fd, heads[i], strlen(heads[i]));
		http_send(fd, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 41);
		char *text = http_read(fd);
		assert_null(strstr(text, "\"ok\""));
		text = http_body(text, &status);
		assert_int_equal(status, 400);
		free(text);
	}
}

/* ---- memory ------------------------------------------------------------------------- */

/* The most that the server has ever held. */
static double peak_mb(void)
{
	char path[64], line[256];
	double kb = 0;

	snprintf(path, sizeof path, "/proc/%d/status", (int)server.process.pid);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof line, f) && sscanf(line, "VmHWM: %lf", &kb) != 1)
		;
	fclose(f);
	assert_true(kb > 0);
	return kb / 1e3;
}

/* 3200 tokens with 21 probabilities each: 60 MB as trees. The first of the tests, since only
 * the most is looked at. */
static void test_whole_logprobs(void **state)
{
	static const char body[] = START ",\"ignore_eos\":true,\"n\":16,\"max_tokens\":200,\"logprobs\":20}";

	(void)state;
	NOT_UNDER_SANITIZERS(); /* freed memory stays theirs for long */
	json_decref(post(START ",\"n\":16,\"max_tokens\":4,\"logprobs\":20}"));
	const double before = peak_mb();
	json_decref(post(body));
	assert_true(peak_mb() - before < 40);
}

/* Who reads nothing of a stream that grows and grows is gone. */
static void test_unread_stream(void **state)
{
	const double before = http_metric(&server, "requests_cancelled_total");
	const int fd = http_connect_small(&server, 2048);

	(void)state;
	http_send_post(fd, CHAT, "{" M ",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
		       "\"ignore_eos\":true,\"stream\":true,\"n\":16,\"max_tokens\":4000,"
		       "\"logprobs\":true,\"top_logprobs\":20}");
	/* Those that waited; the others end with the next token. */
	http_await_metric(&server, "requests_cancelled_total", before + 8, INFINITY);
	for (int i = 0; i < 100 && http_metric(&server, "requests_live") > 0; i++)
		sleep_ms(20);
	assert_true(http_metric(&server, "requests_live") == 0);
	close(fd);
}

/* ---- bodies ---------------------------------------------------------------------------- */

static char *body_of(const char *head, size_t bytes, char c)
{
	const size_t n = strlen(head);
	char *body = malloc(n + bytes + 8);

	assert_non_null(body);
	memcpy(body, head, n);
	memset(body + n, c, bytes);
	strcpy(body + n + bytes, "\"}");
	return body;
}

/* Large ones that do not end are in the way of large ones, which hear of it; not of others. */
static void test_unfinished_bodies(void **state)
{
	/* Where many come together some more are refused than must be: others take their place. */
	enum { N = 690, MOST = 1000, BYTES = 100000 };
	char *part = body_of(HEAD "Content-Length: 100010\r\n\r\n", BYTES, ' ');
	char *small = body_of(START ",\"max_tokens\":1,\"user\":\"", 60000, 'u');
	char *body = body_of(START ",\"max_tokens\":1,\"user\":\"", 900000, 'u');
	int fds[MOST], n = 0, status;

	(void)state;
	for (; n < N; n++)
		http_send(fds[n] = http_connect(&server), part, strlen(part) - 2);
	char *raw = http_read(http_begin(&server, COMPLETIONS, body));
	for (int i = 0; i < 3000 && !strstr(raw, " 503 "); i++) {
		free(raw);
		sleep_ms(20);
		if (i % 20 == 19 && n < MOST)
			http_send(fds[n++] = http_connect(&server), part, strlen(part) - 2);
		raw = http_read(http_begin(&server, COMPLETIONS, body));
	}
	assert_non_null(strcasestr(raw, "\r\nRetry-After: "));
	free(http_body(raw, &status));
	assert_int_equal(status, 503);
	json_decref(post(small));
	for (int i = 0; i < n; i++)
		close(fds[i]);
	for (int i = 0; i < 3000 && status != 200; i++) {
		json_decref(http_post(&server, COMPLETIONS, body, &status));
		sleep_ms(20);
	}
	assert_int_equal(status, 200);
	free(body);
	free(small);
	free(part);
}

/* Whoever sends too much and then reads learns of it, with a length and without. */
static void test_large_bodies(void **state)
{
	enum { BYTES = 12 << 20 };
	char *plain = body_of(HEAD "Connection: close\r\nContent-Length: 12582912\r\n\r\n", BYTES, ' ');
	char *chunk = body_of(HEAD "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\nC00000\r\n", BYTES,
			      ' ');
	char *const bodies[] = { plain, chunk };
	int status;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(bodies); i++) {
		const int fd = http_connect(&server);

		http_send(fd, bodies[i], strlen(bodies[i]) - 2);
		if (i == 1)
			http_send(fd, "\r\n0\r\n\r\n", 7);
		free(http_body(http_read(fd), &status));
		assert_int_equal(status, 413);
		free(bodies[i]);
	}
}

/* ---- what was wrong --------------------------------------------------------------------- */

#define E10 "\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9"

static void test_errors(void **state)
{
	static const struct {
		const char *path, *body;
		int status;
		const char *code, *param, *names;
	} cases[] = {
		{ CHAT, USER("[{\"type\":\"text\",\"text\":\"x\",\"cache_control\":{}}]"), 400, NULL,
		  "messages", "'cache_control'" },
		{ CHAT, USER("[{\"type\":\"image_url\",\"image_url\":{}}]"), 400, NULL, "messages", "images" },
		{ CHAT, USER("[{\"type\":\"text\"}]"), 400, NULL, "messages", "text" },
		{ CHAT, USER("3"), 400, NULL, "messages", "content" },
		{ COMPLETIONS, START ",\"n\":17}", 400, NULL, "n", "'n'" },
		{ COMPLETIONS, START ",\"repeat_penalty\":1e-40}", 400, NULL, "repeat_penalty", "0.01" },
		{ COMPLETIONS, START ",\"tools\":[]}", 400, NULL, "tools", "'tools'" },
		{ COMPLETIONS, START ",\"logit_bias\":{\"4096\":1}}", 400, NULL, "logit_bias", "4096" },
		{ COMPLETIONS, "{" M ",\"prompt\":[]}", 400, NULL, "prompt", "'prompt' 0" },
		{ COMPLETIONS, "{" M ",\"prompt\":[2,4096]}", 400, NULL, "prompt", "4096" },
		/* Cut in the middle of a character. */
		{ COMPLETIONS, START ",\"a" E10 E10 E10 E10 "\":1}", 400, NULL, "a" E10 E10 E10 "\u00e9",
		  "'a????" },
		{ COMPLETIONS, "{\"model\":\"x\",\"prompt\":\"x\"}", 404, "model_not_found", "model", NAME },
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++) {
		int status;
		json_t *o = http_post(&server, cases[i].path, cases[i].body, &status);
		const char *message, *type, *param, *code;

		json_t *e = json_object_get(o, "error");

		assert_int_equal(status, cases[i].status);
		assert_int_equal(json_unpack(e, "{s:s, s:s}", "message", &message, "type", &type), 0);
		param = json_string_value(json_object_get(e, "param"));
		code = json_string_value(json_object_get(e, "code"));
		assert_string_equal(type, "invalid_request_error");
		assert_non_null(param);
		assert_string_equal(param, cases[i].param);
		assert_true(cases[i].code ? code && strcmp(code, cases[i].code) == 0 : !code);
		if (!strstr(message, cases[i].names))
			fail_msg("%s: %s", cases[i].body, message);
		json_decref(o);
	}
}

/* Found without a look at most of it. */
static void test_long_texts(void **state)
{
	static const char *const heads[][2] = {
		{ COMPLETIONS, "{" M ",\"prompt\":\"" },
		{ "/tokenize", "{\"content\":\"" },
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(heads); i++) {
		for (size_t bytes = 60000; bytes <= 900000; bytes += 840000) {
			char *body = body_of(heads[i][1], bytes, 'q');
			int status;
			json_t *o = http_post(&server, heads[i][0], body, &status);
			const char *code = json_string_value(json_object_get(json_object_get(o, "error"), "code"));

			assert_int_equal(status, 400);
			assert_non_null(code);
			assert_string_equal(code, "context_length_exceeded");
			json_decref(o);
			free(body);
		}
	}
}

static void test_long_stops(void **state)
{
	int status;

	(void)state;
	for (size_t bytes = 256; bytes <= 257; bytes++) {
		char *body = body_of(START ",\"max_tokens\":2,\"stop\":\"", bytes, 'z');

		json_t *o = http_post(&server, COMPLETIONS, body, &status);
		assert_int_equal(status, bytes == 256 ? 200 : 400);
		json_decref(o);
		free(body);
	}
}

static void test_addresses(void **state)
{
	static const struct {
		const char *method, *path;
		int status;
		const char *has, *has_not;
	} cases[] = {
		{ "GET", "/v1/models/" NAME, 200, "\"id\":\"" NAME "\"", "\"data\"" },
		{ "GET", "/v1/models/other", 404, "\"model_not_found\"", "\"data\"" },
		{ "HEAD", "/health", 200, "Content-Length: 15", "\"ok\"" },
		{ "HEAD", "/v1/completions", 405, "Allow: POST", "error" },
		{ "DELETE", "/v1/models", 405, "Allow: GET, HEAD", "\"data\"" },
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++) {
		const int fd = http_connect(&server);
		char request[256], start_of[32];
		const int n = snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: localhost\r\n"
				       "Connection: close\r\n\r\n", cases[i].method, cases[i].path);

		http_send(fd, request, (size_t)n);
		char *raw = http_read(fd);
		snprintf(start_of, sizeof start_of, "HTTP/1.1 %d", cases[i].status);
		assert_memory_equal(raw, start_of, strlen(start_of));
		if (!strstr(raw, cases[i].has) || strstr(raw, cases[i].has_not))
			fail_msg("%s %s: %s", cases[i].method, cases[i].path, raw);
		free(raw);
	}
}

static void test_bound_address(void **state)
{
	struct http_server s;
	int status;

	(void)state;
	start(&s, "--host", "127.0.0.2");
	s.address = ntohl(inet_addr("127.0.0.2"));
	free(http_ask(&s, "GET", "/health", "Host: 127.0.0.2:80\r\n", "", &status));
	assert_int_equal(status, 200);
	free(http_ask(&s, "GET", "/health", "Host: 127.0.0.3\r\n", "", &status));
	assert_int_equal(status, 403);
	assert_int_equal(http_stop(&s, NULL), 0);
}

/* ---- answers ------------------------------------------------------------------------------ */

static void test_top_p_of_zero(void **state)
{
	json_t *greedy = post(START ",\"max_tokens\":12}");
	json_t *o = post("{" M ",\"prompt\":\"In the beginning\",\"max_tokens\":12,\"temperature\":2,"
			 "\"top_k\":0,\"top_p\":0}");

	(void)state;
	assert_string_equal(text_of(o), text_of(greedy));
	json_decref(o);
	json_decref(greedy);
}

/* Tokens of a stop string are not in the text, and not among these. */
static void test_logprobs_end_with_the_text(void **state)
{
	json_t *all = post(START ",\"max_tokens\":60,\"logprobs\":1}");
	json_t *o = post(START ",\"max_tokens\":60,\"logprobs\":1,\"stop\":\"Jeho\"}");
	json_t *list = json_object_get(choice_of(o), "logprobs"), *tokens = json_object_get(list, "tokens");
	json_t *offsets = json_object_get(list, "text_offset"), *t;
	char text[1024] = "";
	size_t i;

	(void)state;
	assert_true(strlen(text_of(o)) > 0 && strlen(text_of(o)) < strlen(text_of(all)));
	json_array_foreach(tokens, i, t) {
		assert_int_equal(json_integer_value(json_array_get(offsets, i)), strlen(text));
		assert_true(strlen(text) < strlen(text_of(o)));
		strcat(text, json_string_value(t));
	}
	assert_int_equal(json_array_size(offsets), json_array_size(tokens));
	assert_memory_equal(text, text_of(o), strlen(text_of(o)));
	tokens = json_object_get(json_object_get(choice_of(all), "logprobs"), "tokens");
	assert_int_equal(json_array_size(tokens), 60);
	json_decref(o);
	json_decref(all);
}

static void test_usage_of_a_stream(void **state)
{
	int status;
	char *text = http_body(http_read(http_begin(&server, COMPLETIONS, START ",\"max_tokens\":3,\"stream\":"
				       "true,\"stream_options\":{\"include_usage\":true}}")), &status);

	(void)state;
	assert_int_equal(status, 200);
	assert_non_null(strstr(text, "\"usage\":null}"));
	assert_non_null(strstr(text, "\"choices\":[],\"usage\":{\"prompt_tokens\":"));
	free(text);
}

/* A stream that cannot go on says so. */
static void test_failed_stream(void **state)
{
	struct http_server s;
	int status;

	(void)state;
	start(&s, "--max-queue", "9");
	/* More than ever find a place. */
	json_t *o = http_post(&s, COMPLETIONS, START ",\"max_tokens\":1,\"n\":10}", &status);
	assert_int_equal(status, 400);
	json_decref(o);
	json_decref(http_must_post(&s, COMPLETIONS, START ",\"max_tokens\":1,\"n\":9}"));
	const int fd = http_begin(&s, COMPLETIONS, START ",\"ignore_eos\":true,\"stream\":true}");
	while (http_metric(&s, "generated_tokens_total") < 10)
		sleep_ms(20);
	assert_int_equal(http_stop(&s, NULL), 0);
	char *text = http_body(http_read(fd), &status);
	assert_int_equal(status, 200);
	assert_non_null(strstr(text, "\n\ndata: {\"error\":{\"message\":\"the server is shutting down\""));
	assert_null(strstr(text, "[DONE]"));
	free(text);
}

/* The bundled model, with a row of its embedding that is no numbers, and so one logit. */
#define POISON "3000"

static void poisoned_model(const char *path)
{
	const uint16_t nan = 0x7fc0;
	struct gp_model *m;
	size_t n;
	uint8_t *data = tiny_load(MINI, &n);

	assert_int_equal(gp_model_open(&m, MINI), 0);
	const struct gp_tensor *t = gp_model_tensor(m, GP_T_TOKEN_EMBD, 0);
	assert_int_equal(t->type, GP_TYPE_BF16);
	memcpy(data + t->offset + (size_t)atoi(POISON) * t->cols * sizeof nan, &nan, sizeof nan);
	gp_model_close(m);
	tiny_store(path, data, n);
	free(data);
}

/* Of one request, which says so, and not that the server ends. */
static void test_failed_request(void **state)
{
	char *folder = tiny_folder(), *path = tiny_path(folder, NAME ".gguf"), *text;
	const char *const options[] = { "-m", path, "--threads", "1" };
	struct http_server s;
	int status;

	(void)state;
	poisoned_model(path);
	http_start(&s, options, GP_ARRAY_LEN(options));
	json_t *o = http_post(&s, COMPLETIONS, "{" M ",\"prompt\":[2," POISON "],\"max_tokens\":3}", &status);
	assert_int_equal(status, 500);
	assert_string_equal(json_string_value(json_object_get(json_object_get(o, "error"), "message")),
			    "the answer could not be finished");
	json_decref(o);
	text = http_body(http_read(http_begin(&s, COMPLETIONS, "{" M ",\"prompt\":[2," POISON "],"
					      "\"max_tokens\":3,\"stream\":true}")), &status);
	assert_int_equal(status, 200);
	assert_non_null(strstr(text, "data: {\"error\":{\"message\":\"the answer could not be finished\""));
	free(text);
	assert_true(http_metric(&s, "requests_cancelled_total") < 1);
	assert_int_equal(http_stop(&s, NULL), 0);
	free(path);
	tiny_remove(folder);
}

/* Until a request is whole nobody can answer it. */
static void test_first_token_counts_from_the_end(void **state)
{
	static const char head[] = HEAD "Connection: close\r\nContent-Length: 104\r\n\r\n";
	static const char body[] = START ",\"max_tokens\":1}";
	const double before = http_metric(&server, "time_to_first_token_seconds_sum");
	const int fd = http_connect(&server);
	char rest[160];
	int status;

	(void)state;
	snprintf(rest, sizeof rest, "%-104s", body);
	http_send(fd, head, sizeof head - 1);
	http_send(fd, rest, 20);
	sleep_ms(1500);
	http_send(fd, rest + 20, 84);
	free(http_body(http_read(fd), &status));
	assert_int_equal(status, 200);
	assert_true(http_metric(&server, "time_to_first_token_seconds_sum") - before < 1.4);
}

static int set_up(void **state)
{
	(void)state;
	start(&server, "--max-sequences", "8");
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
		cmocka_unit_test(test_whole_logprobs), cmocka_unit_test(test_unread_stream),
		cmocka_unit_test(test_unfinished_bodies), cmocka_unit_test(test_large_bodies),
		cmocka_unit_test(test_who_left_takes_no_place),
		cmocka_unit_test(test_two_ends_of_a_body),
		cmocka_unit_test(test_errors), cmocka_unit_test(test_long_texts),
		cmocka_unit_test(test_long_stops), cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_bound_address), cmocka_unit_test(test_top_p_of_zero),
		cmocka_unit_test(test_logprobs_end_with_the_text), cmocka_unit_test(test_failed_stream),
		cmocka_unit_test(test_failed_request),
		cmocka_unit_test(test_usage_of_a_stream),
		cmocka_unit_test(test_first_token_counts_from_the_end),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

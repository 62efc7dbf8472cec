/* gempipe serve where many share it: several prompts in a request, who goes first, and what
 * one may learn of another. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/common/http.h"

#define NAME "gemma3-mini-bf16"
#define COMPLETIONS "/v1/completions"
#define M "\"model\":\"" NAME "\""
#define SOME ",\"n\":2,\"seed\":5,\"max_tokens\":12"

enum { PROMPTS = 3, N = 2, CHOICES = PROMPTS * N };
static const char *const prompts[PROMPTS] = { "In the beginning", "Once", "And he said" };

static struct http_server server;

static json_t *post(const char *body)
{
	return http_must_post(&server, COMPLETIONS, body);
}

static void assert_refused(const char *body, int wanted, const char *names)
{
	int status;
	json_t *o = http_post(&server, COMPLETIONS, body, &status);
	const char *message = json_string_value(json_object_get(json_object_get(o, "error"), "message"));

	assert_int_equal(status, wanted);
	assert_non_null(message);
	if (!strstr(message, names))
		fail_msg("%.100s: %s", body, message);
	json_decref(o);
}

static const char *text_of(json_t *o, size_t i)
{
	json_t *c = json_array_get(json_object_get(o, "choices"), i);

	assert_int_equal(json_integer_value(json_object_get(c, "index")), i);
	return json_string_value(json_object_get(c, "text"));
}

static json_int_t used(json_t *o, const char *what)
{
	return json_integer_value(json_object_get(json_object_get(o, "usage"), what));
}

/* ---- several prompts -------------------------------------------------------------- */

/* What each prompt gets alone; the tokens of all prompts. */
static json_int_t each_alone(json_t *alone[PROMPTS])
{
	json_int_t tokens = 0;
	char body[256];

	for (size_t i = 0; i < PROMPTS; i++) {
		snprintf(body, sizeof body, "{" M ",\"prompt\":\"%s\"" SOME "}", prompts[i]);
		alone[i] = post(body);
		tokens += used(alone[i], "prompt_tokens");
	}
	return tokens;
}

static json_t *ids_of(const char *text)
{
	char body[256];
	int status;

	snprintf(body, sizeof body, "{\"content\":\"%s\",\"add_special\":true}", text);
	json_t *o = http_post(&server, "/tokenize", body, &status), *ids = json_object_get(o, "tokens");
	json_incref(ids);
	json_decref(o);
	return ids;
}

static char *body_of(bool ids, bool stream)
{
	json_t *list = json_array();

	for (size_t i = 0; i < PROMPTS; i++)
		json_array_append_new(list, ids ? ids_of(prompts[i]) : json_string(prompts[i]));
	json_t *o = json_pack("{s:s, s:o, s:i, s:i, s:i, s:b}", "model", NAME, "prompt", list, "n", N,
			      "seed", 5, "max_tokens", 12, "stream", stream);
	char *text = json_dumps(o, 0);
	json_decref(o);
	return text;
}

static void test_lists_of_prompts(void **state)
{
	json_t *alone[PROMPTS];
	const json_int_t tokens = each_alone(alone);

	(void)state;
	for (int ids = 0; ids < 2; ids++) {
		char *body = body_of(ids, false);
		json_t *o = post(body);

		assert_int_equal(json_array_size(json_object_get(o, "choices")), CHOICES);
		for (size_t i = 0; i < CHOICES; i++)
			assert_string_equal(text_of(o, i), text_of(alone[i / N], i % N));
		assert_int_equal(used(o, "prompt_tokens"), tokens);
		assert_int_equal(used(o, "completion_tokens"), CHOICES * 12);
		json_decref(o);
		free(body);
	}
	for (size_t i = 0; i < PROMPTS; i++)
		json_decref(alone[i]);
}

/* Pieces of all choices come mixed; each choice's are its text. */
static void gather(const char *event, char texts[CHOICES][1024], bool ended[CHOICES])
{
	json_t *o = json_loads(event, 0, NULL), *c = json_array_get(json_object_get(o, "choices"), 0);
	const json_int_t i = json_integer_value(json_object_get(c, "index"));

	assert_true(c && i >= 0 && i < CHOICES);
	assert_false(ended[i]);
	strcat(texts[i], json_string_value(json_object_get(c, "text")));
	ended[i] = json_is_string(json_object_get(c, "finish_reason"));
	json_decref(o);
}

static void test_streams_of_lists(void **state)
{
	char *whole_body = body_of(false, false), *body = body_of(false, true), *save = NULL;
	static char texts[CHOICES][1024];
	bool ended[CHOICES] = { false };
	json_t *whole = post(whole_body);
	int status;

	(void)state;
	char *raw = http_body(http_read(http_begin(&server, COMPLETIONS, body)), &status);
	assert_int_equal(status, 200);
	for (char *e = strtok_r(raw, "\n", &save); e; e = strtok_r(NULL, "\n", &save))
		if (strncmp(e, "data: {", 7) == 0)
			gather(e + 6, texts, ended);
	for (size_t i = 0; i < CHOICES; i++) {
		assert_true(ended[i]);
		assert_string_equal(texts[i], text_of(whole, i));
	}
	json_decref(whole);
	free(raw);
	free(body);
	free(whole_body);
}

static void test_lists_have_limits(void **state)
{
	char many[2048] = "{" M ",\"n\":2,\"max_tokens\":1,\"prompt\":[\"a\"";

	(void)state;
	for (int i = 0; i < 64; i++)
		strcat(many, ",\"a\"");
	strcat(many, "]}");
	assert_refused(many, 400, "128");
	assert_refused("{" M ",\"prompt\":[\"a\",[3]]}", 400, "'prompt'");
	assert_refused("{" M ",\"prompt\":[[3],4]}", 400, "'prompt'");
	assert_refused("{" M ",\"prompt\":[[\"a\"]]}", 400, "'prompt'");
	assert_refused("{" M ",\"prompt\":[[3],[]]}", 400, "no tokens");
	assert_refused("{" M ",\"prompt\":[{}]}", 400, "'prompt'");
	assert_refused("{" M ",\"prompt\":{}}", 400, "'prompt'");
}

/* The model's end is none, so that an answer has the length that was asked for. */
static void test_ignore_eos(void **state)
{
	json_t *o = post("{" M ",\"prompt\":\"x\",\"max_tokens\":40,\"logit_bias\":{\"1\":100},"
			 "\"ignore_eos\":true}");
	json_t *plain = post("{" M ",\"prompt\":\"x\",\"max_tokens\":40,\"logit_bias\":{\"1\":100}}");

	(void)state;
	assert_int_equal(used(o, "completion_tokens"), 40);
	assert_int_equal(used(plain, "completion_tokens"), 1);
	assert_refused("{" M ",\"prompt\":\"x\",\"ignore_eos\":1}", 400, "'ignore_eos'");
	json_decref(o);
	json_decref(plain);
}

/* ---- who goes first ------------------------------------------------------------------ */

static void test_tiers(void **state)
{
	const char *const options[] = { "-m", MINI, "--threads", "1", "--max-sequences", "1" };
	struct http_server one;
	char some[64];
	int status;

	(void)state;
	http_start(&one, options, GP_ARRAY_LEN(options));
	const int busy = http_begin(&one, COMPLETIONS, "{" M ",\"prompt\":\"x\",\"ignore_eos\":true,"
						       "\"stream\":true,\"service_tier\":\"auto\"}");
	http_await_metric(&one, "requests_live", 1, 1);
	const int flex = http_begin(&one, COMPLETIONS, "{" M ",\"prompt\":\"x\",\"max_tokens\":2,"
						       "\"service_tier\":\"flex\"}");
	json_t *o = http_post(&one, COMPLETIONS, "{" M ",\"prompt\":\"x\",\"max_tokens\":2,"
			      "\"service_tier\":\"priority\"}", &status);
	assert_int_equal(status, 200);
	assert_string_equal(json_string_value(json_object_get(o, "service_tier")), "priority");
	json_decref(o);
	/* It took the place of one that goes on, and of none that waits. */
	http_await_metric(&one, "requests_queued", 1, 1);
	assert_true(recv(flex, some, sizeof some, MSG_DONTWAIT) < 0);
	close(busy);
	char *answer = http_body(http_read(flex), &status);
	assert_int_equal(status, 200);
	assert_non_null(strstr(answer, "\"service_tier\":\"flex\""));
	free(answer);
	assert_refused("{" M ",\"prompt\":\"x\",\"service_tier\":\"scale\"}", 400, "'service_tier'");
	assert_int_equal(http_stop(&one, NULL), 0);
}

/* ---- keys ------------------------------------------------------------------------------ */

static char key_path[] = "/tmp/gp-keys-XXXXXX";

static void write_keys(const char *text)
{
	FILE *f = fopen(key_path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static char *ask_with(const struct http_server *s, const char *key, const char *method,
		      const char *path, const char *body, int *status)
{
	char headers[256];

	snprintf(headers, sizeof headers, "Host: a\r\nContent-Type: application/json\r\n"
		 "Authorization: Bearer %s\r\n", key);
	return http_ask(s, method, path, headers, body, status);
}

static double reused(const struct http_server *s)
{
	int status;
	char *text = ask_with(s, "one", "GET", "/metrics", "", &status);
	const char *at = strstr(text, "\ngempipe_prefix_tokens_total ");

	assert_non_null(at);
	const double v = strtod(at + strlen("\ngempipe_prefix_tokens_total "), NULL);
	free(text);
	return v;
}

static void complete(const struct http_server *s, const char *key, const char *body)
{
	int status;

	free(ask_with(s, key, "POST", COMPLETIONS, body, &status));
	assert_int_equal(status, 200);
	sleep_ms(700); /* the figures are up to half a second old */
}

static void test_keys_share_no_prefix(void **state)
{
	const char *const options[] = { "-m", MINI, "--threads", "1", "--api-key-file", key_path };
	struct http_server s;
	char body[2048] = "{" M ",\"max_tokens\":1,\"prompt\":\"";

	(void)state;
	for (int i = 0; i < 100; i++)
		strcat(body, "so it was said ");
	strcat(body, "\"}");
	write_keys("one\ntwo\n");
	http_start(&s, options, GP_ARRAY_LEN(options));
	complete(&s, "one", body);
	complete(&s, "two", body);
	assert_true(reused(&s) == 0);
	complete(&s, "one", body);
	const double once = reused(&s);
	assert_true(once > 100);
	complete(&s, "two", body);
	assert_true(reused(&s) == 2 * once);
	assert_int_equal(http_stop(&s, NULL), 0);
}

static void test_who_may_hurry(void **state)
{
	const char *const options[] = { "-m", MINI, "--threads", "1", "--api-key-file", key_path };
	static const char hurry[] = "{" M ",\"prompt\":\"x\",\"max_tokens\":1,\"service_tier\":\"priority\"}";
	static const char flex[] = "{" M ",\"prompt\":\"x\",\"max_tokens\":1,\"service_tier\":\"flex\"}";
	struct http_server s;
	struct result r;
	int status;

	(void)state;
	write_keys("one\n\n  two   priority \n");
	http_start(&s, options, GP_ARRAY_LEN(options));
	char *text = ask_with(&s, "one", "POST", COMPLETIONS, hurry, &status);
	assert_int_equal(status, 403);
	assert_non_null(strstr(text, "'service_tier'"));
	free(text);
	free(ask_with(&s, "one", "POST", COMPLETIONS, flex, &status));
	assert_int_equal(status, 200);
	free(ask_with(&s, "two", "POST", COMPLETIONS, hurry, &status));
	assert_int_equal(status, 200);
	assert_int_equal(http_stop(&s, NULL), 0);
	write_keys("one\ntwo first\n");
	RUN(&r, program("serve"), "-m", MINI, "--threads", "1", "--api-key-file", key_path);
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "key 2"));
	result_free(&r);
}

static int begin_with(const struct http_server *s, const char *key, const char *user, unsigned tokens)
{
	char *request, body[256];
	const int fd = http_connect(s), bytes = snprintf(body, sizeof body, "{" M ",\"prompt\":\"x\","
		"\"ignore_eos\":true,\"max_tokens\":%u,\"user\":\"%s\"}", tokens, user);
	const int n = asprintf(&request, "POST " COMPLETIONS " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
			       "Content-Type: application/json\r\nAuthorization: Bearer %s\r\n"
			       "Content-Length: %d\r\n\r\n%s", key, bytes, body);

	http_send(fd, request, (size_t)n);
	free(request);
	return fd;
}

/* Who names many users has one share all the same. */
static void test_keys_share_evenly(void **state)
{
	enum { USERS = 8 };
	static const char *const users[USERS] = { "a", "b", "c", "d", "e", "f", "g", "h" };
	const char *const options[] = { "-m", MINI, "--threads", "1", "--max-sequences", "1",
					"--api-key-file", key_path };
	struct http_server s;
	int fds[USERS], waiting = 0, status;
	char some[16];

	(void)state;
	write_keys("one\ntwo\n");
	http_start(&s, options, GP_ARRAY_LEN(options));
	for (size_t i = 0; i < USERS; i++) {
		fds[i] = begin_with(&s, "one", users[i], 150);
		sleep_ms(20);
	}
	free(http_body(http_read(begin_with(&s, "two", "a", 150)), &status));
	assert_int_equal(status, 200);
	for (size_t i = 0; i < USERS; i++) {
		waiting += recv(fds[i], some, sizeof some, MSG_DONTWAIT) < 0;
		close(fds[i]);
	}
	assert_true(waiting >= 3);
	assert_int_equal(http_stop(&s, NULL), 0);
}

static int set_up(void **state)
{
	static const char *const options[] = { "-m", MINI, "--threads", "1", "--max-sequences", "6" };

	(void)state;
	close(mkstemp(key_path));
	http_start(&server, options, GP_ARRAY_LEN(options));
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	unlink(key_path);
	return http_stop(&server, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lists_of_prompts), cmocka_unit_test(test_streams_of_lists),
		cmocka_unit_test(test_lists_have_limits), cmocka_unit_test(test_ignore_eos),
		cmocka_unit_test(test_tiers), cmocka_unit_test(test_keys_share_no_prefix),
		cmocka_unit_test(test_who_may_hurry), cmocka_unit_test(test_keys_share_evenly),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* Text of tokens, and where it ends. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "coordinator/coordinator.h"

#define MODEL "models/gemma3-mini/gemma3-mini-bf16.gguf"

static struct gp_tokenizer *tokenizer;

static bool is_utf8_start(char c)
{
	return ((unsigned char)c & 0xc0) != 0x80;
}

/* What comes out of the tokens of text; true: a stop string ended it. */
static bool through(const char *text, const char *const *stops, size_t n_stops, char out[256])
{
	struct gp_text *t;
	const char *piece;
	size_t n = 0, bytes, n_ids, i;
	uint32_t *ids;
	int rc = 0;

	assert_int_equal(gp_tokenizer_encode(tokenizer, text, strlen(text), 0, &ids, &n_ids), 0);
	assert_int_equal(gp_text_create(&t, tokenizer, stops, n_stops), 0);
	for (i = 0; i < n_ids && rc == 0; i++) {
		rc = gp_text_push(t, ids[i], &piece, &bytes);
		assert_true(rc >= 0 && n + bytes < 256);
		assert_true(!bytes || is_utf8_start(piece[0]));
		memcpy(out + n, piece, bytes);
		n += bytes;
	}
	if (rc == 0) {
		rc = gp_text_flush(t, &piece, &bytes);
		memcpy(out + n, piece, bytes);
		n += bytes;
	}
	out[n] = '\0';
	gp_text_destroy(t);
	free(ids);
	return rc == 1;
}

static void test_stop_strings(void **state)
{
	static const struct {
		const char *text, *stops[2], *out;
	} cases[] = {
		{ "one two three", { NULL }, "one two three" },
		{ "one two three", { "two" }, "one " },
		{ "one two three", { "four" }, "one two three" },
		{ "one two three", { "e two th" }, "on" },
		{ "one two thre", { "three" }, "one two thre" },
		{ "aaab", { "aab" }, "a" },
		{ "one two three", { "three", "o t" }, "one tw" },
		{ "one two three", { "two three four", "th" }, "one two " },
		{ "one", { "one" }, "" },
		{ "h\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80!", { NULL }, "h\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80!" },
		{ "h\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80!", { "\xf0\x9f\x98\x80" }, "h\xc3\xa9\xe2\x82\xac" },
		/* Begins with the same byte as what comes. */
		{ "\xc3\xa9\xc3\xa8.", { "\xc3\xa9!" }, "\xc3\xa9\xc3\xa8." },
	};
	char out[256];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		const size_t n = cases[i].stops[0] ? cases[i].stops[1] ? 2 : 1 : 0;
		const bool stopped = through(cases[i].text, cases[i].stops, n, out);

		assert_string_equal(out, cases[i].out);
		assert_int_equal(stopped, strcmp(cases[i].text, cases[i].out) != 0);
	}
}

/* A text is not held back longer than it must be. */
static void test_comes_at_once(void **state)
{
	static const char *const stops[] = { "zzz" };
	const char *piece;
	struct gp_text *t;
	size_t bytes, n;
	uint32_t *ids;

	(void)state;
	assert_int_equal(gp_tokenizer_encode(tokenizer, "one", 3, 0, &ids, &n), 0);
	assert_int_equal(gp_text_create(&t, tokenizer, stops, 1), 0);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(gp_text_push(t, ids[i], &piece, &bytes), 0);
		assert_true(bytes > 0);
	}
	gp_text_destroy(t);
	free(ids);
}

static int set_up(void **state)
{
	(void)state;
	return gp_tokenizer_open(&tokenizer, MODEL);
}

static int tear_down(void **state)
{
	(void)state;
	gp_tokenizer_close(tokenizer);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stop_strings), cmocka_unit_test(test_comes_at_once),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* The miniature model's tokenizer: against the reference's ids, forth and back,
 * and what user text may and may not do. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/model.h"
#include "model/utf8.h"
#include "tests/common/tiny_model.h"

#define FOLDER "tests/data/gemma3-mini-tokenizer"

static struct gp_tokenizer *mini;

/* ids of text, which ends with a NUL; the caller frees. */
static uint32_t *encode(const char *text, unsigned flags, size_t *n)
{
	uint32_t *ids = NULL;

	assert_int_equal(gp_tokenizer_encode(mini, text, strlen(text), flags, &ids, n), 0);
	assert_non_null(ids);
	return ids;
}

static uint32_t id_of(const char *piece)
{
	const struct gp_vocab *v = gp_tokenizer_vocab(mini);

	for (uint32_t id = 0; id < v->n; id++)
		if (v->text_bytes[id] == strlen(piece) && !strcmp(v->text[id], piece))
			return id;
	fail_msg("no piece %s", piece);
	return 0;
}

static uint32_t id_of_byte(unsigned byte)
{
	char piece[7];

	snprintf(piece, sizeof(piece), "<0x%02X>", byte);
	return id_of(piece);
}

/* ---- UTF-8 ------------------------------------------------------------------- */
static void utf8_is_validated(void **state)
{
	static const struct { const char *text; size_t bytes, valid; } cases[] = {
		{ "", 0, 0 }, { "a\0b", 3, 3 }, { "\xC3\xA9", 2, 2 }, { "\xED\x9F\xBF", 3, 3 },
		{ "\xF4\x8F\xBF\xBF", 4, 4 }, { "\xF0\x90\x80\x80", 4, 4 },
		{ "\xC0\x80", 2, 0 }, { "\xC1\xBF", 2, 0 },           /* overlong */
		{ "\xE0\x9F\xBF", 3, 0 }, { "\xF0\x8F\xBF\xBF", 4, 0 },
		{ "\xED\xA0\x80", 3, 0 },                             /* a surrogate */
		{ "\xF4\x90\x80\x80", 4, 0 }, { "\xF5\x80\x80\x80", 4, 0 }, /* past the end */
		{ "ab\x80", 3, 2 }, { "ab\xE2\x96", 4, 2 }, { "ab\xE2" "c", 4, 2 },
		{ "ab\xF0\x9F\x98", 5, 2 }, { "\xFF", 1, 0 },
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++) {
		char *exact = malloc(cases[i].bytes + 1); /* no byte more, for the sanitizer */

		memcpy(exact + 1, cases[i].text, cases[i].bytes);
		assert_int_equal(gp_utf8_valid(exact + 1, cases[i].bytes), cases[i].valid);
		free(exact);
	}
}

static void strip_is_pythons(void **state)
{
	const char *s = "\x1C\x1F \t\r\n\v\f\xC2\x85\xC2\xA0\xE1\x9A\x80\xE2\x80\x80\xE2\x80\x8A"
	                "\xE2\x80\xA8\xE2\x80\xA9\xE2\x80\xAF\xE2\x81\x9F\xE3\x80\x80"
	                "\xE2\x80\x8Bx \xC3\xA9" "\xE2\x80\x83\n";
	const char *kept = "\xE2\x80\x8Bx \xC3\xA9"; /* U+200B is no white space */
	const char *blank = " \n\xE3\x80\x80";
	size_t n = strlen(s);

	(void)state;
	gp_utf8_strip(&s, &n);
	assert_int_equal(n, strlen(kept));
	assert_memory_equal(s, kept, n);
	n = strlen(blank);
	gp_utf8_strip(&blank, &n);
	assert_int_equal(n, 0);
}

/* ---- encode -------------------------------------------------------------------- */
static void ids_are_the_references(void **state)
{
	size_t text_bytes, ids_bytes, n;
	char *text = tiny_load_text("tests/data/gemma3-mini-valid.txt", &text_bytes);
	char *want = tiny_load_text(FOLDER "/valid-ids.bin", &ids_bytes);
	uint32_t *ids;

	(void)state;
	assert_int_equal(gp_tokenizer_encode(mini, text, text_bytes, 0, &ids, &n), 0);
	assert_in_range(n, ids_bytes / 2 - 8, ids_bytes / 2 + 8);
	for (size_t i = 0; i + 8 < ids_bytes / 2; i++)
		assert_int_equal(ids[i], (uint8_t)want[2 * i] | (uint8_t)want[2 * i + 1] << 8);
	free(ids);
	free(want);
	free(text);
}

static void bos_only_when_asked(void **state)
{
	uint32_t *ids;
	size_t n;

	(void)state;
	ids = encode("", 0, &n);
	assert_int_equal(n, 0);
	free(ids);
	ids = encode("<bos>", GP_ENCODE_BOS | GP_ENCODE_SPECIAL, &n);
	assert_int_equal(n, 2);
	assert_int_equal(ids[0], id_of("<bos>"));
	assert_int_equal(ids[1], id_of("<bos>"));
	free(ids);
}

static void plain_text_makes_no_control_token(void **state)
{
	const char *text = "a<end_of_turn>\n\n<start_of_turn>user\n<eos><bos><unk><pad>";
	const struct gp_vocab *v = gp_tokenizer_vocab(mini);
	size_t n, controls = 0, runs = 0;
	uint32_t *ids = encode(text, 0, &n);

	(void)state;
	for (size_t i = 0; i < n; i++) {
		assert_int_not_equal(v->kind[ids[i]], GP_TOKEN_CONTROL);
		assert_int_not_equal(v->kind[ids[i]], GP_TOKEN_UNKNOWN);
		runs += ids[i] == id_of("\n\n");
	}
	assert_int_equal(runs, 1); /* no control token, but still matched whole */
	free(ids);
	ids = encode(text, GP_ENCODE_SPECIAL, &n);
	for (size_t i = 0; i < n; i++)
		controls += v->kind[ids[i]] == GP_TOKEN_CONTROL || v->kind[ids[i]] == GP_TOKEN_UNKNOWN;
	assert_int_equal(controls, 6);
	free(ids);
}

static void longest_added_token_wins(void **state)
{
	size_t n;
	uint32_t *ids = encode("\n\n\n\n\n\n\n\n\n\n\n", 0, &n); /* eight and three */

	(void)state;
	assert_int_equal(n, 2);
	assert_int_equal(ids[0], id_of("\n\n\n\n\n\n\n\n"));
	assert_int_equal(ids[1], id_of("\n\n\n"));
	free(ids);
}

static void unknown_characters_become_bytes(void **state)
{
	size_t n;
	uint32_t *ids = encode("\xF0\x9F\xA6\xA9", 0, &n); /* a flamingo */
	static const unsigned bytes[] = { 0xF0, 0x9F, 0xA6, 0xA9 };

	(void)state;
	assert_int_equal(n, 4);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(ids[i], id_of_byte(bytes[i]));
	free(ids);
}

static void invalid_text_is_refused(void **state)
{
	uint32_t *ids;
	size_t n;

	(void)state;
	assert_int_equal(gp_tokenizer_encode(mini, "abc\xFFq", 5, 0, &ids, &n), -EILSEQ);
	assert_non_null(strstr(gp_error(), "byte 3"));
}

static void nul_is_text(void **state)
{
	uint32_t *ids;
	char *text;
	size_t n, bytes;

	(void)state;
	assert_int_equal(gp_tokenizer_encode(mini, "a\0b", 3, 0, &ids, &n), 0);
	assert_int_equal(gp_tokenizer_decode(mini, ids, n, false, &text, &bytes), 0);
	assert_int_equal(bytes, 3);
	assert_memory_equal(text, "a\0b", 4);
	free(text);
	free(ids);
}

/* The heap's answer against the definition, applied as it stands: the lowest
 * rank anywhere, the leftmost of those, again and again. */
static size_t merge_by_definition(uint32_t *ids, size_t n)
{
	const struct gp_vocab *v = gp_tokenizer_vocab(mini);
	char merged[256];

	for (size_t rank = 0; rank < v->n_merges;) {
		const uint32_t left = v->merge[rank][0], right = v->merge[rank][1];
		size_t at = 0;

		while (at + 1 < n && (ids[at] != left || ids[at + 1] != right))
			at++;
		if (at + 1 >= n) {
			rank++;
			continue;
		}
		snprintf(merged, sizeof(merged), "%s%s", v->text[left], v->text[right]);
		ids[at] = id_of(merged);
		memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof(*ids));
		n--;
		rank = 0;
	}
	return n;
}

static void merges_follow_the_definition(void **state)
{
	static const char *const texts[] = {
		"the theatre's hithering", "aaaaaaaaaaaaa", "   leading   spaces  ",
		"internationalisations", "mississippi, mississippi", "eeee the the e e e ee",
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(texts); i++) {
		uint32_t slow[64], *ids;
		size_t n, n_slow = 0;

		for (const char *c = texts[i]; *c; c++) {
			const char one[2] = { *c, '\0' };

			slow[n_slow++] = id_of(*c == ' ' ? "\xE2\x96\x81" : one);
		}
		n_slow = merge_by_definition(slow, n_slow);
		ids = encode(texts[i], 0, &n);
		assert_int_equal(n, n_slow);
		assert_memory_equal(ids, slow, n * sizeof(*ids));
		free(ids);
	}
}

static void long_words_round_trip(void **state)
{
	const size_t bytes = 100000;
	char *word = malloc(bytes), *text;
	uint32_t *ids, x = 1;
	size_t n, n_text;

	(void)state;
	for (size_t i = 0; i < bytes; i++) {
		x = x * 1664525 + 1013904223;
		word[i] = "abcdefgh"[x >> 29];
	}
	assert_int_equal(gp_tokenizer_encode(mini, word, bytes, 0, &ids, &n), 0);
	assert_true(n < bytes);
	assert_int_equal(gp_tokenizer_decode(mini, ids, n, false, &text, &n_text), 0);
	assert_int_equal(n_text, bytes);
	assert_memory_equal(text, word, bytes);
	free(text);
	free(ids);
	free(word);
}

/* ---- decode ---------------------------------------------------------------------- */
static void text_round_trips(void **state)
{
	size_t bytes, n, back_bytes;
	char *text = tiny_load_text("tests/data/gemma3-mini-valid.txt", &bytes), *back;
	uint32_t *ids;

	(void)state;
	assert_int_equal(gp_tokenizer_encode(mini, text, bytes, 0, &ids, &n), 0);
	assert_int_equal(gp_tokenizer_decode(mini, ids, n, true, &back, &back_bytes), 0);
	assert_int_equal(back_bytes, bytes);
	assert_memory_equal(back, text, bytes);
	free(back);
	free(ids);
	free(text);
}

static void expect_decoded(const uint32_t *ids, size_t n, bool skip, const char *want)
{
	char *text;
	size_t bytes;

	assert_int_equal(gp_tokenizer_decode(mini, ids, n, skip, &text, &bytes), 0);
	assert_string_equal(text, want);
	assert_int_equal(bytes, strlen(want));
	free(text);
}

static void byte_runs_are_all_or_nothing(void **state)
{
	const uint32_t e2 = id_of_byte(0xE2), x82 = id_of_byte(0x82), ac = id_of_byte(0xAC);
	const uint32_t a = id_of("a"), bos = id_of("<bos>");

	(void)state;
	expect_decoded((uint32_t[]){ a, e2, x82, ac, a }, 5, false, "a\xE2\x82\xAC" "a");
	expect_decoded((uint32_t[]){ e2, x82, a }, 3, false, "\uFFFD\uFFFDa");
	/* one bad byte spoils the run */
	expect_decoded((uint32_t[]){ e2, x82, ac, e2 }, 4, false, "\uFFFD\uFFFD\uFFFD\uFFFD");
	/* what is dropped does not end a run; what is shown does */
	expect_decoded((uint32_t[]){ e2, bos, x82, 99999999, ac }, 5, true, "\xE2\x82\xAC");
	expect_decoded((uint32_t[]){ e2, bos, x82, ac }, 4, false, "\uFFFD<bos>\uFFFD\uFFFD");
	expect_decoded(NULL, 0, false, "");
	expect_decoded((uint32_t[]){ UINT32_MAX }, 1, false, "");
}

/* Pushed one by one, the text is the same, and what was handed out never changes. */
static void streaming_equals_whole(void **state)
{
	const struct gp_vocab *v = gp_tokenizer_vocab(mini);
	uint32_t ids[64], x = 7;

	(void)state;
	for (int round = 0; round < 2000; round++) {
		struct gp_detokenizer *d;
		const char *part;
		char *whole, joined[8192];
		size_t n = 0, bytes, part_bytes;

		for (size_t i = 0; i < GP_ARRAY_LEN(ids); i++) {
			x = x * 1664525 + 1013904223;
			ids[i] = x >> 30 ? id_of_byte(x >> 16 & 0xFF) : (x >> 8) % (uint32_t)(v->n + 9);
		}
		assert_int_equal(gp_tokenizer_decode(mini, ids, 64, round & 1, &whole, &bytes), 0);
		assert_int_equal(gp_detokenizer_create(&d, mini, round & 1), 0);
		for (size_t i = 0; i <= GP_ARRAY_LEN(ids); i++) {
			if (i < GP_ARRAY_LEN(ids))
				assert_int_equal(gp_detokenizer_push(d, ids[i], &part, &part_bytes), 0);
			else
				assert_int_equal(gp_detokenizer_flush(d, &part, &part_bytes), 0);
			assert_int_equal(gp_utf8_valid(part, part_bytes), part_bytes);
			assert_true(n + part_bytes <= sizeof(joined));
			memcpy(joined + n, part, part_bytes);
			n += part_bytes;
		}
		assert_int_equal(n, bytes);
		assert_memory_equal(joined, whole, bytes);
		gp_detokenizer_destroy(d);
		free(whole);
	}
}

/* Exactly as many as are allowed; one less is refused, and so is a length of which that is
 * certain at once. */
static void limits_are_kept(void **state)
{
	const char *text = "In the beginning was the word";
	char *large = calloc(1, 4000001);
	uint32_t *ids = NULL;
	size_t n, most;

	(void)state;
	assert_non_null(large);
	free(encode(text, GP_ENCODE_BOS, &most));
	assert_int_equal(gp_tokenizer_encode_most(mini, text, strlen(text), GP_ENCODE_BOS, most, &ids, &n), 0);
	assert_int_equal(n, most);
	free(ids);
	assert_int_equal(gp_tokenizer_encode_most(mini, text, strlen(text), GP_ENCODE_BOS, most - 1, &ids,
						  &n), -E2BIG);
	memset(large, 'q', 4000000);
	const uint64_t begin = gp_now_ns();
	for (int i = 0; i < 20; i++)
		assert_int_equal(gp_tokenizer_encode_most(mini, large, 4000000, 0, 100, &ids, &n), -E2BIG);
	assert_true(gp_now_ns() - begin < 4000000000u);
	free(large);
}

static void stops_come_from_the_file(void **state)
{
	(void)state;
	assert_true(gp_tokenizer_is_stop(mini, id_of("<eos>")));
	assert_true(gp_tokenizer_is_stop(mini, id_of("<end_of_turn>")));
	assert_false(gp_tokenizer_is_stop(mini, id_of("<bos>")));
	assert_false(gp_tokenizer_is_stop(mini, 106)); /* the real Gemma's */
	assert_false(gp_tokenizer_is_stop(mini, UINT32_MAX));
}

static int open_mini(void **state)
{
	(void)state;
	return gp_tokenizer_open(&mini, FOLDER);
}

static int close_mini(void **state)
{
	(void)state;
	gp_tokenizer_close(mini);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(utf8_is_validated),
		cmocka_unit_test(strip_is_pythons),
		cmocka_unit_test(ids_are_the_references),
		cmocka_unit_test(bos_only_when_asked),
		cmocka_unit_test(plain_text_makes_no_control_token),
		cmocka_unit_test(longest_added_token_wins),
		cmocka_unit_test(unknown_characters_become_bytes),
		cmocka_unit_test(invalid_text_is_refused),
		cmocka_unit_test(nul_is_text),
		cmocka_unit_test(merges_follow_the_definition),
		cmocka_unit_test(long_words_round_trip),
		cmocka_unit_test(text_round_trips),
		cmocka_unit_test(byte_runs_are_all_or_nothing),
		cmocka_unit_test(streaming_equals_whole),
		cmocka_unit_test(limits_are_kept),
		cmocka_unit_test(stops_come_from_the_file),
	};

	return cmocka_run_group_tests(tests, open_mini, close_mini);
}

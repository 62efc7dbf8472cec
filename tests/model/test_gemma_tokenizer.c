/* Every case of tests/data/tokenizer with the real Gemma 3 tokenizer.json, whose
 * path is in GP_GEMMA_TOKENIZER: tools/check-gemma-tokenizer fetches it and
 * runs this. Without it the tests are skipped: the file is not ours to bundle. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/model.h"
#include "model/tokenizer_internal.h"

#define CASES "tests/data/tokenizer/gemma3_"

static struct gp_tokenizer *gemma;

/* ---- cases ---------------------------------------------------------------------- */
static void each_case(const char *path, size_t n_cases, void (*check)(const json_t *))
{
	FILE *f = fopen(path, "r");
	char *line = NULL;
	size_t room = 0, n = 0;

	assert_non_null(f);
	while (getline(&line, &room, f) > 0) {
		json_t *one = json_loads(line, JSON_ALLOW_NUL, NULL);

		n++;
		assert_non_null(one);
		check(one);
		json_decref(one);
	}
	free(line);
	fclose(f);
	assert_int_equal(n, n_cases);
	print_message("%s: %zu cases\n", path, n);
}

static void expect_ids(const json_t *one, const uint32_t *ids, size_t n)
{
	const json_t *want = json_object_get(one, "ids");
	bool same = json_array_size(want) == n;

	for (size_t i = 0; same && i < n; i++)
		same = json_integer_value(json_array_get(want, i)) == ids[i];
	if (!same)
		fail_msg("ids differ: %s", json_dumps(one, JSON_ENSURE_ASCII));
}

static void check_encode(const json_t *one)
{
	const json_t *text = json_object_get(one, "text");
	unsigned flags = GP_ENCODE_SPECIAL;
	uint32_t *ids;
	size_t n;

	if (json_is_true(json_object_get(one, "add_special")))
		flags |= GP_ENCODE_BOS;
	assert_int_equal(gp_tokenizer_encode(gemma, json_string_value(text),
	                                     json_string_length(text), flags, &ids, &n), 0);
	expect_ids(one, ids, n);
	free(ids);
}

static void check_decode(const json_t *one)
{
	const json_t *list = json_object_get(one, "ids"), *want = json_object_get(one, "text");
	const size_t n = json_array_size(list);
	uint32_t *ids = malloc((n + 1) * sizeof(*ids));
	size_t bytes;
	char *text;

	for (size_t i = 0; i < n; i++)
		ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
	assert_int_equal(gp_tokenizer_decode(gemma, ids, n,
	                                     json_is_true(json_object_get(one, "skip_special")),
	                                     &text, &bytes), 0);
	if (bytes != json_string_length(want) || memcmp(text, json_string_value(want), bytes))
		fail_msg("text differs: %s", json_dumps(one, JSON_ENSURE_ASCII));
	free(text);
	free(ids);
}

/* A content of parts (text, image) as the template would write it into one. */
static void join_parts(char *out, size_t room, const json_t *content, bool strip)
{
	const json_t *part;
	size_t i, n = 0;

	if (json_is_string(content)) {
		snprintf(out, room, "%s", json_string_value(content));
		return;
	}
	out[0] = '\0';
	json_array_foreach(content, i, part) {
		const char *text = json_string_value(json_object_get(part, "text"));

		if (!text)
			text = "<start_of_image>";
		text += strip ? strspn(text, " \n") : 0;
		n += (size_t)snprintf(out + n, room - n, "%s", text);
		while (strip && n && strchr(" \n", out[n - 1]))
			out[--n] = '\0';
	}
}

static void check_chat(const json_t *one)
{
	const json_t *messages = json_object_get(one, "messages"), *j;
	const bool add = json_is_true(json_object_get(one, "add_generation_prompt"));
	struct gp_chat_message m[16];
	static char contents[16][4096];
	size_t n = json_array_size(messages), i, n_ids;
	uint32_t *ids;
	char *text;

	assert_true(n <= GP_ARRAY_LEN(m));
	json_array_foreach(messages, i, j) {
		m[i].role = json_string_value(json_object_get(j, "role"));
		m[i].content = contents[i];
		join_parts(contents[i], sizeof(contents[i]), json_object_get(j, "content"),
		           strcmp(m[i].role, "system") != 0);
	}
	if (json_object_get(one, "error")) {
		assert_int_equal(gp_chat_encode(gemma, m, n, add, false, &ids, &n_ids), -EINVAL);
		assert_non_null(strstr(gp_error(), "must alternate"));
		return;
	}
	assert_int_equal(gp_chat_render(m, n, add, &text), 0);
	assert_string_equal(text, json_string_value(json_object_get(one, "prompt")));
	free(text);
	assert_int_equal(gp_chat_encode(gemma, m, n, add, true, &ids, &n_ids), 0);
	expect_ids(one, ids, n_ids);
	free(ids);
	if (strstr(json_string_value(json_object_get(one, "prompt")), "image"))
		return; /* the image's mark is the one that a content may hold */
	assert_int_equal(gp_chat_encode(gemma, m, n, add, false, &ids, &n_ids), 0);
	expect_ids(one, ids, n_ids);
	free(ids);
}

static void all_cases(void)
{
	each_case(CASES "tokenizer_cases.jsonl", 424, check_encode);
	each_case(CASES "decode_cases.jsonl", 158, check_decode);
	each_case(CASES "chat_cases.jsonl", 8, check_chat);
}

static void cases_hold(void **state)
{
	(void)state;
	if (!gemma)
		skip();
	all_cases();
}

/* ---- without merges --------------------------------------------------------------- */
/* What a converter leaves of the vocabulary in a GGUF: scores, no merges, runs
 * with a score that says nothing. */
static struct gp_tokenizer *without_merges(const struct gp_vocab *v)
{
	struct gp_tokenizer *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	t->vocab.bos = v->bos;
	t->vocab.eos = t->vocab.end_of_turn = v->end_of_turn;
	assert_int_equal(gp_vocab_init(t, v->n), 0);
	for (uint32_t id = 0; id < v->n; id++)
		assert_int_equal(gp_vocab_set(t, id, v->text[id], v->text_bytes[id], v->kind[id],
		                              v->kind[id] == GP_TOKEN_NORMAL ? -(float)id : -1000), 0);
	assert_int_equal(gp_vocab_index(t), 0);
	assert_int_equal(gp_vocab_finish(t), 0);
	return t;
}

static void cases_hold_without_merges(void **state)
{
	struct gp_tokenizer *with = gemma;

	(void)state;
	if (!gemma)
		skip();
	gemma = without_merges(gp_tokenizer_vocab(with));
	assert_int_equal(gemma->rank.n, with->rank.n);
	all_cases();
	gp_tokenizer_close(gemma);
	gemma = with;
}

/* ---- speed -------------------------------------------------------------------------- */
static double seconds_to_encode(const char *text, size_t bytes)
{
	double best = 1e9;

	for (int round = 0; round < 5; round++) {
		uint64_t start = gp_now_ns();
		uint32_t *ids;
		size_t n;
		double s;

		assert_int_equal(gp_tokenizer_encode(gemma, text, bytes, 0, &ids, &n), 0);
		s = (double)(gp_now_ns() - start) * 1e-9;
		best = s < best ? s : best;
		free(ids);
	}
	return best;
}

/* Reported, not judged: other work on the machine must not fail a test. */
static void speed(void **state)
{
	const size_t mb = 1000000;
	char *text, *word;
	size_t n;
	double s;

	(void)state;
	if (!gemma)
		skip();
	FILE *f = fopen("tests/data/gemma3-mini-valid.txt", "rbe");
	text = malloc(mb);
	word = malloc(mb);
	assert_true(f && text && word);
	n = fread(text, 1, mb, f);
	fclose(f);
	for (size_t i = 0; i < mb; i++) {
		text[i] = text[i % n];
		word[i] = (char)('a' + i * i % 25 % 23);
	}
	s = seconds_to_encode(text, mb);
	print_message("1 MB of English: %.3f s, %.1f MB/s\n", s, 1 / s);
	s = seconds_to_encode(word, mb);
	print_message("one word of 1 MB: %.3f s, %.1f MB/s\n", s, 1 / s);
	print_message("one word of 10,000 characters: %.4f s\n", seconds_to_encode(word, 10000));
	free(text);
	free(word);
}

static int open_gemma(void **state)
{
	const char *path = getenv("GP_GEMMA_TOKENIZER");
	uint64_t start = gp_now_ns();
	int rc;

	(void)state;
	if (!path)
		return 0;
	rc = gp_tokenizer_open(&gemma, path);
	print_message("%s: %s in %.2f s\n", path, rc < 0 ? gp_error() : "loaded",
	              (double)(gp_now_ns() - start) * 1e-9);
	return rc;
}

static int close_gemma(void **state)
{
	(void)state;
	gp_tokenizer_close(gemma);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cases_hold),
		cmocka_unit_test(cases_hold_without_merges),
		cmocka_unit_test(speed),
	};

	return cmocka_run_group_tests(tests, open_gemma, close_gemma);
}

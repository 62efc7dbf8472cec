/* The tokenizer's files: the same tokenizer from JSON and from a GGUF, the ways
 * in which GGUF files differ, and files that are broken or hostile. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "model/model.h"
#include "tests/common/tiny_model.h"

#define FOLDER "tests/data/gemma3-mini-tokenizer"

static struct gp_tokenizer *mini;
static char folder[] = "/tmp/gp-test-tokenizer-XXXXXX";
static char gguf_path[64], json_path[64];

/* ---- files ---------------------------------------------------------------------- */
static void write_whole(const char *path, const char *data, size_t bytes)
{
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, bytes, f), bytes);
	assert_int_equal(fclose(f), 0);
}

/* A vocabulary that a test may change before it is written. */
struct parts {
	size_t n, n_types, n_scores, n_merges; /* n_merges 0: no such key */
	const char **text;
	size_t *bytes;
	float *score;
	int32_t *kind;
	char **merge;
	size_t *merge_bytes;
	const char *model;
	uint32_t bos, eos;
};

static char *merge_text(const struct gp_vocab *v, size_t rank, size_t *bytes)
{
	const uint32_t *pair = v->merge[rank];
	char *text = malloc(v->text_bytes[pair[0]] + v->text_bytes[pair[1]] + 2);

	assert_non_null(text);
	*bytes = (size_t)sprintf(text, "%s %s", v->text[pair[0]], v->text[pair[1]]);
	return text;
}

static void parts_init(struct parts *p)
{
	const struct gp_vocab *v = gp_tokenizer_vocab(mini);

	*p = (struct parts){ .n = v->n, .n_types = v->n, .n_scores = v->n,
	                     .n_merges = v->n_merges, .model = "llama",
	                     .bos = (uint32_t)v->bos, .eos = (uint32_t)v->eos };
	p->text = calloc(v->n, sizeof(*p->text));
	p->bytes = calloc(v->n, sizeof(*p->bytes));
	p->score = calloc(v->n, sizeof(*p->score));
	p->kind = calloc(v->n, sizeof(*p->kind));
	p->merge = calloc(v->n_merges, sizeof(*p->merge));
	p->merge_bytes = calloc(v->n_merges, sizeof(*p->merge_bytes));
	memcpy(p->text, v->text, v->n * sizeof(*p->text));
	memcpy(p->bytes, v->text_bytes, v->n * sizeof(*p->bytes));
	memcpy(p->score, v->score, v->n * sizeof(*p->score));
	memcpy(p->kind, v->kind, v->n * sizeof(*p->kind));
	for (size_t rank = 0; rank < v->n_merges; rank++)
		p->merge[rank] = merge_text(v, rank, &p->merge_bytes[rank]);
}

static void parts_finish(struct parts *p)
{
	for (size_t rank = 0; rank < gp_tokenizer_vocab(mini)->n_merges; rank++)
		free(p->merge[rank]);
	free(p->text);
	free(p->bytes);
	free(p->score);
	free(p->kind);
	free(p->merge);
	free(p->merge_bytes);
}

static void write_gguf(const struct parts *p)
{
	struct gp_gguf_writer *w;

	assert_int_equal(gp_gguf_writer_create(&w, gguf_path), 0);
	assert_int_equal(gp_gguf_add_string(w, "general.architecture", "gemma3", 6), 0);
	assert_int_equal(gp_gguf_add_string(w, "tokenizer.ggml.model", p->model,
	                                    strlen(p->model)), 0);
	assert_int_equal(gp_gguf_add_string_array(w, "tokenizer.ggml.tokens", p->text, p->bytes,
	                                          p->n), 0);
	assert_int_equal(gp_gguf_add_f32_array(w, "tokenizer.ggml.scores", p->score,
	                                       p->n_scores), 0);
	assert_int_equal(gp_gguf_add_i32_array(w, "tokenizer.ggml.token_type", p->kind,
	                                       p->n_types), 0);
	if (p->n_merges)
		assert_int_equal(gp_gguf_add_string_array(w, "tokenizer.ggml.merges",
		                                          (const char *const *)p->merge,
		                                          p->merge_bytes, p->n_merges), 0);
	assert_int_equal(gp_gguf_add_u32(w, "tokenizer.ggml.bos_token_id", p->bos), 0);
	assert_int_equal(gp_gguf_add_u32(w, "tokenizer.ggml.eos_token_id", p->eos), 0);
	assert_int_equal(gp_gguf_writer_finish(w), 0);
	gp_gguf_writer_destroy(w);
}

/* ---- the same from both ----------------------------------------------------------- */
static void expect_same_ids(const struct gp_tokenizer *a, const struct gp_tokenizer *b,
                            const char *text, size_t bytes, unsigned flags)
{
	uint32_t *ids_a, *ids_b;
	size_t n_a, n_b;

	assert_int_equal(gp_tokenizer_encode(a, text, bytes, flags, &ids_a, &n_a), 0);
	assert_int_equal(gp_tokenizer_encode(b, text, bytes, flags, &ids_b, &n_b), 0);
	assert_int_equal(n_a, n_b);
	assert_memory_equal(ids_a, ids_b, n_a * sizeof(*ids_a));
	free(ids_a);
	free(ids_b);
}

static void expect_agreement(const struct gp_tokenizer *other)
{
	static const char odd[] = "<bos>  a   b<start_of_turn>user\n\n\n<unk> <0x41>\t\t"
	                          "\xF0\x9F\xA6\xA9<end_of_turn>\n\n\n\n\n\n\n\n\n\n<mask>\0 ";
	size_t bytes;
	char *text = tiny_load_text("tests/data/gemma3-mini-valid.txt", &bytes);

	expect_same_ids(mini, other, text, bytes, GP_ENCODE_BOS);
	expect_same_ids(mini, other, odd, sizeof(odd) - 1, GP_ENCODE_SPECIAL);
	expect_same_ids(mini, other, odd, sizeof(odd) - 1, 0);
	free(text);
}

static void gguf_agrees_with_json(void **state)
{
	const struct gp_vocab *v = gp_tokenizer_vocab(mini), *w;
	struct gp_tokenizer *t;
	struct parts p;

	(void)state;
	parts_init(&p);
	write_gguf(&p);
	assert_int_equal(gp_tokenizer_open(&t, gguf_path), 0);
	w = gp_tokenizer_vocab(t);
	assert_int_equal(w->n, v->n);
	assert_int_equal(w->n_merges, v->n_merges);
	assert_memory_equal(w->merge, v->merge, v->n_merges * sizeof(*v->merge));
	assert_memory_equal(w->kind, v->kind, v->n * sizeof(*v->kind));
	assert_int_equal(w->bos, v->bos);
	assert_int_equal(w->eos, v->eos);
	assert_int_equal(w->end_of_turn, v->end_of_turn);
	expect_agreement(t);
	gp_tokenizer_close(t);
	parts_finish(&p);
}

/* Marks typed as ordinary tokens, runs of spaces as spaces, the end of turn as
 * eos: each seen in files that people use. */
static void gguf_hazards_are_set_right(void **state)
{
	const struct gp_vocab *v = gp_tokenizer_vocab(mini);
	struct gp_tokenizer *t;
	struct parts p;
	size_t spaced = 0;

	(void)state;
	parts_init(&p);
	for (size_t id = 0; id < p.n; id++) {
		if (!strcmp(p.text[id], "<start_of_turn>") || !strcmp(p.text[id], "<end_of_turn>"))
			p.kind[id] = GP_TOKEN_NORMAL;
		if (!strcmp(p.text[id], "\xE2\x96\x81\xE2\x96\x81")) {
			p.text[id] = "  ";
			p.bytes[id] = 2;
			spaced++;
		}
	}
	p.eos = (uint32_t)v->end_of_turn;
	write_gguf(&p);
	assert_int_equal(gp_tokenizer_open(&t, gguf_path), 0);
	expect_agreement(t);
	assert_true(gp_tokenizer_is_stop(t, (uint32_t)v->eos));
	assert_true(gp_tokenizer_is_stop(t, (uint32_t)v->end_of_turn));
	gp_tokenizer_close(t);
	parts_finish(&p);
	print_message("%zu pieces with spaces\n", spaced);
}

/* Without merges the scores decide; each piece here has one way to be made
 * first, so the order is the merges' own. */
static void scores_serve_without_merges(void **state)
{
	static const char text[] = "In the beginning there was the word";
	struct gp_tokenizer *t;
	struct parts p;

	(void)state;
	parts_init(&p);
	p.n_merges = 0;
	write_gguf(&p);
	assert_int_equal(gp_tokenizer_open(&t, gguf_path), 0);
	assert_null(gp_tokenizer_vocab(t)->merge);
	expect_same_ids(mini, t, text, sizeof(text) - 1, 0);
	gp_tokenizer_close(t);
	parts_finish(&p);
}

/* ---- broken files ------------------------------------------------------------------- */
static void expect_refused(const char *path, int errnum, const char *says)
{
	struct gp_tokenizer *t;
	int rc = gp_tokenizer_open(&t, path);

	if (rc != -errnum || !strstr(gp_error(), says))
		fail_msg("want %d \"%s\", got %d \"%s\"", -errnum, says, rc, rc ? gp_error() : "");
}

static void refuse_parts(struct parts *p, int errnum, const char *says)
{
	write_gguf(p);
	expect_refused(gguf_path, errnum, says);
	parts_finish(p);
	parts_init(p);
}

static void wrong_gguf_is_refused(void **state)
{
	struct parts p;

	(void)state;
	parts_init(&p);
	p.n_types--;
	refuse_parts(&p, EINVAL, "as many items");
	p.n_scores--;
	refuse_parts(&p, EINVAL, "as many items");
	p.bos = 4096;
	refuse_parts(&p, EINVAL, "bos_token_id is 4096, past the vocabulary");
	p.eos = UINT32_MAX;
	refuse_parts(&p, EINVAL, "eos_token_id");
	p.kind[9] = 77;
	refuse_parts(&p, EINVAL, "token 9 has type 77");
	p.kind[500] = GP_TOKEN_BYTE;
	refuse_parts(&p, EINVAL, "token 500 has type 6");
	p.text[500] = "\xFF";
	p.bytes[500] = 1;
	refuse_parts(&p, EINVAL, "token 500 is not valid UTF-8");
	p.text[20] = "<0xZZ>";
	p.kind[20] = GP_TOKEN_NORMAL;
	refuse_parts(&p, EINVAL, "lacks the byte token");
	strcpy(p.merge[7], "xx");
	p.merge_bytes[7] = 2;
	refuse_parts(&p, EINVAL, "entry 7");
	strcpy(p.merge[7], "\x01 b");
	p.merge_bytes[7] = 3;
	refuse_parts(&p, EINVAL, "merge 7 names a token");
	p.model = "gpt2";
	refuse_parts(&p, ENOTSUP, "tokenizer.ggml.model is \"gpt2\"");
	p.n_merges = 0;
	p.score[1000] = -1.0f / 0.0f;
	refuse_parts(&p, EINVAL, "score is not a number");
	parts_finish(&p);
}

static void gguf_without_tokenizer(void **state)
{
	struct gp_gguf_writer *w;

	(void)state;
	assert_int_equal(gp_gguf_writer_create(&w, gguf_path), 0);
	assert_int_equal(gp_gguf_add_string(w, "general.architecture", "gemma3", 6), 0);
	assert_int_equal(gp_gguf_writer_finish(w), 0);
	gp_gguf_writer_destroy(w);
	expect_refused(gguf_path, ENOENT, "no tokenizer");
}

/* The mini's JSON with one passage replaced. */
static void refuse_json(const char *from, const char *to, int errnum, const char *says)
{
	size_t bytes;
	char *json = tiny_load_text(FOLDER "/tokenizer.json", &bytes), *at = strstr(json, from);
	char *changed = malloc(bytes + strlen(to) + 1);
	size_t before;

	assert_non_null(at);
	before = (size_t)(at - json);
	memcpy(changed, json, before);
	strcpy(changed + before, to);
	strcat(changed, at + strlen(from));
	write_whole(json_path, changed, strlen(changed));
	expect_refused(json_path, errnum, says);
	expect_refused(folder, errnum, says);
	free(changed);
	free(json);
}

static void wrong_json_is_refused(void **state)
{
	(void)state;
	refuse_json("\"type\": \"BPE\"", "\"type\": \"Unigram\"", ENOTSUP, "not BPE");
	refuse_json("\"byte_fallback\": true", "\"byte_fallback\": 1", ENOTSUP, "byte_fallback");
	refuse_json("\"type\": \"Replace\"", "\"type\": \"NFC\"", ENOTSUP, "normalizer");
	refuse_json("\"added_tokens\": [", "\"added_tokens\": 5, \"x\": [", EINVAL, "added_tokens");
	refuse_json("\"added_tokens\": [", "\"added_tokens\": [7,", EINVAL, "an entry lacks");
	refuse_json("\"lstrip\": false", "\"lstrip\": true", ENOTSUP, "lstrip");
	refuse_json("\"vocab\": {", "\"vocab\": {\"zzzz\": -1,", EINVAL, "model.vocab: an id");
	refuse_json("\"vocab\": {", "\"vocab\": {\"zzzz\": 99999999999999999999,", EINVAL, "");
	refuse_json("\"vocab\": {", "\"vocab\": {\"zzzz\": 4194304,", EINVAL, "an id is not");
	refuse_json("\"vocab\": {", "\"vocab\": {\"zzzz\": \"1\",", EINVAL, "an id is not");
	refuse_json("\"vocab\": {", "\"vocab\": {\"zzzz\": 17,", EINVAL, "have id 17");
	refuse_json("\"vocab\": {", "\"vocab\": {\"a\": 5000,", EINVAL, "duplicate");
	refuse_json("\"vocab\": {", "\"vocab\": {\"\": 5000,", EINVAL, "token 5000 is empty");
	refuse_json("\"vocab\": {", "\"vocab\": 3, \"x\": {", EINVAL, "model.vocab");
	refuse_json("\"<0x41>\"", "\"<0xG1>\"", EINVAL, "lacks the byte token <0x41>");
	refuse_json("\"merges\": [", "\"merges\": [[\"a\"],", EINVAL, "entry 0");
	refuse_json("\"merges\": [", "\"merges\": [{},", EINVAL, "entry 0");
	refuse_json("\"merges\": [", "\"merges\": [\"a b c\",", EINVAL, "entry 0");
	refuse_json("\"merges\": [", "\"merges\": [[\"q\", \"q\"],", EINVAL, "makes a token");
	refuse_json("\"merges\": [", "\"merges\": [\"<0x41> <0x42>\",", EINVAL, "byte tokens");
	refuse_json("\"merges\": [", "\"merges\": 1, \"x\": [", EINVAL, "not a list");
}

/* A hole in the ids is no error; it is never made, and shows as nothing. */
static void holes_are_empty(void **state)
{
	size_t bytes, n;
	char *json = tiny_load_text(FOLDER "/tokenizer.json", &bytes), *at, *text;
	struct gp_tokenizer *t;

	(void)state;
	at = strstr(json, "\"vocab\": {");
	assert_non_null(at);
	text = malloc(bytes + 64);
	assert_non_null(text);
	sprintf(text, "%.*s\"vocab\": {\"zzzz\": 5000,%s", (int)(at - json), json, at + 10);
	write_whole(json_path, text, strlen(text));
	free(text);
	free(json);
	assert_int_equal(gp_tokenizer_open(&t, json_path), 0);
	assert_int_equal(gp_tokenizer_vocab(t)->n, 5001);
	assert_int_equal(gp_tokenizer_decode(t, (uint32_t[]){ 4999, 5000 }, 2, false, &text, &n), 0);
	assert_string_equal(text, "zzzz");
	free(text);
	gp_tokenizer_close(t);
}

static void truncated_json_is_refused(void **state)
{
	size_t bytes;
	char *json = tiny_load_text(FOLDER "/tokenizer.json", &bytes);

	(void)state;
	while (bytes && json[bytes - 1] != '}')
		bytes--;
	for (size_t cut = 0; cut < bytes; cut += cut < 4096 ? 97 : 6173) {
		write_whole(json_path, json, cut);
		expect_refused(json_path, EINVAL, "tokenizer.json");
	}
	free(json);
}

static void missing_files_are_named(void **state)
{
	(void)state;
	expect_refused("tests/data/none.json", ENOENT, "tests/data/none.json");
	expect_refused("tests/data", ENOENT, "no tokenizer.json in this folder");
	expect_refused("/dev/null", EINVAL, "is no regular file");
}

static int open_all(void **state)
{
	(void)state;
	if (!mkdtemp(folder))
		return -1;
	snprintf(gguf_path, sizeof(gguf_path), "%s/mini.gguf", folder);
	snprintf(json_path, sizeof(json_path), "%s/tokenizer.json", folder);
	return gp_tokenizer_open(&mini, FOLDER);
}

static int close_all(void **state)
{
	(void)state;
	gp_tokenizer_close(mini);
	unlink(gguf_path);
	unlink(json_path);
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gguf_agrees_with_json),
		cmocka_unit_test(gguf_hazards_are_set_right),
		cmocka_unit_test(scores_serve_without_merges),
		cmocka_unit_test(wrong_gguf_is_refused),
		cmocka_unit_test(gguf_without_tokenizer),
		cmocka_unit_test(wrong_json_is_refused),
		cmocka_unit_test(holes_are_empty),
		cmocka_unit_test(truncated_json_is_refused),
		cmocka_unit_test(missing_files_are_named),
	};

	return cmocka_run_group_tests(tests, open_all, close_all);
}

/* A vocabulary into a GGUF: as many tokens as rows, whatever it has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "model/gguf.h"
#include "tests/common/tiny_model.h"

static const char *texts[] = { "<pad>", "<eos>", "<bos>", "<unk>", "a", NULL, "b\0c", "ab\0c" };
static size_t bytes[] = { 5, 5, 5, 5, 1, 0, 3, 4 };
static float scores[] = { 0, 0, 0, 0, -1, 0, -2, -3 };
static int32_t kinds[] = { 3, 3, 3, 2, 1, 0, 1, 1 };
static uint32_t merges[][2] = { { 4, 6 } };
static char template_text[] = "{{ bos_token }}";

static struct gp_gguf *write_and_open(const char *path, uint32_t rows)
{
	const struct gp_vocab v = {
		.n = 8, .text = texts, .text_bytes = bytes, .score = scores, .kind = kinds,
		.n_merges = 1, .merge = merges, .bos = 2, .eos = 1, .end_of_turn = 7,
		.chat_template = template_text,
	};
	struct gp_gguf_writer *w;
	struct gp_gguf *g;

	assert_int_equal(gp_gguf_writer_create(&w, path), 0);
	assert_int_equal(gp_gguf_add_vocab(w, &v, rows), 0);
	assert_int_equal(gp_gguf_writer_finish(w), 0);
	gp_gguf_writer_destroy(w);
	assert_int_equal(gp_gguf_open(&g, path), 0);
	return g;
}

static void expect_text(const struct gp_gguf *g, const char *key, uint64_t i, const char *text,
			size_t n)
{
	const struct gp_gguf_value *v = NULL;
	const char *s;
	size_t got;

	assert_int_equal(gp_gguf_get_array(g, key, GP_GGUF_STRING, &v), 1);
	assert_true(i < v->n);
	gp_gguf_string_at(g, v, i, &s, &got);
	assert_int_equal(got, n);
	assert_memory_equal(s, text, n);
}

static void test_padded(void **state)
{
	char *folder = tiny_folder(), *path = tiny_path(folder, "v.gguf");
	const struct gp_gguf_value *v = NULL;
	struct gp_gguf *g = write_and_open(path, 10);
	uint32_t id = 0;

	(void)state;
	expect_text(g, "tokenizer.ggml.tokens", 4, "a", 1);
	expect_text(g, "tokenizer.ggml.tokens", 5, "[PAD5]", 6);
	expect_text(g, "tokenizer.ggml.tokens", 7, "ab\0c", 4);
	expect_text(g, "tokenizer.ggml.tokens", 9, "[PAD9]", 6);
	expect_text(g, "tokenizer.ggml.merges", 0, "a b\0c", 5);
	assert_int_equal(gp_gguf_get_array(g, "tokenizer.ggml.token_type", GP_GGUF_I32, &v), 1);
	assert_int_equal(v->n, 10);
	assert_int_equal(gp_gguf_i32_at(v, 3), GP_TOKEN_UNKNOWN);
	assert_int_equal(gp_gguf_i32_at(v, 5), GP_TOKEN_UNUSED);
	assert_int_equal(gp_gguf_i32_at(v, 9), GP_TOKEN_UNUSED);
	assert_int_equal(gp_gguf_get_array(g, "tokenizer.ggml.scores", GP_GGUF_F32, &v), 1);
	assert_true(gp_gguf_f32_at(v, 6) == -2);
	assert_int_equal(gp_gguf_get_u32(g, "tokenizer.ggml.eot_token_id", &id), 1);
	assert_int_equal(id, 7);
	assert_int_equal(gp_gguf_get_u32(g, "tokenizer.ggml.unknown_token_id", &id), 1);
	assert_int_equal(id, 3);
	assert_int_equal(gp_gguf_get_u32(g, "tokenizer.ggml.padding_token_id", &id), 1);
	assert_int_equal(id, 0);
	gp_gguf_close(g);
	free(path);
	tiny_remove(folder);
}

/* Gemma 3 1B: its tokenizer has a piece more than its embedding has rows. */
static void test_cut(void **state)
{
	char *folder = tiny_folder(), *path = tiny_path(folder, "v.gguf");
	const struct gp_gguf_value *v = NULL;
	struct gp_gguf *g = write_and_open(path, 7);
	uint32_t id = 0;

	(void)state;
	assert_int_equal(gp_gguf_get_array(g, "tokenizer.ggml.tokens", GP_GGUF_STRING, &v), 1);
	assert_int_equal(v->n, 7);
	assert_int_equal(gp_gguf_get_u32(g, "tokenizer.ggml.eot_token_id", &id), 0);
	assert_int_equal(gp_gguf_get_u32(g, "tokenizer.ggml.bos_token_id", &id), 1);
	gp_gguf_close(g);
	free(path);
	tiny_remove(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_padded),
		cmocka_unit_test(test_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

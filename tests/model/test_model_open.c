/* Opening whole models: the bundled ones, both styles of config.json, its
 * defaults, splits, and models that do not fit their configuration. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/base.h"
#include "model/internal.h"
#include "tests/common/tiny_model.h"

static char *folder, *path;

static int make_folder(void **state)
{
	(void)state;
	folder = tiny_folder();
	path = tiny_path(folder, "t.gguf");
	return 0;
}

static int remove_folder(void **state)
{
	(void)state;
	free(path);
	tiny_remove(folder);
	return 0;
}

static void assert_near(float got, double expected)
{
	if (!(fabs((double)got - expected) <= 1e-6 * fabs(expected)))
		fail_msg("%.9g, expected %.9g", (double)got, expected);
}

static void expect_error(const char *text)
{
	if (!strstr(gp_error(), text))
		fail_msg("'%s' lacks '%s'", gp_error(), text);
}

/* ---- the bundled models --------------------------------------------------------- */
static void check_random(const struct gp_config *c, uint32_t vocab)
{
	assert_int_equal(c->n_layers, 8);
	assert_int_equal(c->hidden, 128);
	assert_int_equal(c->n_heads, 4);
	assert_int_equal(c->n_kv_heads, 2);
	assert_int_equal(c->head_dim, 48);
	assert_int_equal(c->ffn, 320);
	assert_int_equal(c->vocab, vocab);
	assert_int_equal(c->window, 16);
	assert_int_equal(c->context, 4096);
	for (uint32_t i = 0; i < 8; i++)
		assert_int_equal(c->is_global[i], i == 5);
	assert_near(c->rope_base_local, 10000);
	assert_near(c->rope_base_global, 1000000);
	assert_near(c->rope_scale_global, 8);
	assert_near(c->attn_scale, 1 / sqrt(44));
	assert_near(c->rms_eps, 1e-6);
	assert_near(c->norm_offset, 1);
	assert_int_equal(c->bos, 2);
	assert_int_equal(c->eos, 1);
	assert_false(c->has_vision);
}

static void open_bundled(const char *name, uint32_t vocab)
{
	const struct gp_tensor *list;
	struct gp_model *m;

	assert_int_equal(gp_model_open(&m, name), 0);
	check_random(gp_model_config(m), vocab);
	assert_string_equal(gp_model_format(m), "safetensors");
	assert_string_equal(gp_model_path(m), name);
	assert_int_equal(gp_model_all_tensors(m, &list), 2 + 8 * 13);
	assert_int_equal(gp_model_main_type(m), GP_TYPE_BF16);
	assert_int_equal(gp_model_tensor(m, GP_T_TOKEN_EMBD, 0)->rows, vocab);
	for (uint32_t l = 0; l < 8; l++)
		for (int id = 0; id < GP_T_COUNT; id++) {
			const struct gp_tensor *t = gp_model_tensor(m, (enum gp_tensor_id)id, l);

			assert_non_null(t);
			assert_int_equal(t->bytes, t->rows * t->cols * 2);
		}
	assert_int_equal(gp_model_bytes(m, 0, 8, true),
			 gp_model_bytes(m, 0, 3, false) + gp_model_bytes(m, 3, 8, true));
	gp_model_close(m);
}

static void test_bundled(void **state)
{
	(void)state;
	open_bundled("tests/data/gemma3-random-text", 512);
	open_bundled("tests/data/gemma3-random-vision-text", 520);
}

/* ---- config.json ------------------------------------------------------------------ */
static int parse(struct gp_config *c, const char *text, const char *generation)
{
	json_t *root = json_loads(text, 0, NULL);
	json_t *g = generation ? json_loads(generation, 0, NULL) : NULL;
	int rc;

	assert_non_null(root);
	rc = gp_config_from_json(c, root, g, "here");
	json_decref(root);
	json_decref(g);
	return rc;
}

/* What the published 4B file says: all else is default. */
static void test_config_defaults(void **state)
{
	static const char text[] =
		"{\"architectures\":[\"Gemma3ForConditionalGeneration\"],\"model_type\":\"gemma3\","
		"\"eos_token_id\":[1,106],\"image_token_index\":262144,\"text_config\":"
		"{\"hidden_size\":2560,\"intermediate_size\":10240,\"model_type\":\"gemma3_text\","
		"\"num_hidden_layers\":34,\"rope_scaling\":{\"factor\":8.0,\"rope_type\":\"linear\"},"
		"\"sliding_window\":1024},\"vision_config\":{\"hidden_size\":1152}}";
	struct gp_config c;

	(void)state;
	assert_int_equal(parse(&c, text, NULL), 0);
	assert_int_equal(gp_config_check(&c), 0);
	assert_int_equal(c.n_layers, 34);
	assert_int_equal(c.hidden, 2560);
	assert_int_equal(c.ffn, 10240);
	assert_int_equal(c.n_heads, 8);
	assert_int_equal(c.n_kv_heads, 4);
	assert_int_equal(c.head_dim, 256);
	assert_int_equal(c.vocab, 262208);
	assert_int_equal(c.window, 1024);
	assert_int_equal(c.context, 131072);
	assert_near(c.rope_base_local, 10000);
	assert_near(c.rope_base_global, 1000000);
	assert_near(c.rope_scale_global, 8);
	assert_near(c.attn_scale, 1.0 / 16);
	assert_int_equal(c.eos, 1);
	assert_int_equal(c.bos, 2);
	for (uint32_t i = 0; i < 34; i++)
		assert_int_equal(c.is_global[i], i % 6 == 5);

	assert_int_equal(parse(&c, "{\"model_type\":\"gemma3_text\"}",
			       "{\"bos_token_id\":3,\"eos_token_id\":[9,1]}"), 0);
	assert_int_equal(c.n_layers, 26);
	assert_int_equal(c.hidden, 2304);
	assert_int_equal(c.ffn, 9216);
	assert_int_equal(c.window, 4096);
	assert_near(c.rope_scale_global, 1);
	assert_int_equal(c.bos, 3);
	assert_int_equal(c.eos, 9);
}

static void test_config_styles(void **state)
{
	static const char *const old[] = {
		"{\"model_type\":\"gemma3_text\",\"num_hidden_layers\":4,\"rope_theta\":500000,"
		"\"rope_local_base_freq\":20000.0,\"sliding_window_pattern\":2,\"head_dim\":128,"
		"\"rope_scaling\":{\"type\":\"linear\",\"factor\":4},\"query_pre_attn_scalar\":168}",
		"{\"model_type\":\"gemma3_text\",\"num_hidden_layers\":4,\"head_dim\":128,"
		"\"rope_parameters\":{\"full_attention\":{\"rope_theta\":500000,\"factor\":4,"
		"\"rope_type\":\"linear\"},\"sliding_attention\":{\"rope_theta\":2e4,"
		"\"rope_type\":\"default\"}},\"query_pre_attn_scalar\":168.0,\"layer_types\":"
		"[\"sliding_attention\",\"full_attention\",\"sliding_attention\",\"full_attention\"]}",
	};
	struct gp_config c;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(old); i++) {
		assert_int_equal(parse(&c, old[i], NULL), 0);
		assert_near(c.rope_base_global, 500000);
		assert_near(c.rope_base_local, 20000);
		assert_near(c.rope_scale_global, 4);
		assert_near(c.attn_scale, 1 / sqrt(168));
		assert_int_equal(c.head_dim, 128);
		for (uint32_t l = 0; l < 4; l++)
			assert_int_equal(c.is_global[l], l % 2 == 1);
	}
	assert_int_equal(parse(&c, "{\"model_type\":\"gemma3_text\",\"rope_scaling\":null,"
			       "\"num_hidden_layers\":7,\"_sliding_window_pattern\":3}", NULL), 0);
	assert_near(c.rope_scale_global, 1);
	assert_true(c.is_global[2] && c.is_global[5] && !c.is_global[6]);
}

static void test_config_refused(void **state)
{
#define G "{\"model_type\":\"gemma3_text\","
	static const struct { const char *text, *expected; } cases[] = {
		{ "{}", "model_type" },
		{ "{\"model_type\":\"llama\"}", "'llama'" },
		{ "{\"model_type\":\"gemma3n\"}", "'gemma3n'" },
		{ G "\"hidden_size\":-1}", "hidden_size" },
		{ G "\"hidden_size\":1.5}", "hidden_size" },
		{ G "\"hidden_size\":\"9\"}", "hidden_size" },
		{ G "\"hidden_size\":4294967296}", "hidden_size" },
		{ G "\"num_hidden_layers\":0}", "num_hidden_layers" },
		{ G "\"num_hidden_layers\":257}", "num_hidden_layers" },
		{ G "\"rms_norm_eps\":\"x\"}", "rms_norm_eps" },
		{ G "\"sliding_window_pattern\":0}", "sliding_window_pattern" },
		{ G "\"layer_types\":[\"full_attention\"]}", "layer_types" },
		{ G "\"num_hidden_layers\":1,\"layer_types\":[\"linear_attention\"]}",
		  "linear_attention" },
		{ G "\"num_hidden_layers\":1,\"layer_types\":[1]}", "layer 0" },
		{ G "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}", "'yarn'" },
		{ G "\"rope_scaling\":7}", "rope_scaling" },
		{ G "\"rope_scaling\":{\"rope_type\":\"linear\"}}", "'factor'" },
		{ G "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\"}}}",
		  "'factor'" },
		{ G "\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"linear\"}}}",
		  "'linear'" },
		{ G "\"attention_bias\":true}", "attention_bias" },
		{ G "\"use_bidirectional_attention\":true}", "bidirectional" },
		{ G "\"final_logit_softcapping\":30.0}", "soft-capping" },
		{ G "\"hidden_activation\":\"silu\"}", "hidden_activation" },
		{ G "\"tie_word_embeddings\":false}", "tie_word_embeddings" },
		{ G "\"eos_token_id\":\"1\"}", "eos_token_id" },
	};
#undef G
	struct gp_config c;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++) {
		assert_int_equal(parse(&c, cases[i].text, NULL), -EINVAL);
		expect_error(cases[i].expected);
		expect_error("here");
	}
}

static void test_config_check(void **state)
{
	struct gp_config c = tiny_config();

	(void)state;
	assert_int_equal(gp_config_check(&c), 0);
#define REFUSE(field, value, text) do { \
		c = tiny_config(); \
		c.field = (value); \
		assert_int_equal(gp_config_check(&c), -EINVAL); \
		expect_error(text); \
	} while (0)
	REFUSE(n_layers, 0, "layers");
	REFUSE(n_layers, GP_MAX_LAYERS + 1, "layers");
	REFUSE(hidden, 1, "hidden");
	REFUSE(hidden, UINT32_MAX, "hidden");
	REFUSE(n_heads, 5, "multiple");
	REFUSE(n_kv_heads, 0, "KV heads");
	REFUSE(head_dim, 12, "multiple of 8");
	REFUSE(head_dim, 520, "head size");
	REFUSE(ffn, 1, "feed-forward");
	REFUSE(vocab, 1, "vocabulary");
	REFUSE(window, 0, "window");
	REFUSE(context, 0, "context");
	REFUSE(rope_base_local, NAN, "RoPE");
	REFUSE(rope_base_global, INFINITY, "RoPE");
	REFUSE(rope_scale_global, 0, "factor");
	REFUSE(attn_scale, NAN, "attention scale");
	REFUSE(attn_scale, INFINITY, "attention scale");
	REFUSE(rms_eps, -1, "epsilon");
	REFUSE(norm_offset, NAN, "offset");
	REFUSE(bos, 128, "BOS");
	REFUSE(eos, -2, "EOS");
#undef REFUSE
}

/* ---- GGUF ---------------------------------------------------------------------------- */
static void check_tiny(const struct gp_model *m)
{
	const struct gp_config want = tiny_config(), *c = gp_model_config(m);
	const struct gp_tensor *t = gp_model_tensor(m, GP_T_FFN_DOWN, 1);

	assert_int_equal(c->n_layers, want.n_layers);
	assert_int_equal(c->hidden, want.hidden);
	assert_int_equal(c->n_heads, want.n_heads);
	assert_int_equal(c->n_kv_heads, want.n_kv_heads);
	assert_int_equal(c->head_dim, want.head_dim);
	assert_int_equal(c->ffn, want.ffn);
	assert_int_equal(c->vocab, want.vocab);
	assert_int_equal(c->window, want.window);
	assert_int_equal(c->context, want.context);
	assert_memory_equal(c->is_global, want.is_global, sizeof c->is_global);
	assert_near(c->rope_base_local, 10000);
	assert_near(c->rope_base_global, 1000000);
	assert_near(c->rope_scale_global, 8);
	assert_near(c->attn_scale, 0.2);
	assert_near(c->rms_eps, 1e-6);
	assert_true(c->norm_offset == 0);
	assert_string_equal(gp_model_format(m), "GGUF");
	assert_string_equal(t->name, "blk.1.ffn_down.weight");
	assert_int_equal(t->rows, 64);
	assert_int_equal(t->cols, 96);
	assert_int_equal(((const uint8_t *)t->data)[2], 1 + GP_T_FFN_DOWN * 7 + 31);
}

static void test_gguf(void **state)
{
	struct gp_model *m;

	(void)state;
	tiny_write_gguf(path);
	assert_int_equal(gp_model_open(&m, path), 0);
	check_tiny(m);
	assert_int_equal(gp_model_config(m)->bos, 2);
	assert_int_equal(gp_model_config(m)->eos, 1);
	gp_model_close(m);
}

/* Sizes of the published models whose files say nothing of the scale. */
static void test_default_scale(void **state)
{
	struct gp_config c = { .n_layers = 62, .hidden = 5376, .n_heads = 32, .head_dim = 128 };

	(void)state;
	assert_near(gp_config_default_scale(&c), 1 / sqrt(168));
	c = (struct gp_config){ .n_layers = 34, .hidden = 2560, .n_heads = 8, .head_dim = 256 };
	assert_near(gp_config_default_scale(&c), 1.0 / 16);
}

/* One change of the tiny file, of the same length. */
static void refuse_change(const char *from, const char *to, const char *expected)
{
	struct gp_model *m;
	size_t bytes;
	uint8_t *file;

	assert_int_equal(strlen(from), strlen(to));
	tiny_write_gguf(path);
	file = tiny_load(path, &bytes);
	memcpy(tiny_find(file, bytes, from), to, strlen(to));
	tiny_store(path, file, bytes);
	free(file);
	assert_int_equal(gp_model_open(&m, path), -EINVAL);
	assert_null(m);
	expect_error(expected);
}

static void test_gguf_changes(void **state)
{
	struct gp_model *m;

	(void)state;
	refuse_change("GGUF", "GGML", "no GGUF file");
	refuse_change("general.architecture\x08", "general.architecturf\x08", "is missing");
	refuse_change("blk.1.attn_k.weight", "blk.1.attn_x.weight",
		      "'blk.1.attn_k.weight' is missing");
	refuse_change("blk.1.attn_k.weight", "blk.1.attn_v.weight", "there twice");
	refuse_change("general.type", "general.name", "there twice");
	refuse_change("scaling.factor", "scaling.factoq", "'gemma3.rope.scaling.factor' is missing");
	refuse_change("gemma3.block_count", "gemma3.block_coun_", "'gemma3.block_count' is missing");
	refuse_change("token_embd.weight", "token_embx.weight", "'token_embd.weight' is missing");
	refuse_change("sliding_window\x04", "sliding_windoq\x04", "is missing");
	assert_int_equal(gp_model_open(&m, "/nonexistent"), -ENOENT);
	expect_error("/nonexistent");
	assert_int_equal(gp_model_open(&m, folder), -ENOENT);
	expect_error("config.json");
}

/* A model that says it has layers (or sizes) other than its tensors'. */
static void refuse_config(const struct gp_config *c, const char *expected)
{
	const struct gp_config tensors = tiny_config();
	struct gp_gguf_writer *w;
	struct gp_model *m;

	assert_int_equal(gp_gguf_writer_create(&w, path), 0);
	assert_int_equal(gp_gguf_add_config(w, c, "odd"), 0);
	tiny_add_tensors(w, &tensors, 0, tensors.n_layers);
	tiny_write_tensors(w, &tensors, 0, tensors.n_layers);
	assert_int_equal(gp_gguf_writer_finish(w), 0);
	gp_gguf_writer_destroy(w);
	assert_int_equal(gp_model_open(&m, path), -EINVAL);
	expect_error(expected);
}

static void test_gguf_misfits(void **state)
{
	struct gp_config c = tiny_config();

	(void)state;
	c.n_layers = 3;
	refuse_config(&c, "'blk.2.attn_norm.weight' is missing");
	c = tiny_config();
	c.ffn = 128;
	refuse_config(&c, "'blk.0.ffn_gate.weight' is 96 x 64 (rows x columns), expected 128 x 64");
	c = tiny_config();
	c.hidden = 32;
	refuse_config(&c, "'token_embd.weight' is 128 x 64");
	c = tiny_config();
	c.head_dim = 24;
	refuse_config(&c, "expected 96 x 64");
	c = tiny_config();
	c.n_kv_heads = 3;
	refuse_config(&c, "multiple of KV heads");
	c = tiny_config();
	c.window = 0;
	refuse_config(&c, "window");
}

static void write_architecture(const char *name)
{
	struct gp_gguf_writer *w;

	assert_int_equal(gp_gguf_writer_create(&w, path), 0);
	assert_int_equal(gp_gguf_add_string(w, "general.architecture", name, strlen(name)), 0);
	assert_int_equal(gp_gguf_writer_finish(w), 0);
	gp_gguf_writer_destroy(w);
}

static void test_architecture(void **state)
{
	static const char *const names[] = { "llama", "gemma2", "gemma3n", "clip", "" };
	struct gp_model *m;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(names); i++) {
		char expected[32];

		write_architecture(names[i]);
		assert_int_equal(gp_model_open(&m, path), -EINVAL);
		snprintf(expected, sizeof expected, "architecture '%s'", names[i]);
		expect_error(expected);
	}
}

/* ---- a head of its own, and files that are none ---------------------------------------- */
/* tiny's embedding as BF16 bytes; changed: one row is another. */
static void write_with_head(const char *name, enum gp_type type, uint64_t rows, uint64_t changed)
{
	const struct gp_config c = tiny_config();
	const size_t row = c.hidden * 2, n = (size_t)rows * c.hidden * (type == GP_TYPE_F32 ? 4 : 2);
	uint8_t *data = malloc(n);
	struct gp_gguf_writer *w;

	assert_non_null(data);
	for (size_t i = 0; i < n; i++)
		data[i] = i % 2 ? 0x3d : (uint8_t)(i / 2);
	if (changed < rows)
		data[changed * row] ^= 1;
	assert_int_equal(gp_gguf_writer_create(&w, path), 0);
	assert_int_equal(gp_gguf_add_config(w, &c, "headed"), 0);
	tiny_add_tensors(w, &c, 0, c.n_layers);
	assert_int_equal(gp_gguf_add_tensor(w, name, type, rows, c.hidden), 0);
	tiny_write_tensors(w, &c, 0, c.n_layers);
	assert_int_equal(gp_gguf_write(w, data, n), 0);
	assert_int_equal(gp_gguf_writer_finish(w), 0);
	gp_gguf_writer_destroy(w);
	free(data);
}

static void test_head(void **state)
{
	static const struct { enum gp_type type; uint64_t rows, changed; } other[] = {
		{ GP_TYPE_BF16, 128, 0 }, { GP_TYPE_BF16, 128, 127 }, { GP_TYPE_F32, 128, 128 },
		{ GP_TYPE_F16, 128, 128 }, { GP_TYPE_BF16, 127, 127 },
	};
	struct gp_model *m;

	(void)state;
	write_with_head("output.weight", GP_TYPE_BF16, 128, 128);
	assert_int_equal(gp_model_open(&m, path), 0);
	gp_model_close(m);
	for (size_t i = 0; i < GP_ARRAY_LEN(other); i++) {
		write_with_head("output.weight", other[i].type, other[i].rows, other[i].changed);
		assert_int_equal(gp_model_open(&m, path), -ENOTSUP);
		expect_error("'output.weight' differs from its embedding");
	}
}

static void refuse_fifo(const char *name, const char *gone)
{
	char *fifo = tiny_path(folder, name), *without = gone ? tiny_path(folder, gone) : NULL;
	struct gp_tokenizer *t;
	struct gp_model *m;

	tiny_write_safetensors(folder, "model");
	if (without)
		assert_int_equal(remove(without), 0);
	remove(fifo);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	if (strncmp(name, "tokenizer", 9) == 0)
		assert_int_equal(gp_tokenizer_open(&t, folder), -EINVAL);
	else
		assert_int_equal(gp_model_open(&m, folder), -EINVAL);
	expect_error(name);
	expect_error("is no regular file");
	assert_int_equal(remove(fifo), 0);
	free(fifo);
	free(without);
}

/* A FIFO has no end to read to: it would hang. */
static void test_fifos(void **state)
{
	(void)state;
	refuse_fifo("config.json", NULL);
	refuse_fifo("generation_config.json", NULL);
	refuse_fifo("model.safetensors.index.json", "model.safetensors");
	refuse_fifo("model.safetensors", NULL);
	refuse_fifo("tokenizer.json", NULL);
}

/* ---- splits ---------------------------------------------------------------------------- */
struct part {
	const char *name;
	uint32_t no, count, total, first, end;
};

static void write_part(const struct part *p)
{
	const struct gp_config c = tiny_config();
	char *file = tiny_path(folder, p->name);
	struct gp_gguf_writer *w;

	assert_int_equal(gp_gguf_writer_create(&w, file), 0);
	if (p->first == 0)
		assert_int_equal(gp_gguf_add_config(w, &c, "split"), 0);
	assert_int_equal(gp_gguf_add_u32(w, "split.no", p->no), 0);
	assert_int_equal(gp_gguf_add_u32(w, "split.count", p->count), 0);
	assert_int_equal(gp_gguf_add_u32(w, "split.tensors.count", p->total), 0);
	tiny_add_tensors(w, &c, p->first, p->end);
	tiny_write_tensors(w, &c, p->first, p->end);
	assert_int_equal(gp_gguf_writer_finish(w), 0);
	gp_gguf_writer_destroy(w);
	free(file);
}

static const struct part one = { "s-00001-of-00002.gguf", 0, 2, 28, 0, 1 };
static const struct part two = { "s-00002-of-00002.gguf", 1, 2, 28, 1, 2 };

static void refuse_parts(const struct part *a, const struct part *b, const char *expected)
{
	char *first = tiny_path(folder, a->name);
	struct gp_model *m;

	write_part(a);
	write_part(b);
	assert_true(gp_model_open(&m, first) < 0);
	expect_error(expected);
	free(first);
}

static void test_split(void **state)
{
	char *first = tiny_path(folder, one.name), *second = tiny_path(folder, two.name);
	struct gp_model *m;

	(void)state;
	write_part(&one);
	write_part(&two);
	assert_int_equal(gp_model_open(&m, first), 0);
	check_tiny(m);
	assert_int_equal(gp_model_tensor(m, GP_T_TOKEN_EMBD, 0)->file, 0);
	assert_int_equal(gp_model_tensor(m, GP_T_ATTN_Q, 1)->file, 1);
	gp_model_close(m);
	assert_int_equal(gp_model_open(&m, second), -EINVAL);
	expect_error("give the first");
	assert_int_equal(remove(second), 0);
	assert_int_equal(gp_model_open(&m, first), -ENOENT);
	expect_error("s-00002-of-00002.gguf");
	expect_error("part 2 of 2 of ");
	expect_error(first);
	free(first);
	free(second);
}

static void test_bad_split(void **state)
{
	struct part p = one, q = two;

	(void)state;
	p.name = "wrongly-named.gguf";
	refuse_parts(&p, &q, "not named");
	p = one;
	p.total = q.total = 29;
	refuse_parts(&p, &q, "expected 29");
	p = one;
	q = two;
	q.no = 0;
	refuse_parts(&p, &q, "mixed");
	q = two;
	q.count = 3;
	refuse_parts(&p, &q, "mixed");
	q = two;
	q.first = 0;
	p.total = 43;
	refuse_parts(&p, &q, "there twice");
	p = one;
	q = two;
	p.count = 4000000000u;
	refuse_parts(&p, &q, "not named");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bundled),
		cmocka_unit_test(test_config_defaults),
		cmocka_unit_test(test_config_styles),
		cmocka_unit_test(test_config_refused),
		cmocka_unit_test(test_config_check),
		cmocka_unit_test(test_gguf),
		cmocka_unit_test(test_default_scale),
		cmocka_unit_test(test_gguf_changes),
		cmocka_unit_test(test_gguf_misfits),
		cmocka_unit_test(test_architecture),
		cmocka_unit_test(test_head),
		cmocka_unit_test(test_fifos),
		cmocka_unit_test(test_split),
		cmocka_unit_test(test_bad_split),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

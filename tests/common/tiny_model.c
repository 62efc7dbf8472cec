#include "tests/common/tiny_model.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "model/internal.h"

struct gp_config tiny_config(void)
{
	return (struct gp_config){
		.n_layers = 2, .hidden = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16,
		.ffn = 96, .vocab = 128, .window = 8, .context = 256, .is_global = { false, true },
		.rope_base_local = 10000, .rope_base_global = 1000000, .rope_scale_global = 8,
		.attn_scale = 0.2f, .rms_eps = 1e-6f, .norm_offset = 0, .bos = 2, .eos = 1,
	};
}

char *tiny_folder(void)
{
	char *folder = strdup("/tmp/gempipe-test-XXXXXX");

	assert_non_null(folder);
	assert_non_null(mkdtemp(folder));
	return folder;
}

void tiny_remove(char *folder)
{
	DIR *d = opendir(folder);

	assert_non_null(d);
	for (const struct dirent *e = readdir(d); e; e = readdir(d))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			assert_int_equal(unlinkat(dirfd(d), e->d_name, 0), 0);
	closedir(d);
	assert_int_equal(rmdir(folder), 0);
	free(folder);
}

char *tiny_path(const char *folder, const char *name)
{
	char *path;

	assert_true(asprintf(&path, "%s/%s", folder, name) > 0);
	return path;
}

/* rows 0: a vector. */
static void shape(const struct gp_config *c, enum gp_tensor_id id, uint64_t *rows, uint64_t *cols)
{
	const uint64_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
	const uint64_t of[GP_T_COUNT][2] = {
		[GP_T_TOKEN_EMBD] = { c->vocab, c->hidden }, [GP_T_OUTPUT_NORM] = { 0, c->hidden },
		[GP_T_ATTN_NORM] = { 0, c->hidden }, [GP_T_ATTN_Q] = { q, c->hidden },
		[GP_T_ATTN_K] = { kv, c->hidden }, [GP_T_ATTN_V] = { kv, c->hidden },
		[GP_T_ATTN_OUT] = { c->hidden, q }, [GP_T_ATTN_Q_NORM] = { 0, c->head_dim },
		[GP_T_ATTN_K_NORM] = { 0, c->head_dim }, [GP_T_POST_ATTN_NORM] = { 0, c->hidden },
		[GP_T_FFN_NORM] = { 0, c->hidden }, [GP_T_FFN_GATE] = { c->ffn, c->hidden },
		[GP_T_FFN_UP] = { c->ffn, c->hidden }, [GP_T_FFN_DOWN] = { c->hidden, c->ffn },
		[GP_T_POST_FFN_NORM] = { 0, c->hidden },
	};

	*rows = of[id][0];
	*cols = of[id][1];
}

static void each_tensor(const struct gp_config *c, uint32_t first, uint32_t end, void *user,
			void (*visit)(void *user, enum gp_tensor_id id, uint32_t layer,
				      uint64_t rows, uint64_t cols))
{
	uint64_t rows, cols;

	for (uint32_t l = first; l < end; l++)
		for (int id = l ? GP_T_PER_LAYER : 0; id < GP_T_COUNT; id++) {
			shape(c, (enum gp_tensor_id)id, &rows, &cols);
			visit(user, (enum gp_tensor_id)id, l, rows, cols);
		}
}

static void add_one(void *user, enum gp_tensor_id id, uint32_t layer, uint64_t rows, uint64_t cols)
{
	char name[64];

	gp_gguf_tensor_name(name, id, layer);
	assert_int_equal(gp_gguf_add_tensor(user, name, rows ? GP_TYPE_BF16 : GP_TYPE_F32, rows, cols),
			 0);
}

void tiny_add_tensors(struct gp_gguf_writer *w, const struct gp_config *c, uint32_t first,
		      uint32_t end)
{
	each_tensor(c, first, end, w, add_one);
}

static void write_one(void *user, enum gp_tensor_id id, uint32_t layer, uint64_t rows, uint64_t cols)
{
	size_t n = rows ? rows * cols * 2 : cols * 4;
	uint8_t *data = malloc(n);

	assert_non_null(data);
	/* Every byte tells its tensor and place; 0x3d keeps the numbers small. */
	for (size_t i = 0; i < n; i++)
		data[i] = i % 2 ? 0x3d : (uint8_t)(i / 2 + (unsigned)id * 7 + layer * 31);
	assert_int_equal(gp_gguf_write(user, data, n), 0);
	free(data);
}

void tiny_write_tensors(struct gp_gguf_writer *w, const struct gp_config *c, uint32_t first,
			uint32_t end)
{
	each_tensor(c, first, end, w, write_one);
}

void tiny_write_gguf(const char *path)
{
	const struct gp_config c = tiny_config();
	const char *tokens[128], *const text = "placeholder";
	struct gp_gguf_writer *w;
	size_t bytes[128];
	float scores[128];

	for (size_t i = 0; i < c.vocab; i++) {
		tokens[i] = text;
		bytes[i] = i % 11;
		scores[i] = -(float)i;
	}
	assert_int_equal(gp_gguf_writer_create(&w, path), 0);
	assert_int_equal(gp_gguf_add_config(w, &c, "tiny"), 0);
	assert_int_equal(gp_gguf_add_u32(w, "tokenizer.ggml.bos_token_id", 2), 0);
	assert_int_equal(gp_gguf_add_u32(w, "tokenizer.ggml.eos_token_id", 1), 0);
	assert_int_equal(gp_gguf_add_bool(w, "tokenizer.ggml.add_bos_token", true), 0);
	assert_int_equal(gp_gguf_add_string_array(w, "tokenizer.ggml.tokens", tokens, bytes, 128), 0);
	assert_int_equal(gp_gguf_add_f32_array(w, "tokenizer.ggml.scores", scores, 128), 0);
	tiny_add_tensors(w, &c, 0, c.n_layers);
	tiny_write_tensors(w, &c, 0, c.n_layers);
	assert_int_equal(gp_gguf_writer_finish(w), 0);
	gp_gguf_writer_destroy(w);
}

struct header {
	json_t *object;
	const char *prefix;
	size_t at;
};

static void describe_one(void *user, enum gp_tensor_id id, uint32_t layer, uint64_t rows,
			 uint64_t cols)
{
	struct header *h = user;
	size_t end = h->at + (rows ? rows : 1) * cols * 2;
	json_t *dims = rows ? json_pack("[ii]", (int)rows, (int)cols) : json_pack("[i]", (int)cols);
	char name[96];

	gp_safetensors_tensor_name(name, h->prefix, id, layer);
	assert_int_equal(json_object_set_new(h->object, name,
			 json_pack("{s:s, s:o, s:[II]}", "dtype", "BF16", "shape", dims,
				   "data_offsets", (json_int_t)h->at, (json_int_t)end)), 0);
	h->at = end;
}

static void write_config_json(const char *folder)
{
	static const char text[] =
		"{\"model_type\": \"gemma3_text\", \"num_hidden_layers\": 2, \"hidden_size\": 64,\n"
		"\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 16,\n"
		"\"intermediate_size\": 96, \"vocab_size\": 128, \"sliding_window\": 8,\n"
		"\"sliding_window_pattern\": 2, \"query_pre_attn_scalar\": 25,\n"
		"\"max_position_embeddings\": 256,\n"
		"\"rope_scaling\": {\"factor\": 8.0, \"rope_type\": \"linear\"}}\n";
	char *path = tiny_path(folder, "config.json");

	tiny_store(path, text, strlen(text));
	free(path);
}

void tiny_write_safetensors(const char *folder, const char *prefix)
{
	const struct gp_config c = tiny_config();
	struct header h = { json_object(), prefix, 0 };
	char *text, *path = tiny_path(folder, "model.safetensors");
	uint8_t *file;
	uint64_t n;

	each_tensor(&c, 0, c.n_layers, &h, describe_one);
	text = json_dumps(h.object, JSON_COMPACT);
	assert_non_null(text);
	n = strlen(text);
	file = calloc(1, sizeof n + n + h.at);
	assert_non_null(file);
	memcpy(file, &n, sizeof n);
	memcpy(file + sizeof n, text, n);
	tiny_store(path, file, sizeof n + n + h.at);
	write_config_json(folder);
	json_decref(h.object);
	free(text);
	free(path);
	free(file);
}

uint8_t *tiny_load(const char *path, size_t *bytes)
{
	FILE *f = fopen(path, "rb");
	uint8_t *data;

	assert_non_null(f);
	assert_int_equal(fseek(f, 0, SEEK_END), 0);
	*bytes = (size_t)ftell(f);
	rewind(f);
	data = malloc(*bytes + 1);
	assert_non_null(data);
	assert_int_equal(fread(data, 1, *bytes, f), *bytes);
	data[*bytes] = '\0';
	fclose(f);
	return data;
}

char *tiny_load_text(const char *path, size_t *bytes)
{
	return (char *)tiny_load(path, bytes);
}

void tiny_store(const char *path, const void *data, size_t bytes)
{
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, bytes, f), bytes);
	assert_int_equal(fclose(f), 0);
}

uint8_t *tiny_find(uint8_t *data, size_t bytes, const char *text)
{
	uint8_t *p = memmem(data, bytes, text, strlen(text));

	assert_non_null(p);
	return p;
}

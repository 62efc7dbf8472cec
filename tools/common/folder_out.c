#include "tools/common/folder_out.h"

#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "tools/common/on_signal.h"

/* Hugging Face's. */
#define MOST_SHARD_BYTES 5000000000u

struct out_tensor {
	char name[96];
	uint64_t rows, cols;
	size_t begin, end;          /* in the data of its shard */
	uint32_t shard;
};

struct folder_out {
	char *path, *part;
	struct out_tensor *tensors;
	size_t n, room;
	uint32_t shards;
	size_t at;                  /* the tensor that is written, bytes it has: */
	size_t in_tensor;
	FILE *file;                 /* the shard of tensor at; NULL before the first */
	bool whole;
};

/* ---- files of the folder ------------------------------------------------------------- */
static void shard_name(const struct folder_out *f, uint32_t shard, char name[64])
{
	snprintf(name, 64, "model-%05u-of-%05u.safetensors", shard + 1, f->shards);
}

static int file_path(const struct folder_out *f, const char *name, char path[PATH_MAX])
{
	return snprintf(path, PATH_MAX, "%s/%s", f->part, name) < PATH_MAX ? 0 :
	       gp_fail(ENAMETOOLONG, "%s: the path is too long", f->path);
}

static int failed(const struct folder_out *f, const char *name)
{
	const int why = errno ? errno : EIO;

	return gp_fail(why, "%s/%s: writing failed: %s", f->part, name, strerror(why));
}

static int close_shard(struct folder_out *f, uint32_t shard)
{
	FILE *file = f->file;
	char name[64];
	bool kept;

	if (!file)
		return 0;
	f->file = NULL;
	shard_name(f, shard, name);
	kept = fflush(file) == 0 && fsync(fileno(file)) == 0;
	if (fclose(file) == 0 && kept)
		return 0;
	return failed(f, name);
}

static int write_json(struct folder_out *f, const char *name, json_t *j)
{
	char path[PATH_MAX];
	FILE *file;
	bool kept;
	int rc = file_path(f, name, path);

	if (!j)
		rc = gp_fail(ENOMEM, "%s: no memory for %s", f->path, name);
	if (rc == 0) {
		cli_unlink_on_signal(path);
		file = fopen(path, "we");
		kept = file && json_dumpf(j, file, JSON_INDENT(1)) == 0 && fflush(file) == 0 &&
		       fsync(fileno(file)) == 0;
		if ((file && fclose(file) != 0) || !kept)
			rc = failed(f, name);
	}
	json_decref(j);
	return rc;
}

int folder_out_create(struct folder_out **out, const char *path)
{
	struct folder_out *f = calloc(1, sizeof *f);
	size_t n = strlen(path);

	*out = f;
	while (n > 1 && path[n - 1] == '/')
		n--;
	if (!f || !(f->path = strndup(path, n)) || asprintf(&f->part, "%s.part", f->path) < 0)
		return gp_fail(ENOMEM, "%s: out of memory", path);
	if (access(f->path, F_OK) == 0)
		return gp_fail(EEXIST, "%s: is there already; remove it or give another name", path);
	if (mkdir(f->part, 0777) < 0 && errno != EEXIST)
		return gp_fail(errno, "%s: can't be made: %s", f->part, strerror(errno));
	cli_unlink_on_signal(f->part);
	return 0;
}

static void remove_part(const struct folder_out *f)
{
	static const char *const others[] = { "model.safetensors.index.json", "config.json",
	                                      "tokenizer.json", "tokenizer_config.json" };
	char path[PATH_MAX], name[64];

	for (uint32_t i = 0; i < f->shards; i++) {
		shard_name(f, i, name);
		if (file_path(f, name, path) == 0)
			unlink(path);
	}
	for (size_t i = 0; i < GP_ARRAY_LEN(others); i++)
		if (file_path(f, others[i], path) == 0)
			unlink(path);
	rmdir(f->part);
}

void folder_out_destroy(struct folder_out *f)
{
	if (!f)
		return;
	if (f->file)
		fclose(f->file);
	if (f->part && !f->whole)
		remove_part(f);
	free(f->tensors);
	free(f->part);
	free(f->path);
	free(f);
}

/* ---- tensors ----------------------------------------------------------------------------- */
int folder_out_add(struct folder_out *f, enum gp_tensor_id id, uint32_t layer, uint64_t rows,
                   uint64_t cols)
{
	struct out_tensor *t;
	size_t bytes, begin = 0;
	int rc = gp_type_bytes(GP_TYPE_BF16, rows ? rows : 1, cols, &bytes);

	if (rc < 0)
		return rc;
	if (f->n == f->room) {
		if (!(t = reallocarray(f->tensors, 2 * f->room + 64, sizeof *t)))
			return gp_fail(ENOMEM, "%s: out of memory", f->path);
		f->tensors = t;
		f->room = 2 * f->room + 64;
	}
	if (f->n && f->tensors[f->n - 1].end + bytes <= MOST_SHARD_BYTES)
		begin = f->tensors[f->n - 1].end;
	else
		f->shards++;
	t = &f->tensors[f->n++];
	*t = (struct out_tensor){ .rows = rows, .cols = cols, .begin = begin, .end = begin + bytes,
	                          .shard = f->shards - 1 };
	gp_safetensors_tensor_name(t->name, "model", id, layer);
	return 0;
}

static json_t *tensor_entry(const struct out_tensor *t)
{
	json_t *shape = t->rows ? json_pack("[I, I]", (json_int_t)t->rows, (json_int_t)t->cols) :
	                json_pack("[I]", (json_int_t)t->cols);

	return json_pack("{s:s, s:o, s:[I, I]}", "dtype", "BF16", "shape", shape, "data_offsets",
	                 (json_int_t)t->begin, (json_int_t)t->end);
}

/* Its length, then JSON, filled up with blanks so that the data is aligned. */
static int put_header(struct folder_out *f, uint32_t shard)
{
	json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
	char *text = NULL;
	uint64_t bytes, padded;
	bool kept;

	for (size_t i = 0; i < f->n; i++)
		if (f->tensors[i].shard == shard)
			json_object_set_new(header, f->tensors[i].name, tensor_entry(&f->tensors[i]));
	text = json_dumps(header, JSON_COMPACT);
	json_decref(header);
	if (!text)
		return gp_fail(ENOMEM, "%s: no memory for the header of a shard", f->path);
	bytes = strlen(text);
	padded = (bytes + 7) / 8 * 8;
	kept = fwrite(&padded, sizeof padded, 1, f->file) == 1 &&
	       fprintf(f->file, "%s%*s", text, (int)(padded - bytes), "") == (int)padded;
	free(text);
	return kept ? 0 : failed(f, "a shard's header");
}

static int open_shard(struct folder_out *f, uint32_t shard)
{
	char name[64], path[PATH_MAX];
	int rc;

	shard_name(f, shard, name);
	if ((rc = file_path(f, name, path)) < 0)
		return rc;
	cli_unlink_on_signal(path);
	f->file = fopen(path, "wbe");
	return f->file ? put_header(f, shard) : failed(f, name);
}

/* To the shard of the tensor in hand. */
static int begin_tensor(struct folder_out *f)
{
	const uint32_t shard = f->tensors[f->at].shard;
	int rc;

	if (f->at && f->tensors[f->at - 1].shard == shard)
		return 0;
	rc = f->at ? close_shard(f, shard - 1) : 0;
	return rc < 0 ? rc : open_shard(f, shard);
}

int folder_out_write(struct folder_out *f, const void *data, size_t bytes)
{
	const uint8_t *p = data;

	while (bytes) {
		const struct out_tensor *t = &f->tensors[f->at];
		size_t n;
		int rc;

		if (f->at == f->n)
			return gp_fail(EINVAL, "%s: more data than the tensors hold", f->path);
		if (!f->in_tensor && (rc = begin_tensor(f)) < 0)
			return rc;
		n = t->end - t->begin - f->in_tensor;
		n = n < bytes ? n : bytes;
		if (fwrite(p, 1, n, f->file) != n)
			return failed(f, "a shard");
		p += n;
		bytes -= n;
		f->in_tensor += n;
		if (f->in_tensor == t->end - t->begin) {
			f->in_tensor = 0;
			f->at++;
		}
	}
	return 0;
}

/* ---- beside them ------------------------------------------------------------------------------ */
static json_t *index_of(const struct folder_out *f)
{
	json_t *map = json_object();
	size_t total = 0;

	for (size_t i = 0; i < f->n; i++) {
		char name[64];

		shard_name(f, f->tensors[i].shard, name);
		json_object_set_new(map, f->tensors[i].name, json_string(name));
		total += f->tensors[i].end - f->tensors[i].begin;
	}
	return json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map",
	                 map);
}

static json_t *config_json(const struct gp_config *c)
{
	const double query_scalar = round(1 / (double)(c->attn_scale * c->attn_scale));
	json_t *j = json_pack("{s:[s], s:s, s:s, s:s, s:b}",
	                      "architectures", "Gemma3ForCausalLM", "model_type", "gemma3_text",
	                      "torch_dtype", "bfloat16", "hidden_activation", "gelu_pytorch_tanh",
	                      "attention_bias", false);
	json_t *scaling = c->rope_scale_global > 1 ?
	                  json_pack("{s:s, s:f}", "rope_type", "linear", "factor",
	                            (double)c->rope_scale_global) : json_null();
	json_t *sizes = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}",
	                          "vocab_size", c->vocab, "hidden_size", c->hidden,
	                          "intermediate_size", c->ffn, "num_hidden_layers", c->n_layers,
	                          "num_attention_heads", c->n_heads, "num_key_value_heads",
	                          c->n_kv_heads, "head_dim", c->head_dim, "max_position_embeddings",
	                          c->context, "sliding_window", c->window, "sliding_window_pattern", 6,
	                          "bos_token_id", c->bos, "eos_token_id", c->eos);
	json_t *numbers = json_pack("{s:f, s:f, s:f, s:f}", "rms_norm_eps", 1e-6,
	                            "query_pre_attn_scalar", query_scalar, "rope_theta",
	                            (double)c->rope_base_global, "rope_local_base_freq",
	                            (double)c->rope_base_local);

	json_object_set_new(j, "rope_scaling", scaling);
	json_object_update(j, sizes);
	json_object_update(j, numbers);
	json_decref(sizes);
	json_decref(numbers);
	return j;
}

static json_t *tokenizer_json(const struct gp_vocab *v)
{
	json_t *pieces = json_object(), *added = json_array();

	for (size_t i = 0; i < v->n; i++) {
		const bool special = v->kind[i] == GP_TOKEN_CONTROL || v->kind[i] == GP_TOKEN_UNKNOWN;

		json_object_set_new(pieces, v->text[i], json_integer((json_int_t)i));
		if (special)
			json_array_append_new(added, json_pack(
				"{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i, "content",
				v->text[i], "single_word", false, "lstrip", false, "rstrip", false,
				"normalized", false, "special", true));
	}
	return json_pack("{s:s, s:o, s:{s:s, s:{s:s}, s:s}, s:{s:s, s:s, s:b, s:b, s:o, s:[]}}",
	                 "version", "1.0", "added_tokens", added,
	                 "normalizer", "type", "Replace", "pattern", "String", " ", "content", "\u2581",
	                 "model", "type", "BPE", "unk_token", "<unk>", "fuse_unk", true,
	                 "byte_fallback", true, "vocab", pieces, "merges");
}

int folder_out_finish(struct folder_out *f, const struct gp_config *c, const struct gp_vocab *v)
{
	int rc = f->n && f->at == f->n ? close_shard(f, f->shards - 1) :
	         gp_fail(EINVAL, "%s: bytes are missing", f->path);

	if (rc < 0 || (rc = write_json(f, "model.safetensors.index.json", index_of(f))) < 0 ||
	    (rc = write_json(f, "config.json", config_json(c))) < 0 ||
	    (rc = write_json(f, "tokenizer.json", tokenizer_json(v))) < 0)
		return rc;
	rc = write_json(f, "tokenizer_config.json", json_pack("{s:s, s:s}", "bos_token",
	                v->text[v->bos], "eos_token", v->text[v->eos]));
	if (rc < 0)
		return rc;
	if (rename(f->part, f->path) < 0)
		return gp_fail(errno, "%s: can't be renamed to %s: %s", f->part, f->path,
		               strerror(errno));
	f->whole = true;
	return 0;
}

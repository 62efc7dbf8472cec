#include "model/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/internal.h"
#include "model/mapped_file.h"

/* The format's own limit of a header, and far more than any model has. */
enum { MAX_HEADER = 100000000, MAX_FILES = 1024, MAX_TENSORS = 65536, MAX_DIMS = 8 };

struct unreadable {
	char *name;
	char type[16];
};

struct gp_safetensors {
	struct gp_mapped_file *files;
	uint32_t n_files;
	struct gp_tensor *tensors;
	size_t n_tensors, tensors_room;
	struct unreadable *others;
	size_t n_others, others_room;
};

static int no_memory(const char *path)
{
	return gp_fail(ENOMEM, "%s: out of memory", path);
}

/* Room for one more of size bytes in a list of n; false: no memory. */
static bool grow(void **list, size_t n, size_t *room, size_t size)
{
	size_t more = n + n / 2 + 64;
	void *p;

	if (n < *room)
		return true;
	p = reallocarray(*list, more, size);
	if (!p)
		return false;
	*list = p;
	*room = more;
	return true;
}

static bool type_by_text(const char *text, enum gp_type *type)
{
	if (strcmp(text, "F32") == 0)
		*type = GP_TYPE_F32;
	else if (strcmp(text, "F16") == 0)
		*type = GP_TYPE_F16;
	else if (strcmp(text, "BF16") == 0)
		*type = GP_TYPE_BF16;
	else
		return false;
	return true;
}

static int bad_tensor(const struct gp_mapped_file *f, const char *name, const char *what)
{
	return gp_fail(EINVAL, "%s: tensor '%.200s': %s; the file is truncated or damaged, fetch it "
		       "again", f->path, name, what);
}

/* Two numbers of data_offsets against the size of the data section. */
static int read_range(const struct gp_mapped_file *f, const char *name, const json_t *entry,
		      uint64_t room, uint64_t *begin, uint64_t *end)
{
	const json_t *o = json_object_get(entry, "data_offsets");
	const json_t *b = json_array_get(o, 0), *e = json_array_get(o, 1);

	if (json_array_size(o) != 2 || !json_is_integer(b) || !json_is_integer(e) ||
	    json_integer_value(b) < 0 || json_integer_value(e) < json_integer_value(b))
		return bad_tensor(f, name, "'data_offsets' is no range");
	*begin = (uint64_t)json_integer_value(b);
	*end = (uint64_t)json_integer_value(e);
	if (*end > room)
		return bad_tensor(f, name, "its data passes the file's end");
	return 0;
}

static int read_shape(const struct gp_mapped_file *f, const char *name, const json_t *entry,
		      struct gp_tensor *t)
{
	const json_t *shape = json_object_get(entry, "shape");
	size_t n = json_array_size(shape), rows = 1, cols = 1;

	if (!json_is_array(shape) || n > MAX_DIMS)
		return bad_tensor(f, name, "'shape' is no list of up to 8 dimensions");
	for (size_t i = 0; i < n; i++) {
		const json_t *d = json_array_get(shape, i);

		if (!json_is_integer(d) || json_integer_value(d) < 0 ||
		    !gp_size_mul(rows, i ? cols : 1, &rows))
			return bad_tensor(f, name, "'shape' holds no sane dimension");
		cols = (size_t)json_integer_value(d);
	}
	t->rows = rows;
	t->cols = cols;
	return 0;
}

static int keep_unreadable(struct gp_safetensors *s, const struct gp_mapped_file *f,
			   const char *name, const char *type)
{
	struct unreadable *u;
	void *list = s->others;

	if (!grow(&list, s->n_others, &s->others_room, sizeof *u))
		return no_memory(f->path);
	s->others = list;
	u = &s->others[s->n_others];
	snprintf(u->type, sizeof u->type, "%s", type);
	u->name = strdup(name);
	if (!u->name)
		return no_memory(f->path);
	s->n_others++;
	return 0;
}

static int keep(struct gp_safetensors *s, const struct gp_mapped_file *f, const char *name,
		struct gp_tensor *t)
{
	void *list = s->tensors;

	if (!grow(&list, s->n_tensors, &s->tensors_room, sizeof *t))
		return no_memory(f->path);
	s->tensors = list;
	t->name = strdup(name);
	if (!t->name)
		return no_memory(f->path);
	s->tensors[s->n_tensors++] = *t;
	return 0;
}

/* data_at: where the data section begins in the file. */
static int read_tensor(struct gp_safetensors *s, uint32_t file, size_t data_at, const char *name,
		       const json_t *entry)
{
	const struct gp_mapped_file *f = &s->files[file];
	const char *type = json_string_value(json_object_get(entry, "dtype"));
	struct gp_tensor t = { .file = file };
	uint64_t begin = 0, end = 0;
	int rc;

	if (!type)
		return bad_tensor(f, name, "has no 'dtype'");
	if ((rc = read_range(f, name, entry, f->bytes - data_at, &begin, &end)) < 0 ||
	    (rc = read_shape(f, name, entry, &t)) < 0)
		return rc;
	if (!type_by_text(type, &t.type))
		return keep_unreadable(s, f, name, type);
	rc = gp_type_bytes(t.type, t.rows, t.cols, &t.bytes);
	if (rc < 0)
		return gp_fail_in(rc, "%s: tensor '%.200s'", f->path, name);
	if (t.bytes != end - begin)
		return bad_tensor(f, name, "its size and its shape disagree");
	t.offset = data_at + begin;
	t.data = f->data + t.offset;
	t.mapped = true;
	t.fd = f->fd;
	return keep(s, f, name, &t);
}

static int read_tensors(struct gp_safetensors *s, uint32_t file, size_t data_at, json_t *header)
{
	const struct gp_mapped_file *f = &s->files[file];
	const char *name;
	json_t *entry;
	int rc;

	if (json_object_size(header) > MAX_TENSORS)
		return gp_fail(EINVAL, "%s: holds %zu tensors, more than any Gemma 3 model", f->path,
			       json_object_size(header));
	json_object_foreach(header, name, entry) {
		if (strcmp(name, "__metadata__") == 0)
			continue;
		rc = read_tensor(s, file, data_at, name, entry);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int read_header(struct gp_safetensors *s, uint32_t file)
{
	const struct gp_mapped_file *f = &s->files[file];
	uint64_t n = 0;
	json_error_t e;
	json_t *header;
	int rc = 0;

	if (f->bytes >= sizeof n)
		memcpy(&n, f->data, sizeof n);
	if (n < 2 || n > MAX_HEADER || n > f->bytes - sizeof n)
		return gp_fail(EINVAL, "%s: is no safetensors file, or is truncated; fetch it again",
			       f->path);
	header = json_loadb((const char *)f->data + sizeof n, (size_t)n, JSON_REJECT_DUPLICATES, &e);
	if (json_is_object(header))
		rc = read_tensors(s, file, sizeof n + (size_t)n, header);
	else
		rc = gp_fail(EINVAL, "%s: its header is no JSON object (%s); the file is damaged",
			     f->path, header ? "another kind" : e.text);
	json_decref(header);
	return rc;
}

static int add_file(struct gp_safetensors *s, const char *folder, const char *name)
{
	char *path;
	int rc;

	if (asprintf(&path, "%s/%s", folder, name) < 0)
		return no_memory(folder);
	rc = gp_mapped_file_open(&s->files[s->n_files], path);
	free(path);
	if (rc < 0)
		return rc;
	return read_header(s, s->n_files++);
}

static bool has_file(const struct gp_safetensors *s, const char *name)
{
	for (uint32_t i = 0; i < s->n_files; i++)
		if (strcmp(strrchr(s->files[i].path, '/') + 1, name) == 0)
			return true;
	return false;
}

/* A shard stands beside its index: a name that leads elsewhere is refused. */
static int check_file_name(const char *folder, const char *tensor, const char *name)
{
	if (name && name[0] && !strchr(name, '/'))
		return 0;
	return gp_fail(EINVAL, "%s: model.safetensors.index.json names no file of the folder for "
		       "tensor '%.200s'", folder, tensor);
}

static int open_shards(struct gp_safetensors *s, const char *folder, const json_t *index)
{
	json_t *map = json_object_get(index, "weight_map"), *v;
	const char *tensor;
	int rc;

	if (!json_is_object(map) || json_object_size(map) == 0)
		return gp_fail(EINVAL, "%s: model.safetensors.index.json has no 'weight_map'", folder);
	json_object_foreach(map, tensor, v) {
		const char *name = json_string_value(v);

		if ((rc = check_file_name(folder, tensor, name)) < 0)
			return rc;
		if (has_file(s, name))
			continue;
		if (s->n_files == MAX_FILES)
			return gp_fail(EINVAL, "%s: the model has more than %d files", folder,
				       MAX_FILES);
		if ((rc = add_file(s, folder, name)) < 0)
			return rc;
	}
	return 0;
}

static int open_files(struct gp_safetensors *s, const char *folder)
{
	json_t *index = NULL;
	int rc = gp_json_load(&index, folder, "model.safetensors.index.json");

	if (rc >= 0) {
		rc = open_shards(s, folder, index);
		json_decref(index);
		return rc;
	}
	if (rc != -ENOENT)
		return rc;
	rc = add_file(s, folder, "model.safetensors");
	if (rc == -ENOENT)
		return gp_fail(ENOENT, "%s: has neither model.safetensors nor "
			       "model.safetensors.index.json; give a Hugging Face model folder or "
			       "a .gguf file", folder);
	return rc;
}

int gp_safetensors_open(struct gp_safetensors **out, const char *folder)
{
	struct gp_safetensors *s = calloc(1, sizeof *s);
	int rc = -ENOMEM;

	*out = NULL;
	if (s)
		s->files = calloc(MAX_FILES, sizeof *s->files);
	rc = s && s->files ? open_files(s, folder) : no_memory(folder);
	if (rc < 0) {
		gp_safetensors_close(s);
		return rc;
	}
	*out = s;
	return 0;
}

void gp_safetensors_close(struct gp_safetensors *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n_tensors; i++)
		free((char *)(uintptr_t)s->tensors[i].name);
	for (size_t i = 0; i < s->n_others; i++)
		free(s->others[i].name);
	for (uint32_t i = 0; i < s->n_files; i++)
		gp_mapped_file_close(&s->files[i]);
	free(s->tensors);
	free(s->others);
	free(s->files);
	free(s);
}

size_t gp_safetensors_tensors(const struct gp_safetensors *s, const struct gp_tensor **list)
{
	*list = s->tensors;
	return s->n_tensors;
}

const char *gp_safetensors_unreadable(const struct gp_safetensors *s, const char *name)
{
	for (size_t i = 0; i < s->n_others; i++)
		if (strcmp(s->others[i].name, name) == 0)
			return s->others[i].type;
	return NULL;
}

const char *gp_safetensors_path(const struct gp_safetensors *s, uint32_t file)
{
	return s->files[file].path;
}

void gp_safetensors_tensor_name(char name[96], const char *prefix, enum gp_tensor_id id,
				uint32_t layer)
{
	static const char *const text[GP_T_COUNT] = {
		[GP_T_TOKEN_EMBD] = "embed_tokens", [GP_T_OUTPUT_NORM] = "norm",
		[GP_T_ATTN_NORM] = "input_layernorm", [GP_T_ATTN_Q] = "self_attn.q_proj",
		[GP_T_ATTN_K] = "self_attn.k_proj", [GP_T_ATTN_V] = "self_attn.v_proj",
		[GP_T_ATTN_OUT] = "self_attn.o_proj", [GP_T_ATTN_Q_NORM] = "self_attn.q_norm",
		[GP_T_ATTN_K_NORM] = "self_attn.k_norm",
		[GP_T_POST_ATTN_NORM] = "post_attention_layernorm",
		[GP_T_FFN_NORM] = "pre_feedforward_layernorm",
		[GP_T_FFN_GATE] = "mlp.gate_proj", [GP_T_FFN_UP] = "mlp.up_proj",
		[GP_T_FFN_DOWN] = "mlp.down_proj",
		[GP_T_POST_FFN_NORM] = "post_feedforward_layernorm",
	};

	if (id < GP_T_PER_LAYER)
		snprintf(name, 96, "%s.%s.weight", prefix, text[id]);
	else
		snprintf(name, 96, "%s.layers.%u.%s.weight", prefix, layer, text[id]);
}

/* Parses a GGUF header. The one way to move through the file is take(), which
 * checks against the bytes that are left. */
#include "model/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/gguf_internal.h"

/* Far above any real file; they keep a hostile count from costing memory. */
enum { MAX_VALUES = 65536, MAX_TENSORS = 65536, MAX_NAME = 65535, MAX_NESTING = 4 };
#define MAX_ITEMS (UINT64_C(1) << 27)

static const uint8_t kind_bytes[GP_GGUF_KINDS] = {
	[GP_GGUF_U8] = 1, [GP_GGUF_I8] = 1, [GP_GGUF_U16] = 2, [GP_GGUF_I16] = 2,
	[GP_GGUF_U32] = 4, [GP_GGUF_I32] = 4, [GP_GGUF_F32] = 4, [GP_GGUF_BOOL] = 1,
	[GP_GGUF_U64] = 8, [GP_GGUF_I64] = 8, [GP_GGUF_F64] = 8,
};

static int truncated(const struct gp_gguf *g, const char *what)
{
	return gp_fail(EINVAL, "%s: the file ends inside %s; it is truncated or damaged, "
		       "fetch it again", g->file.path, what);
}

/* NULL: fewer than n bytes are left. */
static const uint8_t *take(struct gp_gguf *g, uint64_t n)
{
	const uint8_t *p = g->file.data + g->at;

	if (n > g->file.bytes - g->at)
		return NULL;
	g->at += (size_t)n;
	return p;
}

static int take_u32(struct gp_gguf *g, uint32_t *v, const char *what)
{
	const uint8_t *p = take(g, sizeof *v);

	if (!p)
		return truncated(g, what);
	memcpy(v, p, sizeof *v);
	return 0;
}

static int take_u64(struct gp_gguf *g, uint64_t *v, const char *what)
{
	const uint8_t *p = take(g, sizeof *v);

	if (!p)
		return truncated(g, what);
	memcpy(v, p, sizeof *v);
	return 0;
}

/* A key or a tensor's name, as a copy that ends with NUL. */
static int take_name(struct gp_gguf *g, char **name, const char *what)
{
	const uint8_t *p;
	uint64_t n = 0;
	int rc = take_u64(g, &n, what);

	if (rc < 0)
		return rc;
	if (n > MAX_NAME)
		return gp_fail(EINVAL, "%s: %s of %llu bytes (at most %d); the file is damaged",
			       g->file.path, what, (unsigned long long)n, MAX_NAME);
	p = take(g, n);
	if (!p)
		return truncated(g, what);
	if (n == 0 || memchr(p, 0, (size_t)n))
		return gp_fail(EINVAL, "%s: %s is empty or holds a NUL byte; the file is damaged",
			       g->file.path, what);
	*name = strndup((const char *)p, (size_t)n);
	return *name ? 0 : gp_fail(ENOMEM, "%s: out of memory", g->file.path);
}

static int skip_string(struct gp_gguf *g, const char *key)
{
	uint64_t n = 0;
	int rc = take_u64(g, &n, key);

	if (rc < 0)
		return rc;
	return take(g, n) ? 0 : truncated(g, key);
}

static int take_array_head(struct gp_gguf *g, const char *key, enum gp_gguf_kind *item,
			   uint64_t *n)
{
	uint32_t kind = 0;
	uint64_t smallest;
	int rc = take_u32(g, &kind, key);

	if (rc < 0 || (rc = take_u64(g, n, key)) < 0)
		return rc;
	if (kind >= GP_GGUF_KINDS)
		return gp_fail(EINVAL, "%s: key '%s' is an array of unknown kind %u; the file is "
			       "damaged or newer than gempipe", g->file.path, key, kind);
	*item = (enum gp_gguf_kind)kind;
	smallest = kind == GP_GGUF_ARRAY ? 12 : kind == GP_GGUF_STRING ? 8 : kind_bytes[kind];
	if (*n > MAX_ITEMS || *n > (g->file.bytes - g->at) / smallest)
		return gp_fail(EINVAL, "%s: key '%s' claims %llu items, more than the file holds; "
			       "it is truncated or damaged", g->file.path, key,
			       (unsigned long long)*n);
	return 0;
}

static int take_string_array(struct gp_gguf *g, struct gp_gguf_value *v)
{
	int rc = 0;

	v->string_at = malloc((size_t)(v->n ? v->n : 1) * sizeof *v->string_at);
	if (!v->string_at)
		return gp_fail(ENOMEM, "%s: out of memory for key '%s'", g->file.path, v->key);
	for (uint64_t i = 0; i < v->n && rc >= 0; i++) {
		v->string_at[i] = g->at;
		rc = skip_string(g, v->key);
	}
	return rc;
}

/* Arrays in arrays are checked and stepped over: no key of Gemma 3 has one. */
static int skip_nested(struct gp_gguf *g, const char *key, uint64_t n, unsigned depth)
{
	enum gp_gguf_kind item;
	uint64_t m = 0;
	int rc = 0;

	if (depth > MAX_NESTING)
		return gp_fail(EINVAL, "%s: key '%s' nests arrays more than %d deep; the file is "
			       "damaged", g->file.path, key, MAX_NESTING);
	for (uint64_t i = 0; i < n && rc >= 0; i++) {
		rc = take_array_head(g, key, &item, &m);
		if (rc < 0)
			return rc;
		if (item == GP_GGUF_ARRAY)
			rc = skip_nested(g, key, m, depth + 1);
		else if (item != GP_GGUF_STRING)
			take(g, m * kind_bytes[item]);
		else
			for (uint64_t k = 0; k < m && rc >= 0; k++)
				rc = skip_string(g, key);
	}
	return rc;
}

static int take_array(struct gp_gguf *g, struct gp_gguf_value *v)
{
	int rc = take_array_head(g, v->key, &v->item, &v->n);

	if (rc < 0)
		return rc;
	v->data = g->file.data + g->at;
	if (v->item == GP_GGUF_STRING)
		return take_string_array(g, v);
	if (v->item == GP_GGUF_ARRAY)
		return skip_nested(g, v->key, v->n, 1);
	take(g, v->n * kind_bytes[v->item]); /* the head's check covers it */
	return 0;
}

static int take_value(struct gp_gguf *g, struct gp_gguf_value *v)
{
	uint32_t kind = 0;
	int rc = take_name(g, &v->key, "a key");

	if (rc < 0 || (rc = take_u32(g, &kind, v->key)) < 0)
		return rc;
	if (kind >= GP_GGUF_KINDS)
		return gp_fail(EINVAL, "%s: key '%s' has unknown kind %u; the file is damaged or "
			       "newer than gempipe", g->file.path, v->key, kind);
	v->kind = (enum gp_gguf_kind)kind;
	v->n = 1;
	if (kind == GP_GGUF_ARRAY)
		return take_array(g, v);
	if (kind == GP_GGUF_STRING && (rc = take_u64(g, &v->n, v->key)) < 0)
		return rc;
	v->data = take(g, kind == GP_GGUF_STRING ? v->n : kind_bytes[kind]);
	return v->data ? 0 : truncated(g, v->key);
}

static int by_key(const void *a, const void *b)
{
	return strcmp(((const struct gp_gguf_value *)a)->key,
		      ((const struct gp_gguf_value *)b)->key);
}

static int take_values(struct gp_gguf *g, uint64_t n)
{
	int rc = 0;

	g->values = calloc((size_t)n + 1, sizeof *g->values);
	if (!g->values)
		return gp_fail(ENOMEM, "%s: out of memory", g->file.path);
	while (g->n_values < n && rc >= 0)
		rc = take_value(g, &g->values[g->n_values++]);
	if (rc < 0)
		return rc;
	qsort(g->values, g->n_values, sizeof *g->values, by_key);
	for (size_t i = 1; i < g->n_values; i++)
		if (by_key(&g->values[i - 1], &g->values[i]) == 0)
			return gp_fail(EINVAL, "%s: key '%s' is there twice; the file is damaged",
				       g->file.path, g->values[i].key);
	return 0;
}

static int take_dims(struct gp_gguf *g, struct gp_gguf_tensor *t)
{
	int rc = take_u32(g, &t->n_dims, t->name);

	if (rc < 0)
		return rc;
	if (t->n_dims < 1 || t->n_dims > 4)
		return gp_fail(EINVAL, "%s: tensor '%s' has %u dimensions (1 to 4 are legal); the "
			       "file is damaged", g->file.path, t->name, t->n_dims);
	for (uint32_t i = 0; i < 4; i++)
		t->dims[i] = 1;
	for (uint32_t i = 0; i < t->n_dims; i++) {
		if ((rc = take_u64(g, &t->dims[i], t->name)) < 0)
			return rc;
		if (t->dims[i] == 0)
			return gp_fail(EINVAL, "%s: tensor '%s': dimension %u is 0; the file is "
				       "damaged", g->file.path, t->name, i);
	}
	return 0;
}

static int check_type(const struct gp_gguf *g, struct gp_gguf_tensor *t, uint32_t type)
{
	size_t rows = (size_t)t->dims[1];
	int rc;

	if (!gp_type_info(type))
		return gp_fail(EINVAL, "%s: tensor '%s' has type %u (%s), which gempipe can't "
			       "read; use a Q4_0, Q4_K, Q5_K, Q6_K, Q8_0 or BF16 file",
			       g->file.path, t->name, type, gp_gguf_type_text(type));
	t->type = (enum gp_type)type;
	if (!gp_size_mul(rows, (size_t)t->dims[2], &rows) ||
	    !gp_size_mul(rows, (size_t)t->dims[3], &rows))
		return gp_fail(EINVAL, "%s: tensor '%s': its dimensions are too large; the file is "
			       "damaged", g->file.path, t->name);
	rc = gp_type_bytes(t->type, rows, t->dims[0], &t->bytes);
	return rc < 0 ? gp_fail_in(rc, "%s: tensor '%s'", g->file.path, t->name) : 0;
}

static int take_tensor(struct gp_gguf *g, struct gp_gguf_tensor *t)
{
	uint32_t type = 0;
	int rc = take_name(g, &t->name, "a tensor's name");

	if (rc < 0 || (rc = take_dims(g, t)) < 0 || (rc = take_u32(g, &type, t->name)) < 0 ||
	    (rc = take_u64(g, &t->offset, t->name)) < 0)
		return rc;
	return check_type(g, t, type);
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(const struct gp_gguf_tensor *const *)a)->name,
		      (*(const struct gp_gguf_tensor *const *)b)->name);
}

static int check_names(const struct gp_gguf *g)
{
	const struct gp_gguf_tensor **order = calloc(g->n_tensors + 1, sizeof *order);
	int rc = 0;

	if (!order)
		return gp_fail(ENOMEM, "%s: out of memory", g->file.path);
	for (size_t i = 0; i < g->n_tensors; i++)
		order[i] = &g->tensors[i];
	qsort(order, g->n_tensors, sizeof *order, by_name);
	for (size_t i = 1; i < g->n_tensors && rc >= 0; i++)
		if (by_name(&order[i - 1], &order[i]) == 0)
			rc = gp_fail(EINVAL, "%s: tensor '%s' is there twice; the file is damaged",
				     g->file.path, order[i]->name);
	free(order);
	return rc;
}

static int take_tensors(struct gp_gguf *g, uint64_t n)
{
	int rc = 0;

	g->tensors = calloc((size_t)n + 1, sizeof *g->tensors);
	if (!g->tensors)
		return gp_fail(ENOMEM, "%s: out of memory", g->file.path);
	while (g->n_tensors < n && rc >= 0)
		rc = take_tensor(g, &g->tensors[g->n_tensors++]);
	return rc < 0 ? rc : check_names(g);
}

/* Offsets in the header count from the data section: make them the file's. */
static int place_tensors(struct gp_gguf *g, size_t alignment)
{
	size_t start, room;

	if (g->n_tensors == 0)
		return 0;
	if (!gp_size_round_up(g->at, alignment, &start) || start > g->file.bytes)
		return truncated(g, "the header's padding");
	room = g->file.bytes - start;
	for (size_t i = 0; i < g->n_tensors; i++) {
		struct gp_gguf_tensor *t = &g->tensors[i];

		if (t->offset % alignment != 0)
			return gp_fail(EINVAL, "%s: tensor '%s': offset %llu is no multiple of the "
				       "alignment %zu; the file is damaged", g->file.path, t->name,
				       (unsigned long long)t->offset, alignment);
		if (t->offset > room || t->bytes > room - t->offset)
			return gp_fail(EINVAL, "%s: tensor '%s' (%zu bytes at %llu of the data) "
				       "passes the file's end; it is truncated or damaged, fetch it "
				       "again", g->file.path, t->name, t->bytes,
				       (unsigned long long)t->offset);
		t->offset += start;
		t->data = g->file.data + t->offset;
	}
	return 0;
}

static int read_alignment(const struct gp_gguf *g, size_t *alignment)
{
	uint32_t a = 32;
	int rc = gp_gguf_get_u32(g, "general.alignment", &a);

	if (rc < 0)
		return rc;
	if (a == 0 || (a & (a - 1)) != 0)
		return gp_fail(EINVAL, "%s: general.alignment is %u, no power of two; the file is "
			       "damaged", g->file.path, a);
	*alignment = a;
	return 0;
}

static int check_version(struct gp_gguf *g)
{
	const uint8_t *magic = take(g, 4);
	int rc;

	if (!magic || memcmp(magic, "GGUF", 4) != 0)
		return gp_fail(EINVAL, "%s: is no GGUF file (it does not begin with 'GGUF'); give a "
			       ".gguf file or a folder with safetensors", g->file.path);
	if ((rc = take_u32(g, &g->version, "the version")) < 0)
		return rc;
	if (g->version == 2 || g->version == 3)
		return 0;
	if (g->version != 0 && (g->version & 0xffff) == 0)
		return gp_fail(EINVAL, "%s: is a big-endian GGUF file; use the little-endian one",
			       g->file.path);
	return gp_fail(EINVAL, "%s: GGUF version %u; gempipe reads 2 and 3, convert it again",
		       g->file.path, g->version);
}

static int parse(struct gp_gguf *g)
{
	uint64_t n_tensors = 0, n_values = 0;
	size_t alignment = 32;
	int rc = check_version(g);

	if (rc < 0 || (rc = take_u64(g, &n_tensors, "the header")) < 0 ||
	    (rc = take_u64(g, &n_values, "the header")) < 0)
		return rc;
	if (n_tensors > MAX_TENSORS || n_values > MAX_VALUES)
		return gp_fail(EINVAL, "%s: claims %llu tensors and %llu keys; the file is damaged",
			       g->file.path, (unsigned long long)n_tensors,
			       (unsigned long long)n_values);
	if ((rc = take_values(g, n_values)) < 0 || (rc = read_alignment(g, &alignment)) < 0 ||
	    (rc = take_tensors(g, n_tensors)) < 0)
		return rc;
	return place_tensors(g, alignment);
}

int gp_gguf_open_part(struct gp_gguf **out, const char *path)
{
	struct gp_gguf *g = calloc(1, sizeof *g);
	int rc;

	*out = NULL;
	if (!g)
		return gp_fail(ENOMEM, "%s: out of memory", path);
	rc = gp_mapped_file_open(&g->file, path);
	if (rc >= 0)
		rc = parse(g);
	if (rc < 0) {
		gp_gguf_close(g);
		return rc;
	}
	*out = g;
	return 0;
}

int gp_gguf_open(struct gp_gguf **g, const char *path)
{
	uint32_t part = 0;
	int rc = gp_gguf_open_part(g, path);

	if (rc < 0)
		return rc;
	rc = gp_gguf_get_u32(*g, "split.no", &part);
	if (rc >= 0 && part == 0)
		return 0;
	if (rc >= 0)
		rc = gp_fail(EINVAL, "%s: is part %u of a split file; give the first one "
			     "(-00001-of-...)", path, part + 1);
	gp_gguf_close(*g);
	*g = NULL;
	return rc;
}

void gp_gguf_close(struct gp_gguf *g)
{
	if (!g)
		return;
	for (size_t i = 0; i < g->n_values; i++) {
		free(g->values[i].key);
		free(g->values[i].string_at);
	}
	for (size_t i = 0; i < g->n_tensors; i++)
		free(g->tensors[i].name);
	free(g->values);
	free(g->tensors);
	gp_mapped_file_close(&g->file);
	free(g);
}

/* Access to what a parsed GGUF header holds. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/gguf_internal.h"

const char *gp_gguf_path(const struct gp_gguf *g)
{
	return g->file.path;
}

uint32_t gp_gguf_version(const struct gp_gguf *g)
{
	return g->version;
}

int gp_gguf_fd(const struct gp_gguf *g)
{
	return g->file.fd;
}

uint64_t gp_gguf_file_bytes(const struct gp_gguf *g)
{
	return g->file.bytes;
}

size_t gp_gguf_tensors(const struct gp_gguf *g, const struct gp_gguf_tensor **list)
{
	*list = g->tensors;
	return g->n_tensors;
}

size_t gp_gguf_values(const struct gp_gguf *g, const struct gp_gguf_value **list)
{
	*list = g->values;
	return g->n_values;
}

const char *gp_gguf_type_text(uint32_t type)
{
	static const char *const name[] = {
		[4] = "Q4_2", [5] = "Q4_3", [9] = "Q8_1", [10] = "Q2_K", [15] = "Q8_K",
		[16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S",
		[21] = "IQ3_S", [22] = "IQ2_S", [24] = "I8", [25] = "I16", [26] = "I32",
		[27] = "I64", [28] = "F64", [29] = "IQ1_M", [34] = "TQ1_0", [35] = "TQ2_0",
		[39] = "MXFP4",
	};
	const struct gp_type_info *info = gp_type_info(type);

	if (info)
		return info->name;
	return type < GP_ARRAY_LEN(name) && name[type] ? name[type] : "unknown";
}

static int compare_key(const void *key, const void *v)
{
	return strcmp(key, ((const struct gp_gguf_value *)v)->key);
}

const struct gp_gguf_value *gp_gguf_find(const struct gp_gguf *g, const char *key)
{
	if (g->n_values == 0)
		return NULL;
	return bsearch(key, g->values, g->n_values, sizeof *g->values, compare_key);
}

static int64_t load_signed(const uint8_t *p, size_t bytes)
{
	uint64_t v = 0;

	memcpy(&v, p, bytes);
	if (bytes < 8 && (v >> (bytes * 8 - 1)) & 1)
		v |= ~UINT64_C(0) << (bytes * 8);
	return (int64_t)v;
}

static uint64_t load_unsigned(const uint8_t *p, size_t bytes)
{
	uint64_t v = 0;

	memcpy(&v, p, bytes);
	return v;
}

/* false: no integer, or outside uint32_t. */
static bool as_u32(const struct gp_gguf_value *v, uint32_t *out)
{
	int64_t s = -1;

	switch (v->kind) {
	case GP_GGUF_U8: s = (int64_t)load_unsigned(v->data, 1); break;
	case GP_GGUF_U16: s = (int64_t)load_unsigned(v->data, 2); break;
	case GP_GGUF_U32: s = (int64_t)load_unsigned(v->data, 4); break;
	case GP_GGUF_I8: s = load_signed(v->data, 1); break;
	case GP_GGUF_I16: s = load_signed(v->data, 2); break;
	case GP_GGUF_I32: s = load_signed(v->data, 4); break;
	/* A U64 above INT64_MAX reads as negative and is refused below. */
	case GP_GGUF_U64:
	case GP_GGUF_I64: s = load_signed(v->data, 8); break;
	default: return false;
	}
	if (s < 0 || s > UINT32_MAX)
		return false;
	*out = (uint32_t)s;
	return true;
}

static int wrong_kind(const struct gp_gguf *g, const char *key, const char *expected)
{
	return gp_fail(EINVAL, "%s: key '%s' is no %s; the file is damaged or not a Gemma 3 file",
		       g->file.path, key, expected);
}

int gp_gguf_get_u32(const struct gp_gguf *g, const char *key, uint32_t *out)
{
	const struct gp_gguf_value *v = gp_gguf_find(g, key);

	if (!v)
		return 0;
	return as_u32(v, out) ? 1 : wrong_kind(g, key, "integer from 0 to 4294967295");
}

int gp_gguf_get_f32(const struct gp_gguf *g, const char *key, float *out)
{
	const struct gp_gguf_value *v = gp_gguf_find(g, key);
	double d;

	if (!v)
		return 0;
	if (v->kind == GP_GGUF_F32) {
		memcpy(out, v->data, sizeof *out);
		return 1;
	}
	if (v->kind != GP_GGUF_F64)
		return wrong_kind(g, key, "floating-point number");
	memcpy(&d, v->data, sizeof d);
	*out = (float)d;
	return 1;
}

int gp_gguf_get_bool(const struct gp_gguf *g, const char *key, bool *out)
{
	const struct gp_gguf_value *v = gp_gguf_find(g, key);

	if (!v)
		return 0;
	if (v->kind != GP_GGUF_BOOL || v->data[0] > 1)
		return wrong_kind(g, key, "boolean");
	*out = v->data[0] == 1;
	return 1;
}

int gp_gguf_get_string(const struct gp_gguf *g, const char *key, const char **s, size_t *bytes)
{
	const struct gp_gguf_value *v = gp_gguf_find(g, key);

	if (!v)
		return 0;
	if (v->kind != GP_GGUF_STRING)
		return wrong_kind(g, key, "string");
	*s = (const char *)v->data;
	*bytes = (size_t)v->n;
	return 1;
}

int gp_gguf_get_array(const struct gp_gguf *g, const char *key, enum gp_gguf_kind item,
		      const struct gp_gguf_value **out)
{
	static const char *const text[GP_GGUF_KINDS] = {
		[GP_GGUF_U8] = "array of u8", [GP_GGUF_I8] = "array of i8",
		[GP_GGUF_U16] = "array of u16", [GP_GGUF_I16] = "array of i16",
		[GP_GGUF_U32] = "array of u32", [GP_GGUF_I32] = "array of i32",
		[GP_GGUF_F32] = "array of f32", [GP_GGUF_BOOL] = "array of booleans",
		[GP_GGUF_STRING] = "array of strings", [GP_GGUF_ARRAY] = "array of arrays",
		[GP_GGUF_U64] = "array of u64", [GP_GGUF_I64] = "array of i64",
		[GP_GGUF_F64] = "array of f64",
	};
	const struct gp_gguf_value *v = gp_gguf_find(g, key);

	if (!v)
		return 0;
	if (v->kind != GP_GGUF_ARRAY || v->item != item)
		return wrong_kind(g, key, text[item]);
	*out = v;
	return 1;
}

void gp_gguf_string_at(const struct gp_gguf *g, const struct gp_gguf_value *v, uint64_t i,
		       const char **s, size_t *bytes)
{
	const uint8_t *p = g->file.data + v->string_at[i];

	*bytes = (size_t)load_unsigned(p, 8);
	*s = (const char *)p + 8;
}

float gp_gguf_f32_at(const struct gp_gguf_value *v, uint64_t i)
{
	float f;

	memcpy(&f, v->data + i * sizeof f, sizeof f);
	return f;
}

int32_t gp_gguf_i32_at(const struct gp_gguf_value *v, uint64_t i)
{
	int32_t n;

	memcpy(&n, v->data + i * sizeof n, sizeof n);
	return n;
}

/* A model's metadata as text, for people. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/internal.h"

enum { MAX_TEXT = 160, MAX_DEPTH = 8 };

/* At most MAX_TEXT bytes in quotes, control characters as dots. */
static void quote(char out[MAX_TEXT + 8], const char *s, size_t n)
{
	size_t shown = n < MAX_TEXT ? n : MAX_TEXT;
	char *p = out;

	*p++ = '"';
	for (size_t i = 0; i < shown; i++)
		*p++ = (unsigned char)s[i] < ' ' || s[i] == 0x7f ? '.' : s[i];
	*p++ = '"';
	strcpy(p, shown < n ? "..." : "");
}

static void scalar_text(char *out, size_t room, enum gp_gguf_kind kind, const uint8_t *p)
{
	uint64_t u = 0;
	double d;
	float f;

	switch (kind) {
	case GP_GGUF_U8: snprintf(out, room, "%u", *p); break;
	case GP_GGUF_I8: snprintf(out, room, "%d", (int8_t)*p); break;
	case GP_GGUF_BOOL: snprintf(out, room, "%s", *p ? "true" : "false"); break;
	case GP_GGUF_U16: memcpy(&u, p, 2); snprintf(out, room, "%" PRIu64, u); break;
	case GP_GGUF_I16: memcpy(&u, p, 2); snprintf(out, room, "%d", (int16_t)u); break;
	case GP_GGUF_U32: memcpy(&u, p, 4); snprintf(out, room, "%" PRIu64, u); break;
	case GP_GGUF_I32: memcpy(&u, p, 4); snprintf(out, room, "%d", (int32_t)u); break;
	case GP_GGUF_U64: memcpy(&u, p, 8); snprintf(out, room, "%" PRIu64, u); break;
	case GP_GGUF_I64: memcpy(&u, p, 8); snprintf(out, room, "%" PRId64, (int64_t)u); break;
	case GP_GGUF_F32: memcpy(&f, p, 4); snprintf(out, room, "%g", (double)f); break;
	case GP_GGUF_F64: memcpy(&d, p, 8); snprintf(out, room, "%g", d); break;
	default: snprintf(out, room, "?");
	}
}

static void array_text(char *out, size_t room, const struct gp_gguf_value *v)
{
	static const char *const name[GP_GGUF_KINDS] = {
		"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array",
		"u64", "i64", "f64",
	};

	snprintf(out, room, "[%" PRIu64 " x %s]", v->n, name[v->item]);
}

void gp_gguf_each_value(const struct gp_gguf *g,
			void (*line)(void *user, const char *key, const char *value), void *user)
{
	const struct gp_gguf_value *v;
	size_t n = gp_gguf_values(g, &v);
	char text[MAX_TEXT + 8];

	for (size_t i = 0; i < n; i++) {
		if (v[i].kind == GP_GGUF_STRING)
			quote(text, (const char *)v[i].data, (size_t)v[i].n);
		else if (v[i].kind == GP_GGUF_ARRAY)
			array_text(text, sizeof text, &v[i]);
		else
			scalar_text(text, sizeof text, v[i].kind, v[i].data);
		line(user, v[i].key, text);
	}
}

static void json_text(char text[MAX_TEXT + 8], const json_t *v)
{
	if (json_is_string(v))
		quote(text, json_string_value(v), json_string_length(v));
	else if (json_is_array(v))
		snprintf(text, MAX_TEXT, "[%zu items]", json_array_size(v));
	else if (json_is_integer(v))
		snprintf(text, MAX_TEXT, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
	else if (json_is_real(v))
		snprintf(text, MAX_TEXT, "%g", json_real_value(v));
	else
		snprintf(text, MAX_TEXT, "%s", json_is_true(v) ? "true" :
					       json_is_false(v) ? "false" : "null");
}

static void each_json(json_t *o, const char *prefix, unsigned depth,
		      void (*line)(void *user, const char *key, const char *value), void *user)
{
	char key[256], text[MAX_TEXT + 8];
	const char *name;
	json_t *v;

	json_object_foreach(o, name, v) {
		snprintf(key, sizeof key, "%s%s%s", prefix, prefix[0] ? "." : "", name);
		if (json_is_object(v)) {
			if (depth < MAX_DEPTH)
				each_json(v, key, depth + 1, line, user);
			continue;
		}
		json_text(text, v);
		line(user, key, text);
	}
}

void gp_json_each_value(json_t *root,
			void (*line)(void *user, const char *key, const char *value), void *user)
{
	each_json(root, "", 0, line, user);
}

/* GGUF reader, versions 2 and 3, little-endian (source: "GGUF", the
 * specification in ggml's docs/gguf.md). Opening checks the whole header: every
 * count, length, offset and dimension lies inside the file, and no key or
 * tensor name comes twice. */
#ifndef GP_GGUF_H
#define GP_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

enum gp_gguf_kind {
	GP_GGUF_U8, GP_GGUF_I8, GP_GGUF_U16, GP_GGUF_I16, GP_GGUF_U32, GP_GGUF_I32,
	GP_GGUF_F32, GP_GGUF_BOOL, GP_GGUF_STRING, GP_GGUF_ARRAY, GP_GGUF_U64,
	GP_GGUF_I64, GP_GGUF_F64, GP_GGUF_KINDS
};

/* Numbers and bytes at data are little-endian and may be unaligned. */
struct gp_gguf_value {
	char *key;
	enum gp_gguf_kind kind;
	enum gp_gguf_kind item;     /* GP_GGUF_ARRAY: of what */
	uint64_t n;                 /* ARRAY: items; STRING: bytes; else 1 */
	const uint8_t *data;        /* ARRAY of STRING: not for direct use */
	uint64_t *string_at;        /* ARRAY of STRING: where in the file each begins */
};

struct gp_gguf_tensor {
	char *name;
	enum gp_type type;
	uint32_t n_dims;
	uint64_t dims[4];           /* dims[0] is contiguous; unused ones are 1 */
	uint64_t offset;            /* in the file */
	size_t bytes;
	const uint8_t *data;
};

struct gp_gguf;

/* A single file, or the first part of a split; a later part is -EINVAL. */
int gp_gguf_open(struct gp_gguf **g, const char *path);
int gp_gguf_open_part(struct gp_gguf **g, const char *path); /* any part */
void gp_gguf_close(struct gp_gguf *g); /* NULL is fine */
const char *gp_gguf_path(const struct gp_gguf *g);
uint32_t gp_gguf_version(const struct gp_gguf *g);
uint64_t gp_gguf_file_bytes(const struct gp_gguf *g);
int gp_gguf_fd(const struct gp_gguf *g); /* its file, open for reading */
size_t gp_gguf_tensors(const struct gp_gguf *g, const struct gp_gguf_tensor **list);
size_t gp_gguf_values(const struct gp_gguf *g, const struct gp_gguf_value **list);
const struct gp_gguf_value *gp_gguf_find(const struct gp_gguf *g, const char *key);

/* Typed look-ups: 1 found; 0 absent, *out untouched; -EINVAL: of another kind
 * or out of range, and the message names file and key. What they hand out
 * points into the file and lives as long as g. Integers of any width serve as
 * u32, f64 as f32. */
int gp_gguf_get_u32(const struct gp_gguf *g, const char *key, uint32_t *out);
int gp_gguf_get_f32(const struct gp_gguf *g, const char *key, float *out);
int gp_gguf_get_bool(const struct gp_gguf *g, const char *key, bool *out);
/* Not NUL-terminated. */
int gp_gguf_get_string(const struct gp_gguf *g, const char *key, const char **s, size_t *bytes);
int gp_gguf_get_array(const struct gp_gguf *g, const char *key, enum gp_gguf_kind item,
                      const struct gp_gguf_value **v);
/* Items of an array that get_array gave, i < v->n. */
void gp_gguf_string_at(const struct gp_gguf *g, const struct gp_gguf_value *v, uint64_t i,
                       const char **s, size_t *bytes);
float gp_gguf_f32_at(const struct gp_gguf_value *v, uint64_t i);
int32_t gp_gguf_i32_at(const struct gp_gguf_value *v, uint64_t i);

/* ---- writing (model/gguf_vocab.c) ------------------------------------------
 * The tokenizer.* keys that llama.cpp reads. It wants as many tokens as the
 * embedding has rows: unused ones fill up, what is past the rows is left out. */
struct gp_gguf_writer;
struct gp_vocab;
int gp_gguf_add_vocab(struct gp_gguf_writer *w, const struct gp_vocab *v, uint32_t rows);

#endif

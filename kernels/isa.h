/* Private to kernels/: what the files of one instruction set offer to the
 * table and to each other. Contracts: the members of struct gp_kernels. */
#ifndef GP_KERNELS_ISA_H
#define GP_KERNELS_ISA_H

#include <string.h>

#include "kernels/kernels.h"

#define GP_MAX_HEAD_DIM 512u

/* For the innermost loops: a sanitizer calls a function for each vector that is
 * read, which makes them 20 times slower. The tests put an unmapped page behind
 * every operand instead. */
#define GP_UNCHECKED \
	__attribute__((no_sanitize("address"), no_sanitize("undefined"), no_sanitize("thread")))

/* Little-endian 16 bits from any address. */
static inline uint16_t gp_load16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t gp_float_bits(float f)
{
	uint32_t v;

	memcpy(&v, &f, sizeof(v));
	return v;
}

static inline float gp_load_half(const void *p)
{
	return gp_f16_to_f32(gp_load16(p));
}

/* What counts as zero, and the most whose inverse is normal: outside these a
 * block's quants are zero (its scale still tells of infinity and NaN). */
#define GP_Q8_LEAST 1e-30f
#define GP_Q8_MOST 3e38f

/* most: the largest magnitude of the block. */
static inline float gp_q8_inverse(float most)
{
	return most >= GP_Q8_LEAST && most <= GP_Q8_MOST ? 127.0f / most : 0.0f;
}

/* low, high: the sums of q[0..15], of q[16..31]. */
static inline void gp_q8_finish(struct gp_q8 *b, float most, int32_t low, int32_t high)
{
	b->d = most < GP_Q8_LEAST ? 0.0f : most / 127.0f;
	b->half8[0] = (int16_t)(-8 * low);
	b->half8[1] = (int16_t)(-8 * high);
	b->sum8 = -8 * (low + high);
}

/* n words (a multiple of 4) of each of lanes (likewise) rows: word u of row i to
 * to + 4 (u lanes + i). */
void gp_pack_words(uint8_t *to, uint32_t lanes, const uint8_t *from, size_t row_bytes, unsigned n);

/* Packed blocks of 256 (pack_k.c): the words of the quants of a block, of four matrix rows
 * side by side, from the order of files to that of groups and back, in place. */
typedef uint32_t gp_four __attribute__((vector_size(16)));
#define GP_MOST_WORDS 48u
void gp_order_quants(enum gp_type t, gp_four *w);
void gp_restore_quants(enum gp_type t, gp_four *w);
/* The 12 bytes of Q3_K's scales. */
void gp_order_q3_scales(gp_four w[3]);
void gp_restore_q3_scales(gp_four w[3]);

/* The formats with blocks of 256 elements (dequantize_k.c). */
void gp_dequantize_q3_k(const uint8_t *src, float *dst, size_t n);
void gp_dequantize_q4_k(const uint8_t *src, float *dst, size_t n);
void gp_dequantize_q5_k(const uint8_t *src, float *dst, size_t n);
void gp_dequantize_q6_k(const uint8_t *src, float *dst, size_t n);
void gp_dequantize_iq4_xs(const uint8_t *src, float *dst, size_t n);
/* Scale and minimum of sub-block j of Q4_K and Q5_K: 6 bits each. */
void gp_scale_min_k4(const uint8_t scales[12], unsigned j, uint8_t *scale, uint8_t *min);

/* The positions [*from, *to) of [begin, end) that row sees; false: none. */
static inline bool gp_attention_seen(const struct gp_attention *a, uint32_t row, uint32_t begin,
                                     uint32_t end, uint32_t *from, uint32_t *to)
{
	const uint32_t past = a->pos + row + 1;
	const uint32_t first = a->window && past > a->window ? past - a->window : 0;

	*from = first > begin ? first : begin;
	*to = past < end ? past : end;
	return *from < *to;
}

/* Where a state has its maximum; the sum of its weights follows. */
static inline size_t gp_attention_max_at(uint32_t head_dim)
{
	return gp_attention_state_floats(head_dim) - 16;
}

typedef void gp_matmul_fn(float *y, size_t y_stride, const float *x, size_t x_stride,
                          uint32_t rows, const void *w, enum gp_type type, uint32_t k,
                          uint32_t n0, uint32_t n1, float *scratch);
typedef void gp_matmul_packed_fn(float *y, size_t y_stride, const struct gp_q8 *x,
                                 uint32_t rows, const void *w, enum gp_type type, uint32_t k,
                                 uint32_t n0, uint32_t n1);
typedef void gp_quantize_q8_fn(struct gp_q8 *dst, size_t stride, const float *x, uint32_t k);
typedef void gp_rms_norm_fn(float *y, const float *x, const float *w, float offset,
                            float eps, uint32_t n);
typedef void gp_rope_fn(float *x, const float *cos, const float *sin, uint32_t n);
typedef void gp_geglu_fn(float *y, const float *gate, const float *up, uint32_t n);
typedef void gp_add_fn(float *y, const float *x, uint32_t n);
typedef void gp_attention_fn(const struct gp_attention *a, uint32_t begin, uint32_t end,
                             float *states, float *scratch);
typedef void gp_attention_merge_fn(float *states, const float *next, uint32_t n,
                                   uint32_t head_dim);
typedef void gp_attention_out_fn(const struct gp_attention *a, const float *states);
typedef void gp_store_kv_fn(enum gp_type t, const float *src, void *dst, uint32_t n);
typedef uint32_t gp_find_outside_fn(const float *x, uint32_t first, uint32_t end, float low,
                                    float high);
typedef uint64_t gp_read_fn(const void *data, size_t bytes, unsigned pattern);
typedef uint64_t gp_ops_fn(uint64_t iterations);
typedef void gp_dequantize_fn(enum gp_type t, const void *src, float *dst, size_t n);
typedef int gp_quantize_fn(enum gp_type t, const float *src, void *dst, size_t n);

gp_matmul_fn gp_matmul_scalar, gp_matmul_avx2, gp_matmul_avx512;
gp_matmul_packed_fn gp_matmul_packed_scalar, gp_matmul_packed_avx2, gp_matmul_packed_avx512,
	gp_matmul_packed_avx512vnni;
gp_quantize_q8_fn gp_quantize_q8_scalar, gp_quantize_q8_avx2, gp_quantize_q8_avx512;
gp_rms_norm_fn gp_rms_norm_scalar, gp_rms_norm_avx2, gp_rms_norm_avx512;
gp_rope_fn gp_rope_scalar, gp_rope_avx2;
gp_geglu_fn gp_geglu_scalar, gp_geglu_avx2, gp_geglu_avx512;
gp_add_fn gp_add_scalar, gp_add_avx2;
gp_attention_fn gp_attention_scalar, gp_attention_avx2, gp_attention_avx512;
gp_attention_merge_fn gp_attention_merge_scalar, gp_attention_merge_avx2,
	gp_attention_merge_avx512;
gp_attention_out_fn gp_attention_out_scalar, gp_attention_out_avx2, gp_attention_out_avx512;
gp_store_kv_fn gp_store_kv_scalar, gp_store_kv_avx2;
gp_dequantize_fn gp_dequantize_avx2;
gp_quantize_fn gp_quantize_avx2;
gp_find_outside_fn gp_find_outside_scalar, gp_find_outside_avx2;
gp_read_fn gp_read_scalar, gp_read_avx2;
gp_ops_fn gp_int8_ops_avx2, gp_int8_ops_avx512, gp_int8_ops_avx512vnni;
gp_ops_fn gp_float_ops_scalar, gp_float_ops_avx2, gp_float_ops_avx512;

#endif

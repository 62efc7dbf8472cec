#include "kernels/math_avx2.h"

typedef __m256 vec;
enum { LANES = 8 };

INLINE vec zero(void) { return _mm256_setzero_ps(); }
INLINE vec set1(float f) { return _mm256_set1_ps(f); }
INLINE vec load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store(float *p, vec v) { _mm256_storeu_ps(p, v); }
INLINE vec add(vec a, vec b) { return _mm256_add_ps(a, b); }
INLINE vec sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
INLINE vec mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
INLINE vec divide(vec a, vec b) { return _mm256_div_ps(a, b); }
INLINE vec max(vec a, vec b) { return _mm256_max_ps(a, b); }
INLINE vec multiply_add(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vec exponential(vec v) { return exp8(v); }
INLINE float first_lane(vec v) { return _mm256_cvtss_f32(v); }
INLINE float highest(vec v) { return max8(v); }
INLINE float total(vec v) { return sum8(v); }

INLINE vec zero_where_minus_infinity(vec s, vec v)
{
	return _mm256_and_ps(_mm256_cmp_ps(s, _mm256_set1_ps(-INFINITY), _CMP_NEQ_UQ), v);
}

/* Elements i to i + 7 of a row, i a multiple of 8. */
INLINE vec load_kv(const uint8_t *row, uint32_t i, const enum gp_type t)
{
	if (t == GP_TYPE_F32)
		return _mm256_loadu_ps((const void *)(row + 4 * (size_t)i));
	if (t == GP_TYPE_F16)
		return _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row + 2 * (size_t)i)));
	const uint8_t *block = row + (size_t)(i / 32) * 34;
	const __m128i q = _mm_loadl_epi64((const void *)(block + 2 + i % 32));
	const __m256 d = _mm256_cvtph_ps(_mm_set1_epi16((short)gp_load16(block)));
	return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), d);
}

/* Rows are whole vectors here. */
INLINE vec load_kv_half(const uint8_t *row, uint32_t i, const enum gp_type t)
{
	return load_kv(row, i, t);
}

/* Lane c of the result is the sum of v[c]: the same tree for every c. */
INLINE vec reduce(const vec v[LANES])
{
	return _mm256_set_m128(reduce4x8(v + 4), reduce4x8(v));
}

#include "kernels/attention_tiles.h"

void gp_attention_avx2(const struct gp_attention *a, uint32_t begin, uint32_t end,
                       float *states, float *scratch)
{
	attention(a, begin, end, states, scratch);
}

void gp_attention_merge_avx2(float *states, const float *next, uint32_t n, uint32_t head_dim)
{
	merge(states, next, n, head_dim);
}

void gp_attention_out_avx2(const struct gp_attention *a, const float *states)
{
	put_out(a, states);
}

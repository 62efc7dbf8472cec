#include "kernels/math_avx512.h"

typedef __m512 vec;
enum { LANES = 16 };

INLINE vec zero(void) { return _mm512_setzero_ps(); }
INLINE vec set1(float f) { return _mm512_set1_ps(f); }
INLINE vec load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, vec v) { _mm512_storeu_ps(p, v); }
INLINE vec add(vec a, vec b) { return _mm512_add_ps(a, b); }
INLINE vec sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
INLINE vec mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
INLINE vec divide(vec a, vec b) { return _mm512_div_ps(a, b); }
INLINE vec max(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec multiply_add(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec exponential(vec v) { return exp16(v); }
INLINE float first_lane(vec v) { return _mm512_cvtss_f32(v); }
INLINE float highest(vec v) { return _mm512_reduce_max_ps(v); }
INLINE float total(vec v) { return _mm512_reduce_add_ps(v); }

INLINE vec zero_where_minus_infinity(vec s, vec v)
{
	return _mm512_maskz_mov_ps(
		_mm512_cmp_ps_mask(s, _mm512_set1_ps(-INFINITY), _CMP_NEQ_UQ), v);
}

/* Elements i to i + 15 of a row, i a multiple of 16. */
INLINE vec load_kv(const uint8_t *row, uint32_t i, const enum gp_type t)
{
	if (t == GP_TYPE_F32)
		return _mm512_loadu_ps(row + 4 * (size_t)i);
	if (t == GP_TYPE_F16)
		return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(row + 2 * (size_t)i)));
	const uint8_t *block = row + (size_t)(i / 32) * 34;
	const __m128i q = _mm_loadu_si128((const void *)(block + 2 + i % 32));
	const __m512 d = _mm512_cvtph_ps(_mm256_set1_epi16((short)gp_load16(block)));
	return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)), d);
}

/* The last 8 elements of a row, then zeros. Q8_0 has no such rows. */
INLINE vec load_kv_half(const uint8_t *row, uint32_t i, const enum gp_type t)
{
	if (t == GP_TYPE_F32)
		return _mm512_zextps256_ps512(_mm256_loadu_ps((const void *)(row + 4 * (size_t)i)));
	return _mm512_zextps256_ps512(
		_mm256_cvtph_ps(_mm_loadu_si128((const void *)(row + 2 * (size_t)i))));
}

/* The sums of pairs of v[i] and v[i + 1], four of each, in turn. */
INLINE vec pairs(vec a, vec b)
{
	return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
}

INLINE vec quads(vec a, vec b)
{
	const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);

	return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
	                     _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

INLINE vec quarters(vec a, vec b)
{
	return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* Lane c of the result is the sum of v[c]: the same tree for every c. */
INLINE vec reduce(const vec v[LANES])
{
	vec q[4];

#pragma GCC unroll 4
	for (unsigned i = 0; i < 4; i++)
		q[i] = quads(pairs(v[4 * i], v[4 * i + 1]), pairs(v[4 * i + 2], v[4 * i + 3]));
	return quarters(quarters(q[0], q[1]), quarters(q[2], q[3]));
}

#include "kernels/attention_tiles.h"

void gp_attention_avx512(const struct gp_attention *a, uint32_t begin, uint32_t end,
                         float *states, float *scratch)
{
	attention(a, begin, end, states, scratch);
}

void gp_attention_merge_avx512(float *states, const float *next, uint32_t n, uint32_t head_dim)
{
	merge(states, next, n, head_dim);
}

void gp_attention_out_avx512(const struct gp_attention *a, const float *states)
{
	put_out(a, states);
}

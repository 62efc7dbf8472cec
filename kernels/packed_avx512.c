/* Without VNNI: unsigned by signed bytes, two products to 16 bits, which
 * saturate. |x| <= 127, so a pair is at most 2 x 127 x most, and
 *   most 15: 3810, eight of them 30480;   most 31: 7874, four 31496;
 *   most 63: 16002, two 32004: all below 32768.
 * So many are added up in 16 bits before they are widened. Bytes with a sign
 * (most 255) go by magnitude, at most 128, with the sign moved to x: 32512. */
#include "kernels/packed_x16.h"

enum { SIGNED_QUANTS = 1, DOT_STEP = 8 };

INLINE vi widen_add(vi acc, vi pairs)
{
	return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

INLINE vi signed_pairs(vi q, vi x)
{
	const vi moved = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(q), _mm512_setzero_si512(), x);

	return _mm512_maddubs_epi16(_mm512_abs_epi8(q), moved);
}

INLINE vi dot(vi acc, const vi *q, const unsigned n, const int8_t *x, const unsigned most)
{
	const unsigned safe = most == 15 ? 8 : most == 31 ? 4 : most == 63 ? 2 : 1;
	vi sum = _mm512_setzero_si512();

#pragma GCC unroll 8
	for (unsigned v = 0; v < n; v++) {
		const vi b = v_broadcast(x + 4 * v);
		const vi pairs = safe == 1 ? signed_pairs(q[v], b) : _mm512_maddubs_epi16(q[v], b);

		sum = v % safe ? _mm512_add_epi16(sum, pairs) : pairs;
		if (v % safe == safe - 1 || v == n - 1)
			acc = widen_add(acc, sum);
	}
	return acc;
}

#include "kernels/packed_tiles.h"

void gp_matmul_packed_avx512(float *y, size_t y_stride, const struct gp_q8 *x, uint32_t rows,
                             const void *w, enum gp_type type, uint32_t k, uint32_t n0,
                             uint32_t n1)
{
	matmul_packed(y, y_stride, x, rows, w, type, k, n0, n1);
}

/* Magnitudes as integers: their order is that of the floats, NaN above all. */
INLINE float largest(vf a, vf b)
{
	const vi mask = _mm512_set1_epi32(0x7fffffff);
	const int32_t bits = _mm512_reduce_max_epi32(
		_mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(a), mask),
	                         _mm512_and_si512(_mm512_castps_si512(b), mask)));
	float most;

	memcpy(&most, &bits, sizeof(most));
	return most;
}

/* 16 of the 32; returns their sum. */
INLINE int32_t quantize_half(int8_t *q, vf x, float inverse)
{
	const vi v = inverse == 0.0f ? _mm512_setzero_si512() :
	             _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse)));

	_mm_storeu_si128((void *)q, _mm512_cvtsepi32_epi8(v));
	return _mm512_reduce_add_epi32(v);
}

GP_UNCHECKED void gp_quantize_q8_avx512(struct gp_q8 *dst, size_t stride, const float *x,
                                        uint32_t k)
{
	for (; k; k -= 32, x += 32, dst += stride) {
		const vf a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
		const float most = largest(a, b);
		const float inverse = most >= GP_Q8_LEAST && most <= GP_Q8_MOST ? 127.0f / most : 0.0f;
		const int32_t low = quantize_half(dst->q, a, inverse);
		const int32_t high = quantize_half(dst->q + 16, b, inverse);

		dst->d = most < GP_Q8_LEAST ? 0.0f : most / 127.0f;
		dst->half8[0] = -8 * low;
		dst->half8[1] = -8 * high;
		dst->sum8 = -8 * (low + high);
	}
}

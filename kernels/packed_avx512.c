/* AVX-512 without VNNI. */
#include "kernels/packed_x16.h"

INLINE vi pairs(vi q, vi x) { return _mm512_maddubs_epi16(q, x); }
INLINE vi add_pairs(vi a, vi b) { return _mm512_add_epi16(a, b); }

INLINE vi signed_pairs(vi q, vi x)
{
	const vi moved = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(q), v_word(0), x);

	return pairs(_mm512_abs_epi8(q), moved);
}

INLINE vi widen_add(vi acc, vi p)
{
	return _mm512_add_epi32(acc, _mm512_madd_epi16(p, _mm512_set1_epi16(1)));
}

#include "kernels/packed_dot16.h"
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
		const float inverse = gp_q8_inverse(most);
		const int32_t low = quantize_half(dst->q, a, inverse);
		const int32_t high = quantize_half(dst->q + 16, b, inverse);

		gp_q8_finish(dst, most, low, high);
	}
}

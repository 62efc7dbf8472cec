/* Private to the AVX2 files of kernels/. */
#ifndef GP_KERNELS_MATH_AVX2_H
#define GP_KERNELS_MATH_AVX2_H

#include <immintrin.h>
#include <math.h>

#include "kernels/isa.h"

#define INLINE static inline __attribute__((always_inline)) GP_UNCHECKED

INLINE __m256i mask_upto8(uint32_t n)
{
	return _mm256_cmpgt_epi32(_mm256_set1_epi32(n < 8 ? (int)n : 8),
	                          _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* Lanes from n on are zero, and not read. */
INLINE __m256 load_upto8(const float *p, uint32_t n)
{
	return n >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, mask_upto8(n));
}

INLINE void store_upto8(float *p, uint32_t n, __m256 v)
{
	if (n >= 8)
		_mm256_storeu_ps(p, v);
	else
		_mm256_maskstore_ps(p, mask_upto8(n), v);
}

INLINE float sum8(__m256 v)
{
	const __m128 q = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));

	return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}

INLINE float max8(__m256 v)
{
	const __m128 q = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));

	return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

/* Lane c of the result is the sum of v[c]: the same tree for every c. */
INLINE __m128 reduce4x8(const __m256 v[4])
{
	const __m256 a = _mm256_hadd_ps(v[0], v[1]), b = _mm256_hadd_ps(v[2], v[3]);
	const __m256 ab = _mm256_hadd_ps(a, b);

	return _mm_add_ps(_mm256_castps256_ps128(ab), _mm256_extractf128_ps(ab, 1));
}

/* exp for [-87, 88]; what is outside counts as the end, NaN stays NaN (max and
 * min return their second operand then). exp(x) = 2^n exp(r), |r| <= ln(2) / 2;
 * Taylor's series to r^7 leaves 6e-9. ln(2) is split so that n times its upper
 * part is exact. */
INLINE __m256 exp8(__m256 x)
{
	x = _mm256_min_ps(_mm256_set1_ps(88.0f), _mm256_max_ps(_mm256_set1_ps(-87.0f), x));
	const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)),
	                                 _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
	__m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x);
	r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
	__m256 p = _mm256_set1_ps(1.0f / 5040.0f);
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720.0f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120.0f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24.0f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6.0f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
	const __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
	return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23)));
}

#endif

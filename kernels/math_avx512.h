/* Private to the AVX-512 files of kernels/. */
#ifndef GP_KERNELS_MATH_AVX512_H
#define GP_KERNELS_MATH_AVX512_H

#include <immintrin.h>
#include <math.h>

#include "kernels/isa.h"

#define INLINE static inline __attribute__((always_inline)) GP_UNCHECKED

INLINE __mmask16 mask_upto16(uint32_t n)
{
	return (__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1u);
}

/* Lanes from n on are zero, and not read. */
INLINE __m512 load_upto16(const float *p, uint32_t n)
{
	return _mm512_maskz_loadu_ps(mask_upto16(n), p);
}

INLINE void store_upto16(float *p, uint32_t n, __m512 v)
{
	_mm512_mask_storeu_ps(p, mask_upto16(n), v);
}

INLINE __m256 fold16(__m512 v)
{
	return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

/* Lane c of the result is the sum of v[c]: the same tree for every c. */
INLINE __m256 reduce8x16(const __m512 v[8])
{
	const __m256 a = _mm256_hadd_ps(fold16(v[0]), fold16(v[1]));
	const __m256 b = _mm256_hadd_ps(fold16(v[2]), fold16(v[3]));
	const __m256 c = _mm256_hadd_ps(fold16(v[4]), fold16(v[5]));
	const __m256 d = _mm256_hadd_ps(fold16(v[6]), fold16(v[7]));
	const __m256 ab = _mm256_hadd_ps(a, b), cd = _mm256_hadd_ps(c, d);

	return _mm256_add_ps(_mm256_permute2f128_ps(ab, cd, 0x20),
	                     _mm256_permute2f128_ps(ab, cd, 0x31));
}

/* exp for [-87, 88]; what is outside counts as the end, NaN stays NaN (max and
 * min return their second operand then). exp(x) = 2^n exp(r), |r| <= ln(2) / 2;
 * Taylor's series to r^7 leaves 6e-9. ln(2) is split so that n times its upper
 * part is exact. */
INLINE __m512 exp16(__m512 x)
{
	x = _mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_max_ps(_mm512_set1_ps(-87.0f), x));
	const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)),
	                                      _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
	__m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1f), x);
	r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
	__m512 p = _mm512_set1_ps(1.0f / 5040.0f);
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720.0f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120.0f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24.0f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6.0f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
	return _mm512_scalef_ps(p, n);
}

#endif

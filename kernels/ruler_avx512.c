/* As ruler_avx2.c, with vectors of twice the size. */
#include "kernels/isa.h"

#include <immintrin.h>

#define SUMS 12u
#define SHORT_SUMS 8u

GP_UNCHECKED uint64_t gp_int8_ops_avx512(uint64_t iterations)
{
	const __m512i ones = _mm512_set1_epi16(1), b = _mm512_set1_epi8(-5);
	__m512i a = _mm512_set1_epi8(3), sum[SUMS];

	for (uint32_t s = 0; s < SUMS; s++)
		sum[s] = _mm512_set1_epi32((int)s);
	for (uint64_t i = 0; i < iterations; i++) {
#pragma GCC unroll 12
		for (uint32_t s = 0; s < SUMS; s++) {
			__m512i pairs = _mm512_maddubs_epi16(a, b);

#pragma GCC unroll 8
			for (uint32_t v = 1; v < SHORT_SUMS; v++) {
				__asm__("" : "+v"(a), "+v"(pairs));
				pairs = _mm512_add_epi16(pairs, _mm512_maddubs_epi16(a, b));
			}
			sum[s] = _mm512_add_epi32(sum[s], _mm512_madd_epi16(pairs, ones));
			__asm__("" : "+v"(a), "+v"(sum[s]));
		}
	}
	for (uint32_t s = 1; s < SUMS; s++)
		sum[0] = _mm512_add_epi32(sum[0], sum[s]);
	return (uint32_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(sum[0]));
}

GP_UNCHECKED uint64_t gp_float_ops_avx512(uint64_t iterations)
{
	__m512 a = _mm512_set1_ps(0.875f), b = _mm512_set1_ps(0.125f), sum[SUMS];

	__asm__("" : "+v"(a), "+v"(b));
	for (uint32_t s = 0; s < SUMS; s++)
		sum[s] = _mm512_set1_ps((float)s);
	for (uint64_t i = 0; i < iterations; i++) {
#pragma GCC unroll 12
		for (uint32_t s = 0; s < SUMS; s++)
			sum[s] = _mm512_fmadd_ps(sum[s], a, b);
	}
	for (uint32_t s = 1; s < SUMS; s++)
		sum[0] = _mm512_add_ps(sum[0], sum[s]);
	return gp_float_bits(_mm512_cvtss_f32(sum[0]));
}

/* As ruler_avx512.c, with one instruction for each vector of products. */
#include "kernels/isa.h"

#include <immintrin.h>

#define SUMS 12u

GP_UNCHECKED uint64_t gp_int8_ops_avx512vnni(uint64_t iterations)
{
	__m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5), sum[SUMS];

	__asm__("" : "+v"(a), "+v"(b));
	for (uint32_t s = 0; s < SUMS; s++)
		sum[s] = _mm512_set1_epi32((int)s);
	for (uint64_t i = 0; i < 8 * iterations; i++) {
#pragma GCC unroll 12
		for (uint32_t s = 0; s < SUMS; s++)
			sum[s] = _mm512_dpbusd_epi32(sum[s], a, b);
	}
	for (uint32_t s = 1; s < SUMS; s++)
		sum[0] = _mm512_add_epi32(sum[0], sum[s]);
	return (uint32_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(sum[0]));
}

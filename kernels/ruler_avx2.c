/* The most that this instruction set computes: loops on registers alone. Twelve
 * sums hide the latency of two units. What is multiplied passes through an empty
 * asm with each sum, or the compiler would take the products out of the loop, or
 * compute several before it adds and run out of registers. */
#include "kernels/isa.h"

#include <immintrin.h>

#define SUMS 12u
#define SHORT_SUMS 8u /* of 4-bit weights, see packed_dot16.h */

/* 8-bit products of pairs, as many as 4-bit weights let the kernels add up in 16
 * bits, pairs of those into 32 bits. */
GP_UNCHECKED uint64_t gp_int8_ops_avx2(uint64_t iterations)
{
	const __m256i ones = _mm256_set1_epi16(1), b = _mm256_set1_epi8(-5);
	__m256i a = _mm256_set1_epi8(3), sum[SUMS];

	for (uint32_t s = 0; s < SUMS; s++)
		sum[s] = _mm256_set1_epi32((int)s);
	for (uint64_t i = 0; i < 2 * iterations; i++) {
#pragma GCC unroll 12
		for (uint32_t s = 0; s < SUMS; s++) {
			__m256i pairs = _mm256_maddubs_epi16(a, b);

#pragma GCC unroll 8
			for (uint32_t v = 1; v < SHORT_SUMS; v++) {
				__asm__("" : "+x"(a), "+x"(pairs));
				pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(a, b));
			}
			sum[s] = _mm256_add_epi32(sum[s], _mm256_madd_epi16(pairs, ones));
			__asm__("" : "+x"(a), "+x"(sum[s]));
		}
	}
	for (uint32_t s = 1; s < SUMS; s++)
		sum[0] = _mm256_add_epi32(sum[0], sum[s]);
	return (uint32_t)_mm_cvtsi128_si32(_mm256_castsi256_si128(sum[0]));
}

GP_UNCHECKED uint64_t gp_float_ops_avx2(uint64_t iterations)
{
	__m256 a = _mm256_set1_ps(0.875f), b = _mm256_set1_ps(0.125f), sum[SUMS];

	__asm__("" : "+x"(a), "+x"(b));
	for (uint32_t s = 0; s < SUMS; s++)
		sum[s] = _mm256_set1_ps((float)s);
	for (uint64_t i = 0; i < 2 * iterations; i++) {
#pragma GCC unroll 12
		for (uint32_t s = 0; s < SUMS; s++)
			sum[s] = _mm256_fmadd_ps(sum[s], a, b);
	}
	for (uint32_t s = 1; s < SUMS; s++)
		sum[0] = _mm256_add_ps(sum[0], sum[s]);
	return gp_float_bits(_mm256_cvtss_f32(sum[0]));
}

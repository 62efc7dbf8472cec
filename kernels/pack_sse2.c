/* SSE2 is part of x86-64. */
#include "kernels/isa.h"

#include <emmintrin.h>

/* 4 x 4 words: word v of rows 0..3 side by side, a step apart. */
static inline void transpose4(uint8_t *to, size_t to_step, const uint8_t *from, size_t row_bytes)
{
	const __m128i r0 = _mm_loadu_si128((const void *)from);
	const __m128i r1 = _mm_loadu_si128((const void *)(from + row_bytes));
	const __m128i r2 = _mm_loadu_si128((const void *)(from + 2 * row_bytes));
	const __m128i r3 = _mm_loadu_si128((const void *)(from + 3 * row_bytes));
	const __m128i a = _mm_unpacklo_epi32(r0, r1), b = _mm_unpacklo_epi32(r2, r3);
	const __m128i c = _mm_unpackhi_epi32(r0, r1), d = _mm_unpackhi_epi32(r2, r3);

	_mm_storeu_si128((void *)to, _mm_unpacklo_epi64(a, b));
	_mm_storeu_si128((void *)(to + to_step), _mm_unpackhi_epi64(a, b));
	_mm_storeu_si128((void *)(to + 2 * to_step), _mm_unpacklo_epi64(c, d));
	_mm_storeu_si128((void *)(to + 3 * to_step), _mm_unpackhi_epi64(c, d));
}

void gp_pack_words(uint8_t *to, uint32_t lanes, const uint8_t *from, size_t row_bytes, unsigned n)
{
	const size_t step = 4 * (size_t)lanes;

	for (uint32_t i = 0; i < lanes; i += 4)
		for (unsigned u = 0; u < n; u += 4)
			transpose4(to + u * step + 4 * i, step, from + i * row_bytes + 4 * u,
			           row_bytes);
}

/* Which pattern is fastest differs from machine to machine by half: prefetchers stop
 * at a page's end or follow few streams, and asking early helps or stands in the way. */
#include "kernels/isa.h"

#include <immintrin.h>

#define EARLY 4096u        /* bytes in all */

static inline __attribute__((always_inline)) uint64_t read_streams(const char *p, size_t bytes,
                                                                   const size_t n, const bool early)
{
	const size_t part = bytes / n / 64 * 64;
	__m256i sum[8], all = _mm256_setzero_si256();
	uint64_t lanes[4];

	for (size_t s = 0; s < 2 * n; s++)
		sum[s] = _mm256_setzero_si256();
	for (size_t i = 0; i < part; i += 64)
		for (size_t s = 0; s < n; s++) {
			const char *at = p + s * part + i;

			if (early)
				_mm_prefetch(at + EARLY / n, _MM_HINT_T0);
			sum[2 * s] = _mm256_add_epi64(sum[2 * s], _mm256_loadu_si256((const void *)at));
			sum[2 * s + 1] = _mm256_add_epi64(sum[2 * s + 1],
							  _mm256_loadu_si256((const void *)(at + 32)));
		}
	for (size_t s = 0; s < 2 * n; s++)
		all = _mm256_add_epi64(all, sum[s]);
	_mm256_storeu_si256((void *)lanes, all);
	return lanes[0] + lanes[1] + lanes[2] + lanes[3] +
	       gp_read_scalar(p + n * part, bytes - n * part, 0);
}

GP_UNCHECKED uint64_t gp_read_avx2(const void *data, size_t bytes, unsigned pattern)
{
	switch (pattern) {
	case 0: return read_streams(data, bytes, 1, false);
	case 1: return read_streams(data, bytes, 1, true);
	case 2: return read_streams(data, bytes, 4, false);
	default: return read_streams(data, bytes, 4, true);
	}
}

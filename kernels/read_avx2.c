/* Four streams at once: the prefetchers of one stream stop at its page's end,
 * and a single stream reads at half the speed of the memory. */
#include "kernels/isa.h"

#include <immintrin.h>

#define STREAMS 4u

GP_UNCHECKED uint64_t gp_read_avx2(const void *data, size_t bytes)
{
	const char *p = data;
	const size_t part = bytes / STREAMS / 64 * 64;
	__m256i sum[2 * STREAMS], all = _mm256_setzero_si256();
	uint64_t lanes[4];

	for (size_t s = 0; s < 2 * STREAMS; s++)
		sum[s] = _mm256_setzero_si256();
	for (size_t i = 0; i < part; i += 64) {
		for (size_t s = 0; s < STREAMS; s++) {
			const char *at = p + s * part + i;

			sum[2 * s] = _mm256_add_epi64(sum[2 * s], _mm256_loadu_si256((const void *)at));
			sum[2 * s + 1] = _mm256_add_epi64(sum[2 * s + 1],
							  _mm256_loadu_si256((const void *)(at + 32)));
		}
	}
	for (size_t s = 0; s < 2 * STREAMS; s++)
		all = _mm256_add_epi64(all, sum[s]);
	_mm256_storeu_si256((void *)lanes, all);
	return lanes[0] + lanes[1] + lanes[2] + lanes[3] +
	       gp_read_scalar(p + STREAMS * part, bytes - STREAMS * part);
}

#include "kernels/math_avx2.h"

/* All bits of a lane: its value is in [low, high]. */
INLINE __m256 inside8(const float *x, __m256 low, __m256 high)
{
	const __m256 v = _mm256_loadu_ps(x);

	return _mm256_and_ps(_mm256_cmp_ps(v, low, _CMP_GE_OQ), _mm256_cmp_ps(v, high, _CMP_LE_OQ));
}

GP_UNCHECKED
uint32_t gp_find_outside_avx2(const float *x, uint32_t first, uint32_t end, float low, float high)
{
	const __m256 l = _mm256_set1_ps(low), h = _mm256_set1_ps(high);

	for (; end - first >= 32; first += 32) {
		const float *p = x + first;
		const __m256 a = _mm256_and_ps(inside8(p, l, h), inside8(p + 8, l, h));
		const __m256 b = _mm256_and_ps(inside8(p + 16, l, h), inside8(p + 24, l, h));

		if (_mm256_movemask_ps(_mm256_and_ps(a, b)) != 0xff)
			break;
	}
	for (; end - first >= 8; first += 8) {
		const unsigned out = ~(unsigned)_mm256_movemask_ps(inside8(x + first, l, h)) & 0xffu;

		if (out)
			return first + (uint32_t)__builtin_ctz(out);
	}
	return gp_find_outside_scalar(x, first, end, low, high);
}

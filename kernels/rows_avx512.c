#include "kernels/math_avx512.h"

void gp_rms_norm_avx512(float *y, const float *x, const float *w, float offset, float eps,
                        uint32_t n)
{
	const __m512 off = _mm512_set1_ps(offset);
	__m512 sum = _mm512_setzero_ps();

	for (uint32_t i = 0; i < n; i += 16) {
		const __m512 v = load_upto16(x + i, n - i);

		sum = _mm512_fmadd_ps(v, v, sum);
	}
	const float mean = _mm512_reduce_add_ps(sum) / (float)n;
	const __m512 scale = _mm512_set1_ps(1.0f / sqrtf(mean + eps));
	for (uint32_t i = 0; i < n; i += 16) {
		const __m512 v = _mm512_mul_ps(load_upto16(x + i, n - i), scale);

		store_upto16(y + i, n - i,
		             _mm512_mul_ps(v, _mm512_add_ps(load_upto16(w + i, n - i), off)));
	}
}

/* g (1 + tanh(u)) / 2 = g / (1 + exp(-2u)), which loses nothing where tanh
 * nears -1. */
void gp_geglu_avx512(float *y, const float *gate, const float *up, uint32_t n)
{
	const __m512 one = _mm512_set1_ps(1.0f);
	const __m512 c1 = _mm512_set1_ps(-2.0f * 0.79788456080286536f);
	const __m512 c3 = _mm512_set1_ps(-2.0f * 0.79788456080286536f * 0.044715f);

	for (uint32_t i = 0; i < n; i += 16) {
		const __m512 g = load_upto16(gate + i, n - i);
		const __m512 u = _mm512_mul_ps(g, _mm512_fmadd_ps(_mm512_mul_ps(g, g), c3, c1));
		const __m512 v = _mm512_div_ps(g, _mm512_add_ps(one, exp16(u)));

		store_upto16(y + i, n - i, _mm512_mul_ps(v, load_upto16(up + i, n - i)));
	}
}

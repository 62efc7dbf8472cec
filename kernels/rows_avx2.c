#include "kernels/math_avx2.h"

void gp_rms_norm_avx2(float *y, const float *x, const float *w, float offset, float eps,
                      uint32_t n)
{
	const __m256 off = _mm256_set1_ps(offset);
	__m256 sum = _mm256_setzero_ps();

	for (uint32_t i = 0; i < n; i += 8) {
		const __m256 v = load_upto8(x + i, n - i);

		sum = _mm256_fmadd_ps(v, v, sum);
	}
	const float mean = sum8(sum) / (float)n;
	const __m256 scale = _mm256_set1_ps(1.0f / sqrtf(mean + eps));
	for (uint32_t i = 0; i < n; i += 8) {
		const __m256 v = _mm256_mul_ps(load_upto8(x + i, n - i), scale);

		store_upto8(y + i, n - i,
		            _mm256_mul_ps(v, _mm256_add_ps(load_upto8(w + i, n - i), off)));
	}
}

void gp_rope_avx2(float *x, const float *cos, const float *sin, uint32_t n)
{
	const uint32_t half = n / 2;

	for (uint32_t i = 0; i < half; i += 8) {
		const uint32_t left = half - i;
		const __m256 a = load_upto8(x + i, left), b = load_upto8(x + half + i, left);
		const __m256 c = load_upto8(cos + i, left), s = load_upto8(sin + i, left);

		store_upto8(x + i, left, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
		store_upto8(x + half + i, left, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
	}
}

/* g (1 + tanh(u)) / 2 = g / (1 + exp(-2u)), which loses nothing where tanh
 * nears -1. */
void gp_geglu_avx2(float *y, const float *gate, const float *up, uint32_t n)
{
	const __m256 one = _mm256_set1_ps(1.0f);
	const __m256 c1 = _mm256_set1_ps(-2.0f * 0.79788456080286536f);
	const __m256 c3 = _mm256_set1_ps(-2.0f * 0.79788456080286536f * 0.044715f);

	for (uint32_t i = 0; i < n; i += 8) {
		const __m256 g = load_upto8(gate + i, n - i);
		const __m256 u = _mm256_mul_ps(g, _mm256_fmadd_ps(_mm256_mul_ps(g, g), c3, c1));
		const __m256 v = _mm256_div_ps(g, _mm256_add_ps(one, exp8(u)));

		store_upto8(y + i, n - i, _mm256_mul_ps(v, load_upto8(up + i, n - i)));
	}
}

void gp_add_avx2(float *y, const float *x, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 8)
		store_upto8(y + i, n - i,
		            _mm256_add_ps(load_upto8(y + i, n - i), load_upto8(x + i, n - i)));
}

static void store_f16(const float *src, uint8_t *dst, uint32_t n)
{
	uint32_t i = 0;

	for (; i + 8 <= n; i += 8)
		_mm_storeu_si128((void *)(dst + 2 * i),
		                 _mm256_cvtps_ph(_mm256_loadu_ps(src + i),
		                                 _MM_FROUND_TO_NEAREST_INT));
	gp_store_kv_scalar(GP_TYPE_F16, src + i, dst + 2 * i, n - i);
}

void gp_store_kv_avx2(enum gp_type t, const float *src, void *dst, uint32_t n)
{
	if (t == GP_TYPE_F16)
		store_f16(src, dst, n);
	else
		gp_store_kv_scalar(t, src, dst, n);
}

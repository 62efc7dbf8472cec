/* The formats that are read most. Each result is one product (and one
 * difference) of the same operands as in the scalar reference: bit for bit the
 * same. */
#include "kernels/math_avx2.h"

static float half_at(const uint8_t *p)
{
	return _cvtsh_ss(gp_load16(p));
}

static inline __m256 widen_u8(__m128i bytes)
{
	return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}

static inline __m256 widen_i8(__m128i bytes)
{
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

static void f16(const uint8_t *src, float *dst, size_t n)
{
	size_t i = 0;

	for (; i + 8 <= n; i += 8)
		_mm256_storeu_ps(dst + i,
		                 _mm256_cvtph_ps(_mm_loadu_si128((const void *)(src + 2 * i))));
	gp_dequantize(GP_TYPE_F16, src + 2 * i, dst + i, n - i);
}

static void bf16(const uint8_t *src, float *dst, size_t n)
{
	size_t i = 0;

	for (; i + 8 <= n; i += 8) {
		const __m128i h = _mm_loadu_si128((const void *)(src + 2 * i));

		_mm256_storeu_ps(dst + i, _mm256_castsi256_ps(
			_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)));
	}
	gp_dequantize(GP_TYPE_BF16, src + 2 * i, dst + i, n - i);
}

/* 16 signed bytes times d. */
static inline void put16_i8(float *dst, __m128i q, __m256 d)
{
	_mm256_storeu_ps(dst, _mm256_mul_ps(widen_i8(q), d));
	_mm256_storeu_ps(dst + 8, _mm256_mul_ps(widen_i8(_mm_srli_si128(q, 8)), d));
}

static void q8_0(const uint8_t *src, float *dst, size_t n)
{
	for (; n; n -= 32, src += 34, dst += 32) {
		const __m256 d = _mm256_set1_ps(half_at(src));

		put16_i8(dst, _mm_loadu_si128((const void *)(src + 2)), d);
		put16_i8(dst + 16, _mm_loadu_si128((const void *)(src + 18)), d);
	}
}

static void q4_0(const uint8_t *src, float *dst, size_t n)
{
	const __m128i low = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);

	for (; n; n -= 32, src += 18, dst += 32) {
		const __m256 d = _mm256_set1_ps(half_at(src));
		const __m128i q = _mm_loadu_si128((const void *)(src + 2));
		const __m128i high = _mm_and_si128(_mm_srli_epi16(q, 4), low);

		put16_i8(dst, _mm_sub_epi8(_mm_and_si128(q, low), eight), d);
		put16_i8(dst + 16, _mm_sub_epi8(high, eight), d);
	}
}

static void q4_k(const uint8_t *src, float *dst, size_t n)
{
	const __m128i low = _mm_set1_epi8(15);

	for (; n; n -= 256, src += 144, dst += 256) {
		const float d = half_at(src), dmin = half_at(src + 2);

		for (unsigned j = 0; j < 8; j++) {
			uint8_t scale, min;

			gp_scale_min_k4(src + 4, j, &scale, &min);
			const __m256 dl = _mm256_set1_ps(d * (float)scale);
			const __m256 ml = _mm256_set1_ps(dmin * (float)min);
			for (unsigned i = 0; i < 32; i += 8) {
				__m128i q = _mm_loadl_epi64(
					(const void *)(src + 16 + 32 * (j / 2) + i));

				q = _mm_and_si128(j & 1 ? _mm_srli_epi16(q, 4) : q, low);
				_mm256_storeu_ps(dst + 32 * j + i,
				                 _mm256_sub_ps(_mm256_mul_ps(dl, widen_u8(q)), ml));
			}
		}
	}
}

/* Elements [0, 16) of run s of 32 in one half of a Q6_K block, less 32. */
static inline __m128i q6_k_bytes(const uint8_t *low, const uint8_t *high, unsigned s)
{
	const __m128i l = _mm_loadu_si128((const void *)(low + 32 * (s & 1)));
	const __m128i h = _mm_loadu_si128((const void *)high);
	const __m128i l4 = _mm_and_si128(s / 2 ? _mm_srli_epi16(l, 4) : l, _mm_set1_epi8(15));
	const __m128i h2 = _mm_and_si128(_mm_srl_epi16(h, _mm_cvtsi32_si128(2 * (int)s)),
	                                 _mm_set1_epi8(3));

	return _mm_sub_epi8(_mm_or_si128(l4, _mm_slli_epi16(h2, 4)), _mm_set1_epi8(32));
}

static void q6_k(const uint8_t *src, float *dst, size_t n)
{
	for (; n; n -= 256, src += 210, dst += 256) {
		const float d = half_at(src + 208);

		for (unsigned j = 0; j < 16; j++) {
			const unsigned half = j / 8, s = j / 2 % 4, l = 16 * (j & 1);
			const float dl = d * (float)(int8_t)src[192 + j];

			put16_i8(dst + 16 * j,
			         q6_k_bytes(src + 64 * half + l, src + 128 + 32 * half + l, s),
			         _mm256_set1_ps(dl));
		}
	}
}

void gp_dequantize_avx2(enum gp_type t, const void *src, float *dst, size_t n)
{
	switch (t) {
	case GP_TYPE_F16: f16(src, dst, n); break;
	case GP_TYPE_BF16: bf16(src, dst, n); break;
	case GP_TYPE_Q8_0: q8_0(src, dst, n); break;
	case GP_TYPE_Q4_0: q4_0(src, dst, n); break;
	case GP_TYPE_Q4_K: q4_k(src, dst, n); break;
	case GP_TYPE_Q6_K: q6_k(src, dst, n); break;
	default: gp_dequantize(t, src, dst, n);
	}
}

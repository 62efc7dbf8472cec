/* Vectors of 8 for packed_tiles.h. */
#include "kernels/math_avx2.h"

#define TILE_ROWS 4u
enum { LANES = 8 };

typedef __m256i vi;
typedef __m256 vf;

INLINE vi v_load(const void *p) { return _mm256_loadu_si256(p); }
INLINE void v_store(void *p, vi v) { _mm256_storeu_si256(p, v); }
INLINE vi v_byte(int v) { return _mm256_set1_epi8((char)v); }
INLINE vi v_word(int v) { return _mm256_set1_epi32(v); }
INLINE vi v_and(vi a, vi b) { return _mm256_and_si256(a, b); }
INLINE vi v_or(vi a, vi b) { return _mm256_or_si256(a, b); }
INLINE vi v_xor(vi a, vi b) { return _mm256_xor_si256(a, b); }
INLINE vi v_srl(vi v, unsigned n) { return _mm256_srli_epi32(v, (int)n); }
INLINE vi v_sll(vi v, unsigned n) { return _mm256_slli_epi32(v, (int)n); }
INLINE vi v_sra(vi v, unsigned n) { return _mm256_srai_epi32(v, (int)n); }

INLINE vi v_pick(vi mask, vi a, vi b) { return v_or(v_and(mask, a), _mm256_andnot_si256(mask, b)); }

INLINE vi v_table(const int8_t table[16])
{
	return _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table));
}

INLINE vi v_lookup(vi table, vi index) { return _mm256_shuffle_epi8(table, index); }

INLINE vi v_pairs(vi a, vi b, vi offset, vi scale)
{
	const vi both = _mm256_blend_epi16(a, v_sll(b, 16), 0xaa);

	return _mm256_madd_epi16(_mm256_add_epi16(both, offset), scale);
}

INLINE vi v_bytes(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)); }

INLINE vi v_bytes_signed(const uint8_t *p)
{
	return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p));
}

INLINE vi v_halves(const uint8_t *p)
{
	return _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
}

INLINE vf v_half(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
INLINE vf v_float(vi v) { return _mm256_cvtepi32_ps(v); }
INLINE vf v_set(float f) { return _mm256_set1_ps(f); }
INLINE vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf v_loadf(const float *p, uint32_t n) { return load_upto8(p, n); }
INLINE void v_storef(float *p, uint32_t n, vf v) { store_upto8(p, n, v); }

INLINE vi v_broadcast(const void *p)
{
	int32_t v;

	memcpy(&v, p, sizeof(v));
	return _mm256_set1_epi32(v);
}

INLINE vi pairs(vi q, vi x) { return _mm256_maddubs_epi16(q, x); }
INLINE vi signed_pairs(vi q, vi x) { return pairs(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q)); }
INLINE vi add_pairs(vi a, vi b) { return _mm256_add_epi16(a, b); }

INLINE vi widen_add(vi acc, vi p)
{
	return _mm256_add_epi32(acc, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
}

#include "kernels/packed_dot16.h"
#include "kernels/packed_tiles.h"

void gp_matmul_packed_avx2(float *y, size_t y_stride, const struct gp_q8 *x, uint32_t rows,
                           const void *w, enum gp_type type, uint32_t k, uint32_t n0,
                           uint32_t n1)
{
	matmul_packed(y, y_stride, x, rows, w, type, k, n0, n1);
}

/* Magnitudes as integers: their order is that of the floats, NaN above all. */
INLINE float largest(const vf x[4])
{
	const vi mask = _mm256_set1_epi32(0x7fffffff);
	vi most = _mm256_setzero_si256();
	float lanes[8];

	for (unsigned i = 0; i < 4; i++)
		most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(x[i]), mask));
	__m128i m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
	m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
	m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
	_mm_storeu_si128((void *)lanes, m);
	return lanes[0];
}

INLINE int32_t sum_words(vi v)
{
	__m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

	s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
	return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

INLINE int32_t quantize_half(int8_t *q, vf x, vf y, float inverse)
{
	const vf by = v_set(inverse);
	const vi a = _mm256_cvtps_epi32(v_mul(x, by)), b = _mm256_cvtps_epi32(v_mul(y, by));
	const vi words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);

	_mm_storeu_si128((void *)q, _mm_packs_epi16(_mm256_castsi256_si128(words),
	                                            _mm256_extracti128_si256(words, 1)));
	return sum_words(_mm256_add_epi32(a, b));
}

GP_UNCHECKED void gp_quantize_q8_avx2(struct gp_q8 *dst, size_t stride, const float *x,
                                      uint32_t k)
{
	for (; k; k -= 32, x += 32, dst += stride) {
		vf v[4];

		for (unsigned i = 0; i < 4; i++)
			v[i] = _mm256_loadu_ps(x + 8 * i);
		const float most = largest(v);
		const float inverse = gp_q8_inverse(most);
		if (inverse == 0.0f)
			for (unsigned i = 0; i < 4; i++)
				v[i] = v_set(0.0f);
		const int32_t low = quantize_half(dst->q, v[0], v[1], inverse);
		const int32_t high = quantize_half(dst->q + 16, v[2], v[3], inverse);

		gp_q8_finish(dst, most, low, high);
	}
}

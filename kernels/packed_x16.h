/* Vectors of 16 for packed_tiles.h: AVX-512 F, BW, VL, DQ. */
#ifndef GP_PACKED_X16_H
#define GP_PACKED_X16_H

#include "kernels/math_avx512.h"

#define TILE_ROWS 16u
enum { LANES = 16 };

typedef __m512i vi;
typedef __m512 vf;

INLINE vi v_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE void v_store(void *p, vi v) { _mm512_storeu_si512(p, v); }
INLINE vi v_byte(int v) { return _mm512_set1_epi8((char)v); }
INLINE vi v_word(int v) { return _mm512_set1_epi32(v); }
INLINE vi v_and(vi a, vi b) { return _mm512_and_si512(a, b); }
INLINE vi v_or(vi a, vi b) { return _mm512_or_si512(a, b); }
INLINE vi v_xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
INLINE vi v_srl(vi v, unsigned n) { return _mm512_srli_epi32(v, n); }
INLINE vi v_sll(vi v, unsigned n) { return _mm512_slli_epi32(v, n); }
INLINE vi v_sra(vi v, unsigned n) { return _mm512_srai_epi32(v, n); }

/* Where mask has ones a, else b. */
INLINE vi v_pick(vi mask, vi a, vi b) { return _mm512_ternarylogic_epi32(mask, a, b, 0xca); }

/* 16 bytes that nibbles choose from. */
INLINE vi v_table(const int8_t table[16])
{
	return _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table));
}

INLINE vi v_lookup(vi table, vi index) { return _mm512_shuffle_epi8(table, index); }

/* (a, b) + offset, which fit 16 bits, times scale, added up: a and b with the lower and
 * upper 16 bits. */
INLINE vi v_pairs(vi a, vi b, vi offset, vi scale)
{
	const vi up = _mm512_broadcast_i32x4(_mm_setr_epi32(0x01000000, 0x05040404, 0x09080808,
	                                                    0x0d0c0c0c));

	const vi both = _mm512_mask_shuffle_epi8(a, 0xcccccccccccccccc, b, up);

	return _mm512_madd_epi16(_mm512_add_epi16(both, offset), scale);
}

/* LANES bytes or 16-bit numbers, each to 32 bits. */
INLINE vi v_bytes(const uint8_t *p)
{
	return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
}

INLINE vi v_bytes_signed(const uint8_t *p)
{
	return _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p));
}

INLINE vi v_halves(const uint8_t *p)
{
	return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));
}

INLINE vf v_half(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
INLINE vf v_float(vi v) { return _mm512_cvtepi32_ps(v); }
INLINE vf v_set(float f) { return _mm512_set1_ps(f); }
INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf v_loadf(const float *p, uint32_t n) { return load_upto16(p, n); }
INLINE void v_storef(float *p, uint32_t n, vf v) { store_upto16(p, n, v); }

/* The same four bytes in every lane. */
INLINE vi v_broadcast(const void *p)
{
	int32_t v;

	memcpy(&v, p, sizeof(v));
	return _mm512_set1_epi32(v);
}

#endif

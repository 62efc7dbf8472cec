/* Every output has one accumulator of 16 lanes that walks k upwards, a masked
 * last step, and one reduction tree: whatever tile an output is computed in,
 * it sees the same operations in the same order. That is row invariance. */
#include "kernels/math_avx512.h"

enum {
	COLS = 8, /* 3 x 8 accumulators, 3 activations, 1 weight: of 32 registers */
};

#include "kernels/matmul_tiles.h"

INLINE __m512 load_weights(const uint8_t *w, size_t i, enum gp_type t)
{
	if (t == GP_TYPE_F32)
		return _mm512_loadu_ps(w + 4 * i);
	const __m256i h = _mm256_loadu_si256((const void *)(w + 2 * i));
	if (t == GP_TYPE_F16)
		return _mm512_cvtph_ps(h);
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

INLINE __m512 load_weights_tail(const uint8_t *w, size_t i, __mmask16 tail, enum gp_type t)
{
	if (t == GP_TYPE_F32)
		return _mm512_maskz_loadu_ps(tail, w + 4 * i);
	const __m256i h = _mm256_maskz_loadu_epi16(tail, w + 2 * i);
	if (t == GP_TYPE_F16)
		return _mm512_cvtph_ps(h);
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* acc[r][c] += x[r] w. */
INLINE void multiply(__m512 acc[ROWS][COLS], const __m512 x[ROWS], __m512 w, unsigned c,
                     const unsigned rows)
{
	/* The compiler would read w from memory again for each row. */
	__asm__("" : "+v"(w));
#pragma GCC unroll 8
	for (unsigned r = 0; r < ROWS; r++)
		if (r < rows)
			acc[r][c] = _mm512_fmadd_ps(x[r], w, acc[r][c]);
}

/* rows <= ROWS; cols is COLS or 1. The loops have constant bounds so that they
 * unroll and acc stays in registers. */
INLINE void tile(const struct operands *o, const unsigned rows, const unsigned cols,
                 const enum gp_type t)
{
	const __mmask16 tail = (__mmask16)((1u << o->k % 16) - 1u);
	const size_t size = t == GP_TYPE_F32 ? 4 : 2;
	__m512 acc[ROWS][COLS], x[ROWS];
	size_t i = 0;

#pragma GCC unroll 8
	for (unsigned r = 0; r < ROWS; r++)
#pragma GCC unroll 8
		for (unsigned c = 0; c < COLS; c++)
			acc[r][c] = _mm512_setzero_ps();
	for (; i + 16 <= o->k; i += 16) {
#pragma GCC unroll 8
		for (unsigned r = 0; r < ROWS; r++)
			if (r < rows)
				x[r] = _mm512_loadu_ps(o->x + r * o->x_stride + i);
#pragma GCC unroll 8
		for (unsigned c = 0; c < COLS; c++)
			if (c < cols) {
				const uint8_t *w = o->w + c * o->w_stride;

				if (rows < 3 && size * i % 64 == 0)
					__builtin_prefetch(w + ahead_of(o, size * i));
				multiply(acc, x, load_weights(w, i, t), c, rows);
			}
	}
	if (tail) {
#pragma GCC unroll 8
		for (unsigned r = 0; r < ROWS; r++)
			if (r < rows)
				x[r] = _mm512_maskz_loadu_ps(tail, o->x + r * o->x_stride + i);
#pragma GCC unroll 8
		for (unsigned c = 0; c < COLS; c++)
			if (c < cols)
				multiply(acc, x, load_weights_tail(o->w + c * o->w_stride, i, tail, t),
				         c, rows);
	}
#pragma GCC unroll 8
	for (unsigned r = 0; r < ROWS; r++)
		if (r < rows)
			_mm256_mask_storeu_ps(o->y + r * o->y_stride,
			                      (__mmask8)((1u << cols) - 1u), reduce8x16(acc[r]));
}

void gp_matmul_avx512(float *y, size_t y_stride, const float *x, size_t x_stride,
                      uint32_t rows, const void *w, enum gp_type type, uint32_t k,
                      uint32_t n0, uint32_t n1, float *scratch)
{
	matmul(y, y_stride, x, x_stride, rows, w, type, k, n0, n1, scratch);
}

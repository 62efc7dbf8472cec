/* Every output has one accumulator of 8 lanes that walks k upwards, a last step
 * padded with zeros, and one reduction tree: whatever tile an output is
 * computed in, it sees the same operations in the same order. That is row
 * invariance. */
#include "kernels/math_avx2.h"

enum {
	COLS = 4, /* 3 x 4 accumulators, 3 activations, 1 weight: all 16 registers */
};

#include "kernels/matmul_tiles.h"

INLINE __m256 widen(__m128i h, enum gp_type t)
{
	if (t == GP_TYPE_F16)
		return _mm256_cvtph_ps(h);
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

INLINE __m256 load_weights(const uint8_t *w, size_t i, enum gp_type t)
{
	if (t == GP_TYPE_F32)
		return _mm256_loadu_ps((const void *)(w + 4 * i));
	return widen(_mm_loadu_si128((const void *)(w + 2 * i)), t);
}

/* The last n < 8 elements, then zeros. */
INLINE __m256 load_tail(const uint8_t *p, size_t n, enum gp_type t)
{
	float f[8] = { 0 };
	uint16_t h[8] = { 0 };

	if (t == GP_TYPE_F32) {
		memcpy(f, p, 4 * n);
		return _mm256_loadu_ps(f);
	}
	memcpy(h, p, 2 * n);
	return widen(_mm_loadu_si128((const void *)h), t);
}

INLINE void store(float *y, __m128 v, const unsigned cols)
{
	if (cols == COLS)
		_mm_storeu_ps(y, v);
	else
		*y = _mm_cvtss_f32(v);
}

/* acc[r][c] += x[r] w. */
INLINE void multiply(__m256 acc[ROWS][COLS], const __m256 x[ROWS], __m256 w, unsigned c,
                     const unsigned rows)
{
	/* The compiler would read w from memory again for each row. */
	__asm__("" : "+x"(w));
#pragma GCC unroll 8
	for (unsigned r = 0; r < ROWS; r++)
		if (r < rows)
			acc[r][c] = _mm256_fmadd_ps(x[r], w, acc[r][c]);
}

/* rows <= ROWS; cols is COLS or 1. The loops have constant bounds so that they
 * unroll and acc stays in registers. */
INLINE void tile(const struct operands *o, const unsigned rows, const unsigned cols,
                 const enum gp_type t)
{
	const size_t size = t == GP_TYPE_F32 ? 4 : 2, tail = o->k % 8;
	__m256 acc[ROWS][COLS], x[ROWS];
	size_t i = 0;

#pragma GCC unroll 8
	for (unsigned r = 0; r < ROWS; r++)
#pragma GCC unroll 8
		for (unsigned c = 0; c < COLS; c++)
			acc[r][c] = _mm256_setzero_ps();
	for (; i + 8 <= o->k; i += 8) {
#pragma GCC unroll 8
		for (unsigned r = 0; r < ROWS; r++)
			if (r < rows)
				x[r] = _mm256_loadu_ps(o->x + r * o->x_stride + i);
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
				x[r] = load_tail((const void *)(o->x + r * o->x_stride + i), tail,
			                      GP_TYPE_F32);
#pragma GCC unroll 8
		for (unsigned c = 0; c < COLS; c++)
			if (c < cols)
				multiply(acc, x, load_tail(o->w + c * o->w_stride + size * i, tail, t),
				         c, rows);
	}
#pragma GCC unroll 8
	for (unsigned r = 0; r < ROWS; r++)
		if (r < rows)
			store(o->y + r * o->y_stride, reduce4x8(acc[r]), cols);
}

void gp_matmul_avx2(float *y, size_t y_stride, const float *x, size_t x_stride,
                    uint32_t rows, const void *w, enum gp_type type, uint32_t k,
                    uint32_t n0, uint32_t n1, float *scratch)
{
	matmul(y, y_stride, x, x_stride, rows, w, type, k, n0, n1, scratch);
}

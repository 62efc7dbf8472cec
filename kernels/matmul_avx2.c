/* Every output has one accumulator of 8 lanes that walks k upwards, a last step
 * padded with zeros, and one reduction tree: whatever tile an output is
 * computed in, it sees the same operations in the same order. That is row
 * invariance. */
#include "kernels/math_avx2.h"

enum {
	COLS = 4, /* weight rows of a tile */
	ROWS = 3, /* 12 accumulators, 3 activations, 1 weight: all 16 registers */
	/* From here on it pays to convert 16-bit weights once for all rows. */
	UNPACK_ROWS = 7,
	X_BLOCK_BYTES = 512 << 10, /* activations that stay in the L2 cache */
};

struct operands {
	float *y;
	const float *x;
	const uint8_t *w; /* first weight row of the tile */
	size_t y_stride, x_stride, w_stride; /* floats, floats, bytes */
	uint32_t k;
};

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
			if (c < cols)
				multiply(acc, x, load_weights(o->w + c * o->w_stride, i, t), c,
				         rows);
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

INLINE void all_rows(struct operands o, uint32_t rows, const unsigned cols,
                     const enum gp_type t)
{
	for (; rows >= 3; rows -= 3, o.x += 3 * o.x_stride, o.y += 3 * o.y_stride)
		tile(&o, 3, cols, t);
	if (rows == 2)
		tile(&o, 2, cols, t);
	else if (rows == 1)
		tile(&o, 1, cols, t);
}

INLINE void all_cols(struct operands o, uint32_t rows, uint32_t cols, const enum gp_type t)
{
	if (cols == COLS) {
		all_rows(o, rows, COLS, t);
		return;
	}
	for (; cols; cols--, o.w += o.w_stride, o.y++)
		all_rows(o, rows, 1, t);
}

static GP_UNCHECKED void columns_f32(const struct operands *o, uint32_t rows, uint32_t cols)
{
	all_cols(*o, rows, cols, GP_TYPE_F32);
}

static GP_UNCHECKED void columns_f16(const struct operands *o, uint32_t rows, uint32_t cols)
{
	all_cols(*o, rows, cols, GP_TYPE_F16);
}

static GP_UNCHECKED void columns_bf16(const struct operands *o, uint32_t rows, uint32_t cols)
{
	all_cols(*o, rows, cols, GP_TYPE_BF16);
}

/* Up to COLS outputs of each row. Weights that tile() does not read, or would
 * convert too often, pass through scratch: the values are the same. */
static void columns(struct operands o, uint32_t rows, uint32_t cols, enum gp_type type,
                    float *scratch)
{
	const bool half = type == GP_TYPE_F16 || type == GP_TYPE_BF16;

	if (half && rows < UNPACK_ROWS) {
		if (type == GP_TYPE_F16)
			columns_f16(&o, rows, cols);
		else
			columns_bf16(&o, rows, cols);
		return;
	}
	if (type != GP_TYPE_F32) {
		for (uint32_t c = 0; c < cols; c++)
			gp_dequantize_avx2(type, o.w + c * o.w_stride, scratch + (size_t)c * o.k,
			                   o.k);
		o.w = (const uint8_t *)scratch;
		o.w_stride = o.k * sizeof(float);
	}
	columns_f32(&o, rows, cols);
}

void gp_matmul_avx2(float *y, size_t y_stride, const float *x, size_t x_stride,
                    uint32_t rows, const void *w, enum gp_type type, uint32_t k,
                    uint32_t n0, uint32_t n1, float *scratch)
{
	const struct gp_type_info *info = gp_type_info(type);
	const size_t w_stride = (size_t)k / info->block_elems * info->block_bytes;
	const size_t fit = X_BLOCK_BYTES / sizeof(float) / (k ? k : 1);
	const uint32_t block = fit > 48 ? (uint32_t)fit : 48;

	for (uint32_t m = 0, n_rows; m < rows; m += n_rows) {
		n_rows = rows - m < block ? rows - m : block;
		for (uint32_t n = n0, n_cols; n < n1; n += n_cols) {
			n_cols = n1 - n < COLS ? n1 - n : COLS;
			columns((struct operands){ .y = y + m * y_stride + n, .y_stride = y_stride,
			                           .x = x + m * x_stride, .x_stride = x_stride,
			                           .w = (const uint8_t *)w + n * w_stride,
			                           .w_stride = w_stride, .k = k },
			        n_rows, n_cols, type, scratch);
		}
	}
}

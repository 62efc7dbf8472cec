/* What the matrix products of all instruction sets share: which tile computes
 * what. The file that includes this has defined COLS (weight rows of a tile) and
 * defines tile(): rows (1 to 3) x cols (COLS or 1) outputs, each by one and the
 * same order of operations, whatever the tile. */
#ifndef GP_MATMUL_TILES_H
#define GP_MATMUL_TILES_H

#include "kernels/isa.h"

enum {
	ROWS = 3, /* accumulators, activations and a weight fill the registers */
	AHEAD_BYTES = 8 << 10,     /* as much as a core keeps in flight, and some */
	X_BLOCK_BYTES = 512 << 10, /* activations that stay in the L2 cache */
};

struct operands {
	float *y;
	const float *x;
	const uint8_t *w; /* first weight row of the tile */
	size_t y_stride, x_stride, w_stride; /* floats, floats, bytes */
	uint32_t k;
};

INLINE void tile(const struct operands *o, const unsigned rows, const unsigned cols,
                 const enum gp_type t);

/* From byte at of a weight row to what is prefetched: what comes soon of that row,
 * past its end what comes soon of the row that the next tile reads at its place. */
INLINE size_t ahead_of(const struct operands *o, size_t at)
{
	const size_t soon = at + AHEAD_BYTES / COLS;

	return soon < o->w_stride ? soon : soon + (COLS - 1) * o->w_stride;
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

/* Up to COLS outputs of each row. Weights that tile() does not read pass through
 * scratch as floats. */
static void columns(struct operands o, uint32_t rows, uint32_t cols, enum gp_type type,
                    float *scratch)
{
	switch (type) {
	case GP_TYPE_F16: columns_f16(&o, rows, cols); return;
	case GP_TYPE_BF16: columns_bf16(&o, rows, cols); return;
	case GP_TYPE_F32: break;
	default:
		for (uint32_t c = 0; c < cols; c++)
			gp_dequantize_avx2(type, o.w + c * o.w_stride, scratch + (size_t)c * o.k,
			                   o.k);
		o.w = (const uint8_t *)scratch;
		o.w_stride = o.k * sizeof(float);
	}
	columns_f32(&o, rows, cols);
}

static void matmul(float *y, size_t y_stride, const float *x, size_t x_stride,
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

#endif

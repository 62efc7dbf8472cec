/* Between float32 rows and the tiles of aie.h. All functions fill whole tiles, zeros where
 * rows or elements are missing, and work from any thread. */
#ifndef GP_AIE_PACK_H
#define GP_AIE_PACK_H

#include <stddef.h>

#include "kernels/aie/aie.h"

/* What a tile is cut from: `rows` rows (at most the tile's), `k` elements of each (at most
 * the tile's). Row i is at data + i * stride; stride counts floats. */
struct gp_aie_piece {
	const float *data;
	size_t stride;
	uint32_t rows, k;
};
/* To 8 bits, one scale a row: round to nearest even of x / (largest / 127). Not finite
 * inputs make the scale so. */
void gp_aie_pack_int4_x(struct gp_aie_int4_x *tile, const struct gp_aie_piece *x);
void gp_aie_pack_bf16_x(struct gp_aie_bf16_x *tile, const struct gp_aie_piece *x);
void gp_aie_pack_gemv_x(struct gp_aie_gemv_x *tile, const struct gp_aie_piece *x);
void gp_aie_pack_bf16_w(struct gp_aie_bf16_w *tile, const struct gp_aie_piece *w);
/* From rows of Q4_0 blocks (kernels.h): codes as they are; a slice's scales as integers
 * with one step, within 2^-14 of the slice's largest. stride: bytes; k: a multiple of 32. */
void gp_aie_pack_int4_w(struct gp_aie_int4_w *tile, const void *q4_0, size_t stride,
                        uint32_t rows, uint32_t k);

/* rows x columns of a block of 4 tiles (of one column, one below the other) to y, whose
 * rows are `stride` floats apart. */
void gp_aie_unpack_y(enum gp_aie_form form, const void *tiles, float *y, size_t stride,
                     uint32_t rows, uint32_t columns);

#endif

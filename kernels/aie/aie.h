/* Kernels of the NPU's compute tiles: their shapes, and the layout of what is streamed
 * through them. Shared by the host (C: packing, the simulated array), by the kernels
 * (C++, for the vendor's compiler or, over emulation.h, for the host's) and by the design
 * scripts, whose numbers tests/npu checks against these.
 *
 * A product y[M][N] = x[M][K] w[N][K]^T is cut into tiles of m rows, k elements and n
 * outputs. Of the 4 x 4 tiles, row r takes the r-th m rows of x, column c the c-th n
 * outputs: 4m x 4n outputs at a time, a block. Blocks of one x go along N first:
 *
 *   column c, channel 0 in:  x tiles of row c       -> memory tile c -> all tiles of row c
 *   column c, channel 1 in:  w tiles of column c    -> memory tile c -> all tiles of column c
 *   column c, channel 0 out: y tiles of rows 0 to 3 <- memory tile c <- all tiles of column c
 *
 * All streams are plain sequences of tiles, each as the kernel reads it: no DMA has to
 * gather anything. With S = slices of K (k elements each), B blocks of rows, C blocks of
 * outputs:
 *   x: [row 4][block of rows B][slice S] x tiles        a row's blocks are read C times each
 *   w: [column 4][block of outputs C][slice S] w tiles  read B times
 *   y: [column 4][block of rows B][block of outputs C][row 4] y tiles
 * K and N that are no whole tiles are filled with zeros. An x tile begins with a header that
 * tells how many slices the sum has: a tile takes its first x tile, learns S from it, and
 * gives its y tile away after the S-th. So no run-time parameter has to reach the tiles,
 * and one program serves every K. All numbers are little-endian.
 *
 * GEMV (one row of x) sends the same w streams: the memory tile deals the four parts of a
 * w tile out to the four rows of its column, and every tile gets the same x. */
#ifndef GP_AIE_H
#define GP_AIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GP_AIE_COLUMNS 4u
#define GP_AIE_ROWS 4u
#define GP_AIE_DATA_BYTES 65536u   /* data memory of a compute tile [AM020] */
#define GP_AIE_STACK_BYTES 4096u   /* of it, for the stack: mlir-aie gives its products 3328 */
#define GP_AIE_MEMORY_TILE_BYTES 524288u

struct gp_aie_header {             /* of an x tile */
	uint32_t slices;           /* S, 1 or more */
	uint32_t slice;            /* which this is, from 0 */
	uint32_t zero[14];         /* to 64 bytes, which vector loads want */
};

/* ---- int4 weights, int8 activations: "gemm-int4-32x256x64" ----------------------
 * Weights: 4-bit codes q in [-8, 7], a group of 32 along K has a scale. Activations: 8-bit
 * q in [-127, 127], with one scale for a slice of 256 of a row. So that the sums of a whole
 * slice are integers, group scales are integers t, |t| <= 8191, times a float32 step of the
 * (output, slice):
 *   T[m][n] = sum over groups g of t[n][g] * sum over k in g of xq[m][k] wq[n][k]
 *   y[m][n] += (float)T[m][n] * (x_scale[m] * w_step[n])
 * |inner sum| <= 32 * 127 * 8 = 32512 fits int16 and |T| <= 8 * 32512 * 8191 < 2^31, so
 * both are exact. The float32 steps round to nearest even, slice by slice, upwards in k. */
#define GP_AIE_INT4_M 32u
#define GP_AIE_INT4_K 256u
#define GP_AIE_INT4_N 64u
#define GP_AIE_INT4_GROUP 32u
#define GP_AIE_INT4_GROUPS 8u      /* of a slice */
#define GP_AIE_INT4_MAX_T 8191
#define GP_AIE_INT4_PART_N 16u     /* a w tile is four parts of 16 outputs */
/* mmul 4 x 16 x 8: rows in fours, K in sixteens, outputs in eights. */
struct gp_aie_int4_x {
	struct gp_aie_header header;
	float scale[GP_AIE_INT4_M];
	/* [m / 4][k / 16][m % 4][k % 16] */
	int8_t q[GP_AIE_INT4_M * GP_AIE_INT4_K];
};
struct gp_aie_int4_part {
	float step[GP_AIE_INT4_PART_N];
	/* [n / 8][group][n % 8] */
	int16_t t[GP_AIE_INT4_PART_N * GP_AIE_INT4_GROUPS];
	/* [n / 8][k / 16][k % 16][n % 8], two's complement, the even element in the low half */
	uint8_t q[GP_AIE_INT4_PART_N * GP_AIE_INT4_K / 2];
};
struct gp_aie_int4_w { struct gp_aie_int4_part part[GP_AIE_INT4_N / GP_AIE_INT4_PART_N]; };
/* y tile: float32 [n / 8][m / 4][m % 4][n % 8] */
struct gp_aie_int4_y { float y[GP_AIE_INT4_M * GP_AIE_INT4_N]; };

/* ---- bf16: "gemm-bf16-64x64x64" ---------------------------------------------------
 * mmul 4 x 8 x 4; sums are float32, upwards in k. */
#define GP_AIE_BF16_M 64u
#define GP_AIE_BF16_K 64u
#define GP_AIE_BF16_N 64u
struct gp_aie_bf16_x {
	struct gp_aie_header header;
	uint16_t x[GP_AIE_BF16_M * GP_AIE_BF16_K];  /* [m / 4][k / 8][m % 4][k % 8] */
};
struct gp_aie_bf16_w { uint16_t w[GP_AIE_BF16_K * GP_AIE_BF16_N]; }; /* [n / 4][k / 8][k % 8][n % 4] */
struct gp_aie_bf16_y { float y[GP_AIE_BF16_M * GP_AIE_BF16_N]; };    /* [n / 4][m / 4][m % 4][n % 4] */

/* ---- one row, int4 weights unpacked in the tile: "gemv-int4-1x256x64" ---------------
 * Streams w as gemm-int4 does, with bfloat16 x, whose rows are 1. Tile (r, c) makes outputs
 * 16r to 16r + 15 of column c's 64: part r of each w tile. Every column streams the same x.
 *   y[n] += sum over groups g of (sum over k in g of x[k] wq[n][k]) * (t[n][g] * w_step[n]) */
struct gp_aie_gemv_x {
	struct gp_aie_header header;
	uint16_t x[GP_AIE_INT4_K];
};
struct gp_aie_gemv_y { float y[GP_AIE_INT4_PART_N]; };

/* ---- the forms -------------------------------------------------------------------- */
enum gp_aie_form { GP_AIE_GEMM_INT4, GP_AIE_GEMM_BF16, GP_AIE_GEMV_INT4, GP_AIE_FORMS };
struct gp_aie_form_info {
	const char *name;                      /* of its program: FORM-MxKxN */
	uint32_t m, k, n;                      /* of a tile; n: of a column's tiles together in GEMV */
	uint32_t x_bytes, w_bytes, y_bytes;    /* of what is streamed for a tile; y: of one tile */
	bool shares_x;                         /* every column gets the same x */
};
extern const struct gp_aie_form_info gp_aie_forms[GP_AIE_FORMS];
const struct gp_aie_form_info *gp_aie_form_by_name(const char *name); /* NULL: there is none */

#ifdef __cplusplus
extern "C" {
#endif
/* ---- the kernels (*.cc) -------------------------------------------------------------
 * What runs on a compute tile for each pair of tiles that it gets. Pointers are aligned to
 * 32 bytes. y is set by slice 0 (x's header tells) and added to by the others. Compiled by
 * the vendor's compiler for the NPU, by the host's over emulation/ for the simulated array
 * and the tests. No state, any thread. */
void gp_aie_gemm_int4(const struct gp_aie_int4_x *x, const struct gp_aie_int4_w *w,
                      struct gp_aie_int4_y *y);
void gp_aie_gemm_bf16(const struct gp_aie_bf16_x *x, const struct gp_aie_bf16_w *w,
                      struct gp_aie_bf16_y *y);
void gp_aie_gemv_int4(const struct gp_aie_gemv_x *x, const struct gp_aie_int4_part *w,
                      struct gp_aie_gemv_y *y);

/* ---- packing (pack.c, the host's) -----------------------------------------------------
 * Between float32 rows and tiles. All functions fill whole tiles, zeros where rows or
 * elements are missing, and work from any thread. */

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
/* From rows of Q4_0 blocks (kernels/kernels.h): codes as they are; a slice's scales as integers
 * with one step, within 2^-14 of the slice's largest. stride: bytes; k: a multiple of 32. */
void gp_aie_pack_int4_w(struct gp_aie_int4_w *tile, const void *q4_0, size_t stride,
                        uint32_t rows, uint32_t k);

/* rows x columns of a block of 4 tiles (of one column, one below the other) to y, whose
 * rows are `stride` floats apart. */
void gp_aie_unpack_y(enum gp_aie_form form, const void *tiles, float *y, size_t stride,
                     uint32_t rows, uint32_t columns);
#ifdef __cplusplus
}
#endif

#endif

/* From the shape of a product to the instruction words of one command. Pure functions. */
#ifndef GP_NPU_SEQUENCE_H
#define GP_NPU_SEQUENCE_H

#include "kernels/aie/aie.h"
#include "workers/npu/npu.h"

/* What one command may be asked: each x block is a task of its own, and a channel's queue
 * holds four; a task repeats at most 256 times. So a command has at most 24 tasks and
 * never writes a buffer descriptor twice: arrays have been seen to hang after hundreds
 * (M = K = N >= 2048 in one command of the usual designs). */
#define GP_NPU_MOST_ROW_BLOCKS 4u
#define GP_NPU_MOST_OUT_BLOCKS 256u
#define GP_NPU_MOST_TASKS 24u
#define GP_NPU_SEQUENCE_WORDS 1024u /* enough for any */

/* The arguments of a command: 0 is x, 1 is w, 2 is y, each in the order of aie.h. */
struct gp_npu_dispatch {
	enum gp_aie_form form;
	uint32_t row_blocks;   /* B, of 4m rows; GEMV: 1 */
	uint32_t out_blocks;   /* C, of 4n outputs */
	uint32_t slices;       /* S, of k elements */
	uint64_t w_offset;     /* bytes to column 0's first w tile, a multiple of 4 */
	uint64_t w_stride;     /* from column to column; 0: without gaps */
};
/* Bytes of x, w (without gaps) and y. -EOVERFLOW. */
int gp_npu_dispatch_bytes(const struct gp_npu_dispatch *d, size_t *x, size_t *w, size_t *y);
/* -EINVAL (message): more than a command may be asked. */
int gp_npu_sequence(const struct gp_npu_dispatch *d, uint32_t words[GP_NPU_SEQUENCE_WORDS],
                    uint32_t *n_words);

#endif

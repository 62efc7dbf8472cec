/* The simulated array: what a command does, computed by the project's own tile kernels, and
 * how long the published limits say that it takes at least. A prediction, not a
 * measurement: whatever shows its numbers has to say "simulated". No state, any thread. */
#ifndef GP_NPU_ARRAY_H
#define GP_NPU_ARRAY_H

#include <stddef.h>
#include <stdint.h>

/*
 * The limits, and whose they are.
 *   clock            1 GHz: the port widths' figures are given for it. Phoenix' own clock
 *                    depends on its power mode.
 *   port             4 bytes a cycle of each DMA channel and stream [AM020: 32-bit streams].
 *   memory           16 GB/s both ways together. Programs measured publicly on Phoenix reach 8
 *                    to 23 GB/s; the ports alone would allow 32 in.
 *   dispatch         170 us from submit to the end of an empty command: publicly 127 to 220,
 *                    45 at the very least.
 *   kernels          cycles per pair of tiles: instructions counted by hand from
 *                    the kernels for one product, one vector operation and two loads a
 *                    cycle (AM020: 512 int8 x int4, 128 bfloat16 products a cycle); float32
 *                    products count nine. No compiler has scheduled them yet.
 */
#define GP_ARRAY_CLOCK_HZ 1000000000ull
#define GP_ARRAY_PORT_BYTES 4u
#define GP_ARRAY_MEMORY_BYTES_PER_S 16000000000ull
#define GP_ARRAY_DISPATCH_NS 170000u
#define GP_ARRAY_LOCK_CYCLES 60u   /* taking and giving the buffers of a pair of tiles */

struct gp_npu_count {
	uint64_t cycles;               /* of the array */
	uint64_t bytes_in, bytes_out;  /* of memory */
	uint64_t ns;                   /* the command, dispatch included */
};

/* Runs a command of the program with this name. args are the data buffers as the
 * instructions number them. -ENOENT: no such program; -EINVAL, -ERANGE: instructions that
 * are broken or reach past a buffer; -ETIMEDOUT: the array would wait forever, because what
 * is streamed in and taken out do not match. The buffers' contents are then undefined.
 * count may be NULL. */
int gp_npu_array_run(const char *program, const uint32_t *words, size_t n_words,
                     void *const args[], const size_t arg_bytes[], size_t n_args,
                     struct gp_npu_count *count);
/* The same of a product's shape alone, without running it. */
struct gp_npu_dispatch;
void gp_npu_array_predict(const struct gp_npu_dispatch *d, struct gp_npu_count *count);

#endif

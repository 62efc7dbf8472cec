/* What the benchmarks of the Vulkan shaders share: products (shaders.c), attention, and
 * all other operations. */
#ifndef TESTS_BENCH_SHADERS_H
#define TESTS_BENCH_SHADERS_H

#include "workers/vulkan/vulkan_device.h"
#include "workers/workers.h"

#define COLD_BYTES ((size_t)512 << 20)  /* read in turn: more than caches hold */
#define MOST_ROWS 512u

struct options {
	const char *model, *only;
	enum gp_type type;
	uint32_t rows[16], n_rows;
	uint32_t positions[16], n_positions, sequences[16], n_sequences;
	struct vk_tiling tiling;
	bool json;
};

struct model {
	const char *name;
	struct gp_config c;
};

/* ---- shaders_common.c ---- */
void die(void);                /* with gp_error */
void check(int rc);            /* dies below zero */
/* Of the floats of one kind of result: [row][i] is y, not want. */
void check_near(const char *what, uint32_t row, uint32_t i, float y, double want, double tolerance);
float *random_floats(size_t n);
struct gp_tensor random_vector(uint32_t n); /* around 1 */
void put(struct vulkan_device *d, enum gp_buffer b, const float *x, size_t n);
float *get(struct vulkan_device *d, const struct vk_span *from, size_t n);

/* Seconds of run(arg, i), i in [0, n), on the device's clock: the fastest of several times. */
double seconds(struct vulkan_device *d, void (*run)(void *arg, uint32_t i), void *arg, uint32_t n);
/* Once, for its results. */
void run_once(struct vulkan_device *d, void (*run)(void *arg, uint32_t i), void *arg);
bool is_wanted(const struct options *o, const char *name);
/* flop 0: not worth telling. */
void report(const struct options *o, const char *model, const char *shader, const char *of,
            uint32_t rows, double s, double bytes, double flop);

/* ---- shaders_attention.c, shaders_ops.c ---- */
void bench_attention(struct vulkan_device *d, const struct model *m, const struct options *o);
void bench_ops(struct vulkan_device *d, const struct model *m, const struct options *o);

#endif

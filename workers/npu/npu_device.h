/* The NPU stage's own state, shared by its files: a CPU device whose large products of
 * prompts go to the NPU, where that pays. */
#ifndef GP_NPU_DEVICE_H
#define GP_NPU_DEVICE_H

#include "kernels/aie/aie.h"
#include "workers/cpu/cpu_device.h"
#include "workers/npu/npu.h"
#include "workers/npu/sequence.h"

#define NPU_STAGING_BYTES ((size_t)64 << 20) /* each of two */
#define NPU_LAYER_COMMANDS 3u  /* at most, of a step: each costs 0.1 ms and more */
#define NPU_LAYER_MATRICES 7u  /* q, k, v, output, gate, up, down */

struct npu_memory { struct gp_npu_buffer *buffer; void *host; size_t bytes; };

struct npu_weight {            /* a matrix in the order in which it is streamed */
	enum gp_aie_form form;
	uint32_t rows, cols;
	uint32_t slices, blocks;   /* of k elements; of 4n outputs */
	uint32_t part_blocks;      /* that one command takes */
	size_t bytes;
	char *data;
	struct cpu_pages pages;    /* the host's, copied into staging for each command, */
	struct npu_memory pinned;  /* or a buffer of the device */
};

struct npu_staging {
	struct npu_memory memory;
	const struct npu_weight *holds;  /* from this block on */
	uint32_t first_block;
};

/* Of one product of `rows` rows. Published constants until measured. */
struct npu_cost {
	bool measured, simulated;
	double dispatch_ns;
	double pair_ns[GP_AIE_FORMS];    /* a pair of tiles on all 16 compute tiles */
	double copy_ns;                  /* a byte of host memory moved */
	double host_ns;                  /* one multiplication and addition on the host */
};

struct npu_device {
	struct cpu_device cpu;     /* first: the host's operations take this for theirs */
	const struct gp_npu_driver *driver;
	struct gp_npu *npu;        /* NULL: the host computes all */
	struct gp_npu_info info;
	struct gp_npu_context *context[GP_AIE_FORMS];
	struct npu_memory instructions, x, y;
	struct npu_staging staging[2];
	uint32_t turn;             /* the staging buffer that was filled last */
	uint64_t pin_bytes, pinned_bytes;
	struct npu_cost cost;
	bool always;               /* GP_NPU_USE=always: not only where it pays */
	size_t staging_bytes;      /* NPU_STAGING_BYTES, or less: GP_NPU_STAGING, for tests */

	struct npu_weight **weight; /* by handle - 1; NULL: the host's alone */
	size_t n_weights, weights_room;
	size_t least_size;         /* of a matrix that may go to the NPU, by its elements */
	uint32_t matrices, layer_commands; /* loaded so far; of the layer in hand */

	bool prefill;              /* the step in hand has rows of one sequence side by side */
	volatile bool cancelled;   /* by the control thread; only by atomic loads and stores */
	bool runs;                 /* a command; left behind by a step that was cancelled */
	uint64_t deadline_ns;      /* its */
	uint64_t commands, command_ns;
};

/* npu_driver.c: "sim", "off" or NULL, the real one; *driver NULL for off. */
int npu_driver(const char *which, const struct gp_npu_driver **driver);
/* The context of a form's program, loaded when first asked for. It comes before the buffers
 * that it uses: those taken without one have been reported to be ignored, or to wedge the
 * NPU (amd/xdna-driver issue 1645). npu_take takes from the memory of the last form's. */
int npu_context(struct npu_device *d, enum gp_aie_form form, struct gp_npu_context **context);
int npu_take(struct npu_device *d, enum gp_npu_use use, size_t bytes, const char *what,
             struct npu_memory *m);
void npu_give(struct npu_device *d, struct npu_memory *m);
/* Writes instructions and starts; x is in place. w_offset of dispatch counts in w. */
int npu_submit(struct npu_device *d, const struct gp_npu_dispatch *dispatch,
               const struct npu_memory *w, const struct npu_memory *x, const struct npu_memory *y);
int npu_wait(struct npu_device *d, struct gp_npu_result *result);
/* Ends what a cancelled step has left behind: until then its buffers are the device's. */
int npu_drain(struct npu_device *d);
/* "NPU" or "simulated NPU": what every message begins with. */
const char *npu_word(const struct npu_device *d);

/* npu_weights.c */
int npu_configure(void *dev, const struct gp_stage_shape *shape);
int npu_load(void *dev, const struct gp_tensor *t, float norm_offset, gp_handle *out);
int npu_finish_load(void *dev);
void npu_release(struct npu_device *d);
/* Commands that a product of so many rows takes. */
uint32_t npu_commands(const struct npu_weight *w, uint32_t rows);
uint64_t npu_memory_bytes(void *dev);

/* npu_worker.c */
int npu_open(void **dev, const struct gp_device_options *o);
void npu_close(void *dev);

/* npu_products.c */
int npu_begin_step(void *dev, const struct gp_batch *b, const float *hidden_in);
int npu_matmul(void *dev, enum gp_buffer from, const struct gp_matmul_out *out, size_t n_out);
uint32_t npu_row_blocks(enum gp_aie_form form, uint32_t rows);

/* npu_cost.c */
void npu_published_cost(struct npu_cost *c);
/* The device's constants by two small commands, the host's by a product with w. */
int npu_measure_device(struct npu_device *d, enum gp_aie_form form);
int npu_measure_host(struct npu_device *d, const struct npu_weight *w, gp_handle handle);
double npu_product_ns(const struct npu_cost *c, const struct npu_weight *w, uint32_t rows);
double npu_host_ns(const struct npu_cost *c, const struct npu_weight *w, uint32_t rows);
/* Which of n products of one input go to the NPU, bit by bit, so that both sides, working
 * at the same time, are done soonest. NULL among them: the host's. */
uint32_t npu_share(const struct npu_cost *c, const struct npu_weight *const *w, size_t n,
                   uint32_t rows);

/* npu_report.c, for gempipe check npu --verify and gempipe bench --device npu */
int npu_verify(const struct gp_device_options *o);
int npu_measure(const struct gp_device_options *o, bool json);

#endif

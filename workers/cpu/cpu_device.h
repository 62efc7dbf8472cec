/* The CPU device's own state, shared by its files. */
#ifndef GP_CPU_DEVICE_H
#define GP_CPU_DEVICE_H

#include <jansson.h>
#include <stdatomic.h>

#include "model/model.h"
#include "workers/cpu/threads.h"
#include "workers/workers.h"

/* Matrix rows that go to one thread together: a cache line of the result, and
 * whole groups of packed weights for every instruction set. */
#define CPU_MATMUL_GRAIN 16u

/* Anonymous pages, zeroed, on huge pages where the kernel has them. */
struct cpu_pages {
	void *data;
	size_t bytes;
};

struct cpu_weight {
	struct cpu_pages pages;
	enum gp_type type;     /* F32 for vectors, whose offset is added already */
	bool packed;           /* in groups of the kernels' lanes */
	uint32_t rows, cols;
};

#define MAX_MATMUL_OUT 4u

struct cpu_share {             /* of one output of a product, or of attention; of one thread */
	_Alignas(64) _Atomic uint32_t next; /* piece that nobody has taken */
};

struct cpu_kv_pool {           /* of one kind */
	struct cpu_pages *blocks;  /* by id */
	uint32_t n, room;
	uint32_t n_layers;
	size_t block_bytes;
};

struct cpu_tile {              /* rows of the step: one sequence, consecutive positions */
	uint32_t row, rows;
	uint32_t first_part, parts;  /* what they see, in parts of GP_KV_PART */
	uint32_t slot;               /* of its states when it is split */
};

struct cpu_device {
	struct gp_kernels k;
	struct gp_threads *threads;
	atomic_bool cancelled;
	struct cpu_share *shares;        /* [MAX_MATMUL_OUT][threads] */

	/* by configure */
	struct gp_config config;
	struct gp_stage_shape shape;     /* .config is the one above */
	struct cpu_pages buffers;
	float *buffer[GP_BUF_COUNT];
	uint32_t width[GP_BUF_COUNT];
	float *rope[GP_KV_KINDS];        /* [row][cos, sin][head_dim / 2] */
	float *inv_freq[GP_KV_KINDS];
	struct gp_q8 *quantized;         /* the input of the product in hand */
	float *scratch;                  /* [thread][scratch_floats] */
	size_t scratch_floats;
	struct gp_candidate *candidates; /* [thread][GP_MAX_CANDIDATES] */
	const void **pointers;           /* [thread][K, V][table_blocks] */
	uint32_t table_blocks;
	float *attn_scratch;             /* [thread][attn_scratch_floats]: kernel's, states */
	size_t attn_scratch_floats;
	float *attn_states;              /* [attn_slots] states of split tiles */
	uint32_t attn_slots;
	struct cpu_tile *tiles;          /* [max_rows] */
	struct gp_kv_place place[GP_MAX_LAYERS];
	struct cpu_kv_pool kv[GP_KV_KINDS];
	uint32_t kv_row_bytes;           /* one head of one position */

	struct cpu_weight *weights;
	size_t n_weights, weights_room;

	const struct gp_batch *batch;    /* the step in hand */
};

/* cpu.c: the NPU's device has one of these in it (workers/npu). d is zeroed; after a
 * failure nothing is to be finished. */
int cpu_start(struct cpu_device *d, const struct gp_device_options *o);
void cpu_finish(struct cpu_device *d);
void cpu_describe(const struct gp_device_options *o, char text[256]);
void cpu_cancel(void *dev);

/* cpu_memory.c */
int cpu_pages_take(struct cpu_pages *p, size_t bytes, const char *what);
void cpu_pages_give(struct cpu_pages *p);
int cpu_configure(void *dev, const struct gp_stage_shape *shape);
int cpu_load(void *dev, const struct gp_tensor *t, float norm_offset, gp_handle *out);
uint64_t cpu_memory_bytes(void *dev);
void cpu_release(struct cpu_device *d); /* all that configure and load took */

/* cpu_kv.c */
int cpu_kv_layout(struct cpu_device *d);
int cpu_kv_reserve(void *dev, enum gp_kv_kind kind, uint32_t id);
int cpu_kv_copy(void *dev, enum gp_kv_kind kind, uint32_t to, uint32_t from);
void cpu_kv_release(struct cpu_device *d);
/* K (which 0) or V (1) of a head in a block of the layer: the first of 64 rows. */
void *cpu_kv_rows(const struct cpu_device *d, uint32_t layer, uint32_t block, uint32_t which,
                  uint32_t head);

/* cpu_ops.c */
int cpu_begin_step(void *dev, const struct gp_batch *b, const float *hidden_in);
int cpu_embed(void *dev, gp_handle table, float scale);
int cpu_rms_norm(void *dev, enum gp_buffer to, enum gp_buffer from, gp_handle w);
int cpu_matmul(void *dev, enum gp_buffer from, const struct gp_matmul_out *out, size_t n_out);
int cpu_geglu(void *dev);
int cpu_add(void *dev, enum gp_buffer to, enum gp_buffer from);
int cpu_head(void *dev, gp_handle table);
int cpu_end_step(void *dev, enum gp_buffer from, float *out);
const float *cpu_peek(void *dev, enum gp_buffer b);
int cpu_check(void *dev, enum gp_buffer b, uint32_t rows);
/* fn over all threads, or on this one alone where the work (in touched floats)
 * is less than waking the others costs. -ECANCELED when the step is. */
int cpu_run(struct cpu_device *d, gp_threads_fn *fn, void *arg, uint64_t work);
const struct cpu_weight *cpu_weight(const struct cpu_device *d, gp_handle h);
/* Before a run that takes from the shares [n][threads]. */
void cpu_untake_shares(struct cpu_device *d, size_t n);

/* cpu_list.c */
json_t *cpu_list(void);

/* cpu_logits.c: what the step wants of its logit rows, as end_step gives it. */
int cpu_logits_out(struct cpu_device *d, float *out);

/* cpu_attention.c */
int cpu_qk_rope_append(void *dev, uint32_t layer, gp_handle q_norm, gp_handle k_norm);
int cpu_attention(void *dev, uint32_t layer);
void cpu_attention_layout(struct cpu_device *d); /* sizes of its memory, by shape and threads */
void cpu_rope_rows(struct cpu_device *d, uint32_t first, uint32_t end);

#endif

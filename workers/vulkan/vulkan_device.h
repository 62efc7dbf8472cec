/* The Vulkan device's own state, shared by its files. Buffers are reached by their
 * addresses (VK_KHR_buffer_device_address, in 1.2), so shaders have no descriptors. */
#ifndef GP_VULKAN_DEVICE_H
#define GP_VULKAN_DEVICE_H

#include <jansson.h>
#include <stdatomic.h>
#include <vulkan/vulkan.h>

#include "model/model.h"
#include "workers/vulkan/cooperative_matrix.h"

/* Message and -EIO, -ENOMEM or -ENODEV for a result below zero. */
int vk_fail(VkResult r, const char *what);

/* ---- memory (vk_memory.c) ----------------------------------------------------- */
#define VK_ALIGN_BYTES 256u    /* of every span */
enum vk_memory { VK_MEMORY_DEVICE, VK_MEMORY_TO_DEVICE, VK_MEMORY_TO_HOST,
                 VK_MEMORY_STEP /* the device's own if the host can write it, or the host's */ };

struct vk_block {              /* one allocation, one buffer over it */
	VkDeviceMemory memory;
	VkBuffer buffer;
	VkDeviceAddress address;
	char *host;                /* NULL: not mapped */
	VkDeviceSize bytes, used, allocated;
	uint32_t type;
};

struct vk_arena {              /* grows by blocks, given back as a whole */
	enum vk_memory kind;
	struct vk_block *blocks;
	uint32_t n, room;
	uint32_t first_open;       /* blocks before it are full */
	uint64_t bytes, expected;  /* expected in all; 0: unknown */
	uint64_t slack;            /* where that is known: what may stay unused of it */
};

struct vk_span {
	VkBuffer buffer;
	VkDeviceSize offset;
	VkDeviceAddress address;   /* a multiple of 256 */
	char *host;
};

struct vulkan_device;
int vk_take(struct vulkan_device *d, struct vk_arena *a, size_t bytes, const char *what,
            struct vk_span *out);
void vk_give_all(struct vulkan_device *d, struct vk_arena *a);
/* Blocks for count takes of so many bytes, which then need no more memory. */
int vk_reserve(struct vulkan_device *d, struct vk_arena *a, size_t bytes, uint32_t count,
               const char *what);
bool vk_may_hold_weights(const struct vulkan_device *d, uint32_t heap);

/* ---- the budget (vk_budget.c) ---- */
uint64_t vk_heap_room(const struct vulkan_device *d, uint32_t heap);
/* After the buffers of a step were taken, before anything else is: -ENOMEM with the
 * numbers where weights and KV cache will not fit beside them. */
int vk_check_fit(struct vulkan_device *d);
uint64_t vk_work_bytes(const struct vulkan_device *d); /* a step's buffers */
uint64_t vk_buffer_bytes(const struct vulkan_device *d, enum gp_buffer b);
uint32_t vk_most_kv_blocks(const struct vulkan_device *d, enum gp_kv_kind kind);
uint64_t vulkan_weight_bytes(void *dev, const struct gp_tensor *t);

/* ---- uploads (vk_upload.c) ---- */
struct vk_stage {
	struct vk_span memory;
	VkCommandBuffer commands;
	uint64_t submission;       /* its last; 0: none yet */
};
/* from may be reused at once; what is submitted later sees it. */
int vk_upload(struct vulkan_device *d, const struct vk_span *to, const void *from, size_t bytes);
int vk_end_uploads(struct vulkan_device *d); /* waits; gives their memory back */
int vulkan_finish_load(void *dev);

/* ---- shaders (vk_shaders.c) ---------------------------------------------------- */
enum vk_shader { VK_EMBED, VK_RMS_NORM, VK_MATMUL_INT8_1, VK_MATMUL_INT8_2,
                 VK_MATMUL_INT8_4, VK_MATMUL_INT8_8, VK_MATMUL_INT8_16, VK_MATMUL_FLOAT_1,
                 VK_MATMUL_FLOAT_2, VK_MATMUL_FLOAT_4, VK_MATMUL_FLOAT_8, VK_MATMUL_FLOAT_16,
                 VK_QUANTIZE, VK_ELEMENTWISE, VK_QK_ROPE_APPEND, VK_ATTENTION,
                 VK_ATTENTION_TILE_COOPMAT, VK_MATMUL_MANY,
                 VK_MATMUL_MANY_COOPMAT, VK_PACK_ROWS, VK_SUM_PARTS,
                 VK_MATMUL_SKINNY_COOPMAT, VK_PACK_SKINNY, VK_PROBE_COOPMAT,
                 VK_CHUNK_MAXIMA, VK_PICK_CHUNKS, VK_SHADERS };
#define VK_TYPES 32u           /* values of enum gp_type */
#define VK_CONSTANTS 7u
#define VK_PUSH_BYTES 128u
#define VK_CODE_BYTES 128u       /* shared: what the codes of IQ4 mean, as tile_types.glsl has it */

/* Specialisation constants 0, 1, ... of a shader; what it does not have is ignored. */
struct vk_constants { uint32_t v[VK_CONSTANTS]; };
struct vk_made_pipeline {
	enum vk_shader shader;
	struct vk_constants constants;
	VkPipeline pipeline;
};

/* The pipeline of a shader with these constants: made when first asked for, which is
 * while weights are loaded. */
int vk_variant(struct vulkan_device *d, enum vk_shader s, const struct vk_constants *c,
               VkPipeline *out);
/* With constant 0 alone. */
int vk_pipeline(struct vulkan_device *d, enum vk_shader s, uint32_t constant, VkPipeline *out);
void vk_destroy_pipelines(struct vulkan_device *d);

/* ---- pipelines of earlier runs (vk_cache.c); without them all goes on ---- */
void vk_load_cache(struct vulkan_device *d);
void vk_save_cache(struct vulkan_device *d); /* where there is something new */

/* Whether the build could compile it. */
bool vk_has_shader(enum vk_shader s);
/* Pipeline from constants 0 to n - 1; subgroup: the size asked for, 0: as the driver
 * likes. The caller destroys it. */
int vk_create_pipeline(struct vulkan_device *d, enum vk_shader s, const uint32_t *constants,
                       uint32_t n, uint32_t subgroup, VkPipeline *out);

/* ---- what only some devices have (vk_features.c) -------------------------------- */
struct vk_features {
	uint32_t shared_bytes, invocations;  /* most of a work group */
	uint32_t subgroup;         /* of matrix units: size to ask for; 0: none can be */
	uint32_t lanes;            /* of all other shaders, likewise */
	bool whole_subgroups;      /* these can be asked to be full */
	bool dot_products;         /* of four bytes at once: VK_KHR_shader_integer_dot_product */
	bool matrix_units;         /* VK_KHR_cooperative_matrix: halves, float32 sums */
	uint32_t matrix[3];        /* rows, columns, inner dimension of an operation */
	bool has_16_8_16;          /* such an operation is there too */
	uint32_t units;            /* that work groups are spread over; 0: not known */
	/* for vkCreateDevice */
	const char *extensions[8];
	uint32_t n_extensions;
	void *chain;
	VkPhysicalDeviceSubgroupSizeControlFeaturesEXT subgroup_feature;
	VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix_feature;
	VkPhysicalDeviceShaderIntegerDotProductFeaturesKHR dot_feature;
};
struct vk_core {               /* features of Vulkan itself, one chain */
	VkPhysicalDeviceFeatures2 all;
	VkPhysicalDeviceVulkan11Features v11;
	VkPhysicalDeviceVulkan12Features v12;
};
/* None; next: what else the chain has. */
void vk_chain_core(struct vk_core *c, void *next);
/* What no stage can do without, one by one: its name, or NULL past the last. */
const char *vk_needed(uint32_t i, struct vk_core *c, VkBool32 **feature);
void vk_find_features(struct vulkan_device *d);
/* What no feature tells and the shaders lean on: subgroups of 8 or more that add and
 * shuffle, work groups of 256 invocations and 32 KiB. NULL, or what is missing. */
const char *vk_lacking_limit(VkPhysicalDevice p);

/* ---- products of many rows (vk_many.c) ------------------------------------------ */
/* Up to so many the product of few rows is faster: where there are matrix units, and
 * where there are none. */
#define VK_FEW_ROWS 8u
#define VK_FEW_ROWS_SKINNY 4u  /* quantised, where vk_skinny.c takes those above */
#define VK_FEW_ROWS_WITHOUT 32u
#define VK_ROW_STEP 16u
#define VK_MOST_ROWS 65280u    /* tiles of them fit the 65535 work groups of any device */
#define VK_TILINGS 2u          /* up to 64 rows, and more */

struct vk_tiling {             /* constants of matmul_many_coopmat.comp, in its order */
	uint32_t rows, outputs, elements, sub_rows, sub_outputs;
};

struct vk_many {
	struct vk_tiling tiling[VK_TILINGS];   /* .rows 0: no matrix units */
	VkPipeline coopmat[VK_TILINGS][VK_TYPES];
	struct vk_span halves, scales, parts;
	uint64_t parts_bytes;                  /* 0: elements are never cut into parts */
};

struct vk_weight;
struct vk_many_in {
	uint64_t from, picked;     /* addresses; picked: which rows, 0: all in turn */
	uint32_t rows, cols;
};
struct vk_many_out {
	const struct vk_weight *w;
	uint64_t to;
};

bool vk_tiling_fits(const struct vk_features *f, const struct vk_tiling *t);
/* After vk_find_features. */
void vk_many_choose(struct vulkan_device *d);
/* What steps of up to so many rows need; after the widths of buffers are known. */
int vk_many_take(struct vulkan_device *d, uint32_t rows);
/* Pipelines for weights of a type, and inputs of so many elements. */
int vk_many_prepare(struct vulkan_device *d, enum gp_type type, uint32_t cols);
/* Records them, with the barriers between their parts, none after. Each out has room
 * for rows up to a multiple of VK_ROW_STEP; what lies there past the last is undefined. */
int vk_multiply_many(struct vulkan_device *d, const struct vk_many_in *in,
                     const struct vk_many_out *out, size_t n);
void vk_many_destroy(struct vulkan_device *d);

/* ---- products of more than a few rows, straight into registers (vk_skinny.c) ----- */
#define VK_SKINNY_SHAPES 7u    /* of work groups */
#define VK_SKINNY_CHUNK 256u   /* elements of a subgroup at a time, as in skinny.glsl */
#define VK_SKINNY_COLS 64u     /* divides a row's: two blocks, whose scales are read as one */
enum vk_skinny_kind { VK_SKINNY_PLAIN, VK_SKINNY_GATED /* gate and up */,
                      VK_SKINNY_CHUNKED /* rows whose chunks have scales of their own */,
                      VK_SKINNY_KINDS };

struct vk_skinny {
	bool is_probed, usable;                /* on this device */
	VkPipeline pipeline[VK_SKINNY_KINDS][VK_SKINNY_SHAPES][VK_TYPES];
	struct vk_span rows, scales;           /* as norms, attention, pack_skinny.comp leave them */
	struct vk_span parts, ended;           /* of work groups that share outputs */
	uint64_t packed;                       /* address of the buffer that they are of, or 0 */
	bool by_chunk;                         /* scales are those of its rows' chunks */
};

/* Finds out whether they can be done; then what inputs of so many rows and elements need. */
int vk_skinny_take(struct vulkan_device *d, uint32_t rows, size_t width);
int vk_skinny_prepare(struct vulkan_device *d, enum gp_type type, uint32_t cols);
void vk_skinny_destroy(struct vulkan_device *d);
bool vk_skinny_takes(const struct vulkan_device *d, const struct vk_many_out *out, size_t n);
/* Whether norms leave a buffer's rows as the product that comes next wants them. */
bool vk_skinny_reads(const struct vulkan_device *d, enum gp_buffer b);
/* Whether who knows but a chunk of each row may leave it so, with a scale of its own. */
bool vk_skinny_reads_chunks(const struct vulkan_device *d);
/* As vk_multiply_many, which calls it. */
int vk_skinny_multiply(struct vulkan_device *d, const struct vk_many_in *in,
                       const struct vk_many_out *out, size_t n);
/* gelu(gate) * up to where gate's outputs go, of two matrices alike. */
int vk_skinny_gated(struct vulkan_device *d, const struct vk_many_in *in,
                    const struct vk_many_out out[2]);

/* ---- the device ----------------------------------------------------------------- */
struct vk_weight {              /* a matrix, or the first rows of one: */
	struct vk_span span;
	enum gp_type type;
	uint32_t rows, cols;
	uint32_t first;            /* row of the matrix that it begins with */
	float largest_scale;       /* of Q4_0, else 0 */
	gp_handle next;            /* the rows after these; 0: there are none */
};

struct vk_row {                /* as in shaders/common.glsl, like the next */
	uint32_t pos;
	uint32_t first[GP_KV_KINDS];
	uint32_t table[GP_KV_KINDS];
	uint32_t token;
	uint32_t tiled;
};

struct vk_tile {
	uint32_t first, rows;
};

struct vk_step {
	uint64_t tables, tiles;
	uint32_t rows, logit_rows;
	uint32_t part_blocks[GP_KV_KINDS];
	uint32_t groups[GP_KV_KINDS][3];
	uint32_t tile_groups[3], rope_groups[3];
	struct vk_row row[];
};

/* ---- commands that are recorded once (vk_record.c) ------------------------------- */
/* A step of few rows is done as one of a round number of them, whose commands are kept. */
uint32_t vk_round_rows(uint32_t n);

struct vk_few {                /* a product of few rows: which shader, and its constants */
	uint32_t tile;         /* log2 of the rows that a work group takes */
	uint32_t outputs;      /* as the shader's OUTPUTS */
	uint32_t size, passes;
	uint32_t split;        /* subgroups that share an output's elements */
};

struct vulkan_device {
	VkInstance instance;
	VkPhysicalDevice physical;
	VkPhysicalDeviceMemoryProperties memory;
	bool is_unified;                     /* device and host share one memory */
	bool has_budget, has_calibration;    /* VK_EXT_memory_budget, _calibrated_timestamps */
	double timestamp_ns;                 /* of a tick */
	uint32_t timestamp_bits;             /* 0: the queue has none */
	uint64_t most_allocation;
	uint64_t memory_limit;               /* 0: none */
	uint64_t heap_taken[VK_MAX_MEMORY_HEAPS];
	bool is_lost;                        /* or hangs: nothing waits for it any more */
	struct vk_features features;
	VkDevice device;
	uint32_t family;
	VkQueue queue;
	VkCommandPool pool;
	VkCommandBuffer commands;            /* being recorded: once, or a recording */
	VkCommandBuffer once;
	VkSemaphore timeline;                /* counts the submissions that are done */
	uint64_t submitted;                  /* submissions so far */
	VkPipelineLayout layout;
	VkQueryPool timestamps;              /* when a submission begins and ends */
	PFN_vkGetCalibratedTimestampsEXT calibrate; /* NULL: clocks cannot be compared */
	bool has_clock;                      /* those two were looked for */
	VkPipelineCache cache;
	char cache_path[512];                /* "": nowhere */
	uint64_t cache_sum;                  /* of what the file holds */
	struct vk_stage stages[2];
	uint32_t next_stage;
	struct vk_arena stage_arena;
	struct vk_made_pipeline *pipelines;
	uint32_t n_pipelines, pipelines_room;
	VkShaderModule modules[VK_SHADERS];
	struct vk_many many;
	struct vk_skinny skinny;
	atomic_bool cancelled;
	struct gp_kernels k;                 /* for conversion at load */

	/* by configure */
	struct gp_config config;
	struct gp_stage_shape shape;         /* .config is the one above */
	struct vk_arena weights_arena, work_arena, in_arena, out_arena;
	struct vk_arena kv_arena[GP_KV_KINDS];
	struct vk_weight *weights;
	size_t n_weights, weights_room;
	struct vk_span buffer[GP_BUF_COUNT];
	uint32_t width[GP_BUF_COUNT];
	struct gp_kv_place place[GP_MAX_LAYERS];
	uint32_t n_layers[GP_KV_KINDS];
	size_t block_bytes[GP_KV_KINDS];
	struct vk_span *kv_blocks[GP_KV_KINDS];
	uint32_t n_blocks[GP_KV_KINDS], blocks_room[GP_KV_KINDS];
	/* Inputs of products in 8 bits (shaders/quants8.glsl), of buffers that are such. */
	struct vk_span quants[GP_BUF_COUNT], blocks[GP_BUF_COUNT];
	bool is_quantized[GP_BUF_COUNT];     /* by what was recorded so far */
	struct vk_span parts, ended;         /* of attention */
	/* a step's input: struct vk_step, addresses of KV blocks, tiles of attention, angles
	 * by kind, logit rows, hidden */
	struct vk_span step, tables, tiles, angles[GP_KV_KINDS], picked, wanted, hidden_in, out;
	struct vk_span maxima, picked_chunks; /* of logits (vk_best.c) */
	uint32_t rows, logit_rows;           /* of the step in hand, as recorded */
	bool alone;                          /* no two of its rows are of one sequence */
	bool picks;                          /* no row of logits is wanted whole */
	VkCommandBuffer *recordings;         /* [picks][alone][rows][logit rows], by bucket */
	uint32_t row_buckets, logit_buckets;
	VkCommandBuffer *recording;          /* the step's, or NULL */
	uint32_t prepared;                   /* recordings that vulkan_prepare has looked at */
	uint32_t table_blocks;               /* of a sequence and kind */
	struct vk_span checked;              /* --check-numerics: any buffer, for the host */
	float *inv_freq[GP_KV_KINDS];
	const struct gp_batch *batch;        /* NULL: no step is in hand */
};

/* vk_instance.c */
#define VK_MOST_DEVICES 32u
int vk_open_instance(VkInstance *out);
/* Those that can be used: GPUs, then emulations, each in the loader's order. -ENODEV:
 * there is none. */
int vk_find_devices(VkInstance instance, VkPhysicalDevice found[VK_MOST_DEVICES], uint32_t *n);
int vk_find_device(VkInstance instance, uint32_t index, VkPhysicalDevice *out);
bool vk_has_extension(VkPhysicalDevice p, const char *name);

/* vk_list.c */
json_t *vulkan_list(void);

/* vk_device.c */
int vk_open_device(struct vulkan_device *d, uint32_t index);
void vk_close_device(struct vulkan_device *d);

/* vk_submit.c */
int vk_submit(struct vulkan_device *d, VkCommandBuffer commands, const char *what);
/* For that many submissions to be done. */
int vk_wait(struct vulkan_device *d, uint64_t submission, const char *what);
int vk_begin_commands(struct vulkan_device *d);
int vk_end_commands(struct vulkan_device *d);     /* what they wrote, the host can read */
int vk_run(struct vulkan_device *d);              /* submits d->commands, and waits */
int vk_run_commands(struct vulkan_device *d);     /* ends and runs them */

/* vk_record.c */
int vk_take_recordings(struct vulkan_device *d);
void vk_give_recordings(struct vulkan_device *d);
/* 0: operations are to be recorded; 1: they are. */
int vk_begin_recording(struct vulkan_device *d);
int vulkan_prepare(void *dev, uint32_t *n_logit_rows);
int vk_run_recording(struct vulkan_device *d);

/* vk_trace.c: nothing is done where no trace is written */
void vk_trace_begin(struct vulkan_device *d, VkCommandBuffer c);
void vk_trace_end(struct vulkan_device *d, VkCommandBuffer c);
void vk_trace_report(struct vulkan_device *d, uint64_t submitted_ns);

/* vk_check.c */
int vk_take_checked(struct vulkan_device *d);
int vulkan_check(void *dev, enum gp_buffer b, uint32_t rows);

/* vk_weights.c */
enum gp_type vk_kept_type(const struct vulkan_device *d, const struct gp_tensor *t);
int vulkan_load(void *dev, const struct gp_tensor *t, float norm_offset, gp_handle *out);

/* vk_layout.c */
int vulkan_configure(void *dev, const struct gp_stage_shape *shape);
int vulkan_kv_reserve(void *dev, enum gp_kv_kind kind, uint32_t id);
int vulkan_kv_copy(void *dev, enum gp_kv_kind kind, uint32_t to, uint32_t from);
uint64_t vulkan_memory_bytes(void *dev);
void vulkan_release(struct vulkan_device *d);

/* vk_products.c */
bool vk_is_plain(enum gp_type t);      /* F32, F16, BF16 */
int vk_prepare_products(struct vulkan_device *d, enum gp_type t, uint32_t cols);
int vulkan_matmul(void *dev, enum gp_buffer from, const struct gp_matmul_out *out, size_t n_out);
int vulkan_gated_matmul(void *dev, gp_handle gate, gp_handle up);
int vulkan_head(void *dev, gp_handle table);

/* vk_best.c */
bool vk_picks_best(const struct vulkan_device *d, const struct gp_batch *b);
int vk_take_best(struct vulkan_device *d, uint32_t rows);
int vk_record_best(struct vulkan_device *d);
void vk_give_logits(const struct vulkan_device *d, float *out);

/* vk_attention.c */
#define VK_ATTENTION_GROUPS 1024u      /* of a step's attention, where positions are cut */
#define VK_MOST_PARTS 64u              /* of a row, as in shaders/attention.comp */
int vk_prepare_attention(struct vulkan_device *d);
/* Rows of a tile; 0: there are no tiles. */
uint32_t vk_tile_rows(const struct vulkan_device *d);
/* The position that a row at pos sees first. */
uint32_t vk_first_seen(const struct vulkan_device *d, enum gp_kv_kind k, uint32_t pos);
/* After the rows of a step are there: parts and tiles. */
void vk_put_attention(struct vulkan_device *d);
int vulkan_qk_rope_append(void *dev, uint32_t layer, gp_handle q_norm, gp_handle k_norm);
int vulkan_attention(void *dev, uint32_t layer);
int vulkan_append_attention(void *dev, uint32_t layer, gp_handle q_norm, gp_handle k_norm);

/* vk_ops.c */
int vk_prepare_norms(struct vulkan_device *d);
const struct vk_weight *vk_weight(const struct vulkan_device *d, gp_handle h);
#define VK_MOST_GROUPS 32768u  /* in a dimension; Vulkan guarantees 65535 */
/* Work groups for n items, of_group each; a shader that has fewer of them walks on. */
int vk_dispatch_over(struct vulkan_device *d, enum vk_shader s, uint32_t constant,
                     const void *push, uint32_t push_bytes, uint32_t n, uint32_t of_group);
int vk_dispatch_variant(struct vulkan_device *d, enum vk_shader s, const struct vk_constants *c,
                        const void *push, uint32_t push_bytes, const uint32_t groups[3]);
/* Work groups for n things, `each` of them in one. */
static inline uint32_t vk_groups(uint32_t n, uint32_t each)
{
	return (n + each - 1) / each;
}
void vk_barrier(struct vulkan_device *d);         /* between dispatches */
void vk_barrier_to_copy(struct vulkan_device *d);
void vk_barrier_of_begin(struct vulkan_device *d);
int vk_dispatch(struct vulkan_device *d, enum vk_shader s, uint32_t constant, const void *push,
                uint32_t push_bytes, const uint32_t groups[3]);
int vk_bind(struct vulkan_device *d, VkPipeline p, const void *push, uint32_t push_bytes);
int vk_dispatch_pipeline(struct vulkan_device *d, VkPipeline p, const void *push,
                         uint32_t push_bytes, const uint32_t groups[3]);
/* Of a step like d->rows, logit_rows, alone and picks say: as vk_begin_recording. */
int vk_record_begin(struct vulkan_device *d);
int vulkan_begin_step(void *dev, const struct gp_batch *b, const float *hidden_in);
int vulkan_embed(void *dev, gp_handle table, float scale);
int vulkan_rms_norm(void *dev, enum gp_buffer to, enum gp_buffer from, gp_handle w);
int vulkan_add_norm(void *dev, gp_handle w, gp_handle next);
int vulkan_geglu(void *dev);
/* A buffer's 8 bits, with the barrier after; with up (an address) of GEGLU of the two,
 * whose floats it leaves in the buffer. */
int vk_quantize(struct vulkan_device *d, enum gp_buffer b, uint64_t up);
int vulkan_add(void *dev, enum gp_buffer to, enum gp_buffer from);
int vulkan_end_step(void *dev, enum gp_buffer from, float *out);

#endif

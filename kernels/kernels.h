/* kernels: number formats and CPU kernels. No allocation, no threads, no
 * globals that change after init: every function works on what it is given,
 * from any thread.
 *
 * Row invariance: for one instruction set the result of a row depends on that
 * row alone, bit for bit: one summation order over K for every number of rows
 * and every split of the output among threads. */
#ifndef GP_KERNELS_H
#define GP_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- number formats (kernels/types.c) -------------------------------------
 * Ids and block layouts are GGUF's (GGUF specification and ggml's formats). */
enum gp_type {
	GP_TYPE_F32 = 0, GP_TYPE_F16 = 1, GP_TYPE_Q4_0 = 2, GP_TYPE_Q4_1 = 3,
	GP_TYPE_Q5_0 = 6, GP_TYPE_Q5_1 = 7, GP_TYPE_Q8_0 = 8,
	GP_TYPE_Q3_K = 11, GP_TYPE_Q4_K = 12, GP_TYPE_Q5_K = 13, GP_TYPE_Q6_K = 14,
	GP_TYPE_IQ4_NL = 20, GP_TYPE_IQ4_XS = 23, GP_TYPE_BF16 = 30,
};
struct gp_type_info {
	enum gp_type type;
	const char *name;      /* "Q4_0" */
	uint32_t block_elems;  /* a row's length must be a multiple of it */
	uint32_t block_bytes;
};
const struct gp_type_info *gp_type_info(uint32_t type);       /* NULL: unknown */
const struct gp_type_info *gp_type_by_name(const char *name); /* case-insensitive; NULL */
/* Bytes of rows x cols; -EINVAL (cols no multiple of the block) or -EOVERFLOW. */
int gp_type_bytes(enum gp_type t, uint64_t rows, uint64_t cols, size_t *bytes);

extern const int8_t gp_iq4_values[16]; /* what the codes of IQ4_NL and IQ4_XS mean, ascending */

float gp_f16_to_f32(uint16_t h);
uint16_t gp_f32_to_f16(float f);   /* round to nearest even */
float gp_bf16_to_f32(uint16_t h);
uint16_t gp_f32_to_bf16(float f);  /* round to nearest even, NaN stays NaN */

/* Scalar reference of every format: n elements (multiple of block_elems). */
void gp_dequantize(enum gp_type t, const void *src, float *dst, size_t n);
/* Round-to-nearest encoders of all types but Q4_1, Q5_0 and Q5_1: these -ENOTSUP. */
int gp_quantize(enum gp_type t, const float *src, void *dst, size_t n);

/* ---- block formats as grids (kernels/formats.c) ------------------------------
 * The numbers a block can hold: element i of part p is step[p] * value(code) + base[p]. */
#define GP_MOST_BLOCK 256u
#define GP_MOST_PARTS 16u
struct gp_grid {
	float d, dmin;                    /* exactly halves */
	int8_t scale[GP_MOST_PARTS];      /* step = d * scale (one part: step = d) */
	uint8_t min[GP_MOST_PARTS];       /* base = -dmin * min */
	float step[GP_MOST_PARTS], base[GP_MOST_PARTS];
};
struct gp_format {
	enum gp_type type;
	uint32_t block, parts;
	int lowest, highest;              /* codes */
	const int8_t *values;             /* of codes, ascending; NULL: they are their values */
	int scale_least, scale_most;      /* of more than one part */
	int min_most;                     /* 0: there are no minima */
	/* A block as in files; step and base play no part. */
	void (*pack)(const struct gp_grid *g, const int8_t *code, uint8_t *out);
};
const struct gp_format *gp_format_of(enum gp_type t); /* NULL: none that is written */
void gp_grid_steps(const struct gp_format *f, struct gp_grid *g); /* step and base from the rest */

/* ---- instruction sets (kernels/cpu_flags.c) -------------------------------- */
enum {
	GP_CPU_AVX2 = 1u, /* AVX2 + FMA + F16C */
	GP_CPU_AVX512 = 2u, /* F BW VL DQ */
	GP_CPU_AVX512VNNI = 4u,
	GP_CPU_AVX512BF16 = 8u,
	GP_CPU_ALL = ~0u,
};
unsigned gp_cpu_flags(void);                     /* of this machine and its OS */
/* "scalar", "avx2", "avx512", "avx512vnni", "avx512bf16", each with those before
 * it, or "": all. -EINVAL names the text. */
int gp_cpu_mask(const char *text, unsigned *mask);
int gp_cpu_mask_wanted(unsigned *mask);          /* by GP_CPU in the environment */
const char *gp_cpu_text(unsigned flags);         /* "AVX-512" */

/* ---- packed weights (kernels/packed.c) --------------------------------------
 * Integer products read the weights of `lanes` matrix rows side by side, as a
 * group: the scales of all blocks, then the quants of all blocks (which so begin
 * at cache lines where k / block is even). A block is cut into units (a scale of
 * 2 bytes, 4 bytes of quants, ...; see the table in packed.c); a unit of all
 * rows stands together. The bits of Q3_K to Q6_K are put into another order first
 * (pack_k.c). A group has exactly the bytes that its rows have in the
 * file; rows missing in the last group read as zero. */
bool gp_pack_has(enum gp_type t);
/* rows (1 to lanes) rows of k elements, packed as in the file, to one group. */
void gp_pack(enum gp_type t, uint32_t lanes, const void *src, uint32_t rows, uint32_t k,
             void *group);
/* Row `lane` of a group, as in the file. */
void gp_unpack_row(enum gp_type t, uint32_t lanes, const void *group, uint32_t lane, uint32_t k,
                   void *dst);

/* 32 activations in 8 bits: x[i] ~ q[i] d, |q| <= 127, round to nearest. Not
 * finite inputs make d so. The sums let unsigned quants stand for signed ones. */
struct gp_q8 {
	int8_t q[32];
	float d;
	int32_t sum8;        /* -8 sum of q */
	int16_t half8[2];    /* -8 sum of q[0..15], of q[16..31] */
};
#define GP_Q8_TILE 16u /* rows whose blocks stand side by side */
/* Rows are quantised in tiles: block b of row m is element
 * gp_q8_at(m, k / 32) + b * gp_q8_stride(m, rows). */
static inline uint32_t gp_q8_stride(uint32_t m, uint32_t rows)
{
	const uint32_t left = rows - m / GP_Q8_TILE * GP_Q8_TILE;

	return left < GP_Q8_TILE ? left : GP_Q8_TILE;
}
static inline size_t gp_q8_at(uint32_t m, uint32_t n_blocks)
{
	return (size_t)(m / GP_Q8_TILE * GP_Q8_TILE) * n_blocks + m % GP_Q8_TILE;
}

/* ---- the table (kernels/dispatch.c; scalar.c, avx2.c, avx512.c) ------------ */
#define GP_KV_BLOCK 64u /* positions in a block of the KV cache */

/* Attention cuts positions into parts at multiples of this, sums each part for
 * itself and merges the parts in ascending order: always, so that threads may
 * share the parts and the bits stay. */
#define GP_KV_PART 256u
#define GP_ATTENTION_QUERIES 64u /* rows x heads of a tile, at most */

/* A tile of queries that see one KV head: rows of one sequence at consecutive
 * positions, each with all heads of the query group. Row r stands at position
 * pos + r and sees the positions up to its own; with a window, the last window
 * of them, its own included. */
struct gp_attention {
	const float *q;            /* row r, head h: at + r * row_stride + h * head_dim */
	float *out;                /* likewise; may not overlap q */
	size_t row_stride;         /* floats */
	uint32_t rows, heads;      /* rows * heads <= GP_ATTENTION_QUERIES */
	uint32_t pos, window;      /* window 0: none */
	/* By block: k[b] is the KV head's 64 rows of head_dim for the positions from
	 * 64b on, row i at k[b] + i * row_bytes. All 64 must be readable; what rows
	 * outside of what is seen hold plays no part. */
	const void *const *k;
	const void *const *v;
	const void *next;          /* what is read after these, or NULL: may be asked for early */
	uint32_t head_dim;         /* multiple of 8, <= 512 */
	uint32_t row_bytes;
	enum gp_type kv_type;      /* F32, F16 or Q8_0 */
	float scale;
};

/* Floats of one query's state: sum of weighted V, padded with zeros to a multiple
 * of 16; maximum; sum of weights; padding to a cache line. Sum of weights 0: has
 * seen nothing, the rest counts for nothing. */
static inline size_t gp_attention_state_floats(uint32_t head_dim)
{
	return (head_dim + 15u) / 16u * 16u + 16u;
}

/* Floats of scratch: queries, states of a part, scores, K or V as float32. */
static inline size_t gp_attention_scratch_floats(uint32_t head_dim)
{
	return (2 * GP_ATTENTION_QUERIES + 16) * gp_attention_state_floats(head_dim) +
	       2 * GP_ATTENTION_QUERIES * GP_KV_BLOCK;
}

struct gp_kernels {
	const char *name;
	/* y[m][n] = sum_k x[m][k] w[n][k], m in [0,rows), n in [n0,n1). Row m of x at
	 * x + m * x_stride, of y at y + m * y_stride (floats). w: rows of k elements
	 * of type, packed. k is a multiple of the type's block. Unaligned pointers
	 * are fine. Nothing outside y[.][n0..n1) is written. scratch: k floats
	 * x 8, 64-byte aligned, of this thread. x, y do not overlap. */
	void (*matmul)(float *y, size_t y_stride, const float *x, size_t x_stride,
	               uint32_t rows, const void *w, enum gp_type type, uint32_t k,
	               uint32_t n0, uint32_t n1, float *scratch);
	/* Matrix rows of a packed group: 8 (AVX2), 16 (AVX-512); 1: this set has no
	 * integer products of its own, its matmul_packed is the reference. */
	uint32_t lanes;
	/* dst[0], dst[stride], ...: k floats (a multiple of 32) in 8 bits. */
	void (*quantize_q8)(struct gp_q8 *dst, size_t stride, const float *x, uint32_t k);
	/* y[m][n] = x[m] . w[n], n in [n0, n1): x as above, w: packed groups of a
	 * matrix of n1 or more rows; n0 is a multiple of lanes, n1 one or the last
	 * row's end. Nothing outside y[.][n0..n1) is written. gp_pack_has(type).
	 * Sums within 32 elements (16: Q6_K; Q3_K: times their small scales) are exact
	 * integers; these, times both scales, are summed in float32 upwards over k (Q3_K:
	 * over each block, then, times its scale, over these). */
	void (*matmul_packed)(float *y, size_t y_stride, const struct gp_q8 *x, uint32_t rows,
	                      const void *w, enum gp_type type, uint32_t k, uint32_t n0,
	                      uint32_t n1);
	/* y = x / sqrt(mean(x^2) + eps) * (w + offset), n elements; y may be x. */
	void (*rms_norm)(float *y, const float *x, const float *w, float offset,
	                 float eps, uint32_t n);
	/* NeoX rotation of one head: pairs (i, i + n/2) by angle i. cos/sin: n/2. */
	void (*rope)(float *x, const float *cos, const float *sin, uint32_t n);
	/* y = gelu_tanh(gate) * up; y may be either. */
	void (*geglu)(float *y, const float *gate, const float *up, uint32_t n);
	void (*add)(float *y, const float *x, uint32_t n);          /* y += x */
	/* softmax(q k^T * scale) v in three steps. states: [row][head], 64-byte
	 * aligned as scratch is.
	 * 1. The positions [begin, end) of what each query sees, part by part, merged
	 * into its state. begin is a multiple of GP_KV_PART, end too or past all. */
	void (*attention)(const struct gp_attention *a, uint32_t begin, uint32_t end,
	                  float *states, float *scratch);
	/* 2. n states of the next part into those before it. */
	void (*attention_merge)(float *states, const float *next, uint32_t n, uint32_t head_dim);
	/* 3. States that have seen all to out. */
	void (*attention_out)(const struct gp_attention *a, const float *states);
	/* One K or V row into the cache's type: F32, F16, Q8_0. */
	void (*store_kv)(enum gp_type t, const float *src, void *dst, uint32_t n);
	/* One weight row to float32 (embedding). */
	void (*dequantize)(enum gp_type t, const void *src, float *dst, size_t n);
	int (*quantize)(enum gp_type t, const float *src, void *dst, size_t n); /* gp_quantize */
	/* The first i in [first, end) for which x[i] is not in [low, high] (NaN never
	 * is), or end. first <= end. */
	uint32_t (*find_outside)(const float *x, uint32_t first, uint32_t end, float low,
	                         float high);
	/* The sum of all whole 64-byte lines as 64-bit numbers: to measure how fast
	 * this instruction set reads memory. bytes: a multiple of 64. pattern below
	 * GP_READ_PATTERNS: one stream or four, with and without prefetching. */
	uint64_t (*read)(const void *data, size_t bytes, unsigned pattern);
	/* How fast this set computes at most: iterations times GP_INT8_OPS 8-bit
	 * multiplications and additions into 32 bits (NULL: it has no such
	 * instruction), or GP_FLOAT_OPS of float32, on registers alone. The result
	 * depends on all of them. */
	uint64_t (*int8_ops)(uint64_t iterations);
	uint64_t (*float_ops)(uint64_t iterations);
};
#define GP_READ_PATTERNS 4u
#define GP_INT8_OPS 12288u /* an iteration's; a multiplication and an addition are two */
#define GP_FLOAT_OPS 384u
/* Fills the table for flags & gp_cpu_flags(). */
void gp_kernels_init(struct gp_kernels *k, unsigned flags);

/* ---- the best of a row (kernels/best.c) -------------------------------------
 * Larger logits are better; of equal ones the lower id. What is not finite (NaN,
 * either infinity) is better than every number: a broken row shows at its head,
 * lowest id first. The order is total, so the result is the same however a row
 * was cut among threads. */
#define GP_MAX_CANDIDATES 256u
struct gp_candidate {
	float logit;
	uint32_t id;
};
struct gp_best {
	struct gp_candidate *c;    /* the caller's room for most of them */
	uint32_t n, most;          /* most >= 1 */
};
/* Keeps c if it is among the best so far. */
void gp_best_add(struct gp_best *b, struct gp_candidate c);
/* Adds row[first..end), whose ids are above all that b has seen. */
void gp_best_scan(struct gp_best *b, const struct gp_kernels *k, const float *row, uint32_t first,
                  uint32_t end);
void gp_best_sort(struct gp_best *b); /* best first; nothing can be added any more */

#endif

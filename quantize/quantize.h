/* quantize: weights in fewer bits. Statistics of what each matrix multiplies (its inputs),
 * encoders that use them, and which type each tensor gets under a budget. Nothing here knows
 * a device: whoever calibrates brings one.
 *
 * Sources: GPTQ, Frantar et al. 2022 (arXiv 2210.17323); block formats and the importance
 * matrix: ggml. */
#ifndef GP_QUANTIZE_H
#define GP_QUANTIZE_H

#include "model/model.h"

/* ---- threads (quantize/parallel.c) ----------------------------------------------------
 * fn(user, i) for every i in [0, n), each once, on up to n_threads threads. Returns the
 * first failure, after which no new i begins. */
typedef int gp_parallel_fn(void *user, size_t i);
int gp_parallel(size_t n, uint32_t n_threads, gp_parallel_fn *fn, void *user);

/* ---- statistics of inputs (quantize/moments.c) -------------------------------------------
 * Of a matrix' input x over many rows: sum of x x^T, whole or its diagonal only. */
struct gp_moments {
	uint32_t width;
	uint64_t rows;
	float *diagonal;       /* [width] */
	float *matrix;         /* [width][width], the upper triangle; NULL: not wanted */
	float damping;         /* what was added to the diagonal */
};
int gp_moments_init(struct gp_moments *m, uint32_t width, bool whole);
void gp_moments_free(struct gp_moments *m);
/* One caller at a time; uses n_threads. */
void gp_moments_add(struct gp_moments *m, const float *x, uint32_t rows, uint32_t n_threads);
/* The upper triangle becomes the factor that gp_encode takes: U with (matrix + damping)^-1 =
 * U^T U; damping (0.01 is usual) is a share of the mean diagonal. Below the diagonal the damped
 * matrix is kept; its diagonal stands in m->diagonal.
 * -EDOM: the inputs were not finite. */
int gp_moments_factor(struct gp_moments *m, float damping);
/* cross: sum of (y - x) x^T, [width][width], y what x stands for. It becomes S, such that rows w
 * of weights times I + S make of x what w make of y, as near as they can: ridge regression, as
 * damping says, of which share is taken. m is left as it was, so gp_moments_factor is next. */
int gp_moments_shift(struct gp_moments *m, float *cross, float damping, float share,
                     uint32_t n_threads);

/* ---- encoders (quantize/encode.c) --------------------------------------------------------- */
struct gp_encoding {
	enum gp_type type;          /* any that gp_quantize writes */
	uint32_t cols;              /* a multiple of the type's block */
	const float *importance;    /* [cols], > 0: what an error of a column counts; NULL: all alike */
	const float *factor, *diagonal; /* of gp_moments_factor; NULL: no compensation of errors */
	const float *shift;         /* of gp_moments_shift, with a factor; NULL: none */
	bool nearest;               /* round to nearest, without search: gp_quantize */
};
/* rows x cols floats, which are overwritten, to out, packed as in files. *error: the sum of
 * squared errors of the outputs, (w - q) M (w - q)^T with w the rows, shifted, and M the matrix
 * of moments where there is a factor, else the diagonal matrix of importance. Any thread. */
int gp_encode(const struct gp_encoding *e, float *w, uint32_t rows, uint8_t *out, double *error);

/* A whole tensor, read and encoded in pieces on n_threads threads; sink takes the bytes in
 * order, one call at a time, from any of these threads. Memory: a piece for each. e->cols is
 * the tensor's. norm_offset is added to vectors. */
typedef int gp_encoded_sink(void *user, const void *data, size_t bytes);
int gp_encode_tensor(const struct gp_tensor *t, const struct gp_encoding *e, float norm_offset,
                     uint32_t n_threads, gp_encoded_sink *sink, void *user, double *error);

/* ---- a model over a text, layer by layer (quantize/walk.c) ----------------------------------
 * Activations are [n_chunks * chunk][hidden], of the caller. in and out may be the same; out of
 * gp_walk_layer may be NULL. One thread; the device is configured anew by each call. */
typedef int gp_walk_observe(void *user, enum gp_tensor_id id, uint32_t layer, const float *x,
                            uint32_t rows);
typedef int gp_walk_logits(void *user, size_t chunk, const float *logits); /* [chunk][vocab] */
struct gp_walk {
	struct gp_model *model;
	const struct gp_device_ops *ops;
	void *dev;
	const uint32_t *ids;        /* n_chunks * chunk; a chunk's input is bos and all but its last */
	size_t n_chunks;
	uint32_t chunk, bos;
	gp_walk_observe *observe;   /* as in struct gp_stage_shape; NULL: nobody looks */
	void *user;
};
int gp_walk_embed(const struct gp_walk *w, float *out);
int gp_walk_layer(const struct gp_walk *w, uint32_t layer, size_t n_chunks, const float *in,
                  float *out);
/* take: of each chunk its logits; may be NULL. */
int gp_walk_head(const struct gp_walk *w, size_t n_chunks, const float *in, gp_walk_logits *take);

/* ---- what a model reads once part of it is quantised (quantize/follow.c) ------------------------
 * Beside what it read before. Streams are the residual stream before the layer, of the model as it
 * is given and as far as it is quantised; encoded[id]: the layer's matrices that are, else NULL. */
struct gp_follow {
	const struct gp_walk *walk; /* its observer is not used */
	uint32_t layer, threads;
	const float *given, *followed;
	const struct gp_tensor *const *encoded; /* [GP_T_COUNT] */
};
/* Of the inputs x of a product, named as gp_walk_observe does: m, and cross (NULL: not wanted) as
 * gp_moments_shift takes it, y being the inputs in the model as it is given. Tokens whose branch
 * a norm will make smaller count less. */
int gp_follow(const struct gp_follow *f, enum gp_tensor_id id, struct gp_moments *m, float *cross);
/* gp_walk_layer of the layer as far as it is quantised. */
int gp_follow_layer(const struct gp_follow *f, gp_walk_observe *observe, void *user,
                    size_t n_chunks, const float *in, float *out);

/* ---- distributions over a vocabulary (quantize/divergence.c) ------------------------------
 * Sums are in double. A NaN anywhere makes the result one. */
/* log of the sum of exp(x[i]). */
double gp_log_sum_exp(const float *x, uint32_t n);
/* KL(P || Q) in nats of the softmax of p and of q, whose log sums are given. Equal
 * logits: exactly 0. */
double gp_kl_divergence(const float *p, double p_log_sum, const float *q, double q_log_sum,
                        uint32_t n);

/* ---- what matrices multiply, and what they would cost (quantize/calibrate.c) -------------------
 * The matrices of a model in order: of each layer Q, K, V, attention output, gate, up, down;
 * then the embedding, which is the head too. */
size_t gp_matrix_count(const struct gp_config *c);
size_t gp_matrix_index(const struct gp_config *c, enum gp_tensor_id id, uint32_t layer);
void gp_matrix_at(const struct gp_config *c, size_t i, enum gp_tensor_id *id, uint32_t *layer);
/* The product whose input is this matrix' too, as gp_walk_observe names it. */
enum gp_tensor_id gp_observed_by(enum gp_tensor_id id);

#define GP_COST_TYPES 8u
extern const enum gp_type gp_cost_types[GP_COST_TYPES]; /* by bytes, the smallest first */

struct gp_matrix_cost {
	enum gp_tensor_id id;
	uint32_t layer, cols;
	float *importance;          /* [cols]: mean square of the input; above 0 */
	double cost[GP_COST_TYPES]; /* predicted KL divergence, nats a token; NaN: no such type */
};
struct gp_calibration {
	struct gp_matrix_cost *matrix;
	size_t n, chunks;
	uint32_t chunk;
};
struct gp_calibrate_options {
	size_t probe_chunks;        /* of the walk's, for the costs */
	uint32_t threads;
	void (*progress)(void *user, uint32_t done, uint32_t total);
	void *user;
};
int gp_calibration_init(struct gp_calibration *c, const struct gp_model *m);
void gp_calibration_free(struct gp_calibration *c);
int gp_calibrate(struct gp_calibration *out, const struct gp_walk *walk,
                 const struct gp_calibrate_options *o);

/* ---- as a file (quantize/calibration_file.c) ---------------------------------------------------
 * w is new, and finished by this; text: what it was calibrated on, for people. */
int gp_calibration_write(const struct gp_calibration *c, struct gp_gguf_writer *w, const char *text);
/* Of this file's or llama.cpp's making, for m. 1: with costs; 0: importance alone. */
int gp_calibration_read(struct gp_calibration *c, const char *path, const struct gp_model *m);

/* ---- a knapsack (quantize/knapsack.c) ------------------------------------------------------------ */
struct gp_choice {
	enum gp_type type;
	uint64_t bytes;
	double cost;
};
struct gp_item {
	const struct gp_choice *choice;
	uint32_t n;                 /* at least 1 */
	uint32_t chosen;            /* out */
};
/* The choices of least total cost that take at most budget bytes, to within one step of one
 * item. -ENOSPC: not even the smallest fit. */
int gp_knapsack(struct gp_item *items, size_t n, uint64_t budget);

/* ---- which type each matrix gets (quantize/recipe.c) ---------------------------------------------- */
struct gp_recipe {
	enum gp_type *type;         /* by matrix, in gp_matrix_at's order */
	size_t n;
	uint64_t bytes;             /* of all tensors, vectors included (F32) */
	uint64_t parameters;        /* likewise */
	double cost;                /* predicted KL divergence, nats a token; NaN: nothing to tell it by */
};
void gp_recipe_free(struct gp_recipe *r);
/* The type itself, or what a row of cols gets that its block does not divide: Q8_0, or F16. */
enum gp_type gp_fitting_type(enum gp_type wanted, uint64_t cols);
/* What the embedding, which is the head too, is best kept in beside matrices of a type: Q6_K
 * where that has less than 6 bits a weight. */
enum gp_type gp_embedding_type(enum gp_type matrices);
/* Matrices whose type is given: those whose name in a GGUF file matches (fnmatch(3)); of several
 * the last one counts. NULL: none. One that matches no matrix, or whose block does not divide
 * the rows of one: -EINVAL. */
struct gp_pins {
	size_t n;
	struct { const char *pattern; enum gp_type type; } pin[32];
};
/* One type for all matrices, another for the embedding. What a type's blocks do not divide
 * gets Q8_0, or F16. */
int gp_recipe_uniform(struct gp_recipe *r, const struct gp_model *m, enum gp_type type,
                      enum gp_type embedding, const struct gp_calibration *c,
                      const struct gp_pins *pins);
/* Types that together take at most bytes, -ENOSPC where there are none. Costs are c's, or, c NULL
 * or without costs, what such matrices cost in other models. */
int gp_recipe_budget(struct gp_recipe *r, const struct gp_model *m, uint64_t bytes,
                     const struct gp_calibration *c, const struct gp_pins *pins);

/* ---- the file (quantize/write.c) --------------------------------------------------------------------- */
struct gp_quantize_job {
	const struct gp_model *model;
	const struct gp_recipe *recipe;
	const struct gp_calibration *calibration; /* importance; NULL: none */
	const struct gp_walk *walk;               /* text for error compensation; NULL: none */
	bool nearest;                             /* round to nearest */
	uint32_t threads;
	float damping, head_damping;
	/* parameters; between tensors and within them */
	void (*progress)(void *user, uint64_t done, uint64_t total);
	void *user;
};
/* All tensors, in the order in which they are written: the embedding, which all layers follow,
 * then layer by layer, then the last norm. */
int gp_quantize_declare(const struct gp_quantize_job *j, struct gp_gguf_writer *w);
/* Those from done on; checkpoints between them as often as they take a twentieth of the time. */
int gp_quantize_write(const struct gp_quantize_job *j, struct gp_gguf_writer *w, size_t done);

#endif

/* For tests of the forward pass: golden files, a chain of stages, an independent reference,
 * small made-up models. Anything that goes wrong here fails the test that called. */
#ifndef MODEL_HELPERS_H
#define MODEL_HELPERS_H

#include "model/model.h"
#include "workers/workers.h"

#define RANDOM_TEXT "tests/data/gemma3-random-text"
#define RANDOM_VISION "tests/data/gemma3-random-vision-text"
#define MINI "models/gemma3-mini/gemma3-mini-bf16.gguf"
#define MINI_GOLDEN "tests/data/gemma3-mini/golden.safetensors"
#define MINI_GREEDY "tests/data/gemma3-mini/golden.json"

/* ---- golden.safetensors ---------------------------------------------------- */
struct golden;
struct golden *golden_open(const char *path);
void golden_close(struct golden *g);
const float *golden_f32(const struct golden *g, const char *name, size_t n);
const uint32_t *golden_ids(const struct golden *g, const char *name, size_t n);

/* ---- comparing ------------------------------------------------------------- */
/* The largest |got - want|; NaN anywhere gives infinity. */
double largest_difference(const float *want, const float *got, size_t n);
double largest_magnitude(const float *x, size_t n);
/* Says how far apart they are, fails above the tolerance, and frees got. */
void assert_near(const char *what, const float *want, float *got, size_t n, double tolerance);
float *floats(size_t n);       /* NaN until written; the caller frees them */
uint32_t best_of(const float *logits, size_t n);

/* ---- a chain of stages ----------------------------------------------------- */
#define MAX_CHAIN 16u

struct chain_options {
	uint32_t n_stages;         /* layers split evenly; 0: 1 */
	uint32_t threads;          /* of each stage; 0: 1 */
	uint32_t max_rows;         /* 0: 512 */
	uint32_t context;          /* 0: 2048 */
	uint32_t max_sequences;    /* 0: 4 */
	enum gp_type kv_type;
	bool check_numerics;
	const struct gp_worker_device *device; /* NULL: the CPU */
	const char *npu;           /* which NPU, of gp_npu_device */
	uint64_t memory_bytes;     /* of the device, at most; 0: its default */
};

struct chain {
	const struct gp_worker_device *device;
	struct gp_model *model;
	const struct gp_config *config;
	uint32_t n, max_rows;
	void *dev[MAX_CHAIN];
	struct gp_stage *stage[MAX_CHAIN];
	float *hidden[2];
};

void chain_open(struct chain *c, const char *path, const struct chain_options *o);
void chain_close(struct chain *c);
/* One step through all stages; a logits row for each row that wants it. */
void chain_step(struct chain *c, const struct gp_stage_row *rows, uint32_t n, float *logits);
/* ids at the end of seq, in steps of `chunk` rows (0: as many as fit); logits of all. */
void chain_feed(struct chain *c, uint32_t seq, const uint32_t *ids, uint32_t n, uint32_t chunk,
                float *logits);
/* Logits of n ids as sequence 0, which begins anew; the caller frees them. */
float *chain_logits(struct chain *c, const uint32_t *ids, uint32_t n, uint32_t chunk);
float *file_logits(const char *path, const uint32_t *ids, uint32_t n, uint32_t chunk,
                   const struct chain_options *o);
/* n greedy tokens after what seq holds; logits: the row of its last token. */
void chain_greedy(struct chain *c, uint32_t seq, const float *logits, uint32_t *ids, uint32_t n);
void chain_drop(struct chain *c, uint32_t seq);

/* ---- reference and models (model_helpers_reference.c) ----------------------- */
/* Gemma 3 in double precision, from the formulas, one position after the other,
 * nothing cached but K and V; logits of all n positions. */
void reference_logits(const struct gp_model *m, const uint32_t *ids, uint32_t n, float *logits);

/* A model folder with that shape and random float32 weights, in a new folder
 * under /tmp whose name goes to path. */
void random_model_create(char path[64], const struct gp_config *c, uint32_t seed);
void random_model_remove(const char *path);
/* Puts a value into one of its weights. */
void random_model_poison(const char *path, const char *tensor, size_t element, float value);

/* ---- wrong numbers (numerics.c) ---------------------------------------------- */
/* One in any weight is found by --check-numerics, and its place named. */
void check_numerics_find(const struct gp_worker_device *device);

/* ---- golden texts and perplexity (golden_mini.c) ------------------------------ */
/* What the reference says greedily, token by token. */
void check_random_text_greedy(const struct chain_options *o);
void check_mini_greedy(const struct chain_options *o);

#define CHUNK 512u             /* ids of valid.ids that are scored together */
#define CHUNKS 200u            /* of them in MINI_GOLDEN */

/* -log p(id) by one row of n logits. */
double nll_of(const float *logits, uint32_t n, uint32_t id);
/* The input of a chunk: BOS and all its ids but the last. */
void chunk_input(const struct chain *c, const uint32_t *chunk, uint32_t input[CHUNK]);
/* Of a model with MINI's vocabulary: the mean of all chunks' ids but the last. */
double chunks_mean_nll(const char *path, const uint32_t *ids, uint32_t chunks,
                       const struct chain_options *o);
/* GP_CHUNKS, from 1 to CHUNKS. */
uint32_t chunks_wanted(uint32_t unless_told);

#endif

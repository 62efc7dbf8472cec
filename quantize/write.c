/* The tensors of a model to a GGUF, by a recipe. With a text, layer by layer: what a matrix reads
 * in the model as given, and in the model as far as it is written, is seen first, and the matrix
 * encoded so that it gives in the second what it gave in the first. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "quantize/quantize.h"

struct writing {
	const struct gp_quantize_job *j;
	struct gp_gguf_writer *w;
	size_t done;                /* tensors that are there already */
	size_t at;                  /* the one in hand */
	uint64_t saved_ns, saving_ns; /* when the last checkpoint ended, how long it took */
	uint64_t parameters, total;
	uint64_t row_elements;      /* parameters a byte stands for: */
	size_t row_bytes;
	/* The residual stream of all chunks, of the model as given and as far as it is written. */
	float *given, *followed;
	struct gp_moments moments;  /* of what the matrix in hand reads */
	float *shift;               /* of gp_moments_shift; NULL: none */
	struct gp_tensor encoded[GP_T_COUNT];
	const struct gp_tensor *is_encoded[GP_T_COUNT]; /* of the layer in hand; NULL: not yet */
};

enum { CHECKPOINT_SHARE = 20 }; /* checkpoints take a twentieth of the time, at most */

typedef int visit_fn(void *user, enum gp_tensor_id id, uint32_t layer);

static int each_of_layer(uint32_t layer, visit_fn *visit, void *user)
{
	int rc = 0;

	for (uint32_t id = GP_T_PER_LAYER; id < GP_T_COUNT && rc == 0; id++)
		rc = visit(user, (enum gp_tensor_id)id, layer);
	return rc;
}

static int each(const struct gp_model *m, visit_fn *visit, void *user)
{
	int rc = visit(user, GP_T_TOKEN_EMBD, 0);

	for (uint32_t l = 0; l < gp_model_config(m)->n_layers && rc == 0; l++)
		rc = each_of_layer(l, visit, user);
	return rc < 0 ? rc : visit(user, GP_T_OUTPUT_NORM, 0);
}

static enum gp_type type_of(const struct gp_quantize_job *j, enum gp_tensor_id id, uint32_t layer)
{
	if (gp_model_tensor(j->model, id, layer)->rows == 1)
		return GP_TYPE_F32;
	return j->recipe->type[gp_matrix_index(gp_model_config(j->model), id, layer)];
}

/* ---- the header ---------------------------------------------------------------------------- */
static int declare(void *user, enum gp_tensor_id id, uint32_t layer)
{
	struct writing *g = user;
	const struct gp_tensor *t = gp_model_tensor(g->j->model, id, layer);
	char name[64];

	gp_gguf_tensor_name(name, id, layer);
	return gp_gguf_add_tensor(g->w, name, type_of(g->j, id, layer), t->rows == 1 ? 0 : t->rows,
	                          t->cols);
}

int gp_quantize_declare(const struct gp_quantize_job *j, struct gp_gguf_writer *w)
{
	struct writing g = { .j = j, .w = w };

	return each(j->model, declare, &g);
}

/* ---- a tensor -------------------------------------------------------------------------------- */
static void report(const struct writing *g)
{
	if (g->j->progress)
		g->j->progress(g->j->user, g->parameters, g->total);
}

static int take(void *user, const void *data, size_t bytes)
{
	struct writing *g = user;
	const int rc = gp_gguf_write(g->w, data, bytes);

	g->parameters += bytes / g->row_bytes * g->row_elements;
	report(g);
	return rc;
}

static struct gp_encoding encoding_of(const struct writing *g, enum gp_tensor_id id, uint32_t layer)
{
	const struct gp_quantize_job *j = g->j;
	const size_t matrix = gp_matrix_index(gp_model_config(j->model), id, layer);
	struct gp_encoding e = { .type = type_of(j, id, layer), .nearest = j->nearest,
	                         .cols = (uint32_t)gp_model_tensor(j->model, id, layer)->cols };

	if (gp_model_tensor(j->model, id, layer)->rows == 1)
		return e;
	if (j->calibration)
		e.importance = j->calibration->matrix[matrix].importance;
	if (j->walk) {
		e.factor = g->moments.matrix;
		e.diagonal = g->moments.diagonal;
		e.shift = g->shift;
	}
	return e;
}

static int save(struct writing *g)
{
	const uint64_t begun = gp_now_ns();
	int rc;

	if (begun - g->saved_ns < CHECKPOINT_SHARE * g->saving_ns)
		return 0;
	rc = gp_gguf_writer_checkpoint(g->w);
	g->saved_ns = gp_now_ns();
	g->saving_ns = g->saved_ns - begun;
	return rc;
}

static int write_tensor(void *user, enum gp_tensor_id id, uint32_t layer)
{
	struct writing *g = user;
	const struct gp_tensor *t = gp_model_tensor(g->j->model, id, layer);
	const struct gp_encoding e = encoding_of(g, id, layer);
	double error;
	int rc;

	if (g->at++ < g->done) {
		g->parameters += t->rows * t->cols;
		return 0;
	}
	if ((rc = gp_type_bytes(e.type, 1, t->cols, &g->row_bytes)) < 0)
		return rc;
	g->row_elements = t->cols;
	rc = gp_encode_tensor(t, &e, gp_model_config(g->j->model)->norm_offset, g->j->threads, take, g,
	                      &error);
	return rc < 0 ? rc : save(g);
}

/* ---- layer by layer with a text ------------------------------------------------------------------ */
/* Of a shift that fits this text, so much fits others (docs/quality.md); it is damped as the
 * tokens for each of its columns are few, and with fewer than LEAST it is noise. */
static const float SHARE = 0.7f, SHIFT_DAMPING = 20;
enum { LEAST = 8 };

static int observe_head(void *user, enum gp_tensor_id id, uint32_t layer, const float *x,
                        uint32_t rows)
{
	struct writing *g = user;

	(void)layer;
	if (id == GP_T_TOKEN_EMBD)
		gp_moments_add(&g->moments, x, rows, g->j->threads);
	return 0;
}

static void end_moments(struct writing *g)
{
	gp_moments_free(&g->moments);
	free(g->shift);
	g->shift = NULL;
}

/* The embedding's, which all layers of the model as given have gone before. */
static int see_head(struct writing *g)
{
	const struct gp_config *c = gp_model_config(g->j->model);
	struct gp_walk walk = *g->j->walk;
	int rc = gp_moments_init(&g->moments, c->hidden, true);

	walk.observe = NULL;
	for (uint32_t l = 0; l < c->n_layers && rc == 0; l++)
		rc = gp_walk_layer(&walk, l, walk.n_chunks, l ? g->followed : g->given, g->followed);
	walk.observe = observe_head;
	walk.user = g;
	if (rc == 0)
		rc = gp_walk_head(&walk, walk.n_chunks, g->followed, NULL);
	return rc < 0 ? rc : gp_moments_factor(&g->moments, g->j->head_damping);
}

static int write_embedding(struct writing *g)
{
	const struct gp_tensor *was = gp_model_tensor(g->j->model, GP_T_TOKEN_EMBD, 0);
	struct gp_walk walk = *g->j->walk;
	struct gp_tensor written;
	int rc = gp_walk_embed(&walk, g->given);

	if (rc == 0 && g->done == 0)
		rc = see_head(g);
	if (rc == 0)
		rc = write_tensor(g, GP_T_TOKEN_EMBD, 0);
	end_moments(g);
	if (rc < 0 || (rc = gp_gguf_written(g->w, 0, &written)) < 0)
		return rc;
	gp_model_replace(walk.model, GP_T_TOKEN_EMBD, 0, &written);
	rc = gp_walk_embed(&walk, g->followed);
	gp_model_replace(walk.model, GP_T_TOKEN_EMBD, 0, was);
	return rc;
}

static struct gp_follow follow_of(const struct writing *g, uint32_t layer)
{
	return (struct gp_follow){ .walk = g->j->walk, .layer = layer, .threads = g->j->threads,
	                           .given = g->given, .followed = g->followed,
	                           .encoded = g->is_encoded };
}

/* What the matrices from id on read, which are those that gp_observed_by says id of. */
static int see_inputs(struct writing *g, enum gp_tensor_id id, uint32_t layer)
{
	const struct gp_follow f = follow_of(g, layer);
	const size_t width = (size_t)gp_model_tensor(g->j->model, id, layer)->cols;
	const size_t tokens = g->j->walk->n_chunks * g->j->walk->chunk;
	size_t floats;
	int rc;

	end_moments(g);
	if ((rc = gp_moments_init(&g->moments, (uint32_t)width, true)) < 0)
		return rc;
	if (tokens / width >= LEAST && gp_size_mul(width, width, &floats) &&
	    !(g->shift = calloc(floats, sizeof *g->shift)))
		return gp_fail(ENOMEM, "no memory for the moments of %zu inputs; quantize without "
		               "error compensation", width);
	rc = gp_follow(&f, id, &g->moments, g->shift);
	if (rc == 0 && g->shift)
		rc = gp_moments_shift(&g->moments, g->shift, SHIFT_DAMPING * (float)width / (float)tokens,
		                      SHARE, g->j->threads);
	return rc < 0 ? rc : gp_moments_factor(&g->moments, g->j->damping);
}

/* How many tensors on from this one, which a product reads first, the last is that reads the
 * same. */
static size_t last_alike(const struct writing *g, enum gp_tensor_id id, uint32_t layer)
{
	size_t n = 0;

	while (id + n + 1 < GP_T_COUNT &&
	       gp_model_tensor(g->j->model, (enum gp_tensor_id)(id + n + 1), layer)->rows > 1 &&
	       gp_observed_by((enum gp_tensor_id)(id + n + 1)) == id)
		n++;
	return n;
}

static int write_next(void *user, enum gp_tensor_id id, uint32_t layer)
{
	struct writing *g = user;
	const size_t at = g->at;
	int rc = 0;

	if (gp_model_tensor(g->j->model, id, layer)->rows > 1 && gp_observed_by(id) == id &&
	    at + last_alike(g, id, layer) >= g->done)
		rc = see_inputs(g, id, layer);
	if (rc < 0 || (rc = write_tensor(g, id, layer)) < 0 ||
	    (rc = gp_gguf_written(g->w, at, &g->encoded[id])) < 0)
		return rc;
	if (g->encoded[id].rows > 1)
		g->is_encoded[id] = &g->encoded[id];
	return 0;
}

static int compensate_layer(struct writing *g, uint32_t layer)
{
	const bool is_last = layer + 1 == gp_model_config(g->j->model)->n_layers;
	const struct gp_follow f = follow_of(g, layer);
	struct gp_walk walk = *g->j->walk;
	int rc = each_of_layer(layer, write_next, g);

	end_moments(g);
	walk.observe = NULL;
	if (rc == 0 && !is_last)
		rc = gp_walk_layer(&walk, layer, walk.n_chunks, g->given, g->given);
	if (rc == 0 && !is_last)
		rc = gp_follow_layer(&f, NULL, NULL, walk.n_chunks, g->followed, g->followed);
	memset(g->is_encoded, 0, sizeof g->is_encoded);
	return rc < 0 ? gp_fail_in(rc, "layer %u", layer) : 0;
}

static int compensate(struct writing *g)
{
	const struct gp_walk *w = g->j->walk;
	const struct gp_config *c = gp_model_config(g->j->model);
	size_t n;
	int rc;

	if (gp_size_mul(w->n_chunks, w->chunk, &n) && gp_size_mul(n, c->hidden, &n)) {
		g->given = calloc(n, sizeof *g->given);
		g->followed = calloc(n, sizeof *g->followed);
	}
	rc = g->given && g->followed ? write_embedding(g) :
	     gp_fail(ENOMEM, "no memory for the activations of %zu chunks of %u tokens; take fewer",
	             w->n_chunks, w->chunk);
	for (uint32_t l = 0; l < c->n_layers && rc == 0; l++)
		rc = compensate_layer(g, l);
	if (rc == 0)
		rc = write_tensor(g, GP_T_OUTPUT_NORM, 0);
	end_moments(g);
	free(g->given);
	free(g->followed);
	return rc;
}

int gp_quantize_write(const struct gp_quantize_job *j, struct gp_gguf_writer *w, size_t done)
{
	const struct gp_config *c = gp_model_config(j->model);
	struct writing g = { .j = j, .w = w, .done = done, .total = j->recipe->parameters };

	/* Nothing is left for which the text would have to be seen. */
	if (done == (size_t)c->n_layers * (GP_T_COUNT - GP_T_PER_LAYER) + 2)
		return 0;
	return j->walk ? compensate(&g) : each(j->model, write_tensor, &g);
}

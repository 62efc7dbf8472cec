/* The tensors of a model to a GGUF, by a recipe. With a text, layer by layer: a layer's
 * activations are seen first, its matrices encoded with what was seen. */
#include <stdlib.h>

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
	float *hidden;              /* all chunks' */
	struct gp_moments moments[GP_T_COUNT];
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

static int each_at_end(visit_fn *visit, void *user)
{
	const int rc = visit(user, GP_T_OUTPUT_NORM, 0);

	return rc < 0 ? rc : visit(user, GP_T_TOKEN_EMBD, 0);
}

static int each(const struct gp_model *m, visit_fn *visit, void *user)
{
	int rc = 0;

	for (uint32_t l = 0; l < gp_model_config(m)->n_layers && rc == 0; l++)
		rc = each_of_layer(l, visit, user);
	return rc < 0 ? rc : each_at_end(visit, user);
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
		e.factor = g->moments[gp_observed_by(id)].matrix;
		e.diagonal = g->moments[gp_observed_by(id)].diagonal;
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
static int observe(void *user, enum gp_tensor_id id, uint32_t layer, const float *x, uint32_t rows)
{
	struct writing *g = user;

	(void)layer;
	gp_moments_add(&g->moments[id], x, rows, g->j->threads);
	return 0;
}

static int begin_moments(struct writing *g, enum gp_tensor_id id, uint32_t layer)
{
	const struct gp_tensor *t = gp_model_tensor(g->j->model, id, layer);

	return gp_observed_by(id) != id || t->rows == 1 ? 0 :
	       gp_moments_init(&g->moments[id], (uint32_t)t->cols, true);
}

static int begin_moments_of(void *user, enum gp_tensor_id id, uint32_t layer)
{
	return begin_moments(user, id, layer);
}

static int factor(void *user, enum gp_tensor_id id, uint32_t layer)
{
	struct writing *g = user;
	const float damping = id == GP_T_TOKEN_EMBD ? g->j->head_damping : g->j->damping;

	(void)layer;
	return g->moments[id].matrix ? gp_moments_factor(&g->moments[id], damping) : 0;
}

static void end_moments(struct writing *g)
{
	for (size_t i = 0; i < GP_T_COUNT; i++)
		gp_moments_free(&g->moments[i]);
}

/* A layer that is written already is only run. */
static int compensate_layer(struct writing *g, uint32_t layer)
{
	const size_t of_layer = GP_T_COUNT - GP_T_PER_LAYER;
	const bool there = g->at + of_layer <= g->done;
	struct gp_walk walk = *g->j->walk;
	int rc = there ? 0 : each_of_layer(layer, begin_moments_of, g);

	walk.observe = there ? NULL : observe;
	walk.user = g;
	if (rc == 0)
		rc = gp_walk_layer(&walk, layer, walk.n_chunks, g->hidden, g->hidden);
	if (rc == 0)
		rc = each_of_layer(layer, factor, g);
	if (rc == 0)
		rc = each_of_layer(layer, write_tensor, g);
	end_moments(g);
	return rc < 0 ? gp_fail_in(rc, "layer %u", layer) : 0;
}

static int compensate_end(struct writing *g)
{
	struct gp_walk walk = *g->j->walk;
	int rc = begin_moments(g, GP_T_TOKEN_EMBD, 0);

	walk.observe = observe;
	walk.user = g;
	if (rc == 0)
		rc = gp_walk_head(&walk, walk.n_chunks, g->hidden, NULL);
	if (rc == 0)
		rc = factor(g, GP_T_TOKEN_EMBD, 0);
	if (rc == 0)
		rc = each_at_end(write_tensor, g);
	end_moments(g);
	return rc;
}

static int compensate(struct writing *g)
{
	const struct gp_walk *w = g->j->walk;
	const struct gp_config *c = gp_model_config(g->j->model);
	size_t n;
	int rc;

	if (gp_size_mul(w->n_chunks, w->chunk, &n) && gp_size_mul(n, c->hidden, &n))
		g->hidden = calloc(n, sizeof *g->hidden);
	if (!g->hidden)
		return gp_fail(ENOMEM, "no memory for the activations of %zu chunks of %u tokens; take "
		               "fewer", w->n_chunks, w->chunk);
	rc = gp_walk_embed(w, g->hidden);
	for (uint32_t l = 0; l < c->n_layers && rc == 0; l++)
		rc = compensate_layer(g, l);
	if (rc == 0)
		rc = compensate_end(g);
	free(g->hidden);
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

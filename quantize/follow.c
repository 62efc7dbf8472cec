/* What a product reads in a model that is quantised as far as it, beside what it reads in the model
 * as it was given. Whoever encodes the product's weights for the one, so that it gives what it
 * gave in the other, makes good what the matrices before it lose (GPTAQ, Li et al. 2025,
 * arXiv 2504.02692).
 *
 * Both run over the same chunks in turn, each step no further than the product's input. */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "quantize/quantize.h"

enum { MOST_FLOATS = 1 << 26 };    /* of inputs that are kept from one run for the other */

struct follower {
	const struct gp_follow *f;
	enum gp_tensor_id id, norm;    /* norm: of the branch that the product ends; 0: it ends none */
	uint32_t width, hidden;
	struct gp_moments *m;
	float *cross;
	size_t at;                     /* token of the chunks in hand */
	float *given, *weight;         /* [tokens][width], [tokens] */
	float *x;                      /* [chunk][width] */
};

static enum gp_tensor_id norm_behind(enum gp_tensor_id id)
{
	switch (id) {
	case GP_T_ATTN_OUT: return GP_T_POST_ATTN_NORM;
	case GP_T_FFN_DOWN: return GP_T_POST_FFN_NORM;
	default: return (enum gp_tensor_id)0;
	}
}

/* ---- the model as it was given ---------------------------------------------------------------- */
/* The norm divides a token's branch by its size, and so its error. */
static void weigh_tokens(const struct follower *f, const float *branch, uint32_t rows)
{
	for (size_t r = 0; r < rows; r++) {
		const float *z = branch + r * f->hidden;
		const float size = cblas_snrm2((int)f->hidden, z, 1);

		f->weight[f->at + r] = size > 0 ? sqrtf((float)f->hidden) / size : 1;
	}
}

static int see_given(void *user, enum gp_tensor_id id, uint32_t layer, const float *x, uint32_t rows)
{
	struct follower *f = user;

	(void)layer;
	if (id == f->id)
		memcpy(f->given + f->at * f->width, x, (size_t)rows * f->width * sizeof *x);
	if (id == f->norm)
		weigh_tokens(f, x, rows);
	if (id != (f->norm ? f->norm : f->id))
		return 0;
	f->at += rows;
	return 1;
}

/* ---- as far as it is quantised ---------------------------------------------------------------- */
static void add_rows(const struct follower *f, const float *x, uint32_t rows)
{
	const int width = (int)f->width;
	float *given = f->given + f->at * f->width;

	for (size_t r = 0; r < rows; r++)
		for (size_t i = r * f->width; i < (r + 1) * f->width; i++) {
			const float weight = f->norm ? f->weight[f->at + r] : 1;

			f->x[i] = weight * x[i];
			given[i] = weight * (given[i] - x[i]);
		}
	gp_moments_add(f->m, f->x, rows, f->f->threads);
	if (f->cross)
		cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, width, width, (int)rows, 1, given,
		            width, f->x, width, 1, f->cross, width);
}

static int see_followed(void *user, enum gp_tensor_id id, uint32_t layer, const float *x,
                        uint32_t rows)
{
	struct follower *f = user;

	(void)layer;
	if (id != f->id)
		return 0;
	add_rows(f, x, rows);
	f->at += rows;
	return 1;
}

static void put_encoded(const struct gp_follow *f, const struct gp_tensor *was[GP_T_COUNT])
{
	for (uint32_t id = GP_T_PER_LAYER; id < GP_T_COUNT; id++) {
		was[id] = gp_model_tensor(f->walk->model, (enum gp_tensor_id)id, f->layer);
		if (f->encoded[id])
			gp_model_replace(f->walk->model, (enum gp_tensor_id)id, f->layer,
			                 f->encoded[id]);
	}
}

static void put_back(const struct gp_follow *f, const struct gp_tensor *const was[GP_T_COUNT])
{
	for (uint32_t id = GP_T_PER_LAYER; id < GP_T_COUNT; id++)
		gp_model_replace(f->walk->model, (enum gp_tensor_id)id, f->layer, was[id]);
}

int gp_follow_layer(const struct gp_follow *f, gp_walk_observe *observe, void *user,
                    size_t n_chunks, const float *in, float *out)
{
	const struct gp_tensor *was[GP_T_COUNT];
	struct gp_walk walk = *f->walk;
	int rc;

	walk.observe = observe;
	walk.user = user;
	put_encoded(f, was);
	rc = gp_walk_layer(&walk, f->layer, n_chunks, in, out);
	put_back(f, was);
	return rc;
}

/* ---- both ------------------------------------------------------------------------------------- */
static int follow_chunks(struct follower *f, size_t first, size_t n)
{
	const size_t from = first * f->f->walk->chunk * f->hidden;
	struct gp_walk walk = *f->f->walk;
	int rc;

	walk.observe = see_given;
	walk.user = f;
	f->at = 0;
	if ((rc = gp_walk_layer(&walk, f->f->layer, n, f->f->given + from, NULL)) < 0)
		return rc;
	f->at = 0;
	return gp_follow_layer(f->f, see_followed, f, n, f->f->followed + from, NULL);
}

int gp_follow(const struct gp_follow *f, enum gp_tensor_id id, struct gp_moments *m, float *cross)
{
	const struct gp_walk *w = f->walk;
	struct follower a = { .f = f, .id = id, .norm = norm_behind(id), .width = m->width,
	                      .hidden = gp_model_config(w->model)->hidden, .m = m, .cross = cross };
	const size_t fit = MOST_FLOATS / ((size_t)w->chunk * m->width);
	const size_t group = fit < 1 ? 1 : fit < w->n_chunks ? fit : w->n_chunks;
	const size_t tokens = group * w->chunk;
	int rc = 0;

	a.given = malloc(tokens * m->width * sizeof *a.given);
	a.weight = malloc(tokens * sizeof *a.weight);
	a.x = malloc((size_t)w->chunk * m->width * sizeof *a.x);
	if (!a.given || !a.weight || !a.x)
		rc = gp_fail(ENOMEM, "no memory for the inputs of %zu tokens", tokens);
	for (size_t i = 0; i < w->n_chunks && rc == 0; i += group)
		rc = follow_chunks(&a, i, group < w->n_chunks - i ? group : w->n_chunks - i);
	free(a.given);
	free(a.weight);
	free(a.x);
	return rc;
}

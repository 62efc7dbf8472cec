/* A model over a text layer by layer: only one layer's weights are in memory at a time, and
 * the caller holds the activations of all the text's tokens between two layers. */
#include <stdlib.h>

#include "base/base.h"
#include "quantize/quantize.h"

/* What reads no activations: the input of chunk i is bos and all its ids but the last. */
static void chunk_rows(const struct gp_walk *w, size_t i, bool logits, struct gp_stage_row *rows)
{
	const uint32_t *ids = w->ids + i * w->chunk;

	for (uint32_t r = 0; r < w->chunk; r++)
		rows[r] = (struct gp_stage_row){ .pos = r, .token = r ? ids[r - 1] : w->bos,
		                                 .wants_logits = logits };
}

static int run_chunk(const struct gp_walk *w, struct gp_stage *s, size_t i, bool logits,
                     struct gp_stage_row *rows, const float *in, float *out)
{
	const int rc = gp_kv_drop(gp_stage_kv(s), 0);

	chunk_rows(w, i, logits, rows);
	return rc < 0 ? rc : gp_stage_run(s, rows, w->chunk, in, out);
}

static struct gp_stage_shape shape_of(const struct gp_walk *w)
{
	return (struct gp_stage_shape){
		.config = gp_model_config(w->model), .max_rows = w->chunk,
		.max_logit_rows = w->chunk, .max_sequences = 1, .context = w->chunk,
		.kv_type = GP_TYPE_F32, .observe = w->observe, .observer = w->user,
	};
}

static int open_stage(const struct gp_walk *w, const struct gp_stage_shape *shape,
                      struct gp_stage **s, struct gp_stage_row **rows)
{
	*s = NULL;
	*rows = calloc(w->chunk, sizeof **rows);
	if (!*rows)
		return gp_fail(ENOMEM, "no memory for a step of %u rows", w->chunk);
	return gp_stage_create(s, w->model, shape, w->ops, w->dev, NULL, NULL);
}

static int run_layers(const struct gp_walk *w, const struct gp_stage_shape *shape, size_t n_chunks,
                      const float *in, float *out)
{
	const size_t floats = (size_t)w->chunk * gp_model_config(w->model)->hidden;
	struct gp_stage_row *rows;
	struct gp_stage *s;
	float *nobody = out ? NULL : calloc(floats, sizeof *nobody);
	int rc = out || nobody ? open_stage(w, shape, &s, &rows) :
	         gp_fail(ENOMEM, "no memory for the activations of %u tokens", w->chunk);

	for (size_t i = 0; i < n_chunks && rc == 0; i++)
		rc = run_chunk(w, s, i, false, rows, in ? in + i * floats : NULL,
		               out ? out + i * floats : nobody);
	if (out || nobody) {
		gp_stage_destroy(s);
		free(rows);
	}
	free(nobody);
	return rc;
}

int gp_walk_embed(const struct gp_walk *w, float *out)
{
	struct gp_stage_shape shape = shape_of(w);

	shape.embeds = true;
	return run_layers(w, &shape, w->n_chunks, NULL, out);
}

int gp_walk_layer(const struct gp_walk *w, uint32_t layer, size_t n_chunks, const float *in,
                  float *out)
{
	struct gp_stage_shape shape = shape_of(w);

	shape.first_layer = layer;
	shape.end_layer = layer + 1;
	return run_layers(w, &shape, n_chunks, in, out);
}

int gp_walk_head(const struct gp_walk *w, size_t n_chunks, const float *in, gp_walk_logits *take)
{
	const struct gp_config *c = gp_model_config(w->model);
	struct gp_stage_shape shape = shape_of(w);
	struct gp_stage_row *rows = NULL;
	struct gp_stage *s = NULL;
	size_t n;
	float *logits = gp_size_mul(w->chunk, c->vocab, &n) ? calloc(n, sizeof *logits) : NULL;
	int rc;

	shape.first_layer = shape.end_layer = c->n_layers;
	shape.has_head = true;
	rc = logits ? open_stage(w, &shape, &s, &rows) :
	              gp_fail(ENOMEM, "no memory for the logits of %u tokens; take a smaller --ctx",
	                      w->chunk);
	for (size_t i = 0; i < n_chunks && rc == 0; i++)
		if ((rc = run_chunk(w, s, i, true, rows, in + i * w->chunk * c->hidden, logits)) == 0 &&
		    take)
			rc = take(w->user, i, logits);
	gp_stage_destroy(s);
	free(rows);
	free(logits);
	return rc;
}

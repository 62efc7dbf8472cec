/* What a model's matrices multiply, and what each of them would cost in fewer bits.
 *
 * The cost of a type is a prediction of the Kullback-Leibler divergence (nats a token) that
 * the tensor alone causes:
 *   damage: the tensor is replaced by its probe type, its layer run over some chunks, and the
 *           squared change of the residual stream held against its square, token by token;
 *   errors: the weighted squared errors of every type, on a sample of rows. Damage grows with
 *           them, so one probe tells it of all types;
 *   nats:   what a random change of the last residual stream of known size does to the
 *           distribution. A layer's damage is taken to reach the end as it is. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "quantize/internal.h"

enum { SAMPLE_ROWS = 64, PIECE_ROWS = 16 };

static const enum gp_tensor_id of_layer[] = {
	GP_T_ATTN_Q, GP_T_ATTN_K, GP_T_ATTN_V, GP_T_ATTN_OUT,
	GP_T_FFN_GATE, GP_T_FFN_UP, GP_T_FFN_DOWN,
};

struct calibrator {
	const struct gp_calibrate_options *o;
	struct gp_calibration *c;
	struct gp_walk walk;
	struct gp_moments moments[GP_T_COUNT]; /* of the input of each product observed */
	size_t probe_chunks, tokens;
	float *in, *out, *changed;
	double nats;                           /* for a damage of 1 */
};

/* ---- the list of matrices ---------------------------------------------------------------- */
size_t gp_matrix_index(const struct gp_config *c, enum gp_tensor_id id, uint32_t layer)
{
	for (size_t i = 0; i < GP_ARRAY_LEN(of_layer); i++)
		if (of_layer[i] == id)
			return layer * GP_ARRAY_LEN(of_layer) + i;
	return (size_t)c->n_layers * GP_ARRAY_LEN(of_layer); /* the embedding */
}

size_t gp_matrix_count(const struct gp_config *c)
{
	return (size_t)c->n_layers * GP_ARRAY_LEN(of_layer) + 1;
}

void gp_matrix_at(const struct gp_config *c, size_t i, enum gp_tensor_id *id, uint32_t *layer)
{
	const bool is_embedding = i == gp_matrix_count(c) - 1;

	*layer = is_embedding ? 0 : (uint32_t)(i / GP_ARRAY_LEN(of_layer));
	*id = is_embedding ? GP_T_TOKEN_EMBD : of_layer[i % GP_ARRAY_LEN(of_layer)];
}

enum gp_tensor_id gp_observed_by(enum gp_tensor_id id)
{
	switch (id) {
	case GP_T_ATTN_K:
	case GP_T_ATTN_V: return GP_T_ATTN_Q;
	case GP_T_FFN_UP: return GP_T_FFN_GATE;
	default: return id;
	}
}

int gp_calibration_init(struct gp_calibration *c, const struct gp_model *m)
{
	const struct gp_config *config = gp_model_config(m);
	int rc = 0;

	*c = (struct gp_calibration){ .n = gp_matrix_count(config) };
	c->matrix = calloc(c->n, sizeof *c->matrix);
	if (!c->matrix) {
		c->n = 0;
		return gp_fail(ENOMEM, "no memory for the calibration of this model");
	}
	for (size_t i = 0; i < c->n && rc == 0; i++) {
		struct gp_matrix_cost *x = &c->matrix[i];
		const struct gp_tensor *t;

		gp_matrix_at(config, i, &x->id, &x->layer);
		t = gp_model_tensor(m, x->id, x->layer);
		x->cols = (uint32_t)t->cols;
		x->importance = calloc(x->cols, sizeof *x->importance);
		for (size_t k = 0; k < GP_COST_TYPES; k++)
			x->cost[k] = NAN;
		if (!x->importance)
			rc = gp_fail(ENOMEM, "no memory for the importance of %u columns", x->cols);
	}
	if (rc < 0)
		gp_calibration_free(c);
	return rc;
}

void gp_calibration_free(struct gp_calibration *c)
{
	for (size_t i = 0; i < c->n; i++)
		free(c->matrix[i].importance);
	free(c->matrix);
	*c = (struct gp_calibration){ 0 };
}

/* ---- importance ------------------------------------------------------------------------------ */
static int observe(void *user, enum gp_tensor_id id, uint32_t layer, const float *x, uint32_t rows)
{
	struct calibrator *c = user;

	(void)layer;
	gp_moments_add(&c->moments[id], x, rows, c->o->threads);
	return 0;
}

static int begin_moments(struct calibrator *c, enum gp_tensor_id id, uint32_t cols)
{
	gp_moments_free(&c->moments[id]);
	return gp_moments_init(&c->moments[id], cols, false);
}

/* A column that was never used counts a little: real text may use it. */
static int keep_importance(const struct calibrator *c, struct gp_matrix_cost *x)
{
	const struct gp_moments *m = &c->moments[gp_observed_by(x->id)];
	double mean = 0;

	for (uint32_t i = 0; i < x->cols; i++)
		mean += (double)m->diagonal[i] / (double)m->rows / x->cols;
	if (!isfinite(mean))
		return gp_fail(EDOM, "the inputs of a product are not finite; look for where with "
		               "--check-numerics");
	for (uint32_t i = 0; i < x->cols; i++)
		x->importance[i] = m->diagonal[i] / (float)m->rows + 1e-4f * (float)mean + 1e-30f;
	return 0;
}

/* ---- errors of every type, on a sample of rows -------------------------------------------------- */
struct sample {
	const struct gp_tensor *t;
	const struct gp_matrix_cost *x;
	enum gp_type type;
	uint64_t stride;               /* of rows */
	uint32_t rows;
	double error[SAMPLE_ROWS / PIECE_ROWS];
};

static int read_row(const struct gp_tensor *t, uint64_t row, float *out)
{
	const size_t bytes = t->bytes / (size_t)t->rows;
	uint8_t *raw = malloc(bytes);
	int rc = raw ? gp_tensor_read(t, row * bytes, bytes, raw) :
	               gp_fail(ENOMEM, "no memory for a row of tensor '%s'", t->name);

	if (rc == 0)
		gp_dequantize(t->type, raw, out, (size_t)t->cols);
	free(raw);
	return rc;
}

static int sample_piece(void *user, size_t i)
{
	struct sample *s = user;
	const uint32_t cols = s->x->cols, first = (uint32_t)i * PIECE_ROWS;
	const uint32_t n = s->rows - first < PIECE_ROWS ? s->rows - first : PIECE_ROWS;
	const struct gp_encoding e = { .type = s->type, .cols = cols,
	                               .importance = s->x->importance };
	float *w = calloc((size_t)n * cols, sizeof *w);
	uint8_t *encoded = calloc((size_t)n * cols, sizeof(float));
	int rc = w && encoded ? 0 : gp_fail(ENOMEM, "no memory for a sample of %u rows", n);

	for (uint32_t r = 0; r < n && rc == 0; r++)
		rc = read_row(s->t, (first + r) * s->stride, w + (size_t)r * cols);
	if (rc == 0)
		rc = gp_encode(&e, w, n, encoded, &s->error[i]);
	free(w);
	free(encoded);
	return rc;
}

static int error_of(const struct calibrator *c, const struct gp_tensor *t,
                    const struct gp_matrix_cost *x, enum gp_type type, double *error)
{
	struct sample s = { .t = t, .x = x, .type = type };
	int rc;

	s.rows = t->rows < SAMPLE_ROWS ? (uint32_t)t->rows : SAMPLE_ROWS;
	s.stride = t->rows / s.rows;
	rc = gp_parallel((s.rows + PIECE_ROWS - 1) / PIECE_ROWS, c->o->threads, sample_piece, &s);
	*error = 0;
	for (size_t i = 0; i < GP_ARRAY_LEN(s.error); i++)
		*error += s.error[i];
	return rc;
}

/* ---- damage ---------------------------------------------------------------------------------------- */
struct probe {
	const struct gp_tensor *t;
	const struct gp_matrix_cost *x;
	enum gp_type type;
	uint16_t *out;                 /* BF16 */
};

static int probe_piece(void *user, size_t i)
{
	struct probe *p = user;
	const uint32_t cols = p->x->cols;
	const uint64_t first = (uint64_t)i * PIECE_ROWS;
	const uint32_t n = p->t->rows - first < PIECE_ROWS ? (uint32_t)(p->t->rows - first) : PIECE_ROWS;
	const size_t elements = (size_t)n * cols;
	const struct gp_encoding e = { .type = p->type, .cols = cols,
	                               .importance = p->x->importance };
	float *w = calloc(elements, sizeof *w);
	uint8_t *encoded = calloc(elements, sizeof *w);
	double error;
	int rc = w && encoded ? 0 : gp_fail(ENOMEM, "no memory for %u rows", n);

	for (uint32_t r = 0; r < n && rc == 0; r++)
		rc = read_row(p->t, first + r, w + (size_t)r * cols);
	if (rc == 0 && (rc = gp_encode(&e, w, n, encoded, &error)) == 0) {
		gp_dequantize(p->type, encoded, w, elements);
		rc = gp_quantize(GP_TYPE_BF16, w, p->out + first * cols, elements);
	}
	free(w);
	free(encoded);
	return rc;
}

/* The tensor in the probe type, as BF16, whose own rounding is a hundredth of the probe's: what
 * is measured is the error of the weights, without that of 8-bit activations. */
static int probe_tensor(const struct calibrator *c, const struct gp_tensor *t,
                        const struct gp_matrix_cost *x, enum gp_type type, struct gp_tensor *out)
{
	struct probe p = { t, x, type, NULL };
	size_t n;
	int rc;

	*out = *t;
	out->data = NULL;              /* the caller frees what is there */
	if (!gp_size_mul((size_t)t->rows, (size_t)t->cols, &n) || !(p.out = calloc(n, sizeof *p.out)))
		return gp_fail(ENOMEM, "no memory for a copy of tensor '%s'", t->name);
	rc = gp_parallel((size_t)((t->rows + PIECE_ROWS - 1) / PIECE_ROWS), c->o->threads, probe_piece, &p);
	out->type = GP_TYPE_BF16;
	out->data = p.out;
	out->bytes = n * sizeof *p.out;
	out->mapped = false;
	return rc;
}

/* Mean over tokens of |changed - was|^2 / |was|^2. */
static double damage(const struct calibrator *c, const float *was, const float *changed)
{
	const uint32_t hidden = gp_model_config(c->walk.model)->hidden;
	const size_t n = c->probe_chunks * c->walk.chunk;
	double sum = 0;

	for (size_t i = 0; i < n; i++) {
		double d = 0, h = 0;

		for (size_t k = i * hidden; k < (i + 1) * hidden; k++) {
			d += ((double)changed[k] - (double)was[k]) * ((double)changed[k] - (double)was[k]);
			h += (double)was[k] * (double)was[k];
		}
		sum += h > 0 ? d / h : 0;
	}
	return sum / (double)n;
}

static enum gp_type probe_type(uint32_t cols)
{
	return cols % 256 == 0 ? GP_TYPE_Q4_K : GP_TYPE_Q4_0;
}

/* Costs by damage, once the nats that it costs are known. */
static int spread_costs(const struct calibrator *c, const struct gp_tensor *t,
                        struct gp_matrix_cost *x, double damage_of_probe)
{
	double probe, error;
	int rc = error_of(c, t, x, probe_type(x->cols), &probe);

	for (size_t k = 0; k < GP_COST_TYPES && rc == 0; k++) {
		if (x->cols % gp_type_info(gp_cost_types[k])->block_elems)
			continue;
		if ((rc = error_of(c, t, x, gp_cost_types[k], &error)) == 0)
			x->cost[k] = probe > 0 ? damage_of_probe * error / probe : 0;
	}
	return rc;
}

static int probe_matrix(struct calibrator *c, struct gp_matrix_cost *x)
{
	struct gp_model *m = c->walk.model;
	const struct gp_tensor *t = gp_model_tensor(m, x->id, x->layer);
	struct gp_tensor probed;
	struct gp_walk walk = c->walk;
	int rc = probe_tensor(c, t, x, probe_type(x->cols), &probed);

	if (rc == 0) {
		walk.observe = NULL;
		gp_model_replace(m, x->id, x->layer, &probed);
		rc = gp_walk_layer(&walk, x->layer, c->probe_chunks, c->in, c->changed);
		gp_model_replace(m, x->id, x->layer, t);
	}
	free((void *)(uintptr_t)probed.data);
	return rc < 0 ? rc : spread_costs(c, t, x, damage(c, c->out, c->changed));
}

/* ---- the head and the embedding, which are one matrix --------------------------------------------- */
/* Logits of some chunks as they were, and the divergence of others from them. */
struct divergence {
	float *clean;
	size_t chunks;
	uint32_t chunk, vocab;
	double nats;               /* sum over tokens */
};

static int keep_logits(void *user, size_t i, const float *logits)
{
	struct divergence *d = user;
	const size_t n = (size_t)d->chunk * d->vocab;

	memcpy(d->clean + i * n, logits, n * sizeof *logits);
	return 0;
}

/* KL(p || q) of two rows of logits. */
static double divergence_of(const float *p, const float *q, uint32_t n)
{
	return gp_kl_divergence(p, gp_log_sum_exp(p, n), q, gp_log_sum_exp(q, n), n);
}

static int compare_logits(void *user, size_t i, const float *logits)
{
	struct divergence *d = user;

	for (uint32_t r = 0; r < d->chunk; r++)
		d->nats += divergence_of(d->clean + (i * d->chunk + r) * d->vocab,
		                         logits + (size_t)r * d->vocab, d->vocab);
	return 0;
}

/* Mean KL of the head on these activations from the clean logits. */
static int diverge(const struct calibrator *c, struct divergence *d, const float *in, double *mean)
{
	struct gp_walk walk = c->walk;
	int rc;

	walk.observe = NULL;
	walk.user = d;
	d->nats = 0;
	rc = gp_walk_head(&walk, d->chunks, in, compare_logits);
	*mean = d->nats / ((double)d->chunks * d->chunk);
	return rc;
}

enum { NOISE = 1000 };             /* damage of 1 / NOISE */

/* A plain generator is enough: the noise must be spread evenly, no more. Of variance 1. */
static float noise(uint64_t *state)
{
	float sum = 0;

	for (int i = 0; i < 3; i++) {
		*state = *state * 6364136223846793005u + 1442695040888963407u;
		sum += (float)(*state >> 40) * 0x1p-23f - 1;
	}
	return sum;                /* of three evenly spread in [-1, 1): variance 1 */
}

static void add_noise(const struct calibrator *c, size_t tokens)
{
	const uint32_t hidden = gp_model_config(c->walk.model)->hidden;
	uint64_t state = 1;

	for (size_t i = 0; i < tokens; i++) {
		double h = 0;

		for (size_t k = i * hidden; k < (i + 1) * hidden; k++)
			h += (double)c->out[k] * (double)c->out[k];
		const float scale = (float)sqrt(h / hidden / NOISE);

		for (size_t k = i * hidden; k < (i + 1) * hidden; k++)
			c->changed[k] = c->out[k] + scale * noise(&state);
	}
}

/* What the head's own error costs, and that of the embedding. */
static int probe_embedding(struct calibrator *c, struct divergence *d, double *cost)
{
	struct gp_matrix_cost *x = &c->c->matrix[c->c->n - 1];
	struct gp_model *m = c->walk.model;
	const struct gp_tensor *t = gp_model_tensor(m, GP_T_TOKEN_EMBD, 0);
	struct gp_walk walk = c->walk;
	struct gp_tensor probed;
	int rc = probe_tensor(c, t, x, probe_type(x->cols), &probed);

	walk.observe = NULL;
	walk.n_chunks = c->probe_chunks;
	if (rc == 0)
		rc = gp_walk_embed(&walk, c->in);
	gp_model_replace(m, GP_T_TOKEN_EMBD, 0, &probed);
	if (rc == 0)
		rc = diverge(c, d, c->out, cost);
	if (rc == 0)
		rc = gp_walk_embed(&walk, c->changed);
	gp_model_replace(m, GP_T_TOKEN_EMBD, 0, t);
	free((void *)(uintptr_t)probed.data);
	if (rc == 0)
		*cost += damage(c, c->in, c->changed) * c->nats;
	return rc;
}

static int calibrate_head(struct calibrator *c, struct divergence *d)
{
	struct gp_matrix_cost *x = &c->c->matrix[c->c->n - 1];
	const struct gp_tensor *t = gp_model_tensor(c->walk.model, GP_T_TOKEN_EMBD, 0);
	struct gp_walk walk = c->walk;
	double cost = 0;
	int rc = begin_moments(c, GP_T_TOKEN_EMBD, x->cols);

	walk.observe = observe;
	walk.user = c;
	/* All chunks for the importance; the first ones' logits stay. */
	if (rc < 0 || (rc = gp_walk_head(&walk, walk.n_chunks, c->out, NULL)) < 0)
		return rc;
	walk.observe = NULL;
	walk.user = d;
	if ((rc = keep_importance(c, x)) < 0 ||
	    (rc = gp_walk_head(&walk, d->chunks, c->out, keep_logits)) < 0)
		return rc;
	add_noise(c, d->chunks * c->walk.chunk);
	if ((rc = diverge(c, d, c->changed, &c->nats)) < 0)
		return rc;
	c->nats *= NOISE;
	if (!(c->nats > 0) || !isfinite(c->nats))
		return gp_fail(EDOM, "a change of the residual stream changes the logits by %g; look for "
		               "what is wrong with --check-numerics", c->nats);
	rc = probe_embedding(c, d, &cost);
	return rc < 0 ? rc : spread_costs(c, t, x, cost / c->nats);
}

/* ---- all ---------------------------------------------------------------------------------------------- */
static int begin_layer(struct calibrator *c, uint32_t layer)
{
	int rc = 0;

	for (size_t i = 0; i < GP_ARRAY_LEN(of_layer) && rc == 0; i++)
		if (gp_observed_by(of_layer[i]) == of_layer[i])
			rc = begin_moments(c, of_layer[i],
			                   c->c->matrix[layer * GP_ARRAY_LEN(of_layer) + i].cols);
	return rc;
}

static int calibrate_layer(struct calibrator *c, uint32_t layer)
{
	struct gp_walk walk = c->walk;
	float *next;
	int rc = begin_layer(c, layer);

	walk.observe = observe;
	walk.user = c;
	if (rc == 0)
		rc = gp_walk_layer(&walk, layer, walk.n_chunks, c->in, c->out);
	for (size_t i = 0; i < GP_ARRAY_LEN(of_layer) && rc == 0; i++) {
		struct gp_matrix_cost *x = &c->c->matrix[layer * GP_ARRAY_LEN(of_layer) + i];

		if ((rc = keep_importance(c, x)) == 0)
			rc = probe_matrix(c, x);
	}
	next = c->in;
	c->in = c->out;
	c->out = next;
	return rc;
}

static int all_layers(struct calibrator *c)
{
	const struct gp_config *config = gp_model_config(c->walk.model);
	int rc = gp_walk_embed(&c->walk, c->in);

	for (uint32_t l = 0; l < config->n_layers && rc == 0; l++) {
		rc = calibrate_layer(c, l);
		if (rc < 0)
			return gp_fail_in(rc, "layer %u", l);
		if (c->o->progress)
			c->o->progress(c->o->user, l + 1, config->n_layers + 1);
	}
	return rc;
}

/* After the last layer, in holds the residual stream. */
static int head(struct calibrator *c)
{
	const uint32_t vocab = gp_model_config(c->walk.model)->vocab;
	const size_t bytes = (size_t)c->walk.chunk * vocab * sizeof(float);
	struct divergence d = { .chunk = c->walk.chunk, .vocab = vocab };
	float *next = c->in;
	int rc;

	c->in = c->out;
	c->out = next;
	d.chunks = ((size_t)1 << 30) / bytes;
	d.chunks = d.chunks < 1 ? 1 : d.chunks < c->probe_chunks ? d.chunks : c->probe_chunks;
	d.clean = calloc(d.chunks, bytes);
	rc = d.clean ? calibrate_head(c, &d) : gp_fail(ENOMEM, "no memory for the logits of a chunk");
	free(d.clean);
	for (size_t i = 0; i + 1 < c->c->n; i++)
		for (size_t k = 0; k < GP_COST_TYPES; k++)
			c->c->matrix[i].cost[k] *= c->nats;
	for (size_t k = 0; k < GP_COST_TYPES; k++)
		c->c->matrix[c->c->n - 1].cost[k] *= c->nats;
	return rc;
}

static int take_activations(struct calibrator *c)
{
	size_t n = gp_model_config(c->walk.model)->hidden, all, probed;

	if (gp_size_mul(n, c->walk.chunk, &n) && gp_size_mul(n, c->walk.n_chunks, &all) &&
	    gp_size_mul(n, c->probe_chunks, &probed)) {
		c->in = calloc(all, sizeof(float));
		c->out = calloc(all, sizeof(float));
		c->changed = calloc(probed, sizeof(float));
	}
	return c->in && c->out && c->changed ? 0 :
	       gp_fail(ENOMEM, "no memory for the activations of %zu chunks of %u tokens; calibrate "
	               "on fewer", c->walk.n_chunks, c->walk.chunk);
}

int gp_calibrate(struct gp_calibration *out, const struct gp_walk *walk,
                 const struct gp_calibrate_options *o)
{
	struct calibrator c = { .o = o, .c = out, .walk = *walk };
	int rc = gp_calibration_init(out, walk->model);

	if (rc < 0)
		return rc;
	c.probe_chunks = o->probe_chunks < walk->n_chunks ? o->probe_chunks : walk->n_chunks;
	if ((rc = take_activations(&c)) == 0 && (rc = all_layers(&c)) == 0 && (rc = head(&c)) == 0 &&
	    o->progress)
		o->progress(o->user, gp_model_config(walk->model)->n_layers + 1,
		            gp_model_config(walk->model)->n_layers + 1);
	for (size_t i = 0; i < GP_T_COUNT; i++)
		gp_moments_free(&c.moments[i]);
	free(c.in);
	free(c.out);
	free(c.changed);
	out->chunks = walk->n_chunks;
	out->chunk = walk->chunk;
	if (rc < 0)
		gp_calibration_free(out);
	return rc;
}

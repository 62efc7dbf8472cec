/* A stage: the layers [first, end) of Gemma 3 on one device. What a layer is
 * stands here once; how fast it runs is the device's affair. */
#include "model/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define LAYER_TENSORS (GP_T_COUNT - GP_T_PER_LAYER)

struct layer {
	gp_handle tensor[LAYER_TENSORS];
};

struct gp_stage {
	struct gp_config config;
	struct gp_stage_shape shape;   /* .config is the one above */
	const struct gp_device_ops *ops;
	void *dev;
	struct gp_checked checked;     /* the device, where ops are those that check */
	struct gp_kv_cache *kv;
	struct layer *layers;          /* end - first of them */
	gp_handle token_embd, output_norm;
	/* the step in hand, max_rows each */
	uint32_t *seq, *pos, *token, *logit_rows, *candidates;
	uint32_t *added;               /* positions the step adds, by sequence */
	uint32_t n_rows;
	bool prepares;                 /* no step is in hand: nothing to trace */
};

/* ---- weights --------------------------------------------------------------- */
struct loader {
	struct gp_stage *s;
	const struct gp_model *model;
	void (*progress)(void *, uint64_t, uint64_t);
	void *user;
	uint64_t done, total;
};

static int load_tensor(struct loader *l, enum gp_tensor_id id, uint32_t layer, gp_handle *out)
{
	const struct gp_tensor *t = gp_model_tensor(l->model, id, layer);
	int rc = l->s->ops->load(l->s->dev, t, l->s->config.norm_offset, out);

	if (rc < 0)
		return gp_fail_in(rc, "%s: %s", gp_model_path(l->model), t->name);
	l->done += t->bytes;
	if (l->progress)
		l->progress(l->user, l->done, l->total);
	return 0;
}

static int load_weights(struct loader *l)
{
	const struct gp_stage_shape *p = &l->s->shape;
	int rc;

	if ((p->embeds || p->has_head) &&
	    (rc = load_tensor(l, GP_T_TOKEN_EMBD, 0, &l->s->token_embd)) < 0)
		return rc;
	if (p->has_head && (rc = load_tensor(l, GP_T_OUTPUT_NORM, 0, &l->s->output_norm)) < 0)
		return rc;
	for (uint32_t i = p->first_layer; i < p->end_layer; i++) {
		gp_handle *h = l->s->layers[i - p->first_layer].tensor;

		for (uint32_t t = GP_T_PER_LAYER; t < GP_T_COUNT; t++)
			if ((rc = load_tensor(l, t, i, &h[t - GP_T_PER_LAYER])) < 0)
				return rc;
	}
	return 0;
}

/* ---- life ------------------------------------------------------------------ */
static int check_shape(const struct gp_stage_shape *p, const struct gp_config *c)
{
	if (p->first_layer > p->end_layer || p->end_layer > c->n_layers)
		return gp_fail(EINVAL, "stage: layers %u to %u of a model of %u; "
		               "give a range within 0 to %u", p->first_layer, p->end_layer,
		               c->n_layers, c->n_layers);
	if (p->embeds && p->first_layer != 0)
		return gp_fail(EINVAL, "stage: embeds but begins at layer %u", p->first_layer);
	if (p->has_head && p->end_layer != c->n_layers)
		return gp_fail(EINVAL, "stage: has the head but ends at layer %u of %u",
		               p->end_layer, c->n_layers);
	if (!p->max_rows || !p->max_sequences || !p->context)
		return gp_fail(EINVAL, "stage: rows, sequences and context must be at least 1");
	if (p->has_head && !p->max_logit_rows)
		return gp_fail(EINVAL, "stage: has the head but room for no logit row; give it 1");
	return 0;
}

static int create_kv(struct gp_stage *s)
{
	struct gp_kv_limits limits = {
		.max_sequences = s->shape.max_sequences, .context = s->shape.context,
		.window = s->config.window,
	};

	for (uint32_t i = s->shape.first_layer; i < s->shape.end_layer; i++)
		limits.has_kind[s->config.is_global[i] ? GP_KV_GLOBAL : GP_KV_LOCAL] = true;
	return gp_kv_create(&s->kv, &limits, &s->ops->kv, s->dev);
}

static int allocate(struct gp_stage *s)
{
	size_t rows = s->shape.max_rows;

	s->layers = calloc(s->shape.end_layer - s->shape.first_layer + 1u, sizeof(*s->layers));
	s->seq = calloc(rows, 5 * sizeof(*s->seq));
	s->added = calloc(s->shape.max_sequences, sizeof(*s->added));
	if (!s->layers || !s->seq || !s->added)
		return gp_fail(ENOMEM, "stage: no memory for steps of %zu rows", rows);
	s->pos = s->seq + rows;
	s->token = s->pos + rows;
	s->logit_rows = s->token + rows;
	s->candidates = s->logit_rows + rows;
	return 0;
}

/* From now on each operation is followed by a look at what it wrote. */
static void check_operations(struct gp_stage *s)
{
	gp_check_operations(&s->checked, s->ops, s->dev);
	s->ops = &s->checked.checking;
	s->dev = &s->checked;
}

void gp_stage_destroy(struct gp_stage *s)
{
	if (!s)
		return;
	gp_kv_destroy(s->kv);
	free(s->layers);
	free(s->seq);
	free(s->added);
	free(s);
}

struct gp_kv_cache *gp_stage_kv(struct gp_stage *s)
{
	return s->kv;
}

/* ---- the forward pass ------------------------------------------------------ */
static gp_handle weight_of(const struct gp_stage *s, uint32_t layer, enum gp_tensor_id t)
{
	return s->layers[layer - s->shape.first_layer].tensor[t - GP_T_PER_LAYER];
}

/* The norm that what follows layers up to here begins with: a layer's, the head's, or
 * none. */
static gp_handle norm_before(const struct gp_stage *s, uint32_t layer, const struct gp_batch *b)
{
	if (layer < s->shape.end_layer)
		return weight_of(s, layer, GP_T_ATTN_NORM);
	return s->shape.has_head && b->n_logit_rows ? s->output_norm : 0;
}

static int norm(struct gp_stage *s, gp_handle w)
{
	return w ? s->ops->rms_norm(s->dev, GP_BUF_NORMED, GP_BUF_HIDDEN, w) : 0;
}

/* A branch joins the residual stream, whose norm the next branch begins with. */
static int join(struct gp_stage *s, gp_handle w, gp_handle next)
{
	const struct gp_device_ops *o = s->ops;
	int rc;

	if (o->add_norm)
		return o->add_norm(s->dev, w, next);
	if ((rc = o->rms_norm(s->dev, GP_BUF_BRANCH, GP_BUF_BRANCH, w)) < 0 ||
	    (rc = o->add(s->dev, GP_BUF_HIDDEN, GP_BUF_BRANCH)) < 0)
		return rc;
	return norm(s, next);
}

static int attend(struct gp_stage *s, uint32_t layer)
{
	const gp_handle q = weight_of(s, layer, GP_T_ATTN_Q_NORM);
	const gp_handle k = weight_of(s, layer, GP_T_ATTN_K_NORM);
	int rc;

	if (s->ops->append_attention)
		return s->ops->append_attention(s->dev, layer, q, k);
	if ((rc = s->ops->qk_rope_append(s->dev, layer, q, k)) < 0)
		return rc;
	return s->ops->attention(s->dev, layer);
}

static int observe(struct gp_stage *s, enum gp_tensor_id id, uint32_t layer, enum gp_buffer b)
{
	const float *x;

	if (!s->shape.observe)
		return 0;
	x = s->ops->peek(s->dev, b);
	return x ? s->shape.observe(s->shape.observer, id, layer, x, s->n_rows) : -EIO;
}

static int attention_branch(struct gp_stage *s, uint32_t layer)
{
	const struct gp_device_ops *o = s->ops;
	const struct gp_matmul_out qkv[] = {
		{ weight_of(s, layer, GP_T_ATTN_Q), GP_BUF_Q },
		{ weight_of(s, layer, GP_T_ATTN_K), GP_BUF_K },
		{ weight_of(s, layer, GP_T_ATTN_V), GP_BUF_V },
	};
	const struct gp_matmul_out back[] = {
		{ weight_of(s, layer, GP_T_ATTN_OUT), GP_BUF_BRANCH },
	};
	int rc;

	if ((rc = observe(s, GP_T_ATTN_Q, layer, GP_BUF_NORMED)) != 0 ||
	    (rc = o->matmul(s->dev, GP_BUF_NORMED, qkv, GP_ARRAY_LEN(qkv))) < 0 ||
	    (rc = attend(s, layer)) < 0 ||
	    (rc = observe(s, GP_T_ATTN_OUT, layer, GP_BUF_ATTN)) != 0 ||
	    (rc = o->matmul(s->dev, GP_BUF_ATTN, back, GP_ARRAY_LEN(back))) < 0 ||
	    (rc = observe(s, GP_T_POST_ATTN_NORM, layer, GP_BUF_BRANCH)) != 0)
		return rc;
	return join(s, weight_of(s, layer, GP_T_POST_ATTN_NORM), weight_of(s, layer, GP_T_FFN_NORM));
}

static int gate_and_up(struct gp_stage *s, uint32_t layer)
{
	const struct gp_matmul_out gate_up[] = {
		{ weight_of(s, layer, GP_T_FFN_GATE), GP_BUF_GATE },
		{ weight_of(s, layer, GP_T_FFN_UP), GP_BUF_UP },
	};
	int rc;

	if (s->ops->gated_matmul)
		return s->ops->gated_matmul(s->dev, gate_up[0].weight, gate_up[1].weight);
	if ((rc = s->ops->matmul(s->dev, GP_BUF_NORMED, gate_up, GP_ARRAY_LEN(gate_up))) < 0)
		return rc;
	return s->ops->geglu(s->dev);
}

static int ffn_branch(struct gp_stage *s, uint32_t layer, gp_handle next)
{
	const struct gp_matmul_out down[] = {
		{ weight_of(s, layer, GP_T_FFN_DOWN), GP_BUF_BRANCH },
	};
	int rc;

	if ((rc = observe(s, GP_T_FFN_GATE, layer, GP_BUF_NORMED)) != 0 ||
	    (rc = gate_and_up(s, layer)) < 0 ||
	    (rc = observe(s, GP_T_FFN_DOWN, layer, GP_BUF_GATE)) != 0 ||
	    (rc = s->ops->matmul(s->dev, GP_BUF_GATE, down, GP_ARRAY_LEN(down))) < 0 ||
	    (rc = observe(s, GP_T_POST_FFN_NORM, layer, GP_BUF_BRANCH)) != 0)
		return rc;
	return join(s, weight_of(s, layer, GP_T_POST_FFN_NORM), next);
}

static uint64_t span_begin(const struct gp_stage *s)
{
	return gp_trace_on() && !s->prepares ? gp_now_ns() : 0;
}

/* Devices that only record here show the time of recording; their own spans tell
 * the rest. start 0: no span. */
static uint64_t span_since(const char *name, uint64_t start, uint32_t layer)
{
	const uint64_t now = start ? gp_now_ns() : 0;

	if (now)
		gp_trace_span("compute", name, start, now, "layer", layer);
	return now;
}

static int run_layer(struct gp_stage *s, uint32_t layer, gp_handle next)
{
	uint64_t start = span_begin(s);
	int rc;

	if ((rc = attention_branch(s, layer)) != 0)
		return rc;
	start = span_since(s->config.is_global[layer] ? "attention global" : "attention local",
	                   start, layer);
	if ((rc = ffn_branch(s, layer, next)) != 0)
		return rc;
	span_since("ffn", start, layer);
	return 0;
}

static int run_embed(struct gp_stage *s)
{
	const uint64_t start = span_begin(s);
	const int rc = s->ops->embed(s->dev, s->token_embd, sqrtf((float)s->config.hidden));

	if (start)
		gp_trace_span("compute", "embed", start, gp_now_ns(), NULL, 0);
	return rc;
}

static int run_head(struct gp_stage *s)
{
	uint64_t start = span_begin(s);
	int rc;

	if ((rc = observe(s, GP_T_TOKEN_EMBD, 0, GP_BUF_NORMED)) != 0 ||
	    (rc = s->ops->head(s->dev, s->token_embd)) < 0)
		return rc;
	if (start)
		gp_trace_span("compute", "head", start, gp_now_ns(), NULL, 0);
	return 0;
}

/* A layer finds NORMED made by the one before, where the device does that with the sum;
 * else, and at the first, it is made here, as the layer's own. */
static int run_operations(struct gp_stage *s, const struct gp_batch *b)
{
	const uint32_t first = s->shape.first_layer, end = s->shape.end_layer;
	const bool ahead = s->ops->add_norm;
	int rc = s->shape.embeds ? run_embed(s) : 0;

	for (uint32_t i = first; i < end && rc == 0; i++) {
		if (i == first || !ahead)
			rc = norm(s, norm_before(s, i, b));
		if (rc == 0)
			rc = run_layer(s, i, ahead ? norm_before(s, i + 1, b) : 0);
		if (rc < 0)
			return gp_fail_in(rc, "layer %u", i);
	}
	if (rc == 0 && (first == end || !ahead))
		rc = norm(s, norm_before(s, end, b));
	return rc == 0 && s->shape.has_head && b->n_logit_rows ? run_head(s) : rc;
}

static int end_step(struct gp_stage *s, float *out)
{
	return s->ops->end_step(s->dev, s->shape.has_head ? GP_BUF_LOGITS : GP_BUF_HIDDEN, out);
}

static int forward(struct gp_stage *s, const struct gp_batch *b, const float *in, float *out)
{
	int rc = s->ops->begin_step(s->dev, b, s->shape.embeds ? NULL : in);

	s->n_rows = b->n_rows;
	if (rc == 0)
		rc = run_operations(s, b);
	return rc < 0 ? rc : end_step(s, out);
}

/* ---- creating --------------------------------------------------------------- */
/* Kinds of steps that a device records ahead of the first one. */
static int prepare(struct gp_stage *s)
{
	const uint64_t start = gp_now_ns();
	struct gp_batch b = { 0 };
	uint32_t n;
	int rc;

	s->prepares = true;
	for (n = 0; (rc = s->ops->prepare(s->dev, &b.n_logit_rows)) > 0; n++)
		if ((rc = run_operations(s, &b)) < 0 || (rc = end_step(s, NULL)) < 0)
			break;
	s->prepares = false;
	gp_log(GP_LOG_INFO, "%s: %u kinds of steps recorded in %.1f ms", s->ops->name, n,
	       (double)(gp_now_ns() - start) * 1e-6);
	return rc;
}

int gp_stage_create(struct gp_stage **out, const struct gp_model *m,
                    const struct gp_stage_shape *shape, const struct gp_device_ops *ops,
                    void *dev, void (*progress)(void *, uint64_t, uint64_t), void *user)
{
	struct loader l = { .model = m, .progress = progress, .user = user };
	struct gp_stage *s;
	int rc;

	*out = NULL;
	if ((rc = check_shape(shape, gp_model_config(m))) < 0)
		return rc;
	if (shape->observe && !ops->peek)
		return gp_fail(ENOTSUP, "%s: shows nobody its activations; calibrate on the CPU",
		               ops->name);
	if (!(s = calloc(1, sizeof(*s))))
		return gp_fail(ENOMEM, "stage: no memory");
	s->config = *gp_model_config(m);
	s->shape = *shape;
	s->shape.config = &s->config;
	s->ops = ops;
	s->dev = dev;
	l.s = s;
	l.total = gp_stage_weights(m, shape, NULL, NULL);
	s->shape.weight_bytes = gp_stage_weights(m, shape, ops->weight_bytes, dev);
	if ((rc = allocate(s)) < 0 || (rc = create_kv(s)) < 0 ||
	    (rc = ops->configure(dev, &s->shape)) < 0 || (rc = load_weights(&l)) < 0 ||
	    (ops->prepare && (rc = prepare(s)) < 0) ||
	    (ops->finish_load && (rc = ops->finish_load(dev)) < 0)) {
		gp_stage_destroy(s);
		return rc;
	}
	if (shape->check_numerics)
		check_operations(s);
	*out = s;
	return 0;
}

/* ---- a step ---------------------------------------------------------------- */
static int check_row(struct gp_stage *s, const struct gp_stage_row *r, uint32_t i)
{
	uint32_t expected;

	if (r->seq >= s->shape.max_sequences)
		return gp_fail(EINVAL, "step: row %u is of sequence slot %u; there are %u", i,
		               r->seq, s->shape.max_sequences);
	expected = gp_kv_length(s->kv, r->seq) + s->added[r->seq];
	if (r->pos != expected)
		return gp_fail(ERANGE, "step: row %u is position %u of sequence %u, which goes on "
		               "at %u; replay it", i, r->pos, r->seq, expected);
	if (r->pos >= s->shape.context)
		return gp_fail(ERANGE, "step: position %u of sequence %u is past the context of %u; "
		               "shorten the text or raise the context", r->pos, r->seq,
		               s->shape.context);
	if (s->shape.embeds && r->token >= s->config.vocab)
		return gp_fail(EINVAL, "step: token %u; the vocabulary has %u", r->token,
		               s->config.vocab);
	if (r->candidates > GP_MAX_CANDIDATES || r->candidates > s->config.vocab / 2)
		return gp_fail(EINVAL, "step: row %u wants its %u best logits; ask for at most %u of "
		               "%u, or for all", i, r->candidates, GP_MAX_CANDIDATES,
		               s->config.vocab);
	s->added[r->seq]++;
	return 0;
}

static int take_rows(struct gp_stage *s, const struct gp_stage_row *rows, uint32_t n,
                     struct gp_batch *b)
{
	int rc;

	if (!n || n > s->shape.max_rows)
		return gp_fail(EINVAL, "step: %u rows; this stage takes 1 to %u", n,
		               s->shape.max_rows);
	*b = (struct gp_batch){ .n_rows = n, .seq = s->seq, .pos = s->pos, .token = s->token,
	                        .logit_rows = s->logit_rows, .candidates = s->candidates,
	                        .kv = s->kv };
	memset(s->added, 0, s->shape.max_sequences * sizeof(*s->added));
	for (uint32_t i = 0; i < n; i++) {
		if ((rc = check_row(s, &rows[i], i)) < 0)
			return rc;
		s->seq[i] = rows[i].seq;
		s->pos[i] = rows[i].pos;
		s->token[i] = rows[i].token;
		if (s->shape.has_head && rows[i].wants_logits) {
			s->candidates[b->n_logit_rows] = rows[i].candidates;
			s->logit_rows[b->n_logit_rows++] = i;
		}
	}
	if (b->n_logit_rows > s->shape.max_logit_rows)
		return gp_fail(EINVAL, "step: %u rows want logits; this stage takes %u",
		               b->n_logit_rows, s->shape.max_logit_rows);
	return 0;
}

int gp_stage_run(struct gp_stage *s, const struct gp_stage_row *rows, uint32_t n_rows,
                 const float *in, float *out)
{
	struct gp_batch b;
	int rc = take_rows(s, rows, n_rows, &b);

	if (rc < 0)
		return rc;
	if ((!s->shape.embeds && !in) || (!out && (!s->shape.has_head || b.n_logit_rows)))
		return gp_fail(EINVAL, "step: no room for its input or output");
	for (uint32_t q = 0; q < s->shape.max_sequences; q++)
		if (s->added[q] && (rc = gp_kv_extend(s->kv, q, s->added[q])) < 0)
			return rc;
	return forward(s, &b, in, out);
}

/* --check-numerics: a device's operations, each followed by a search of what it
 * wrote. The layer that an error belongs to is named by whoever runs layers. */
#include "model/internal.h"

#include "base/base.h"

static const char *const names[GP_BUF_COUNT] = {
	[GP_BUF_HIDDEN] = "hidden", [GP_BUF_NORMED] = "normed", [GP_BUF_Q] = "Q",
	[GP_BUF_K] = "K", [GP_BUF_V] = "V", [GP_BUF_ATTN] = "heads", [GP_BUF_BRANCH] = "branch",
	[GP_BUF_GATE] = "gate", [GP_BUF_UP] = "up", [GP_BUF_LOGITS] = "logits",
};

/* rc of the operation that wrote into b. */
static int look(struct gp_checked *c, int rc, const char *operation, enum gp_buffer b)
{
	const uint32_t rows = b == GP_BUF_LOGITS ? c->batch->n_logit_rows : c->batch->n_rows;

	if (rc == 0)
		rc = c->ops->check(c->dev, b, rows);
	return rc < 0 ? gp_fail_in(rc, "%s (%s)", operation, names[b]) : 0;
}

static int checked_begin_step(void *dev, const struct gp_batch *b, const float *hidden_in)
{
	struct gp_checked *c = dev;
	int rc;

	c->batch = b;
	if ((rc = c->ops->begin_step(c->dev, b, hidden_in)) != 0 || !hidden_in)
		return rc;
	return look(c, rc, "input", GP_BUF_HIDDEN);
}

static int checked_embed(void *dev, gp_handle table, float scale)
{
	struct gp_checked *c = dev;

	return look(c, c->ops->embed(c->dev, table, scale), "embed", GP_BUF_HIDDEN);
}

static int checked_rms_norm(void *dev, enum gp_buffer to, enum gp_buffer from, gp_handle w)
{
	struct gp_checked *c = dev;

	return look(c, c->ops->rms_norm(c->dev, to, from, w), "rms_norm", to);
}

static int checked_matmul(void *dev, enum gp_buffer from, const struct gp_matmul_out *out,
                          size_t n_out)
{
	struct gp_checked *c = dev;
	int rc = c->ops->matmul(c->dev, from, out, n_out);

	for (size_t i = 0; i < n_out; i++)
		if ((rc = look(c, rc, "matmul", out[i].to)) < 0)
			return rc;
	return 0;
}

static int checked_qk_rope_append(void *dev, uint32_t layer, gp_handle q_norm, gp_handle k_norm)
{
	struct gp_checked *c = dev;
	const int rc = look(c, c->ops->qk_rope_append(c->dev, layer, q_norm, k_norm),
	                    "qk_rope_append", GP_BUF_Q);

	return rc < 0 ? rc : look(c, rc, "qk_rope_append", GP_BUF_K);
}

static int checked_attention(void *dev, uint32_t layer)
{
	struct gp_checked *c = dev;

	return look(c, c->ops->attention(c->dev, layer), "attention", GP_BUF_ATTN);
}

static int checked_geglu(void *dev)
{
	struct gp_checked *c = dev;

	return look(c, c->ops->geglu(c->dev), "geglu", GP_BUF_GATE);
}

static int checked_add(void *dev, enum gp_buffer to, enum gp_buffer from)
{
	struct gp_checked *c = dev;

	return look(c, c->ops->add(c->dev, to, from), "add", to);
}

static int checked_head(void *dev, gp_handle table)
{
	struct gp_checked *c = dev;

	return look(c, c->ops->head(c->dev, table), "head", GP_BUF_LOGITS);
}

static int checked_end_step(void *dev, enum gp_buffer from, float *out)
{
	struct gp_checked *c = dev;

	return c->ops->end_step(c->dev, from, out);
}

/* ---- several at once ---- */
static int checked_append_attention(void *dev, uint32_t layer, gp_handle q_norm, gp_handle k_norm)
{
	struct gp_checked *c = dev;

	return look(c, c->ops->append_attention(c->dev, layer, q_norm, k_norm),
	            "append_attention", GP_BUF_ATTN);
}

static int checked_add_norm(void *dev, gp_handle w, gp_handle next)
{
	struct gp_checked *c = dev;
	const int rc = look(c, c->ops->add_norm(c->dev, w, next), "add_norm", GP_BUF_HIDDEN);

	return rc < 0 || !next ? rc : look(c, rc, "add_norm", GP_BUF_NORMED);
}

static int checked_gated_matmul(void *dev, gp_handle gate, gp_handle up)
{
	struct gp_checked *c = dev;

	return look(c, c->ops->gated_matmul(c->dev, gate, up), "gated_matmul", GP_BUF_GATE);
}

/* What the device has not, a stage must not think it has. */
void gp_check_operations(struct gp_checked *c, const struct gp_device_ops *ops, void *dev)
{
	*c = (struct gp_checked){ .ops = ops, .dev = dev, .checking = {
		.name = ops->name,
		.begin_step = checked_begin_step,
		.embed = checked_embed,
		.rms_norm = checked_rms_norm,
		.matmul = checked_matmul,
		.qk_rope_append = checked_qk_rope_append,
		.attention = checked_attention,
		.geglu = checked_geglu,
		.add = checked_add,
		.head = checked_head,
		.append_attention = ops->append_attention ? checked_append_attention : NULL,
		.add_norm = ops->add_norm ? checked_add_norm : NULL,
		.gated_matmul = ops->gated_matmul ? checked_gated_matmul : NULL,
		.end_step = checked_end_step,
	} };
}

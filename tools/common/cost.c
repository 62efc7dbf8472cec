#include "tools/common/cost.h"

static uint64_t layer_parameters(const struct gp_model *m, uint32_t layer)
{
	uint64_t n = 0;

	for (int id = GP_T_PER_LAYER; id < GP_T_COUNT; id++) {
		const struct gp_tensor *t = gp_model_tensor(m, (enum gp_tensor_id)id, layer);

		n += t->rows > 1 ? t->rows * t->cols : 0;
	}
	return n;
}

static double matrix_ops(const struct gp_model *m, bool logits)
{
	const struct gp_tensor *head = gp_model_tensor(m, GP_T_TOKEN_EMBD, 0);
	uint64_t n = logits ? head->rows * head->cols : 0;

	for (uint32_t l = 0; l < gp_model_config(m)->n_layers; l++)
		n += layer_parameters(m, l);
	return 2.0 * (double)n;
}

/* Positions that rows of a sequence look at in all layers, each counted once a
 * layer: the last row stands at end - 1. */
static double positions_seen(const struct gp_config *c, uint64_t end, uint64_t rows)
{
	const uint64_t window = c->window + rows - 1, local = end < window ? end : window;
	uint64_t n = 0;

	for (uint32_t l = 0; l < c->n_layers; l++)
		n += c->is_global[l] ? end : local;
	return (double)n;
}

static double attention_ops(const struct gp_config *c, const struct cost_rows *r)
{
	double seen = 0;

	for (uint64_t p = r->first; p < r->first + r->n; p++)
		seen += positions_seen(c, p + 1, 1);
	return 4.0 * c->n_heads * c->head_dim * seen / (double)r->n;
}

static double kv_bytes(const struct gp_config *c, enum gp_type kv_type, const struct cost_rows *r)
{
	const uint64_t end = r->first + r->n;
	size_t head = 0;
	double seen = 0;

	for (uint64_t p = r->first; p < end; p += r->together) {
		const uint64_t rows = end - p < r->together ? end - p : r->together;

		seen += positions_seen(c, p + rows, rows);
	}
	if (gp_type_bytes(kv_type, 1, c->head_dim, &head) < 0)
		return 0; /* no worker keeps it so */
	return 2.0 * c->n_kv_heads * (double)head * seen / (double)r->n;
}

struct cost cost_per_token(const struct gp_model *m, enum gp_type kv_type,
                           const struct cost_rows *r)
{
	const struct gp_config *c = gp_model_config(m);
	const struct gp_tensor *embedding = gp_model_tensor(m, GP_T_TOKEN_EMBD, 0);
	const double weights = (double)gp_model_bytes(m, 0, c->n_layers, r->logits);

	return (struct cost){
		.bytes = weights / r->rows_per_step +
			 (double)embedding->bytes / (double)embedding->rows +
			 kv_bytes(c, kv_type, r),
		.ops = matrix_ops(m, r->logits) + attention_ops(c, r),
	};
}

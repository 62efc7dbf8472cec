/* What is in the workers' KV caches, by the same bookkeeping that they do. Every worker
 * applies every step's operations and rows in the same order, so this is exact, a step or
 * more ahead of them. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/engine_internal.h"

static int hold_nothing(void *device, enum gp_kv_kind kind, uint32_t id)
{
	(void)device, (void)kind, (void)id;
	return 0;
}

static int copy_nothing(void *device, enum gp_kv_kind kind, uint32_t to, uint32_t from)
{
	(void)device, (void)kind, (void)to, (void)from;
	return 0;
}

int gp_kv_ops_create(struct gp_engine *e)
{
	static const struct gp_kv_storage storage = { hold_nothing, copy_nothing };
	const struct gp_kv_limits limits = {
		.max_sequences = e->in_geometry.max_sequences, .context = e->plan.context,
		.window = gp_engine_config(e)->window, .has_kind = { true, true },
	};

	e->ops = calloc(e->in_geometry.max_ops, sizeof *e->ops);
	if (!e->ops)
		return gp_fail(ENOMEM, "no memory for %u KV operations", e->in_geometry.max_ops);
	return gp_kv_create(&e->kv, &limits, &storage, NULL);
}

void gp_kv_ops_destroy(struct gp_engine *e)
{
	gp_kv_destroy(e->kv);
	free(e->ops);
}

static int apply(struct gp_engine *e, const struct gp_kv_op *op)
{
	switch (op->kind) {
	case GP_KV_DROP:
		return gp_kv_drop(e->kv, op->seq);
	case GP_KV_TRUNCATE:
		return gp_kv_truncate(e->kv, op->seq, op->pos);
	default:
		return gp_kv_copy(e->kv, op->seq, op->src, op->pos);
	}
}

/* A live sequence's slot is empty when it begins with a prefix: whoever leaves before a step
 * went takes that back, so that coming and going between two steps leaves no operations. */
static bool take_back(struct gp_engine *e, const struct gp_kv_op *op)
{
	uint32_t i = e->n_ops;

	if (op->kind != GP_KV_DROP || op->seq >= e->plan.max_sequences)
		return false;
	while (i && e->ops[i - 1].seq != op->seq &&
	       !(e->ops[i - 1].kind == GP_KV_COPY && e->ops[i - 1].src == op->seq))
		i--;
	if (!i || e->ops[i - 1].kind != GP_KV_COPY || e->ops[i - 1].seq != op->seq)
		return false;
	e->n_ops--;
	memmove(&e->ops[i - 1], &e->ops[i], (e->n_ops - (i - 1)) * sizeof *e->ops);
	return true;
}

/* Callers see to it that it can be done, and that there are never more of them between
 * two steps than the plan has room for; else the next step is none. */
void gp_kv_op_push(struct gp_engine *e, struct gp_kv_op op)
{
	int rc = apply(e, &op);

	if (rc == 0 && take_back(e, &op))
		return;
	if (rc == 0 && e->n_ops == e->in_geometry.max_ops)
		rc = gp_fail(ENOBUFS, "%u KV operations between two steps are too many", e->n_ops);
	if (rc == 0)
		e->ops[e->n_ops++] = op;
	else if (e->kv_rc == 0)
		e->kv_rc = rc;
}

void gp_kv_ops_forget(struct gp_engine *e)
{
	e->n_ops = 0;
	gp_kv_clear(e->kv);
}

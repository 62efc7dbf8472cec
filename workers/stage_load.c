/* What a stage holds: model, device, weights, rings. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workers/worker.h"

static void on_progress(void *user, uint64_t done, uint64_t total)
{
	struct worker *w = user;

	atomic_store_explicit(&w->total_bytes, total, memory_order_relaxed);
	atomic_store_explicit(&w->loaded_bytes, done, memory_order_relaxed);
}

static int open_ring(struct gp_ring *r, const struct gp_msg_ring *m)
{
	const int fd = m->path[0] ? open(m->path, O_RDWR | O_CLOEXEC) : m->fd;

	if (fd < 0)
		return gp_fail(errno, "ring %s: %s; a worker must run as the coordinator's user",
			       m->path, strerror(errno));
	const int rc = gp_ring_attach(r, fd);
	if (rc < 0)
		close(fd);
	return rc;
}

static void geometry_of(struct gp_slot_geometry *g, const struct gp_msg_load *l,
			const struct gp_msg_ring *r)
{
	*g = (struct gp_slot_geometry){
		.max_ops = r->max_ops, .max_rows = r->max_rows, .payload = r->payload,
		.max_payload_rows = r->max_payload_rows, .payload_cols = r->payload_cols,
		.vocab = l->vocab, .max_sequences = l->max_sequences, .context = l->context,
	};
}

/* The slots of the ring must hold what the geometry promises. */
static int check_slots(const struct gp_ring *r, const struct gp_slot_geometry *g)
{
	size_t need;
	const int rc = gp_slot_bytes(g, &need);

	if (rc < 0)
		return rc;
	if (need > r->slot_bytes)
		return gp_fail(EPROTO, "ring slots have %zu bytes, the step needs %zu; "
			       "coordinator and worker disagree", r->slot_bytes, need);
	return 0;
}

static int open_rings(struct worker *w)
{
	int rc;

	geometry_of(&w->in_geometry, &w->load, &w->load.in);
	geometry_of(&w->out_geometry, &w->load, &w->load.out);
	if ((rc = open_ring(&w->in, &w->load.in)) < 0 ||
	    (rc = open_ring(&w->out, &w->load.out)) < 0 ||
	    (rc = check_slots(&w->in, &w->in_geometry)) < 0 ||
	    (rc = check_slots(&w->out, &w->out_geometry)) < 0)
		return rc;
	w->rows = calloc(w->in_geometry.max_rows, sizeof *w->rows);
	if (!w->rows)
		return gp_fail(ENOMEM, "no memory for %u rows", w->in_geometry.max_rows);
	return gp_slot_view_create(&w->view, &w->in_geometry);
}

/* The coordinator planned with the same file; another one may stand there now. */
static int check_layers(const struct worker *w)
{
	const struct gp_config *c = gp_model_config(w->model);
	const struct gp_msg_load *l = &w->load;
	const uint32_t out_cols = l->has_head ? c->vocab : c->hidden;

	if (l->in.payload != (l->embeds ? GP_PAYLOAD_NONE : GP_PAYLOAD_HIDDEN) ||
	    l->out.payload != (l->has_head ? GP_PAYLOAD_LOGITS : GP_PAYLOAD_HIDDEN) ||
	    (!l->has_head && l->out.max_payload_rows < l->in.max_rows))
		return gp_fail(EPROTO, "rings %u and %u do not fit this stage; coordinator and worker "
			       "disagree", l->stage, l->stage + 1);
	if (l->first_layer < l->end_layer && l->end_layer <= c->n_layers && l->vocab == c->vocab &&
	    l->out.payload_cols == out_cols && (l->embeds || l->in.payload_cols == c->hidden))
		return 0;
	return gp_fail(EINVAL, "%s: not the model the coordinator planned with; was it replaced?",
		       l->model);
}

int gp_worker_load(struct worker *w)
{
	const struct gp_msg_load *l = &w->load;
	struct gp_device_options options = w->options;
	const uint64_t start = gp_now_ns();
	int rc;

	options.threads = l->threads;
	options.first_cpu = l->first_cpu;
	options.memory_bytes = l->memory_bytes;
	if ((rc = gp_model_open(&w->model, l->model)) < 0 || (rc = check_layers(w)) < 0 ||
	    (rc = open_rings(w)) < 0 ||
	    (rc = w->device->open(&w->dev, &options)) < 0)
		return rc;
	const struct gp_stage_shape shape = {
		.config = gp_model_config(w->model),
		.first_layer = l->first_layer, .end_layer = l->end_layer,
		.embeds = l->embeds, .has_head = l->has_head,
		.max_rows = l->in.max_rows,
		.max_logit_rows = l->has_head ? l->out.max_payload_rows : 0,
		.max_sequences = l->max_sequences, .context = l->context,
		.kv_type = (enum gp_type)l->kv_type,
		.check_numerics = l->check_numerics, .kv_blocks = l->kv_blocks,
	};
	rc = gp_stage_create(&w->stage, w->model, &shape, w->device->ops, w->dev, on_progress, w);
	if (rc < 0)
		return rc;
	atomic_store(&w->load_ns, gp_now_ns() - start);
	atomic_store(&w->memory_bytes, w->device->ops->memory_bytes(w->dev));
	return 0;
}

void gp_worker_unload(struct worker *w)
{
	gp_stage_destroy(w->stage);
	w->stage = NULL;
	if (w->dev)
		w->device->close(w->dev);
	w->dev = NULL;
	gp_model_close(w->model);
	w->model = NULL;
	gp_slot_view_finish(&w->view);
	free(w->rows);
	w->rows = NULL;
	gp_ring_finish(&w->in);
	gp_ring_finish(&w->out);
}

/* The engine: feeds ring 0, reads the last ring, replays after a death. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/engine_internal.h"

/* Model files, what ZeroMQ opens for itself; a ring, a pidfd, a peer's socket. */
#define FILES 48u
#define FILES_PER_STAGE 4u
#define WAIT_NS 100000000u /* how late an interrupt from a signal may be seen */

/* ---- life --------------------------------------------------------------------- */

static int allocate(struct gp_engine *e)
{
	const struct gp_plan *p = &e->plan;

	e->slots = calloc(p->max_sequences, sizeof(struct job *));
	e->ops = calloc(2 * (size_t)p->max_sequences, sizeof *e->ops);
	e->rows = calloc(p->max_rows, sizeof *e->rows);
	e->meters = calloc(p->n_stages, sizeof *e->meters);
	if (!e->slots || !e->ops || !e->rows || !e->meters)
		return gp_fail(ENOMEM, "no memory for %u sequences", p->max_sequences);
	gp_plan_geometry(p, gp_model_config(e->model), 0, &e->in_geometry);
	gp_plan_geometry(p, gp_model_config(e->model), p->n_stages, &e->out_geometry);
	return gp_slot_view_create(&e->view, &e->out_geometry);
}

static int copy_options(struct gp_engine *e, const struct gp_engine_options *o)
{
	e->options = *o;
	e->trace_path = o->trace ? strdup(o->trace) : NULL;
	e->options.trace = e->trace_path;
	if (o->trace && !e->trace_path)
		return gp_fail(ENOMEM, "no memory for the engine");
	return 0;
}

static int open_trace(struct gp_engine *e)
{
	char part[GP_PROTO_TEXT];

	if (!e->options.trace)
		return 0;
	gp_pool_trace_part(e->pool, e->plan.n_stages, part);
	return gp_trace_open(part, "coordinator", 0);
}

static int start(struct gp_engine *e, const struct gp_engine_options *o)
{
	const uint64_t begin = gp_now_ns();
	int rc;

	if ((rc = copy_options(e, o)) < 0 || (rc = gp_model_open(&e->model, o->model)) < 0 ||
	    (rc = gp_plan_make(&e->plan, &o->plan, e->model)) < 0 ||
	    (rc = gp_process_check_files(FILES + FILES_PER_STAGE * e->plan.n_stages)) < 0 ||
	    (o->trace && (rc = gp_trace_check(o->trace)) < 0) || (rc = allocate(e)) < 0 ||
	    (rc = gp_pool_create(&e->pool, &e->options, &e->plan, e->model)) < 0 ||
	    (rc = open_trace(e)) < 0 ||
	    (rc = gp_pool_sync(e->pool, &e->interrupted, &e->epoch)) < 0)
		return rc;
	/* One step in each stage and one on its way to the first. */
	e->max_in_flight = e->plan.n_stages + 1 < e->plan.ring_slots ? e->plan.n_stages + 1
								     : e->plan.ring_slots;
	e->load_ns = gp_now_ns() - begin;
	e->account_ns = gp_now_ns();
	return 0;
}

int gp_engine_create(struct gp_engine **out, const struct gp_engine_options *o)
{
	struct gp_engine *e = calloc(1, sizeof *e);

	if (!e)
		return gp_fail(ENOMEM, "no memory for the engine");
	e->queue_end = &e->queue;
	/* Visible before the workers are up: a signal must reach a long load. */
	*out = e;
	const int rc = start(e, o);
	if (rc == 0)
		return 0;
	*out = NULL;
	/* The cleaning up has messages of its own. */
	char why[GP_ERROR_BYTES];
	snprintf(why, sizeof why, "%s", gp_error());
	gp_engine_destroy(e);
	return gp_fail(-rc, "%s", why);
}

int gp_engine_destroy(struct gp_engine *e)
{
	if (!e)
		return 0;
	const int rc = gp_pool_destroy(e->pool);
	for (struct job *j = e->queue, *next; j; j = next) {
		next = j->next;
		gp_job_destroy(j);
	}
	for (uint32_t i = 0; e->slots && i < e->plan.max_sequences; i++)
		gp_job_destroy(e->slots[i]);
	gp_slot_view_finish(&e->view);
	free(e->meters);
	free(e->rows);
	free(e->ops);
	free(e->slots);
	gp_model_close(e->model);
	free(e->trace_path);
	free(e);
	return rc;
}

const struct gp_config *gp_engine_config(const struct gp_engine *e)
{
	return gp_model_config(e->model);
}

const struct gp_model *gp_engine_model(const struct gp_engine *e)
{
	return e->model;
}

const struct gp_plan *gp_engine_plan(const struct gp_engine *e)
{
	return &e->plan;
}

void gp_engine_interrupt(struct gp_engine *e)
{
	atomic_store(&e->interrupted, true);
}

int gp_engine_submit(struct gp_engine *e, const struct gp_request *r, uint32_t *id)
{
	struct job *j;
	const int rc = gp_job_create(e, r, &j);

	if (rc < 0)
		return rc;
	*id = j->id;
	*e->queue_end = j;
	e->queue_end = &j->next;
	return 0;
}

/* ---- steps out ------------------------------------------------------------------ */

static int send_step(struct gp_engine *e, void *slot, uint32_t n_rows)
{
	const uint64_t start = gp_now_ns();
	struct gp_slot_header h = {
		.epoch = e->epoch, .n_ops = e->n_ops, .n_rows = n_rows, .step = ++e->next_step,
		.payload = GP_PAYLOAD_NONE,
	};
	int rc;

	h.times[0].enqueue_ns = start;
	if ((rc = gp_slot_write(&e->in_geometry, slot, &h, e->ops, e->rows)) < 0)
		return rc;
	gp_ring_publish(&e->pool->rings[0]);
	e->n_ops = 0;
	e->in_flight++;
	gp_trace_span("coordinator", "send", start, gp_now_ns(), "rows", n_rows);
	gp_trace_flow(true, h.step, 0, start);
	return 0;
}

/* As many steps as the pipeline holds. */
static int feed(struct gp_engine *e)
{
	void *slot;
	int rc = 0;

	/* The slot comes first: rows that were scheduled count as sent. */
	while (rc == 0 && e->in_flight < e->max_in_flight &&
	       (rc = gp_ring_reserve(&e->pool->rings[0], 0, &slot)) == 0) {
		const uint32_t n = gp_schedule(e);

		if (!n)
			break;
		rc = send_step(e, slot, n);
	}
	return rc == -EAGAIN ? 0 : rc;
}

/* ---- steps back ------------------------------------------------------------------- */

static int deliver_rows(struct gp_engine *e)
{
	const struct gp_slot_logits *logits = e->view.logits;
	int rc = 0;

	for (uint32_t i = 0; i < e->view.header.n_rows && rc == 0; i++) {
		const struct gp_row *r = &e->view.rows[i];
		const bool has_logits = r->flags & GP_ROW_WANTS_LOGITS;
		struct job *j = e->slots[r->seq];

		if (!j)
			return gp_fail(EPROTO, "a row of sequence %u came back, which has none in "
				       "flight", r->seq);
		rc = gp_job_row_back(e, j, r->pos, has_logits ? logits++ : NULL);
	}
	return rc;
}

static int take_step(struct gp_engine *e, const void *slot)
{
	const uint64_t start = gp_now_ns();
	int rc = gp_slot_read(&e->view, &e->out_geometry, slot);

	if (rc < 0)
		return gp_fail_in(rc, "slot from the last stage");
	if (e->view.header.epoch == e->epoch) {
		e->in_flight--;
		gp_meter_step(e, &e->view.header);
		rc = deliver_rows(e);
	}
	gp_ring_release(&e->pool->rings[e->plan.n_stages]);
	gp_trace_span("coordinator", "sample", start, gp_now_ns(), "rows", e->view.header.n_rows);
	gp_trace_flow(false, e->view.header.step, e->plan.n_stages, start);
	return rc;
}

/* ---- recovery ----------------------------------------------------------------------- */

/* All KV is gone and the rings are empty: every list is fed from its start. */
static void replay_all(struct gp_engine *e)
{
	e->in_flight = 0;
	e->n_ops = 0;
	for (uint32_t i = 0; i < e->plan.max_sequences; i++) {
		struct job *j = e->slots[i];

		if (!j)
			continue;
		j->sent = j->back = 0;
		gp_job_leave_when_idle(e, j);
	}
}

static int recover(struct gp_engine *e)
{
	const uint32_t before = e->epoch;
	const int rc = gp_pool_sync(e->pool, &e->interrupted, &e->epoch);

	if (rc == 0 && e->epoch != before)
		replay_all(e);
	return rc;
}

/* ---- the loop ------------------------------------------------------------------------- */

static bool has_work(const struct gp_engine *e)
{
	if (e->queue)
		return true;
	for (uint32_t i = 0; i < e->plan.max_sequences; i++)
		if (e->slots[i] && e->slots[i]->state == JOB_LIVE)
			return true;
	return false;
}

static void cancel_all(struct gp_engine *e)
{
	while (e->queue) {
		struct job *j = e->queue;

		e->queue = j->next;
		if (j->request.on_done)
			j->request.on_done(j->request.user, GP_FINISH_CANCELLED);
		gp_job_destroy(j);
	}
	e->queue_end = &e->queue;
	for (uint32_t i = 0; i < e->plan.max_sequences; i++) {
		struct job *j = e->slots[i];

		if (!j || j->state != JOB_LIVE)
			continue;
		gp_job_finish(e, j, GP_FINISH_CANCELLED);
		gp_job_leave_when_idle(e, j);
	}
}

static int turn(struct gp_engine *e)
{
	void *slot;
	int rc = feed(e);

	if (rc == 0)
		rc = gp_ring_wait(&e->pool->rings[e->plan.n_stages], WAIT_NS, &slot);
	if (rc == 0)
		rc = take_step(e, slot);
	if (rc == -ECANCELED)
		rc = recover(e);
	return rc == -EAGAIN ? 0 : rc;
}

/* Interrupted while workers are down: what was in flight died with the epoch. */
static void abandon_all(struct gp_engine *e)
{
	atomic_store(&e->interrupted, false);
	cancel_all(e);
	replay_all(e);
}

int gp_engine_run(struct gp_engine *e)
{
	bool cancelled = false;
	int rc = 0;

	e->account_ns = gp_now_ns();
	while (rc == 0 && has_work(e)) {
		if (atomic_exchange(&e->interrupted, false)) {
			cancel_all(e);
			cancelled = true;
		}
		if (has_work(e))
			rc = turn(e);
		if (rc == -EINTR) {
			abandon_all(e);
			cancelled = true;
			rc = 0;
		}
	}
	return rc < 0 ? rc : cancelled ? gp_fail(EINTR, "interrupted") : 0;
}

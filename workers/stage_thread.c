/* The thread that serves the rings: one slot in, one slot out. */
#include <string.h>
#include <unistd.h>

#include "workers/worker.h"

/* How long a wait on the ring may last before the thread looks whether the
 * control thread wants something; an interrupt ends it at once. */
#define WAIT_NS 500000000u

/* A device writes its candidates where the slot has them. */
_Static_assert(sizeof(struct gp_candidate) == sizeof(struct gp_slot_candidate) &&
	       offsetof(struct gp_candidate, logit) == offsetof(struct gp_slot_candidate, logit) &&
	       offsetof(struct gp_candidate, id) == offsetof(struct gp_slot_candidate, id) &&
	       GP_MAX_CANDIDATES == GP_SLOT_CANDIDATES, "one form of candidates");

static void notify(struct worker *w)
{
	const uint64_t one = 1;

	/* An eventfd write of 1 fails only when it is readable anyway. */
	if (write(w->notify_fd, &one, sizeof one) < 0)
		gp_log(GP_LOG_DEBUG, "eventfd: %s", strerror(errno));
}

static void enter(struct worker *w, enum worker_state s, int rc)
{
	pthread_mutex_lock(&w->lock);
	w->state = s;
	w->rc = rc;
	if (rc < 0)
		snprintf(w->error, sizeof w->error, "%s", gp_error());
	if (s == WORKER_PARKED)
		w->parked_epoch = w->epoch;
	pthread_mutex_unlock(&w->lock);
	notify(w);
}

static int apply_op(struct gp_kv_cache *kv, const struct gp_kv_op *op)
{
	switch (op->kind) {
	case GP_KV_DROP:
		return gp_kv_drop(kv, op->seq);
	case GP_KV_TRUNCATE:
		return gp_kv_truncate(kv, op->seq, op->pos);
	case GP_KV_COPY:
		return gp_kv_copy(kv, op->seq, op->src, op->pos);
	default:
		return gp_fail(EPROTO, "KV operation %u is unknown", op->kind);
	}
}

static int run_stage(struct worker *w, float *out)
{
	const struct gp_slot_header *h = &w->view.header;
	struct gp_kv_cache *kv = gp_stage_kv(w->stage);
	int rc = 0;

	for (uint32_t i = 0; i < h->n_ops && rc >= 0; i++)
		rc = apply_op(kv, &w->view.ops[i]);
	if (rc < 0 || !h->n_rows)
		return rc;
	for (uint32_t i = 0; i < h->n_rows; i++) {
		const struct gp_row *r = &w->view.rows[i];

		w->rows[i] = (struct gp_stage_row){
			.seq = r->seq, .pos = r->pos, .token = r->token,
			.wants_logits = (r->flags & GP_ROW_WANTS_LOGITS) != 0,
			.candidates = r->candidates,
		};
	}
	return gp_stage_run(w->stage, w->rows, h->n_rows, w->load.embeds ? NULL : w->view.payload,
			    out);
}

static uint32_t payload_rows(const struct worker *w)
{
	uint32_t n = 0;

	if (!w->load.has_head)
		return w->view.header.n_rows;
	for (uint32_t i = 0; i < w->view.header.n_rows; i++)
		n += w->view.rows[i].flags & GP_ROW_WANTS_LOGITS;
	return n;
}

static void trace_step(const struct worker *w, uint64_t start, uint64_t end)
{
	const uint32_t stage = w->load.stage;

	if (!gp_trace_on())
		return;
	gp_trace_span("stage", "step", start, end, "rows", w->view.header.n_rows);
	gp_trace_flow(false, w->view.header.step, stage, start);
	gp_trace_flow(true, w->view.header.step, stage + 1, end);
}

/* The slot out carries the header on, with this stage's times filled in. */
static int write_out(struct worker *w, void *out, uint64_t start)
{
	struct gp_slot_header *h = &w->view.header;
	const uint64_t end = gp_now_ns();

	h->times[w->load.stage].start_ns = start;
	h->times[w->load.stage].end_ns = end;
	if (w->load.stage + 1 < GP_MAX_STAGES)
		h->times[w->load.stage + 1].enqueue_ns = end;
	h->payload = w->out_geometry.payload;
	h->payload_rows = payload_rows(w);
	h->payload_cols = w->out_geometry.payload_cols;
	trace_step(w, start, end);
	return gp_slot_write(&w->out_geometry, out, h, w->view.ops, w->view.rows);
}

static int serve_slot(struct worker *w, const void *in)
{
	const uint64_t start = gp_now_ns();
	void *out;
	int rc = gp_slot_read(&w->view, &w->in_geometry, in);

	if (rc < 0)
		return gp_fail_in(rc, "slot from stage %d", (int)w->load.stage - 1);
	if (w->view.header.epoch != w->epoch) {
		gp_ring_release(&w->in);
		return 0;
	}
	atomic_store_explicit(&w->step, w->view.header.step, memory_order_relaxed);
	atomic_store_explicit(&w->step_start_ns, start, memory_order_relaxed);
	/* Slots in flight never exceed the smallest ring: there is room. */
	if ((rc = gp_ring_reserve(&w->out, 0, &out)) < 0)
		return rc == -EAGAIN ? gp_fail(EPROTO, "output ring is full: more slots in flight "
					       "than the plan allows") : rc;
	if ((rc = run_stage(w, gp_slot_payload(&w->out_geometry, out))) < 0 ||
	    (rc = write_out(w, out, start)) < 0)
		return rc;
	/* In this order: whoever sees the slot out may count on room for one in. */
	gp_ring_release(&w->in);
	gp_ring_publish(&w->out);
	atomic_store_explicit(&w->step_start_ns, 0, memory_order_relaxed);
	return 0;
}

/* One wait for a slot; being woken or finding none is no failure. */
static int serve_once(struct worker *w)
{
	const uint64_t start = gp_trace_on() ? gp_now_ns() : 0;
	void *in;
	int rc = gp_ring_wait(&w->in, WAIT_NS, &in);

	if (start)
		gp_trace_span("ring", "ring wait", start, gp_now_ns(), NULL, 0);
	if (rc == 0)
		rc = serve_slot(w, in);
	return rc == -EAGAIN || rc == -ECANCELED ? 0 : rc;
}

static enum worker_want wanted(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	const enum worker_want want = w->want;
	pthread_mutex_unlock(&w->lock);
	return want;
}

static void run(struct worker *w, int *rc)
{
	enter(w, WORKER_RUNNING, 0);
	while (*rc == 0 && wanted(w) == WANT_NOTHING)
		*rc = serve_once(w);
}

/* Waits until the control thread wants something; takes it. */
static enum worker_want take_want(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	while (w->want == WANT_NOTHING)
		pthread_cond_wait(&w->wanted, &w->lock);
	const enum worker_want want = w->want;
	w->epoch = w->want_epoch;
	if (want != WANT_STOP)
		w->want = WANT_NOTHING;
	pthread_mutex_unlock(&w->lock);
	return want;
}

void *gp_worker_stage_thread(void *arg)
{
	struct worker *w = arg;
	int rc = gp_worker_load(w);

	if (rc == 0)
		enter(w, WORKER_PARKED, 0);
	while (rc == 0) {
		const enum worker_want want = take_want(w);

		if (want == WANT_STOP)
			break;
		if (want == WANT_RESUME) {
			run(w, &rc);
		} else {
			gp_kv_clear(gp_stage_kv(w->stage));
			enter(w, WORKER_PARKED, 0);
		}
	}
	enter(w, WORKER_ENDED, rc);
	return NULL;
}

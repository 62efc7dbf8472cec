/* The engine: feeds ring 0, reads the last ring, replays after a death. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/engine_internal.h"

/* Model files, what ZeroMQ opens for itself; a ring, a pidfd, a peer's socket. */
#define FILES 48u
#define FILES_PER_STAGE 4u
#define GOOD_LOOKUP 15u /* with the token before them as many rows as a tile of the CPU's */
#define WAIT_NS 100000000u /* how late an interrupt from a signal may be seen */

/* ---- life --------------------------------------------------------------------- */

static int allocate(struct gp_engine *e)
{
	const struct gp_plan *p = &e->plan;

	e->slots = calloc(p->max_sequences, sizeof(struct job *));
	e->order = calloc(p->max_sequences, sizeof(struct job *));
	e->bets = calloc(p->max_sequences, sizeof *e->bets);
	e->tenures = calloc(p->max_sequences, sizeof *e->tenures);
	e->rows = calloc(p->max_rows, sizeof *e->rows);
	e->meters = calloc(p->n_stages, sizeof *e->meters);
	e->flights = calloc(p->n_stages + 1, sizeof *e->flights);
	bool ok = e->slots && e->order && e->bets && e->tenures && e->rows && e->meters && e->flights;
	for (uint32_t i = 0; i <= p->n_stages && ok; i++)
		ok = (e->flights[i].tenures = calloc(p->max_rows, sizeof(uint32_t))) != NULL;
	if (!ok)
		return gp_fail(ENOMEM, "no memory for %u sequences", p->max_sequences);
	gp_plan_geometry(p, gp_model_config(e->model), 0, &e->in_geometry);
	gp_plan_geometry(p, gp_model_config(e->model), p->n_stages, &e->out_geometry);
	int rc = gp_kv_ops_create(e);
	if (rc == 0)
		rc = gp_prefix_create(e);
	return rc < 0 ? rc : gp_slot_view_create(&e->view, &e->out_geometry);
}

static uint32_t choose_lookup(const struct gp_plan *p, uint32_t wanted)
{
	if (wanted != GP_LOOKUP_AUTO)
		return wanted;
	for (uint32_t k = 0; k < p->n_stages; k++)
		if (strcmp(p->stage[k].device, "cpu") != 0)
			return 0;
	return GOOD_LOOKUP;
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
	uint32_t draft_context = 0;
	int rc;

	if ((rc = copy_options(e, o)) < 0 || (rc = gp_model_open(&e->model, o->model)) < 0 ||
	    (rc = gp_plan_make(&e->plan, &o->plan, e->model)) < 0 ||
	    (rc = gp_process_check_files(FILES + FILES_PER_STAGE * e->plan.n_stages)) < 0 ||
	    (o->trace && (rc = gp_trace_check(o->trace)) < 0) || (rc = allocate(e)) < 0 ||
	    (o->draft && (rc = gp_draft_check(e, &draft_context)) < 0) ||
	    (rc = gp_pool_create(&e->pool, &e->options, &e->plan, e->model)) < 0 ||
	    (rc = open_trace(e)) < 0 ||
	    (rc = gp_pool_sync(e->pool, &e->interrupted, &e->epoch)) < 0 ||
	    (o->draft && (rc = gp_draft_create(&e->draft, e, draft_context)) < 0))
		return rc;
	e->options.lookup = choose_lookup(&e->plan, o->lookup);
	e->load_ns = gp_now_ns() - begin;
	e->account_ns = gp_now_ns();
	return 0;
}

int gp_engine_create(struct gp_engine **out, const struct gp_engine_options *o)
{
	struct gp_engine *e = calloc(1, sizeof *e);

	if (!e)
		return gp_fail(ENOMEM, "no memory for the engine");
	if (gp_inbox_create(e) < 0) {
		free(e);
		return gp_fail(ENOMEM, "no mutex for the engine");
	}
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

static void destroy_jobs(struct gp_engine *e)
{
	for (struct owner *o = e->owners, *next_owner; o; o = next_owner) {
		for (struct job *j = o->queue, *next; j; j = next) {
			next = j->next;
			gp_job_destroy(j);
		}
		next_owner = o->next;
		free(o);
	}
	for (uint32_t i = 0; e->slots && i < e->plan.max_sequences; i++)
		gp_job_destroy(e->slots[i]);
}

int gp_engine_destroy(struct gp_engine *e)
{
	if (!e)
		return 0;
	const int rc = gp_pool_destroy(e->pool);
	gp_draft_destroy(e->draft);
	destroy_jobs(e);
	gp_inbox_destroy(e);
	gp_slot_view_finish(&e->view);
	for (uint32_t i = 0; e->flights && i <= e->plan.n_stages; i++)
		free(e->flights[i].tenures);
	free(e->flights);
	free(e->meters);
	free(e->rows);
	gp_prefix_destroy(e);
	gp_kv_ops_destroy(e);
	free(e->tenures);
	free(e->bets);
	free(e->order);
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

uint32_t gp_engine_max_queue(const struct gp_engine *e)
{
	return e->options.max_queue;
}

void gp_engine_interrupt(struct gp_engine *e)
{
	atomic_store(&e->interrupted, true);
	gp_draft_interrupt(e->draft);
}

/* ---- steps out ------------------------------------------------------------------ */

/* The place of the next step, or of the step that has come back. */
static struct flight *flight_of(struct gp_engine *e, uint64_t step)
{
	return &e->flights[step % (e->plan.n_stages + 1)];
}

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
	e->decode_in_flight += n_rows > flight_of(e, h.step)->n_prefill;
	gp_trace_span("coordinator", "send", start, gp_now_ns(), "rows", n_rows);
	gp_trace_flow(true, h.step, 0, start);
	return 0;
}

/* One step in each stage. Prompts alone have one more on its way to the first, so that
 * nothing waits for the coordinator; beside rows in decode it would only come between
 * two of their tokens. */
static bool may_send(const struct gp_engine *e)
{
	if (e->in_flight < e->plan.n_stages)
		return true;
	if (e->in_flight > e->plan.n_stages)
		return false;
	for (uint32_t i = 0; i < e->plan.max_sequences; i++)
		if (e->slots[i] && gp_in_decode(e->slots[i]))
			return false;
	return true;
}

static int feed(struct gp_engine *e)
{
	void *slot;
	int rc = 0;

	/* The slot comes first: rows that were scheduled count as sent. */
	while (rc == 0 && may_send(e) &&
	       (rc = gp_ring_reserve(&e->pool->rings[0], 0, &slot)) == 0) {
		rc = gp_schedule(e, flight_of(e, e->next_step + 1));
		if (rc == 0)
			break;
		if (rc > 0)
			rc = send_step(e, slot, (uint32_t)rc);
	}
	return rc == -EAGAIN ? 0 : rc;
}

/* ---- steps back ------------------------------------------------------------------- */

static int deliver_rows(struct gp_engine *e)
{
	const struct flight *f = flight_of(e, e->view.header.step);
	const struct gp_slot_logits *logits = e->view.logits;
	int rc = 0;

	if (e->view.header.n_rows != f->n_rows)
		return gp_fail(EPROTO, "step %llu came back with %u rows, it went with %u",
			       (unsigned long long)e->view.header.step, e->view.header.n_rows, f->n_rows);
	for (uint32_t i = 0; i < f->n_rows && rc == 0; i++) {
		const struct gp_row *r = &e->view.rows[i];
		const struct gp_slot_logits *own = r->flags & GP_ROW_WANTS_LOGITS ? logits++ : NULL;

		if (r->seq >= e->plan.max_sequences)
			return gp_fail(EPROTO, "a row of sequence slot %u came back; none went", r->seq);
		/* Whose rows they were is gone, or will send them again. */
		if (f->tenures[i] == e->tenures[r->seq] && gp_is_live(e->slots[r->seq]))
			rc = gp_job_row_back(e, e->slots[r->seq], r->pos, own);
	}
	return rc;
}

static void learn(struct gp_engine *e)
{
	const struct flight *f = flight_of(e, e->view.header.step);
	uint64_t ns = 0;

	for (uint32_t k = 0; k < e->plan.n_stages; k++) {
		const struct gp_stage_times *t = &e->view.header.times[k];

		ns += t->end_ns > t->start_ns ? t->end_ns - t->start_ns : 0;
	}
	if (!f->n_prefill)
		gp_costs_learn(&e->costs, f->n_rows, ns);
	/* Beside prompts there are no guesses. */
	if (!f->n_guesses)
		gp_pace_learn(&e->pace, f->n_rows - f->n_prefill, f->n_prefill, ns);
	if (e->plan.n_stages > 1)
		gp_deal_learn(&e->deal, gp_count_decode(e),
			      f->n_rows - f->n_prefill - f->n_guesses,
			      f->n_prefill > 0, gp_now_ns());
	e->decode_in_flight -= f->n_rows > f->n_prefill;
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
		learn(e);
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
	e->in_flight = e->decode_in_flight = 0;
	gp_kv_ops_forget(e);
	gp_prefix_forget(e);
	for (uint32_t i = 0; i < e->plan.max_sequences; i++) {
		if (e->slots[i])
			e->slots[i]->sent = e->slots[i]->back = e->slots[i]->saved =
				e->slots[i]->n_guessed = 0;
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

static void cancel_all(struct gp_engine *e)
{
	struct job *j;

	while ((j = gp_queue_best(e)))
		gp_queue_cancel(e, j);
	while ((j = gp_seat_least(e)))
		gp_job_finish(e, j, GP_FINISH_CANCELLED);
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

/* All threads' wishes, then a step or what there is of one. 1: interrupted. */
static int go_on(struct gp_engine *e)
{
	int rc = 0;

	if (atomic_exchange(&e->interrupted, false)) {
		cancel_all(e);
		return 1;
	}
	rc = turn(e);
	if (rc != -EINTR)
		return rc;
	abandon_all(e);
	return 1;
}

int gp_engine_run(struct gp_engine *e)
{
	bool cancelled = false;
	int rc = 0;

	e->account_ns = gp_now_ns();
	for (gp_inbox_take(e); rc >= 0 && (e->n_live || e->n_queued); gp_inbox_take(e)) {
		rc = go_on(e);
		cancelled |= rc == 1;
	}
	return rc < 0 ? rc : cancelled ? gp_fail(EINTR, "interrupted") : 0;
}

int gp_engine_serve(struct gp_engine *e)
{
	int rc = 0;

	e->account_ns = gp_now_ns();
	atomic_store(&e->serving, true);
	while (rc == 0) {
		gp_inbox_take(e);
		gp_inbox_show(e);
		rc = go_on(e);
	}
	atomic_store(&e->serving, false);
	gp_inbox_close(e);
	cancel_all(e);
	return rc < 0 ? rc : 0;
}

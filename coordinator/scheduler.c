/* What the next step carries: decode rows first, for latency, then prefill chunks, in
 * the order of their rights of way. */
#include "coordinator/engine_internal.h"

/* With several stages a prompt is cut smaller, so that all of them have work. */
#define PIPELINE_CHUNK 128u

bool gp_is_live(const struct job *j)
{
	return j && j->state == JOB_LIVE;
}

bool gp_in_decode(const struct job *j)
{
	return gp_is_live(j) && j->request.max_new && j->sent + 1 >= j->n_tokens;
}

static void charge(struct job *j, uint32_t pos)
{
	if (pos < j->charged)
		return; /* a replay is not the owner's fault */
	j->charged = pos + 1;
	j->owner->served++;
}

/* A prompt's beginning is kept when so much and no more of it was sent. */
static bool ends_piece(const struct gp_engine *e, const struct job *j)
{
	return e->plan.prefixes && j->sent % GP_PREFIX_EVERY == 0 && j->sent < j->request.n_prompt &&
	       !j->request.on_logits;
}

static void save_prefixes(struct gp_engine *e)
{
	for (uint32_t i = 0; i < e->plan.max_sequences && e->plan.prefixes; i++) {
		struct job *j = e->slots[i];

		if (!gp_is_live(j) || !j->sent || j->saved >= j->sent || !ends_piece(e, j))
			continue;
		gp_prefix_save(e, j, false);
		j->saved = j->sent;
	}
}

static int take_rows(struct gp_engine *e, struct flight *f, struct job *j, uint32_t most,
		     struct budget *left)
{
	uint32_t taken = 0;
	int rc;

	while (taken < most && j->sent < j->n_tokens + j->n_guessed && left->rows) {
		const bool wants = gp_job_wants_logits(j, j->sent);
		const bool begins = gp_begins_block(e, j);

		if ((wants && !left->logit_rows) || (begins && !left->blocks))
			break;
		left->logit_rows -= wants;
		left->blocks -= begins;
		left->rows--;
		e->rows[f->n_rows] = (struct gp_row){
			.seq = j->slot, .pos = j->sent, .token = j->tokens[j->sent],
			.flags = wants ? GP_ROW_WANTS_LOGITS : 0,
			.candidates = wants ? (uint16_t)gp_job_candidates(j, j->sent) : 0,
		};
		f->tenures[f->n_rows++] = e->tenures[j->slot];
		charge(j, j->sent++);
		taken++;
		if (ends_piece(e, j))
			break;
	}
	rc = gp_kv_extend(e->kv, j->slot, taken);
	return rc < 0 ? rc : (int)taken;
}

uint32_t gp_count_decode(const struct gp_engine *e)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < e->plan.max_sequences; i++)
		n += gp_in_decode(e->slots[i]);
	return n;
}

/* In as many steps at a time as deal.c says. Those left out come first next time. */
static int add_decode(struct gp_engine *e, struct flight *f, struct budget *left)
{
	const uint32_t slots = e->plan.max_sequences, first = e->turn;
	const uint32_t steps = e->deal.split ? e->plan.n_stages : 1;
	const uint32_t most = (gp_count_decode(e) + steps - 1) / steps;
	uint32_t n = 0;
	int rc = 0;

	if (e->decode_in_flight >= steps)
		return 0;
	gp_speculate(e, most, left);
	for (uint32_t i = 0; i < slots && n < most && rc >= 0; i++) {
		const uint32_t slot = (first + i) % slots;
		struct job *j = e->slots[slot];

		if (!gp_in_decode(j))
			continue;
		rc = take_rows(e, f, j, 1 + j->n_guessed, left);
		if (rc > 0) {
			e->turn = (slot + 1) % slots;
			n++;
			f->n_guesses += gp_guess_sent(e, j, (uint32_t)rc - 1);
		}
	}
	return rc;
}

/* Live jobs with more than a decode row to send, best first. */
static uint32_t collect_prefill(struct gp_engine *e)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < e->plan.max_sequences; i++) {
		struct job *j = e->slots[i];
		uint32_t at = n;

		if (!gp_is_live(j) || gp_in_decode(j))
			continue;
		if (!j->sent && gp_prefix_comes(e, j))
			continue;
		if (!j->sent)
			gp_prefix_use(e, j);
		for (; at && gp_goes_first(j, e->order[at - 1]); at--)
			e->order[at] = e->order[at - 1];
		e->order[at] = j;
		n++;
	}
	return n;
}

/* Tokens of others must not wait long for a prompt. A step with nothing else in it has
 * some of it in any case. */
static uint32_t most_prefill(const struct gp_engine *e, const struct flight *f)
{
	uint32_t n;

	for (uint32_t i = 0; i < e->plan.max_sequences; i++) {
		if (!gp_in_decode(e->slots[i]))
			continue;
		n = gp_pace_rows(&e->pace, (uint64_t)((double)e->options.max_step_ms * 1e6));
		return n || f->n_rows ? n : GP_PACE_LEAST;
	}
	return UINT32_MAX;
}

static int add_prefill(struct gp_engine *e, struct flight *f, struct budget *left)
{
	const uint32_t chunk = e->plan.n_stages > 1 ? PIPELINE_CHUNK : e->plan.max_rows;
	const uint32_t n = collect_prefill(e), most = most_prefill(e, f);

	for (uint32_t i = 0; i < n && f->n_prefill < most; i++) {
		const uint32_t room = most - f->n_prefill;
		const int rc = take_rows(e, f, e->order[i], chunk < room ? chunk : room, left);

		if (rc < 0)
			return rc;
		f->n_prefill += (uint32_t)rc;
	}
	return 0;
}

static void seat_queued(struct gp_engine *e)
{
	struct job *j, *least;

	while ((j = gp_queue_best(e))) {
		if (gp_seat_take(e, j)) {
			gp_queue_take(e, j);
			continue;
		}
		least = gp_seat_least(e);
		if (!least || least->request.priority >= j->request.priority || !gp_seat_possible(e, j))
			return;
		gp_seat_preempt(e, least);
	}
}

int gp_schedule(struct gp_engine *e, struct flight *f)
{
	struct budget left = { .rows = e->plan.max_rows, .logit_rows = e->plan.max_logit_rows };
	int rc;

	f->n_rows = f->n_prefill = f->n_guesses = 0;
	save_prefixes(e);
	seat_queued(e);
	left.blocks = gp_seats_make_room(e);
	if ((rc = e->kv_rc) < 0 || (rc = add_decode(e, f, &left)) < 0 || (rc = add_prefill(e, f, &left)) < 0)
		return rc;
	return (int)f->n_rows;
}

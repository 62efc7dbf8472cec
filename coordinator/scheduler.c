/* What the next step carries: decode rows first, for latency, then prefill
 * chunks, from whom it is the turn on. */
#include "coordinator/engine_internal.h"

/* With several stages a prompt is cut smaller, so that all of them have work. */
#define PIPELINE_CHUNK 128u

struct budget {
	uint32_t rows, logit_rows;
};

/* One token is pending: the one sampled last (or a prompt's last). */
static bool in_decode(const struct job *j)
{
	return j->n_tokens - j->sent == 1;
}

static uint32_t take_rows(struct gp_engine *e, struct job *j, uint32_t n, uint32_t most,
			  struct budget *left)
{
	uint32_t taken = 0;

	while (taken < most && j->sent < j->n_tokens && left->rows) {
		const bool wants = gp_job_wants_logits(j, j->sent);

		if (wants && !left->logit_rows)
			break;
		left->logit_rows -= wants;
		left->rows--;
		e->rows[n + taken++] = (struct gp_row){
			.seq = j->slot, .pos = j->sent, .token = j->tokens[j->sent],
			.flags = wants ? GP_ROW_WANTS_LOGITS : 0,
			.candidates = wants ? (uint16_t)gp_job_candidates(j, j->sent) : 0,
		};
		j->sent++;
	}
	return taken;
}

static uint32_t take_from_all(struct gp_engine *e, bool decode, uint32_t n, struct budget *left)
{
	const uint32_t most = e->plan.n_stages > 1 ? PIPELINE_CHUNK : e->plan.max_rows;

	for (uint32_t i = 0; i < e->plan.max_sequences; i++) {
		struct job *j = e->slots[(e->turn + i) % e->plan.max_sequences];

		if (j && j->state == JOB_LIVE && j->sent < j->n_tokens && in_decode(j) == decode)
			n += take_rows(e, j, n, most, left);
	}
	return n;
}

static void seat_queued(struct gp_engine *e)
{
	while (e->queue) {
		struct job *j = e->queue;

		if (!gp_job_seat(e, j))
			return;
		e->queue = j->next;
		if (!e->queue)
			e->queue_end = &e->queue;
	}
}

uint32_t gp_schedule(struct gp_engine *e)
{
	struct budget left = { .rows = e->plan.max_rows, .logit_rows = e->plan.max_logit_rows };
	uint32_t n;

	seat_queued(e);
	n = take_from_all(e, true, 0, &left);
	n = take_from_all(e, false, n, &left);
	e->turn = (e->turn + 1) % e->plan.max_sequences;
	return n;
}

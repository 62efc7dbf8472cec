/* What was measured: from the timestamps that every slot brings back. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/engine_internal.h"

static void meter_hop(struct stage_meter *m, const struct gp_stage_times *t)
{
	/* A slot that found the stage busy queued; that is no latency of the hop. */
	if (t->enqueue_ns < m->last_end_ns || t->start_ns < t->enqueue_ns)
		return;
	const uint64_t hop = t->start_ns - t->enqueue_ns;

	m->hop[m->n_hops++ % HOP_SAMPLES] = hop < UINT32_MAX ? (uint32_t)hop : UINT32_MAX;
	m->hop_sum_ns += hop;
}

void gp_meter_step(struct gp_engine *e, const struct gp_slot_header *h)
{
	for (uint32_t k = 0; k < e->plan.n_stages; k++) {
		struct stage_meter *m = &e->meters[k];
		const struct gp_stage_times *t = &h->times[k];

		meter_hop(m, t);
		m->steps++;
		m->rows += h->n_rows;
		m->busy_ns += t->end_ns > t->start_ns ? t->end_ns - t->start_ns : 0;
		m->last_end_ns = t->end_ns;
	}
}

void gp_meter_time(struct gp_engine *e)
{
	const uint64_t now = gp_now_ns(), passed = now - e->account_ns;
	bool prefill = false, decode = false;

	for (uint32_t i = 0; i < e->plan.max_sequences; i++) {
		const struct job *j = e->slots[i];

		if (!j || j->state != JOB_LIVE)
			continue;
		prefill |= j->generated == 0;
		decode |= j->generated > 0;
	}
	e->prompt_ns += prefill ? passed : 0;
	e->generate_ns += decode ? passed : 0;
	e->account_ns = now;
}

static int by_value(const void *a, const void *b)
{
	const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void hop_summary(const struct stage_meter *m, struct gp_stage_stats *s)
{
	const size_t n = m->n_hops < HOP_SAMPLES ? (size_t)m->n_hops : HOP_SAMPLES;
	uint32_t *sorted = n ? malloc(n * sizeof *sorted) : NULL;

	if (!sorted)
		return;
	memcpy(sorted, m->hop, n * sizeof *sorted);
	qsort(sorted, n, sizeof *sorted, by_value);
	s->hop_mean_ns = m->hop_sum_ns / m->n_hops;
	s->hop_p99_ns = sorted[(n * 99 + 99) / 100 - 1];
	free(sorted);
}

void gp_engine_stats(struct gp_engine *e, struct gp_engine_stats *s)
{
	gp_meter_time(e);
	*s = (struct gp_engine_stats){
		.taken_ns = e->account_ns, .n_stages = e->plan.n_stages, .prompt_tokens = e->prompt_tokens,
		.prompt_ns = e->prompt_ns, .generated_tokens = e->generated_tokens,
		.decoded_tokens = e->decoded_tokens, .generate_ns = e->generate_ns, .load_ns = e->load_ns, .epoch = e->epoch,
		.preempted = e->preempted, .prefix_tokens = e->prefix_tokens, .live = e->n_live, .queued = e->n_queued,
		.kv_blocks = e->plan.kv_blocks, .kv_blocks_held = gp_seats_held(e),
		.looked_up = e->looked_up, .drafted = e->drafted,
		.huge_pages = true,
	};
	for (uint32_t k = 0; k <= e->plan.n_stages; k++)
		s->huge_pages &= e->pool->rings[k].region.huge;
	for (uint32_t k = 0; k < e->plan.n_stages; k++) {
		const struct stage_meter *m = &e->meters[k];

		gp_pool_stage_stats(e->pool, k, &s->stage[k]);
		s->stage[k].steps = m->steps;
		s->stage[k].rows = m->rows;
		s->stage[k].busy_ns = m->busy_ns;
		hop_summary(m, &s->stage[k]);
	}
}

void gp_engine_stats_reset(struct gp_engine *e)
{
	gp_meter_time(e);
	for (uint32_t k = 0; k < e->plan.n_stages; k++)
		e->meters[k] = (struct stage_meter){ .last_end_ns = e->meters[k].last_end_ns };
	e->prompt_tokens = e->prompt_ns = 0;
	e->generated_tokens = e->decoded_tokens = e->generate_ns = 0;
	e->looked_up = e->drafted = (struct gp_guess_stats){ 0 };
}

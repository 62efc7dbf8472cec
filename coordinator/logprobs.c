/* The model's own probabilities, before any penalty or filter. */
#include <math.h>

#include "coordinator/engine_internal.h"

/* Of equal logits the lower id first. */
static void find_top(const float *row, uint32_t vocab, struct gp_slot_candidate *top, uint32_t n)
{
	uint32_t have = 0;

	for (uint32_t id = 0; n && id < vocab; id++) {
		uint32_t at = have < n ? have++ : n;

		if (at == n && !(row[id] > top[--at].logit))
			continue;
		for (; at && row[id] > top[at - 1].logit; at--)
			top[at] = top[at - 1];
		top[at] = (struct gp_slot_candidate){ row[id], id };
	}
}

static double log_of_sum(const float *row, uint32_t vocab)
{
	float max = row[0];
	double sum = 0;

	for (uint32_t i = 1; i < vocab; i++)
		max = row[i] > max ? row[i] : max;
	for (uint32_t i = 0; i < vocab; i++)
		sum += exp((double)row[i] - (double)max);
	return (double)max + log(sum);
}

int gp_logprobs(const struct gp_request *r, const float *row, uint32_t vocab, uint32_t token)
{
	struct gp_slot_candidate top[GP_SLOT_CANDIDATES];
	const uint32_t n = r->n_top < vocab ? r->n_top : vocab;

	if (!row)
		return gp_fail(EPROTO, "a row came back without all of its logits; a worker changed "
			       "what was asked");
	const double all = log_of_sum(row, vocab);
	find_top(row, vocab, top, n);
	for (uint32_t i = 0; i < n; i++)
		top[i].logit = (float)((double)top[i].logit - all);
	r->on_logprobs(r->user, token, (float)((double)row[token] - all), top);
	return 0;
}

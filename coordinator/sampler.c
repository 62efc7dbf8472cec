/* From a row of logits to a token. Order of the filters: penalty, temperature,
 * top-k, top-p, min-p, as users of other engines expect. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "coordinator/coordinator.h"

#define PENALTY_WINDOW 64u

struct candidate {
	float logit, p;
	uint32_t id;
};

struct gp_sampler {
	struct gp_sampling how;
	uint32_t vocab;
	uint64_t random;
	struct candidate *candidates; /* vocab */
};

static int check_settings(const struct gp_sampling *s)
{
	if (!(s->temperature >= 0 && s->temperature <= 100))
		return gp_fail(EINVAL, "temperature %g is not in 0..100", (double)s->temperature);
	if (!(s->top_p >= 0 && s->top_p <= 1) || !(s->min_p >= 0 && s->min_p <= 1))
		return gp_fail(EINVAL, "top-p %g and min-p %g must be in 0..1", (double)s->top_p,
			       (double)s->min_p);
	if (!(s->repeat_penalty >= 0 && s->repeat_penalty <= 100))
		return gp_fail(EINVAL, "repeat penalty %g is not in 0..100",
			       (double)s->repeat_penalty);
	return 0;
}

int gp_sampler_create(struct gp_sampler **out, const struct gp_sampling *how, uint32_t vocab)
{
	const int rc = check_settings(how);

	if (rc < 0)
		return rc;
	struct gp_sampler *s = calloc(1, sizeof *s);
	if (s)
		s->candidates = calloc(vocab, sizeof *s->candidates);
	if (!s || !s->candidates) {
		gp_sampler_destroy(s);
		return gp_fail(ENOMEM, "no memory for a sampler over %u tokens", vocab);
	}
	s->how = *how;
	s->vocab = vocab;
	s->random = how->seed;
	*out = s;
	return 0;
}

void gp_sampler_destroy(struct gp_sampler *s)
{
	if (!s)
		return;
	free(s->candidates);
	free(s);
}

/* splitmix64 (Steele, Lea, Flood 2014): every seed, zero too, is a good one. */
static double next_uniform(struct gp_sampler *s)
{
	uint64_t z = s->random += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* Logits come from our own workers; one that is not finite means broken math,
 * and a token drawn from it would be garbage that looks like text. */
static int load_candidates(struct gp_sampler *s, const float *logits)
{
	for (uint32_t i = 0; i < s->vocab; i++) {
		if (!isfinite(logits[i]))
			return gp_fail(EDOM, "logit of token %u is not finite; the model's weights "
				       "or a worker's device are broken", i);
		s->candidates[i] = (struct candidate){ .logit = logits[i], .id = i };
	}
	return 0;
}

static bool seen_before(const uint32_t *recent, size_t at)
{
	for (size_t i = 0; i < at; i++)
		if (recent[i] == recent[at])
			return true;
	return false;
}

static void penalise(struct gp_sampler *s, const uint32_t *recent, size_t n)
{
	const float penalty = s->how.repeat_penalty;
	const size_t skip = n > PENALTY_WINDOW ? n - PENALTY_WINDOW : 0;

	if (penalty <= 0 || penalty == 1)
		return;
	recent += skip;
	n -= skip;
	for (size_t i = 0; i < n; i++) {
		if (recent[i] >= s->vocab || seen_before(recent, i))
			continue;
		float *l = &s->candidates[recent[i]].logit;
		*l = *l > 0 ? *l / penalty : *l * penalty;
	}
}

static uint32_t best(const struct gp_sampler *s)
{
	uint32_t b = 0;

	for (uint32_t i = 1; i < s->vocab; i++)
		if (s->candidates[i].logit > s->candidates[b].logit)
			b = i;
	return b;
}

/* Ties by id: the order, and with it the draw, is the same everywhere. */
static int by_logit(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->logit != y->logit)
		return x->logit < y->logit ? 1 : -1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static void softmax(struct candidate *c, uint32_t n, float temperature)
{
	const float max = c[0].logit;
	double sum = 0;

	for (uint32_t i = 0; i < n; i++) {
		c[i].p = (float)exp(((double)c[i].logit - (double)max) / (double)temperature);
		sum += (double)c[i].p;
	}
	for (uint32_t i = 0; i < n; i++)
		c[i].p = (float)((double)c[i].p / sum);
}

static uint32_t keep_top_p(const struct candidate *c, uint32_t n, float top_p)
{
	double sum = 0;

	if (top_p <= 0 || top_p >= 1)
		return n;
	for (uint32_t i = 0; i < n; i++) {
		sum += (double)c[i].p;
		if (sum >= (double)top_p)
			return i + 1;
	}
	return n;
}

static uint32_t keep_min_p(const struct candidate *c, uint32_t n, float min_p)
{
	uint32_t keep = 1;

	while (keep < n && c[keep].p >= min_p * c[0].p)
		keep++;
	return min_p > 0 ? keep : n;
}

static uint32_t draw(struct gp_sampler *s, uint32_t n)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += (double)s->candidates[i].p;
	double left = next_uniform(s) * sum;
	for (uint32_t i = 0; i < n; i++) {
		left -= (double)s->candidates[i].p;
		if (left < 0)
			return s->candidates[i].id;
	}
	return s->candidates[n - 1].id;
}

int gp_sampler_pick(struct gp_sampler *s, const float *logits, const uint32_t *recent,
		    size_t n_recent, uint32_t *token)
{
	const int rc = load_candidates(s, logits);
	uint32_t n = s->vocab;

	if (rc < 0)
		return rc;
	penalise(s, recent, n_recent);
	if (s->how.temperature <= 0) {
		*token = best(s);
		return 0;
	}
	qsort(s->candidates, n, sizeof *s->candidates, by_logit);
	if (s->how.top_k && s->how.top_k < n)
		n = s->how.top_k;
	softmax(s->candidates, n, s->how.temperature);
	n = keep_top_p(s->candidates, n, s->how.top_p);
	n = keep_min_p(s->candidates, n, s->how.min_p);
	*token = draw(s, n);
	return 0;
}

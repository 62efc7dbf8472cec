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

struct picked {
	uint32_t token, times;
};

struct gp_sampler {
	struct gp_sampling how;       /* bias is an owned copy */
	struct picked *picked;        /* only where penalties look at them */
	size_t n_picked, picked_room;
	uint32_t vocab;
	uint64_t random;
	struct candidate *candidates; /* room: grows to what a row brings */
	uint32_t room;
	uint32_t n;                   /* of the row in hand: vocab, or its best */
	bool by_id;                   /* a whole row: candidate i is token i */
};

static int check_settings(const struct gp_sampling *s, uint32_t vocab)
{
	if (!(s->temperature >= 0 && s->temperature <= 100))
		return gp_fail(EINVAL, "temperature %g is not in 0..100", (double)s->temperature);
	if (!(s->top_p >= 0 && s->top_p <= 1) || !(s->min_p >= 0 && s->min_p <= 1))
		return gp_fail(EINVAL, "top-p %g and min-p %g must be in 0..1", (double)s->top_p,
			       (double)s->min_p);
	if (!(s->repeat_penalty >= 0 && s->repeat_penalty <= 100))
		return gp_fail(EINVAL, "repeat penalty %g is not in 0..100",
			       (double)s->repeat_penalty);
	if (!(fabsf(s->presence_penalty) <= 100) || !(fabsf(s->frequency_penalty) <= 100))
		return gp_fail(EINVAL, "presence penalty %g and frequency penalty %g must be in "
			       "-100..100", (double)s->presence_penalty, (double)s->frequency_penalty);
	for (size_t i = 0; i < s->n_bias; i++)
		if (s->bias[i].token >= vocab || !isfinite(s->bias[i].bias))
			return gp_fail(EINVAL, "logit bias %g of token %u: it must be a number, and one of "
				       "the %u tokens", (double)s->bias[i].bias, s->bias[i].token, vocab);
	return 0;
}

int gp_sampler_create(struct gp_sampler **out, const struct gp_sampling *how, uint32_t vocab)
{
	const int rc = check_settings(how, vocab);

	if (rc < 0)
		return rc;
	struct gp_sampler *s = calloc(1, sizeof *s);
	struct gp_logit_bias *bias = calloc(how->n_bias + 1, sizeof *bias);
	if (!s || !bias) {
		free(bias);
		free(s);
		return gp_fail(ENOMEM, "no memory for a sampler");
	}
	if (how->n_bias)
		memcpy(bias, how->bias, how->n_bias * sizeof *bias);
	s->how = *how;
	s->how.bias = bias;
	s->vocab = vocab;
	s->random = how->seed;
	*out = s;
	return 0;
}

void gp_sampler_destroy(struct gp_sampler *s)
{
	if (!s)
		return;
	free((void *)(uintptr_t)s->how.bias);
	free(s->picked);
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

static bool penalises(const struct gp_sampling *h)
{
	return h->repeat_penalty > 0 && h->repeat_penalty != 1;
}

static bool counts(const struct gp_sampling *h)
{
	return h->presence_penalty != 0 || h->frequency_penalty != 0;
}

static bool cuts_by_rank(const struct gp_sampler *s)
{
	return s->how.top_k && s->how.top_k < s->vocab;
}

/* A penalty above 1 only lowers, and at most PENALTY_WINDOW logits: whoever is
 * among the k best afterwards was among the k + PENALTY_WINDOW best before. One
 * below 1 may raise any token, as a bias may; the other penalties lower as many as
 * there are. Filters after top-k see only what it kept. */
uint32_t gp_sampler_needs(const struct gp_sampler *s)
{
	const struct gp_sampling *h = &s->how;
	const uint32_t most = s->vocab / 2 < GP_SLOT_CANDIDATES ? s->vocab / 2 : GP_SLOT_CANDIDATES;
	uint64_t n = h->temperature <= 0 ? 1 : cuts_by_rank(s) ? h->top_k : s->vocab;

	if (penalises(h))
		n += h->repeat_penalty > 1 ? PENALTY_WINDOW : s->vocab;
	if (counts(h) || h->n_bias)
		return 0;
	return n <= most ? (uint32_t)n : 0;
}

/* The generator's state is its seed. */
void gp_sampler_settings(const struct gp_sampler *s, struct gp_sampling *how)
{
	*how = s->how;
	how->seed = s->random;
}

/* Those who wait, and those who need few, hold little. */
static int make_room(struct gp_sampler *s, uint32_t n)
{
	if (n <= s->room)
		return 0;
	struct candidate *more = realloc(s->candidates, n * sizeof *more);
	if (!more)
		return gp_fail(ENOMEM, "no memory for a sampler over %u tokens", n);
	s->candidates = more;
	s->room = n;
	return 0;
}

/* Logits come from our own workers; one that is not finite means broken math,
 * and a token drawn from it would be garbage that looks like text. */
static int load(struct gp_sampler *s, uint32_t at, float logit, uint32_t id)
{
	if (!isfinite(logit))
		return gp_fail(EDOM, "logit of token %u is not finite: the model's weights "
			       "or a worker's device are broken; --check-numerics tells where", id);
	s->candidates[at] = (struct candidate){ .logit = logit, .id = id };
	return 0;
}

static int load_row(struct gp_sampler *s, const float *row)
{
	int rc = make_room(s, s->vocab);

	s->n = s->vocab;
	s->by_id = true;
	for (uint32_t i = 0; i < s->n && rc == 0; i++)
		rc = load(s, i, row[i], i);
	return rc;
}

static int load_best(struct gp_sampler *s, const struct gp_slot_candidate *best, uint32_t n)
{
	const uint32_t needs = gp_sampler_needs(s);
	int rc = 0;

	if (!needs || n < needs || n > s->vocab)
		return gp_fail(EPROTO, "%u logits of a row came back, the sampler needs %u; a worker "
			       "changed what was asked", n, needs ? needs : s->vocab);
	rc = make_room(s, n);
	s->n = n;
	s->by_id = false;
	for (uint32_t i = 0; i < n && rc == 0; i++)
		rc = load(s, i, best[i].logit, best[i].id);
	return rc;
}

static struct candidate *find(struct gp_sampler *s, uint32_t id)
{
	if (s->by_id)
		return id < s->n ? &s->candidates[id] : NULL;
	for (uint32_t i = 0; i < s->n; i++)
		if (s->candidates[i].id == id)
			return &s->candidates[i];
	return NULL;
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

	if (!penalises(&s->how))
		return;
	recent += skip;
	n -= skip;
	for (size_t i = 0; i < n; i++) {
		struct candidate *c = seen_before(recent, i) ? NULL : find(s, recent[i]);

		if (c)
			c->logit = c->logit > 0 ? c->logit / penalty : c->logit * penalty;
	}
}

/* Both need whole rows. */
static void penalise_picked(struct gp_sampler *s)
{
	for (size_t i = 0; i < s->n_picked; i++)
		s->candidates[s->picked[i].token].logit -= s->how.presence_penalty +
			s->how.frequency_penalty * (float)s->picked[i].times;
	for (size_t i = 0; i < s->how.n_bias; i++)
		s->candidates[s->how.bias[i].token].logit += s->how.bias[i].bias;
}

static int count_picked(struct gp_sampler *s, uint32_t token)
{
	for (size_t i = 0; i < s->n_picked; i++) {
		if (s->picked[i].token == token) {
			s->picked[i].times++;
			return 0;
		}
	}
	if (s->n_picked == s->picked_room) {
		const size_t room = 2 * s->picked_room + 64;
		struct picked *more = realloc(s->picked, room * sizeof *more);

		if (!more)
			return gp_fail(ENOMEM, "no memory for the penalties of %zu tokens", room);
		s->picked = more;
		s->picked_room = room;
	}
	s->picked[s->n_picked++] = (struct picked){ token, 1 };
	return 0;
}

/* Ties by id: the order, and with it the draw, is the same everywhere. */
static bool before(const struct candidate *a, const struct candidate *b)
{
	return a->logit != b->logit ? a->logit > b->logit : a->id < b->id;
}

static const struct candidate *best(const struct gp_sampler *s)
{
	const struct candidate *b = &s->candidates[0];

	for (uint32_t i = 1; i < s->n; i++)
		if (before(&s->candidates[i], b))
			b = &s->candidates[i];
	return b;
}

static void sift_down(struct candidate *c, uint32_t n, uint32_t i)
{
	const struct candidate moving = c[i];

	for (uint32_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
		if (child + 1 < n && before(&c[child + 1], &c[child]))
			child++;
		if (!before(&c[child], &moving))
			break;
		c[i] = c[child];
		i = child;
	}
	c[i] = moving;
}

/* The k best, best first, at the end of the array backwards: a heap gives them
 * one by one, so that a vocabulary of 262,144 is never sorted whole. */
struct queue {
	struct candidate *c;
	uint32_t left; /* in the heap: c[0..left) */
};

static struct queue make_queue(struct candidate *c, uint32_t n)
{
	for (uint32_t i = n / 2; i-- > 0;)
		sift_down(c, n, i);
	return (struct queue){ .c = c, .left = n };
}

/* The next best moves to c[left], behind the heap. */
static const struct candidate *take_best(struct queue *q)
{
	const struct candidate best_one = q->c[0];

	q->c[0] = q->c[--q->left];
	sift_down(q->c, q->left, 0);
	q->c[q->left] = best_one;
	return &q->c[q->left];
}

/* Weights relative to the best candidate's, and their sum. */
static double weigh(struct candidate *c, uint32_t n, float max, float temperature)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++) {
		c[i].p = (float)exp(((double)c[i].logit - (double)max) / (double)temperature);
		sum += (double)c[i].p;
	}
	return sum;
}

/* Moves the candidates that the filters keep to the end of the array; returns
 * the first of them and how many there are. */
static struct candidate *filter(struct gp_sampler *s, uint32_t *n_kept)
{
	const struct gp_sampling *h = &s->how;
	const uint32_t most = cuts_by_rank(s) ? h->top_k : s->n;
	struct queue q = make_queue(s->candidates, s->n);
	const float max = q.c[0].logit;
	double total = 0, sum = 0;

	/* Even where most is all there are: sums run over what top-k kept in one order,
	 * from a whole row as from its best. */
	if (cuts_by_rank(s))
		for (uint32_t i = 0; i < most; i++)
			take_best(&q);
	/* What top-k kept now lies behind the heap, best last; queue that alone. */
	struct candidate *kept = s->candidates + (cuts_by_rank(s) ? q.left : 0);
	total = weigh(kept, most, max, h->temperature);
	q = make_queue(kept, most);
	while (q.left) {
		const struct candidate *c = take_best(&q);

		if (c->p < h->min_p) {
			q.left++; /* this one is out again */
			break;
		}
		sum += (double)c->p;
		if (h->top_p > 0 && h->top_p < 1 && sum >= (double)h->top_p * total)
			break;
	}
	*n_kept = most - q.left;
	return kept + q.left;
}

static uint32_t draw(struct gp_sampler *s, const struct candidate *c, uint32_t n)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += (double)c[i].p;
	double left = next_uniform(s) * sum;
	for (uint32_t i = 0; i < n; i++) {
		left -= (double)c[i].p;
		if (left < 0)
			return c[i].id;
	}
	return c[n - 1].id;
}

/* Without a filter the order is the vocabulary's, and nothing need be sorted. */
static uint32_t sample(struct gp_sampler *s)
{
	const struct gp_sampling *h = &s->how;
	uint32_t n = s->n;

	if (h->top_k || (h->top_p > 0 && h->top_p < 1) || h->min_p > 0) {
		const struct candidate *kept = filter(s, &n);

		return draw(s, kept, n);
	}
	weigh(s->candidates, n, best(s)->logit, h->temperature);
	return draw(s, s->candidates, n);
}

int gp_sampler_pick(struct gp_sampler *s, const struct gp_slot_logits *logits,
		    const uint32_t *recent, size_t n_recent, uint32_t *token)
{
	const int rc = logits->row ? load_row(s, logits->row)
				   : load_best(s, logits->best, logits->n_best);

	if (rc < 0)
		return rc;
	penalise(s, recent, n_recent);
	penalise_picked(s);
	*token = s->how.temperature <= 0 ? best(s)->id : sample(s);
	return counts(&s->how) ? count_picked(s, *token) : 0;
}

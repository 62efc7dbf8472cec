/* Which type each tensor gets: the least cost within a budget of bytes. A knapsack with one
 * choice a tensor. Of a tensor's choices only those on the lower convex hull of cost over
 * bytes are stepped through; all steps of all tensors are taken in the order of what they save
 * a byte, as long as they fit. That is the optimum of the problem with divisible steps, so what
 * is lost against the true one is less than one step's saving; a tensor is under a percent of a
 * model. An exact search over bytes would need tables of gigabytes for that percent. */
#include <stdlib.h>

#include "base/base.h"
#include "quantize/quantize.h"

struct step {
	size_t item;
	uint32_t to;
	uint64_t bytes;            /* more */
	double saved;              /* cost, a byte */
	uint32_t rank;             /* of the item's steps */
};

/* The next choice on the hull after `at`: the one that saves most a byte; n: none. */
static uint32_t next_on_hull(const struct gp_item *it, uint32_t at, double *saved)
{
	uint32_t best = it->n;

	*saved = 0;
	for (uint32_t i = 0; i < it->n; i++) {
		const struct gp_choice *c = &it->choice[i], *now = &it->choice[at];

		if (c->bytes <= now->bytes || !(c->cost < now->cost))
			continue;
		const double s = (now->cost - c->cost) / (double)(c->bytes - now->bytes);
		if (s > *saved) {
			*saved = s;
			best = i;
		}
	}
	return best;
}

static uint32_t smallest(const struct gp_item *it)
{
	uint32_t best = 0;

	for (uint32_t i = 1; i < it->n; i++) {
		const struct gp_choice *c = &it->choice[i], *b = &it->choice[best];

		if (c->bytes < b->bytes || (c->bytes == b->bytes && c->cost < b->cost))
			best = i;
	}
	return best;
}

static size_t list_steps(const struct gp_item *it, size_t index, struct step *s)
{
	uint32_t at = it->chosen, rank = 0;
	double saved;

	for (uint32_t to; (to = next_on_hull(it, at, &saved)) < it->n; at = to, rank++)
		s[rank] = (struct step){ index, to, it->choice[to].bytes - it->choice[at].bytes,
		                         saved, rank };
	return rank;
}

/* Best first; of equal ones the item's own order, so that a later never precedes. */
static int by_saving(const void *a, const void *b)
{
	const struct step *s = a, *t = b;

	if (s->saved != t->saved)
		return s->saved > t->saved ? -1 : 1;
	if (s->item != t->item)
		return s->item < t->item ? -1 : 1;
	return s->rank < t->rank ? -1 : 1;
}

/* An item whose step did not fit takes no later one by this way. */
static uint64_t take_steps(struct gp_item *items, const struct step *s, size_t n,
                           uint64_t used, uint64_t budget, bool *stopped)
{
	for (size_t i = 0; i < n; i++) {
		if (stopped[s[i].item] || s[i].bytes > budget - used) {
			stopped[s[i].item] = true;
			continue;
		}
		items[s[i].item].chosen = s[i].to;
		used += s[i].bytes;
	}
	return used;
}

/* What is left may still pay for a choice off the hull. */
static void use_rest(struct gp_item *items, size_t n, uint64_t rest)
{
	for (size_t i = 0; i < n; i++) {
		struct gp_item *it = &items[i];

		for (uint32_t c = 0; c < it->n; c++) {
			const struct gp_choice *now = &it->choice[it->chosen];

			if (it->choice[c].cost < now->cost && it->choice[c].bytes >= now->bytes &&
			    it->choice[c].bytes - now->bytes <= rest) {
				rest -= it->choice[c].bytes - now->bytes;
				it->chosen = c;
			}
		}
	}
}

int gp_knapsack(struct gp_item *items, size_t n, uint64_t budget)
{
	uint64_t used = 0;
	size_t n_steps = 0, most = 0;
	struct step *steps;
	bool *stopped;

	for (size_t i = 0; i < n; i++) {
		items[i].chosen = smallest(&items[i]);
		used += items[i].choice[items[i].chosen].bytes;
		most += items[i].n;
	}
	if (used > budget)
		return gp_fail(ENOSPC, "the smallest types take %llu bytes, %llu more than the budget; "
		               "raise it or allow smaller types", (unsigned long long)used,
		               (unsigned long long)(used - budget));
	steps = calloc(most + 1, sizeof *steps);
	stopped = calloc(n + 1, sizeof *stopped);
	if (!steps || !stopped) {
		free(steps);
		free(stopped);
		return gp_fail(ENOMEM, "no memory to choose types of %zu tensors", n);
	}
	for (size_t i = 0; i < n; i++)
		n_steps += list_steps(&items[i], i, steps + n_steps);
	qsort(steps, n_steps, sizeof *steps, by_saving);
	used = take_steps(items, steps, n_steps, used, budget, stopped);
	use_rest(items, n, budget - used);
	free(steps);
	free(stopped);
	return 0;
}

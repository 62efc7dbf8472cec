/* The best entries of a row of logits: a heap of those kept, its root the worst. */
#include <float.h>
#include <math.h>

#include "kernels/isa.h"

uint32_t gp_find_outside_scalar(const float *x, uint32_t first, uint32_t end, float low, float high)
{
	while (first < end && x[first] >= low && x[first] <= high)
		first++;
	return first;
}

/* What is not finite comes before every number, so that it cannot be lost. */
static float rank(float logit)
{
	return isfinite(logit) ? logit : INFINITY;
}

static bool worse(const struct gp_candidate *a, const struct gp_candidate *b)
{
	const float x = rank(a->logit), y = rank(b->logit);

	return x != y ? x < y : a->id > b->id;
}

static void sift_up(struct gp_candidate *c, uint32_t i, struct gp_candidate moving)
{
	while (i && worse(&moving, &c[(i - 1) / 2])) {
		c[i] = c[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	c[i] = moving;
}

/* Puts moving where it belongs in a heap of n whose root is free. */
static void sift_down(struct gp_candidate *c, uint32_t n, struct gp_candidate moving)
{
	uint32_t i = 0;

	for (uint32_t child = 1; child < n; child = 2 * i + 1) {
		if (child + 1 < n && worse(&c[child + 1], &c[child]))
			child++;
		if (!worse(&c[child], &moving))
			break;
		c[i] = c[child];
		i = child;
	}
	c[i] = moving;
}

void gp_best_add(struct gp_best *b, struct gp_candidate c)
{
	if (b->n < b->most)
		sift_up(b->c, b->n++, c);
	else if (worse(&b->c[0], &c))
		sift_down(b->c, b->n, c);
}

/* Few logits of a row beat the worst one kept so far; the kernel skips the rest. */
void gp_best_scan(struct gp_best *b, const struct gp_kernels *k, const float *row, uint32_t first,
                  uint32_t end)
{
	uint32_t i = first;

	for (; i < end && b->n < b->most; i++)
		gp_best_add(b, (struct gp_candidate){ row[i], i });
	/* Among what is not finite the lowest ids are the best, and come first. */
	while (i < end && isfinite(b->c[0].logit)) {
		i = k->find_outside(row, i, end, -FLT_MAX, b->c[0].logit);
		if (i < end) {
			gp_best_add(b, (struct gp_candidate){ row[i], i });
			i++;
		}
	}
}

void gp_best_sort(struct gp_best *b)
{
	for (uint32_t n = b->n; n-- > 1;) {
		const struct gp_candidate last = b->c[n];

		b->c[n] = b->c[0];
		sift_down(b->c, n, last);
	}
}

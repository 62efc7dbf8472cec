#include <math.h>
#include <stdlib.h>

#include "base/base.h"
#include "tools/common/load.h"

int load_times_add(struct load_times *t, double ms)
{
	if (t->n == t->room) {
		const size_t room = 2 * t->room + 256;
		double *more = realloc(t->ms, room * sizeof *more);

		if (!more)
			return gp_fail(ENOMEM, "no memory for %zu times", room);
		t->ms = more;
		t->room = room;
	}
	if (!t->n)
		t->first = ms;
	t->ms[t->n++] = ms;
	return 0;
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

void load_times_sort(struct load_times *t)
{
	if (t->n)
		qsort(t->ms, t->n, sizeof *t->ms, by_value);
}

double load_times_at(const struct load_times *t, double share)
{
	const double rank = ceil(share * (double)t->n);

	if (!t->n)
		return NAN;
	return t->ms[rank > 1 ? (size_t)rank - 1 : 0];
}

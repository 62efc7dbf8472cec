/* The logits that leave the device: whole rows, or the best of a row. */
#include <string.h>

#include "base/base.h"
#include "workers/cpu/cpu_device.h"

struct selection {
	struct cpu_device *d;
	const float *row;
	uint32_t most;
	uint32_t found[GP_MAX_THREADS];
};

/* Of the columns that this thread computed, which are still in its cache. */
static void select_some(void *arg, uint32_t thread, uint32_t n_threads)
{
	struct selection *s = arg;
	struct gp_best b = { .c = s->d->candidates + (size_t)thread * GP_MAX_CANDIDATES,
	                     .most = s->most };
	uint32_t first, end;

	gp_threads_split(s->d->config.vocab, CPU_MATMUL_GRAIN, thread, n_threads, &first, &end);
	gp_best_scan(&b, &s->d->k, s->row, first, end);
	s->found[thread] = b.n;
}

static int select_best(struct cpu_device *d, const float *row, uint32_t most, void *out)
{
	struct selection s = { .d = d, .row = row, .most = most };
	struct gp_best all = { .c = out, .most = most };
	const int rc = cpu_run(d, select_some, &s, d->config.vocab);

	if (rc < 0)
		return rc;
	for (uint32_t t = 0; t < gp_threads_count(d->threads); t++)
		for (uint32_t i = 0; i < s.found[t]; i++)
			gp_best_add(&all, d->candidates[(size_t)t * GP_MAX_CANDIDATES + i]);
	gp_best_sort(&all);
	return 0;
}

int cpu_logits_out(struct cpu_device *d, float *out)
{
	const struct gp_batch *b = d->batch;
	const uint32_t vocab = d->config.vocab;
	int rc = 0;

	for (uint32_t i = 0; i < b->n_logit_rows && rc == 0; i++) {
		const float *row = d->buffer[GP_BUF_LOGITS] + (size_t)i * vocab;
		const uint32_t k = b->candidates[i];

		if (k)
			rc = select_best(d, row, k, out);
		else
			memcpy(out, row, vocab * sizeof(*out));
		out += k ? k * sizeof(struct gp_candidate) / sizeof(*out) : vocab;
	}
	return rc;
}

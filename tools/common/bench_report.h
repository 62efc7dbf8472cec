/* What gempipe bench prints: a table for people, JSON for scripts. */
#ifndef GP_BENCH_REPORT_H
#define GP_BENCH_REPORT_H

#include "coordinator/coordinator.h"
#include "tools/common/cost.h"
#include "tools/common/rulers.h"

struct bench_result {
	const char *test;        /* "prefill", "decode" */
	uint64_t tokens, context;
	uint32_t batch;
	double mean_position;    /* of the tokens that were timed */
	double median, min, max; /* tokens/s of all sequences together */
	struct cost cost;
};

struct bench_report {
	struct gp_engine *engine;
	uint32_t n_cpus;
	/* Of one thread, of all threads of all stages; 0 threads: none, for a stage is not
	 * on the CPU. */
	struct rulers one, used;
	bool json;
	struct bench_result *results;
	size_t n_results;
};

void bench_report_begin(const struct bench_report *r); /* the table's head */
/* Before a result is called an error the rulers are measured again, the workers
 * being idle: a ruler is short when others kept the machine busy. -ENOMEM. */
int bench_report_add(struct bench_report *r, const struct bench_result *t);
int bench_report_end(struct bench_report *r);          /* the JSON; -ENOMEM */
void bench_report_free(struct bench_report *r);

#endif

/* What gempipe bench prints: a table for people, JSON for scripts. */
#ifndef GP_BENCH_REPORT_H
#define GP_BENCH_REPORT_H

#include <jansson.h>

#include "coordinator/coordinator.h"
#include "tools/common/cost.h"
#include "tools/common/rulers.h"

struct bench_report {
	struct gp_engine *engine;
	uint32_t n_cpus;
	struct rulers one, used; /* of one thread, of all threads of all stages */
	bool json;
	json_t *results;
};

struct bench_result {
	const char *test;        /* "prefill", "decode" */
	uint64_t tokens, context;
	uint32_t batch;
	double mean_position;    /* of the tokens that were timed */
	double median, min, max; /* tokens/s of all sequences together */
	struct cost cost;
};

int bench_report_begin(struct bench_report *r); /* the table's head; -ENOMEM */
int bench_report_add(struct bench_report *r, const struct bench_result *t); /* -ENOMEM */
int bench_report_end(struct bench_report *r);   /* the JSON; -ENOMEM */
void bench_report_free(struct bench_report *r);

#endif

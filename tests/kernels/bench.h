/* Speeds, from the programs that check: each takes --bench instead of tests. */
#ifndef TESTS_KERNELS_BENCH_H
#define TESTS_KERNELS_BENCH_H

#include "tests/kernels/check.h"

#define BENCH_RUN_NS 150000000u

static inline bool bench_wanted(int argc, char **argv)
{
	return argc > 1 && !strcmp(argv[1], "--bench");
}

/* Memory for operands, on huge pages where there are some: as weights lie. */
static inline void *bench_alloc(size_t bytes)
{
	const size_t huge = (size_t)2 << 20, size = (bytes + huge - 1) / huge * huge;
	void *p = aligned_alloc(huge, size);

	assert_non_null(p);
	madvise(p, size, MADV_HUGEPAGE);
	memset(p, 1, size);
	return p;
}

/* Seconds of the fastest of the runs that fit the time, at least three: what
 * the machine can do while nothing disturbs it. */
static inline double bench_seconds(void (*run)(void *), void *arg)
{
	const uint64_t start = gp_now_ns();
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 3 || (i < 1000 && gp_now_ns() - start < BENCH_RUN_NS); i++) {
		const uint64_t t = gp_now_ns();

		run(arg);
		const uint64_t took = gp_now_ns() - t;
		best = took < best ? took : best;
	}
	return (double)best * 1e-9;
}

/* gops of the scalar reference at the same problem come first: what follows is
 * held against them. */
static inline void bench_print(const char *what, const char *set, const char *type,
                               uint32_t rows, double gbs, double gops, double *reference)
{
	if (*reference == 0)
		*reference = gops;
	printf("%-10s %-17s %-6s rows %3u %8.2f GB/s %8.1f Gop/s %7.1f x scalar\n", what, set, type,
	       rows, gbs, gops, gops / *reference);
	fflush(stdout);
}

#endif

#include "tools/common/rulers.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"

#define MAX_THREADS 256u
#define LEAST_BYTES ((uint64_t)1 << 30)
#define MOST_BYTES ((uint64_t)4 << 30)
#define HUGE_PAGE ((size_t)2 << 20)
#define READ_PASSES 3
#define ARITHMETIC_PASSES 5
#define ARITHMETIC_NS 50000000u /* of a pass: long for a clock, short for a person */
#define TOLERANCE 1.05          /* a ruler is a measurement too */

uint64_t rulers_cache_bytes(void)
{
	const long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE), l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);

	return l3 > 0 ? (uint64_t)l3 : l2 > 0 ? (uint64_t)l2 : 0;
}

/* ---- one task on several threads at once ------------------------------------ */
struct task {
	pthread_t thread;
	uint64_t (*read)(const void *data, size_t bytes, unsigned pattern); /* or: */
	uint64_t (*compute)(uint64_t iterations);
	const uint8_t *data;
	size_t bytes;
	unsigned pattern;
	uint64_t iterations, result;
};

static void *perform(void *arg)
{
	struct task *t = arg;

	t->result = t->read ? t->read(t->data, t->bytes, t->pattern) : t->compute(t->iterations);
	return NULL;
}

/* Wall time of all; 0: not all could be started. */
static uint64_t pass_ns(struct task *t, uint32_t n)
{
	const uint64_t start = gp_now_ns();
	uint32_t started = 0;

	while (started < n && pthread_create(&t[started].thread, NULL, perform, &t[started]) == 0)
		started++;
	for (uint32_t i = 0; i < started; i++)
		pthread_join(t[i].thread, NULL);
	return started == n ? gp_now_ns() - start : 0;
}

/* What all do in a pass / ns, of the fastest pass. */
static double best_rate(struct task *t, uint32_t n, int passes, double amount)
{
	double best = 0;

	for (int pass = 0; pass < passes; pass++) {
		const uint64_t ns = pass_ns(t, n);
		const double rate = ns ? amount / (double)ns : 0;

		best = rate > best ? rate : best;
	}
	return best;
}

/* ---- the rulers ---------------------------------------------------------------- */
/* By the thread that will read, so on its node; else every page would be the one
 * zero page. memset: kernels before 5.14; a sanitizer makes it take a minute. */
static uint64_t populate(const void *data, size_t bytes, unsigned pattern)
{
	(void)pattern;
	if (madvise((void *)data, bytes, MADV_POPULATE_WRITE) != 0)
		memset((void *)data, 1, bytes);
	return 0;
}

static double read_rate(const struct gp_kernels *k, uint32_t n)
{
	const uint64_t cache = 4 * rulers_cache_bytes();
	const size_t bytes = cache < LEAST_BYTES ? LEAST_BYTES : cache > MOST_BYTES ? MOST_BYTES : cache;
	const size_t share = bytes / n / HUGE_PAGE * HUGE_PAGE;
	struct task t[MAX_THREADS] = { 0 };
	double rate = 0;
	uint8_t *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (data == MAP_FAILED)
		return 0;
	madvise(data, bytes, MADV_HUGEPAGE);
	for (uint32_t i = 0; i < n; i++)
		t[i] = (struct task){ .read = populate, .data = data + i * share, .bytes = share };
	pass_ns(t, n);
	for (unsigned p = 0; p < GP_READ_PATTERNS; p++) {
		for (uint32_t i = 0; i < n; i++) {
			t[i].read = k->read;
			t[i].pattern = p;
		}
		rate = fmax(rate, best_rate(t, n, READ_PASSES, (double)(share * n)));
	}
	munmap(data, bytes);
	return rate;
}

/* As many iterations as a pass should take; they bring the clock up, too. */
static uint64_t iterations_for(uint64_t (*compute)(uint64_t iterations), uint64_t pass)
{
	struct task t = { .compute = compute, .iterations = 1000 };

	for (;;) {
		const uint64_t ns = pass_ns(&t, 1);

		if (!ns || ns >= pass)
			return t.iterations;
		t.iterations *= 2;
	}
}

static double compute_rate(uint64_t (*compute)(uint64_t iterations), uint32_t ops, uint32_t n)
{
	struct task t[MAX_THREADS] = { 0 };

	if (!compute)
		return 0;
	const uint64_t iterations = iterations_for(compute, ARITHMETIC_NS);
	for (uint32_t i = 0; i < n; i++)
		t[i] = (struct task){ .compute = compute, .iterations = iterations };
	return best_rate(t, n, ARITHMETIC_PASSES, (double)iterations * ops * n);
}

int rulers_measure(struct rulers *r, uint32_t n_threads)
{
	struct gp_kernels k;
	unsigned mask;
	const int rc = gp_cpu_mask_wanted(&mask);

	if (rc < 0)
		return rc;
	gp_kernels_init(&k, mask);
	const uint32_t n = n_threads < MAX_THREADS ? n_threads : MAX_THREADS;
	*r = (struct rulers){
		.threads = n, .read_gb_per_s = read_rate(&k, n),
		.int8_gop_per_s = compute_rate(k.int8_ops, GP_INT8_OPS, n),
		.float_gflop_per_s = compute_rate(k.float_ops, GP_FLOAT_OPS, n),
	};
	return 0;
}

void rulers_keep_longest(struct rulers *r, const struct rulers *other)
{
	r->read_gb_per_s = fmax(r->read_gb_per_s, other->read_gb_per_s);
	r->int8_gop_per_s = fmax(r->int8_gop_per_s, other->int8_gop_per_s);
	r->float_gflop_per_s = fmax(r->float_gflop_per_s, other->float_gflop_per_s);
}

/* ---- holding a speed against them ---------------------------------------------- */
/* Types that are not packed are multiplied in float32. */
double rulers_arithmetic(const struct rulers *r, enum gp_type weights)
{
	return gp_pack_has(weights) ? r->int8_gop_per_s : r->float_gflop_per_s;
}

const char *rulers_arithmetic_name(enum gp_type weights)
{
	return gp_pack_has(weights) ? "int8" : "float32";
}

static bool exceeds(double speed, double ruler)
{
	return !isfinite(speed) || (ruler > 0 && speed > ruler * TOLERANCE);
}

const char *rulers_verdict(const struct rulers *r, const struct speed *s, uint64_t cache_bytes)
{
	if (exceeds(s->gop_per_s, rulers_arithmetic(r, s->weights)))
		return "error: above the arithmetic peak";
	if (s->model_bytes < 4 * cache_bytes)
		return "cache-resident";
	return exceeds(s->gb_per_s, r->read_gb_per_s) ? "error: above the memory bandwidth" : "";
}

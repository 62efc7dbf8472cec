#include "tools/common/bandwidth.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "kernels/kernels.h"

#define MAX_THREADS 256u
#define LEAST_BYTES ((uint64_t)1 << 30)
#define MOST_BYTES ((uint64_t)4 << 30)
#define PASSES 3

struct reader {
	pthread_t thread;
	const struct gp_kernels *kernels;
	const uint8_t *data;
	size_t bytes;
	uint64_t sum;
};

uint64_t bandwidth_cache_bytes(void)
{
	const long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE), l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);

	return l3 > 0 ? (uint64_t)l3 : l2 > 0 ? (uint64_t)l2 : 0;
}

static void *read_all(void *arg)
{
	struct reader *r = arg;

	r->sum = r->kernels->read(r->data, r->bytes);
	return NULL;
}

static uint64_t pass_ns(struct reader *r, uint32_t n)
{
	const uint64_t start = gp_now_ns();
	uint32_t started = 0;

	while (started < n && pthread_create(&r[started].thread, NULL, read_all, &r[started]) == 0)
		started++;
	for (uint32_t i = 0; i < started; i++)
		pthread_join(r[i].thread, NULL);
	return started == n ? gp_now_ns() - start : 0;
}

double bandwidth_read_gbs(uint32_t n_threads)
{
	struct reader r[MAX_THREADS] = { 0 };
	const uint64_t cache = 4 * bandwidth_cache_bytes();
	const size_t bytes = cache < LEAST_BYTES ? LEAST_BYTES : cache > MOST_BYTES ? MOST_BYTES : cache;
	const uint32_t n = n_threads < MAX_THREADS ? n_threads : MAX_THREADS;
	struct gp_kernels k;
	double best = 0;

	gp_kernels_init(&k, GP_CPU_ALL);
	uint8_t *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (data == MAP_FAILED)
		return 0;
	madvise(data, bytes, MADV_HUGEPAGE);
	memset(data, 1, bytes);
	const size_t share = bytes / n / 64 * 64;
	for (uint32_t i = 0; i < n; i++)
		r[i] = (struct reader){ .kernels = &k, .data = data + i * share, .bytes = share };
	for (int pass = 0; pass < PASSES; pass++) {
		const uint64_t ns = pass_ns(r, n);
		const double gbs = ns ? (double)(share * n) / (double)ns : 0;

		best = gbs > best ? gbs : best;
	}
	munmap(data, bytes);
	return best;
}

#include "tools/common/bandwidth.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"

#define MAX_THREADS 256u
#define LEAST_BYTES ((uint64_t)1 << 30)
#define MOST_BYTES ((uint64_t)4 << 30)
#define PASSES 3

struct reader {
	pthread_t thread;
	const uint64_t *data;
	size_t n;
	uint64_t sum;
};

uint64_t bandwidth_cache_bytes(void)
{
	const long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE), l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);

	return l3 > 0 ? (uint64_t)l3 : l2 > 0 ? (uint64_t)l2 : 0;
}

/* Eight sums: enough loads under way that memory, not the adder, is the limit. */
static void *read_all(void *arg)
{
	struct reader *r = arg;
	uint64_t s[8] = { 0 };

	for (size_t i = 0; i + 8 <= r->n; i += 8)
		for (size_t k = 0; k < 8; k++)
			s[k] += r->data[i + k];
	for (size_t k = 0; k < 8; k++)
		r->sum += s[k];
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
	double best = 0;

	uint8_t *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (data == MAP_FAILED)
		return 0;
	madvise(data, bytes, MADV_HUGEPAGE);
	memset(data, 1, bytes);
	const size_t share = bytes / n / 64 * 64;
	for (uint32_t i = 0; i < n; i++)
		r[i] = (struct reader){ .data = (const void *)(data + i * share), .n = share / 8 };
	for (int pass = 0; pass < PASSES; pass++) {
		const uint64_t ns = pass_ns(r, n);
		const double gbs = ns ? (double)(share * n) / (double)ns : 0;

		best = gbs > best ? gbs : best;
	}
	munmap(data, bytes);
	return best;
}

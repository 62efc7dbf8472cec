/* What the tests of the kernels share: a printed seed, data that leans to the
 * extremes, guarded outputs. */
#ifndef TESTS_KERNELS_CHECK_H
#define TESTS_KERNELS_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "kernels/kernels.h"

static uint32_t check_state;

/* GP_SEED in the environment repeats a run. */
static inline void check_seed(void)
{
	const char *text = getenv("GP_SEED");
	const uint32_t seed = text ? (uint32_t)strtoul(text, NULL, 0) : (uint32_t)gp_now_ns();

	printf("seed: GP_SEED=%u\n", seed);
	check_state = seed ? seed : 1;
}

/* xorshift32; Marsaglia, "Xorshift RNGs", 2003. */
static inline uint32_t check_random(void)
{
	check_state ^= check_state << 13;
	check_state ^= check_state >> 17;
	check_state ^= check_state << 5;
	return check_state;
}

static inline float check_uniform(void)
{
	return (float)(check_random() >> 8) * 0x1p-23f - 1.0f;
}

enum check_fill { FILL_RANDOM, FILL_TINY, FILL_HUGE, FILL_EQUAL, FILL_ZERO, FILL_MIXED, N_FILLS };

static inline void check_fill(float *p, size_t n, enum check_fill how)
{
	static const float mixed[] = { 1e6f, -1e6f, 1e-30f, 0.0f, -0.0f, 1.0f, -1e-6f, 88.0f };

	for (size_t i = 0; i < n; i++)
		switch (how) {
		case FILL_TINY: p[i] = check_uniform() * 1e-18f; break;
		case FILL_HUGE: p[i] = check_uniform() * 1e6f; break;
		case FILL_EQUAL: p[i] = 1.5f; break;
		case FILL_ZERO: p[i] = 0.0f; break;
		case FILL_MIXED: p[i] = mixed[check_random() % GP_ARRAY_LEN(mixed)]; break;
		default: p[i] = check_uniform();
		}
}

/* What a block's other numbers are multiplied by: its scale and, in some types, that
 * of its minima. */
static inline void check_put_scales(enum gp_type t, uint8_t *block, float scale, float min)
{
	const bool two = t == GP_TYPE_Q4_1 || t == GP_TYPE_Q5_1 || t == GP_TYPE_Q4_K ||
	                 t == GP_TYPE_Q5_K;
	const size_t at = t == GP_TYPE_Q3_K ? 108 : t == GP_TYPE_Q6_K ? 208 : 0;
	const uint16_t half[2] = { gp_f32_to_f16(scale), gp_f32_to_f16(min) };

	memcpy(block + at, half, two ? 4 : 2);
}

/* Blocks of random bits whose scales are finite. */
static inline void check_random_blocks(enum gp_type t, uint8_t *p, size_t bytes)
{
	const size_t block = gp_type_info(t)->block_bytes;

	for (size_t i = 0; i < bytes; i++)
		p[i] = (uint8_t)check_random();
	for (; bytes; bytes -= block, p += block)
		check_put_scales(t, p, check_uniform() * 0.05f, check_uniform() * 0.05f);
}

/* Bytes that end where an unmapped page begins: reading past them is a fault in
 * every build. */
static inline size_t edge_pages(size_t bytes)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);

	return (bytes + page - 1) / page * page;
}

static inline void *edge_alloc(size_t bytes)
{
	const size_t size = edge_pages(bytes), page = edge_pages(1);
	uint8_t *p = mmap(NULL, size + page, PROT_READ | PROT_WRITE,
	                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(mprotect(p + size, page, PROT_NONE), 0);
	return p + size - bytes;
}

static inline void edge_free(void *p, size_t bytes)
{
	uint8_t *end = (uint8_t *)p + bytes;

	munmap(end - edge_pages(bytes), edge_pages(bytes) + edge_pages(1));
}

/* n floats, poisoned with NaN, off the alignment of vectors, between guards. */
enum { GUARD = 17 };

static inline float *guarded(size_t n)
{
	float *p = malloc((n + 2 * GUARD) * sizeof(float));

	assert_non_null(p);
	memset(p, 0xff, (n + 2 * GUARD) * sizeof(float));
	return p + GUARD;
}

static inline bool guards_intact(const float *p, size_t n)
{
	const unsigned char *low = (const void *)(p - GUARD), *high = (const void *)(p + n);
	bool intact = true;

	for (size_t i = 0; i < GUARD * sizeof(float); i++)
		intact &= low[i] == 0xff && high[i] == 0xff;
	return intact;
}

/* Columns outside [n0, n1) of each row must keep their poison, and the guards. */
static inline void outside_untouched(const float *y, uint32_t rows, size_t stride, uint32_t n0,
                                     uint32_t n1)
{
	for (uint32_t m = 0; m < rows; m++)
		for (size_t n = 0; n < stride; n++) {
			uint32_t bits;

			memcpy(&bits, &y[m * stride + n], sizeof(bits));
			if ((n < n0 || n >= n1) && bits != UINT32_MAX)
				fail_msg("y[%u][%zu] was written, outside [%u, %u)", m, n, n0, n1);
		}
	assert_true(guards_intact(y, rows * stride));
}

static inline void guarded_free(float *p)
{
	free(p - GUARD);
}


/* The instruction sets of this machine above the scalar one. */
enum { MAX_CHECK_SETS = 4 };

static inline int check_sets(struct gp_kernels sets[MAX_CHECK_SETS])
{
	static const unsigned each[MAX_CHECK_SETS] = { GP_CPU_AVX2, GP_CPU_AVX512,
		                                       GP_CPU_AVX512VNNI, GP_CPU_AVX512BF16 };
	int n = 0;

	for (size_t i = 0; i < MAX_CHECK_SETS; i++)
		if (gp_cpu_flags() & each[i]) /* and all those before it */
			gp_kernels_init(&sets[n++], 2 * each[i] - 1);
	return n;
}

#endif

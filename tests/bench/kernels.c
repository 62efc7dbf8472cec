/* Kernels on one thread: for each instruction set of the machine, type and
 * number of rows, GB/s of weights read and GFLOP/s; then attention. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "kernels/kernels.h"

enum { K = 2560, N = 10240, MAX_ROWS = 64, HEAD_DIM = 256, HEADS = 2, POSITIONS = 8192 };

struct buffers {
	float *x, *y, *scratch, *f;
	uint8_t *w;
};

static const struct {
	const char *text;
	unsigned flags;
} sets[] = { { "scalar", 0 }, { "avx2", GP_CPU_AVX2 }, { "avx512", GP_CPU_AVX2 | GP_CPU_AVX512 } };

static const enum gp_type types[] = { GP_TYPE_F32,  GP_TYPE_BF16, GP_TYPE_F16, GP_TYPE_Q8_0,
	                              GP_TYPE_Q4_0, GP_TYPE_Q4_K, GP_TYPE_Q6_K };

static void *take(size_t bytes)
{
	void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

	if (!p) {
		fprintf(stderr, "bench kernels: no memory for %zu bytes\n", bytes);
		exit(1);
	}
	return p;
}

static void fill(float *p, size_t n)
{
	uint32_t s = 1;

	for (size_t i = 0; i < n; i++) {
		s = s * 1664525u + 1013904223u;
		p[i] = (float)(s >> 8) * 0x1p-23f - 1.0f;
	}
}

/* The fastest of a few runs: what the machine can do when nothing disturbs. */
static double matmul_seconds(const struct gp_kernels *k, const struct buffers *b,
                             enum gp_type type, uint32_t rows, uint32_t n)
{
	uint64_t best = UINT64_MAX, start = gp_now_ns();

	for (int run = 0; run < 20 && gp_now_ns() - start < 400000000; run++) {
		const uint64_t t = gp_now_ns();

		k->matmul(b->y, N, b->x, K, rows, b->w, type, K, 0, n, b->scratch);
		const uint64_t took = gp_now_ns() - t;
		best = took < best ? took : best;
	}
	return (double)best * 1e-9;
}

static void bench_matmul(const struct gp_kernels *k, const struct buffers *b, enum gp_type type,
                         bool slow)
{
	static const uint32_t rows[] = { 1, 8, MAX_ROWS };
	const uint32_t n = slow ? N / 16 : N;
	size_t bytes;

	if (gp_type_bytes(type, n, K, &bytes) < 0)
		return;
	for (size_t i = 0; i < GP_ARRAY_LEN(rows); i++) {
		const double s = matmul_seconds(k, b, type, rows[i], n);

		printf("matmul %-8s %-5s rows %2u  %7.2f GB/s  %7.2f GFLOP/s\n", k->name,
		       gp_type_info(type)->name, rows[i], (double)bytes / s * 1e-9,
		       2.0 * K * n * rows[i] / s * 1e-9);
	}
}

/* rows of the 4B model's query group (2 heads), the last of POSITIONS. */
static double attention_seconds(const struct gp_kernels *k, const struct buffers *b,
                                enum gp_type type, uint32_t rows, size_t row_bytes)
{
	const void *blocks[2][POSITIONS / GP_KV_BLOCK];
	const struct gp_attention a = {
		.q = b->x, .out = b->y, .row_stride = HEADS * HEAD_DIM, .rows = rows,
		.heads = HEADS, .pos = POSITIONS - rows, .k = blocks[0], .v = blocks[1],
		.head_dim = HEAD_DIM, .row_bytes = (uint32_t)row_bytes, .kv_type = type,
		.scale = 0.0625f };
	const size_t bytes = gp_attention_state_floats(HEAD_DIM) * GP_ATTENTION_QUERIES * 4;
	float *states = take(bytes), *scratch = take(gp_attention_scratch_floats(HEAD_DIM) * 4);
	uint64_t best = UINT64_MAX;

	for (size_t i = 0; i < POSITIONS / GP_KV_BLOCK; i++) {
		blocks[0][i] = b->w + 2 * i * GP_KV_BLOCK * row_bytes;
		blocks[1][i] = b->w + (2 * i + 1) * GP_KV_BLOCK * row_bytes;
	}
	for (int run = 0; run < 20; run++) {
		const uint64_t t = gp_now_ns();

		memset(states, 0, bytes);
		k->attention(&a, 0, POSITIONS, states, scratch);
		k->attention_out(&a, states);
		const uint64_t took = gp_now_ns() - t;
		best = took < best ? took : best;
	}
	free(states);
	free(scratch);
	return (double)best * 1e-9;
}

static void bench_attention(const struct gp_kernels *k, const struct buffers *b,
                            enum gp_type type)
{
	static const uint32_t rows[] = { 1, 4, GP_ATTENTION_QUERIES / HEADS };
	size_t row;

	if (gp_type_bytes(type, 1, HEAD_DIM, &row) < 0)
		return;
	for (size_t i = 0; i < GP_ARRAY_LEN(rows); i++) {
		const double s = attention_seconds(k, b, type, rows[i], row);

		printf("attention %-8s %-5s rows %2u of %u heads, %u positions of %u: "
		       "%7.2f GB/s  %7.2f GFLOP/s\n", k->name, gp_type_info(type)->name, rows[i],
		       HEADS, POSITIONS, HEAD_DIM, 2.0 * POSITIONS * (double)row / s * 1e-9,
		       4.0 * POSITIONS * HEADS * HEAD_DIM * rows[i] / s * 1e-9);
	}
}

static void bench_set(unsigned flags, const struct buffers *b)
{
	static const enum gp_type kv[] = { GP_TYPE_F32, GP_TYPE_F16, GP_TYPE_Q8_0 };
	struct gp_kernels k;

	gp_kernels_init(&k, flags);
	for (size_t i = 0; i < GP_ARRAY_LEN(types); i++) {
		if (gp_quantize(types[i], b->f, b->w, (size_t)N * K) < 0)
			continue;
		bench_matmul(&k, b, types[i], !flags);
	}
	for (size_t i = 0; i < GP_ARRAY_LEN(kv); i++)
		if (gp_quantize(kv[i], b->f, b->w, (size_t)2 * POSITIONS * HEAD_DIM) == 0)
			bench_attention(&k, b, kv[i]);
}

/* Argument: one of the instruction sets; all without. */
int main(int argc, char **argv)
{
	const struct buffers b = {
		.x = take(sizeof(float) * MAX_ROWS * K), .y = take(sizeof(float) * MAX_ROWS * N),
		.scratch = take(sizeof(float) * 8 * K), .f = take(sizeof(float) * N * K),
		.w = take(sizeof(float) * N * K),
	};

	fill(b.x, (size_t)MAX_ROWS * K);
	fill(b.f, (size_t)N * K);
	for (size_t i = 0; i < GP_ARRAY_LEN(sets); i++)
		if ((sets[i].flags & gp_cpu_flags()) == sets[i].flags &&
		    (argc < 2 || !strcmp(argv[1], sets[i].text)))
			bench_set(sets[i].flags, &b);
	free(b.x);
	free(b.y);
	free(b.scratch);
	free(b.f);
	free(b.w);
	return 0;
}

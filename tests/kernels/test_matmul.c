/* matmul of every instruction set against the scalar reference, and its row
 * invariance. */
#include "tests/kernels/bench.h"

static const enum gp_type float_types[] = { GP_TYPE_F32, GP_TYPE_F16, GP_TYPE_BF16 };
static const enum gp_type block_types[] = { GP_TYPE_Q8_0, GP_TYPE_Q4_0, GP_TYPE_Q4_1,
	                                    GP_TYPE_Q5_0, GP_TYPE_Q5_1, GP_TYPE_Q3_K,
	                                    GP_TYPE_Q4_K, GP_TYPE_Q5_K, GP_TYPE_Q6_K,
	                                    GP_TYPE_IQ4_NL, GP_TYPE_IQ4_XS };

struct problem {
	enum gp_type type;
	uint32_t rows, n, k;
	float *x; /* rows of k, packed */
	uint8_t *w;
	size_t w_bytes; /* with one more at times, which puts w on odd addresses */
	float *scratch;
};

static void weights(struct problem *p, enum check_fill how)
{
	const bool block = gp_type_info(p->type)->block_elems > 1;
	float *values = guarded((size_t)p->n * p->k);
	size_t bytes;

	assert_int_equal(gp_type_bytes(p->type, p->n, p->k, &bytes), 0);
	p->w_bytes = bytes + check_random() % 2;
	p->w = edge_alloc(p->w_bytes);
	/* f16 ends at 65504. */
	check_fill(values, (size_t)p->n * p->k,
	           p->type == GP_TYPE_F16 && how == FILL_HUGE ? FILL_RANDOM : how);
	for (size_t i = 0; p->type == GP_TYPE_F16 && i < (size_t)p->n * p->k; i++)
		values[i] = fmaxf(-6e4f, fminf(6e4f, values[i]));
	if (block)
		check_random_blocks(p->type, p->w, bytes);
	else
		assert_int_equal(gp_quantize(p->type, values, p->w, (size_t)p->n * p->k), 0);
	guarded_free(values);
}

static struct problem problem_open(enum gp_type type, uint32_t rows, uint32_t n, uint32_t k,
                                   enum check_fill how)
{
	struct problem p = { .type = type, .rows = rows, .n = n, .k = k };

	p.x = edge_alloc((size_t)rows * k * sizeof(float));
	p.scratch = aligned_alloc(64, (size_t)k * 8 * sizeof(float) / 64 * 64 + 64);
	assert_non_null(p.scratch);
	check_fill(p.x, (size_t)rows * k, how);
	weights(&p, how);
	return p;
}

static void problem_close(struct problem *p)
{
	edge_free(p->x, (size_t)p->rows * p->k * sizeof(float));
	edge_free(p->w, p->w_bytes);
	free(p->scratch);
}

/* Sum of magnitudes: what the rounding errors of a sum are proportional to. */
static double magnitude(const struct problem *p, uint32_t m, uint32_t n, float *row)
{
	size_t bytes;
	double sum = 0.0;

	assert_int_equal(gp_type_bytes(p->type, n, p->k, &bytes), 0);
	gp_dequantize(p->type, p->w + bytes, row, p->k);
	for (uint32_t i = 0; i < p->k; i++)
		sum += fabs((double)p->x[(size_t)m * p->k + i] * (double)row[i]);
	return sum;
}

static void compare(const struct problem *p, const char *set, const float *want,
                    const float *got, size_t stride)
{
	const double unit = (p->k / 8 + 10) * 6e-8;
	float *row = malloc(p->k * sizeof(float));

	for (uint32_t m = 0; m < p->rows; m++)
		for (uint32_t n = 0; n < p->n; n++) {
			const double tol = unit * magnitude(p, m, n, row) + 1e-37;
			const float a = want[m * stride + n], b = got[m * stride + n];

			if (!(fabs((double)a - (double)b) <= tol))
				fail_msg("%s %s rows %u n %u k %u, y[%u][%u]: %.9g, reference %.9g",
				         set, gp_type_info(p->type)->name, p->rows, p->n, p->k, m,
				         n, (double)b, (double)a);
		}
	free(row);
}

static void check_problem(struct problem *p)
{
	const size_t stride = p->n + 3;
	struct gp_kernels ref, sets[MAX_CHECK_SETS];
	const int n_sets = check_sets(sets);
	float *want = guarded(p->rows * stride);

	gp_kernels_init(&ref, 0);
	ref.matmul(want, stride, p->x, p->k, p->rows, p->w, p->type, p->k, 0, p->n, p->scratch);
	outside_untouched(want, p->rows, stride, 0, p->n);
	for (int s = 0; s < n_sets; s++) {
		float *got = guarded(p->rows * stride), *part = guarded(p->rows * stride);

		sets[s].matmul(got, stride, p->x, p->k, p->rows, p->w, p->type, p->k, 0, p->n,
		               p->scratch);
		outside_untouched(got, p->rows, stride, 0, p->n);
		compare(p, sets[s].name, want, got, stride);
		sets[s].matmul(part, stride, p->x, p->k, p->rows, p->w, p->type, p->k, p->n / 3,
		               p->n - 1, p->scratch);
		outside_untouched(part, p->rows, stride, p->n / 3, p->n - 1);
		guarded_free(got);
		guarded_free(part);
	}
	guarded_free(want);
}

static void floats_match_reference(void **state)
{
	static const uint32_t ks[] = { 1, 5, 8, 15, 16, 17, 31, 48, 63, 100, 257 };

	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(float_types); t++)
		for (size_t i = 0; i < GP_ARRAY_LEN(ks); i++)
			for (int how = 0; how < N_FILLS; how++) {
				const uint32_t rows = 1 + check_random() % 12;
				const uint32_t n = 2 + check_random() % 21;
				struct problem p = problem_open(float_types[t], rows, n, ks[i],
				                                (enum check_fill)how);

				check_problem(&p);
				problem_close(&p);
			}
}

static void blocks_match_reference(void **state)
{
	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(block_types); t++)
		for (int how = 0; how < N_FILLS; how++) {
			const uint32_t block = gp_type_info(block_types[t])->block_elems;
			const uint32_t k = block * (1 + check_random() % 3);
			struct problem p = problem_open(block_types[t], 1 + check_random() % 9,
			                                2 + check_random() % 12, k,
			                                (enum check_fill)how);

			check_problem(&p);
			problem_close(&p);
		}
}

/* The same in pieces: rows [m, m + rows) and odd ranges of columns. */
static void in_pieces(const struct gp_kernels *k, const struct problem *p, uint32_t rows,
                      float *y)
{
	for (uint32_t m = 0, n_rows; m < p->rows; m += n_rows) {
		n_rows = p->rows - m < rows ? p->rows - m : rows;
		for (uint32_t n = 0, width; n < p->n; n += width) {
			width = 1 + check_random() % 19;
			width = p->n - n < width ? p->n - n : width;
			k->matmul(y + (size_t)m * p->n, p->n, p->x + (size_t)m * p->k, p->k,
			          n_rows, p->w, p->type, p->k, n, n + width, p->scratch);
		}
	}
}

static void check_invariance(enum gp_type type, uint32_t k)
{
	struct problem p = problem_open(type, 33, 43, k, FILL_RANDOM);
	struct gp_kernels sets[MAX_CHECK_SETS + 1];
	const int n_sets = check_sets(sets) + 1;
	const size_t n = (size_t)p.rows * p.n;
	float *whole = guarded(n), *pieces = guarded(n);

	gp_kernels_init(&sets[n_sets - 1], 0);
	for (int s = 0; s < n_sets; s++) {
		sets[s].matmul(whole, p.n, p.x, k, p.rows, p.w, type, k, 0, p.n, p.scratch);
		for (uint32_t rows = 1; rows <= p.rows; rows++) {
			memset(pieces, 0xff, n * sizeof(float));
			in_pieces(&sets[s], &p, rows, pieces);
			if (memcmp(whole, pieces, n * sizeof(float)))
				fail_msg("%s %s k %u: %u rows at a time give other bits",
				         sets[s].name, gp_type_info(type)->name, k, rows);
		}
	}
	guarded_free(whole);
	guarded_free(pieces);
	problem_close(&p);
}

static void rows_do_not_depend_on_their_company(void **state)
{
	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(float_types); t++) {
		check_invariance(float_types[t], 85);
		check_invariance(float_types[t], 256);
	}
	for (size_t t = 0; t < GP_ARRAY_LEN(block_types); t++)
		check_invariance(block_types[t], 256);
}

/* More activations than one block of rows in the cache holds. */
static void many_rows(void **state)
{
	struct problem p = problem_open(GP_TYPE_BF16, 131, 9, 2560, FILL_RANDOM);

	(void)state;
	check_problem(&p);
	problem_close(&p);
}

/* ---- speed ------------------------------------------------------------------- */
enum { BENCH_K = 2560, BENCH_N = 10240, BENCH_ROWS = 64 };

struct speed {
	struct gp_kernels k;
	enum gp_type type;
	uint32_t rows, n;
	const float *x;
	const void *w;
	float *y, *scratch;
};

static void run_product(void *arg)
{
	struct speed *s = arg;

	s->k.matmul(s->y, BENCH_N, s->x, BENCH_K, s->rows, s->w, s->type, BENCH_K, 0, s->n,
	            s->scratch);
}

static void bench_rows(const struct gp_kernels *sets, int n_sets, struct speed *s)
{
	double reference = 0;

	for (int i = 0; i < n_sets; i++) {
		s->k = sets[i];
		s->n = i ? BENCH_N : BENCH_N / 256;
		size_t bytes;
		const double seconds = bench_seconds(run_product, s);

		assert_int_equal(gp_type_bytes(s->type, s->n, BENCH_K, &bytes), 0);
		bench_print("matmul", s->k.name, gp_type_info(s->type)->name, s->rows,
		            (double)bytes / seconds * 1e-9,
		            2.0 * s->rows * s->n * BENCH_K / seconds * 1e-9, &reference);
	}
}

static int bench(void)
{
	static const uint32_t rows[] = { 1, 8, BENCH_ROWS };
	struct gp_kernels sets[MAX_CHECK_SETS + 1];
	const int n_sets = check_sets(sets + 1) + 1;
	const size_t n = (size_t)BENCH_N * BENCH_K;
	float *x = bench_alloc(BENCH_ROWS * BENCH_K * sizeof(float));
	float *values = bench_alloc(n * sizeof(float));
	void *w = bench_alloc(n * sizeof(float));
	struct speed s = { .x = x, .w = w, .scratch = bench_alloc(8 * BENCH_K * sizeof(float)),
		           .y = bench_alloc(BENCH_ROWS * BENCH_N * sizeof(float)) };

	gp_kernels_init(&sets[0], 0);
	check_fill(x, BENCH_ROWS * BENCH_K, FILL_RANDOM);
	check_fill(values, n, FILL_RANDOM);
	for (size_t t = 0; t < GP_ARRAY_LEN(float_types); t++) {
		s.type = float_types[t];
		assert_int_equal(gp_quantize(s.type, values, w, n), 0);
		for (size_t r = 0; r < GP_ARRAY_LEN(rows); r++) {
			s.rows = rows[r];
			bench_rows(sets, n_sets, &s);
		}
	}
	free(x);
	free(values);
	free(w);
	free(s.y);
	free(s.scratch);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(floats_match_reference),
		cmocka_unit_test(blocks_match_reference),
		cmocka_unit_test(rows_do_not_depend_on_their_company),
		cmocka_unit_test(many_rows),
	};

	check_seed();
	if (bench_wanted(argc, argv))
		return bench();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

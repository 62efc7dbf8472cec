/* Packed weights and integer products: every instruction set against the
 * scalar reference, and their row invariance. */
#include "tests/kernels/bench.h"

static const enum gp_type types[] = { GP_TYPE_Q4_0, GP_TYPE_Q4_1, GP_TYPE_Q5_0, GP_TYPE_Q5_1,
	                              GP_TYPE_Q8_0, GP_TYPE_Q3_K, GP_TYPE_Q4_K, GP_TYPE_Q5_K,
	                              GP_TYPE_Q6_K, GP_TYPE_IQ4_NL, GP_TYPE_IQ4_XS };

static size_t bytes_of(enum gp_type t, uint32_t rows, uint32_t k)
{
	size_t bytes;

	assert_int_equal(gp_type_bytes(t, rows, k, &bytes), 0);
	return bytes;
}

/* The whole matrix; its memory ends where an unmapped page begins. */
static uint8_t *pack_all(enum gp_type t, uint32_t lanes, const uint8_t *w, uint32_t n, uint32_t k)
{
	const uint32_t groups = (n + lanes - 1) / lanes;
	const size_t row = bytes_of(t, 1, k);
	uint8_t *packed = edge_alloc(groups * lanes * row);

	memset(packed, 0xff, groups * lanes * row);
	for (uint32_t g = 0; g < groups; g++) {
		const uint32_t left = n - g * lanes;

		gp_pack(t, lanes, w + g * lanes * row, left < lanes ? left : lanes, k,
		        packed + g * lanes * row);
	}
	return packed;
}

static void packed_free(enum gp_type t, uint32_t lanes, uint8_t *packed, uint32_t n, uint32_t k)
{
	edge_free(packed, bytes_of(t, (n + lanes - 1) / lanes * lanes, k));
}

static void unpacking_gives_the_file_back(void **state)
{
	static const uint32_t lanes[] = { 1, 8, 16 };

	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++)
		for (size_t l = 0; l < GP_ARRAY_LEN(lanes); l++) {
			const uint32_t n = 19, k = 512;
			const size_t row = bytes_of(types[t], 1, k);
			uint8_t *w = edge_alloc(n * row), *one = edge_alloc(row);

			check_random_blocks(types[t], w, n * row);
			uint8_t *packed = pack_all(types[t], lanes[l], w, n, k);
			for (uint32_t i = 0; i < n; i++) {
				memset(one, 0xff, row);
				gp_unpack_row(types[t], lanes[l],
				              packed + i / lanes[l] * lanes[l] * row, i % lanes[l], k,
				              one);
				assert_memory_equal(one, w + i * row, row);
			}
			packed_free(types[t], lanes[l], packed, n, k);
			edge_free(w, n * row);
			edge_free(one, row);
		}
}

static void types_that_cannot_be_packed(void **state)
{
	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++)
		assert_true(gp_pack_has(types[t]));
	assert_false(gp_pack_has(GP_TYPE_F32));
	assert_false(gp_pack_has(GP_TYPE_F16));
	assert_false(gp_pack_has(GP_TYPE_BF16));
}

/* ---- activations ------------------------------------------------------------- */
static void check_block(const struct gp_q8 *b, const float *x)
{
	int32_t sum[2] = { 0 };
	float most = 0.0f;

	for (int i = 0; i < 32; i++)
		most = fmaxf(most, fabsf(x[i]));
	for (int i = 0; i < 32; i++) {
		assert_in_range(b->q[i] + 127, 0, 254);
		sum[i / 16] += b->q[i];
		if (!(fabsf((float)b->q[i] * b->d - x[i]) <= most * (0.5001f / 127.0f) + 1e-30f))
			fail_msg("x[%d] = %.9g became %d times %.9g", i, (double)x[i], b->q[i],
			         (double)b->d);
	}
	assert_int_equal(b->half8[0], -8 * sum[0]);
	assert_int_equal(b->half8[1], -8 * sum[1]);
	assert_int_equal(b->sum8, -8 * (sum[0] + sum[1]));
}

static void quantized_rows_match_reference(void **state)
{
	struct gp_kernels ref, sets[MAX_CHECK_SETS];
	const int n_sets = check_sets(sets);
	enum { K = 32 * 9 };
	float *x = edge_alloc(K * sizeof(float));
	struct gp_q8 want[9], got[27];

	(void)state;
	gp_kernels_init(&ref, 0);
	for (int how = 0; how < N_FILLS; how++) {
		check_fill(x, K, (enum check_fill)how);
		memset(want, 0xff, sizeof want);
		ref.quantize_q8(want, 1, x, K);
		for (int b = 0; b < 9; b++)
			check_block(&want[b], x + 32 * b);
		for (int s = 0; s < n_sets; s++) {
			memset(got, 0xff, sizeof got);
			sets[s].quantize_q8(got, 3, x, K);
			for (int b = 0; b < 9; b++)
				assert_memory_equal(&got[3 * b], &want[b], sizeof *want);
			assert_int_equal((uint8_t)got[1].q[0], 0xff);
		}
	}
	edge_free(x, K * sizeof(float));
}

static void what_is_not_finite_shows(void **state)
{
	static const float bad[] = { NAN, INFINITY, -INFINITY };
	struct gp_kernels sets[MAX_CHECK_SETS + 1];
	const int n_sets = check_sets(sets) + 1;
	struct gp_q8 q;
	float x[32];

	(void)state;
	gp_kernels_init(&sets[n_sets - 1], 0);
	for (int s = 0; s < n_sets; s++)
		for (size_t b = 0; b < GP_ARRAY_LEN(bad); b++)
			for (size_t at = 0; at < 32; at += 5) {
				check_fill(x, GP_ARRAY_LEN(x), FILL_RANDOM);
				x[at] = bad[b];
				sets[s].quantize_q8(&q, 1, x, 32);
				assert_false(fabsf(q.d) <= 3e38f);
			}
}

/* ---- products ------------------------------------------------------------------ */
struct problem {
	enum gp_type type;
	uint32_t rows, n, k;
	uint8_t *w;
	float *x;
	struct gp_q8 *q;       /* of x, by the reference: the same for all sets */
	size_t q_bytes;
};

static void quantize_all(struct problem *p)
{
	struct gp_kernels ref;

	gp_kernels_init(&ref, 0);
	for (uint32_t m = 0; m < p->rows; m++)
		ref.quantize_q8(p->q + gp_q8_at(m, p->k / 32), gp_q8_stride(m, p->rows),
		                p->x + (size_t)m * p->k, p->k);
}

/* Activations at one end of their range, against quants at theirs: what the
 * 16-bit sums must bear. */
enum { N_WORST = 8 };

static void worst_case(struct problem *p, int which)
{
	static const uint8_t quants[N_WORST / 2] = { 0x00, 0x7f, 0x80, 0xff };
	const size_t bytes = bytes_of(p->type, p->n, p->k);
	const size_t block = gp_type_info(p->type)->block_bytes;

	memset(p->w, quants[which / 2], bytes);
	for (size_t i = 0; i < bytes; i += block)
		check_put_scales(p->type, p->w + i, 1.0f, 1.0f);
	for (size_t i = 0; i < (size_t)p->rows * p->k; i++)
		p->x[i] = which % 2 ? 1.0f : -1.0f;
}

static struct problem problem_open(enum gp_type type, uint32_t rows, uint32_t n, uint32_t k,
                                   int how)
{
	struct problem p = { .type = type, .rows = rows, .n = n, .k = k };

	p.x = malloc((size_t)rows * k * sizeof(float));
	p.w = malloc(bytes_of(type, n, k));
	p.q_bytes = (size_t)rows * (k / 32) * sizeof(struct gp_q8);
	p.q = edge_alloc(p.q_bytes);
	assert_true(p.x && p.w);
	check_random_blocks(type, p.w, bytes_of(type, n, k));
	if (how >= N_FILLS)
		worst_case(&p, how - N_FILLS);
	else
		check_fill(p.x, (size_t)rows * k, (enum check_fill)how);
	quantize_all(&p);
	return p;
}

static void problem_close(struct problem *p)
{
	edge_free(p->q, p->q_bytes);
	free(p->x);
	free(p->w);
}

/* What the rounding errors of a sum are proportional to. A scale and a minimum
 * may cancel: then the largest value of 32 tells of their size. */
static double magnitude(const struct problem *p, uint32_t m, uint32_t n, float *row)
{
	double sum = 0.0;

	gp_dequantize(p->type, p->w + bytes_of(p->type, 1, p->k) * n, row, p->k);
	for (uint32_t i = 0; i < p->k; i += 32) {
		const struct gp_q8 *q = p->q + gp_q8_at(m, p->k / 32) +
		                        i / 32 * gp_q8_stride(m, p->rows);
		float most = 0.0f, all = 0.0f;

		for (uint32_t j = 0; j < 32; j++) {
			most = fmaxf(most, fabsf(row[i + j]));
			all += fabsf((float)q->q[j] * q->d);
		}
		sum += 4.0 * (double)most * (double)all;
	}
	return sum;
}

static void compare(const struct problem *p, const char *set, const float *want,
                    const float *got, size_t stride)
{
	float *row = malloc(p->k * sizeof(float));

	for (uint32_t m = 0; m < p->rows; m++)
		for (uint32_t n = 0; n < p->n; n++) {
			const double tol = (p->k / 32 + 8) * 6e-8 * magnitude(p, m, n, row) + 1e-37;
			const float a = want[m * stride + n], b = got[m * stride + n];

			if (!(fabs((double)a - (double)b) <= tol))
				fail_msg("%s %s rows %u n %u k %u, y[%u][%u]: %.9g, reference %.9g, "
				         "tolerance %.3g", set, gp_type_info(p->type)->name, p->rows,
				         p->n, p->k, m, n, (double)b, (double)a, tol);
		}
	free(row);
}

/* Outputs [n0, n1) of the problem in guarded memory. */
static float *product(const struct gp_kernels *k, const struct problem *p, size_t stride,
                      uint32_t n0, uint32_t n1)
{
	uint8_t *packed = pack_all(p->type, k->lanes, p->w, p->n, p->k);
	float *y = guarded(p->rows * stride);

	k->matmul_packed(y, stride, p->q, p->rows, packed, p->type, p->k, n0, n1);
	outside_untouched(y, p->rows, stride, n0, n1);
	packed_free(p->type, k->lanes, packed, p->n, p->k);
	return y;
}

static void check_problem(const struct problem *p)
{
	const size_t stride = p->n + 3;
	struct gp_kernels ref, sets[MAX_CHECK_SETS];
	const int n_sets = check_sets(sets);

	gp_kernels_init(&ref, 0);
	float *want = product(&ref, p, stride, 0, p->n);
	for (int s = 0; s < n_sets; s++) {
		float *got = product(&sets[s], p, stride, 0, p->n);

		compare(p, sets[s].name, want, got, stride);
		guarded_free(got);
		if (p->n > sets[s].lanes)
			guarded_free(product(&sets[s], p, stride, sets[s].lanes, p->n));
		if (p->n > 2 * sets[s].lanes)
			guarded_free(product(&sets[s], p, stride, sets[s].lanes,
			                     2 * sets[s].lanes));
	}
	guarded_free(want);
}

static void products_match_reference(void **state)
{
	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++)
		for (int how = 0; how < N_FILLS + N_WORST; how++)
			for (int turn = 0; turn < 2; turn++) {
				const uint32_t block = gp_type_info(types[t])->block_elems;
				struct problem p = problem_open(types[t], 1 + check_random() % 37,
				                                1 + check_random() % 50,
				                                block * (1 + check_random() % 5), how);

				check_problem(&p);
				problem_close(&p);
			}
}

/* More than one panel of k, and more rows than meet the weights at once. */
static void large_products(void **state)
{
	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++) {
		struct problem p = problem_open(types[t], 131 + check_random() % 32, 17, 6912,
		                                FILL_RANDOM);

		check_problem(&p);
		problem_close(&p);
	}
}

/* ---- row invariance --------------------------------------------------------------- */
/* rows rows at a time, odd ranges of groups. */
static void in_pieces(const struct gp_kernels *k, const struct problem *p, const uint8_t *packed,
                      uint32_t rows, float *y)
{
	struct problem part = *p;

	part.q = malloc(p->q_bytes);
	for (uint32_t m = 0; m < p->rows; m += part.rows) {
		part.rows = p->rows - m < rows ? p->rows - m : rows;
		part.x = p->x + (size_t)m * p->k;
		quantize_all(&part);
		for (uint32_t n = 0, end; n < p->n; n = end) {
			end = n + k->lanes * (1 + check_random() % 3);
			end = end < p->n ? end : p->n;
			k->matmul_packed(y + (size_t)m * p->n, p->n, part.q, part.rows, packed,
			                 p->type, p->k, n, end);
		}
	}
	free(part.q);
}

static void check_invariance(const struct problem *p)
{
	const size_t n = (size_t)p->rows * p->n;
	struct gp_kernels sets[MAX_CHECK_SETS];
	const int n_sets = check_sets(sets);

	for (int s = 0; s < n_sets; s++) {
		uint8_t *packed = pack_all(p->type, sets[s].lanes, p->w, p->n, p->k);
		float *whole = product(&sets[s], p, p->n, 0, p->n), *pieces = guarded(n);

		for (uint32_t rows = 1; rows <= p->rows; rows += rows < 20 ? 1 : 37) {
			memset(pieces, 0xff, n * sizeof(float));
			in_pieces(&sets[s], p, packed, rows, pieces);
			if (memcmp(whole, pieces, n * sizeof(float)))
				fail_msg("%s %s k %u: %u rows at a time give other bits",
				         sets[s].name, gp_type_info(p->type)->name, p->k, rows);
		}
		packed_free(p->type, sets[s].lanes, packed, p->n, p->k);
		guarded_free(whole);
		guarded_free(pieces);
	}
}

static void rows_do_not_depend_on_their_company(void **state)
{
	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++) {
		struct problem p = problem_open(types[t], 33, 43, 512, FILL_RANDOM);

		check_invariance(&p);
		problem_close(&p);
		p = problem_open(types[t], 140, 16, 4608, FILL_HUGE);
		check_invariance(&p);
		problem_close(&p);
	}
}

/* ---- speed -------------------------------------------------------------------------- */
enum { BENCH_K = 5376, BENCH_N = 10752, BENCH_ROWS = 512, SCALAR_SHARE = 1024 };

struct speed {
	struct gp_kernels k;
	enum gp_type type;
	uint32_t rows, n;
	const struct gp_q8 *x;
	const uint8_t *w;
	float *y;
};

static void run_product(void *arg)
{
	struct speed *s = arg;

	s->k.matmul_packed(s->y, BENCH_N, s->x, s->rows, s->w, s->type, BENCH_K, 0, s->n);
}

/* The scalar set on a part of the matrix, many rows on a part, too. */
static uint32_t bench_columns(const struct gp_kernels *k, uint32_t rows)
{
	if (k->lanes == 1)
		return rows > 8 ? 1 : BENCH_N / SCALAR_SHARE;
	return rows > 64 ? BENCH_N / 8 : BENCH_N;
}

static void bench_rows(struct gp_kernels *sets, int n_sets, struct speed *s)
{
	double reference = 0;

	for (int i = 0; i < n_sets; i++) {
		s->k = sets[i];
		s->n = bench_columns(&s->k, s->rows);
		const double seconds = bench_seconds(run_product, s);
		const double bytes = (double)bytes_of(s->type, s->n, BENCH_K);

		bench_print("packed", s->k.name, gp_type_info(s->type)->name, s->rows,
		            bytes / seconds * 1e-9,
		            2.0 * s->rows * s->n * BENCH_K / seconds * 1e-9, &reference);
	}
}

static int bench(void)
{
	static const uint32_t rows[] = { 1, 2, 4, 8, 16, 32, 512 };
	struct gp_kernels sets[MAX_CHECK_SETS + 1];
	const int n_sets = check_sets(sets + 1) + 1;
	const size_t w_bytes = bytes_of(GP_TYPE_Q8_0, BENCH_N, BENCH_K);
	float *x = bench_alloc((size_t)BENCH_ROWS * BENCH_K * sizeof(float));
	uint8_t *w = bench_alloc(w_bytes);
	struct speed s = { .w = w, .y = bench_alloc((size_t)BENCH_ROWS * BENCH_N * sizeof(float)) };
	struct problem p = { .k = BENCH_K, .x = x };

	gp_kernels_init(&sets[0], 0);
	check_fill(x, (size_t)BENCH_ROWS * BENCH_K, FILL_RANDOM);
	p.q = bench_alloc((size_t)BENCH_ROWS * BENCH_K / 32 * sizeof(*p.q));
	s.x = p.q;
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++) {
		/* Packed bytes of any rows are as good; their scales are finite. */
		for (size_t i = 0; i < w_bytes; i++)
			w[i] = (uint8_t)(check_random() & (i % 2 ? 0x3b : 0xff));
		for (size_t r = 0; r < GP_ARRAY_LEN(rows); r++) {
			s.type = types[t];
			p.rows = s.rows = rows[r];
			quantize_all(&p);
			bench_rows(sets, n_sets, &s);
		}
	}
	free(x);
	free(w);
	free(s.y);
	free(p.q);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unpacking_gives_the_file_back),
		cmocka_unit_test(types_that_cannot_be_packed),
		cmocka_unit_test(quantized_rows_match_reference),
		cmocka_unit_test(what_is_not_finite_shows),
		cmocka_unit_test(products_match_reference),
		cmocka_unit_test(large_products),
		cmocka_unit_test(rows_do_not_depend_on_their_company),
	};

	check_seed();
	if (bench_wanted(argc, argv))
		return bench();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The best of a row against a sort of the whole row: ties, what is not finite,
 * every k, every cut among threads, every instruction set. */
#include "tests/kernels/bench.h"

#define MOST_PARTS 9u
#define BENCH_VOCAB 262144u

static struct gp_kernels sets[MAX_CHECK_SETS + 1]; /* the scalar one first */
static int n_sets;

static int by_rank(const void *a, const void *b)
{
	const struct gp_candidate *p = a, *q = b;
	const bool x = !isfinite(p->logit), y = !isfinite(q->logit);

	if (x != y)
		return x ? -1 : 1;
	if (!x && (p->logit > q->logit || p->logit < q->logit))
		return p->logit > q->logit ? -1 : 1;
	return p->id < q->id ? -1 : p->id > q->id;
}

static struct gp_candidate *sorted(const float *row, uint32_t n)
{
	struct gp_candidate *c = malloc(n * sizeof *c);

	assert_non_null(c);
	for (uint32_t i = 0; i < n; i++)
		c[i] = (struct gp_candidate){ row[i], i };
	qsort(c, n, sizeof *c, by_rank);
	return c;
}

/* As threads do it: each the best of its part, then all of them together. */
static uint32_t best_of_parts(const struct gp_kernels *k, const float *row, uint32_t n,
                              uint32_t parts, uint32_t most, struct gp_candidate *out)
{
	struct gp_candidate room[GP_MAX_CANDIDATES];
	struct gp_best all = { .c = out, .most = most };

	for (uint32_t p = 0; p < parts; p++) {
		struct gp_best part = { .c = room, .most = most };

		gp_best_scan(&part, k, row, n * p / parts, n * (p + 1) / parts);
		for (uint32_t i = 0; i < part.n; i++)
			gp_best_add(&all, room[i]);
	}
	gp_best_sort(&all);
	return all.n;
}

static void check_row(const float *row, uint32_t n)
{
	struct gp_candidate *want = sorted(row, n), got[GP_MAX_CANDIDATES];

	for (int s = 0; s < n_sets; s++)
		for (uint32_t most = 1; most <= GP_MAX_CANDIDATES; most += most < 5 ? 1 : 1 + most / 3) {
			const uint32_t k = most < n ? most : n, parts = 1 + most % MOST_PARTS;

			assert_int_equal(best_of_parts(&sets[s], row, n, parts, most, got), k);
			assert_memory_equal(got, want, k * sizeof *got);
		}
	free(want);
}

static void against_a_sort(void **state)
{
	static const uint32_t sizes[] = { 1, 7, 64, 300, 5003 };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(sizes); i++)
		for (enum check_fill how = 0; how < N_FILLS; how++) {
			const size_t bytes = sizes[i] * sizeof(float);
			float *row = edge_alloc(bytes);

			check_fill(row, sizes[i], how);
			check_row(row, sizes[i]);
			edge_free(row, bytes);
		}
}

static void every_k(void **state)
{
	static float row[2000];
	struct gp_candidate got[GP_MAX_CANDIDATES], *want;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(row); i++)
		row[i] = (float)(check_random() % 40); /* many ties */
	want = sorted(row, GP_ARRAY_LEN(row));
	for (uint32_t k = 1; k <= GP_MAX_CANDIDATES; k++) {
		assert_int_equal(best_of_parts(&sets[n_sets - 1], row, GP_ARRAY_LEN(row), 3, k, got), k);
		assert_memory_equal(got, want, k * sizeof *got);
	}
	free(want);
}

/* The order in which they are added is of no account: largest first, last. */
static void sorted_rows(void **state)
{
	static float row[1000];

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(row); i++)
		row[i] = (float)i;
	check_row(row, GP_ARRAY_LEN(row));
	for (size_t i = 0; i < GP_ARRAY_LEN(row); i++)
		row[i] = -(float)i;
	check_row(row, GP_ARRAY_LEN(row));
}

/* One value that is not finite, anywhere: it comes first, whatever k. */
static void nothing_broken_is_lost(void **state)
{
	const float broken[] = { NAN, -NAN, INFINITY, -INFINITY };
	float row[203];

	(void)state;
	check_fill(row, GP_ARRAY_LEN(row), FILL_RANDOM);
	for (uint32_t at = 0; at < GP_ARRAY_LEN(row); at++) {
		const float was = row[at];

		row[at] = broken[at % 4];
		for (int s = 0; s < n_sets; s++)
			for (uint32_t k = 1; k < 9; k += 7) {
				struct gp_candidate got[8];

				best_of_parts(&sets[s], row, GP_ARRAY_LEN(row), 1 + at % 5, k, got);
				assert_int_equal(got[0].id, at);
				assert_memory_equal(&got[0].logit, &row[at], sizeof(float));
			}
		row[at] = was;
	}
	for (uint32_t at = 3; at < GP_ARRAY_LEN(row); at += 1 + check_random() % 3)
		row[at] = broken[at % 4];
	check_row(row, GP_ARRAY_LEN(row));
}

static void find_outside(void **state)
{
	const float bad[] = { NAN, 1.5f, -1.5f, INFINITY, -INFINITY };

	(void)state;
	for (uint32_t n = 0; n < 150; n++) {
		float *x = edge_alloc((n + 1) * sizeof(float));

		for (uint32_t i = 0; i <= n; i++)
			x[i] = i % 2 ? 1.0f : -1.0f; /* the bounds themselves are inside */
		x[n] = bad[n % GP_ARRAY_LEN(bad)];
		for (int s = 0; s < n_sets; s++)
			for (uint32_t first = 0; first <= n; first++) {
				assert_int_equal(sets[s].find_outside(x, first, n, -1, 1), n);
				assert_int_equal(sets[s].find_outside(x, first, n + 1, -1, 1), n);
			}
		edge_free(x, (n + 1) * sizeof(float));
	}
}

struct bench {
	const struct gp_kernels *k;
	float *row;
	struct gp_best best;
};

static void bench_run(void *arg)
{
	struct bench *b = arg;

	b->best.n = 0;
	gp_best_scan(&b->best, b->k, b->row, 0, BENCH_VOCAB);
	gp_best_sort(&b->best);
}

static void bench(void)
{
	static const uint32_t most[] = { 1, 64, 256 };
	struct gp_candidate room[GP_MAX_CANDIDATES];
	struct bench b = { .row = bench_alloc(BENCH_VOCAB * sizeof(float)) };

	check_fill(b.row, BENCH_VOCAB, FILL_RANDOM);
	for (size_t i = 0; i < GP_ARRAY_LEN(most); i++) {
		double reference = 0;

		for (int s = 0; s < n_sets; s++) {
			char what[24];

			b.k = &sets[s];
			b.best = (struct gp_best){ .c = room, .most = most[i] };
			const double seconds = bench_seconds(bench_run, &b);
			snprintf(what, sizeof what, "best %u", most[i]);
			bench_print(what, sets[s].name, "F32", 1, BENCH_VOCAB * 4e-9 / seconds,
			            BENCH_VOCAB * 1e-9 / seconds, &reference);
		}
	}
	free(b.row);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(find_outside), cmocka_unit_test(against_a_sort),
		cmocka_unit_test(every_k), cmocka_unit_test(sorted_rows),
		cmocka_unit_test(nothing_broken_is_lost),
	};

	check_seed();
	gp_kernels_init(&sets[0], 0);
	n_sets = 1 + check_sets(sets + 1);
	if (bench_wanted(argc, argv)) {
		bench();
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

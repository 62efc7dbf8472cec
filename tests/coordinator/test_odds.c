/* When guesses are worth their rows, on devices of known speed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "coordinator/odds.h"

enum { MOST = 15 };

/* Where weights are what takes time, and where rows are. */
static uint64_t reads(uint32_t rows)
{
	return 1000000u + rows * 20000u;
}

static uint64_t computes(uint32_t rows)
{
	return rows * 1000000u;
}

/* Up to 8 rows for little, each one after that in full. */
static uint64_t reads_then_computes(uint32_t rows)
{
	return rows <= 8 ? reads(rows) : reads(8) + (rows - 8) * 1000000u;
}

struct text {
	double rate;            /* of guesses that are right */
	uint64_t random;
};

static bool is_right(struct text *t)
{
	t->random = t->random * 6364136223846793005u + 1442695040888963407u;
	return (double)(t->random >> 11) * 0x1p-53 < t->rate;
}

struct life {
	double tokens, ns, guesses; /* of the last steps */
};

/* n sequences side by side, each with guesses that are right so often. */
static struct life live(uint64_t (*took)(uint32_t), const double *rates, uint32_t n, int steps)
{
	struct gp_step_costs c = { 0 };
	struct gp_odds odds[64];
	struct text texts[64];
	struct life life = { 0 };

	for (uint32_t i = 0; i < n; i++) {
		gp_odds_init(&odds[i]);
		texts[i] = (struct text){ rates[i], i * 77 + 1 };
	}
	for (int step = 0; step < 2 * steps; step++) {
		struct gp_bet bets[64];
		uint32_t rows = n;

		for (uint32_t i = 0; i < n; i++)
			bets[i] = (struct gp_bet){ .rate = odds[i].rate[GP_GUESS_LONG], .offered = MOST };
		gp_bets_place(&c, bets, n, 32);
		for (uint32_t i = 0; i < n; i++) {
			uint32_t k = 0;

			rows += bets[i].taken;
			assert_true(bets[i].taken <= MOST);
			for (bool right = true; right && k < bets[i].taken; k += right) {
				right = is_right(&texts[i]);
				gp_odds_learn(&odds[i], GP_GUESS_LONG, right);
			}
			life.tokens += k + 1;
			if (k == bets[i].taken)
				gp_odds_forget(&odds[i], GP_GUESS_LONG);
		}
		assert_true(rows <= 32 || n >= 32);
		gp_costs_learn(&c, rows, took(rows));
		life.ns += (double)took(rows);
		life.guesses += rows - n;
		/* Half of the steps to learn. */
		if (step == steps - 1)
			life = (struct life){ 0 };
	}
	life.guesses /= steps;
	return life;
}

static double speedup(uint64_t (*took)(uint32_t), double rate, uint32_t n)
{
	double rates[64];

	for (uint32_t i = 0; i < n; i++)
		rates[i] = rate;
	const struct life l = live(took, rates, n, 2000);
	return l.tokens / l.ns * (double)took(n) / n;
}

static void test_pays(void **state)
{
	(void)state;
	assert_true(speedup(reads, 1, 1) > 10);
	assert_true(speedup(reads, 0.9, 1) > 5);
	assert_true(speedup(reads, 0.5, 1) > 1.7);
	assert_true(speedup(reads_then_computes, 1, 1) > 5.5);
	assert_true(speedup(reads, 0.9, 4) > 3);
}

/* Nothing, where guesses are wrong, rows cost as much as steps, or there is no room. */
static void test_costs_nothing(void **state)
{
	(void)state;
	assert_true(speedup(reads, 0, 1) > 0.995);
	assert_true(speedup(reads_then_computes, 0, 8) > 0.99);
	assert_true(speedup(computes, 0, 1) > 0.985);
	assert_true(speedup(computes, 0.9, 1) > 0.985);
	assert_true(speedup(computes, 0.9, 16) > 0.985);
	assert_true(speedup(reads_then_computes, 0.5, 8) > 0.985);
	assert_true(fabs(speedup(reads, 1, 32) - 1) < 1e-9);
}

/* Rows go to whom they serve. */
static void test_the_likelier_first(void **state)
{
	struct gp_step_costs c = { 0 };
	struct gp_bet bets[] = { { .rate = 0.1, .offered = 15 }, { .rate = 0.95, .offered = 15 },
				 { .rate = 0.95, .offered = 2 } };

	(void)state;
	for (uint32_t rows = 1; rows <= 20; rows++)
		gp_costs_learn(&c, rows, reads_then_computes(rows));
	gp_bets_place(&c, bets, 3, 32);
	assert_int_equal(bets[0].taken, 0);
	assert_int_equal(bets[1].taken, 3);
	assert_int_equal(bets[2].taken, 2);
	gp_bets_place(&c, bets, 3, 4);
	assert_int_equal(bets[0].taken + bets[1].taken + bets[2].taken, 1);
	gp_bets_place(&c, bets, 3, 3);
	assert_int_equal(bets[0].taken + bets[1].taken + bets[2].taken, 0);
}

static void test_depth(void **state)
{
	struct gp_step_costs c = { 0 };
	struct gp_bet bets[] = { { .rate = 0.8 }, { .rate = 0.8 } };

	(void)state;
	assert_int_equal(gp_bets_depth(&c, bets, 1, 32, 0, 8), 0); /* nothing is known */
	for (uint32_t rows = 1; rows <= 20; rows++)
		gp_costs_learn(&c, rows, reads(rows));
	assert_int_equal(gp_bets_depth(&c, bets, 1, 32, 0, 8), 8);
	assert_in_range(gp_bets_depth(&c, bets, 1, 32, 200000, 8), 2, 5);
	assert_int_equal(gp_bets_depth(&c, bets, 1, 32, 900000, 8), 0);
	assert_in_range(gp_bets_depth(&c, bets, 2, 7, 0, 8), 1, 2);
	assert_int_equal(gp_bets_depth(&c, bets, 2, 3, 0, 8), 0);
}

/* One step that was disturbed, or a device that became another. */
static void test_costs_drift(void **state)
{
	struct gp_step_costs c = { 0 };

	(void)state;
	assert_true(gp_costs_of(&c, 3) == 0);
	gp_costs_learn(&c, 2, 1000);
	gp_costs_learn(&c, 2, 1000000);
	assert_true(gp_costs_of(&c, 2) < 1500);
	for (int i = 0; i < 40; i++)
		gp_costs_learn(&c, 2, 3000);
	assert_true(fabs(gp_costs_of(&c, 2) - 3000) < 50);
	gp_costs_learn(&c, 6, 5000);
	assert_true(fabs(gp_costs_of(&c, 4) - 4000) < 50);
	assert_true(gp_costs_of(&c, 10) > gp_costs_of(&c, 6));
	/* What is old is tried again. */
	for (int i = 0; i < 600; i++)
		gp_costs_learn(&c, 2, 3000);
	assert_true(gp_costs_of(&c, 6) < 4500);
	gp_costs_learn(&c, 0, 1);
	gp_costs_learn(&c, GP_ODDS_ROWS + 1, 1);
}

/* Given up, and tried again after some time. */
static void test_tries_again(void **state)
{
	struct gp_odds o;
	int tokens = 0;

	(void)state;
	gp_odds_init(&o);
	for (int i = 0; i < 100; i++)
		gp_odds_learn(&o, GP_GUESS_LONG, false);
	assert_true(o.rate[GP_GUESS_LONG] < 0.001);
	for (; o.rate[GP_GUESS_LONG] < 0.05; tokens++)
		gp_odds_forget(&o, GP_GUESS_LONG);
	assert_in_range(tokens, 100, 200);
	for (int i = 0; i < 20; i++)
		gp_odds_learn(&o, GP_GUESS_LONG, true);
	assert_true(o.rate[GP_GUESS_LONG] > 0.9);
	assert_int_equal(gp_odds_kind(2), GP_GUESS_SHORT);
	assert_int_equal(gp_odds_kind(16), GP_GUESS_LONG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pays), cmocka_unit_test(test_costs_nothing),
		cmocka_unit_test(test_the_likelier_first), cmocka_unit_test(test_depth),
		cmocka_unit_test(test_costs_drift), cmocka_unit_test(test_tries_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

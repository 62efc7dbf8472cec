/* Which type each matrix gets, against trying all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <time.h>

#include "base/base.h"
#include "quantize/quantize.h"

#define MINI "models/gemma3-mini/gemma3-mini-bf16.gguf"

static uint64_t state;

static uint32_t any(void)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(state >> 32);
}

enum { ITEMS = 6, CHOICES = 4, ALL = 4096 };

static double cost_of(const struct gp_item *it, const uint32_t *chosen, uint64_t *bytes)
{
	double cost = 0;

	*bytes = 0;
	for (int i = 0; i < ITEMS; i++) {
		cost += it[i].choice[chosen[i]].cost;
		*bytes += it[i].choice[chosen[i]].bytes;
	}
	return cost;
}

static double cheapest(const struct gp_item *it, uint64_t budget)
{
	double best = INFINITY;

	for (int n = 0; n < ALL; n++) {
		uint32_t chosen[ITEMS];
		uint64_t bytes;
		double cost;

		for (int i = 0; i < ITEMS; i++)
			chosen[i] = (uint32_t)(n >> 2 * i) % CHOICES;
		cost = cost_of(it, chosen, &bytes);
		if (bytes <= budget && cost < best)
			best = cost;
	}
	return best;
}

/* Never above the budget, and not worse than the best by more than the dearest step. */
static void choices_are_near_the_best(void **s)
{
	double worst = 0;

	(void)s;
	state = (uint64_t)time(NULL);
	print_message("seed %llu\n", (unsigned long long)state);
	for (int round = 0; round < 300; round++) {
		struct gp_choice c[ITEMS][CHOICES];
		struct gp_item it[ITEMS];
		uint32_t chosen[ITEMS];
		uint64_t least = 0, most = 0, bytes, budget;
		double got, want, step = 0;

		for (int i = 0; i < ITEMS; i++) {
			for (uint32_t k = 0; k < CHOICES; k++)
				c[i][k] = (struct gp_choice){ GP_TYPE_Q8_0, 100 + any() % 100 + 80 * k,
				                              (double)(any() % 1000) / pow(4, k) };
			it[i] = (struct gp_item){ c[i], CHOICES, 0 };
			for (uint32_t k = 0; k < CHOICES; k++)
				step = fmax(step, c[i][k].cost);
			least += 180;
			most += 440;
		}
		budget = least + any() % (most - least);
		if (gp_knapsack(it, ITEMS, budget) < 0) {
			assert_true(isinf(cheapest(it, budget)));
			continue;
		}
		for (int i = 0; i < ITEMS; i++)
			chosen[i] = it[i].chosen;
		got = cost_of(it, chosen, &bytes);
		want = cheapest(it, budget);
		assert_true(bytes <= budget && got >= want - 1e-9);
		assert_true(got <= want + step);
		worst += got - want;
	}
	print_message("on average %.1f above the best\n", worst / 300);
}

static void a_budget_too_small_is_refused(void **s)
{
	const struct gp_choice c = { GP_TYPE_Q8_0, 100, 1 };
	struct gp_item it = { &c, 1, 0 };

	(void)s;
	assert_int_equal(gp_knapsack(&it, 1, 99), -ENOSPC);
	assert_int_equal(gp_knapsack(&it, 1, 100), 0);
}

/* Of a real model: within the budget and close to it; more bytes never cost more. */
static void budgets_are_kept(void **s)
{
	struct gp_calibration c;
	struct gp_model *m;

	(void)s;
	assert_int_equal(gp_model_open(&m, MINI), 0);
	assert_int_equal(gp_calibration_init(&c, m), 0);
	for (size_t i = 0; i < c.n; i++)
		for (size_t k = 0; k < GP_COST_TYPES; k++)
			c.matrix[i].cost[k] = (double)(i + 1) / (double)(k + 1);
	for (int with = 0; with < 2; with++) {
		double last = INFINITY;

		for (double bits = 3.5; bits < 9; bits += 0.25) {
			struct gp_recipe r;
			const uint64_t parameters = 15480064;
			const uint64_t budget = (uint64_t)(bits / 8 * (double)parameters);

			assert_int_equal(gp_recipe_budget(&r, m, budget, with ? &c : NULL, NULL), 0);
			assert_int_equal(r.parameters, parameters);
			assert_true(r.bytes <= budget);
			assert_true(bits > 8.4 || (double)r.bytes > 0.98 * (double)budget);
			assert_true(with ? r.cost <= last : isnan(r.cost));
			last = r.cost;
			gp_recipe_free(&r);
		}
	}
	struct gp_recipe r;

	assert_int_equal(gp_recipe_budget(&r, m, 1000, &c, NULL), -ENOSPC);
	gp_calibration_free(&c);
	gp_model_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(choices_are_near_the_best),
		cmocka_unit_test(a_budget_too_small_is_refused),
		cmocka_unit_test(budgets_are_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

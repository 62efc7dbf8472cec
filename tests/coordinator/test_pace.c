/* Prompt chunks beside rows in decode, against a device that takes 10 ms for any step
 * and 0.1 ms more for each prompt row. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "coordinator/pace.h"

static uint64_t took(uint32_t prefill)
{
	return 10000000u + prefill * 100000u;
}

/* The last of n steps that carry what they may. */
static uint32_t settle(struct gp_pace *p, uint64_t max_ns, int n)
{
	uint32_t rows = 0, most = 0;

	for (int i = 0; i < n; i++) {
		rows = gp_pace_rows(p, max_ns);
		rows = rows < 512 ? rows : 512;
		gp_pace_learn(p, 4, rows, took(rows));
		most = rows ? rows : most;
	}
	return most;
}

static void test_stays_within(void **state)
{
	struct gp_pace p = { 0 };

	(void)state;
	assert_in_range(took(settle(&p, 20000000u, 30)), 15000000u, 20000000u);
	assert_in_range(took(settle(&p, 50000000u, 30)), 45000000u, 50000000u);
	/* By itself: as long as nobody minds. */
	assert_in_range(took(settle(&p, 0, 30)), 35000000u, 40000000u);
}

/* By itself, where steps are long anyway: twice what one takes without. */
static void test_slow_steps(void **state)
{
	struct gp_pace p = { 0 };
	uint32_t rows = 0;

	(void)state;
	for (int i = 0; i < 30; i++) {
		rows = gp_pace_rows(&p, 0) < 512 ? gp_pace_rows(&p, 0) : 512;
		gp_pace_learn(&p, 4, rows, 70000000u + rows * 1000000u);
	}
	assert_int_equal(rows, 64);
}

static void test_prompts_always_get_on(void **state)
{
	struct gp_pace p = { 0 };

	(void)state;
	assert_int_equal(settle(&p, 1, 30), 16);
}

/* A step of nothing but decode comes first, and again and again. */
static void test_looks_again(void **state)
{
	struct gp_pace p = { 0 };
	int none = 0;

	(void)state;
	assert_int_equal(gp_pace_rows(&p, 20000000u), 0);
	for (int i = 0; i < 300; i++) {
		const uint32_t rows = gp_pace_rows(&p, 20000000u);

		gp_pace_learn(&p, 4, rows < 512 ? rows : 512, took(rows < 512 ? rows : 512));
		none += !rows;
	}
	assert_in_range(none, 4, 6);
	/* What prompts alone take is none of decode's business. */
	gp_pace_learn(&p, 0, 512, took(512));
	assert_int_not_equal(gp_pace_rows(&p, 20000000u), 0);
}

static void test_follows_a_slower_device(void **state)
{
	struct gp_pace p = { 0 };

	(void)state;
	settle(&p, 20000000u, 30);
	for (int i = 0; i < 30; i++)
		gp_pace_learn(&p, 4, 16, 10000000u + 16 * 1000000u);
	assert_int_equal(gp_pace_rows(&p, 20000000u), 16);
	assert_int_equal(gp_pace_rows(&p, 60000000u), 48);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stays_within), cmocka_unit_test(test_slow_steps),
		cmocka_unit_test(test_prompts_always_get_on),
		cmocka_unit_test(test_looks_again), cmocka_unit_test(test_follows_a_slower_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

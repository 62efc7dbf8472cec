/* Sequences dealt into steps, on devices where the one or the other way is better. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "coordinator/deal.h"

/* Percent of the rounds in which 8 sequences were split; a round of tokens takes one_ns in
 * one step, two_ns in two. */
static unsigned percent_split(struct gp_deal *d, uint64_t one_ns, uint64_t two_ns)
{
	enum { ROUNDS = 2000 };
	static uint64_t now = 1;
	unsigned split = 0;

	for (int i = 0; i < ROUNDS; i++) {
		const bool two = d->split;

		split += two;
		for (int part = 0; part <= two; part++) {
			now += two ? two_ns / 2 : one_ns;
			gp_deal_learn(d, 8, two ? 4 : 8, false, now);
		}
	}
	return split * 100 / ROUNDS;
}

static void test_finds_the_better_way(void **state)
{
	struct gp_deal d = { 0 };

	(void)state;
	assert_in_range(percent_split(&d, 1000, 1500), 1, 4);
	/* The device has become another. */
	assert_in_range(percent_split(&d, 1500, 1000), 60, 99);
	assert_in_range(percent_split(&d, 1500, 1000), 96, 99);
	assert_in_range(percent_split(&d, 1000, 1500), 1, 40);
}

static void test_prompts_tell_nothing(void **state)
{
	struct gp_deal d = { 0 };

	(void)state;
	for (uint64_t i = 1; i < 1000; i++) {
		gp_deal_learn(&d, 8, 8, i % 7 == 0, i * 1000);
		assert_false(d.split);
	}
	for (uint64_t i = 1; i < 1000; i++) {
		gp_deal_learn(&d, 1, 1, false, i * 1000);
		assert_false(d.split);
	}
	assert_true(d.rate[0] == 0 && d.rate[1] == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_finds_the_better_way), cmocka_unit_test(test_prompts_tell_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/base.h"
#include "coordinator/coordinator.h"

#define VOCAB 50

static uint32_t pick(struct gp_sampler *s, const float *logits)
{
	uint32_t token = UINT32_MAX;

	assert_int_equal(gp_sampler_pick(s, logits, NULL, 0, &token), 0);
	assert_true(token < VOCAB);
	return token;
}

static void test_greedy_takes_lowest_of_ties(void **state)
{
	const struct gp_sampling how = { 0 };
	float logits[VOCAB] = { 0 };
	struct gp_sampler *s;

	(void)state;
	logits[17] = logits[9] = 3;
	assert_int_equal(gp_sampler_create(&s, &how, VOCAB), 0);
	assert_int_equal(pick(s, logits), 9);
	logits[41] = 3.5f;
	assert_int_equal(pick(s, logits), 41);
	gp_sampler_destroy(s);
}

static void test_broken_logits(void **state)
{
	const struct gp_sampling how = { 0 };
	float logits[VOCAB] = { 0 };
	struct gp_sampler *s;
	uint32_t token;

	(void)state;
	assert_int_equal(gp_sampler_create(&s, &how, VOCAB), 0);
	logits[3] = NAN;
	assert_int_equal(gp_sampler_pick(s, logits, NULL, 0, &token), -EDOM);
	logits[3] = INFINITY;
	assert_int_equal(gp_sampler_pick(s, logits, NULL, 0, &token), -EDOM);
	gp_sampler_destroy(s);
}

/* Chi-square of 20,000 draws against softmax; 49 degrees of freedom, and the
 * seed is fixed, so that the bound (p = 1e-6) never fails by chance. */
static void test_distribution(void **state)
{
	const struct gp_sampling how = { .temperature = 0.7f, .seed = 5 };
	const int n = 20000;
	float logits[VOCAB];
	double p[VOCAB], sum = 0, chi = 0;
	int seen[VOCAB] = { 0 };
	struct gp_sampler *s;

	(void)state;
	for (int i = 0; i < VOCAB; i++) {
		logits[i] = (float)(i % 7) * 0.4f;
		sum += p[i] = exp((double)logits[i] / 0.7);
	}
	assert_int_equal(gp_sampler_create(&s, &how, VOCAB), 0);
	for (int i = 0; i < n; i++)
		seen[pick(s, logits)]++;
	gp_sampler_destroy(s);
	for (int i = 0; i < VOCAB; i++) {
		const double expected = n * p[i] / sum;

		chi += (seen[i] - expected) * (seen[i] - expected) / expected;
	}
	assert_true(chi < 115);
}

static void assert_only(const struct gp_sampling *how, const float *logits, uint32_t most)
{
	struct gp_sampler *s;

	assert_int_equal(gp_sampler_create(&s, how, VOCAB), 0);
	for (int i = 0; i < 2000; i++)
		assert_true(pick(s, logits) <= most);
	gp_sampler_destroy(s);
}

static void test_filters(void **state)
{
	float logits[VOCAB];

	(void)state;
	for (int i = 0; i < VOCAB; i++)
		logits[i] = -(float)i * 0.5f; /* p falls by 0.61 a step; p(0) = 0.39 */
	assert_only(&(struct gp_sampling){ .temperature = 1, .top_k = 3 }, logits, 2);
	assert_only(&(struct gp_sampling){ .temperature = 1, .top_p = 0.39f }, logits, 0);
	assert_only(&(struct gp_sampling){ .temperature = 1, .top_p = 0.62f }, logits, 1);
	assert_only(&(struct gp_sampling){ .temperature = 1, .min_p = 0.5f }, logits, 1);
}

static void test_repeat_penalty(void **state)
{
	const struct gp_sampling how = { .repeat_penalty = 2 };
	const uint32_t recent[] = { 4, 4, 4 };
	float logits[VOCAB] = { [4] = 3, [5] = 2 };
	struct gp_sampler *s;
	uint32_t token;

	(void)state;
	assert_int_equal(gp_sampler_create(&s, &how, VOCAB), 0);
	assert_int_equal(gp_sampler_pick(s, logits, recent, 3, &token), 0);
	assert_int_equal(token, 5);
	logits[4] = 4.5f; /* once penalised, not thrice */
	assert_int_equal(gp_sampler_pick(s, logits, recent, 3, &token), 0);
	assert_int_equal(token, 4);
	gp_sampler_destroy(s);
}

static void test_bad_settings(void **state)
{
	static const struct gp_sampling bad[] = {
		{ .temperature = -1 }, { .temperature = NAN }, { .top_p = 2 }, { .min_p = -0.1f },
		{ .repeat_penalty = NAN },
	};
	struct gp_sampler *s;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(bad); i++)
		assert_int_equal(gp_sampler_create(&s, &bad[i], VOCAB), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_greedy_takes_lowest_of_ties),
		cmocka_unit_test(test_broken_logits), cmocka_unit_test(test_distribution),
		cmocka_unit_test(test_filters), cmocka_unit_test(test_repeat_penalty),
		cmocka_unit_test(test_bad_settings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

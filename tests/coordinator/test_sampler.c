#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "coordinator/coordinator.h"

#define VOCAB 50

static int pick_row(struct gp_sampler *s, const float *row, const uint32_t *recent, size_t n,
		    uint32_t *token)
{
	return gp_sampler_pick(s, &(struct gp_slot_logits){ .row = row }, recent, n, token);
}

static uint32_t pick(struct gp_sampler *s, const float *logits)
{
	uint32_t token = UINT32_MAX;

	assert_int_equal(pick_row(s, logits, NULL, 0, &token), 0);
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
	assert_int_equal(pick_row(s, logits, NULL, 0, &token), -EDOM);
	logits[3] = INFINITY;
	assert_int_equal(pick_row(s, logits, NULL, 0, &token), -EDOM);
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
	assert_int_equal(pick_row(s, logits, recent, 3, &token), 0);
	assert_int_equal(token, 5);
	logits[4] = 4.5f; /* once penalised, not thrice */
	assert_int_equal(pick_row(s, logits, recent, 3, &token), 0);
	assert_int_equal(token, 4);
	gp_sampler_destroy(s);
}

/* ---- the best of a row in its place ------------------------------------------- */

#define WIDE 3000u
#define DRAWS 40

static uint32_t needs(const struct gp_sampling *how, uint32_t vocab)
{
	struct gp_sampler *s;

	assert_int_equal(gp_sampler_create(&s, how, vocab), 0);
	const uint32_t n = gp_sampler_needs(s);
	gp_sampler_destroy(s);
	return n;
}

static void test_needs(void **state)
{
	(void)state;
	assert_int_equal(needs(&(struct gp_sampling){ 0 }, WIDE), 1);
	assert_int_equal(needs(&(struct gp_sampling){ .top_k = 40, .top_p = 0.5f }, WIDE), 1);
	assert_int_equal(needs(&(struct gp_sampling){ .repeat_penalty = 1 }, WIDE), 1);
	assert_int_equal(needs(&(struct gp_sampling){ .repeat_penalty = 1.1f }, WIDE), 65);
	assert_int_equal(needs(&(struct gp_sampling){ .repeat_penalty = 0.9f }, WIDE), 0);
#define WARM(...) needs(&(struct gp_sampling){ .temperature = 1, __VA_ARGS__ }, WIDE)
	assert_int_equal(WARM(.top_k = 0), 0);
	assert_int_equal(WARM(.top_k = 40), 40);
	assert_int_equal(WARM(.top_k = 64, .top_p = 0.95f, .min_p = 0.1f), 64);
	assert_int_equal(WARM(.top_k = 64, .repeat_penalty = 1.1f), 128);
	assert_int_equal(WARM(.top_k = 64, .repeat_penalty = 0.9f), 0);
	assert_int_equal(WARM(.top_k = 256), 256);
	assert_int_equal(WARM(.top_k = 257), 0);
	assert_int_equal(WARM(.top_k = 193, .repeat_penalty = 2), 0);
	assert_int_equal(WARM(.top_k = WIDE), 0);
	assert_int_equal(WARM(.top_k = UINT32_MAX, .repeat_penalty = 2), 0);
	assert_int_equal(WARM(.top_p = 0.9f), 0);
	assert_int_equal(WARM(.min_p = 0.9f), 0);
#undef WARM
	/* No more than half of the vocabulary: a row would be no larger. */
	assert_int_equal(needs(&(struct gp_sampling){ .temperature = 1, .top_k = 26 }, VOCAB), 0);
	assert_int_equal(needs(&(struct gp_sampling){ .temperature = 1, .top_k = 25 }, VOCAB), 25);
}

static int best_first(const void *a, const void *b)
{
	const struct gp_slot_candidate *p = a, *q = b;

	return p->logit != q->logit ? (p->logit > q->logit ? -1 : 1) :
	       p->id < q->id ? -1 : p->id > q->id;
}

static uint32_t next_random(uint32_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 17;
	*x ^= *x << 5;
	return *x;
}

/* Steps coarse or fine: coarse ones make ties, at the cut too. */
static void fill_row(float *row, uint32_t *x, uint32_t steps)
{
	for (uint32_t i = 0; i < WIDE; i++)
		row[i] = (float)(next_random(x) % steps) * 16 / (float)steps - 10;
}

/* Recent tokens are mostly those that matter: the best ones. */
static size_t fill_recent(uint32_t *recent, const struct gp_slot_candidate *all, uint32_t *x)
{
	const size_t n = next_random(x) % 100;

	for (size_t i = 0; i < n; i++)
		recent[i] = all[next_random(x) % (i % 4 ? 70 : WIDE)].id;
	return n;
}

/* The same draws from whole rows and from the best of them, more than enough of
 * them too. */
static void compare(const struct gp_sampling *how, uint32_t steps, uint32_t extra)
{
	static struct gp_slot_candidate all[WIDE];
	static float row[WIDE];
	struct gp_sampler *a, *b;
	uint32_t recent[100], x = (uint32_t)how->seed * 7919 + 1, want, got;

	assert_int_equal(gp_sampler_create(&a, how, WIDE), 0);
	assert_int_equal(gp_sampler_create(&b, how, WIDE), 0);
	const uint32_t n = gp_sampler_needs(b);
	assert_true(n > 0);
	for (int i = 0; i < DRAWS; i++) {
		fill_row(row, &x, steps);
		for (uint32_t k = 0; k < WIDE; k++)
			all[k] = (struct gp_slot_candidate){ row[k], k };
		qsort(all, WIDE, sizeof *all, best_first);
		const size_t n_recent = fill_recent(recent, all, &x);
		const struct gp_slot_logits best = { .best = all, .n_best = n + extra };
		assert_int_equal(pick_row(a, row, recent, n_recent, &want), 0);
		assert_int_equal(gp_sampler_pick(b, &best, recent, n_recent, &got), 0);
		assert_int_equal(got, want);
	}
	gp_sampler_destroy(a);
	gp_sampler_destroy(b);
}

static void test_best_equal_row(void **state)
{
	static const struct gp_sampling how[] = {
		{ 0 }, { .repeat_penalty = 1.3f }, { .repeat_penalty = 50 },
		{ .temperature = 0.8f, .top_k = 1 }, { .temperature = 0.8f, .top_k = 40 },
		{ .temperature = 3, .top_k = 256 }, { .temperature = 1, .top_k = 64, .top_p = 0.95f },
		{ .temperature = 2, .top_k = 64, .min_p = 0.05f },
		{ .temperature = 5, .top_k = 100, .top_p = 0.7f, .min_p = 0.01f,
		  .repeat_penalty = 1.1f },
		{ .temperature = 5, .top_k = 20, .repeat_penalty = 100 },
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(how); i++)
		for (uint32_t seed = 0; seed < 6; seed++) {
			struct gp_sampling h = how[i];

			h.seed = seed;
			compare(&h, seed % 2 ? 30 : 1u << 20, seed % 3);
		}
}

static void test_bad_candidates(void **state)
{
	const struct gp_sampling how = { .temperature = 1, .top_k = 2 }, all = { .temperature = 1 };
	const struct gp_slot_candidate fine[] = { { 2, 5 }, { 1, 9 } };
	const struct gp_slot_candidate broken[] = { { NAN, 5 }, { 1, 9 } };
	struct gp_slot_logits l = { .best = fine, .n_best = 1 };
	struct gp_sampler *s;
	uint32_t token;

	(void)state;
	assert_int_equal(gp_sampler_create(&s, &how, VOCAB), 0);
	assert_int_equal(gp_sampler_pick(s, &l, NULL, 0, &token), -EPROTO);
	l.n_best = 2;
	assert_int_equal(gp_sampler_pick(s, &l, NULL, 0, &token), 0);
	l.best = broken;
	assert_int_equal(gp_sampler_pick(s, &l, NULL, 0, &token), -EDOM);
	assert_non_null(strstr(gp_error(), "token 5 is not finite"));
	gp_sampler_destroy(s);
	l.best = fine;
	assert_int_equal(gp_sampler_create(&s, &all, VOCAB), 0);
	assert_int_equal(gp_sampler_pick(s, &l, NULL, 0, &token), -EPROTO);
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

/* Each pick of a token takes from its logit; the bias counts from the beginning. */
static void test_penalties_and_bias(void **state)
{
	static const struct gp_logit_bias bias[] = { { 7, 1.5f }, { 20, -100 } };
	struct gp_sampling how = { .frequency_penalty = 0.4f, .presence_penalty = 0.3f, .bias = bias,
				   .n_bias = 2 };
	/* 7 leads by 0.5 + 1.5, and loses 0.7, 0.4, 0.4 ... */
	static const uint32_t wanted[] = { 7, 7, 7, 7, 7, 9, 7 };
	float logits[VOCAB] = { [7] = 3, [9] = 2.5f, [20] = 50 };
	struct gp_sampler *s;

	(void)state;
	assert_int_equal(gp_sampler_create(&s, &how, VOCAB), 0);
	assert_int_equal(gp_sampler_needs(s), 0);
	for (size_t i = 0; i < GP_ARRAY_LEN(wanted); i++)
		assert_int_equal(pick(s, logits), wanted[i]);
	gp_sampler_destroy(s);
	how = (struct gp_sampling){ .bias = &(struct gp_logit_bias){ VOCAB, 1 }, .n_bias = 1 };
	assert_int_equal(gp_sampler_create(&s, &how, VOCAB), -EINVAL);
	how = (struct gp_sampling){ .presence_penalty = NAN };
	assert_int_equal(gp_sampler_create(&s, &how, VOCAB), -EINVAL);
}

/* A new one with another's settings draws what that one will draw next. */
static void test_settings_go_on(void **state)
{
	static const struct gp_logit_bias bias[] = { { 7, 1.5f } };
	const struct gp_sampling how = { .temperature = 3, .top_k = 20, .seed = 9, .bias = bias, .n_bias = 1 };
	struct gp_sampling now;
	float logits[VOCAB] = { [7] = 3, [9] = 2.5f, [20] = 3.5f };
	struct gp_sampler *s, *other;
	unsigned same_seed = 0;

	(void)state;
	assert_int_equal(gp_sampler_create(&s, &how, VOCAB), 0);
	for (int i = 0; i < 100; i++) {
		gp_sampler_settings(s, &now);
		same_seed += now.seed == how.seed;
		assert_int_equal(gp_sampler_create(&other, &now, VOCAB), 0);
		assert_int_equal(pick(other, logits), pick(s, logits));
		gp_sampler_destroy(other);
	}
	assert_int_equal(same_seed, 1);
	gp_sampler_destroy(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_penalties_and_bias), cmocka_unit_test(test_settings_go_on),
		cmocka_unit_test(test_greedy_takes_lowest_of_ties),
		cmocka_unit_test(test_broken_logits), cmocka_unit_test(test_distribution),
		cmocka_unit_test(test_filters), cmocka_unit_test(test_repeat_penalty),
		cmocka_unit_test(test_needs), cmocka_unit_test(test_best_equal_row),
		cmocka_unit_test(test_bad_candidates), cmocka_unit_test(test_bad_settings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

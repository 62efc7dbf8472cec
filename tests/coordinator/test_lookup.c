/* What is guessed from a text itself. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/base.h"
#include "coordinator/lookup.h"

enum { MOST = 8, CANARY = 77777 };

/* The guesses for a text of n tokens are want, up to a 0. */
static void expect(const uint32_t *text, uint32_t n, struct gp_place place, uint32_t alike,
		   const uint32_t *want)
{
	uint32_t tokens[64 + MOST + 1], n_want = 0;

	while (n_want < MOST && want[n_want])
		n_want++;
	memcpy(tokens, text, n * sizeof *text);
	for (uint32_t i = n; i < GP_ARRAY_LEN(tokens); i++)
		tokens[i] = CANARY;
	assert_int_equal(gp_lookup(tokens, n, n_want ? n_want : MOST, &place), n_want);
	assert_int_equal(place.alike, alike);
	assert_int_equal(place.at > 0, n_want > 0);
	assert_memory_equal(tokens, text, n * sizeof *text);
	assert_memory_equal(tokens + n, want, n_want * sizeof *want);
	assert_int_equal(tokens[n + n_want], CANARY);
}

#define EXPECT(text, alike, ...)                                                             \
	expect(text, GP_ARRAY_LEN(text), (struct gp_place){ 0 }, alike,                      \
	       (const uint32_t[]){ __VA_ARGS__, 0 })

static void test_guesses(void **state)
{
	static const uint32_t once[] = { 1, 2, 3, 4, 5 };
	static const uint32_t one_alike[] = { 1, 2, 3, 1 };
	static const uint32_t again[] = { 1, 2, 3, 4, 9, 1, 2 };
	/* Three alike win over two that stand later; of two places alike the later wins. */
	static const uint32_t longest[] = { 5, 6, 7, 11, 8, 6, 7, 12, 5, 6, 7 };
	static const uint32_t latest[] = { 6, 7, 11, 8, 6, 7, 12, 8, 6, 7 };
	static const uint32_t periodic[] = { 9, 1, 2, 1, 2 };
	static const uint32_t same[] = { 4, 4, 4 };

	(void)state;
	expect(once, 0, (struct gp_place){ 0 }, 0, (const uint32_t[]){ 0 });
	expect(once, 1, (struct gp_place){ 0 }, 0, (const uint32_t[]){ 0 });
	EXPECT(once, 0, 0);
	EXPECT(one_alike, 0, 0);
	EXPECT(again, 2, 3, 4, 9, 1, 2, 3);
	EXPECT(longest, 3, 11, 8, 6);
	EXPECT(latest, 3, 12, 8, 6);
	EXPECT(periodic, 2, 1, 2, 1, 2, 1, 2);
	EXPECT(same, 2, 4, 4, 4);
}

/* Longer than it looks back, and no further than the text's beginning. */
static void test_long(void **state)
{
	uint32_t text[60];
	struct gp_place place = { 0 };

	(void)state;
	for (uint32_t i = 0; i < 60; i++)
		text[i] = i % 30 + 1;
	EXPECT(text, GP_LOOKUP_LONGEST, 1, 2, 3);
	assert_int_equal(gp_lookup(text, 32, 0, &place), 0);
	assert_int_equal(place.at, 2);
	expect(text, 32, (struct gp_place){ 0 }, 2, (const uint32_t[]){ 3, 4, 0 });
}

/* The text goes on where it did so far, unless more tokens are alike elsewhere. */
static void test_resumes(void **state)
{
	/* 5 stands for the first text's 3; then both go on alike. */
	static const uint32_t replaced[] = { 1, 2, 3, 4, 6, 7, 8, 1, 2, 5 };
	static const uint32_t equals[] = { 1, 2, 3, 9, 1, 2, 4, 8, 1, 2 };
	static const uint32_t elsewhere[] = { 1, 2, 3, 4, 8, 8, 9, 7, 8, 8 };

	(void)state;
	expect(replaced, 10, (struct gp_place){ 3, 7 }, 0, (const uint32_t[]){ 4, 6, 7, 8, 0 });
	expect(replaced, 10, (struct gp_place){ 10, 1 }, 0, (const uint32_t[]){ 0 });
	expect(equals, 10, (struct gp_place){ 2, 0 }, 2, (const uint32_t[]){ 3, 9, 0 });
	expect(equals, 10, (struct gp_place){ 0, 0 }, 2, (const uint32_t[]){ 4, 8, 0 });
	expect(elsewhere, 10, (struct gp_place){ 2, 0 }, 2, (const uint32_t[]){ 9, 7, 0 });
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_guesses),
					    cmocka_unit_test(test_long),
					    cmocka_unit_test(test_resumes) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

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
static void expect(const uint32_t *text, uint32_t n, uint32_t alike_wanted, const uint32_t *want)
{
	uint32_t tokens[64 + MOST + 1], alike, n_want = 0;

	while (n_want < MOST && want[n_want])
		n_want++;
	memcpy(tokens, text, n * sizeof *text);
	for (uint32_t i = n; i < GP_ARRAY_LEN(tokens); i++)
		tokens[i] = CANARY;
	assert_int_equal(gp_lookup(tokens, n, n_want ? n_want : MOST, &alike), n_want);
	assert_int_equal(alike, alike_wanted);
	assert_memory_equal(tokens, text, n * sizeof *text);
	assert_memory_equal(tokens + n, want, n_want * sizeof *want);
	assert_int_equal(tokens[n + n_want], CANARY);
}

#define EXPECT(text, alike, ...)                                                             \
	expect(text, GP_ARRAY_LEN(text), alike, (const uint32_t[]){ __VA_ARGS__, 0 })

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
	expect(NULL, 0, 0, (const uint32_t[]){ 0 });
	expect(once, 1, 0, (const uint32_t[]){ 0 });
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
	uint32_t text[60], alike;

	(void)state;
	for (uint32_t i = 0; i < 60; i++)
		text[i] = i % 30 + 1;
	EXPECT(text, GP_LOOKUP_LONGEST, 1, 2, 3);
	assert_int_equal(gp_lookup(text, 32, 0, &alike), 0);
	assert_int_equal(alike, 0);
	expect(text, 32, 2, (const uint32_t[]){ 3, 4, 0 });
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_guesses),
					    cmocka_unit_test(test_long) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

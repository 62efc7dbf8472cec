/* Guesses that were wrong leave no trace in the KV cache: a sequence that had some before
 * each of its tokens gives bit for bit the logits of one that never had. At block borders,
 * where the window of local layers is passed, in blocks that others share; for each KV
 * type, in one stage and two. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "tests/common/model_helpers.h"

/* The model's window is 16: with what is kept for taking back, 400 positions pass it by many
 * blocks. */
#define LENGTH 400u
#define GUESSES 31u

static uint32_t ids[LENGTH];

static void fill_ids(uint32_t vocab)
{
	for (uint32_t i = 0; i < LENGTH; i++)
		ids[i] = (i * 2654435761u / 7) % vocab;
}

static void truncate_all(struct chain *c, uint32_t seq, uint32_t pos)
{
	for (uint32_t k = 0; k < c->n; k++)
		assert_int_equal(gp_kv_truncate(gp_stage_kv(c->stage[k]), seq, pos), 0);
}

static void copy_all(struct chain *c, uint32_t seq, uint32_t src, uint32_t pos)
{
	for (uint32_t k = 0; k < c->n; k++)
		assert_int_equal(gp_kv_copy(gp_stage_kv(c->stage[k]), seq, src, pos), 0);
}

/* A step as speculation makes it: token pos, then guesses of which the first `right` are
 * so. Logits of the rows that stand go to logits; how many those are. */
static uint32_t guess(struct chain *c, uint32_t seq, uint32_t pos, uint32_t guesses, uint32_t right,
		      float *room, float *logits)
{
	struct gp_stage_row rows[GUESSES + 1];
	const uint32_t vocab = c->config->vocab;

	for (uint32_t i = 0; i <= guesses; i++) {
		const bool wrong = i > right;
		const uint32_t token = pos + i < LENGTH ? ids[pos + i] : 1;

		rows[i] = (struct gp_stage_row){ .seq = seq, .pos = pos + i, .wants_logits = true,
						 .token = wrong ? (token + 1 + i) % vocab : token };
	}
	chain_step(c, rows, guesses + 1, room);
	truncate_all(c, seq, pos + right + 1);
	memcpy(logits, room, (right + 1) * (size_t)vocab * sizeof *logits);
	return right + 1;
}

/* Positions [from, LENGTH) of seq with guesses before each, of many lengths. */
static void guess_all(struct chain *c, uint32_t seq, uint32_t from, float *room, const float *want)
{
	const uint32_t vocab = c->config->vocab;
	float *got = floats((GUESSES + 1) * (size_t)vocab);
	uint32_t x = 1;

	for (uint32_t pos = from; pos < LENGTH;) {
		const uint32_t guesses = (x = x * 1103515245u + 12345u) / 65536 % (GUESSES + 1);
		uint32_t right = x / 7 % (guesses + 1) / 4;

		right = pos + right < LENGTH ? right : LENGTH - 1 - pos;
		const uint32_t n = guess(c, seq, pos, guesses, right, room, got);
		assert_memory_equal(got, want + (size_t)pos * vocab, n * (size_t)vocab * sizeof *got);
		pos += n;
	}
	free(got);
}

static void same_tables(struct chain *a, struct chain *b, uint32_t seq)
{
	for (uint32_t k = 0; k < a->n; k++) {
		struct gp_kv_cache *x = gp_stage_kv(a->stage[k]), *y = gp_stage_kv(b->stage[k]);

		assert_int_equal(gp_kv_length(x, seq), gp_kv_length(y, seq));
		for (int kind = 0; kind < GP_KV_KINDS; kind++)
			assert_int_equal(gp_kv_blocks_used(x, (enum gp_kv_kind)kind),
					 gp_kv_blocks_used(y, (enum gp_kv_kind)kind));
	}
}

static void check(enum gp_type kv_type, uint32_t stages)
{
	const struct chain_options o = { .kv_type = kv_type, .n_stages = stages, .threads = 2 };
	struct chain plain, c;

	chain_open(&plain, RANDOM_TEXT, &o);
	chain_open(&c, RANDOM_TEXT, &o);
	const uint32_t vocab = plain.config->vocab;
	float *want = floats(LENGTH * (size_t)vocab), *room = floats((GUESSES + 1) * (size_t)vocab);
	float *pair = floats(2 * (size_t)vocab);
	fill_ids(vocab);
	chain_feed(&plain, 0, ids, LENGTH, 1, want);
	guess_all(&c, 0, 0, room, want);
	same_tables(&plain, &c, 0);
	/* Two that share a beginning which ends inside a block; neither sees what the other
	 * guessed there. */
	chain_drop(&c, 0);
	chain_feed(&c, 0, ids, 180, 32, want);
	guess(&c, 0, 180, GUESSES, 1, room, pair);
	assert_int_equal(gp_kv_blocks_used(gp_stage_kv(c.stage[c.n - 1]), GP_KV_GLOBAL), 3);
	chain_feed(&c, 0, ids + 182, 48, 32, want + 182 * (size_t)vocab);
	copy_all(&c, 1, 0, 230);
	guess(&c, 1, 230, GUESSES, 0, room, pair);
	guess(&c, 0, 230, GUESSES, 0, room, pair);
	chain_feed(&c, 1, ids + 231, 19, 0, room);
	guess(&c, 0, 231, GUESSES, 0, room, pair);
	guess_all(&c, 1, 250, room, want);
	guess_all(&c, 0, 232, room, want);
	chain_close(&c);
	chain_close(&plain);
	free(want);
	free(room);
	free(pair);
}

static void test_no_trace(void **state)
{
	(void)state;
	check(GP_TYPE_F32, 1);
	check(GP_TYPE_F16, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_no_trace) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

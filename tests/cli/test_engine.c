/* The engine's own face: kept sequences, logits delivered once, limits. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "coordinator/coordinator.h"
#include "tests/common/process.h"

#define MODEL "tests/data/gemma3-random-text"

struct sink {
	uint32_t tokens[600];
	size_t n;
	enum gp_finish why;
	bool done;
	uint32_t next_pos;      /* of on_logits */
	double sum;
	struct gp_engine *engine;
	pid_t victim;           /* killed when position kill_at was delivered */
	uint32_t kill_at;
};

static char bin_dir[4096];

static struct gp_engine *open_engine(const char *stages, uint32_t sequences)
{
	const struct gp_engine_options o = {
		.model = MODEL, .worker_dir = bin_dir,
		.plan = { .stages = stages, .threads = 1, .max_sequences = sequences, .kv_type = -1 },
	};
	struct gp_engine *e;

	if (gp_engine_create(&e, &o) < 0)
		fail_msg("%s", gp_error());
	return e;
}

static int on_token(void *user, uint32_t token, bool is_stop)
{
	struct sink *s = user;

	(void)is_stop;
	s->tokens[s->n++] = token;
	return 0;
}

static void on_done(void *user, enum gp_finish why)
{
	struct sink *s = user;

	s->why = why;
	s->done = true;
}

static void on_logits(void *user, uint32_t pos, const float *row)
{
	struct sink *s = user;

	assert_int_equal(pos, s->next_pos++);
	s->sum += (double)row[pos % 512];
	if (s->victim && pos == s->kill_at)
		kill(s->victim, SIGKILL);
}

static void fill(uint32_t *ids, size_t n, uint32_t seed)
{
	for (size_t i = 0; i < n; i++)
		ids[i] = (uint32_t)((i * 7919 + seed * 104729 + 3) % 512);
}

static uint32_t generate(struct gp_engine *e, const uint32_t *ids, size_t n, uint32_t max_new,
			 uint32_t reuse, struct sink *s)
{
	const struct gp_request r = {
		.prompt = ids, .n_prompt = n, .max_new = max_new, .reuse = reuse, .keep = true,
		.user = s, .on_token = on_token, .on_done = on_done,
	};
	uint32_t id = 0;

	*s = (struct sink){ 0 };
	assert_int_equal(gp_engine_submit(e, &r, &id), 0);
	assert_int_equal(gp_engine_run(e), 0);
	assert_true(s->done && id > 0);
	return id;
}

static uint64_t rows_of(struct gp_engine *e)
{
	struct gp_engine_stats s;

	gp_engine_stats(e, &s);
	return s.stage[0].rows;
}

/* Turn by turn with a kept sequence equals the whole prompt at once, and costs
 * only the new rows; a changed past, near and far, is found out too. */
static void test_kept_sequence(void **state)
{
	static const uint32_t cut[] = { 90, 70, 4, 0 }; /* where the past changes; 90: nowhere */
	struct gp_engine *kept = open_engine("cpu:0-3,cpu:4-7", 1);
	struct gp_engine *fresh = open_engine("cpu:0-7", 1);
	struct sink a, b;
	uint32_t ids[400];

	(void)state;
	for (size_t k = 0; k < GP_ARRAY_LEN(cut); k++) {
		fill(ids, 90, 1);
		const uint32_t first = generate(kept, ids, 90, 10, 0, &a);
		fill(ids + cut[k], 120 - cut[k], k == 0 ? 2 : 3);
		const uint64_t before = rows_of(kept);
		generate(kept, ids, 120, 30, first, &a);
		generate(fresh, ids, 120, 30, 0, &b);
		assert_int_equal(a.n, 30);
		assert_memory_equal(a.tokens, b.tokens, sizeof a.tokens);
		/* 29 generated tokens are fed; the last one is not. */
		assert_int_equal(rows_of(kept) - before, 120 - cut[k] + 29);
	}
	gp_engine_destroy(kept);
	gp_engine_destroy(fresh);
}

static void score(struct gp_engine *e, const uint32_t *ids, size_t n, struct sink *s)
{
	const struct gp_request r = { .prompt = ids, .n_prompt = n, .user = s, .on_logits = on_logits,
				      .on_done = on_done };
	uint32_t id;

	assert_int_equal(gp_engine_submit(e, &r, &id), 0);
	assert_int_equal(gp_engine_run(e), 0);
	assert_int_equal(s->next_pos, n);
}

static void test_logits_come_once(void **state)
{
	struct gp_engine *e = open_engine("cpu:0-3,cpu:4-7", 2);
	struct sink calm = { 0 }, disturbed = { .kill_at = 200 };
	struct gp_engine_stats s;
	uint32_t ids[500];

	(void)state;
	fill(ids, 500, 9);
	score(e, ids, 500, &calm);
	gp_engine_stats(e, &s);
	disturbed.victim = (pid_t)s.stage[1].pid;
	score(e, ids, 500, &disturbed);
	gp_engine_stats(e, &s);
	assert_int_equal(s.stage[1].restarts, 1);
	assert_true(calm.sum == disturbed.sum);
	gp_engine_destroy(e);
}

/* ---- candidates ------------------------------------------------------------- */

struct replayed {
	struct gp_sampler *sampler;
	const uint32_t *tokens;
	uint32_t from;          /* the first position whose token was generated after it */
};

/* Draws again what was drawn from candidates, from the whole row. */
static void draw_again(void *user, uint32_t pos, const float *row)
{
	const struct replayed *r = user;
	const struct gp_slot_logits logits = { .row = row };
	uint32_t token;

	if (pos < r->from)
		return;
	assert_int_equal(gp_sampler_pick(r->sampler, &logits, r->tokens, pos + 1, &token), 0);
	assert_int_equal(token, r->tokens[pos + 1]);
}

static void check_draws(struct gp_engine *e, const struct gp_sampling *how)
{
	enum { PROMPT = 12, NEW = 60 };
	uint32_t ids[PROMPT + NEW], id;
	struct replayed again = { .tokens = ids, .from = PROMPT - 1 };
	struct sink s = { 0 };

	fill(ids, PROMPT, 5);
	const struct gp_request first = { .prompt = ids, .n_prompt = PROMPT, .max_new = NEW,
					  .sampling = *how, .user = &s, .on_token = on_token,
					  .on_done = on_done };
	assert_int_equal(gp_engine_submit(e, &first, &id), 0);
	assert_int_equal(gp_engine_run(e), 0);
	assert_int_equal(s.n, NEW);
	memcpy(ids + PROMPT, s.tokens, NEW * sizeof *ids);
	assert_int_equal(gp_sampler_create(&again.sampler, how, gp_engine_config(e)->vocab), 0);
	const struct gp_request second = { .prompt = ids, .n_prompt = PROMPT + NEW - 1,
					   .user = &again, .on_logits = draw_again };
	assert_int_equal(gp_engine_submit(e, &second, &id), 0);
	assert_int_equal(gp_engine_run(e), 0);
	gp_sampler_destroy(again.sampler);
}

/* Whatever part of its logits a setting asks for, the tokens are those of whole rows. */
static void test_candidates_draw_alike(void **state)
{
	static const struct gp_sampling how[] = {
		{ 0 }, { .repeat_penalty = 1.2f }, { .repeat_penalty = 0.8f },
		{ .temperature = 2, .top_k = 40, .seed = 1 },
		{ .temperature = 2, .top_k = 64, .top_p = 0.9f, .min_p = 0.01f, .seed = 2 },
		{ .temperature = 2, .top_k = 64, .repeat_penalty = 1.2f, .seed = 3 },
		{ .temperature = 1, .top_k = 300, .seed = 4 },
		{ .temperature = 1, .top_p = 0.9f, .seed = 5 }, { .temperature = 1, .seed = 6 },
	};
	struct gp_engine *e = open_engine("cpu:0-3,cpu:4-7", 2);

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(how); i++)
		check_draws(e, &how[i]);
	gp_engine_destroy(e);
}

static void test_context_is_the_limit(void **state)
{
	const struct gp_engine_options o = {
		.model = MODEL, .worker_dir = bin_dir, .plan = { .context = 40, .kv_type = -1 },
	};
	struct gp_engine *e;
	struct sink s;
	uint32_t ids[64], id;

	(void)state;
	fill(ids, 64, 4);
	assert_int_equal(gp_engine_create(&e, &o), 0);
	generate(e, ids, 30, 100, 0, &s);
	assert_int_equal(s.why, GP_FINISH_CONTEXT);
	assert_int_equal(s.n, 11); /* positions 30..39 are fed, the last token is not */
	generate(e, ids, 40, 100, 0, &s);
	assert_int_equal(s.n, 1);
	const struct gp_request long_one = { .prompt = ids, .n_prompt = 41, .max_new = 1 };
	assert_int_equal(gp_engine_submit(e, &long_one, &id), -E2BIG);
	const struct gp_request empty = { .prompt = ids, .n_prompt = 0, .max_new = 1 };
	assert_int_equal(gp_engine_submit(e, &empty, &id), -EINVAL);
	ids[3] = 512;
	const struct gp_request unknown = { .prompt = ids, .n_prompt = 5, .max_new = 1 };
	assert_int_equal(gp_engine_submit(e, &unknown, &id), -EINVAL);
	gp_engine_destroy(e);
}

static int interrupt_at_third(void *user, uint32_t token, bool is_stop)
{
	struct sink *s = user;

	on_token(s, token, is_stop);
	if (s->n == 3)
		gp_engine_interrupt(s->engine);
	return 0;
}

static void test_interrupt_and_go_on(void **state)
{
	struct gp_engine *e = open_engine("cpu:0-3,cpu:4-7", 2);
	struct sink s = { .engine = e }, after;
	uint32_t ids[20], id;

	(void)state;
	fill(ids, 20, 6);
	const struct gp_request r = { .prompt = ids, .n_prompt = 20, .max_new = 500, .user = &s,
				      .on_token = interrupt_at_third, .on_done = on_done };
	assert_int_equal(gp_engine_submit(e, &r, &id), 0);
	assert_int_equal(gp_engine_run(e), -EINTR);
	assert_int_equal(s.why, GP_FINISH_CANCELLED);
	assert_true(s.n < 10);
	generate(e, ids, 20, 5, 0, &after);
	assert_memory_equal(after.tokens, s.tokens, 3 * sizeof *s.tokens);
	gp_engine_destroy(e);
}

static int set_up(void **state)
{
	(void)state;
	snprintf(bin_dir, sizeof bin_dir, "%s", program("run"));
	*strrchr(bin_dir, '/') = '\0';
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kept_sequence), cmocka_unit_test(test_logits_come_once),
		cmocka_unit_test(test_candidates_draw_alike),
		cmocka_unit_test(test_context_is_the_limit),
		cmocka_unit_test(test_interrupt_and_go_on),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}

/* Many requests at once: each gets what it would have got alone. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "coordinator/coordinator.h"
#include "tests/common/process.h"

#define MODEL "tests/data/gemma3-random-text"

enum { MOST = 400 };

struct load;

/* One request and what came of it. */
struct talk {
	uint32_t prompt[MOST], n_prompt, max_new;
	struct gp_sampling sampling;
	uint64_t owner;
	int32_t priority;
	uint32_t arrives;       /* when so many tokens have come for all */
	uint32_t cancel_at;     /* of its own tokens; 0: never */
	struct talk *cancels;   /* NULL: itself */

	struct load *load;
	uint32_t id, tokens[MOST], n;
	bool submitted, done;
	enum gp_finish why;
	uint32_t first_at, done_at; /* tokens that had come for all */
};

struct load {
	struct gp_engine *engine;
	struct talk *talks;
	size_t n;
	uint32_t total;
	pid_t victim;           /* killed when so many tokens had come */
	uint32_t kill_at;
};

static char bin_dir[4096];

static struct gp_engine *open_engine(struct gp_engine_options o)
{
	struct gp_engine *e;

	o.model = MODEL;
	o.worker_dir = bin_dir;
	o.plan.threads = 1;
	o.plan.kv_type = -1;
	if (gp_engine_create(&e, &o) < 0)
		fail_msg("%s", gp_error());
	return e;
}

static struct gp_engine *open_plain(const char *stages, uint32_t sequences)
{
	return open_engine((struct gp_engine_options){
		.plan = { .stages = stages, .max_sequences = sequences } });
}

static int on_token(void *user, uint32_t token, bool is_stop);
static void on_done(void *user, enum gp_finish why);

static void submit(struct talk *t)
{
	const struct gp_request r = {
		.prompt = t->prompt, .n_prompt = t->n_prompt, .max_new = t->max_new,
		.sampling = t->sampling, .owner = t->owner, .priority = t->priority, .user = t,
		.on_token = on_token, .on_done = on_done,
	};

	t->submitted = true;
	assert_int_equal(gp_engine_submit(t->load->engine, &r, &t->id), 0);
}

static void submit_due(struct load *l)
{
	for (size_t i = 0; i < l->n; i++)
		if (!l->talks[i].submitted && l->talks[i].arrives <= l->total)
			submit(&l->talks[i]);
}

static int on_token(void *user, uint32_t token, bool is_stop)
{
	struct talk *t = user;
	struct load *l = t->load;
	struct gp_engine_stats s;

	(void)is_stop;
	t->tokens[t->n++] = token;
	l->total++;
	if (t->n == 1)
		t->first_at = l->total;
	if (t->n == t->cancel_at)
		gp_engine_cancel(l->engine, t->cancels ? t->cancels->id : t->id);
	if (l->victim && l->total == l->kill_at)
		kill(l->victim, SIGKILL);
	submit_due(l);
	gp_engine_stats(l->engine, &s);
	assert_true(s.kv_blocks_held <= s.kv_blocks);
	return 0;
}

static void on_done(void *user, enum gp_finish why)
{
	struct talk *t = user;

	assert_false(t->done);
	t->done = true;
	t->why = why;
	t->done_at = t->load->total;
}

static void run(struct load *l, struct gp_engine *e, struct talk *talks, size_t n)
{
	l->engine = e;
	l->talks = talks;
	l->n = n;
	for (size_t i = 0; i < n; i++)
		talks[i].load = l;
	submit_due(l);
	assert_int_equal(gp_engine_run(e), 0);
	for (size_t i = 0; i < n; i++)
		assert_true(talks[i].done);
}

/* Prompts of 1 to 300 tokens, some greedy and some drawn, arriving one after the other. */
static struct talk *mixed(size_t n)
{
	static const uint32_t lengths[] = { 1, 300, 17, 64, 130, 2, 65, 255 };
	struct talk *talks = calloc(n, sizeof *talks);

	assert_non_null(talks);
	for (size_t i = 0; i < n; i++) {
		struct talk *t = &talks[i];

		t->n_prompt = lengths[i % GP_ARRAY_LEN(lengths)];
		for (uint32_t k = 0; k < t->n_prompt; k++)
			t->prompt[k] = (uint32_t)((k * 7919 + i * 104729 + 3) % 512);
		t->max_new = 8 + (uint32_t)(i * 13 % 32);
		t->arrives = (uint32_t)(i / 4 * 15);
		if (i % 2)
			t->sampling = (struct gp_sampling){ .temperature = 1.5f, .top_k = 40,
							    .seed = i };
	}
	return talks;
}

/* Each alone in an engine of one sequence and one stage. */
static struct talk *alone(size_t n)
{
	struct gp_engine *e = open_plain("cpu:0-7", 1);
	struct talk *talks = mixed(n);

	for (size_t i = 0; i < n; i++) {
		struct load l = { 0 };

		talks[i].arrives = 0;
		run(&l, e, &talks[i], 1);
	}
	gp_engine_destroy(e);
	return talks;
}

static void assert_same(const struct talk *a, const struct talk *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(a[i].why, b[i].why);
		assert_int_equal(a[i].n, b[i].n);
		assert_memory_equal(a[i].tokens, b[i].tokens, sizeof a[i].tokens);
	}
}

enum { TALKS = 16 };
static struct talk *wanted; /* of mixed(TALKS), each alone */

static void test_mixed_arrivals(void **state)
{
	static const char *const stages[] = { "cpu:0-7", "cpu:0-3,cpu:4-7", "cpu:0,cpu:1-4,cpu:5-7" };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(stages); i++) {
		/* With prefixes or without. */
		struct gp_engine *e = open_engine((struct gp_engine_options){ .plan = {
			.stages = stages[i], .max_sequences = 6, .prefixes = (uint32_t)i } });
		struct talk *talks = mixed(TALKS);
		struct load l = { 0 };

		run(&l, e, talks, TALKS);
		assert_same(talks, wanted, TALKS);
		free(talks);
		gp_engine_destroy(e);
	}
}

static void test_worker_killed_under_load(void **state)
{
	struct gp_engine *e = open_engine((struct gp_engine_options){ .plan = {
		.stages = "cpu:0-3,cpu:4-7", .max_sequences = 6, .prefixes = 3 } });
	struct talk *talks = mixed(TALKS);
	struct load l = { .kill_at = 120 };
	struct gp_engine_stats s;

	(void)state;
	gp_engine_stats(e, &s);
	l.victim = (pid_t)s.stage[0].pid;
	run(&l, e, talks, TALKS);
	gp_engine_stats(e, &s);
	assert_int_equal(s.stage[0].restarts, 1);
	assert_same(talks, wanted, TALKS);
	free(talks);
	gp_engine_destroy(e);
}

/* Those that go on are not disturbed, and what left made room at once: one sequence slot
 * serves all in turn. */
static void test_cancel(void **state)
{
	static const uint32_t sequences[] = { 1, 6 };

	(void)state;
	for (size_t k = 0; k < GP_ARRAY_LEN(sequences); k++) {
		struct gp_engine *e = open_plain("cpu:0-3,cpu:4-7", sequences[k]);
		struct talk *talks = mixed(TALKS);
		struct load l = { 0 };

		for (size_t i = 0; i < TALKS; i += 3)
			talks[i].cancel_at = 1 + (uint32_t)i / 3;
		run(&l, e, talks, TALKS);
		for (size_t i = 0; i < TALKS; i++) {
			const bool gone = i % 3 == 0;

			assert_int_equal(talks[i].why, gone ? GP_FINISH_CANCELLED : GP_FINISH_LENGTH);
			assert_int_equal(talks[i].n, gone ? talks[i].cancel_at : wanted[i].n);
			assert_memory_equal(talks[i].tokens, wanted[i].tokens,
					    talks[i].n * sizeof(uint32_t));
		}
		free(talks);
		gp_engine_destroy(e);
	}
}

/* What comes back of a long prompt whose slot is another's by then is nobody's. */
static void test_cancel_in_flight(void **state)
{
	struct gp_engine *e = open_plain("cpu:0-3,cpu:4-7", 2);
	struct talk *talks = mixed(4);
	struct load l = { 0 };

	(void)state;
	for (size_t i = 0; i < 4; i++)
		talks[i].arrives = 0;
	talks[0].cancels = &talks[1];
	talks[0].cancel_at = 1;
	run(&l, e, talks, 4);
	assert_int_equal(talks[1].why, GP_FINISH_CANCELLED);
	assert_int_equal(talks[1].n, 0);
	talks[1] = wanted[1];
	assert_same(talks, wanted, 4);
	free(talks);
	gp_engine_destroy(e);
}

/* Never begun, and never there. */
static void test_cancel_waiting(void **state)
{
	struct gp_engine *e = open_plain("cpu:0-7", 1);
	struct talk *talks = mixed(3);
	struct load l = { .engine = e, .talks = talks, .n = 3 };

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		talks[i].load = &l;
		talks[i].arrives = 0;
		submit(&talks[i]);
	}
	gp_engine_cancel(e, talks[1].id);
	gp_engine_cancel(e, talks[2].id);
	gp_engine_cancel(e, 4711);
	assert_int_equal(gp_engine_run(e), 0);
	assert_int_equal(talks[0].why, GP_FINISH_LENGTH);
	for (size_t i = 1; i < 3; i++) {
		assert_int_equal(talks[i].why, GP_FINISH_CANCELLED);
		assert_int_equal(talks[i].n, 0);
	}
	free(talks);
	gp_engine_destroy(e);
}

/* The first owner's ten do not keep the second's two waiting. */
static void test_owners_share(void **state)
{
	struct gp_engine *e = open_plain("cpu:0-7", 2);
	struct talk *talks = calloc(12, sizeof *talks);
	struct load l = { 0 };

	(void)state;
	assert_non_null(talks);
	for (size_t i = 0; i < 12; i++) {
		talks[i].n_prompt = 30;
		talks[i].max_new = 20;
		talks[i].owner = i < 10 ? 1 : 2;
	}
	run(&l, e, talks, 12);
	assert_true(talks[10].done_at < talks[3].done_at);
	assert_true(talks[11].done_at < talks[5].done_at);
	for (size_t i = 0; i + 1 < 10; i++)
		assert_true(talks[i].done_at <= talks[i + 1].done_at);
	free(talks);
	gp_engine_destroy(e);
}

/* One of a higher priority takes the place of another, whose text stays what it was. */
static void test_priorities(void **state)
{
	struct gp_engine *e = open_plain("cpu:0-7", 1);
	struct talk *talks = mixed(4);
	struct load l = { 0 };
	struct gp_engine_stats s;

	(void)state;
	for (size_t i = 0; i < 4; i++)
		talks[i].arrives = 0;
	talks[2].priority = -1;
	talks[3].priority = 5;
	talks[3].owner = 1;
	talks[3].arrives = 3;
	run(&l, e, talks, 4);
	gp_engine_stats(e, &s);
	assert_int_equal(s.preempted, 1);
	assert_int_equal(talks[3].first_at, 4);
	assert_true(talks[0].done_at < talks[1].first_at);
	assert_true(talks[1].done_at < talks[2].first_at);
	assert_same(talks, wanted, 4);
	free(talks);
	gp_engine_destroy(e);
}

/* Six sequences in the room of little more than one: those that came last make room for
 * those before them, and begin again. */
static void test_preemption(void **state)
{
	static const char *const stages[] = { "cpu:0-7", "cpu:0-3,cpu:4-7" };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(stages); i++) {
		struct gp_engine *e = open_engine((struct gp_engine_options){
			.plan = { .stages = stages[i], .max_sequences = 6, .context = 400,
				  .kv_tokens = 448, .prefixes = 4 * (uint32_t)i } });
		struct talk *talks = mixed(TALKS);
		struct load l = { 0 };
		struct gp_engine_stats s;

		for (size_t k = 0; k < TALKS; k++)
			talks[k].max_new = 200;
		run(&l, e, talks, TALKS);
		gp_engine_stats(e, &s);
		assert_in_range(s.preempted, 1, 40);
		assert_int_equal(s.kv_blocks, 7);
		assert_true(i > 0 || s.kv_blocks_held == 0);
		/* What is computed again counts once. */
		uint64_t prompts = 0;
		for (size_t k = 0; k < TALKS; k++)
			prompts += talks[k].n_prompt;
		assert_int_equal(s.prompt_tokens + s.prefix_tokens, prompts);
		for (size_t k = 0; k < TALKS; k++) {
			const uint32_t room = 400 - talks[k].n_prompt + 1;

			assert_int_equal(talks[k].n, room < 200 ? room : 200);
			assert_memory_equal(talks[k].tokens, wanted[k].tokens,
					    wanted[k].n * sizeof(uint32_t));
		}
		free(talks);
		gp_engine_destroy(e);
	}
}

/* One prompt after the other, each with the first n of the last one's tokens. */
static void run_alike(struct gp_engine *e, struct talk *talks, const uint32_t *alike, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct talk *t = &talks[i];
		struct load l = { 0 };

		t->n_prompt = 380;
		t->max_new = 15;
		for (uint32_t k = 0; k < t->n_prompt; k++)
			t->prompt[k] = i && k < alike[i] ? talks[i - 1].prompt[k]
							 : (uint32_t)((k * 31 + i * 77 + 5) % 512);
		run(&l, e, t, 1);
	}
}

/* What others have had computed is not computed again, and changes nothing. */
static void test_prefixes(void **state)
{
	enum { N = 5 };
	static const uint32_t alike[N] = { 0, 380, 379, 330, 20 };
	struct gp_engine *with = open_engine((struct gp_engine_options){ .plan = {
		.stages = "cpu:0-3,cpu:4-7", .max_sequences = 2, .prefixes = 2 } });
	struct gp_engine *without = open_plain("cpu:0-7", 2);
	struct talk *a = calloc(N, sizeof *a), *b = calloc(N, sizeof *b);
	struct gp_engine_stats s;

	(void)state;
	assert_true(a && b);
	run_alike(with, a, alike, N);
	run_alike(without, b, alike, N);
	assert_same(a, b, N);
	gp_engine_stats(with, &s);
	/* The last token of a prompt always runs. */
	assert_int_equal(s.prefix_tokens, 379 + 379 + 330);
	assert_int_equal(s.stage[0].rows, N * (380 + 14) - s.prefix_tokens);
	gp_engine_stats(without, &s);
	assert_int_equal(s.stage[0].rows, N * (380 + 14));
	gp_engine_destroy(with);
	gp_engine_destroy(without);
	free(a);
	free(b);
}

/* A full cache: the sequence that goes on in a block that it shares with a prefix can only
 * have it to itself once the prefix is gone. */
static void test_prefix_in_a_full_cache(void **state)
{
	enum { N = 3 };
	static const uint32_t lengths[N] = { 70, 80, 127 };
	struct gp_engine *e = open_engine((struct gp_engine_options){ .plan = {
		.stages = "cpu:0-7", .max_sequences = 1, .context = 128, .prefixes = 4 } });
	struct gp_engine *without = open_plain("cpu:0-7", 1);
	struct talk *a = calloc(N, sizeof *a), *b = calloc(N, sizeof *b);

	(void)state;
	assert_true(a && b);
	for (size_t i = 0; i < N; i++) {
		struct load with = { 0 }, plain = { 0 };

		a[i].n_prompt = lengths[i];
		a[i].max_new = 128 - lengths[i];
		for (uint32_t k = 0; k < lengths[i]; k++)
			a[i].prompt[k] = (k * 31 + 5) % 512;
		b[i] = a[i];
		run(&with, e, &a[i], 1);
		run(&plain, without, &b[i], 1);
	}
	assert_same(a, b, N);
	gp_engine_destroy(e);
	gp_engine_destroy(without);
	free(a);
	free(b);
}

/* Long prompts are kept at every 512th position as well: two that have the first 600
 * in common, and nothing after them. */
static void test_prefix_in_the_middle(void **state)
{
	enum { N = 1500, NEW = 10 };
	struct gp_engine *e = open_engine((struct gp_engine_options){ .plan = {
		.stages = "cpu:0-3,cpu:4-7", .prefixes = 8 } });
	struct gp_engine *without = open_plain("cpu:0-7", 1);
	uint32_t *ids = calloc(N, sizeof *ids), id;
	struct gp_engine_stats s;

	(void)state;
	assert_non_null(ids);
	for (uint32_t round = 0; round < 2; round++) {
		struct talk talk[2] = { 0 };
		struct load l[2] = { { .engine = e }, { .engine = without } };

		for (uint32_t k = 0; k < N; k++)
			ids[k] = (k * 13 + (k >= 600 ? round * 7 : 0)) % 512;
		for (size_t i = 0; i < 2; i++) {
			const struct gp_request r = { .prompt = ids, .n_prompt = N, .max_new = NEW,
						      .user = &talk[i], .on_token = on_token,
						      .on_done = on_done };

			talk[i].load = &l[i];
			assert_int_equal(gp_engine_submit(l[i].engine, &r, &id), 0);
			assert_int_equal(gp_engine_run(l[i].engine), 0);
		}
		assert_same(&talk[0], &talk[1], 1);
	}
	gp_engine_stats(e, &s);
	assert_int_equal(s.prefix_tokens, 512);
	gp_engine_destroy(e);
	gp_engine_destroy(without);
	free(ids);
}

static uint64_t reused(struct gp_engine *e)
{
	struct gp_engine_stats s;

	gp_engine_stats(e, &s);
	return s.prefix_tokens;
}

/* Three prompts together or one by one; each goes on by a token of its own per turn. */
static void run_turn(struct gp_engine *e, uint32_t turn, bool alike, bool together)
{
	enum { SAME = 1100, TALKS_OF_TURN = 3 };
	struct talk talks[TALKS_OF_TURN] = { 0 };
	struct load l = { .engine = e };
	uint32_t *ids = calloc(SAME + turn, sizeof *ids), id;

	assert_non_null(ids);
	for (uint32_t i = 0; i < TALKS_OF_TURN; i++) {
		const struct gp_request r = { .prompt = ids, .n_prompt = SAME + turn, .max_new = 1,
					      .user = &talks[i], .on_token = on_token, .on_done = on_done };

		for (uint32_t k = 0; k < SAME + turn; k++)
			ids[k] = (k * 13 + (alike ? 0 : i * 101)) % 512;
		talks[i].load = &l;
		assert_int_equal(gp_engine_submit(e, &r, &id), 0);
		if (!together)
			assert_int_equal(gp_engine_run(e), 0);
	}
	assert_int_equal(gp_engine_run(e), 0);
	for (uint32_t i = 0; i < TALKS_OF_TURN; i++)
		assert_true(talks[i].done && talks[i].tokens[0] == talks[i % (alike ? 1 : 3)].tokens[0]);
	free(ids);
}

/* The pieces of long prompts do not push out the ends of conversations. */
static void test_prefixes_of_conversations(void **state)
{
	struct gp_engine *e = open_engine((struct gp_engine_options){ .plan = {
		.stages = "cpu:0-7", .max_sequences = 3, .prefixes = 4 } });

	(void)state;
	run_turn(e, 0, false, false);
	assert_int_equal(reused(e), 0);
	run_turn(e, 1, false, false);
	assert_int_equal(reused(e), 3 * 1100);
	run_turn(e, 2, false, false);
	assert_int_equal(reused(e), 3 * 1100 + 3 * 1101);
	gp_engine_destroy(e);
}

/* Prompts that come at once and begin alike wait for the first of them to be so far. */
static void test_prefix_that_comes(void **state)
{
	struct gp_engine *e = open_engine((struct gp_engine_options){ .plan = {
		.stages = "cpu:0-3,cpu:4-7", .max_sequences = 3, .prefixes = 4 } });

	(void)state;
	run_turn(e, 0, true, true);
	assert_int_equal(reused(e), 2 * 1024);
	gp_engine_destroy(e);
}

/* Tokens of one go on while another's prompt comes, in small pieces where steps must be
 * short and in one where they need not. */
static void test_steps_stay_short(void **state)
{
	static const float most_ms[] = { 0.0001f, 1e6f };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(most_ms); i++) {
		struct gp_engine *e = open_engine((struct gp_engine_options){
			.max_step_ms = most_ms[i], .plan = { .max_sequences = 2 } });
		struct talk *talks = mixed(2);
		struct load l = { 0 };

		talks[0].max_new = 60;
		talks[1].arrives = 10;
		run(&l, e, talks, 2);
		/* 300 rows, 16 a step, one token of the other in each. */
		assert_in_range(talks[1].first_at, i == 0 ? 10 + 18 : 11, i == 0 ? 10 + 21 : 13);
		assert_memory_equal(talks[0].tokens, wanted[0].tokens,
				    wanted[0].n * sizeof(uint32_t));
		assert_same(&talks[1], &wanted[1], 1);
		free(talks);
		gp_engine_destroy(e);
	}
}

static void test_queue_is_limited(void **state)
{
	struct gp_engine *e = open_engine((struct gp_engine_options){ .max_queue = 2 });
	struct talk *talks = mixed(3);
	struct load l = { .engine = e, .talks = talks, .n = 3 };
	const struct gp_request r = { .prompt = talks[2].prompt, .n_prompt = 2, .max_new = 2 };
	uint32_t id;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		talks[i].load = &l;
		talks[i].submitted = true;
		submit(&talks[i]);
	}
	assert_int_equal(gp_engine_submit(e, &r, &id), -EAGAIN);
	talks[2].submitted = true;
	assert_int_equal(gp_engine_run(e), 0);
	assert_int_equal(gp_engine_submit(e, &r, &id), 0);
	assert_int_equal(gp_engine_run(e), 0);
	free(talks);
	gp_engine_destroy(e);
}

/* ---- from another thread ---------------------------------------------------- */

static void *serve(void *arg)
{
	return (void *)(intptr_t)gp_engine_serve(arg);
}

struct remote {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t tokens[MOST], n, ended;
	enum gp_finish why;
};

static int remote_token(void *user, uint32_t token, bool is_stop)
{
	struct remote *r = user;

	(void)is_stop;
	pthread_mutex_lock(&r->lock);
	r->tokens[r->n++] = token;
	pthread_cond_signal(&r->changed);
	pthread_mutex_unlock(&r->lock);
	return 0;
}

static void remote_done(void *user, enum gp_finish why)
{
	struct remote *r = user;

	pthread_mutex_lock(&r->lock);
	r->ended++;
	r->why = why;
	pthread_cond_signal(&r->changed);
	pthread_mutex_unlock(&r->lock);
}

/* Until there are so many tokens, or the end came. */
static void await(struct remote *r, uint32_t n, uint32_t ended)
{
	pthread_mutex_lock(&r->lock);
	while (r->n < n && r->ended < ended)
		pthread_cond_wait(&r->changed, &r->lock);
	pthread_mutex_unlock(&r->lock);
}

/* How long the first token takes of one that finds everything idle: the engine is woken,
 * it does not look in ten times a second. The best of some tries, for a busy machine. */
static uint64_t shortest_wait(struct gp_engine *e, const struct gp_request *q, struct remote *r)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 5; i++) {
		uint32_t id;

		sleep_ms(5);
		r->n = r->ended = 0;
		const uint64_t start = gp_now_ns();
		assert_int_equal(gp_engine_submit(e, q, &id), 0);
		await(r, 1, 1);
		const uint64_t took = gp_now_ns() - start;
		best = took < best ? took : best;
		await(r, MOST, 1);
		assert_int_equal(r->why, GP_FINISH_LENGTH);
		assert_memory_equal(r->tokens, wanted[0].tokens, wanted[0].n * sizeof(uint32_t));
	}
	return best;
}

static void test_serve(void **state)
{
	struct gp_engine *e = open_plain("cpu:0-3,cpu:4-7", 2);
	struct remote r = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
	struct talk *talks = mixed(1);
	struct gp_request q = { .prompt = talks->prompt, .n_prompt = talks->n_prompt, .user = &r,
				.max_new = wanted[0].n, .on_token = remote_token,
				.on_done = remote_done };
	pthread_t thread;
	uint32_t id;
	void *rc;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, serve, e), 0);
	assert_true(shortest_wait(e, &q, &r) < 70000000u);
	r.n = r.ended = 0;
	q.max_new = MOST;
	assert_int_equal(gp_engine_submit(e, &q, &id), 0);
	await(&r, 5, 1);
	gp_engine_cancel(e, id);
	await(&r, MOST, 1);
	assert_int_equal(r.why, GP_FINISH_CANCELLED);
	assert_int_equal(gp_engine_submit(e, &q, &id), 0);
	gp_engine_interrupt(e);
	pthread_join(thread, &rc);
	assert_int_equal((intptr_t)rc, 0);
	gp_engine_destroy(e);
	free(talks);
}

static int set_up(void **state)
{
	(void)state;
	snprintf(bin_dir, sizeof bin_dir, "%s", program("run"));
	*strrchr(bin_dir, '/') = '\0';
	wanted = alone(TALKS);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	free(wanted);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mixed_arrivals), cmocka_unit_test(test_worker_killed_under_load),
		cmocka_unit_test(test_cancel), cmocka_unit_test(test_cancel_in_flight),
		cmocka_unit_test(test_cancel_waiting),
		cmocka_unit_test(test_owners_share), cmocka_unit_test(test_priorities),
		cmocka_unit_test(test_preemption), cmocka_unit_test(test_prefixes),
		cmocka_unit_test(test_prefix_in_the_middle),
		cmocka_unit_test(test_prefix_in_a_full_cache),
		cmocka_unit_test(test_prefixes_of_conversations),
		cmocka_unit_test(test_prefix_that_comes),
		cmocka_unit_test(test_steps_stay_short),
		cmocka_unit_test(test_queue_is_limited),
		cmocka_unit_test(test_serve),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

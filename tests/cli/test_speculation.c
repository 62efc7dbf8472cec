/* Guessed tokens change nothing but the speed: tokens and their probabilities are bit for bit
 * those without guesses, whoever guesses, however wrong. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "coordinator/coordinator.h"
#include "tests/common/process.h"

#define MODEL "tests/data/gemma3-random-text"

enum { PROMPT = 200, NEW = 150, TALKS = 8, VOCAB = 512 };

static char bin_dir[4096];

/* One request and what came of it. */
struct talk {
	struct gp_request request;
	uint32_t prompt[PROMPT], forced[NEW], tokens[NEW], n, id, cancel_at;
	float logprobs[NEW];
	enum gp_finish why;
	struct load *load;
};

struct load {
	struct gp_engine *engine;
	uint32_t total, kill_at;
	pid_t victim;
};

static struct gp_engine *open_engine(struct gp_engine_options o)
{
	struct gp_engine *e;

	o.model = o.model ? o.model : MODEL;
	o.worker_dir = bin_dir;
	o.plan.threads = 1;
	o.plan.kv_type = -1;
	if (gp_engine_create(&e, &o) < 0)
		fail_msg("%s", gp_error());
	return e;
}

static int on_token(void *user, uint32_t token, bool is_stop)
{
	struct talk *t = user;

	(void)is_stop;
	t->tokens[t->n++] = token;
	if (t->n == t->cancel_at)
		gp_engine_cancel(t->load->engine, t->id);
	if (t->load->victim && ++t->load->total == t->load->kill_at)
		kill(t->load->victim, SIGKILL);
	return 0;
}

static void on_logprobs(void *user, uint32_t token, float logprob, const struct gp_slot_candidate *top)
{
	struct talk *t = user;

	(void)token, (void)top;
	t->logprobs[t->n] = logprob;
}

static void on_done(void *user, enum gp_finish why)
{
	struct talk *t = user;

	t->why = why;
}

/* Runs talks side by side. */
static void run(struct load *l, struct gp_engine *e, struct talk *talks, size_t n)
{
	l->engine = e;
	for (size_t i = 0; i < n; i++) {
		struct talk *t = &talks[i];

		t->load = l;
		t->n = 0;
		t->request.prompt = t->prompt;
		t->request.user = t;
		t->request.on_token = on_token;
		t->request.on_done = on_done;
		assert_int_equal(gp_engine_submit(e, &t->request, &t->id), 0);
	}
	assert_int_equal(gp_engine_run(e), 0);
}

/* Texts whose course is given: they repeat their prompt, more or less. Logits of what they
 * hold come as probabilities, which show any trace of a guess. */
static struct talk *recorded(void)
{
	struct talk *talks = calloc(TALKS, sizeof *talks);
	uint32_t x = 1;

	assert_non_null(talks);
	for (uint32_t i = 0; i < TALKS; i++) {
		struct talk *t = &talks[i];

		t->request.n_prompt = PROMPT - i * 9;
		t->request.max_new = NEW - i;
		t->request.forced = t->forced;
		t->request.n_forced = NEW;
		t->request.on_logprobs = on_logprobs;
		for (uint32_t k = 0; k < PROMPT; k++)
			t->prompt[k] = (k * 7919 + i * 104729 + k * k) % VOCAB;
		for (uint32_t k = 0; k < NEW; k++) {
			x = x * 1103515245u + 12345u;
			t->forced[k] = x / 65536 % 16 < i ? x / 97 % VOCAB : t->prompt[k];
		}
	}
	return talks;
}

static void assert_same(const struct talk *a, const struct talk *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(a[i].why, b[i].why);
		assert_int_equal(a[i].n, b[i].n);
		assert_memory_equal(a[i].tokens, b[i].tokens, a[i].n * sizeof a[i].tokens[0]);
		assert_memory_equal(a[i].logprobs, b[i].logprobs, sizeof a[i].logprobs);
	}
}

static struct talk *wanted; /* of recorded(), without guesses */

static void check_recorded(struct gp_engine_options o, struct load l)
{
	struct gp_engine *e;
	struct talk *talks = recorded();
	struct gp_engine_stats s;

	o.lookup = 15;
	o.all_guesses = true;
	e = open_engine(o);
	gp_engine_stats(e, &s);
	l.victim = l.kill_at ? (pid_t)s.stage[s.n_stages - 1].pid : 0;
	run(&l, e, talks, TALKS);
	assert_same(talks, wanted, TALKS);
	gp_engine_stats(e, &s);
	assert_true(s.looked_up.proposed > s.looked_up.accepted);
	assert_true(s.looked_up.accepted > 50);
	assert_int_equal(s.stage[s.n_stages - 1].restarts, l.kill_at > 0);
	assert_int_equal(s.preempted > 0, o.plan.kv_tokens > 0);
	gp_engine_destroy(e);
	free(talks);
}

/* Alone, where most guesses are made, and side by side; more sequences than steps have room
 * for guesses of; several stages. */
static void test_recorded(void **state)
{
	static const char *const stages[] = { "cpu:0-7", "cpu:0-3,cpu:4-7", "cpu:0-2,cpu:3-4,cpu:5-7" };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(stages); i++)
		check_recorded((struct gp_engine_options){
			.plan = { .stages = stages[i], .max_sequences = 1 + 2 * (uint32_t)i,
				  .prefixes = (uint32_t)i } }, (struct load){ 0 });
}

static void test_worker_killed(void **state)
{
	(void)state;
	check_recorded((struct gp_engine_options){
		.plan = { .stages = "cpu:0-3,cpu:4-7", .max_sequences = 2 } },
		(struct load){ .kill_at = 333 });
}

/* Guesses take no block that another needs; those who make room begin again. */
static void test_preemption(void **state)
{
	(void)state;
	check_recorded((struct gp_engine_options){
		.plan = { .max_sequences = 4, .context = 400, .kv_tokens = 832 } }, (struct load){ 0 });
}

/* While guesses are on their way; the slot is another's at once. */
static void test_cancel(void **state)
{
	struct gp_engine *e = open_engine((struct gp_engine_options){
		.lookup = 15, .all_guesses = true,
		.plan = { .stages = "cpu:0-3,cpu:4-7", .max_sequences = 1, .prefixes = 4 } });
	struct talk *talks = recorded();
	struct load l = { 0 };

	(void)state;
	for (size_t i = 0; i < TALKS; i += 2)
		talks[i].cancel_at = 20 + (uint32_t)i;
	run(&l, e, talks, TALKS);
	for (size_t i = 0; i < TALKS; i++) {
		assert_int_equal(talks[i].why, i % 2 ? GP_FINISH_LENGTH : GP_FINISH_CANCELLED);
		assert_memory_equal(talks[i].logprobs, wanted[i].logprobs,
				    talks[i].n * sizeof(float));
	}
	gp_engine_destroy(e);
	free(talks);
}

/* A conversation whose last turn ended among guesses goes on as one that never had any. */
static void test_goes_on(void **state)
{
	struct talk *got[2];

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		struct gp_engine *e = open_engine((struct gp_engine_options){ .lookup = 15 * i,
										   .all_guesses = true });
		struct talk *t = got[i] = recorded();
		struct load l = { 0 };

		/* The forced tokens go on as the prompt did, and end at a stop. */
		t->request.stops = &t->forced[77];
		t->request.n_stops = 1;
		t->request.keep = true;
		t->request.n_prompt = 100;
		run(&l, e, t, 1);
		assert_int_equal(t->why, GP_FINISH_STOP);
		t->request.reuse = t->id;
		memcpy(t->prompt + 100, t->forced, 70 * sizeof *t->prompt);
		t->request.n_prompt = 170;
		t->request.n_stops = 0;
		run(&l, e, t, 1);
		gp_engine_destroy(e);
	}
	assert_same(got[0], got[1], 1);
	free(got[0]);
	free(got[1]);
}

/* ---- tokens that are drawn ------------------------------------------------------ */

/* Greedy and drawn texts of a trained model, which repeats itself a lot. */
static struct talk *free_texts(size_t n)
{
	struct talk *talks = calloc(n, sizeof *talks);

	assert_non_null(talks);
	for (size_t i = 0; i < n; i++) {
		struct talk *t = &talks[i];

		t->request.n_prompt = 24;
		t->request.max_new = 100;
		for (uint32_t k = 0; k < 24; k++)
			t->prompt[k] = 500 + k % 8 * 31 + (uint32_t)i;
		if (i)
			t->request.sampling = (struct gp_sampling){
				.temperature = 0.3f + 0.2f * (float)(i % 4), .top_k = 5 + (uint32_t)i,
				.top_p = i % 2 ? 0.9f : 0, .seed = i,
				.repeat_penalty = i % 3 == 2 ? 1.1f : 0,
				.frequency_penalty = i % 4 == 3 ? 0.5f : 0 };
	}
	return talks;
}

static struct talk *free_wanted;
enum { FREE = 6 };

static struct gp_guess_stats check_free(struct gp_engine_options o, const char *victim_of)
{
	struct talk *talks = free_texts(FREE);
	struct load l = { 0 };
	struct gp_engine_stats s;

	o.model = MINI;
	struct gp_engine *e = open_engine(o);
	if (victim_of) {
		pid_t pids[4];

		assert_int_equal(process_workers(getpid(), pids, 4), 2);
		gp_engine_stats(e, &s);
		l.victim = pids[0] == (pid_t)s.stage[0].pid ? pids[1] : pids[0];
		l.kill_at = 120;
	}
	run(&l, e, talks, FREE);
	assert_same(talks, free_wanted, FREE);
	gp_engine_stats(e, &s);
	gp_engine_destroy(e);
	free(talks);
	return o.draft ? s.drafted : s.looked_up;
}

static void test_lookup_of_free_texts(void **state)
{
	(void)state;
	for (uint32_t sequences = 1; sequences < 4; sequences += 2)
		assert_true(check_free((struct gp_engine_options){
			.lookup = 15, .all_guesses = sequences > 1,
			.plan = { .max_sequences = sequences } }, NULL).proposed > 0);
}

/* The model drafts for itself, so it is always right: greedy, and where tokens are drawn. */
static void test_draft_alike(void **state)
{
	(void)state;
	for (uint32_t sequences = 1; sequences < 4; sequences += 2) {
		const struct gp_guess_stats s = check_free((struct gp_engine_options){
			.draft = MINI, .all_guesses = true, .plan = { .max_sequences = sequences } }, NULL);

		/* Frequency penalties know more than the draft does. */
		assert_true(s.accepted > 50);
		assert_true(s.accepted >= s.proposed * 8 / 10);
	}
}

static void test_draft_killed(void **state)
{
	(void)state;
	assert_true(check_free((struct gp_engine_options){
		.draft = MINI, .all_guesses = true, .plan = { .max_sequences = 2 } }, "draft")
		.accepted > 20);
}

static void test_draft_of_another_vocabulary(void **state)
{
	const struct gp_engine_options o = { .model = MINI, .draft = "tests/data/gemma3-mini-tokenizer",
					     .worker_dir = bin_dir, .plan = { .kv_type = -1 } };
	struct gp_engine *e = NULL;

	(void)state;
	assert_true(gp_engine_create(&e, &o) < 0);
	assert_non_null(strstr(gp_error(), "draft model tests/data/gemma3-mini-tokenizer"));
	assert_null(e);
}

/* ---- many draws ------------------------------------------------------------------ */

enum { DRAWS = 1500, TOP = 6, FREE_TOKENS = 3, FIRST = 4, GUESS = 27 };

/* Tokens 1 and 2 of many requests that differ in their seeds; token 0 is given. */
struct draws {
	struct gp_engine *engine;
	struct draw {
		struct draws *all;
		uint32_t tokens[FREE_TOKENS], n;
	} draw[DRAWS];
	uint32_t begun;
	/* What the sampler may choose from at each place, where the guesses before it were right,
	 * by the model's own logarithms of probabilities. */
	struct gp_slot_candidate top[FREE_TOKENS][TOP];
	struct gp_logit_bias bias; /* makes the guess as likely as the likeliest */
};

static int on_draw(void *user, uint32_t token, bool is_stop)
{
	struct draw *draw = user;

	(void)is_stop;
	draw->tokens[draw->n++] = token;
	return 0;
}

/* The token is the guess, whose bias puts it first, now and wherever it comes near. */
static void on_top(void *user, uint32_t token, float logprob, const struct gp_slot_candidate *top)
{
	struct draw *draw = user;
	struct gp_slot_candidate *to = draw->all->top[draw->n];
	const uint32_t last = TOP - 1;
	uint32_t n = 1;

	if (draw->n == 1)
		draw->all->bias = (struct gp_logit_bias){ token, top[0].logit - logprob };
	to[0] = (struct gp_slot_candidate){ logprob + draw->all->bias.bias, token };
	for (uint32_t i = 0; i < TOP && n < TOP; i++)
		if (top[i].id != token)
			to[n++] = top[i];
	if (to[0].logit < top[last].logit)
		to[0] = top[last];
}

static void on_drawn(void *user, enum gp_finish why);

/* A text of the same 20 tokens again and again; token 0 goes on with that, and so do the
 * guesses. */
static void draw_next(struct draws *d, struct gp_request r)
{
	static const uint32_t forced[] = { FIRST, GP_UNFORCED, GP_UNFORCED };
	struct draw *draw = &d->draw[d->begun++];
	uint32_t prompt[60], id;

	for (uint32_t i = 0; i < 60; i++)
		prompt[i] = i % 20 * (GUESS - FIRST) + FIRST;
	draw->all = d;
	draw->n = 0;
	r.prompt = prompt;
	r.n_prompt = 60;
	r.max_new = FREE_TOKENS;
	r.user = draw;
	r.on_token = on_draw;
	r.forced = r.forced ? r.forced : forced;
	r.n_forced = FREE_TOKENS;
	assert_int_equal(gp_engine_submit(d->engine, &r, &id), 0);
}

static void draw_one(struct draws *d)
{
	draw_next(d, (struct gp_request){
		.sampling = { .temperature = 1.2f, .top_k = TOP, .seed = d->begun * 7919ull,
			      .bias = &d->bias, .n_bias = 1 },
		.on_done = on_drawn });
}

static void on_drawn(void *user, enum gp_finish why)
{
	struct draw *draw = user;

	(void)why;
	if (draw->all->begun < DRAWS)
		draw_one(draw->all);
}

/* What the model says along the guesses. */
static void look_along(struct draws *d)
{
	static const uint32_t forced[] = { FIRST, GUESS, GUESS };

	draw_next(d, (struct gp_request){ .forced = forced, .no_guesses = true, .n_top = TOP,
					  .on_logprobs = on_top });
	assert_int_equal(gp_engine_run(d->engine), 0);
	d->begun = 0;
}

/* How far the tokens at a place are from what the model says. */
static double chi_square(const struct draws *d, uint32_t at, uint32_t *n)
{
	double weights[TOP], sum = 0, chi = 0;
	uint32_t counts[TOP] = { 0 };

	*n = 0;
	for (uint32_t k = 0; k < TOP; k++)
		sum += weights[k] = exp((double)d->top[at][k].logit / (double)1.2f);
	for (uint32_t i = 0; i < DRAWS; i++) {
		const uint32_t *t = d->draw[i].tokens;

		if (at == 2 && t[1] != GUESS)
			continue;
		++*n;
		for (uint32_t k = 0; k < TOP; k++)
			counts[k] += t[at] == d->top[at][k].id;
	}
	for (uint32_t k = 0; k < TOP; k++) {
		const double want = *n * weights[k] / sum;

		chi += (counts[k] - want) * (counts[k] - want) / want;
	}
	return chi;
}

/* Tokens that are drawn where guesses are verified are as likely as the model says, also
 * those after a guess that was right: that it was, tells nothing of them. */
static void test_distribution(void **state)
{
	struct draws *d = calloc(1, sizeof *d);
	struct gp_engine_stats s;
	uint32_t n;

	(void)state;
	assert_non_null(d);
	d->engine = open_engine((struct gp_engine_options){
		.lookup = 15, .all_guesses = true, .plan = { .max_sequences = 2, .prefixes = 4 } });
	look_along(d);
	for (uint32_t i = 0; i < 3; i++)
		draw_one(d);
	assert_int_equal(gp_engine_run(d->engine), 0);
	gp_engine_stats(d->engine, &s);
	assert_true(s.looked_up.proposed > DRAWS / 4);
	assert_true(s.looked_up.accepted > DRAWS / 20);
	/* 5 degrees of freedom: above 25.7 once in 10,000 times. The seeds are fixed. */
	assert_true(chi_square(d, 1, &n) < 25.7);
	assert_int_equal(n, DRAWS);
	assert_true(chi_square(d, 2, &n) < 25.7);
	assert_true(n > DRAWS / 20);
	gp_engine_destroy(d->engine);
	free(d);
}

static int set_up(void **state)
{
	struct gp_engine *e;
	struct load l = { 0 };

	(void)state;
	snprintf(bin_dir, sizeof bin_dir, "%s", program("run"));
	*strrchr(bin_dir, '/') = '\0';
	e = open_engine((struct gp_engine_options){ .plan = { .max_sequences = 4 } });
	run(&l, e, wanted = recorded(), TALKS);
	gp_engine_destroy(e);
	e = open_engine((struct gp_engine_options){ .model = MINI, .plan = { .max_sequences = 3 } });
	run(&l, e, free_wanted = free_texts(FREE), FREE);
	gp_engine_destroy(e);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	free(wanted);
	free(free_wanted);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_recorded), cmocka_unit_test(test_worker_killed),
		cmocka_unit_test(test_preemption), cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_goes_on), cmocka_unit_test(test_lookup_of_free_texts),
		cmocka_unit_test(test_draft_alike), cmocka_unit_test(test_draft_killed),
		cmocka_unit_test(test_draft_of_another_vocabulary), cmocka_unit_test(test_distribution),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

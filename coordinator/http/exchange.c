/* A request and its answer in the making. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/http/http.h"

int buffer_add(struct buffer *b, const char *data, size_t bytes)
{
	if (b->room - b->n < bytes) {
		const size_t room = 2 * (b->n + bytes) + 256;
		char *more = realloc(b->data, room);

		if (!more)
			return gp_fail(ENOMEM, "no memory for %zu bytes", room);
		b->data = more;
		b->room = room;
	}
	if (bytes)
		memcpy(b->data + b->n, data, bytes);
	b->n += bytes;
	return 0;
}

int buffer_add_text(struct buffer *b, const char *text)
{
	return buffer_add(b, text, strlen(text));
}

struct exchange *exchange_create(struct server *s, struct MHD_Connection *c)
{
	struct exchange *x = calloc(1, sizeof *x);

	if (!x)
		return NULL;
	pthread_mutex_init(&x->lock, NULL);
	x->server = s;
	x->connection = c;
	x->refs = 1;
	atomic_fetch_add(&s->exchanges, 1);
	x->id = atomic_fetch_add(&s->next_id, 1) + 1;
	x->begin_ns = gp_now_ns();
	x->created = time(NULL);
	return x;
}

void exchange_drop(struct exchange *x)
{
	if (atomic_fetch_sub(&x->refs, 1) != 1)
		return;
	for (uint32_t i = 0; i < x->n_choices; i++) {
		gp_text_destroy(x->choices[i].text);
		free(x->choices[i].all.data);
		logprobs_free(&x->choices[i].logprobs);
	}
	exchange_drop_body(x);
	free(x->choices);
	ask_free(&x->ask);
	free(x->out.data);
	atomic_fetch_sub(&x->server->exchanges, 1);
	pthread_mutex_destroy(&x->lock);
	free(x);
}

/* What is small is not counted: bodies that take their time do not keep it out. */
static bool has_room(struct exchange *x, size_t bytes)
{
	_Atomic size_t *all = &x->server->body_bytes;
	const size_t n = x->body.n + bytes, more = n - x->body_counted;

	if (n <= HTTP_SMALL_BODY)
		return true;
	if (atomic_fetch_add(all, more) + more > HTTP_MAX_BODIES) {
		atomic_fetch_sub(all, more);
		return false;
	}
	x->body_counted = n;
	return true;
}

int exchange_take_body(struct exchange *x, const char *data, size_t bytes)
{
	if (x->body.n + bytes > x->server->max_body)
		return -EFBIG;
	return has_room(x, bytes) && buffer_add(&x->body, data, bytes) == 0 ? 0 : -ENOBUFS;
}

void exchange_drop_body(struct exchange *x)
{
	atomic_fetch_sub(&x->server->body_bytes, x->body_counted);
	free(x->body.data);
	x->body = (struct buffer){ 0 };
	x->body_counted = 0;
}

void exchange_suspend(struct exchange *x)
{
	x->suspended = true;
	MHD_suspend_connection(x->connection);
}

static void resume(struct exchange *x)
{
	if (!x->suspended)
		return;
	x->suspended = false;
	MHD_resume_connection(x->connection);
}

static void cancel_all(struct exchange *x)
{
	for (uint32_t i = 0; i < x->n_choices; i++)
		if (x->choices[i].id && !x->choices[i].done)
			gp_engine_cancel(x->server->engine, x->choices[i].id);
}

static void leave(struct exchange *x)
{
	if (x->gone)
		return;
	x->gone = true;
	cancel_all(x);
	resume(x);
}

void exchange_gone(struct exchange *x)
{
	pthread_mutex_lock(&x->lock);
	leave(x);
	pthread_mutex_unlock(&x->lock);
}

/* ---- the engine's thread ---------------------------------------------------------- */

/* A failure ends the answer. That of a stream has begun, and says so itself. */
static void give_up(struct exchange *x, int rc, const char *why)
{
	if (x->rc < 0)
		return;
	gp_log(GP_LOG_WARNING, "request %llu: %s", (unsigned long long)x->id,
	       rc == -ECANCELED ? why : gp_error());
	x->rc = rc;
	cancel_all(x);
	if (x->ask.stream && !x->gone && answer_failure(x, why) < 0)
		leave(x);
}

static void fail(struct exchange *x, int rc)
{
	give_up(x, rc, "the answer could not be finished");
}

/* Who does not read is not waited for, but holds memory. */
static void check_unread(struct exchange *x)
{
	if (x->out.n - x->sent <= HTTP_MAX_UNREAD || x->gone)
		return;
	gp_log(GP_LOG_WARNING, "request %llu: its client does not read its stream; it is closed",
	       (unsigned long long)x->id);
	leave(x);
}

static int add_text(struct choice *c, const char *text, size_t bytes)
{
	if (!c->exchange->ask.stream)
		return buffer_add(&c->all, text, bytes);
	return answer_piece(c->exchange, c, text, bytes, false);
}

static void measure(struct choice *c)
{
	struct metrics *m = &c->exchange->server->metrics;
	const uint64_t now = gp_now_ns();

	atomic_fetch_add(&m->generated_tokens, 1);
	if (c->n_tokens++)
		histogram_add(&m->between, now - c->last_ns);
	else
		histogram_add(&m->first, now - c->exchange->begin_ns);
	c->last_ns = now;
}

static int on_token(void *user, uint32_t token, bool is_stop)
{
	struct choice *c = user;
	struct exchange *x = c->exchange;
	const char *text;
	size_t bytes;
	int rc = 0;

	pthread_mutex_lock(&x->lock);
	measure(c);
	const bool goes_on = !is_stop && x->rc == 0 && !x->gone;
	if (goes_on)
		rc = gp_text_push(c->text, token, &text, &bytes);
	c->stopped = rc == 1;
	if (goes_on && rc >= 0)
		rc = add_text(c, text, bytes);
	if (rc < 0)
		fail(x, rc);
	check_unread(x);
	if (x->ask.stream)
		resume(x);
	const bool enough = c->stopped || rc < 0 || x->rc < 0 || x->gone;
	pthread_mutex_unlock(&x->lock);
	return enough;
}

static void on_logprobs(void *user, uint32_t token, float logprob,
			const struct gp_slot_candidate *top)
{
	struct choice *c = user;

	if (!c->exchange->ask.ignore_eos &&
	    gp_tokenizer_is_stop(c->exchange->server->tokenizer, token))
		return;
	pthread_mutex_lock(&c->exchange->lock);
	const int rc = logprobs_add(c, token, logprob, top, c->exchange->ask.n_top);
	if (rc < 0)
		fail(c->exchange, rc);
	pthread_mutex_unlock(&c->exchange->lock);
}

static int end_choice(struct choice *c)
{
	struct exchange *x = c->exchange;
	const char *text;
	size_t bytes;
	int rc = gp_text_flush(c->text, &text, &bytes);

	if (rc < 0)
		return rc;
	c->stopped |= rc == 1;
	if (!x->ask.stream)
		return buffer_add(&c->all, text, bytes);
	return answer_piece(x, c, text, bytes, true);
}

static void on_done(void *user, enum gp_finish why)
{
	struct choice *c = user;
	struct exchange *x = c->exchange;
	struct metrics *m = &x->server->metrics;
	int rc = 0;

	pthread_mutex_lock(&x->lock);
	c->done = true;
	c->why = why;
	/* Whose client left may end by a token that came meanwhile. */
	atomic_fetch_add(&m->cancelled, x->gone);
	if (why == GP_FINISH_FAILED)
		fail(x, -EIO);
	else if (why != GP_FINISH_CANCELLED)
		rc = x->rc == 0 ? end_choice(c) : 0;
	else if (x->gone)
		x->rc = x->rc ? x->rc : -ECANCELED;
	else
		give_up(x, -ECANCELED, "the server is shutting down");
	if (++x->n_done == x->n_choices && rc == 0 && x->rc == 0 && x->ask.stream)
		rc = answer_end(x);
	if (rc < 0)
		fail(x, rc);
	if (x->n_done == x->n_choices) {
		histogram_add(&m->whole, gp_now_ns() - x->begin_ns);
		visitor_turn(&x->server->visitors, x->visitor, true);
	}
	if (x->ask.stream || x->n_done == x->n_choices || x->rc < 0)
		resume(x);
	pthread_mutex_unlock(&x->lock);
	exchange_drop(x);
}

/* ---- submission ---------------------------------------------------------------------- */

static int submit_choice(struct exchange *x, uint32_t i)
{
	struct choice *c = &x->choices[i];
	const struct prompt *p = &x->ask.prompts[i / x->ask.n];
	const struct gp_vocab *v = gp_tokenizer_vocab(x->server->tokenizer);
	uint32_t stops[2];
	size_t n_stops = 0;

	if (v->eos >= 0 && !x->ask.ignore_eos)
		stops[n_stops++] = (uint32_t)v->eos;
	if (v->end_of_turn >= 0 && !x->ask.ignore_eos)
		stops[n_stops++] = (uint32_t)v->end_of_turn;
	struct gp_request r = {
		.prompt = p->ids, .n_prompt = p->n, .max_new = x->ask.max_new,
		.sampling = x->ask.sampling, .stops = stops, .n_stops = n_stops,
		.priority = x->ask.priority, .owner = x->key ? x->key : x->ask.user, .tenant = x->key,
		.user = c, .on_token = on_token, .on_done = on_done,
	};
	r.sampling.seed += i % x->ask.n;
	if (x->ask.logprobs) {
		r.on_logprobs = on_logprobs;
		r.n_top = x->ask.n_top;
	}
	c->exchange = x;
	c->index = i;
	int rc = gp_text_create(&c->text, x->server->tokenizer,
				(const char *const *)x->ask.stops, x->ask.n_stops);
	if (rc < 0)
		return rc;
	atomic_fetch_add(&x->refs, 1);
	rc = gp_engine_submit(x->server->engine, &r, &c->id);
	if (rc < 0)
		exchange_drop(x);
	return rc;
}

static int make_choices(struct exchange *x)
{
	const uint32_t n = x->ask.n * (uint32_t)x->ask.n_prompts;

	x->choices = calloc(n, sizeof *x->choices);
	if (!x->choices)
		return gp_fail(ENOMEM, "no memory for %u answers", n);
	x->n_choices = n;
	return 0;
}

/* The lock is held throughout: what the engine has to say waits until all is there. */
int exchange_submit(struct exchange *x)
{
	uint64_t tokens = 0;
	int rc;

	pthread_mutex_lock(&x->lock);
	rc = make_choices(x);
	if (rc == 0 && x->ask.stream)
		rc = answer_begin(x);
	for (uint32_t i = 0; i < x->n_choices && rc == 0; i++)
		rc = submit_choice(x, i);
	if (rc < 0) {
		x->rc = rc;
		cancel_all(x);
	}
	pthread_mutex_unlock(&x->lock);
	/* The engine has its own. */
	for (size_t i = 0; i < x->ask.n_prompts; i++) {
		tokens += x->ask.prompts[i].n;
		free(x->ask.prompts[i].ids);
		x->ask.prompts[i].ids = NULL;
	}
	atomic_fetch_add(&x->server->metrics.prompt_tokens, rc == 0 ? tokens : 0);
	return rc;
}

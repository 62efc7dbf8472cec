/* A smaller model of the same vocabulary that guesses. It runs in an engine and workers of
 * its own, which are given the sequences' tokens and asked for a few more; between two
 * requests its caches keep a sequence, and take back what was guessed wrong. Its sampler
 * draws by the random numbers that the model's own will draw by: where both models think
 * alike, they choose alike. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/engine_internal.h"

#define CATCH_UP 128u   /* tokens of a prompt, at most, that the pipeline waits for at a time */
#define WEIGHT 0.25     /* of the newest */

struct gp_draft {
	struct gp_engine *engine;
	uint32_t vocab;         /* of the model that it guesses for */
	double token_ns;
	bool broken;
};

/* ---- life ------------------------------------------------------------------------- */

static int compare(const struct gp_vocab *a, const struct gp_vocab *b)
{
	const size_t n = a->n < b->n ? a->n : b->n;

	for (size_t i = 0; i < n; i++)
		if (a->text_bytes[i] != b->text_bytes[i] ||
		    memcmp(a->text[i], b->text[i], a->text_bytes[i]) != 0)
			return gp_fail(EINVAL, "token %zu is another one in it; a draft model needs the "
				       "vocabulary of the model", i);
	return 0;
}

/* Models without a tokenizer are taken at their word. */
static int check_vocabulary(const char *model, const char *draft)
{
	struct gp_tokenizer *a = NULL, *b = NULL;
	int rc = gp_tokenizer_open(&a, model);

	if (rc == 0)
		rc = gp_tokenizer_open(&b, draft);
	if (rc == 0)
		rc = compare(gp_tokenizer_vocab(a), gp_tokenizer_vocab(b));
	gp_tokenizer_close(a);
	gp_tokenizer_close(b);
	return rc == -ENOENT ? 0 : rc;
}

static int trained_context(const char *path, uint32_t *context)
{
	struct gp_model *m;
	const int rc = gp_model_open(&m, path);

	if (rc < 0)
		return rc;
	*context = gp_model_config(m)->context;
	gp_model_close(m);
	return 0;
}

int gp_draft_check(const struct gp_engine *e, uint32_t *context)
{
	const char *draft = e->options.draft;
	int rc = trained_context(draft, context);

	if (rc == 0)
		rc = check_vocabulary(gp_model_path(e->model), draft);
	return rc < 0 ? gp_fail_in(rc, "draft model %s", draft) : 0;
}

static int open_engine(struct gp_draft *d, const struct gp_engine *e, uint32_t context)
{
	struct gp_engine_options o = e->options;

	o.plan = (struct gp_plan_request){
		.stages = o.draft_stages, .threads = e->options.plan.threads, .kv_type = -1,
		.max_sequences = e->plan.max_sequences, .prefixes = e->plan.prefixes,
		.context = context < e->plan.context ? context : e->plan.context,
		.n_cpus = e->options.plan.n_cpus,
	};
	o.model = o.draft;
	o.trace = o.draft = NULL;
	o.lookup = 0;
	o.max_queue = 0; /* whoever has a seat may ask */
	return gp_engine_create(&d->engine, &o);
}

int gp_draft_create(struct gp_draft **out, const struct gp_engine *e, uint32_t context)
{
	struct gp_draft *d = calloc(1, sizeof *d);
	int rc;

	if (!d)
		return gp_fail(ENOMEM, "no memory for a draft model");
	d->vocab = gp_engine_config(e)->vocab;
	/* Visible before its workers are up, as an engine is: a signal must reach a long load. */
	*out = d;
	if ((rc = open_engine(d, e, context)) < 0) {
		*out = NULL;
		free(d);
		return gp_fail_in(rc, "draft model %s", e->options.draft);
	}
	return 0;
}

void gp_draft_destroy(struct gp_draft *d)
{
	if (!d)
		return;
	gp_engine_destroy(d->engine);
	free(d);
}

void gp_draft_interrupt(struct gp_draft *d)
{
	if (d && d->engine)
		gp_engine_interrupt(d->engine);
}

bool gp_draft_takes(const struct gp_draft *d, const struct job *j, uint32_t guesses)
{
	return !d->broken && j->n_tokens + guesses <= d->engine->plan.context;
}

double gp_draft_token_ns(const struct gp_draft *d)
{
	return d->token_ns;
}

/* ---- guessing --------------------------------------------------------------------- */

/* Tokens of j that are in its caches. */
static uint32_t has_seen(const struct gp_draft *d, const struct job *j)
{
	for (uint32_t i = 0; j->draft_id && i < d->engine->plan.max_sequences; i++) {
		const struct job *kept = d->engine->slots[i];

		if (kept && kept->id == j->draft_id)
			return kept->sent;
	}
	return 0;
}

static int on_token(void *user, uint32_t token, bool is_stop)
{
	struct job *j = user;

	(void)is_stop;
	j->tokens[j->n_tokens + j->n_guessed++] = token;
	return 0;
}

/* One that is far behind, at first or after a long prompt, gets on with that and guesses
 * nothing. */
static bool submit(struct gp_draft *d, struct job *j, uint32_t guesses)
{
	const uint32_t seen = has_seen(d, j);
	const bool behind = j->n_tokens > seen && j->n_tokens - seen > CATCH_UP;
	struct gp_request r = {
		.prompt = j->tokens, .n_prompt = behind ? seen + CATCH_UP : j->n_tokens,
		.max_new = behind ? 0 : guesses, .reuse = j->draft_id, .keep = true, .user = j,
		.on_token = on_token,
	};

	if (!guesses)
		return false;
	gp_sampler_settings(j->sampler, &r.sampling);
	return gp_engine_submit(d->engine, &r, &j->draft_id) == 0 && !behind;
}

static void forget_unknown(const struct gp_draft *d, struct job *j)
{
	uint32_t n = 0;

	while (n < j->n_guessed && j->tokens[j->n_tokens + n] < d->vocab)
		n++;
	j->n_guessed = n;
}

static void run(struct gp_draft *d)
{
	const int rc = gp_engine_run(d->engine);

	if (rc == 0 || rc == -EINTR)
		return;
	gp_log(GP_LOG_WARNING, "the draft model fails, requests go on without: %s", gp_error());
	d->broken = true;
}

void gp_draft_guess(struct gp_draft *d, struct job **jobs, struct gp_bet *bets, uint32_t n,
		    uint32_t depth)
{
	const uint64_t start = gp_now_ns();
	bool all = true, any = false;

	for (uint32_t i = 0; i < n; i++) {
		const bool guesses = submit(d, jobs[i], bets[i].offered);

		any |= guesses;
		all &= guesses;
	}
	run(d);
	for (uint32_t i = 0; i < n; i++) {
		forget_unknown(d, jobs[i]);
		bets[i].offered = jobs[i]->n_guessed;
	}
	const double ns = (double)(gp_now_ns() - start) / depth;
	if (all && any)
		d->token_ns += d->token_ns > 0 ? WEIGHT * (ns - d->token_ns) : ns;
}

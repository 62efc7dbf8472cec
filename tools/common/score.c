#include "tools/common/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "quantize/quantize.h"
#include "tools/common/divergence.h"

/* ---- what to score ------------------------------------------------------------- */
int score_option(struct score_text *t, struct cli *c, int o, const char *help)
{
	uint64_t v = 0;
	int rc;

	switch (o) {
	case 'f':
		t->file = optarg;
		return 0;
	case SCORE_IDS:
		t->ids_file = optarg;
		return 0;
	case CLI_CTX: /* here the context is the chunk */
		return gp_parse_u64("--ctx", optarg, 2, 1u << 24, &t->ctx);
	case SCORE_CHUNKS:
		return gp_parse_u64("--chunks", optarg, 1, UINT32_MAX, &t->most_chunks);
	case SCORE_SKIP:
		return gp_parse_u64("--skip", optarg, 0, 1u << 24, &t->skip);
	case SCORE_PARALLEL:
		rc = gp_parse_u64("--parallel", optarg, 1, 256, &v);
		c->plan.max_sequences = (uint32_t)v;
		return rc;
	default:
		return cli_option(c, o, help);
	}
}

int score_check_usage(const struct score_text *t, const struct cli *c)
{
	if (!c->model || (t->file != NULL) + (t->ids_file != NULL) != 1)
		return cli_misused(c, "a model and one of -f and --ids are needed");
	/* The last id's prediction is of the next chunk. */
	if (t->skip + 1 >= t->ctx)
		return cli_misused(c, "--skip %llu leaves nothing to score of --ctx %llu",
				   (unsigned long long)t->skip, (unsigned long long)t->ctx);
	return 0;
}

static int encode_file(struct score_text *t, const char *model)
{
	struct gp_tokenizer *tokenizer;
	char *text;
	size_t bytes;
	int rc;

	if ((rc = gp_tokenizer_open(&tokenizer, model)) < 0)
		return rc;
	if ((rc = cli_read_file(t->file, &text, &bytes)) == 0) {
		rc = gp_tokenizer_encode(tokenizer, text, bytes, 0, &t->ids, &t->n_ids);
		free(text);
	}
	gp_tokenizer_close(tokenizer);
	return rc < 0 ? gp_fail_in(rc, "%s", t->file) : 0;
}

int score_read(struct score_text *t, const char *model)
{
	const int rc = t->file ? encode_file(t, model) : npy_read_ids(t->ids_file, &t->ids, &t->n_ids);

	if (rc < 0)
		return rc;
	t->n_chunks = (size_t)(t->n_ids / t->ctx);
	if (t->most_chunks && t->most_chunks < t->n_chunks)
		t->n_chunks = (size_t)t->most_chunks;
	if (!t->n_chunks)
		return gp_fail(EINVAL, "%s: %zu ids are less than one chunk of %llu; give a longer text or "
			       "a smaller --ctx", t->file ? t->file : t->ids_file, t->n_ids, (unsigned long long)t->ctx);
	t->per_chunk = (size_t)(t->ctx - 1 - t->skip);
	t->n = t->n_chunks * t->per_chunk;
	return 0;
}

void score_finish(struct score_text *t)
{
	free(t->ids);
	t->ids = NULL;
}

/* ---- scoring ---------------------------------------------------------------------- */
struct scoring {
	struct cli *cli;
	const struct score_text *text;
	const char *label;
	int (*on_row)(void *user, const struct score_row *row);
	void *user;
	uint32_t vocab, bos;
	uint64_t began_ns;
	double nll;             /* of the chunks that are done */
	size_t n_done;
	int rc;                 /* on_row's failure */
	char why[GP_ERROR_BYTES];
};

struct chunk {
	struct scoring *all;
	size_t index;
	double nll;
};

static void on_logits(void *user, uint32_t pos, const float *logits)
{
	struct chunk *c = user;
	struct scoring *s = c->all;
	const struct score_text *t = s->text;

	if (pos < t->skip || s->rc < 0)
		return;
	struct score_row row = {
		.i = c->index * t->per_chunk + pos - (size_t)t->skip, .logits = logits,
		.vocab = s->vocab, .log_sum = gp_log_sum_exp(logits, s->vocab),
	};
	row.nll = row.log_sum - (double)logits[t->ids[c->index * (size_t)t->ctx + pos]];
	c->nll += row.nll;
	if ((s->rc = s->on_row(s->user, &row)) < 0) {
		snprintf(s->why, sizeof s->why, "%s", gp_error());
		gp_engine_interrupt(s->cli->engine);
	}
}

static void show_progress(const struct scoring *s)
{
	const size_t n = s->text->n_chunks, left = n - s->n_done;
	const double perplexity = exp(s->nll / (double)(s->n_done * s->text->per_chunk));
	const double took = (double)(gp_now_ns() - s->began_ns) / 1e9;
	char time[32];

	gp_duration_text(time, took * (double)left / (double)s->n_done);
	if (!s->cli->quiet && isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[K%schunk %zu of %zu, perplexity %.4f, %s left%s", s->label,
			s->n_done, n, perplexity, time, left ? "" : "\n");
	else if (!s->cli->quiet)
		gp_log(GP_LOG_INFO, "%schunk %zu of %zu, perplexity %.4f, %s left", s->label,
		       s->n_done, n, perplexity, time);
}

static void on_done(void *user, enum gp_finish why)
{
	struct chunk *c = user;

	if (why >= GP_FINISH_CANCELLED)
		return;
	c->all->nll += c->nll;
	c->all->n_done++;
	show_progress(c->all);
}

static int submit_chunk(struct scoring *s, struct chunk *c, uint32_t *input)
{
	const size_t ctx = (size_t)s->text->ctx;
	uint32_t id;

	input[0] = s->bos;
	memcpy(input + 1, s->text->ids + c->index * ctx, (ctx - 1) * sizeof *input);
	/* The last input id's prediction would need an id past the chunk. */
	const struct gp_request r = {
		.prompt = input, .n_prompt = ctx - 1, .user = c,
		.on_logits = on_logits, .on_done = on_done,
	};
	return gp_engine_submit(s->cli->engine, &r, &id);
}

static int run_chunks(struct scoring *s)
{
	const size_t n = s->text->n_chunks;
	struct chunk *chunks = calloc(n, sizeof *chunks);
	uint32_t *input = calloc((size_t)s->text->ctx, sizeof *input);
	int rc = chunks && input ? 0 : gp_fail(ENOMEM, "no memory for %zu chunks", n);

	for (size_t i = 0; i < n && rc == 0; i++) {
		chunks[i] = (struct chunk){ .all = s, .index = i };
		rc = submit_chunk(s, &chunks[i], input);
	}
	if (rc == 0)
		rc = gp_engine_run(s->cli->engine);
	free(input);
	free(chunks);
	return s->rc < 0 ? gp_fail(-s->rc, "%s", s->why) : rc;
}

static int check_ids(const struct scoring *s, int32_t bos)
{
	for (size_t i = 0; i < s->text->n_ids; i++)
		if (s->text->ids[i] >= s->vocab)
			return gp_fail(EINVAL, "id %u at position %zu is not in the vocabulary of %u",
				       s->text->ids[i], i, s->vocab);
	if (bos < 0)
		return gp_fail(EINVAL, "%s: names no <bos> token, which the measure begins with",
			       s->cli->model);
	return 0;
}

int score_run(struct cli *c, const struct score_text *t, const char *label,
	      int (*on_row)(void *user, const struct score_row *row), void *user)
{
	const struct gp_config *config = gp_engine_config(c->engine);
	struct scoring s = {
		.cli = c, .text = t, .label = label, .on_row = on_row, .user = user,
		.vocab = config->vocab, .bos = (uint32_t)config->bos, .began_ns = gp_now_ns(),
	};
	int rc;

	if ((rc = check_ids(&s, config->bos)) < 0 || (rc = run_chunks(&s)) < 0)
		return rc;
	if (!isfinite(exp(s.nll / (double)t->n)))
		return gp_fail(EDOM, "%s: its logits are not finite; the weights are broken",
			       c->model);
	return 0;
}

/* gempipe perplexity: how well a model predicts a text. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "tools/common/cli.h"

static const char help[] =
	"Usage: gempipe perplexity -m MODEL -f TEXT | --ids F.npy [options]\n"
	"Cuts the ids into chunks; the input of a chunk is <bos> and all but its last id,\n"
	"and it is scored on those ids. JSON: {\"perplexity\", \"mean_nll\", \"tokens\"}.\n\n"
	"  -f, --file TEXT        a UTF-8 text (- : stdin)\n"
	"      --ids F.npy        token ids instead of a text\n"
	"      --ctx N            ids in a chunk (default 512)\n"
	"      --chunks N         only the first N chunks\n"
	"      --parallel N       chunks in flight at once (default 1)\n"
	CLI_JSON_HELP CLI_ENGINE_HELP
	"\nExample:\n"
	"  gempipe perplexity -m MODEL -f wiki.test.raw --json\n";

enum { OPT_IDS = CLI_FIRST_OWN, OPT_CHUNKS, OPT_PARALLEL };

static const struct option options[] = {
	CLI_ENGINE_OPTIONS,
	{ "file", required_argument, NULL, 'f' }, { "ids", required_argument, NULL, OPT_IDS },
	{ "chunks", required_argument, NULL, OPT_CHUNKS },
	{ "parallel", required_argument, NULL, OPT_PARALLEL },
	{ 0 },
};

struct perplexity {
	struct cli cli;
	const char *file, *ids_file;
	uint64_t chunk, chunks;
	uint32_t *ids;
	size_t n_ids, n_chunks, n_done;
	uint32_t bos;
	double nll;
	uint64_t tokens;
};

struct chunk {
	struct perplexity *all;
	const uint32_t *ids;
	double nll;
};

static int own_option(struct perplexity *p, int o)
{
	uint64_t v = 0;
	int rc = 0;

	switch (o) {
	case 'f':
		p->file = optarg;
		return 0;
	case OPT_IDS:
		p->ids_file = optarg;
		return 0;
	case CLI_CTX:
		return gp_parse_u64("--ctx", optarg, 2, 1u << 24, &p->chunk);
	case OPT_CHUNKS:
		return gp_parse_u64("--chunks", optarg, 1, UINT32_MAX, &p->chunks);
	default:
		rc = gp_parse_u64("--parallel", optarg, 1, 256, &v);
		p->cli.plan.max_sequences = (uint32_t)v;
		return rc;
	}
}

static int read_arguments(struct perplexity *p, int argc, char **argv)
{
	int o, rc;

	while ((o = getopt_long(argc, argv, CLI_ENGINE_LETTERS "f:", options, NULL)) != -1) {
		if (o == '?')
			return cli_bad_option(&p->cli, argv);
		/* Here the context is the chunk. */
		rc = o == CLI_CTX ? 1 : cli_option(&p->cli, o, help);
		if (rc == 1)
			rc = own_option(p, o);
		if (rc < 0)
			return cli_misused(&p->cli, "%s", gp_error());
	}
	if (optind < argc)
		return cli_misused(&p->cli, "'%s' is no option", argv[optind]);
	if (!p->cli.model || (p->file != NULL) + (p->ids_file != NULL) != 1)
		return cli_misused(&p->cli, "-m and one of -f and --ids are needed");
	return 0;
}

static int encode_file(struct perplexity *p)
{
	struct gp_tokenizer *t;
	char *text;
	size_t bytes;
	int rc;

	if ((rc = gp_tokenizer_open(&t, p->cli.model)) < 0)
		return rc;
	if ((rc = cli_read_file(p->file, &text, &bytes)) == 0) {
		rc = gp_tokenizer_encode(t, text, bytes, 0, &p->ids, &p->n_ids);
		free(text);
	}
	gp_tokenizer_close(t);
	return rc < 0 ? gp_fail_in(rc, "%s", p->file) : 0;
}

/* -log softmax(row)[target], in double. */
static double nll_of(const float *row, uint32_t vocab, uint32_t target)
{
	double max = (double)row[0], sum = 0;

	/* A NaN goes through into the sum, and from there into the result. */
	for (uint32_t i = 1; i < vocab; i++)
		max = (double)row[i] > max ? (double)row[i] : max;
	for (uint32_t i = 0; i < vocab; i++)
		sum += exp((double)row[i] - max);
	return max + log(sum) - (double)row[target];
}

static void on_logits(void *user, uint32_t pos, const float *row)
{
	struct chunk *c = user;

	c->nll += nll_of(row, gp_engine_config(c->all->cli.engine)->vocab, c->ids[pos]);
}

static void on_done(void *user, enum gp_finish why)
{
	struct chunk *c = user;
	struct perplexity *p = c->all;

	if (why == GP_FINISH_CANCELLED)
		return;
	p->nll += c->nll;
	p->tokens += p->chunk - 1;
	p->n_done++;
	const double perplexity = exp(p->nll / (double)p->tokens);

	if (!p->cli.quiet && isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[K%zu of %zu chunks, perplexity %.4f%s", p->n_done,
			p->n_chunks, perplexity, p->n_done == p->n_chunks ? "\n" : "");
	else if (!p->cli.quiet)
		gp_log(GP_LOG_INFO, "chunk %zu of %zu, perplexity %.4f", p->n_done, p->n_chunks,
		       perplexity);
}

static int submit_chunk(struct perplexity *p, struct chunk *c, uint32_t *input)
{
	uint32_t id;

	input[0] = p->bos;
	for (size_t i = 1; i < p->chunk; i++)
		input[i] = c->ids[i - 1];
	/* The last input id's prediction would need an id past the chunk. */
	const struct gp_request r = {
		.prompt = input, .n_prompt = p->chunk - 1, .user = c,
		.on_logits = on_logits, .on_done = on_done,
	};
	return gp_engine_submit(p->cli.engine, &r, &id);
}

static int score(struct perplexity *p)
{
	struct chunk *chunks = calloc(p->n_chunks, sizeof *chunks);
	uint32_t *input = calloc(p->chunk, sizeof *input);
	int rc = chunks && input ? 0 : gp_fail(ENOMEM, "no memory for %zu chunks", p->n_chunks);

	for (size_t i = 0; i < p->n_chunks && rc == 0; i++) {
		chunks[i] = (struct chunk){ .all = p, .ids = p->ids + i * p->chunk };
		rc = submit_chunk(p, &chunks[i], input);
	}
	if (rc == 0)
		rc = gp_engine_run(p->cli.engine);
	free(input);
	free(chunks);
	return rc;
}

static int check_ids(struct perplexity *p)
{
	const struct gp_config *c = gp_engine_config(p->cli.engine);

	for (size_t i = 0; i < p->n_ids; i++)
		if (p->ids[i] >= c->vocab)
			return gp_fail(EINVAL, "id %u at position %zu is not in the vocabulary of %u",
				       p->ids[i], i, c->vocab);
	if (c->bos < 0)
		return gp_fail(EINVAL, "%s: names no <bos> token, which the measure begins with",
			       p->cli.model);
	p->bos = (uint32_t)c->bos;
	return 0;
}

static int print_result(const struct perplexity *p)
{
	const double mean = p->nll / (double)p->tokens;

	if (!isfinite(exp(mean)))
		return gp_fail(EDOM, "%s: its logits are not finite; the weights are broken",
			       p->cli.model);

	if (p->cli.json)
		printf("{\"perplexity\": %.6f, \"mean_nll\": %.8f, \"tokens\": %llu}\n", exp(mean),
		       mean, (unsigned long long)p->tokens);
	else
		printf("perplexity %.4f (mean -log p %.6f over %llu tokens)\n", exp(mean), mean,
		       (unsigned long long)p->tokens);
	return cli_flush_stdout();
}

static int measure(struct perplexity *p)
{
	int rc = p->file ? encode_file(p) : npy_read_ids(p->ids_file, &p->ids, &p->n_ids);

	if (rc < 0)
		return rc;
	p->n_chunks = p->n_ids / p->chunk;
	if (p->chunks && p->chunks < p->n_chunks)
		p->n_chunks = (size_t)p->chunks;
	if (!p->n_chunks)
		return gp_fail(EINVAL, "%s: %zu ids are less than one chunk of %llu",
			       p->file ? p->file : p->ids_file, p->n_ids,
			       (unsigned long long)p->chunk);
	p->cli.plan.context = (uint32_t)p->chunk;
	if ((rc = cli_open_engine(&p->cli)) < 0 || (rc = check_ids(p)) < 0 || (rc = score(p)) < 0)
		return rc;
	if ((rc = print_result(p)) == 0 && !p->cli.quiet)
		cli_print_stats(&p->cli, stderr);
	return rc;
}

int main(int argc, char **argv)
{
	struct perplexity p = { .chunk = 512 };
	int status;

	cli_init(&p.cli, "perplexity");
	if ((status = read_arguments(&p, argc, argv)) != 0)
		return status;
	if (measure(&p) < 0)
		status = cli_failed(&p.cli);
	status = cli_close_engine(&p.cli, status);
	free(p.ids);
	return status;
}

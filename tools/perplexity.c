/* gempipe perplexity: how well a model predicts a text. */
#include <math.h>
#include <stdlib.h>

#include "tools/common/cli.h"
#include "tools/common/divergence.h"
#include "tools/common/score.h"

static const char help[] =
	"Usage: gempipe perplexity -m MODEL -f TEXT | --ids F.npy [options]\n"
	"Cuts the ids into chunks; the input of a chunk is <bos> and all but its last id,\n"
	"and it is scored on those ids. JSON: {\"perplexity\", \"mean_nll\", \"tokens\"}.\n\n"
	"  -f, --file TEXT        a UTF-8 text (- : stdin)\n"
	SCORE_HELP CLI_JSON_HELP CLI_ENGINE_HELP
	"\nExample:\n"
	"  gempipe perplexity -m MODEL -f wiki.test.raw --json\n";

static const struct option options[] = { CLI_ENGINE_OPTIONS, SCORE_OPTIONS, { 0 } };

struct perplexity {
	struct cli cli;
	struct score_text text;
	double *nll;
};

static int read_arguments(struct perplexity *p, int argc, char **argv)
{
	int o;

	while ((o = getopt_long(argc, argv, CLI_ENGINE_LETTERS SCORE_LETTERS, options, NULL)) != -1) {
		if (o == '?')
			return cli_bad_option(&p->cli, argv);
		if (score_option(&p->text, &p->cli, o, help) < 0)
			return cli_misused(&p->cli, "%s", gp_error());
	}
	if (optind < argc)
		return cli_misused(&p->cli, "'%s' is no option", argv[optind]);
	return score_check_usage(&p->text, &p->cli);
}

static int take_row(void *user, const struct score_row *row)
{
	struct perplexity *p = user;

	p->nll[row->i] = row->nll;
	return 0;
}

static int print_result(const struct perplexity *p)
{
	const double mean = mean_of(p->nll, p->text.n).value;

	if (p->cli.json)
		printf("{\"perplexity\": %.6f, \"mean_nll\": %.8f, \"tokens\": %zu}\n", exp(mean),
		       mean, p->text.n);
	else
		printf("perplexity %.4f (mean -log p %.6f over %zu tokens)\n", exp(mean), mean,
		       p->text.n);
	return cli_flush_stdout();
}

static int measure(struct perplexity *p)
{
	int rc;

	if ((rc = score_read(&p->text, p->cli.model)) < 0)
		return rc;
	p->nll = calloc(p->text.n, sizeof *p->nll);
	if (!p->nll)
		return gp_fail(ENOMEM, "no memory for %zu scored ids", p->text.n);
	p->cli.plan.context = (uint32_t)p->text.ctx;
	if ((rc = cli_open_engine(&p->cli)) < 0 ||
	    (rc = score_run(&p->cli, &p->text, "", take_row, p)) < 0 || (rc = print_result(p)) < 0)
		return rc;
	if (!p->cli.quiet)
		cli_print_stats(&p->cli, stderr);
	return 0;
}

int main(int argc, char **argv)
{
	struct perplexity p = { .text = { .ctx = 512 } };
	int status;

	cli_init(&p.cli, "perplexity");
	if ((status = read_arguments(&p, argc, argv)) != 0)
		return status;
	const int rc = measure(&p);
	if (rc == -EINTR)
		status = 130;
	else if (rc < 0)
		status = cli_failed(&p.cli);
	status = cli_close_engine(&p.cli, status);
	score_finish(&p.text);
	free(p.nll);
	return status;
}

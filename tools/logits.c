/* gempipe logits: teacher-forced logits of a list of token ids. */
#include <stdlib.h>

#include "tools/common/cli.h"

static const char help[] =
	"Usage: gempipe logits -m MODEL --ids 2,5,17|@FILE --out F.npy [options]\n"
	"Writes float32 [ids, vocabulary]: row i follows ids 0..i. Ids are taken as they\n"
	"are; no <bos> is added.\n\n"
	"      --ids LIST         token ids, or @FILE with one list in it\n"
	"  -o, --out FILE         the .npy file to write\n"
	CLI_CTX_HELP CLI_ENGINE_HELP
	"\nExample:\n"
	"  gempipe logits -m MODEL --ids 2,9259,1902 --out logits.npy\n";

enum { OPT_IDS = CLI_FIRST_OWN };

static const struct option options[] = {
	CLI_ENGINE_OPTIONS,
	{ "ids", required_argument, NULL, OPT_IDS }, { "out", required_argument, NULL, 'o' },
	{ 0 },
};

struct logits {
	struct cli cli;
	const char *ids_text, *out;
	uint32_t *ids;
	size_t n;
	struct npy_writer *npy;
	int rc;
};

static int read_arguments(struct logits *l, int argc, char **argv)
{
	int o, rc;

	while ((o = getopt_long(argc, argv, CLI_ENGINE_LETTERS "o:", options, NULL)) != -1) {
		if (o == '?')
			return cli_bad_option(&l->cli, argv);
		rc = cli_option(&l->cli, o, help);
		if (rc == 1 && o == 'o')
			l->out = optarg;
		else if (rc == 1)
			l->ids_text = optarg;
		if (rc < 0)
			return cli_misused(&l->cli, "%s", gp_error());
	}
	if (optind < argc)
		return cli_misused(&l->cli, "'%s' is no option", argv[optind]);
	if (!l->cli.model || !l->ids_text || !l->out)
		return cli_misused(&l->cli, "-m, --ids and --out are needed");
	if (l->cli.json)
		return cli_misused(&l->cli, "logits are written as .npy, there is no --json");
	if (cli_parse_ids(l->ids_text, &l->ids, &l->n) < 0)
		return cli_misused(&l->cli, "%s", gp_error());
	return 0;
}

static void on_logits(void *user, uint32_t pos, const float *row)
{
	struct logits *l = user;

	(void)pos; /* they come in order */
	if (l->rc == 0)
		l->rc = npy_write_row(l->npy, row);
}

/* Before the weights are loaded: can the file be written? */
static int create_output(struct logits *l)
{
	struct gp_model *m;
	int rc = gp_model_open(&m, l->cli.model);

	if (rc < 0)
		return rc;
	rc = npy_create(&l->npy, l->out, l->n, gp_model_config(m)->vocab);
	gp_model_close(m);
	return rc;
}

static int compute(struct logits *l)
{
	const struct gp_request r = {
		.prompt = l->ids, .n_prompt = l->n, .user = l, .on_logits = on_logits,
	};
	uint32_t id;
	int rc;

	if ((rc = create_output(l)) < 0 || (rc = cli_open_engine(&l->cli)) < 0 ||
	    (rc = gp_engine_submit(l->cli.engine, &r, &id)) < 0 ||
	    (rc = gp_engine_run(l->cli.engine)) < 0 || (rc = l->rc) < 0)
		return rc;
	struct npy_writer *w = l->npy;
	l->npy = NULL;
	if ((rc = npy_finish(w)) == 0 && !l->cli.quiet)
		cli_print_stats(&l->cli, stderr);
	return rc;
}

int main(int argc, char **argv)
{
	struct logits l = { 0 };
	int status;

	cli_init(&l.cli, "logits");
	if ((status = read_arguments(&l, argc, argv)) != 0)
		return status;
	if (compute(&l) < 0)
		status = cli_failed(&l.cli);
	npy_abandon(l.npy);
	status = cli_close_engine(&l.cli, status);
	free(l.ids);
	return status;
}

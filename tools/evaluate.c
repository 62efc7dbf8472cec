/* gempipe evaluate: what a quantised model has kept of its reference. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "tools/common/cli.h"
#include "quantize/quantize.h"
#include "tools/common/divergence.h"
#include "tools/common/reference.h"
#include "tools/common/score.h"

static const char help[] =
	"Usage: gempipe evaluate MODEL --reference SOURCE --text F | --ids F.npy [options]\n"
	"Scores a text with both models, one after the other: perplexity, KL divergence,\n"
	"top-1 agreement, probability differences, and retention = ppl_ref / ppl_quant.\n"
	"Chunks are those of gempipe perplexity. The figures' definitions: docs/quality.md\n\n"
	"      --reference PATH   the model it was made of, or what --save-reference wrote\n"
	"      --save-reference FILE  keep the reference's logits, 2 bytes each; without it they\n"
	"                         go to a file in TMPDIR or /var/tmp for the time, 4 bytes each\n"
	"      --min-retention X  exit status 1 when the retention is less\n"
	"  -f, --text TEXT        a UTF-8 text (- : stdin)\n"
	SCORE_HELP CLI_JSON_HELP CLI_ENGINE_HELP
	"\nExamples:\n"
	"  gempipe evaluate q4_0.gguf --reference bf16.gguf --text wiki.test.raw\n"
	"  gempipe evaluate q4_0.gguf --reference bf16.gguf --text F --save-reference bf16.logits\n"
	"  gempipe evaluate q4_k.gguf --reference bf16.logits --text F --min-retention 0.95 --json\n";

enum { OPT_REFERENCE = SCORE_FIRST_OWN, OPT_SAVE, OPT_MIN_RETENTION };

static const struct option options[] = {
	CLI_ENGINE_OPTIONS, SCORE_OPTIONS,
	{ "text", required_argument, NULL, 'f' },
	{ "reference", required_argument, NULL, OPT_REFERENCE },
	{ "save-reference", required_argument, NULL, OPT_SAVE },
	{ "min-retention", required_argument, NULL, OPT_MIN_RETENTION },
	{ 0 },
};

struct evaluate {
	struct cli cli;
	struct score_text text;
	const char *reference_path, *save;
	double min_retention;           /* < 0: none */
	struct reference *reference;
	float *row;                     /* of the reference */
	/* By scored id; changes are model less reference. */
	double *nll, *nll_reference, *nll_change, *kl, *p_change, *p_change_squared;
	double *agrees;                 /* 1 or 0: is the likeliest id the same? */
};

/* ---- arguments --------------------------------------------------------------------- */
static int parse_share(const char *name, const char *text, double *out)
{
	char *end;

	*out = strtod(text, &end);
	if (end == text || *end || !(*out >= 0 && *out <= 1))
		return gp_fail(EINVAL, "%s: '%s' is no number from 0 to 1", name, text);
	return 0;
}

static int take_option(struct evaluate *e, int o)
{
	switch (o) {
	case OPT_REFERENCE:
		e->reference_path = optarg;
		return 0;
	case OPT_SAVE:
		e->save = optarg;
		return 0;
	case OPT_MIN_RETENTION:
		return parse_share("--min-retention", optarg, &e->min_retention);
	default:
		return score_option(&e->text, &e->cli, o, help);
	}
}

static int read_arguments(struct evaluate *e, int argc, char **argv)
{
	int o;

	while ((o = getopt_long(argc, argv, CLI_ENGINE_LETTERS SCORE_LETTERS, options, NULL)) != -1) {
		if (o == '?')
			return cli_bad_option(&e->cli, argv);
		if (take_option(e, o) < 0)
			return cli_misused(&e->cli, "%s", gp_error());
	}
	if (optind < argc && !e->cli.model)
		e->cli.model = argv[optind++];
	if (optind < argc)
		return cli_misused(&e->cli, "'%s' is one model too many", argv[optind]);
	if (!e->reference_path)
		return cli_misused(&e->cli, "--reference is needed: the model to compare with");
	return score_check_usage(&e->text, &e->cli);
}

/* ---- the two passes ------------------------------------------------------------------ */
static int save_row(void *user, const struct score_row *row)
{
	const struct evaluate *e = user;

	return reference_write(e->reference, row);
}

static int compare_row(void *user, const struct score_row *row)
{
	struct evaluate *e = user;
	double nll;
	const int rc = reference_read(e->reference, row->i, &nll, e->row);

	if (rc < 0)
		return rc;
	const double p_change = exp(-row->nll) - exp(-nll);

	e->nll[row->i] = row->nll;
	e->nll_reference[row->i] = nll;
	e->nll_change[row->i] = row->nll - nll;
	e->kl[row->i] = gp_kl_divergence(e->row, gp_log_sum_exp(e->row, row->vocab), row->logits,
				      row->log_sum, row->vocab);
	e->p_change[row->i] = p_change;
	e->p_change_squared[row->i] = p_change * p_change;
	e->agrees[row->i] = largest_of(e->row, row->vocab) == largest_of(row->logits, row->vocab);
	return 0;
}

static int run_model(struct evaluate *e, const char *label,
		     int (*on_row)(void *user, const struct score_row *row))
{
	const int rc = cli_open_engine(&e->cli);

	return rc < 0 ? rc : score_run(&e->cli, &e->text, label, on_row, e);
}

/* With the model's options and workers of its own; the trace shows the model. */
static int run_reference(struct evaluate *e)
{
	const char *model = e->cli.model, *trace = e->cli.trace;
	int rc;

	e->cli.model = e->reference_path;
	e->cli.trace = NULL;
	if ((rc = run_model(e, "reference: ", save_row)) < 0 ||
	    (rc = reference_finish(e->reference)) < 0)
		return rc;
	cli_close_engine(&e->cli, 0);
	e->cli.model = model;
	e->cli.trace = trace;
	/* What came while the engine closed reached none. */
	return cli_interrupt() ? gp_fail(EINTR, "interrupted") : 0;
}

static int compute_reference(struct evaluate *e, const struct gp_config *config)
{
	struct gp_model *m;
	int rc = gp_model_open(&m, e->reference_path);

	if (rc < 0)
		return gp_fail_in(rc, "--reference");
	rc = reference_create(&e->reference, e->save, m, config, &e->text);
	gp_model_close(m);
	return rc < 0 ? rc : run_reference(e);
}

static int get_reference(struct evaluate *e, const struct gp_config *config)
{
	if (!reference_is_file(e->reference_path))
		return compute_reference(e, config);
	if (e->save)
		return gp_fail(EINVAL, "%s: is what --save-reference wrote; give a model to save it again",
			       e->reference_path);
	return reference_open(&e->reference, e->reference_path, config, &e->text);
}

static int allocate(struct evaluate *e, uint32_t vocab)
{
	double **const arrays[] = { &e->nll, &e->nll_reference, &e->nll_change, &e->kl,
				    &e->p_change, &e->p_change_squared, &e->agrees };
	bool ok = (e->row = calloc(vocab, sizeof *e->row)) != NULL;

	for (size_t i = 0; i < GP_ARRAY_LEN(arrays); i++)
		ok &= (*arrays[i] = calloc(e->text.n, sizeof(double))) != NULL;
	return ok ? 0 : gp_fail(ENOMEM, "no memory for %zu scored ids", e->text.n);
}

static void release(struct evaluate *e)
{
	double *const arrays[] = { e->nll, e->nll_reference, e->nll_change, e->kl,
				   e->p_change, e->p_change_squared, e->agrees };

	for (size_t i = 0; i < GP_ARRAY_LEN(arrays); i++)
		free(arrays[i]);
	free(e->row);
	reference_close(e->reference);
	score_finish(&e->text);
}

/* ---- figures --------------------------------------------------------------------------- */
static const char retention_text[] = "ppl_ref / ppl_quant";

struct figures {
	struct estimate nll, perplexity, nll_reference, perplexity_reference;
	struct estimate kl, agreement, p_rms, p_change, retention;
	double kl_median, kl_99, kl_999, kl_largest;
};

/* f(x) where x is known with an error, by f's slope there. */
static struct estimate exp_of(struct estimate x)
{
	return (struct estimate){ exp(x.value), exp(x.value) * x.error };
}

static struct estimate root_of(struct estimate x)
{
	const double root = sqrt(x.value);

	return (struct estimate){ root, root > 0 ? x.error / (2 * root) : 0 };
}

static int ascending(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts e->kl. */
static int work_out(struct evaluate *e, struct figures *f)
{
	const size_t n = e->text.n;
	const struct estimate worse = mean_of(e->nll_change, n);

	f->nll = mean_of(e->nll, n);
	f->nll_reference = mean_of(e->nll_reference, n);
	f->perplexity = exp_of(f->nll);
	f->perplexity_reference = exp_of(f->nll_reference);
	/* Of the pairs, whose errors are mostly the text's and the same in both models. */
	f->retention = exp_of((struct estimate){ -worse.value, worse.error });
	f->kl = mean_of(e->kl, n);
	f->agreement = mean_of(e->agrees, n);
	f->p_change = mean_of(e->p_change, n);
	f->p_rms = root_of(mean_of(e->p_change_squared, n));
	if (!isfinite(f->kl.value))
		return gp_fail(EDOM, "%s: gives no chance to what the reference may say; its weights "
			       "are broken", e->cli.model);
	qsort(e->kl, n, sizeof *e->kl, ascending);
	f->kl_median = quantile_of(e->kl, n, 0.5);
	f->kl_99 = quantile_of(e->kl, n, 0.99);
	f->kl_999 = quantile_of(e->kl, n, 0.999);
	f->kl_largest = e->kl[n - 1];
	return 0;
}

static void print_text(const struct evaluate *e, const struct figures *f)
{
	printf("perplexity       %.4f +- %.4f; of the reference, %s: %.4f +- %.4f\n",
	       f->perplexity.value, f->perplexity.error, reference_model(e->reference),
	       f->perplexity_reference.value, f->perplexity_reference.error);
	printf("KL divergence    %.6f +- %.6f in the mean; median %.6f, 99%% %.6f, 99.9%% %.6f, "
	       "largest %.6f\n", f->kl.value, f->kl.error, f->kl_median, f->kl_99, f->kl_999,
	       f->kl_largest);
	printf("top-1 agreement  %.3f%% +- %.3f%%\n", 100 * f->agreement.value,
	       100 * f->agreement.error);
	printf("probability of the text's id: changed by %.3f%% +- %.3f%% (RMS), by %+.3f%% +- %.3f%% in "
	       "the mean\n", 100 * f->p_rms.value, 100 * f->p_rms.error, 100 * f->p_change.value,
	       100 * f->p_change.error);
	printf("retention        %.5f +- %.5f = %s\n", f->retention.value, f->retention.error,
	       retention_text);
	printf("over %zu tokens in %zu chunks of %llu\n", e->text.n, e->text.n_chunks,
	       (unsigned long long)e->text.ctx);
}

static json_t *score_json(const char *path, struct estimate ppl, struct estimate nll)
{
	/* Null where it is not UTF-8. */
	json_t *name = json_string(path);

	return json_pack("{s:o, s:f, s:f, s:f, s:f}", "name", name ? name : json_null(),
			 "perplexity", ppl.value, "perplexity_error", ppl.error, "mean_nll", nll.value,
			 "mean_nll_error", nll.error);
}

static json_t *figures_json(const struct evaluate *e, const struct figures *f)
{
	const bool gated = e->min_retention >= 0;

	return json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:{s:f, s:f, s:f, s:f, s:f, s:f},"
			 " s:{s:f, s:f}, s:{s:f, s:f, s:f, s:f}, s:{s:f, s:f, s:s, s:o, s:o}}",
		"model", score_json(e->cli.model, f->perplexity, f->nll),
		"reference", score_json(reference_model(e->reference), f->perplexity_reference,
					f->nll_reference),
		"tokens", (json_int_t)e->text.n, "chunks", (json_int_t)e->text.n_chunks,
		"ctx", (json_int_t)e->text.ctx, "skip", (json_int_t)e->text.skip,
		"kl_divergence", "mean", f->kl.value, "mean_error", f->kl.error, "median", f->kl_median,
		"p99", f->kl_99, "p99_9", f->kl_999, "max", f->kl_largest,
		"top1_agreement", "value", f->agreement.value, "error", f->agreement.error,
		"probability_change", "rms", f->p_rms.value, "rms_error", f->p_rms.error,
		"mean", f->p_change.value, "mean_error", f->p_change.error,
		"retention", "value", f->retention.value, "error", f->retention.error,
		"definition", retention_text, "min", gated ? json_real(e->min_retention) : json_null(),
		"passed", gated ? json_boolean(f->retention.value >= e->min_retention) : json_null());
}

static int print_json(const struct evaluate *e, const struct figures *f)
{
	json_t *o = figures_json(e, f);

	if (!o)
		return gp_fail(ENOMEM, "no memory for the figures");
	json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
	putchar('\n');
	json_decref(o);
	return 0;
}

static int print_figures(const struct evaluate *e, const struct figures *f)
{
	const int rc = e->cli.json ? print_json(e, f) : (print_text(e, f), 0);

	return rc < 0 ? rc : cli_flush_stdout();
}

/* ---- all of it ---------------------------------------------------------------------------- */
/* From the header alone, before the reference has run for hours. */
static int read_config(const char *path, struct gp_config *config)
{
	struct gp_model *m;
	const int rc = gp_model_open(&m, path);

	if (rc < 0)
		return rc;
	*config = *gp_model_config(m);
	gp_model_close(m);
	return 0;
}

static int evaluate(struct evaluate *e)
{
	struct gp_config config;
	struct figures f = { 0 };
	int rc;

	if ((rc = read_config(e->cli.model, &config)) < 0 ||
	    (rc = score_read(&e->text, e->cli.model)) < 0)
		return rc;
	if (e->text.n < 2)
		return gp_fail(EINVAL, "standard errors need two scored ids at least; take more --chunks");
	e->cli.plan.context = (uint32_t)e->text.ctx;
	if ((rc = allocate(e, config.vocab)) < 0 || (rc = get_reference(e, &config)) < 0 ||
	    (rc = run_model(e, "", compare_row)) < 0 || (rc = work_out(e, &f)) < 0 ||
	    (rc = print_figures(e, &f)) < 0)
		return rc;
	if (!e->cli.quiet)
		cli_print_stats(&e->cli, stderr);
	if (!(f.retention.value >= e->min_retention))
		return gp_fail(ERANGE, "%s: retention %.5f is less than --min-retention %g",
			       e->cli.model, f.retention.value, e->min_retention);
	return 0;
}

int main(int argc, char **argv)
{
	struct evaluate e = { .text = { .ctx = 512 }, .min_retention = -1 };
	int status;

	cli_init(&e.cli, "evaluate");
	if ((status = read_arguments(&e, argc, argv)) != 0)
		return status;
	const int rc = evaluate(&e);
	if (rc == -EINTR)
		status = 130;
	else if (rc < 0)
		status = cli_failed(&e.cli);
	status = cli_close_engine(&e.cli, status);
	release(&e);
	return status;
}

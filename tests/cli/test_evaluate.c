/* gempipe evaluate: its figures against their definitions over gempipe's own logits,
 * the reference saved and used again, the gate, what it refuses, what it leaves behind. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "model/model.h"
#include "tests/common/process.h"
#include "tests/common/tiny_model.h"

#define TEXT "tests/data/gemma3-mini-valid.txt"

static char *folder, *quantised, *saved, *part;

static int set_up(void **state)
{
	struct result r;

	(void)state;
	/* A shell's background job ignores Ctrl-C, and would hand that on. */
	signal(SIGINT, SIG_DFL);
	folder = tiny_folder();
	quantised = tiny_path(folder, "q4_0.gguf");
	saved = tiny_path(folder, "saved");
	part = tiny_path(folder, "saved.part");
	RUN(&r, program("convert"), "-q", MINI, "-o", quantised, "--type", "q4_0");
	assert_int_equal(r.status, 0);
	result_free(&r);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	free(quantised);
	free(saved);
	free(part);
	tiny_remove(folder);
	return 0;
}

/* stdout of gempipe evaluate with these arguments, which must succeed; free(). */
static char *evaluated(const char *const *argv)
{
	struct result r;

	run_program(&r, argv);
	if (r.status != 0)
		fail_msg("status %d: %s", r.status, r.err);
	free(r.err);
	return r.out;
}
#define EVALUATE(...) \
	evaluated((const char *const[]){ program("evaluate"), __VA_ARGS__, "--json", "-q", NULL })

/* "kl_divergence.mean" */
static double figure(const json_t *o, const char *name)
{
	const char *dot = strchr(name, '.');
	char first[64];

	snprintf(first, sizeof first, "%.*s", dot ? (int)(dot - name) : 63, name);
	const json_t *v = json_object_get(o, first);
	if (dot)
		v = json_object_get(v, dot + 1);
	if (!json_is_number(v))
		fail_msg("no number %s", name);
	return json_number_value(v);
}

static json_t *parse(char *text)
{
	json_t *o = json_loads(text, 0, NULL);

	if (!o)
		fail_msg("no JSON: %s", text);
	free(text);
	return o;
}

static void assert_figure(const json_t *o, const char *name, double want, double tolerance)
{
	const double got = figure(o, name);

	if (!(fabs(got - want) <= tolerance))
		fail_msg("%s: %.12g, wanted %.12g", name, got, want);
}

/* ---- a model and itself -------------------------------------------------------------- */
static void test_same_model(void **state)
{
	static const char *const zero[] = { "kl_divergence.mean", "kl_divergence.mean_error",
					    "kl_divergence.max", "probability_change.rms",
					    "probability_change.rms_error", "retention.error" };
	json_t *o = parse(EVALUATE(MINI, "--reference", MINI, "--text", TEXT, "--chunks", "2"));
	struct result r;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(zero); i++)
		assert_figure(o, zero[i], 0, 0);
	assert_figure(o, "retention.value", 1, 0);
	assert_figure(o, "top1_agreement.value", 1, 0);
	RUN(&r, program("perplexity"), "-m", MINI, "-f", TEXT, "--chunks", "2", "--json", "-q");
	json_t *alone = parse(r.out);
	free(r.err);
	assert_figure(o, "model.perplexity", figure(alone, "perplexity"), 0.6e-6);
	assert_figure(o, "reference.perplexity", figure(alone, "perplexity"), 0.6e-6);
	assert_figure(o, "model.mean_nll", figure(alone, "mean_nll"), 0.6e-8);
	assert_figure(o, "tokens", figure(alone, "tokens"), 0);
	json_decref(alone);
	json_decref(o);
}

/* ---- two models, held against gempipe's own logits ---------------------------------------- */
enum { CTX = 24, CHUNKS = 3, SKIP = 5, PER_CHUNK = CTX - 1 - SKIP, N = CHUNKS * PER_CHUNK };

/* log p of every entry after the chunk's input, [CTX - 1][vocab]. */
static double *log_p_of(const char *model_path, const uint32_t *ids, uint32_t bos, uint32_t vocab)
{
	char list[16 * CTX], *npy = tiny_path(folder, "logits.npy");
	size_t bytes, n = (size_t)snprintf(list, sizeof list, "%u", bos);
	struct result r;

	for (uint32_t i = 0; i + 2 < CTX; i++)
		n += (size_t)snprintf(list + n, sizeof list - n, ",%u", ids[i]);
	RUN(&r, program("logits"), "-m", model_path, "--ids", list, "--out", npy, "-q");
	assert_int_equal(r.status, 0);
	result_free(&r);
	uint8_t *file = tiny_load(npy, &bytes);
	assert_int_equal(bytes, 128 + (CTX - 1) * vocab * sizeof(float));
	double *p = calloc((CTX - 1) * vocab, sizeof *p);
	assert_non_null(p);
	for (uint32_t row = 0; row < CTX - 1; row++) {
		long double sum = 0;
		float x;

		for (uint32_t v = 0; v < vocab; v++) {
			memcpy(&x, file + 128 + 4 * (row * (size_t)vocab + v), 4);
			p[row * vocab + v] = (double)x;
			sum += expl((long double)x);
		}
		for (uint32_t v = 0; v < vocab; v++)
			p[row * vocab + v] -= (double)logl(sum);
	}
	unlink(npy);
	free(npy);
	free(file);
	return p;
}

struct expected {
	double log_p[N], log_q[N], kl[N];
	unsigned same;
	size_t n;
};

static void compare_rows(struct expected *e, const double *p, const double *q, uint32_t vocab,
			 uint32_t id)
{
	uint32_t best_p = 0, best_q = 0;

	for (uint32_t v = 0; v < vocab; v++) {
		e->kl[e->n] += exp(p[v]) * (p[v] - q[v]);
		best_p = p[v] > p[best_p] ? v : best_p;
		best_q = q[v] > q[best_q] ? v : best_q;
	}
	e->same += best_p == best_q;
	e->log_p[e->n] = p[id];
	e->log_q[e->n++] = q[id];
}

static void expect(struct expected *e)
{
	struct gp_tokenizer *t;
	struct gp_model *m;
	uint32_t *ids;
	size_t bytes, n;
	uint8_t *text = tiny_load(TEXT, &bytes);

	assert_int_equal(gp_model_open(&m, MINI) | gp_tokenizer_open(&t, MINI), 0);
	const uint32_t vocab = gp_model_config(m)->vocab, bos = (uint32_t)gp_model_config(m)->bos;
	assert_int_equal(gp_tokenizer_encode(t, (const char *)text, bytes, 0, &ids, &n), 0);
	assert_true(n > CTX * CHUNKS);
	*e = (struct expected){ 0 };
	for (uint32_t c = 0; c < CHUNKS; c++) {
		const uint32_t *chunk = ids + c * CTX;
		double *p = log_p_of(MINI, chunk, bos, vocab);
		double *q = log_p_of(quantised, chunk, bos, vocab);

		for (uint32_t i = SKIP; i < CTX - 1; i++)
			compare_rows(e, p + i * vocab, q + i * vocab, vocab, chunk[i]);
		free(p);
		free(q);
	}
	free(ids);
	free(text);
	gp_tokenizer_close(t);
	gp_model_close(m);
}

static double mean(const double *x)
{
	double sum = 0;

	for (size_t i = 0; i < N; i++)
		sum += x[i] / N;
	return sum;
}

/* Of the mean. */
static double error(const double *x)
{
	const double m = mean(x);
	double squares = 0;

	for (size_t i = 0; i < N; i++)
		squares += (x[i] - m) * (x[i] - m);
	return sqrt(squares / (N - 1) / N);
}

static int ascending(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void check_kl(const json_t *o, struct expected *e)
{
	assert_figure(o, "kl_divergence.mean", mean(e->kl), 1e-9);
	assert_figure(o, "kl_divergence.mean_error", error(e->kl), 1e-9);
	qsort(e->kl, N, sizeof *e->kl, ascending);
	/* 54 values: the median and the percentiles lie between two. */
	assert_figure(o, "kl_divergence.median", (e->kl[26] + e->kl[27]) / 2, 1e-9);
	assert_figure(o, "kl_divergence.p99", e->kl[52] * 0.53 + e->kl[53] * 0.47, 1e-9);
	assert_figure(o, "kl_divergence.p99_9", e->kl[52] * 0.053 + e->kl[53] * 0.947, 1e-9);
	assert_figure(o, "kl_divergence.max", e->kl[53], 1e-9);
	assert_true(e->kl[53] > e->kl[26] && e->kl[0] > 0);
}

static void check_probabilities(const json_t *o, const struct expected *e)
{
	double change[N], squares[N], log_change[N];

	for (size_t i = 0; i < N; i++) {
		change[i] = exp(e->log_q[i]) - exp(e->log_p[i]);
		squares[i] = change[i] * change[i];
		log_change[i] = e->log_q[i] - e->log_p[i];
	}
	const double rms = sqrt(mean(squares)), kept = exp(mean(log_change));
	assert_figure(o, "probability_change.rms", rms, 1e-9);
	assert_figure(o, "probability_change.rms_error", error(squares) / 2 / rms, 1e-9);
	assert_figure(o, "probability_change.mean", mean(change), 1e-9);
	assert_figure(o, "probability_change.mean_error", error(change), 1e-9);
	assert_figure(o, "retention.value", kept, 1e-9);
	assert_figure(o, "retention.error", kept * error(log_change), 1e-9);
}

static void test_figures(void **state)
{
	struct expected e;
	json_t *o = parse(EVALUATE("-m", quantised, "--reference", MINI, "-f", TEXT, "--ctx", "24",
				   "--chunks", "3", "--skip", "5"));

	(void)state;
	expect(&e);
	assert_int_equal(e.n, N);
	const double ppl = exp(-mean(e.log_q)), ppl_ref = exp(-mean(e.log_p));
	assert_figure(o, "tokens", N, 0);
	assert_figure(o, "model.perplexity", ppl, 1e-6);
	assert_figure(o, "model.perplexity_error", ppl * error(e.log_q), 1e-6);
	assert_figure(o, "model.mean_nll", -mean(e.log_q), 1e-9);
	assert_figure(o, "reference.perplexity", ppl_ref, 1e-6);
	assert_figure(o, "reference.perplexity_error", ppl_ref * error(e.log_p), 1e-6);
	assert_figure(o, "retention.value", ppl_ref / ppl, 1e-9);
	const double same = (double)e.same / N;
	assert_true(same > 0.5 && same < 1);
	assert_figure(o, "top1_agreement.value", same, 1e-12);
	assert_figure(o, "top1_agreement.error", sqrt(same * (1 - same) / (N - 1)), 1e-12);
	check_probabilities(o, &e);
	check_kl(o, &e);
	json_decref(o);
}

/* ---- the reference saved ------------------------------------------------------------------ */
/* Float16 deltas change the figures by far less than their errors. */
static void assert_nearly(const json_t *exact, const json_t *rounded)
{
	static const char *const same[] = { "model.perplexity", "reference.perplexity",
					    "retention.value", "retention.error",
					    "top1_agreement.value", "probability_change.rms" };

	for (size_t i = 0; i < GP_ARRAY_LEN(same); i++)
		assert_figure(rounded, same[i], figure(exact, same[i]), 0);
	assert_figure(rounded, "kl_divergence.mean", figure(exact, "kl_divergence.mean"), 2e-6);
	assert_figure(rounded, "kl_divergence.median", figure(exact, "kl_divergence.median"), 1e-4);
	assert_figure(rounded, "kl_divergence.p99_9", figure(exact, "kl_divergence.p99_9"), 1e-3);
	assert_true(figure(exact, "kl_divergence.mean_error") > 100 * 2e-6);
}

static void test_saved_reference(void **state)
{
	char *first = EVALUATE(quantised, "--reference", MINI, "--text", TEXT, "--chunks", "4",
			       "--save-reference", saved);
	struct stat st;

	(void)state;
	assert_int_not_equal(access(part, F_OK), 0);
	assert_int_equal(stat(saved, &st), 0);
	assert_int_equal(st.st_size, 352 + 4 * 511 * (16 + 2 * 4096));
	/* Other stages, threads, chunks in flight: on a CPU the same to the last bit. */
	char *again = EVALUATE(quantised, "--reference", saved, "--text", TEXT, "--chunks", "4",
			       "--stages", "cpu:0-2,cpu:3-5", "--threads", "1", "--parallel", "3",
			       "--max-rows", "100");
	assert_string_equal(first, again);
	char *exact = EVALUATE(quantised, "--reference", MINI, "--text", TEXT, "--chunks", "4",
			       "--stages", "cpu:0-1,cpu:2-5", "--parallel", "2");
	json_t *a = parse(exact), *b = parse(first);
	assert_nearly(a, b);
	json_decref(a);
	json_decref(b);
	free(again);
	/* Of itself: what float16 loses, alone. */
	json_t *own = parse(EVALUATE(MINI, "--reference", saved, "--text", TEXT, "--chunks", "4"));
	assert_figure(own, "kl_divergence.mean", 0, 1e-6);
	assert_figure(own, "kl_divergence.max", 0, 1e-5);
	assert_figure(own, "retention.value", 1, 0);
	assert_figure(own, "probability_change.rms", 0, 0);
	json_decref(own);
	unlink(saved);
}

/* ---- the gate -------------------------------------------------------------------------------- */
#define FEW quantised, "--reference", MINI, "--text", TEXT, "--ctx", "32", "--chunks", "4", "-q"

static void test_min_retention(void **state)
{
	struct result r;

	(void)state;
	RUN(&r, program("evaluate"), FEW, "--min-retention", "1");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "is less than --min-retention 1\n"));
	/* The figures are there all the same, and what they mean. */
	assert_non_null(strstr(r.out, "KL divergence"));
	assert_non_null(strstr(r.out, " = ppl_ref / ppl_quant\n"));
	result_free(&r);
	RUN(&r, program("evaluate"), FEW, "--min-retention", "1", "--json");
	assert_int_equal(r.status, 1);
	json_t *o = parse(r.out);
	const json_t *kept = json_object_get(o, "retention");
	assert_true(json_is_false(json_object_get(kept, "passed")));
	assert_figure(o, "retention.min", 1, 0);
	json_decref(o);
	free(r.err);
	RUN(&r, program("evaluate"), FEW, "--min-retention", "0.5", "--json");
	assert_int_equal(r.status, 0);
	assert_null(strstr(r.err, "retention"));
	o = parse(r.out);
	assert_true(json_is_true(json_object_get(json_object_get(o, "retention"), "passed")));
	json_decref(o);
	free(r.err);
}

/* ---- what it refuses -------------------------------------------------------------------------- */
static void assert_refused(int status, const char *says, const char *const *argv)
{
	struct result r;

	run_program(&r, argv);
	if (r.status != status || !strstr(r.err, says) || r.out[0])
		fail_msg("status %d, wanted %d and '%s'; it said: %s%s", r.status, status, says, r.err,
			 r.out);
	result_free(&r);
}
#define REFUSED(status, says, ...) \
	assert_refused(status, says, (const char *const[]){ program("evaluate"), __VA_ARGS__, NULL })

static void test_usage(void **state)
{
	(void)state;
	REFUSED(2, "--reference is needed", quantised, "--text", TEXT);
	REFUSED(2, "a model and one of", "--reference", MINI, "--text", TEXT);
	REFUSED(2, "one of -f and --ids", quantised, "--reference", MINI);
	REFUSED(2, "one of -f and --ids", quantised, "--reference", MINI, "-f", TEXT, "--ids", TEXT);
	REFUSED(2, "'b.gguf' is one model too many", "a.gguf", "b.gguf", "--reference", MINI);
	REFUSED(2, "'c.gguf' is one model too many", "-m", "b.gguf", "c.gguf", "--reference", MINI);
	REFUSED(2, "--min-retention: '2' is no number from 0 to 1", FEW, "--min-retention", "2");
	REFUSED(2, "--min-retention: 'nan'", FEW, "--min-retention", "nan");
	REFUSED(2, "--min-retention: ''", FEW, "--min-retention", "");
	REFUSED(2, "--min-retention: '0.9x'", FEW, "--min-retention", "0.9x");
	REFUSED(2, "--skip 31 leaves nothing to score of --ctx 32", FEW, "--skip", "31");
	REFUSED(2, "'--frobnicate' is no option", FEW, "--frobnicate");
}

static void test_wrong_input(void **state)
{
	(void)state;
	REFUSED(1, "/nowhere.gguf", "/nowhere.gguf", "--reference", MINI, "--text", TEXT);
	REFUSED(1, "/nowhere.gguf", quantised, "--reference", "/nowhere.gguf", "--text", TEXT);
	REFUSED(1, "/nowhere.txt", quantised, "--reference", MINI, "--text", "/nowhere.txt");
	REFUSED(1, "less than one chunk", quantised, "--reference", MINI, "--text", "LICENSE", "--ctx",
		"8000");
	REFUSED(1, "the reference, gemma3-random-text, is a model of another shape", quantised,
		"--reference", "tests/data/gemma3-random-text", "--text", TEXT);
	REFUSED(1, "two scored ids at least", quantised, "--reference", MINI, "--text", TEXT, "--ctx",
		"2", "--chunks", "1");
	REFUSED(1, "no saved reference", FEW, "--save-reference", folder);
	REFUSED(1, "no saved reference", FEW, "--save-reference", quantised);
	REFUSED(1, "/nowhere/x", FEW, "--save-reference", "/nowhere/x");
}

static void test_wrong_reference_file(void **state)
{
	struct stat st;

	(void)state;
	free(EVALUATE(FEW, "--save-reference", saved));
	REFUSED(1, "give a model to save it again", quantised, "--reference", saved, "--text", TEXT,
		"--save-reference", part);
	REFUSED(1, "was saved with --ctx 32 --chunks 4 --skip 0; this is --ctx 32 --chunks 3", quantised,
		"--reference", saved, "--text", TEXT, "--ctx", "32", "--chunks", "3");
	REFUSED(1, "another text", quantised, "--reference", saved, "--text", "LICENSE", "--ctx", "32",
		"--chunks", "4");
	assert_int_equal(stat(saved, &st), 0);
	assert_int_equal(truncate(saved, st.st_size - 1), 0);
	REFUSED(1, "save the reference again", quantised, "--reference", saved, "--text", TEXT, "--ctx",
		"32", "--chunks", "4");
	unlink(saved);
}

/* ---- what it leaves behind ---------------------------------------------------------------------- */
static void assert_nothing_left(void)
{
	assert_int_not_equal(access(saved, F_OK), 0);
	assert_int_not_equal(access(part, F_OK), 0);
}

static void test_interrupted(void **state)
{
	const char *const argv[] = { program("evaluate"), quantised, "--reference", MINI, "--text", TEXT,
				     "--save-reference", saved, "-v", NULL };
	struct process p;
	struct result r;

	(void)state;
	process_start(&p, argv, 0);
	assert_true(process_says(p.err_fd, "reference: chunk 1 of 111, perplexity ", 60));
	kill(p.pid, SIGINT);
	process_finish(&p, &r, 60);
	assert_int_equal(r.status, 130);
	assert_non_null(strstr(r.err, " left\n"));
	assert_nothing_left();
	result_free(&r);
}

/* The limit stands for a full disk: a signal, or ignored, a failed write. */
static void test_no_room(void **state)
{
	char command[8192];

	(void)state;
	snprintf(command, sizeof command, "ulimit -f 64; exec %s %s --reference " MINI " --text " TEXT
		 " --save-reference %s -q", program("evaluate"), quantised, saved);
	assert_refused(128 + SIGXFSZ, "", (const char *const[]){ "/bin/sh", "-c", command, NULL });
	assert_nothing_left();
	snprintf(command, sizeof command, "ulimit -f 64; trap '' XFSZ; exec %s %s --reference " MINI
		 " --text " TEXT " --save-reference %s -q", program("evaluate"), quantised, saved);
	assert_refused(1, saved, (const char *const[]){ "/bin/sh", "-c", command, NULL });
	assert_nothing_left();
}

static void test_stdout_full(void **state)
{
	char command[8192];

	(void)state;
	snprintf(command, sizeof command, "%s %s --reference " MINI " --text " TEXT
		 " --ctx 32 --chunks 1 -q --json >/dev/full", program("evaluate"), quantised);
	assert_refused(1, "stdout", (const char *const[]){ "/bin/sh", "-c", command, NULL });
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_model), cmocka_unit_test(test_figures),
		cmocka_unit_test(test_saved_reference), cmocka_unit_test(test_min_retention),
		cmocka_unit_test(test_usage), cmocka_unit_test(test_wrong_input),
		cmocka_unit_test(test_wrong_reference_file), cmocka_unit_test(test_interrupted),
		cmocka_unit_test(test_no_room), cmocka_unit_test(test_stdout_full),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* gempipe bench: prefill and decode speeds, held against the memory's. */
#include <jansson.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/common/bandwidth.h"
#include "tools/common/cli.h"

#define MAX_BATCHES 16u
#define MAX_REPEATS 100u

static const char help[] =
	"Usage: gempipe bench -m MODEL [options]\n"
	"Measures prefill and decode through the pipeline, with the bytes each token\n"
	"reads and the share of the memory bandwidth that was measured in this run.\n\n"
	"  -p, --prompt N         prompt tokens of the prefill test (default 512; 0: none)\n"
	"  -n, --tokens N         tokens of the decode test (default 128; 0: none)\n"
	"  -b, --batch LIST       sequences decoded together (default 1)\n"
	"  -r, --repeat N         runs of each test (default 3)\n"
	CLI_JSON_HELP CLI_CTX_HELP CLI_ENGINE_HELP
	"\nExample:\n"
	"  gempipe bench -m gemma-3-4b-q4_0.gguf -p 512 -n 128 -b 1,4,8 -r 5 --json\n";

static const struct option options[] = {
	CLI_ENGINE_OPTIONS,
	{ "prompt", required_argument, NULL, 'p' }, { "tokens", required_argument, NULL, 'n' },
	{ "batch", required_argument, NULL, 'b' }, { "repeat", required_argument, NULL, 'r' },
	{ 0 },
};

struct bench {
	struct cli cli;
	uint64_t n_prompt, n_tokens, repeats;
	uint64_t batches[MAX_BATCHES];
	size_t n_batches;
	uint32_t *prompt;
	double gbs_one, gbs_all;
	uint32_t n_cpus;
	json_t *results;
};

static int parse_batches(struct bench *b, const char *text)
{
	char copy[128];
	char *save = NULL;

	if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
		return gp_fail(EINVAL, "--batch: list is too long");
	b->n_batches = 0;
	for (char *p = strtok_r(copy, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
		if (b->n_batches == MAX_BATCHES)
			return gp_fail(EINVAL, "--batch: more than %u sizes", MAX_BATCHES);
		if (gp_parse_u64("--batch", p, 1, 256, &b->batches[b->n_batches]) < 0)
			return -EINVAL;
		b->n_batches++;
	}
	return b->n_batches ? 0 : gp_fail(EINVAL, "--batch: no size given");
}

static int own_option(struct bench *b, int o)
{
	switch (o) {
	case 'p':
		return gp_parse_u64("--prompt", optarg, 0, 1u << 20, &b->n_prompt);
	case 'n':
		return gp_parse_u64("--tokens", optarg, 0, 1u << 20, &b->n_tokens);
	case 'r':
		return gp_parse_u64("--repeat", optarg, 1, MAX_REPEATS, &b->repeats);
	default:
		return parse_batches(b, optarg);
	}
}

static int read_arguments(struct bench *b, int argc, char **argv)
{
	int o, rc;

	while ((o = getopt_long(argc, argv, CLI_ENGINE_LETTERS "p:n:b:r:", options, NULL)) != -1) {
		if (o == '?')
			return cli_bad_option(&b->cli, argv);
		rc = cli_option(&b->cli, o, help);
		if (rc == 1)
			rc = own_option(b, o);
		if (rc < 0)
			return cli_misused(&b->cli, "%s", gp_error());
	}
	if (optind < argc)
		return cli_misused(&b->cli, "'%s' is no option", argv[optind]);
	if (!b->n_prompt && !b->n_tokens)
		return cli_misused(&b->cli, "-p 0 and -n 0 leave nothing to measure");
	return b->cli.model ? 0 : cli_misused(&b->cli, "no model; give one with -m");
}

/* ---- running ---------------------------------------------------------------- */

/* Decode is timed from the moment when every sequence has its first token. */
struct decode {
	uint32_t batch, n_first;
	uint64_t start_ns, tokens;
};

struct sequence {
	struct decode *all;
	bool has_first;
};

static int on_token(void *user, uint32_t token, bool is_stop)
{
	struct sequence *s = user;
	struct decode *d = s->all;

	(void)token, (void)is_stop;
	if (d->start_ns)
		d->tokens++;
	if (!s->has_first && ++d->n_first == d->batch)
		d->start_ns = gp_now_ns();
	s->has_first = true;
	return 0;
}

static int run_prefill(struct bench *b, double *tokens_per_s)
{
	const struct gp_request r = { .prompt = b->prompt, .n_prompt = b->n_prompt };
	const uint64_t start = gp_now_ns();
	uint32_t id;
	int rc;

	if ((rc = gp_engine_submit(b->cli.engine, &r, &id)) < 0 ||
	    (rc = gp_engine_run(b->cli.engine)) < 0)
		return rc;
	*tokens_per_s = (double)b->n_prompt * 1e9 / (double)(gp_now_ns() - start);
	return 0;
}

static int run_decode(struct bench *b, uint32_t batch, double *tokens_per_s)
{
	struct decode d = { .batch = batch };
	struct sequence s[256] = { 0 };
	int rc = 0;

	for (uint32_t i = 0; i < batch && rc == 0; i++) {
		const struct gp_request r = {
			.prompt = b->prompt, .n_prompt = 1, .max_new = (uint32_t)b->n_tokens + 1,
			.user = &s[i], .on_token = on_token,
		};
		uint32_t id;

		s[i].all = &d;
		rc = gp_engine_submit(b->cli.engine, &r, &id);
	}
	if (rc == 0)
		rc = gp_engine_run(b->cli.engine);
	if (rc < 0)
		return rc;
	*tokens_per_s = (double)d.tokens * 1e9 / (double)(gp_now_ns() - d.start_ns);
	return 0;
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* ---- results ------------------------------------------------------------------ */

/* Weights are read once a step, for all of its rows. */
static double bytes_per_token(const struct bench *b, bool decode, uint32_t batch)
{
	const struct gp_model *m = gp_engine_model(b->cli.engine);
	const struct gp_plan *p = gp_engine_plan(b->cli.engine);
	const uint32_t n_layers = gp_model_config(m)->n_layers;

	if (decode)
		return (double)gp_model_bytes(m, 0, n_layers, true) / batch;
	const uint64_t steps = (b->n_prompt + p->max_rows - 1) / p->max_rows;
	return (double)gp_model_bytes(m, 0, n_layers, false) * (double)steps / (double)b->n_prompt;
}

static const char *verdict(const struct bench *b, double gbs)
{
	const struct gp_model *m = gp_engine_model(b->cli.engine);
	const uint64_t bytes = gp_model_bytes(m, 0, gp_model_config(m)->n_layers, true);

	if (bytes < 4 * bandwidth_cache_bytes())
		return "cache-resident";
	/* The ruler itself is a measurement; a little over it is its error. */
	return gbs > b->gbs_all * 1.05 ? "error: above the memory bandwidth" : "";
}

static void add_result(struct bench *b, bool decode, uint32_t batch, double *runs)
{
	const struct gp_plan *p = gp_engine_plan(b->cli.engine);
	const double bytes = bytes_per_token(b, decode, batch);

	qsort(runs, b->repeats, sizeof *runs, by_value);
	const double median = (runs[(b->repeats - 1) / 2] + runs[b->repeats / 2]) / 2;
	const double gbs = bytes * median / 1e9;
	const double share = b->gbs_all > 0 ? gbs / b->gbs_all : 0;
	const char *note = verdict(b, gbs);
	json_array_append_new(b->results, json_pack(
		"{s:s, s:I, s:I, s:I, s:I, s:I, s:{s:f, s:f, s:f}, s:f, s:f, s:f, s:s}",
		"test", decode ? "decode" : "prefill",
		"tokens", (json_int_t)(decode ? b->n_tokens : b->n_prompt), "batch", (json_int_t)batch,
		"context", (json_int_t)(decode ? 1 : 0), "stages", (json_int_t)p->n_stages,
		"threads", (json_int_t)p->stage[0].threads,
		"tokens_per_s", "median", median, "min", runs[0], "max", runs[b->repeats - 1],
		"bytes_per_token", bytes, "gb_per_s", gbs, "bandwidth_share", share, "note", note));
	if (!b->cli.json)
		printf("%-8s %6llu %6u %10.2f %10.2f %10.2f %9.2f %8.1f%%  %s\n",
		       decode ? "decode" : "prefill",
		       (unsigned long long)(decode ? b->n_tokens : b->n_prompt), batch, median,
		       runs[0], runs[b->repeats - 1], gbs, share * 100, note);
	fflush(stdout);
}

static int measure(struct bench *b, bool decode, uint32_t batch)
{
	double runs[MAX_REPEATS], warm_up;
	int rc = decode ? run_decode(b, batch, &warm_up) : run_prefill(b, &warm_up);

	for (uint64_t i = 0; i < b->repeats && rc == 0; i++)
		rc = decode ? run_decode(b, batch, &runs[i]) : run_prefill(b, &runs[i]);
	if (rc == 0)
		add_result(b, decode, batch, runs);
	return rc;
}

static json_t *describe_machine(const struct bench *b)
{
	struct gp_engine_stats s;

	gp_engine_stats(b->cli.engine, &s);
	return json_pack("{s:s, s:I, s:f, s:f, s:I, s:b}", "device", s.stage[0].description, "cpus",
			 (json_int_t)b->n_cpus, "read_gb_per_s_one_thread", b->gbs_one,
			 "read_gb_per_s", b->gbs_all, "last_level_cache_bytes",
			 (json_int_t)bandwidth_cache_bytes(), "rings_on_huge_pages", s.huge_pages);
}

static json_t *describe_model(const struct bench *b)
{
	const struct gp_model *m = gp_engine_model(b->cli.engine);
	const struct gp_config *c = gp_model_config(m);

	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "path", gp_model_path(m), "type",
			 gp_type_info(gp_model_main_type(m))->name, "layers",
			 (json_int_t)c->n_layers, "hidden", (json_int_t)c->hidden, "vocab",
			 (json_int_t)c->vocab, "bytes_per_step",
			 (json_int_t)gp_model_bytes(m, 0, c->n_layers, true));
}

static void print_head(const struct bench *b)
{
	if (!b->cli.json)
		printf("memory read, this run: %.1f GB/s with 1 thread, %.1f GB/s with %u\n"
		       "%-8s %6s %6s %10s %10s %10s %9s %9s\n", b->gbs_one, b->gbs_all, b->n_cpus,
		       "test", "tokens", "batch", "tokens/s", "min", "max", "GB/s", "share");
}

static int run_tests(struct bench *b)
{
	int rc = 0;

	print_head(b);
	if (b->n_prompt)
		rc = measure(b, false, 1);
	for (size_t i = 0; i < b->n_batches && b->n_tokens && rc == 0; i++)
		rc = measure(b, true, (uint32_t)b->batches[i]);
	return rc;
}

static int prepare(struct bench *b)
{
	cpu_set_t set;
	uint32_t most = 1;

	b->n_cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
	for (size_t i = 0; i < b->n_batches; i++)
		most = b->batches[i] > most ? (uint32_t)b->batches[i] : most;
	b->cli.plan.max_sequences = most;
	b->results = json_array();
	b->prompt = calloc(b->n_prompt + 1, sizeof *b->prompt);
	if (!b->prompt || !b->results)
		return gp_fail(ENOMEM, "no memory for the prompt");
	/* A model that is not there is told before the memory is measured. */
	struct gp_model *m;
	const int rc = gp_model_open(&m, b->cli.model);
	if (rc < 0)
		return rc;
	gp_model_close(m);
	b->gbs_one = bandwidth_read_gbs(1);
	b->gbs_all = bandwidth_read_gbs(b->n_cpus);
	return cli_open_engine(&b->cli);
}

/* Any ids do: speed does not depend on which. */
static void fill_prompt(struct bench *b)
{
	const uint32_t vocab = gp_engine_config(b->cli.engine)->vocab;

	for (uint64_t i = 0; i <= b->n_prompt; i++)
		b->prompt[i] = (uint32_t)((i * 2654435761u + 7) % vocab);
}

static int bench(struct bench *b)
{
	int rc = prepare(b);

	if (rc < 0)
		return rc;
	fill_prompt(b);
	if ((rc = run_tests(b)) < 0)
		return rc;
	if (b->cli.json) {
		json_t *all = json_pack("{s:o, s:o, s:O}", "machine", describe_machine(b), "model",
					describe_model(b), "results", b->results);

		json_dumpf(all, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
		putchar('\n');
		json_decref(all);
	}
	return cli_flush_stdout();
}

int main(int argc, char **argv)
{
	struct bench b = { .n_prompt = 512, .n_tokens = 128, .repeats = 3, .batches = { 1 },
			   .n_batches = 1 };
	int status;

	cli_init(&b.cli, "bench");
	if ((status = read_arguments(&b, argc, argv)) != 0)
		return status;
	if (bench(&b) < 0)
		status = cli_failed(&b.cli);
	status = cli_close_engine(&b.cli, status);
	json_decref(b.results);
	free(b.prompt);
	return status;
}

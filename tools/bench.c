/* gempipe bench: prefill and decode speeds, held against what the machine can do. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/common/ask_devices.h"
#include "tools/common/bench_report.h"
#include "tools/common/cli.h"

#define MAX_BATCH 256u
#define MAX_LIST 16u
#define MAX_REPEATS 100u
#define MAX_CONTEXT (1u << 20)
#define FILL_STEPS 4u /* steps of a context's prefill between two signs of progress */

static const char help[] =
	"Usage: gempipe bench -m MODEL [options]\n"
	"       gempipe bench --device npu [--npu sim] [--json]\n"
	"       gempipe bench --serve --help\n"
	"       gempipe bench --guess --help\n"
	"Measures prefill and decode through the pipeline. Each speed is held against what this\n"
	"machine can do, measured in the same run on as many threads: reading memory, and 8-bit\n"
	"(quantised weights) or float32 arithmetic. A speed of more than 105% of these is marked\n"
	"as an error of the measurement; the exit status stays 0.\n\n"
	"      --serve            what users of the server get under load: see its own --help\n"
	"      --guess            what guessing tokens gives: see its own --help\n"
	"      --device npu       no model: what a command and a pair of tiles take on the NPU, by\n"
	"                         which products are given to it or to the host\n"
	"  -p, --prompt N         prompt tokens of the prefill test (default 512; 0: none)\n"
	"  -n, --tokens N         tokens of the decode test (default 128; 0: none)\n"
	"  -b, --batch LIST       sequences decoded together (default 1)\n"
	"  -c, --context LIST     tokens that stand before those measured (default 0); with every\n"
	"                         size of batch. Runs go on where the last one ended. Long ones\n"
	"                         take minutes to fill\n"
	"  -r, --repeat N         runs of each test (default 3)\n"
	"      --ctx N            positions a sequence may have (default: what the tests need)\n"
	CLI_JSON_HELP CLI_ENGINE_HELP
	"\nCounted per token: bytes of the weights (once for all rows of a step), of the keys and\n"
	"values that attention looks at (local layers: their window) and of the head where logits\n"
	"are wanted; 2 operations a weight, 4 a position, head and dimension of attention.\n"
	"\nExamples:\n"
	"  gempipe bench -m gemma-3-4b-q4_0.gguf -p 512 -n 128 -b 1,4,8 -r 5 --json\n"
	"  gempipe bench -m gemma-3-4b-q4_0.gguf -p 0 -n 32 -b 1,8 -c 0,4096,32768\n";

static const struct option options[] = {
	CLI_ENGINE_OPTIONS,
	{ "prompt", required_argument, NULL, 'p' }, { "tokens", required_argument, NULL, 'n' },
	{ "batch", required_argument, NULL, 'b' }, { "context", required_argument, NULL, 'c' },
	{ "repeat", required_argument, NULL, 'r' }, { "device", required_argument, NULL, 'd' },
	{ 0 },
};

struct list {
	uint64_t of[MAX_LIST];
	size_t n;
};

/* A sequence lives in the workers from one run to the next. */
struct sequence {
	uint32_t *tokens;     /* all it has had, and room for those to come */
	uint64_t n;
	uint32_t id;          /* of its last request; 0: none */
	struct decode *decode;
	bool has_first;
};

struct bench {
	struct cli cli;
	const char *device;    /* measured without a model */
	uint64_t n_prompt, n_tokens, repeats;
	struct list batches, contexts;
	struct sequence sequences[MAX_BATCH];
	uint32_t n_sequences, begun; /* begun: sequences so far, over all tests */
	struct bench_report report;
};

/* ---- options ------------------------------------------------------------------- */
static int parse_list(struct list *l, const char *what, uint64_t least, uint64_t most)
{
	char copy[256];
	char *save = NULL;

	if (snprintf(copy, sizeof copy, "%s", optarg) >= (int)sizeof copy)
		return gp_fail(EINVAL, "%s: list is too long", what);
	l->n = 0;
	for (char *p = strtok_r(copy, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
		if (l->n == MAX_LIST)
			return gp_fail(EINVAL, "%s: more than %u numbers", what, MAX_LIST);
		if (gp_parse_u64(what, p, least, most, &l->of[l->n]) < 0)
			return -EINVAL;
		l->n++;
	}
	return l->n ? 0 : gp_fail(EINVAL, "%s '%s': no number given", what, optarg);
}

static uint64_t largest(const struct list *l)
{
	uint64_t most = 0;

	for (size_t i = 0; i < l->n; i++)
		most = l->of[i] > most ? l->of[i] : most;
	return most;
}

static int own_option(struct bench *b, int o)
{
	switch (o) {
	case 'p':
		return gp_parse_u64("--prompt", optarg, 0, MAX_CONTEXT, &b->n_prompt);
	case 'n':
		return gp_parse_u64("--tokens", optarg, 0, MAX_CONTEXT, &b->n_tokens);
	case 'r':
		return gp_parse_u64("--repeat", optarg, 1, MAX_REPEATS, &b->repeats);
	case 'd':
		b->device = optarg;
		return strcmp(optarg, "npu") == 0 ? 0 : gp_fail(EINVAL, "--device '%s': there is only "
				"npu; -m measures what stages are on", optarg);
	case 'c':
		return parse_list(&b->contexts, "--context", 0, MAX_CONTEXT);
	default:
		return parse_list(&b->batches, "--batch", 1, MAX_BATCH);
	}
}

static int read_arguments(struct bench *b, int argc, char **argv)
{
	int o, rc;

	while ((o = getopt_long(argc, argv, CLI_ENGINE_LETTERS "p:n:b:c:r:", options, NULL)) != -1) {
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
	if (b->device)
		return 0;
	if (!b->n_prompt && !b->n_tokens)
		return cli_misused(&b->cli, "-p 0 and -n 0 leave nothing to measure");
	return b->cli.model ? 0 : cli_misused(&b->cli, "no model; give one with -m");
}

/* ---- sequences ------------------------------------------------------------------ */
/* Any ids do: speed does not depend on which. But no two sequences begin alike,
 * or the engine would use what a former one left in the caches. */
static uint32_t any_token(const struct bench *b, uint64_t position)
{
	const uint32_t vocab = gp_engine_config(b->cli.engine)->vocab;

	return (uint32_t)((b->begun + position * 2654435761u) % vocab);
}

static void extend(const struct bench *b, struct sequence *s, uint64_t n)
{
	for (const uint64_t end = s->n + n; s->n < end; s->n++)
		s->tokens[s->n] = any_token(b, s->n);
}

static void start_over(struct bench *b, struct sequence *s)
{
	b->begun++;
	s->n = 0;
}

/* Decode is timed from the moment when every sequence has its first token. */
struct decode {
	uint32_t batch, n_first;
	uint64_t start_ns, tokens;
};

static int on_token(void *user, uint32_t token, bool is_stop)
{
	struct sequence *s = user;
	struct decode *d = s->decode;

	(void)is_stop;
	s->tokens[s->n++] = token;
	if (d->start_ns)
		d->tokens++;
	if (!s->has_first && ++d->n_first == d->batch)
		d->start_ns = gp_now_ns();
	s->has_first = true;
	return 0;
}

/* Only what the sequence's last request did not have is computed. */
static int submit(struct bench *b, struct sequence *s, uint64_t max_new)
{
	const struct gp_request r = {
		.prompt = s->tokens, .n_prompt = s->n, .max_new = (uint32_t)max_new,
		.reuse = s->id, .keep = true, .user = s, .on_token = on_token,
	};

	return gp_engine_submit(b->cli.engine, &r, &s->id);
}

static void show_fill(const struct bench *b, uint32_t i, uint32_t batch, uint64_t context)
{
	const struct sequence *s = &b->sequences[i];
	const bool whole = i + 1 == batch && s->n == context;

	if (b->cli.quiet || !isatty(STDERR_FILENO))
		return;
	fprintf(stderr, "\r\033[Kcontext: sequence %u of %u, %llu of %llu tokens%s", i + 1, batch,
		(unsigned long long)s->n, (unsigned long long)context, whole ? "\r\033[K" : "");
	fflush(stderr);
}

/* Brings the first sequences to a length of context tokens. One that is longer
 * is begun again. */
static int fill(struct bench *b, uint32_t batch, uint64_t context)
{
	const uint64_t piece = FILL_STEPS * gp_engine_plan(b->cli.engine)->max_rows;
	int rc = 0;

	for (uint32_t i = 0; i < batch && rc == 0; i++) {
		struct sequence *s = &b->sequences[i];

		if (s->n > context)
			start_over(b, s);
		while (s->n < context && rc == 0) {
			extend(b, s, context - s->n < piece ? context - s->n : piece);
			if ((rc = submit(b, s, 0)) == 0)
				rc = gp_engine_run(b->cli.engine);
			show_fill(b, i, batch, context);
		}
	}
	return rc;
}

/* ---- runs ------------------------------------------------------------------------- */
struct test {
	bool decode;
	uint32_t batch;
	uint64_t context;
};

struct run {
	double tokens_per_s;
	uint64_t first, n;    /* positions of the timed rows of a sequence */
};

static int run_prefill(struct bench *b, struct run *r)
{
	struct sequence *s = &b->sequences[0];
	int rc;

	*r = (struct run){ .first = s->n, .n = b->n_prompt };
	extend(b, s, b->n_prompt);
	const uint64_t start = gp_now_ns();
	if ((rc = submit(b, s, 0)) < 0 || (rc = gp_engine_run(b->cli.engine)) < 0)
		return rc;
	r->tokens_per_s = (double)r->n * 1e9 / (double)(gp_now_ns() - start);
	return 0;
}

static int run_decode(struct bench *b, uint32_t batch, struct run *r)
{
	struct decode d = { .batch = batch };
	int rc = 0;

	for (uint32_t i = 0; i < batch && rc == 0; i++) {
		struct sequence *s = &b->sequences[i];

		/* A first token needs one before it. */
		extend(b, s, s->n ? 0 : 1);
		s->decode = &d;
		s->has_first = false;
		rc = submit(b, s, b->n_tokens + 1);
	}
	*r = (struct run){ .first = b->sequences[0].n, .n = b->n_tokens };
	if (rc == 0)
		rc = gp_engine_run(b->cli.engine);
	if (rc < 0)
		return rc;
	r->tokens_per_s = (double)d.tokens * 1e9 / (double)(gp_now_ns() - d.start_ns);
	return 0;
}

/* Without a context each run begins anew; with one it goes on at about that depth. */
static int run_once(struct bench *b, const struct test *t, struct run *r)
{
	for (uint32_t i = 0; i < t->batch && !t->context; i++)
		start_over(b, &b->sequences[i]);
	return t->decode ? run_decode(b, t->batch, r) : run_prefill(b, r);
}

/* Rows a step are counted, not planned: they depend on stages and batch. */
static struct cost cost_of(const struct bench *b, const struct test *t, const struct run *r)
{
	const enum gp_type kv_type = gp_engine_plan(b->cli.engine)->kv_type;
	struct cost_rows rows = { .first = r->first, .n = r->n, .together = 1, .logits = t->decode };
	struct gp_engine_stats s;

	gp_engine_stats(b->cli.engine, &s);
	rows.rows_per_step = (double)s.stage[0].rows / (double)s.stage[0].steps;
	if (!t->decode)
		rows.together = (uint64_t)(rows.rows_per_step + 0.5);
	return cost_per_token(gp_engine_model(b->cli.engine), kv_type, &rows);
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static int report(struct bench *b, const struct test *t, double *rates, struct bench_result *sums)
{
	const double n = (double)b->repeats;

	qsort(rates, b->repeats, sizeof *rates, by_value);
	sums->test = t->decode ? "decode" : "prefill";
	sums->tokens = t->decode ? b->n_tokens : b->n_prompt;
	sums->context = t->context;
	sums->batch = t->batch;
	sums->mean_position /= n;
	sums->cost.bytes /= n;
	sums->cost.ops /= n;
	sums->median = (rates[(b->repeats - 1) / 2] + rates[b->repeats / 2]) / 2;
	sums->min = rates[0];
	sums->max = rates[b->repeats - 1];
	return bench_report_add(&b->report, sums);
}

static int measure(struct bench *b, const struct test *t)
{
	struct bench_result sums = { 0 };
	double rates[MAX_REPEATS];
	struct run r;
	/* To fill a context warms up as well as a run does. */
	int rc = t->context ? fill(b, t->batch, t->context) : run_once(b, t, &r);

	for (uint64_t i = 0; i < b->repeats && rc == 0; i++) {
		gp_engine_stats_reset(b->cli.engine);
		if ((rc = run_once(b, t, &r)) < 0)
			break;
		const struct cost c = cost_of(b, t, &r);
		rates[i] = r.tokens_per_s;
		sums.cost.bytes += c.bytes;
		sums.cost.ops += c.ops;
		sums.mean_position += (double)r.first + (double)(r.n - 1) / 2;
	}
	return rc < 0 ? rc : report(b, t, rates, &sums);
}

/* Sizes of batch and contexts in the order they were given: where contexts grow,
 * a longer one goes on from the shorter. */
static int run_tests(struct bench *b)
{
	struct test t = { .batch = 1 };
	int rc = 0;

	for (size_t c = 0; c < b->contexts.n && b->n_prompt && rc == 0; c++) {
		t.context = b->contexts.of[c];
		rc = measure(b, &t);
	}
	t.decode = true;
	for (size_t i = 0; i < b->batches.n && b->n_tokens && rc == 0; i++) {
		t.batch = (uint32_t)b->batches.of[i];
		for (size_t c = 0; c < b->contexts.n && rc == 0; c++) {
			t.context = b->contexts.of[c];
			rc = measure(b, &t);
		}
	}
	return rc;
}

/* ---- the program --------------------------------------------------------------------- */
/* Positions of the longest test. */
static uint64_t positions(const struct bench *b)
{
	const uint64_t context = largest(&b->contexts), runs = context ? b->repeats : 1;
	const uint64_t prefill = context + runs * b->n_prompt;
	const uint64_t decode = (context ? context : 1) + runs * (b->n_tokens + 1);

	return prefill > decode ? prefill : decode;
}

static int plan_context(struct bench *b, const struct gp_model *m)
{
	const uint64_t need = positions(b), trained = gp_model_config(m)->context;
	const uint64_t most = b->cli.plan.context ? b->cli.plan.context : trained;

	if (need > most)
		return gp_fail(E2BIG, "the tests reach position %llu (context, then all runs); %s %llu; "
			       "lower -c, -p, -n or -r", (unsigned long long)need,
			       most == trained ? "the model was trained for" : "--ctx is",
			       (unsigned long long)most);
	if (!b->cli.plan.context)
		b->cli.plan.context = (uint32_t)need;
	return 0;
}

static int make_sequences(struct bench *b)
{
	b->n_sequences = (uint32_t)largest(&b->batches);
	b->cli.plan.max_sequences = b->n_sequences;
	for (uint32_t i = 0; i < b->n_sequences; i++)
		if (!(b->sequences[i].tokens = calloc(positions(b), sizeof(uint32_t))))
			return gp_fail(ENOMEM, "no memory for %u sequences of %llu tokens",
				       b->n_sequences, (unsigned long long)positions(b));
	return 0;
}

static int measure_rulers(struct bench *b, const struct gp_plan *p)
{
	uint32_t threads = 0;
	int rc;

	for (uint32_t k = 0; k < p->n_stages; k++) {
		/* Its memory and arithmetic are not what the rulers measure. */
		if (!strcmp(p->stage[k].device, "vulkan") || !strcmp(p->stage[k].device, "npu"))
			return 0;
		threads += p->stage[k].threads;
	}
	if ((rc = rulers_measure(&b->report.one, 1)) < 0)
		return rc;
	b->report.used = b->report.one;
	return threads > 1 ? rulers_measure(&b->report.used, threads) : 0;
}

/* Whatever is wrong with model or plan is told before anything is measured. */
static int prepare(struct bench *b)
{
	struct gp_model *m;
	struct gp_plan p;
	cpu_set_t set;
	int rc = gp_model_open(&m, b->cli.model);

	if (rc < 0)
		return rc;
	b->report.n_cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
	if ((rc = plan_context(b, m)) == 0 && (rc = make_sequences(b)) == 0)
		rc = gp_plan_make(&p, &b->cli.plan, m);
	gp_model_close(m);
	return rc < 0 ? rc : measure_rulers(b, &p);
}

static int bench(struct bench *b)
{
	int rc;

	if ((rc = prepare(b)) < 0 || (rc = cli_open_engine(&b->cli)) < 0)
		return rc;
	b->report.engine = b->cli.engine;
	b->report.json = b->cli.json;
	bench_report_begin(&b->report);
	if ((rc = run_tests(b)) < 0 || (rc = bench_report_end(&b->report)) < 0)
		return rc;
	return cli_flush_stdout();
}

/* What needs libcurl, and what forces the sampler, are programs of their own. */
static void become(struct cli *c, const char *program, char **argv)
{
	char path[GP_WORKER_PATH];

	if (gp_program_path(NULL, program, path) == 0) {
		execv(path, argv);
		gp_fail(errno, "%s: %s; gempipe-load is built where libcurl is (Debian: "
			"libcurl4-openssl-dev)", path, strerror(errno));
	}
	exit(cli_failed(c));
}

int main(int argc, char **argv)
{
	static struct bench b = {
		.n_prompt = 512, .n_tokens = 128, .repeats = 3,
		.batches = { { 1 }, 1 }, .contexts = { { 0 }, 1 },
	};
	int status;

	cli_init(&b.cli, "bench");
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--serve") == 0)
			become(&b.cli, "load", argv);
		else if (strcmp(argv[i], "--guess") == 0)
			become(&b.cli, "guess", argv);
	if ((status = read_arguments(&b, argc, argv)) != 0)
		return status;
	if (b.device) {
		become_report(b.device, "--measure", b.cli.plan.npu, b.cli.json);
		return cli_failed(&b.cli);
	}
	if (bench(&b) < 0)
		status = cli_failed(&b.cli);
	status = cli_close_engine(&b.cli, status);
	bench_report_free(&b.report);
	for (uint32_t i = 0; i < b.n_sequences; i++)
		free(b.sequences[i].tokens);
	return status;
}

/* gempipe bench --guess: what guessing tokens gives, on text whose course is known. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "tools/common/cli.h"

#define MAX_BATCH 64u
#define MAX_SHARES 16u
#define MAX_TOKENS (1u << 20)

static const char help[] =
	"Usage: gempipe bench --guess -m MODEL [--lookup N] [--draft FILE] [options]\n"
	"Decodes a continuation that was recorded before, and is forced as the sampler's choice:\n"
	"models with made-up weights run at true speed, and would never say what was guessed. The\n"
	"same tokens with guesses and without, in turn. Costs of guesses that are wrong are real.\n\n"
	"      --accept LIST      shares of the tokens that are as guessed (default 1,0.9,0.7,0.5,0):\n"
	"                         for --lookup the continuation repeats the prompt, for --draft it\n"
	"                         is the draft model's; the others are random tokens\n"
	"  -f, --file FILE        a prompt; with\n"
	"      --continuation FILE  what follows it, instead of made-up tokens; both are texts, or\n"
	"                         token ids where the name is @FILE\n"
	"  -p, --prompt N         made-up tokens before the continuation (default 512)\n"
	"  -n, --tokens N         tokens of the continuation at most (default 256)\n"
	"  -b, --batch N          sequences decoded together (default 1)\n"
	"  -r, --repeat N         runs each way (default 3); the fastest counts\n"
	"      --temp T, --top-k K, --top-p P, --min-p P, --repeat-penalty R, --seed S  what choosing a\n"
	"                         token costs (default: greedy)\n"
	CLI_JSON_HELP CLI_CTX_HELP
	"      --lookup N         tokens a step that are guessed at most from what the text holds\n"
	"                         already (0: none; default: none with --draft; else 15, where all\n"
	"                         stages are on the CPU)\n"
	CLI_DRAFT_HELP CLI_ENGINE_HELP
	"\nExamples:\n"
	"  gempipe bench --guess -m gemma-3-4b-q4_0.gguf\n"
	"  gempipe bench --guess -m MODEL --lookup 15 -f old.c --continuation new.c -n 2000\n"
	"  gempipe bench --guess -m MODEL --draft gemma-3-270m-q8_0.gguf --accept 0.9,0.7,0.5\n";

enum { OPT_GUESS = CLI_FIRST_OWN, OPT_ACCEPT, OPT_CONTINUATION, OPT_SAMPLING };

static const struct option options[] = {
	CLI_ENGINE_OPTIONS, CLI_GUESS_OPTIONS,
	{ "guess", no_argument, NULL, OPT_GUESS }, { "accept", required_argument, NULL, OPT_ACCEPT },
	{ "file", required_argument, NULL, 'f' },
	{ "continuation", required_argument, NULL, OPT_CONTINUATION },
	{ "prompt", required_argument, NULL, 'p' }, { "tokens", required_argument, NULL, 'n' },
	{ "batch", required_argument, NULL, 'b' }, { "repeat", required_argument, NULL, 'r' },
	{ "temp", required_argument, NULL, OPT_SAMPLING },
	{ "top-k", required_argument, NULL, OPT_SAMPLING },
	{ "top-p", required_argument, NULL, OPT_SAMPLING },
	{ "min-p", required_argument, NULL, OPT_SAMPLING },
	{ "repeat-penalty", required_argument, NULL, OPT_SAMPLING },
	{ "seed", required_argument, NULL, OPT_SAMPLING },
	{ 0 },
};

struct guess {
	struct cli cli;
	struct gp_sampling sampling;
	uint64_t n_prompt, n_tokens, batch, repeats;
	double shares[MAX_SHARES];
	uint32_t n_shares;
	const char *file, *continuation;
	uint32_t *prompt[MAX_BATCH], *recorded[MAX_BATCH]; /* of each sequence */
	uint64_t random;
};

/* ---- options ---------------------------------------------------------------------- */

static int parse_shares(struct guess *g)
{
	const char *p = optarg;
	char *end;

	for (g->n_shares = 0; g->n_shares < MAX_SHARES; p = end + 1) {
		const double v = strtod(p, &end);

		if (end == p || !(v >= 0 && v <= 1))
			break;
		g->shares[g->n_shares++] = v;
		if (!*end)
			return 0;
		if (*end != ',')
			break;
	}
	return gp_fail(EINVAL, "--accept '%s': is no list of at most %u numbers from 0 to 1", optarg,
		       MAX_SHARES);
}

static int own_option(struct guess *g, int o, int index)
{
	switch (o) {
	case OPT_GUESS:
		return 0;
	case OPT_ACCEPT:
		return parse_shares(g);
	case 'f':
		g->file = optarg;
		return 0;
	case OPT_CONTINUATION:
		g->continuation = optarg;
		return 0;
	case 'p':
		return gp_parse_u64("--prompt", optarg, 1, MAX_TOKENS, &g->n_prompt);
	case 'n':
		return gp_parse_u64("--tokens", optarg, 2, MAX_TOKENS, &g->n_tokens);
	case 'b':
		return gp_parse_u64("--batch", optarg, 1, MAX_BATCH, &g->batch);
	case 'r':
		return gp_parse_u64("--repeat", optarg, 1, 100, &g->repeats);
	default:
		return cli_sampling_option(&g->sampling, options[index].name, optarg);
	}
}

static int check_usage(struct guess *g)
{
	if (!g->cli.model)
		return cli_misused(&g->cli, "no model; give one with -m");
	/* A draft model is measured alone. */
	if (g->cli.lookup == GP_LOOKUP_AUTO && g->cli.draft)
		g->cli.lookup = 0;
	if (!g->cli.lookup && !g->cli.draft)
		return cli_misused(&g->cli, "nothing guesses; give --lookup N or --draft FILE");
	if ((g->file != NULL) != (g->continuation != NULL))
		return cli_misused(&g->cli, "-f FILE and --continuation FILE go together");
	return 0;
}

static int read_arguments(struct guess *g, int argc, char **argv)
{
	int o, rc, index = 0;

	while ((o = getopt_long(argc, argv, CLI_ENGINE_LETTERS "f:p:n:b:r:", options, &index)) != -1) {
		if (o == '?')
			return cli_bad_option(&g->cli, argv);
		rc = cli_option(&g->cli, o, help);
		if (rc == 1)
			rc = own_option(g, o, index);
		if (rc < 0)
			return cli_misused(&g->cli, "%s", gp_error());
	}
	if (optind < argc)
		return cli_misused(&g->cli, "'%s' is no option", argv[optind]);
	return check_usage(g);
}

/* ---- texts ------------------------------------------------------------------------ */

/* xorshift64 (Marsaglia 2003). */
static uint64_t next_random(struct guess *g)
{
	g->random ^= g->random << 13;
	g->random ^= g->random >> 7;
	return g->random ^= g->random << 17;
}

static bool is_wrong(struct guess *g, double share)
{
	return (double)(next_random(g) >> 11) * 0x1p-53 >= share;
}

static int make_room(struct guess *g, size_t prompt, size_t recorded)
{
	for (uint64_t i = 0; i < g->batch; i++) {
		g->prompt[i] = calloc(prompt + 1, sizeof **g->prompt);
		g->recorded[i] = calloc(recorded + 1, sizeof **g->recorded);
		if (!g->prompt[i] || !g->recorded[i])
			return gp_fail(ENOMEM, "no memory for %llu sequences", (unsigned long long)g->batch);
	}
	return 0;
}

static int encode(const struct guess *g, const char *path, unsigned flags, uint32_t **ids, size_t *n)
{
	struct gp_tokenizer *t;
	char *text;
	size_t bytes;
	int rc;

	if (path[0] == '@')
		return cli_parse_ids(path, ids, n);
	if ((rc = cli_read_file(path, &text, &bytes)) < 0)
		return rc;
	if ((rc = gp_tokenizer_open(&t, g->cli.model)) == 0) {
		rc = gp_tokenizer_encode(t, text, bytes, flags, ids, n);
		gp_tokenizer_close(t);
	}
	free(text);
	return rc < 0 ? gp_fail_in(rc, "%s", path) : 0;
}

static int read_texts(struct guess *g)
{
	uint32_t *prompt = NULL, *recorded = NULL;
	size_t n_prompt = 0, n = 0;
	int rc;

	if ((rc = encode(g, g->file, GP_ENCODE_BOS, &prompt, &n_prompt)) == 0 &&
	    (rc = encode(g, g->continuation, 0, &recorded, &n)) == 0 && n < 2)
		rc = gp_fail(EINVAL, "%s: is not even two tokens", g->continuation);
	if (rc == 0) {
		g->n_prompt = n_prompt;
		g->n_tokens = n < g->n_tokens ? n : g->n_tokens;
		rc = make_room(g, n_prompt, g->n_tokens);
	}
	for (uint64_t i = 0; i < g->batch && rc == 0; i++) {
		memcpy(g->prompt[i], prompt, n_prompt * sizeof *prompt);
		memcpy(g->recorded[i], recorded, g->n_tokens * sizeof *recorded);
	}
	free(prompt);
	free(recorded);
	return rc;
}

static uint32_t any_token(struct guess *g, uint32_t vocab)
{
	return (uint32_t)(next_random(g) % vocab);
}

static void make_prompts(struct guess *g, uint32_t vocab)
{
	for (uint64_t i = 0; i < g->batch; i++)
		for (uint64_t k = 0; k < g->n_prompt; k++)
			g->prompt[i][k] = any_token(g, vocab);
}

/* The prompt again and again. */
static void record_copies(struct guess *g, uint32_t vocab, double share)
{
	for (uint64_t i = 0; i < g->batch; i++)
		for (uint64_t k = 0; k < g->n_tokens; k++)
			g->recorded[i][k] = is_wrong(g, share) ? any_token(g, vocab)
							       : g->prompt[i][k % g->n_prompt];
}

/* ---- runs -------------------------------------------------------------------------- */

struct run {
	const struct guess *g;
	uint64_t n_first, tokens, start_ns;
	uint64_t at[MAX_BATCH];    /* tokens that came, by sequence */
	uint32_t *to[MAX_BATCH];   /* they go there, or NULL */
};

struct sequence {
	struct run *run;
	uint32_t i;
};

static int on_token(void *user, uint32_t token, bool is_stop)
{
	const struct sequence *s = user;
	struct run *r = s->run;

	(void)is_stop;
	if (r->to[s->i])
		r->to[s->i][r->at[s->i]] = token;
	r->tokens += r->start_ns > 0;
	if (r->at[s->i]++ == 0 && ++r->n_first == r->g->batch)
		r->start_ns = gp_now_ns();
	return 0;
}

/* All sequences to their end, timed from when each has its first token. */
static int run_once(const struct guess *g, struct gp_engine *e, struct run *r, bool guesses,
		    double *tokens_per_s)
{
	struct sequence s[MAX_BATCH];
	uint32_t id;
	int rc = 0;

	r->g = g;
	for (uint32_t i = 0; i < g->batch && rc == 0; i++) {
		s[i] = (struct sequence){ r, i };
		const struct gp_request q = {
			.prompt = g->prompt[i], .n_prompt = g->n_prompt, .max_new = (uint32_t)g->n_tokens,
			.sampling = g->sampling, .user = &s[i], .on_token = on_token,
			.no_guesses = !guesses, .forced = g->recorded[i], .n_forced = g->n_tokens,
		};
		rc = gp_engine_submit(e, &q, &id);
	}
	if (rc == 0)
		rc = gp_engine_run(e);
	*tokens_per_s = (double)r->tokens * 1e9 / (double)(gp_now_ns() - r->start_ns);
	return rc;
}

/* What the draft model would say, but for tokens that are not its own. */
static int record_draft(struct guess *g, struct gp_engine *draft, uint32_t vocab, double share)
{
	struct run r = { 0 };
	double speed;

	for (uint64_t i = 0; i < g->batch; i++) {
		for (uint64_t k = 0; k < g->n_tokens; k++)
			g->recorded[i][k] = is_wrong(g, share) ? any_token(g, vocab) : GP_UNFORCED;
		r.to[i] = g->recorded[i];
	}
	return run_once(g, draft, &r, false, &speed);
}

struct outcome {
	double share;              /* < 0: from files */
	double plain, guessed;     /* tokens/s, the best of the runs */
	struct gp_guess_stats looked_up, drafted; /* of all runs */
};

static int measure(struct guess *g, struct outcome *o)
{
	struct gp_engine_stats s;
	int rc = 0;

	gp_engine_stats_reset(g->cli.engine);
	for (uint64_t i = 0; i < 2 * g->repeats && rc == 0; i++) {
		struct run r = { 0 };
		double *best = i % 2 ? &o->guessed : &o->plain, speed;

		if ((rc = run_once(g, g->cli.engine, &r, i % 2, &speed)) == 0)
			*best = speed > *best ? speed : *best;
	}
	gp_engine_stats(g->cli.engine, &s);
	o->looked_up = s.looked_up;
	o->drafted = s.drafted;
	return rc;
}

/* ---- the report ---------------------------------------------------------------------- */

static json_t *counts_json(const struct gp_guess_stats *s)
{
	return json_pack("{s:I, s:I}", "proposed", (json_int_t)s->proposed, "accepted",
			 (json_int_t)s->accepted);
}

static int print_json(const struct guess *g, const struct outcome *o)
{
	json_t *j = json_pack(
		"{s:s, s:o, s:I, s:I, s:I, s:f, s:f, s:f, s:o, s:o}", "test",
		"decode of a recorded continuation, forced as the sampler's choice", "accept",
		o->share < 0 ? json_null() : json_real(o->share), "batch", (json_int_t)g->batch, "prompt",
		(json_int_t)g->n_prompt, "tokens", (json_int_t)g->n_tokens, "plain_tokens_per_s", o->plain,
		"guessed_tokens_per_s", o->guessed, "speedup", o->guessed / o->plain, "lookup",
		counts_json(&o->looked_up), "draft", counts_json(&o->drafted));

	if (!j)
		return gp_fail(ENOMEM, "no memory for the results");
	json_dumpf(j, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(j);
	return cli_flush_stdout();
}

static double right(const struct gp_guess_stats *s)
{
	return s->proposed ? 100 * (double)s->accepted / (double)s->proposed : 0;
}

static int print_row(const struct guess *g, const struct outcome *o)
{
	char share[16] = "-";

	if (g->cli.json)
		return print_json(g, o);
	if (o->share >= 0)
		snprintf(share, sizeof share, "%.0f%%", o->share * 100);
	printf("%7s %6llu %7llu %7llu %10.2f %10.2f %7.2f %10llu %6.0f%% %10llu %6.0f%%\n", share,
	       (unsigned long long)g->batch, (unsigned long long)g->n_prompt,
	       (unsigned long long)g->n_tokens, o->plain, o->guessed, o->guessed / o->plain,
	       (unsigned long long)o->looked_up.proposed, right(&o->looked_up),
	       (unsigned long long)o->drafted.proposed, right(&o->drafted));
	return cli_flush_stdout();
}

static void print_head(const struct guess *g)
{
	if (g->cli.json)
		return;
	printf("decode of a recorded continuation, forced as the sampler's choice; tokens/s of all "
	       "sequences together\n%7s %6s %7s %7s %10s %10s %7s %10s %7s %10s %7s\n", "accept", "batch",
	       "prompt", "tokens", "plain", "guessed", "speedup", "looked up", "right", "drafted", "right");
}

/* ---- the program ---------------------------------------------------------------------- */

static int open_draft(const struct guess *g, struct gp_engine **e)
{
	struct gp_engine_options o = {
		.model = g->cli.draft, .plan = g->cli.plan, .worker_dir = getenv("GEMPIPE_WORKER_DIR"),
	};

	o.plan.stages = g->cli.draft_stages;
	o.plan.kv_type = -1;
	return gp_engine_create(e, &o);
}

static int measure_shares(struct guess *g)
{
	const uint32_t vocab = gp_engine_config(g->cli.engine)->vocab;
	struct gp_engine *draft = NULL;
	int rc = make_room(g, g->n_prompt, g->n_tokens);

	if (rc == 0 && g->cli.draft)
		rc = open_draft(g, &draft);
	const uint32_t ids = draft ? gp_engine_config(draft)->vocab : vocab;
	if (rc == 0)
		make_prompts(g, ids < vocab ? ids : vocab);
	for (uint32_t i = 0; i < g->n_shares && rc == 0; i++) {
		struct outcome o = { .share = g->shares[i] };

		if (draft)
			rc = record_draft(g, draft, ids < vocab ? ids : vocab, o.share);
		else
			record_copies(g, vocab, o.share);
		if (rc == 0 && (rc = measure(g, &o)) == 0)
			rc = print_row(g, &o);
	}
	gp_engine_destroy(draft);
	return rc;
}

static int measure_texts(struct guess *g)
{
	struct outcome o = { .share = -1 };
	const int rc = measure(g, &o);

	return rc < 0 ? rc : print_row(g, &o);
}

/* The engine's own choice is none where a stage is not on the CPU. */
static int check_plan(const struct guess *g)
{
	struct gp_model *m;
	struct gp_plan p;
	int rc;

	if (g->cli.lookup != GP_LOOKUP_AUTO)
		return 0;
	if ((rc = gp_model_open(&m, g->cli.model)) < 0)
		return rc;
	rc = gp_plan_make(&p, &g->cli.plan, m);
	gp_model_close(m);
	for (uint32_t k = 0; rc == 0 && k < p.n_stages; k++)
		if (strcmp(p.stage[k].device, "cpu") != 0)
			rc = gp_fail(EINVAL, "nothing guesses where a stage is on %s; give --lookup N or "
				     "--draft FILE", p.stage[k].device);
	return rc;
}

static int bench(struct guess *g)
{
	int rc = g->file ? read_texts(g) : 0;

	if (rc < 0)
		return rc;
	if (!g->cli.plan.context)
		g->cli.plan.context = (uint32_t)(g->n_prompt + g->n_tokens);
	g->cli.plan.max_sequences = (uint32_t)g->batch;
	/* Prompts are computed once, where the cache allows it. */
	g->cli.plan.prefixes = (uint32_t)g->batch + 1;
	if ((rc = check_plan(g)) < 0 || (rc = cli_open_engine(&g->cli)) < 0)
		return rc;
	print_head(g);
	return g->file ? measure_texts(g) : measure_shares(g);
}

int main(int argc, char **argv)
{
	static struct guess g = {
		.n_prompt = 512, .n_tokens = 256, .batch = 1, .repeats = 3, .random = 88172645463325252u,
		.shares = { 1, 0.9, 0.7, 0.5, 0 }, .n_shares = 5,
	};
	int status;

	cli_init(&g.cli, "bench");
	g.cli.lookup = GP_LOOKUP_AUTO;
	if ((status = read_arguments(&g, argc, argv)) != 0)
		return status;
	const int rc = bench(&g);
	if (rc < 0)
		status = rc == -EINTR ? 130 : cli_failed(&g.cli);
	status = cli_close_engine(&g.cli, status);
	for (uint64_t i = 0; i < g.batch; i++) {
		free(g.prompt[i]);
		free(g.recorded[i]);
	}
	return status;
}

/* gempipe bench --serve: what users of the server get under load. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/common/load.h"
#include "tools/common/load_report.h"
#include "tools/common/serving.h"

#define MAX_LIST 16u
#define MAX_CLIENTS 1024u
#define MAX_REQUESTS 100000u

static const char help[] =
	"Usage: gempipe bench --serve -m MODEL [options]\n"
	"       gempipe bench --serve --url http://HOST:PORT/v1 [options]\n"
	"Loads a server with streams of completions over HTTP: one of MODEL, begun for this on a\n"
	"free port of this machine, or any that speaks OpenAI's API and knows 'ignore_eos' (that of\n"
	"gempipe, llama.cpp's, vLLM). Prompts are token ids of no meaning; answers are as long as\n"
	"they should be. Told are the output by the wall time, prompts included, and how long users\n"
	"wait for the first token and for each further one.\n\n"
	"  -b, --clients LIST     so many at a time, each of which asks again when it has its answer\n"
	"                         (default 1,2,4,8,16)\n"
	"      --rate LIST        instead: so many requests a second, at random times, whether or not\n"
	"                         others have their answers (Poisson): 0.2,0.5,1\n"
	"      --requests N       of each level (default: twice the clients, at least 8)\n"
	"      --lengths P:N|FILE prompts of P tokens, answers of N; or a file, PROMPT,OUTPUT a line\n"
	"                         (default: 32 recorded conversations of the Azure LLM inference\n"
	"                         trace 2023, 215 to 4141 tokens in, 7 to 482 out)\n"
	"      --divide K         lengths divided by K, for slow machines\n"
	"      --shared N         the first N tokens of all prompts of a level are the same; no more\n"
	"                         than the shortest has\n"
	"      --api-key-file F   its first line is the key for --url\n"
	"      --max-sequences N  sequences that are worked on at once (default: the most clients;\n"
	"                         8 with --rate)\n"
	"      --max-queue N      requests that may wait for that (default 256)\n"
	SERVING_HELP
	"      --ctx N            positions a sequence may have (default: what the lengths need)\n"
	CLI_JSON_HELP CLI_ENGINE_HELP
	"\nExamples:\n"
	"  gempipe bench --serve -m gemma-3-4b-q4_0.gguf -b 1,16 --lengths 128:128\n"
	"  gempipe bench --serve -m gemma-3-4b-q4_0.gguf --rate 0.1,0.2 --requests 64 --json\n"
	"  gempipe bench --serve --url http://127.0.0.1:8080/v1 -b 8 --lengths 2048:16 --shared 2000\n";

enum { OPT_SERVE = SERVING_FIRST_OWN, OPT_URL, OPT_RATE, OPT_REQUESTS, OPT_LENGTHS, OPT_DIVIDE,
       OPT_SHARED, OPT_KEYS };

static const struct option options[] = {
	CLI_ENGINE_OPTIONS,
	SERVING_OPTIONS,
	{ "serve", no_argument, NULL, OPT_SERVE },
	{ "url", required_argument, NULL, OPT_URL },
	{ "clients", required_argument, NULL, 'b' },
	{ "rate", required_argument, NULL, OPT_RATE },
	{ "requests", required_argument, NULL, OPT_REQUESTS },
	{ "lengths", required_argument, NULL, OPT_LENGTHS },
	{ "divide", required_argument, NULL, OPT_DIVIDE },
	{ "shared", required_argument, NULL, OPT_SHARED },
	{ "api-key-file", required_argument, NULL, OPT_KEYS },
	{ 0 },
};

struct load {
	struct cli cli;
	const char *url, *lengths_name, *key_file;
	uint64_t divide, requests, shared;
	struct load_level levels[MAX_LIST];
	size_t n_levels;
	struct load_lengths lengths;
	struct load_target target;
	struct load_report report;
	const struct load_level *at;    /* the level that is being measured */

	/* The server, on a thread of its own. */
	struct gp_tokenizer *tokenizer;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool threaded;
	char server_url[160];           /* under the lock, until it is there */
	_Atomic bool stopped;
	int rc;                         /* the server's, when it has stopped */
	char why[GP_ERROR_BYTES];
	char *model, *keys;
};

/* ---- options ------------------------------------------------------------------- */

static int add_level(struct load *l, const char *word, bool rate)
{
	struct load_level *to = &l->levels[l->n_levels];
	uint64_t v;
	char *end;

	if (l->n_levels == MAX_LIST)
		return gp_fail(EINVAL, "more than %u levels", MAX_LIST);
	*to = (struct load_level){ 0 };
	if (rate) {
		to->rate = strtod(word, &end);
		if (end == word || *end || !(to->rate > 0 && to->rate <= 1e6))
			return gp_fail(EINVAL, "--rate '%s': must be a number above 0", word);
	} else if (gp_parse_u64("--clients", word, 1, MAX_CLIENTS, &v) < 0) {
		return -EINVAL;
	} else {
		to->clients = (uint32_t)v;
	}
	l->n_levels++;
	return 0;
}

static int parse_levels(struct load *l, const char *text, bool rate)
{
	char copy[256], *save = NULL;
	int rc = 0;

	if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
		return gp_fail(EINVAL, "the list '%.20s...' is too long", text);
	l->n_levels = 0;
	for (char *w = strtok_r(copy, ",", &save); w && rc == 0; w = strtok_r(NULL, ",", &save))
		rc = add_level(l, w, rate);
	return rc < 0 || l->n_levels ? rc : gp_fail(EINVAL, "'%s': no number given", text);
}

static int own_option(struct load *l, int o)
{
	switch (o) {
	case OPT_URL:
		l->url = optarg;
		return strncmp(optarg, "http", 4) == 0 && strlen(optarg) < 400
			       ? 0 : gp_fail(EINVAL, "--url '%.100s': must be like http://127.0.0.1:8080/v1",
					     optarg);
	case 'b':
	case OPT_RATE:
		return parse_levels(l, optarg, o == OPT_RATE);
	case OPT_REQUESTS:
		return gp_parse_u64("--requests", optarg, 1, MAX_REQUESTS, &l->requests);
	case OPT_LENGTHS:
		l->lengths_name = optarg;
		return 0;
	case OPT_DIVIDE:
		return gp_parse_u64("--divide", optarg, 1, 1u << 20, &l->divide);
	case OPT_SHARED:
		return gp_parse_u64("--shared", optarg, 0, 1u << 20, &l->shared);
	case OPT_KEYS:
		l->key_file = optarg;
		return 0;
	default:
		return 0;       /* --serve: that is what this is */
	}
}

static int read_arguments(struct load *l, int argc, char **argv)
{
	int o, rc;

	while ((o = getopt_long(argc, argv, CLI_ENGINE_LETTERS "b:", options, NULL)) != -1) {
		if (o == '?')
			return cli_bad_option(&l->cli, argv);
		rc = cli_option(&l->cli, o, help);
		if (rc == 1)
			rc = serving_option(&l->cli, o);
		if (rc == 1)
			rc = own_option(l, o);
		if (rc < 0)
			return cli_misused(&l->cli, "%s", gp_error());
	}
	if (optind < argc)
		return cli_misused(&l->cli, "'%s' is no option", argv[optind]);
	if (l->url && l->cli.model)
		return cli_misused(&l->cli, "-m and --url are two servers; give one of them");
	if (l->key_file && !l->url)
		return cli_misused(&l->cli, "--api-key-file is for --url");
	return l->url || l->cli.model ? 0 : cli_misused(&l->cli, "no model; give one with -m, or a --url");
}

/* ---- levels ---------------------------------------------------------------------- */

static uint32_t most_clients(const struct load *l)
{
	uint32_t most = 0;

	for (size_t i = 0; i < l->n_levels; i++)
		most = l->levels[i].clients > most ? l->levels[i].clients : most;
	return most;
}

static void plan_levels(struct load *l)
{
	for (size_t i = 0; i < l->n_levels; i++) {
		struct load_level *to = &l->levels[i];
		const uint32_t twice = to->clients > 4 ? 2 * to->clients : 8;

		to->requests = l->requests ? (uint32_t)l->requests : twice;
		to->shared = (uint32_t)l->shared;
		to->seed = i + 1;
	}
}

static bool show_progress(void *user, const struct load_result *r)
{
	const struct load *l = user;

	if (!l->cli.quiet && isatty(STDERR_FILENO)) {
		fprintf(stderr, "\r\033[K%u of %u requests, %zu pieces of text", r->done + r->failed,
			l->at->requests, r->first.n + r->between.n);
		fflush(stderr);
	}
	return !atomic_load(&l->stopped);
}

static int run_level(struct load *l, const struct load_level *level, bool shown)
{
	struct load_result r;
	int rc;

	l->at = level;
	rc = load_run(&l->target, level, &l->lengths, &r, show_progress, l);
	if (!l->cli.quiet && isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[K");
	if (rc == 0 && !r.done)
		rc = gp_fail(EIO, "%s: all %u requests failed: %s", l->target.url, r.failed, r.failure);
	if (rc == 0 && shown)
		rc = load_report_add(&l->report, level, &r);
	load_result_free(&r);
	return rc;
}

/* The first request of all finds memory that was never touched, and caches that are cold. */
static int warm_up(struct load *l)
{
	const struct load_level one = { .clients = 1, .requests = 1, .seed = UINT64_MAX };
	const struct load_lengths all = l->lengths;
	struct load_length small = { .prompt = 16, .output = 4 };

	l->lengths = (struct load_lengths){ .of = &small, .n = 1 };
	const int rc = run_level(l, &one, false);
	l->lengths = all;
	return rc;
}

static int run_levels(struct load *l)
{
	int rc = warm_up(l);

	if (rc == 0)
		load_report_begin(&l->report, l->target.model);
	for (size_t i = 0; i < l->n_levels && rc == 0; i++)
		rc = run_level(l, &l->levels[i], true);
	if (rc == 0)
		rc = load_report_end(&l->report, &l->target, l->cli.engine);
	return rc < 0 ? rc : cli_flush_stdout();
}

/* ---- a server of our own ------------------------------------------------------------ */

static void on_ready(void *user, const char *url)
{
	struct load *l = user;

	pthread_mutex_lock(&l->lock);
	snprintf(l->server_url, sizeof l->server_url, "%s/v1", url);
	pthread_cond_signal(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

static void *serve(void *arg)
{
	struct load *l = arg;
	const struct gp_serve_options o = { .model_name = "model", .max_connections = 2 * MAX_CLIENTS,
					    .ready = on_ready, .user = l };

	l->rc = gp_http_serve(l->cli.engine, l->tokenizer, &o);
	snprintf(l->why, sizeof l->why, "%s", l->rc < 0 ? gp_error() : "interrupted");
	atomic_store(&l->stopped, true);
	pthread_mutex_lock(&l->lock);
	pthread_cond_signal(&l->changed);
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* What the engine would say is about a --ctx that nobody gave. */
static int plan_context(struct load *l)
{
	const uint32_t longest = l->lengths.longest, given = l->cli.plan.context;
	struct gp_model *m;
	const int rc = gp_model_open(&m, l->cli.model);

	if (rc < 0)
		return rc;
	const uint32_t most = given ? given : gp_model_config(m)->context;
	gp_model_close(m);
	if (longest > most)
		return gp_fail(E2BIG, "the longest prompt and answer have %u tokens together, %s %u; give "
			       "shorter --lengths, or --divide", longest,
			       given ? "--ctx is" : "the model was trained for", most);
	/* The warm-up's fit as well. */
	if (!given)
		l->cli.plan.context = longest > 32 ? longest : 32;
	return 0;
}

static int plan_server(struct load *l)
{
	const uint32_t clients = most_clients(l);

	if (!l->cli.plan.max_sequences)
		l->cli.plan.max_sequences = !clients ? 8 : clients < 256 ? clients : 256;
	return plan_context(l);
}

static int start_server(struct load *l)
{
	int rc;

	if ((rc = plan_server(l)) < 0 ||
	    (rc = gp_tokenizer_open(&l->tokenizer, l->cli.model)) < 0 ||
	    (rc = cli_open_engine(&l->cli)) < 0)
		return rc;
	rc = -pthread_create(&l->thread, NULL, serve, l);
	if (rc < 0)
		return gp_fail(-rc, "no thread for the server: %s", strerror(-rc));
	l->threaded = true;
	pthread_mutex_lock(&l->lock);
	while (!l->server_url[0] && !atomic_load(&l->stopped))
		pthread_cond_wait(&l->changed, &l->lock);
	pthread_mutex_unlock(&l->lock);
	l->url = l->server_url;
	return 0;
}

/* Its failure is the reason of the clients'. */
static int stop_server(struct load *l, int rc)
{
	if (!l->threaded)
		return rc;
	const bool fell = atomic_load(&l->stopped);
	gp_engine_interrupt(l->cli.engine);
	pthread_join(l->thread, NULL);
	if (fell)
		rc = gp_fail(l->rc < 0 ? -l->rc : EINTR, "%s", l->why);
	return rc;
}

/* ---- the program --------------------------------------------------------------------- */

static int find_server(struct load *l)
{
	size_t bytes;
	int rc = 0;

	l->target.url = l->url;
	if (l->key_file && (rc = cli_read_file(l->key_file, &l->keys, &bytes)) == 0) {
		l->keys[strcspn(l->keys, " \t\r\n")] = '\0';
		l->target.key = l->keys;
	}
	if (rc == 0)
		rc = load_find_model(&l->target, &l->model);
	l->target.model = l->model;
	return rc;
}

static int read_lengths(struct load *l)
{
	const int rc = load_lengths_read(&l->lengths, l->lengths_name, (uint32_t)l->divide);

	if (rc < 0 || l->shared <= l->lengths.shortest_prompt)
		return rc;
	return gp_fail(EINVAL, "--shared %u: the shortest prompt has %u tokens; lower it, or give longer "
		       "--lengths", (uint32_t)l->shared, l->lengths.shortest_prompt);
}

static int measure(struct load *l)
{
	int rc = read_lengths(l);

	if (rc == 0 && !l->url)
		rc = start_server(l);
	if (rc == 0 && (rc = find_server(l)) == 0)
		rc = run_levels(l);
	return stop_server(l, rc);
}

int main(int argc, char **argv)
{
	static struct load l = { .divide = 1, .lock = PTHREAD_MUTEX_INITIALIZER,
				 .changed = PTHREAD_COND_INITIALIZER };
	int status;

	cli_init(&l.cli, "bench --serve");
	l.cli.max_queue = 256;
	l.cli.plan.prefixes = GP_PREFIXES_AUTO;
	parse_levels(&l, "1,2,4,8,16", false);
	if ((status = read_arguments(&l, argc, argv)) != 0)
		return status;
	plan_levels(&l);
	l.report.json = l.cli.json;
	if (measure(&l) < 0)
		status = cli_failed(&l.cli);
	status = cli_close_engine(&l.cli, status);
	gp_tokenizer_close(l.tokenizer);
	load_report_free(&l.report);
	load_lengths_free(&l.lengths);
	free(l.model);
	free(l.keys);
	return status;
}

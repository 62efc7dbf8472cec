/* gempipe serve: answers OpenAI's API over HTTP. */
#include <stdlib.h>
#include <string.h>

#include "tools/common/serving.h"

static const char help[] =
	"Usage: gempipe serve -m MODEL [options]\n"
	"Answers OpenAI's API (/v1/models, /v1/chat/completions, /v1/completions) and\n"
	"/tokenize, /health, /stats, /metrics until Ctrl-C, and at / a page to chat with the\n"
	"model. Many conversations share the pipeline.\n\n"
	"      --host ADDRESS     numeric address to listen on (default 127.0.0.1); any that is\n"
	"                         not this machine's own needs --api-key-file\n"
	"      --port N           (default 8080; 0: any free one)\n"
	"      --api-key-file F   keys, one a line; clients send Authorization: Bearer KEY\n"
	"      --name NAME        the model's name for clients (default: the file's)\n"
	"      --max-sequences N  sequences that are worked on at once (default 8)\n"
	"      --max-queue N      requests that may wait for that (default 256)\n"
	"      --max-connections N  (default 1500)\n"
	"      --client-timeout S seconds for a request to come in, and to take what is left of an\n"
	"                         answer when all of it is made (default 60)\n"
	SERVING_HELP
	CLI_CTX_HELP CLI_GUESS_HELP CLI_ENGINE_HELP
	"\nExamples:\n"
	"  gempipe serve -m gemma-3-27b-it-q4_0.gguf --max-sequences 16\n"
	"  gempipe serve -m MODEL --host 0.0.0.0 --api-key-file keys.txt\n"
	"  curl -H 'Content-Type: application/json' http://127.0.0.1:8080/v1/chat/completions \\\n"
	"    -d '{\"model\": \"MODEL\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n";

enum { OPT_HOST = SERVING_FIRST_OWN, OPT_PORT, OPT_KEYS, OPT_NAME, OPT_CONNECTIONS, OPT_TIMEOUT };

static const struct option options[] = {
	CLI_ENGINE_OPTIONS, CLI_GUESS_OPTIONS,
	SERVING_OPTIONS,
	{ "host", required_argument, NULL, OPT_HOST },
	{ "port", required_argument, NULL, OPT_PORT },
	{ "api-key-file", required_argument, NULL, OPT_KEYS },
	{ "name", required_argument, NULL, OPT_NAME },
	{ "max-connections", required_argument, NULL, OPT_CONNECTIONS },
	{ "client-timeout", required_argument, NULL, OPT_TIMEOUT },
	{ 0 },
};

struct serve {
	struct cli cli;
	struct gp_serve_options http;
	struct gp_tokenizer *tokenizer;
	char *name;
};

static int own_option(struct serve *s, int o)
{
	uint64_t v = 0;
	int rc = 0;

	switch (o) {
	case OPT_HOST:
		s->http.address = optarg;
		return 0;
	case OPT_PORT:
		rc = gp_parse_u64("--port", optarg, 0, 65535, &v);
		s->http.port = (uint16_t)v;
		return rc;
	case OPT_KEYS:
		s->http.key_file = optarg;
		return 0;
	case OPT_NAME:
		s->http.model_name = optarg;
		return 0;
	case OPT_TIMEOUT:
		rc = gp_parse_u64("--client-timeout", optarg, 1, 1u << 20, &v);
		s->http.client_timeout_s = (uint32_t)v;
		return rc;
	default:
		rc = gp_parse_u64("--max-connections", optarg, 2, 1u << 16, &v);
		s->http.max_connections = (uint32_t)v;
		return rc;
	}
}

static int read_arguments(struct serve *s, int argc, char **argv)
{
	int o, rc;

	while ((o = getopt_long(argc, argv, CLI_ENGINE_LETTERS, options, NULL)) != -1) {
		if (o == '?')
			return cli_bad_option(&s->cli, argv);
		rc = cli_option(&s->cli, o, help);
		if (rc == 1)
			rc = serving_option(&s->cli, o);
		if (rc == 1)
			rc = own_option(s, o);
		if (rc < 0)
			return cli_misused(&s->cli, "%s", gp_error());
	}
	if (optind < argc)
		return cli_misused(&s->cli, "'%s' is no option", argv[optind]);
	if (s->cli.json)
		return cli_misused(&s->cli, "there is no --json; /metrics has figures");
	return s->cli.model ? 0 : cli_misused(&s->cli, "no model; give one with -m");
}

/* The file's or folder's name, without ".gguf". */
static int name_model(struct serve *s)
{
	const char *path = s->cli.model;
	size_t end = strlen(path), begin;

	if (s->http.model_name)
		return 0;
	while (end > 1 && path[end - 1] == '/')
		end--;
	for (begin = end; begin && path[begin - 1] != '/'; begin--)
		;
	if (end - begin > 5 && strncmp(path + end - 5, ".gguf", 5) == 0)
		end -= 5;
	s->http.model_name = s->name = strndup(path + begin, end - begin);
	return s->name ? 0 : gp_fail(ENOMEM, "no memory for a name");
}

static void ready(void *user, const char *url)
{
	const struct serve *s = user;

	if (!s->cli.quiet)
		fprintf(stderr, "gempipe serve: %s at %s/v1\n", s->http.model_name, url);
}

int main(int argc, char **argv)
{
	struct serve s = { .http = { .port = 8080, .max_connections = 1500 } };
	int status, rc;

	cli_init(&s.cli, "serve");
	s.cli.lookup = GP_LOOKUP_AUTO;
	s.cli.plan.max_sequences = 8;
	s.cli.plan.prefixes = GP_PREFIXES_AUTO;
	s.cli.max_queue = 256;
	if ((status = read_arguments(&s, argc, argv)) != 0)
		return status;
	s.http.ready = ready;
	s.http.user = &s;
	if ((rc = name_model(&s)) < 0 || (rc = gp_tokenizer_open(&s.tokenizer, s.cli.model)) < 0 ||
	    (rc = cli_open_engine(&s.cli)) < 0 ||
	    (rc = gp_http_serve(s.cli.engine, s.tokenizer, &s.http)) < 0)
		status = rc == -EINTR ? 130 : cli_failed(&s.cli);
	if (status == 0 && !s.cli.quiet)
		cli_print_stats(&s.cli, stderr);
	status = cli_close_engine(&s.cli, status);
	gp_tokenizer_close(s.tokenizer);
	free(s.name);
	return status;
}

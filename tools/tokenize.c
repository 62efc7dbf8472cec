/* gempipe tokenize: text to token ids. */
#include <stdlib.h>

#include "model/model.h"
#include "tools/common/cli.h"
#include "tools/common/jsonl.h"

static const char help[] =
	"Usage: gempipe tokenize -m MODEL [options] < TEXT\n"
	"Writes the token ids of the text on stdin, apart by spaces, on one line.\n\n"
	"  -m, --model PATH       a .gguf file, a Hugging Face folder, or a tokenizer.json\n"
	"      --no-bos           no <bos> in front\n"
	"      --parse-special    control tokens in the text (<end_of_turn>) are parsed;\n"
	"                         without it they are plain text\n"
	"      --jsonl            lines {\"text\": ..., \"add_special\": true} to lines {\"ids\": [...]}\n"
	"  -h, --help             this text;  --version: the version\n"
	"\nExamples:\n"
	"  printf 'Hello, world' | gempipe tokenize -m MODEL\n"
	"  gempipe tokenize -m MODEL --jsonl --parse-special < cases.jsonl\n";

enum { OPT_NO_BOS = CLI_FIRST_OWN, OPT_PARSE_SPECIAL, OPT_JSONL };

static const struct option options[] = {
	{ "model", required_argument, NULL, 'm' },
	{ "no-bos", no_argument, NULL, OPT_NO_BOS },
	{ "parse-special", no_argument, NULL, OPT_PARSE_SPECIAL },
	{ "jsonl", no_argument, NULL, OPT_JSONL },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, CLI_VERSION },
	{ 0 },
};

struct tokenize {
	struct cli cli;
	struct gp_tokenizer *tokenizer;
	unsigned flags;
	bool jsonl;
};

static int own_option(struct tokenize *t, int o)
{
	switch (o) {
	case OPT_NO_BOS:
		t->flags &= ~(unsigned)GP_ENCODE_BOS;
		return 0;
	case OPT_PARSE_SPECIAL:
		t->flags |= GP_ENCODE_SPECIAL;
		return 0;
	default:
		t->jsonl = true;
		return 0;
	}
}

static int parse(struct tokenize *t, int argc, char **argv)
{
	int o;

	while ((o = getopt_long(argc, argv, "m:h", options, NULL)) != -1) {
		if (o == '?')
			return cli_bad_option(&t->cli, argv);
		if (cli_option(&t->cli, o, help) == 1)
			own_option(t, o);
	}
	if (optind < argc)
		return cli_misused(&t->cli, "'%s' is no option; the text comes from stdin",
		                   argv[optind]);
	if (!t->cli.model)
		return cli_misused(&t->cli, "-m MODEL is needed");
	return 0;
}

/* Writes all or nothing. */
static int print_ids(const struct tokenize *t, const char *text, size_t bytes, unsigned flags,
                     const char *begin, const char *separator, const char *end)
{
	uint32_t *ids;
	size_t n;
	int rc = gp_tokenizer_encode(t->tokenizer, text, bytes, flags, &ids, &n);

	if (rc < 0)
		return rc;
	fputs(begin, stdout);
	for (size_t i = 0; i < n; i++)
		printf("%s%u", i ? separator : "", ids[i]);
	fputs(end, stdout);
	free(ids);
	return 0;
}

static int tokenize_stdin(const struct tokenize *t)
{
	size_t bytes;
	char *text;
	int rc = cli_read_file("-", &text, &bytes);

	if (rc < 0)
		return rc;
	rc = print_ids(t, text, bytes, t->flags, "", " ", "\n");
	free(text);
	return rc < 0 ? gp_fail_in(rc, "stdin") : 0;
}

static int tokenize_object(const void *user, const json_t *object)
{
	const struct tokenize *t = user;
	const json_t *text = json_object_get(object, "text");
	const json_t *add = json_object_get(object, "add_special");
	unsigned flags = t->flags;

	if (!json_is_string(text) || (add && !json_is_boolean(add)))
		return gp_fail(EINVAL, "not {\"text\": \"...\", \"add_special\": true or false}");
	if (add)
		flags = (flags & ~(unsigned)GP_ENCODE_BOS) |
		        (json_is_true(add) ? (unsigned)GP_ENCODE_BOS : 0);
	return print_ids(t, json_string_value(text), json_string_length(text), flags,
	                 "{\"ids\": [", ", ", "]}\n");
}

int main(int argc, char **argv)
{
	struct tokenize t = { .flags = GP_ENCODE_BOS };
	int rc;

	cli_init(&t.cli, "tokenize");
	if ((rc = parse(&t, argc, argv)) != 0)
		return rc;
	rc = gp_tokenizer_open(&t.tokenizer, t.cli.model);
	if (rc == 0)
		rc = t.jsonl ? cli_each_json_line(tokenize_object, &t) : tokenize_stdin(&t);
	if (rc == 0)
		rc = cli_flush_stdout();
	gp_tokenizer_close(t.tokenizer);
	return rc < 0 ? cli_failed(&t.cli) : 0;
}

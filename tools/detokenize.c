/* gempipe detokenize: token ids to text. */
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "tools/common/cli.h"
#include "tools/common/jsonl.h"

static const char help[] =
	"Usage: gempipe detokenize -m MODEL [options] < IDS\n"
	"Writes the text of the token ids on stdin (apart by blanks or commas), and\n"
	"nothing else: no newline is added.\n\n"
	"  -m, --model PATH       a .gguf file, a Hugging Face folder, or a tokenizer.json\n"
	"      --skip-special     leave control tokens out\n"
	"      --jsonl            lines {\"ids\": [...], \"skip_special\": true} to lines {\"text\": ...}\n"
	"  -h, --help             this text;  --version: the version\n"
	"\nExamples:\n"
	"  printf 'Hello' | gempipe tokenize -m MODEL | gempipe detokenize -m MODEL --skip-special\n"
	"  gempipe detokenize -m MODEL --jsonl < cases.jsonl\n";

enum { OPT_SKIP_SPECIAL = CLI_FIRST_OWN, OPT_JSONL };

static const struct option options[] = {
	{ "model", required_argument, NULL, 'm' },
	{ "skip-special", no_argument, NULL, OPT_SKIP_SPECIAL },
	{ "jsonl", no_argument, NULL, OPT_JSONL },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, CLI_VERSION },
	{ 0 },
};

struct detokenize {
	struct cli cli;
	struct gp_tokenizer *tokenizer;
	bool skip_special, jsonl;
};

static int parse(struct detokenize *d, int argc, char **argv)
{
	int o;

	while ((o = getopt_long(argc, argv, "m:h", options, NULL)) != -1) {
		if (o == '?')
			return cli_bad_option(&d->cli, argv);
		if (cli_option(&d->cli, o, help) != 1)
			continue;
		d->skip_special |= o == OPT_SKIP_SPECIAL;
		d->jsonl |= o == OPT_JSONL;
	}
	if (optind < argc)
		return cli_misused(&d->cli, "'%s' is no option; the ids come from stdin",
		                   argv[optind]);
	if (!d->cli.model)
		return cli_misused(&d->cli, "-m MODEL is needed");
	return 0;
}

static int print_text(const struct detokenize *d, const uint32_t *ids, size_t n)
{
	size_t bytes;
	char *text;
	int rc = gp_tokenizer_decode(d->tokenizer, ids, n, d->skip_special, &text, &bytes);

	if (rc < 0)
		return rc;
	fwrite(text, 1, bytes, stdout);
	free(text);
	return 0;
}

/* No ids are the empty text; "@" would name a file to cli_parse_ids. */
static int parse_ids(const char *text, size_t bytes, uint32_t **ids, size_t *n)
{
	char problem[GP_ERROR_BYTES];
	int rc;

	if (memchr(text, '\0', bytes) || text[0] == '@')
		return gp_fail(EINVAL, "stdin: holds more than numbers; give token ids such as 2 5 17");
	if (text[strspn(text, " \t\r\n")] == '\0')
		return 0;
	if ((rc = cli_parse_ids(text, ids, n)) >= 0)
		return rc;
	/* It speaks of the option that the others have. */
	snprintf(problem, sizeof problem, "%s", gp_error());
	return gp_fail(-rc, "stdin: %s", problem + (strncmp(problem, "--ids: ", 7) == 0 ? 7 : 0));
}

static int detokenize_stdin(const struct detokenize *d)
{
	uint32_t *ids = NULL;
	size_t bytes, n = 0;
	char *text;
	int rc = cli_read_file("-", &text, &bytes);

	if (rc < 0)
		return rc;
	rc = parse_ids(text, bytes, &ids, &n);
	free(text);
	if (rc == 0)
		rc = print_text(d, ids, n);
	free(ids);
	return rc;
}

static int read_ids(const json_t *list, uint32_t *ids)
{
	const json_t *item;
	size_t i;

	json_array_foreach(list, i, item) {
		json_int_t id = json_integer_value(item);

		if (!json_is_integer(item) || id < 0 || id > UINT32_MAX)
			return gp_fail(EINVAL, "ids: item %zu is no token id", i);
		ids[i] = (uint32_t)id;
	}
	return 0;
}

static int print_object(const struct detokenize *d, const uint32_t *ids, size_t n, bool skip)
{
	json_t *object;
	size_t bytes;
	char *text;
	int rc = gp_tokenizer_decode(d->tokenizer, ids, n, skip, &text, &bytes);

	if (rc < 0)
		return rc;
	object = json_pack("{s:o?}", "text", json_stringn(text, bytes));
	free(text);
	if (!object || json_dumpf(object, stdout, JSON_ENSURE_ASCII) < 0)
		rc = gp_fail(EIO, "stdout: not written");
	json_decref(object);
	putchar('\n');
	return rc;
}

static int detokenize_object(const void *user, const json_t *object)
{
	const struct detokenize *d = user;
	const json_t *list = json_object_get(object, "ids");
	const json_t *skip = json_object_get(object, "skip_special");
	const size_t n = json_array_size(list);
	uint32_t *ids;
	int rc;

	if (!json_is_array(list) || (skip && !json_is_boolean(skip)))
		return gp_fail(EINVAL, "not {\"ids\": [...], \"skip_special\": true or false}");
	ids = calloc(n + 1, sizeof(*ids));
	if (!ids)
		return gp_fail(ENOMEM, "no memory for %zu token ids", n);
	rc = read_ids(list, ids);
	if (rc == 0)
		rc = print_object(d, ids, n, skip ? json_is_true(skip) : d->skip_special);
	free(ids);
	return rc;
}

int main(int argc, char **argv)
{
	struct detokenize d = { 0 };
	int rc;

	cli_init(&d.cli, "detokenize");
	if ((rc = parse(&d, argc, argv)) != 0)
		return rc;
	rc = gp_tokenizer_open(&d.tokenizer, d.cli.model);
	if (rc == 0)
		rc = d.jsonl ? cli_each_json_line(detokenize_object, &d) : detokenize_stdin(&d);
	if (rc == 0)
		rc = cli_flush_stdout();
	gp_tokenizer_close(d.tokenizer);
	return rc < 0 ? cli_failed(&d.cli) : 0;
}

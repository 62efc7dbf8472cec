/* gempipe run: completions of raw text. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "tools/common/generate.h"

static const char help[] =
	"Usage: gempipe run -m MODEL -p TEXT [options]\n"
	"Continues TEXT. Only the completion goes to stdout, statistics to stderr.\n\n"
	"  -p, --prompt TEXT      the text to continue, without a chat template; control\n"
	"                         tokens in it are plain text unless --parse-special\n"
	"  -f, --file FILE        the prompt is the content of FILE (- : stdin)\n"
	"      --prompts FILE     many prompts, one a line; each completion is one line,\n"
	"                         newlines in it as \\n, in the order of the prompts\n"
	"      --parallel N       sequences in flight at once (default: prompts, at most 8)\n"
	"  -n, --tokens N         tokens to generate at most (default 128)\n"
	"      --temp T           temperature; 0 (default) is greedy\n"
	"      --top-k K, --top-p P, --min-p P, --repeat-penalty R, --seed S\n"
	"      --no-bos           do not put <bos> in front\n"
	"      --parse-special    control tokens in the prompt are control tokens\n"
	CLI_JSON_HELP CLI_CTX_HELP CLI_GUESS_HELP CLI_ENGINE_HELP
	"\nExamples:\n"
	"  gempipe run -m gemma-3-27b-it-q4_0.gguf -p 'The capital of France is' -n 20\n"
	"  gempipe run -m MODEL --prompts questions.txt --parallel 4 --json\n"
	"  gempipe run -m MODEL -p Hello --stages cpu:0-30,external:31-61 --trace trace.json\n";

struct run {
	struct cli cli;
	const char *prompt, *file, *prompts, *image;
	struct gp_sampling sampling;
	uint32_t n_tokens;
	unsigned encode_flags;
	struct gp_tokenizer *tokenizer;
	char **texts;
	size_t *text_bytes, n;
	char *buffer;               /* what texts point into */
	uint32_t **ids;
	size_t *n_ids;
	struct completion *completions;
};

enum { OPT_PROMPTS = CLI_FIRST_OWN, OPT_PARALLEL, OPT_NO_BOS, OPT_PARSE_SPECIAL, OPT_SAMPLING,
       OPT_IMAGE };

static const struct option options[] = {
	CLI_ENGINE_OPTIONS, CLI_GUESS_OPTIONS,
	{ "prompt", required_argument, NULL, 'p' }, { "file", required_argument, NULL, 'f' },
	{ "prompts", required_argument, NULL, OPT_PROMPTS },
	{ "parallel", required_argument, NULL, OPT_PARALLEL },
	{ "tokens", required_argument, NULL, 'n' },
	{ "no-bos", no_argument, NULL, OPT_NO_BOS },
	{ "parse-special", no_argument, NULL, OPT_PARSE_SPECIAL },
	{ "image", required_argument, NULL, OPT_IMAGE },
	{ "temp", required_argument, NULL, OPT_SAMPLING },
	{ "top-k", required_argument, NULL, OPT_SAMPLING },
	{ "top-p", required_argument, NULL, OPT_SAMPLING },
	{ "min-p", required_argument, NULL, OPT_SAMPLING },
	{ "repeat-penalty", required_argument, NULL, OPT_SAMPLING },
	{ "seed", required_argument, NULL, OPT_SAMPLING },
	{ 0 },
};

static int own_option(struct run *r, int o, int index)
{
	uint64_t v = 0;
	int rc = 0;

	switch (o) {
	case 'p':
		r->prompt = optarg;
		return 0;
	case 'f':
		r->file = optarg;
		return 0;
	case OPT_PROMPTS:
		r->prompts = optarg;
		return 0;
	case OPT_PARALLEL:
		rc = gp_parse_u64("--parallel", optarg, 1, 256, &v);
		r->cli.plan.max_sequences = (uint32_t)v;
		return rc;
	case 'n':
		rc = gp_parse_u64("-n", optarg, 1, 1u << 24, &v);
		r->n_tokens = (uint32_t)v;
		return rc;
	case OPT_NO_BOS:
		r->encode_flags &= ~(unsigned)GP_ENCODE_BOS;
		return 0;
	case OPT_IMAGE:
		r->image = optarg;
		return 0;
	case OPT_PARSE_SPECIAL:
		r->encode_flags |= GP_ENCODE_SPECIAL;
		return 0;
	default:
		return cli_sampling_option(&r->sampling, options[index].name, optarg);
	}
}

static int read_arguments(struct run *r, int argc, char **argv)
{
	int o, index = 0, rc;

	while ((o = getopt_long(argc, argv, CLI_ENGINE_LETTERS "p:f:n:", options, &index)) != -1) {
		if (o == '?')
			return cli_bad_option(&r->cli, argv);
		rc = cli_option(&r->cli, o, help);
		if (rc == 1)
			rc = own_option(r, o, index);
		if (rc < 0)
			return cli_misused(&r->cli, "%s", gp_error());
	}
	if (optind < argc)
		return cli_misused(&r->cli, "'%s' is no option; quote the prompt after -p",
				   argv[optind]);
	if (!r->cli.model)
		return cli_misused(&r->cli, "no model; give one with -m");
	if ((r->prompt != NULL) + (r->file != NULL) + (r->prompts != NULL) != 1)
		return cli_misused(&r->cli, "give one of -p TEXT, -f FILE and --prompts FILE");
	return 0;
}

static size_t count_lines(const char *text, size_t bytes)
{
	size_t n = bytes && text[bytes - 1] != '\n';

	for (size_t i = 0; i < bytes; i++)
		n += text[i] == '\n';
	return n;
}

static int split_lines(struct run *r, size_t bytes)
{
	char *p = r->buffer, *end = r->buffer + bytes;
	const size_t n = count_lines(r->buffer, bytes);

	if (!n)
		return gp_fail(EINVAL, "%s: no prompts in it; write one a line", r->prompts);
	r->texts = calloc(n, sizeof *r->texts);
	r->text_bytes = calloc(n, sizeof *r->text_bytes);
	if (!r->texts || !r->text_bytes)
		return gp_fail(ENOMEM, "no memory for %zu prompts", n);
	for (; p < end; r->n++) {
		char *stop = memchr(p, '\n', (size_t)(end - p));

		if (!stop)
			stop = end;
		r->texts[r->n] = p;
		r->text_bytes[r->n] = (size_t)(stop - p);
		p = stop + 1;
	}
	return 0;
}

static int read_prompts(struct run *r)
{
	size_t bytes = 0;
	int rc = 0;

	if (r->prompts) {
		rc = cli_read_file(r->prompts, &r->buffer, &bytes);
		return rc < 0 ? rc : split_lines(r, bytes);
	}
	if (r->file && (rc = cli_read_file(r->file, &r->buffer, &bytes)) < 0)
		return rc;
	if (r->prompt) {
		r->buffer = strdup(r->prompt);
		bytes = strlen(r->prompt);
	}
	r->texts = calloc(1, sizeof *r->texts);
	r->text_bytes = calloc(1, sizeof *r->text_bytes);
	if (!r->buffer || !r->texts || !r->text_bytes)
		return gp_fail(ENOMEM, "no memory for the prompt");
	r->texts[0] = r->buffer;
	r->text_bytes[0] = bytes;
	r->n = 1;
	return 0;
}

static int encode_all(struct run *r)
{
	r->ids = calloc(r->n, sizeof *r->ids);
	r->n_ids = calloc(r->n, sizeof *r->n_ids);
	if (!r->ids || !r->n_ids)
		return gp_fail(ENOMEM, "no memory for %zu prompts", r->n);
	for (size_t i = 0; i < r->n; i++) {
		const int rc = gp_tokenizer_encode(r->tokenizer, r->texts[i], r->text_bytes[i],
						   r->encode_flags, &r->ids[i], &r->n_ids[i]);

		if (rc < 0)
			return gp_fail_in(rc, "prompt %zu", i + 1);
	}
	return 0;
}

static int submit_all(struct run *r)
{
	FILE *stream = r->n == 1 && !r->prompts && !r->cli.json ? stdout : NULL;
	uint32_t id;
	int rc = 0;

	r->completions = calloc(r->n, sizeof *r->completions);
	if (!r->completions)
		return gp_fail(ENOMEM, "no memory for %zu prompts", r->n);
	for (size_t i = 0; i < r->n && rc == 0; i++) {
		struct completion *c = &r->completions[i];

		if ((rc = completion_init(c, r->tokenizer, stream)) == 0 &&
		    (rc = completion_submit(c, r->cli.engine, r->ids[i], r->n_ids[i], r->n_tokens,
					    &r->sampling, 0, false, &id)) < 0)
			rc = gp_fail_in(rc, "prompt %zu", i + 1);
	}
	return rc;
}

static void print_line(const struct completion *c)
{
	for (size_t i = 0; i < c->bytes; i++) {
		if (c->text[i] == '\n')
			fputs("\\n", stdout);
		else if (c->text[i] == '\\')
			fputs("\\\\", stdout);
		else
			putchar(c->text[i]);
	}
	putchar('\n');
}

static int print_json(const struct completion *c, size_t index)
{
	json_t *ids = json_array();

	for (size_t i = 0; i < c->n_ids; i++)
		json_array_append_new(ids, json_integer(c->ids[i]));
	json_t *o = json_pack("{s:I, s:s%, s:o, s:I, s:s}", "index", (json_int_t)index, "text",
			      c->text, c->bytes, "ids", ids, "prompt_tokens",
			      (json_int_t)c->n_prompt, "finish", finish_text(c->finish));
	if (!o)
		return gp_fail(EILSEQ, "completion %zu is no valid UTF-8 for JSON", index);
	json_dumpf(o, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(o);
	return 0;
}

static int print_results(const struct run *r)
{
	int rc = 0;

	for (size_t i = 0; i < r->n && rc == 0; i++) {
		const struct completion *c = &r->completions[i];

		rc = c->rc;
		if (rc == 0 && r->cli.json)
			rc = print_json(c, i);
		else if (rc == 0 && r->prompts)
			print_line(c);
	}
	if (rc == 0 && !r->cli.json && !r->prompts)
		putchar('\n');
	return rc == 0 ? cli_flush_stdout() : rc;
}

/* What may fail early fails before the weights are loaded. */
static int generate(struct run *r)
{
	int rc;

	if (r->image)
		return gp_fail(ENOTSUP, "%s: gempipe runs the language model only and takes no image; "
			       "describe it in the prompt", r->image);
	if ((rc = read_prompts(r)) < 0 ||
	    (rc = gp_tokenizer_open(&r->tokenizer, r->cli.model)) < 0 ||
	    (rc = encode_all(r)) < 0)
		return rc;
	if (!r->cli.plan.max_sequences)
		r->cli.plan.max_sequences = r->n < 8 ? (uint32_t)r->n : 8;
	if ((rc = cli_open_engine(&r->cli)) < 0 || (rc = submit_all(r)) < 0)
		return rc;
	rc = gp_engine_run(r->cli.engine);
	if (rc == 0 || rc == -EINTR) {
		const int printed = print_results(r);

		rc = rc == 0 ? printed : rc;
	}
	if (rc == 0 && !r->cli.quiet)
		cli_print_stats(&r->cli, stderr);
	return rc;
}

static void release(struct run *r)
{
	for (size_t i = 0; r->ids && i < r->n; i++)
		free(r->ids[i]);
	free(r->ids);
	free(r->n_ids);
	for (size_t i = 0; r->completions && i < r->n; i++)
		completion_finish(&r->completions[i]);
	free(r->completions);
	gp_tokenizer_close(r->tokenizer);
	free(r->texts);
	free(r->text_bytes);
	free(r->buffer);
}

int main(int argc, char **argv)
{
	struct run r = { .n_tokens = 128, .encode_flags = GP_ENCODE_BOS };
	int rc;

	cli_init(&r.cli, "run");
	r.cli.lookup = GP_LOOKUP_AUTO;
	if ((rc = read_arguments(&r, argc, argv)) != 0)
		return rc;
	rc = generate(&r);
	int status = 0;
	if (rc == -EINTR)
		status = 130;
	else if (rc < 0)
		status = cli_failed(&r.cli);
	status = cli_close_engine(&r.cli, status);
	release(&r);
	return status;
}

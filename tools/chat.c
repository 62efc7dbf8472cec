/* gempipe chat: a conversation in the terminal. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/common/generate.h"

static const char help[] =
	"Usage: gempipe chat -m MODEL [options]\n"
	"Talks with the model, with its chat template. Each line of input is a message.\n"
	"/clear forgets the conversation, /stats shows the stages, /quit or Ctrl-D ends,\n"
	"Ctrl-C stops the answer.\n\n"
	"      --system TEXT      put before the first message\n"
	"  -n, --tokens N         tokens of an answer at most (default 1024)\n"
	"      --temp T           temperature (default 1.0; 0 is greedy)\n"
	"      --top-k K (64), --top-p P (0.95), --min-p P, --repeat-penalty R, --seed S\n"
	CLI_CTX_HELP CLI_GUESS_HELP CLI_ENGINE_HELP
	"\nExamples:\n"
	"  gempipe chat -m gemma-3-27b-it-q4_0.gguf\n"
	"  echo 'Name three rivers.' | gempipe chat -m MODEL --temp 0 -q\n";

enum { OPT_SYSTEM = CLI_FIRST_OWN, OPT_SAMPLING };

static const struct option options[] = {
	CLI_ENGINE_OPTIONS, CLI_GUESS_OPTIONS,
	{ "system", required_argument, NULL, OPT_SYSTEM },
	{ "tokens", required_argument, NULL, 'n' },
	{ "temp", required_argument, NULL, OPT_SAMPLING },
	{ "top-k", required_argument, NULL, OPT_SAMPLING },
	{ "top-p", required_argument, NULL, OPT_SAMPLING },
	{ "min-p", required_argument, NULL, OPT_SAMPLING },
	{ "repeat-penalty", required_argument, NULL, OPT_SAMPLING },
	{ "seed", required_argument, NULL, OPT_SAMPLING },
	{ 0 },
};

struct chat {
	struct cli cli;
	struct gp_tokenizer *tokenizer;
	struct gp_sampling sampling;
	const char *system;
	uint32_t n_tokens;
	struct gp_chat_message *messages; /* contents owned */
	size_t n, room;
	uint32_t last_id;                 /* whose sequence is kept */
};

static int read_arguments(struct chat *c, int argc, char **argv)
{
	int o, rc, index = 0;
	uint64_t v = 0;

	while ((o = getopt_long(argc, argv, CLI_ENGINE_LETTERS "n:", options, &index)) != -1) {
		if (o == '?')
			return cli_bad_option(&c->cli, argv);
		rc = cli_option(&c->cli, o, help);
		if (rc == 1 && o == OPT_SYSTEM) {
			c->system = optarg;
		} else if (rc == 1 && o == 'n') {
			rc = gp_parse_u64("-n", optarg, 1, 1u << 24, &v);
			c->n_tokens = (uint32_t)v;
		} else if (rc == 1) {
			rc = cli_sampling_option(&c->sampling, options[index].name, optarg);
		}
		if (rc < 0)
			return cli_misused(&c->cli, "%s", gp_error());
	}
	if (optind < argc)
		return cli_misused(&c->cli, "'%s' is no option", argv[optind]);
	if (c->cli.json)
		return cli_misused(&c->cli, "a chat is text, there is no --json; see gempipe run");
	return c->cli.model ? 0 : cli_misused(&c->cli, "no model; give one with -m");
}

static void forget(struct chat *c, size_t keep)
{
	while (c->n > keep)
		free((void *)(uintptr_t)c->messages[--c->n].content);
}

static int add_message(struct chat *c, const char *role, const char *content)
{
	if (c->n == c->room) {
		const size_t room = 2 * c->room + 8;
		struct gp_chat_message *more = realloc(c->messages, room * sizeof *more);

		if (!more)
			return gp_fail(ENOMEM, "no memory for the conversation");
		c->messages = more;
		c->room = room;
	}
	char *copy = strdup(content);
	if (!copy)
		return gp_fail(ENOMEM, "no memory for the conversation");
	c->messages[c->n++] = (struct gp_chat_message){ .role = role, .content = copy };
	return 0;
}

static int start_over(struct chat *c)
{
	forget(c, 0);
	return c->system ? add_message(c, "system", c->system) : 0;
}

static int submit_turn(struct chat *c, struct completion *answer)
{
	uint32_t *ids;
	size_t n;
	int rc = gp_chat_encode(c->tokenizer, c->messages, c->n, true, false, &ids, &n);

	if (rc < 0)
		return rc;
	rc = completion_submit(answer, c->cli.engine, ids, n, c->n_tokens, &c->sampling, c->last_id,
			       true, &c->last_id);
	free(ids);
	return rc;
}

/* A turn that cannot be answered (too long, say) is taken back. */
static int answer_turn(struct chat *c, const char *text)
{
	struct completion answer;
	const size_t before = c->n;
	int rc;

	if ((rc = add_message(c, "user", text)) < 0 ||
	    (rc = completion_init(&answer, c->tokenizer, stdout)) < 0)
		return rc;
	rc = submit_turn(c, &answer);
	if (rc == 0)
		rc = gp_engine_run(c->cli.engine);
	if (rc == -EINTR) {
		cli_forget_interrupt();
		rc = 0;
	}
	if (rc == 0)
		rc = answer.rc;
	if (rc == 0) {
		putchar('\n');
		rc = cli_flush_stdout();
	}
	if (rc == 0)
		rc = add_message(c, "assistant", answer.text);
	else
		forget(c, before);
	completion_finish(&answer);
	return rc;
}

static int handle_line(struct chat *c, const char *line)
{
	int rc = 0;

	if (strcmp(line, "/clear") == 0)
		return start_over(c);
	if (strcmp(line, "/stats") == 0) {
		cli_print_stats(&c->cli, stderr);
		return 0;
	}
	if (!*line)
		return 0;
	rc = answer_turn(c, line);
	if (rc == -E2BIG || rc == -EILSEQ) {
		fprintf(stderr, "gempipe chat: %s\n", gp_error());
		return 0;
	}
	return rc;
}

static int converse(struct chat *c)
{
	const bool talks = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
	char *line = NULL;
	size_t room = 0;
	int rc = start_over(c);

	while (rc == 0) {
		if (talks)
			fputs("> ", stderr);
		cli_interrupt_reads(true);
		ssize_t n = getline(&line, &room, stdin);
		cli_interrupt_reads(false);
		if (n < 0)
			break;
		if (line[n - 1] == '\n')
			line[n - 1] = '\0';
		if (strcmp(line, "/quit") == 0)
			break;
		rc = handle_line(c, line);
	}
	free(line);
	return rc;
}

int main(int argc, char **argv)
{
	/* The settings that the model's authors recommend. */
	struct chat c = { .n_tokens = 1024,
			  .sampling = { .temperature = 1, .top_k = 64, .top_p = 0.95f } };
	int status;

	cli_init(&c.cli, "chat");
	c.cli.lookup = GP_LOOKUP_AUTO;
	if ((status = read_arguments(&c, argc, argv)) != 0)
		return status;
	if (gp_tokenizer_open(&c.tokenizer, c.cli.model) < 0 || cli_open_engine(&c.cli) < 0 ||
	    converse(&c) < 0)
		status = cli_failed(&c.cli);
	if (status == 0 && !c.cli.quiet)
		cli_print_stats(&c.cli, stderr);
	status = cli_close_engine(&c.cli, status);
	forget(&c, 0);
	free(c.messages);
	gp_tokenizer_close(c.tokenizer);
	return status;
}

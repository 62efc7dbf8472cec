/* gempipe chat: a conversation in the terminal. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/common/chat_commands.h"
#include "tools/common/generate.h"
#include "tools/common/terminal_out.h"

static const char help[] =
	"Usage: gempipe chat -m MODEL [options]\n"
	"Talks with the model, with its chat template. A line of input is a message, and so are\n"
	"lines that end with a backslash together with the next one, and lines between \"\"\" and\n"
	"\"\"\". In a terminal lines can be edited, and those of former times come back with the\n"
	"arrow keys. Ctrl-C stops the answer; /help lists the commands, /quit or Ctrl-D ends.\n\n"
	"      --system TEXT      put before the first message\n"
	"      --no-history       neither read nor keep what was typed before\n"
	"  -n, --tokens N         tokens of an answer at most (default 1024)\n"
	"      --temp T           temperature (default 1.0; 0 is greedy)\n"
	"      --top-k K (64), --top-p P (0.95), --min-p P, --repeat-penalty R, --seed S\n"
	CLI_CTX_HELP CLI_GUESS_HELP CLI_ENGINE_HELP
	"\nExamples:\n"
	"  gempipe chat -m gemma-3-27b-it-q4_0.gguf\n"
	"  echo 'Name three rivers.' | gempipe chat -m MODEL --temp 0 -q\n";

enum { OPT_SYSTEM = CLI_FIRST_OWN, OPT_NO_HISTORY, OPT_SAMPLING };

static const struct option options[] = {
	CLI_ENGINE_OPTIONS, CLI_GUESS_OPTIONS,
	{ "system", required_argument, NULL, OPT_SYSTEM },
	{ "no-history", no_argument, NULL, OPT_NO_HISTORY },
	{ "tokens", required_argument, NULL, 'n' },
	{ "temp", required_argument, NULL, OPT_SAMPLING },
	{ "top-k", required_argument, NULL, OPT_SAMPLING },
	{ "top-p", required_argument, NULL, OPT_SAMPLING },
	{ "min-p", required_argument, NULL, OPT_SAMPLING },
	{ "repeat-penalty", required_argument, NULL, OPT_SAMPLING },
	{ "seed", required_argument, NULL, OPT_SAMPLING },
	{ 0 },
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
		} else if (rc == 1 && o == OPT_NO_HISTORY) {
			c->no_history = true;
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

/* ---- an answer ------------------------------------------------------------------ */

static int submit_turn(struct chat *c, struct completion *answer)
{
	uint32_t *ids;
	size_t n;
	int rc = gp_chat_encode(c->tokenizer, c->said.messages, c->said.n, true, false, &ids, &n);

	if (rc < 0)
		return rc;
	rc = completion_submit(answer, c->cli.engine, ids, n, c->n_tokens, &c->sampling, c->last_id,
			       true, &c->last_id);
	free(ids);
	return rc;
}

/* Ctrl-C ends the answer, other signals the chat. One that came a moment before is not meant
 * for this answer: it is made all the same. */
static int make_answer(struct chat *c, struct completion *answer)
{
	int rc;

	do {
		completion_finish(answer);
		cli_forget_interrupt();
		if ((rc = completion_init(answer, c->tokenizer, c->out)) == 0 &&
		    (rc = submit_turn(c, answer)) == 0)
			rc = gp_engine_run(c->cli.engine);
	} while (rc == -EINTR && !cli_interrupt());
	if (rc == -EINTR) {
		c->ends = cli_interrupt() != SIGINT;
		rc = 0;
	}
	cli_forget_interrupt();
	return rc < 0 ? rc : answer->rc;
}

/* A turn that cannot be answered (too long, say), or was stopped before its first word, is
 * taken back. */
static int answer_turn(struct chat *c, const char *text)
{
	struct completion answer = { 0 };
	const size_t before = c->said.n;
	int rc = conversation_add(&c->said, "user", text);

	if (rc == 0 && (rc = make_answer(c, &answer)) == 0) {
		putchar('\n');
		rc = cli_flush_stdout();
	}
	if (rc == 0 && (answer.finish != GP_FINISH_CANCELLED || answer.bytes))
		rc = conversation_add(&c->said, "assistant", answer.text);
	else
		conversation_forget(&c->said, before);
	if (rc == 0 && answer.finish == GP_FINISH_LENGTH && line_is_typed(c->in))
		fprintf(stderr, "(cut at %u tokens; -n allows more)\n", c->n_tokens);
	completion_finish(&answer);
	return rc;
}

/* ---- the conversation ---------------------------------------------------------------- */

static int take_message(struct chat *c, const char *text)
{
	int rc;

	if (chat_command(c, text) || !text[strspn(text, " \t\n")])
		return 0;
	rc = answer_turn(c, text);
	if (rc == -E2BIG || rc == -EILSEQ) {
		fprintf(stderr, "gempipe chat: %s\n", gp_error());
		return 0;
	}
	return rc;
}

static int converse(struct chat *c)
{
	const char *text;
	bool empty;
	int rc = c->system ? conversation_set_system(&c->said, c->system) : 0;

	while (rc == 0 && !c->ends) {
		const int got = line_read(c->in, &text, &empty);

		if (got == 1)
			rc = take_message(c, text);
		else if (got == -EILSEQ)
			fprintf(stderr, "gempipe chat: %s\n", gp_error());
		else if (got == -EINTR && line_is_typed(c->in))
			fputs(empty ? "(/quit or Ctrl-D ends)\n" : "", stderr);
		else if (got == -EINTR || got == -ECANCELED || got == 0)
			break;
		else
			rc = got;
	}
	return rc;
}

static int open_ends(struct chat *c)
{
	const int rc = line_open(&c->in, c->no_history ? NULL : "chat-history");

	c->out = isatty(STDOUT_FILENO) ? terminal_out_open(stdout) : stdout;
	return rc < 0 ? rc : c->out ? 0 : gp_fail(ENOMEM, "no memory for the terminal");
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
	/* Who stops a long prompt presses Ctrl-C twice, and wants to keep the conversation. */
	cli_be_patient(2);
	if (gp_tokenizer_open(&c.tokenizer, c.cli.model) < 0 || cli_open_engine(&c.cli) < 0 ||
	    open_ends(&c) < 0 || converse(&c) < 0)
		status = cli_failed(&c.cli);
	if (status == 0 && !c.cli.quiet)
		cli_print_stats(&c.cli, stderr);
	status = cli_close_engine(&c.cli, status);
	line_close(c.in);
	if (c.out && c.out != stdout)
		fclose(c.out);
	conversation_free(&c.said);
	gp_tokenizer_close(c.tokenizer);
	return status;
}

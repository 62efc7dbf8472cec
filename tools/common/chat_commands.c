#include "tools/common/chat_commands.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "tools/common/terminal_out.h"

struct command {
	const char *name, *arguments, *help;
	int (*act)(struct chat *c, const char *rest);
};
static const struct command commands[];

static int quit(struct chat *c, const char *rest)
{
	(void)rest;
	c->ends = true;
	return 0;
}

static int show_stats(struct chat *c, const char *rest)
{
	(void)rest;
	cli_print_stats(&c->cli, stderr);
	return 0;
}

static int clear(struct chat *c, const char *rest)
{
	(void)rest;
	conversation_forget(&c->said, conversation_system(&c->said) ? 1 : 0);
	return 0;
}

/* It may come from a file that was loaded. */
static int show_system(const char *text)
{
	FILE *f = terminal_out_open(stderr);

	if (!f)
		return gp_fail(ENOMEM, "no memory for the system text");
	fprintf(f, "system: %s\n", text ? text : "none");
	fclose(f);
	return 0;
}

/* Without a text: what it is. "": none. */
static int set_system(struct chat *c, const char *rest)
{
	if (!*rest)
		return show_system(conversation_system(&c->said));
	return conversation_set_system(&c->said, strcmp(rest, "\"\"") == 0 ? NULL : rest);
}

/* A shell would have put the home folder for "~". */
static int file_name(const char *rest, char path[PATH_MAX])
{
	const char *home = rest[0] == '~' && rest[1] == '/' ? getenv("HOME") : NULL;

	if (!*rest || strcmp(rest, "-") == 0)
		return gp_fail(EINVAL, "no file; name one behind the command");
	if (snprintf(path, PATH_MAX, "%s%s", home ? home : "", home ? rest + 1 : rest) >= PATH_MAX)
		return gp_fail(ENAMETOOLONG, "%.100s...: the name is too long", rest);
	return 0;
}

static int save(struct chat *c, const char *rest)
{
	char path[PATH_MAX];
	int rc = file_name(rest, path);

	if (rc == 0 && (rc = conversation_save(&c->said, path)) == 0)
		fprintf(stderr, "saved %zu messages to %s\n", c->said.n, path);
	return rc;
}

static int load(struct chat *c, const char *rest)
{
	char path[PATH_MAX];
	int rc = file_name(rest, path);

	if (rc == 0 && (rc = conversation_load(&c->said, path)) == 0)
		fprintf(stderr, "loaded %zu messages from %s\n", c->said.n, path);
	return rc;
}

static int show_help(struct chat *c, const char *rest)
{
	(void)c, (void)rest;
	for (const struct command *k = commands; k->name; k++)
		fprintf(stderr, "/%-7s%-6s%s\n", k->name, k->arguments, k->help);
	fputs("A line that ends with \\ goes on in the next one, \"\"\" begins and ends a text of\n"
	      "several lines. Ctrl-C stops the answer.\n", stderr);
	return 0;
}

static const struct command commands[] = {
	{ "help", "", "this list", show_help },
	{ "stats", "", "what each stage did, and how fast", show_stats },
	{ "clear", "", "forget the conversation, but for the system text", clear },
	{ "save", "FILE", "write the conversation", save },
	{ "load", "FILE", "go on with one that was written", load },
	{ "system", "TEXT", "put before the first message from now on; \"\": nothing", set_system },
	{ "quit", "", "end; so does Ctrl-D", quit },
	{ 0 },
};

/* A word of letters behind a slash; /etc/hosts is none. */
static size_t command_name(const char *text)
{
	const size_t n = *text == '/' ? strspn(text + 1, "abcdefghijklmnopqrstuvwxyz") : 0;

	return n && strchr(" \t\n", text[1 + n]) ? n : 0;
}

/* The word's n letters; rest has no blanks around it. */
static int act(struct chat *c, const char *word, size_t n, const char *rest)
{
	for (const struct command *k = commands; k->name; k++)
		if (strlen(k->name) == n && strncmp(k->name, word, n) == 0)
			return k->act(c, rest);
	return gp_fail(ENOENT, "there is no command /%.*s; /help lists them, and a message that begins "
		       "so needs a blank in front", (int)n, word);
}

bool chat_command(struct chat *c, const char *text)
{
	const size_t n = command_name(text);

	if (!n)
		return false;
	const char *rest = text + 1 + n + strspn(text + 1 + n, " \t\n");
	size_t bytes = strlen(rest);
	while (bytes && strchr(" \t\n", rest[bytes - 1]))
		bytes--;
	char *copy = strndup(rest, bytes);
	const int rc = copy ? act(c, text + 1, n, copy)
			    : gp_fail(ENOMEM, "no memory for a command");
	free(copy);
	if (rc < 0)
		fprintf(stderr, "gempipe chat: %s\n", gp_error());
	return true;
}

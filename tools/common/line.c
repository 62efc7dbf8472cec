#include "tools/common/line.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/common/cli.h"
#include "tools/common/line_history.h"

#define FENCE "\"\"\""

struct line_reader {
	struct editor *editor;  /* NULL: plain lines */
	bool typed;
	char *line;             /* a plain one */
	size_t line_room;
	char *text;             /* the message */
	size_t bytes, room;
};

static int open_editor(struct line_reader *l, const char *history)
{
	char *path = history ? line_history_path(history) : NULL;
	const int rc = editor_open(&l->editor, path);

	free(path);
	return rc;
}

int line_open(struct line_reader **out, const char *history)
{
	struct line_reader *l = calloc(1, sizeof *l);
	int rc = 0;

	if (!l)
		return gp_fail(ENOMEM, "no memory to read lines");
	l->typed = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
	if (l->typed && editor_can())
		rc = open_editor(l, history);
	if (rc < 0)
		line_close(l);
	else
		*out = l;
	return rc;
}

void line_close(struct line_reader *l)
{
	if (!l)
		return;
	editor_close(l->editor);
	free(l->line);
	free(l->text);
	free(l);
}

bool line_is_typed(const struct line_reader *l)
{
	return l->typed;
}

/* Signals come only while it waits, so that none is late for the wait. All other threads
 * block them. */
bool line_await(void (*before)(void *user), void *user)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGCONT };
	struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
	sigset_t ours, mask;
	int n = -1;

	sigemptyset(&ours);
	for (size_t i = 0; i < GP_ARRAY_LEN(signals); i++)
		sigaddset(&ours, signals[i]);
	pthread_sigmask(SIG_BLOCK, &ours, &mask);
	while (!cli_interrupt() && n < 0) {
		if (before)
			before(user);
		n = ppoll(&p, 1, NULL, &mask);
		if (n < 0 && errno != EINTR)
			break;
	}
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	return n > 0;
}

static int read_plain(struct line_reader *l, const char *prompt, const char **line, size_t *bytes)
{
	if (l->typed)
		fputs(prompt, stderr);
	/* A terminal gives a line at a time: nothing of the next is left in stdin's buffer. */
	const bool any = !l->typed || line_await(NULL, NULL);
	ssize_t n = any ? getline(&l->line, &l->line_room, stdin) : -1;
	if (n < 0) {
		/* A terminal goes on after Ctrl-C, and after Ctrl-D behind text. */
		clearerr(stdin);
		return cli_interrupt() == SIGINT ? gp_fail(EINTR, "interrupted") : 0;
	}
	if (n && l->line[n - 1] == '\n')
		l->line[--n] = '\0';
	*line = l->line;
	*bytes = (size_t)n;
	return 1;
}

static int read_line(struct line_reader *l, const char *prompt, const char **line, size_t *bytes,
		     bool *empty)
{
	int rc;

	*empty = true;
	cli_forget_interrupt();
	cli_interrupt_reads(true);
	rc = l->editor ? editor_read(l->editor, prompt, line, bytes, empty)
		       : read_plain(l, prompt, line, bytes);
	cli_interrupt_reads(false);
	if (rc == 0 && cli_interrupt())
		rc = gp_fail(ECANCELED, "ended by a signal");
	cli_forget_interrupt();
	return rc;
}

static int append(struct line_reader *l, const char *line, size_t bytes)
{
	if (l->room - l->bytes <= bytes + 1) {
		const size_t room = 2 * (l->bytes + bytes) + 256;
		char *more = realloc(l->text, room);

		if (!more)
			return gp_fail(ENOMEM, "no memory for the message");
		l->text = more;
		l->room = room;
	}
	memcpy(l->text + l->bytes, line, bytes);
	l->text[l->bytes += bytes] = '\0';
	return 0;
}

static bool ends_with(const char *line, size_t bytes, const char *end)
{
	const size_t n = strlen(end);

	return bytes >= n && memcmp(line + bytes - n, end, n) == 0;
}

/* Adds a line to the message. 1: the message goes on. */
static int take_line(struct line_reader *l, const char *line, size_t bytes, bool *fenced)
{
	const bool first = !l->bytes && !*fenced;
	bool more = false;
	int rc;

	if (first && bytes >= 3 && memcmp(line, FENCE, 3) == 0) {
		*fenced = true;
		line += 3;
		bytes -= 3;
	}
	if (*fenced) {
		more = !ends_with(line, bytes, FENCE);
		bytes -= more ? 0 : 3;
	} else if (ends_with(line, bytes, "\\")) {
		more = true;
		bytes--;
	}
	rc = append(l, line, bytes);
	if (rc == 0 && more)
		rc = append(l, "\n", 1);
	return rc < 0 ? rc : more;
}

static void strip_newlines(struct line_reader *l)
{
	size_t first = strspn(l->text, "\n");

	while (l->bytes > first && l->text[l->bytes - 1] == '\n')
		l->text[--l->bytes] = '\0';
	memmove(l->text, l->text + first, (l->bytes -= first) + 1);
}

int line_read(struct line_reader *l, const char **text, bool *empty)
{
	const char *line, *prompt = "> ";
	bool fenced = false, none;
	size_t bytes;
	int rc;

	l->bytes = 0;
	do {
		rc = read_line(l, prompt, &line, &bytes, &none);
		if (rc > 0)
			rc = take_line(l, line, bytes, &fenced);
		else if (rc == 0 && l->bytes)
			break;          /* the end of input ends a message too */
		else if (rc == 0)
			return 0;
		prompt = "... ";
	} while (rc > 0);
	*empty = none && !l->bytes;
	if (rc < 0)
		return rc;
	if (strlen(l->text) != l->bytes)
		return gp_fail(EILSEQ, "the message has a NUL byte in it, which is no text");
	strip_newlines(l);
	if (l->editor && l->bytes)
		editor_remember(l->editor, l->text);
	*text = l->text;
	return 1;
}

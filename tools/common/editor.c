/* libedit, told how this program reads: Ctrl-C comes back to the caller, and what is pasted
 * never ends a message by itself. */
#include "tools/common/line.h"

#include <histedit.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "tools/common/cli.h"
#include "tools/common/line_history.h"

static const char paste_on[] = "\033[?2004h", paste_off[] = "\033[?2004l";
static const char paste_begin[] = "\\e[200~", paste_end[] = "[201~"; /* for el_bind; behind ESC */

struct editor {
	EditLine *el;
	History *history;       /* NULL: no memory for one */
	char *history_path;
	const char *prompt;
	char bytes[4096];       /* read, from at to n */
	size_t at, n;
	bool interrupted, empty;
};

bool editor_can(void)
{
	const char *term = getenv("TERM");

	return term && *term && strcmp(term, "dumb") != 0;
}

static char *show_prompt(EditLine *el)
{
	struct editor *e;

	el_get(el, EL_CLIENTDATA, &e);
	return (char *)(uintptr_t)e->prompt;
}

/* ---- what comes from the terminal ------------------------------------------------- */

static volatile sig_atomic_t resized, continued;

static void on_terminal(int signal_number)
{
	if (signal_number == SIGWINCH)
		resized = 1;
	else
		continued = 1;
}

static void answer_terminal(void *user)
{
	struct editor *e = user;

	if (resized)
		el_resize(e->el);
	if (continued) {                /* whoever had the terminal meanwhile has changed it */
		el_set(e->el, EL_PREP_TERM, 0);
		el_set(e->el, EL_PREP_TERM, 1);
		el_set(e->el, EL_REFRESH);
	}
	resized = continued = 0;
}

/* More bytes, behind those that are there. 0: no more, or a signal that ends the line. */
static int read_more(struct editor *e)
{
	ssize_t n = -1;

	memmove(e->bytes, e->bytes + e->at, e->n -= e->at);
	e->at = 0;
	while (line_await(answer_terminal, e) &&
	       (n = read(STDIN_FILENO, e->bytes + e->n, sizeof e->bytes - e->n)) < 0 &&
	       (errno == EINTR || errno == EAGAIN))
		;
	e->interrupted = n < 0 && cli_interrupt() == SIGINT;
	e->n += n > 0 ? (size_t)n : 0;
	return n > 0;
}

/* 1: a character; 0: none any more. */
static int next_char(struct editor *e, wchar_t *c)
{
	mbstate_t state = { 0 };

	for (;;) {
		if (e->at == e->n && !read_more(e))
			return 0;
		const size_t n = mbrtowc(c, e->bytes + e->at, e->n - e->at, &state);
		if (n == (size_t)-2) {
			e->at = e->n;
			continue;
		}
		state = (mbstate_t){ 0 };
		if (n != (size_t)-1) {
			e->at += n ? n : 1;
			return 1;
		}
		e->at++;                /* no UTF-8: left out */
	}
}

/* libedit asks for a character. */
static int get_char(EditLine *el, wchar_t *c)
{
	struct editor *e;

	el_get(el, EL_CLIENTDATA, &e);
	if (next_char(e, c))
		return 1;
	const LineInfo *l = el_line(el);
	e->empty = l->lastchar == l->buffer;
	return 0;
}

/* ---- pasting -------------------------------------------------------------------------- */

static bool comes_next(struct editor *e, const char *sequence)
{
	const size_t want = strlen(sequence);

	while (e->n - e->at < want)
		if (memcmp(e->bytes + e->at, sequence, e->n - e->at) != 0 || !read_more(e))
			return false;
	if (memcmp(e->bytes + e->at, sequence, want) != 0)
		return false;
	e->at += want;
	return true;
}

/* What is pasted is text, whatever keys are in it: it does not end the line, and what would
 * control the terminal is left out. */
static unsigned char insert_paste(EditLine *el, int key)
{
	struct editor *e;
	wchar_t *text = NULL, c;
	size_t n;
	FILE *f = open_wmemstream(&text, &n);
	bool whole = false;

	(void)key;
	el_get(el, EL_CLIENTDATA, &e);
	while (f && !whole && next_char(e, &c)) {
		if (c == L'\033')
			whole = comes_next(e, paste_end);
		else if (c == L'\r' || c == L'\n')
			fputwc(L'\n', f);
		else if (c == L'\t' || (c >= 0x20 && c < 0x7f) || c >= 0xa0)
			fputwc(c, f);
	}
	if (f && fclose(f) == 0)
		el_winsertstr(el, text);
	free(text);
	e->empty = false;
	return whole ? CC_REFRESH : CC_EOF;
}

void editor_remember(struct editor *e, const char *message)
{
	if (e->history)
		line_history_add(e->history, e->history_path, message);
}

/* ---- life --------------------------------------------------------------------------------- */

static void bind_keys(EditLine *el)
{
	const char *const keys[][2] = {
		{ "^R", "em-inc-search-prev" }, { "\\e[3~", "ed-delete-next-char" },
		{ "\\e[1;5C", "em-next-word" }, { "\\e[1;5D", "ed-prev-word" },
		{ paste_begin, "gempipe-paste" },
	};

	el_set(el, EL_EDITOR, "emacs");
	/* By the wide function: el_set would copy the names and never free them. */
	el_wset(el, EL_ADDFN, L"gempipe-paste", L"insert what is pasted", insert_paste);
	for (size_t i = 0; i < GP_ARRAY_LEN(keys); i++)
		el_set(el, EL_BIND, keys[i][0], keys[i][1], NULL);
	el_source(el, NULL);            /* what ~/.editrc wants */
}

int editor_open(struct editor **out, const char *history_path)
{
	struct editor *e = calloc(1, sizeof *e);

	/* For where a character ends; a terminal without a locale has UTF-8 nowadays. */
	setlocale(LC_CTYPE, "");
	if (MB_CUR_MAX == 1)
		setlocale(LC_CTYPE, "C.UTF-8");
	if (!e || !(e->el = el_init("gempipe", stdin, stderr, stderr))) {
		free(e);
		return gp_fail(ENOMEM, "no memory to edit lines");
	}
	el_set(e->el, EL_CLIENTDATA, e);
	el_set(e->el, EL_PROMPT, show_prompt);
	el_set(e->el, EL_SIGNAL, 0);
	el_set(e->el, EL_GETCFN, get_char);
	bind_keys(e->el);
	if (history_path)
		e->history_path = strdup(history_path);
	if ((e->history = line_history_open(history_path)))
		el_set(e->el, EL_HIST, history, e->history);
	*out = e;
	return 0;
}

void editor_close(struct editor *e)
{
	if (!e)
		return;
	el_end(e->el);
	if (e->history)
		history_end(e->history);
	free(e->history_path);
	free(e);
}

static const char *read_edited(struct editor *e, int *bytes)
{
	const struct sigaction answer = { .sa_handler = on_terminal };
	struct sigaction winch, cont;

	sigaction(SIGWINCH, &answer, &winch);
	sigaction(SIGCONT, &answer, &cont);
	/* Before the prompt: what is typed at it must not be taken for lines. */
	el_set(e->el, EL_PREP_TERM, 1);
	fputs(paste_on, stderr);
	const char *line = el_gets(e->el, bytes);
	fputs(paste_off, stderr);
	sigaction(SIGWINCH, &winch, NULL);
	sigaction(SIGCONT, &cont, NULL);
	return line;
}

int editor_read(struct editor *e, const char *prompt, const char **line, size_t *bytes, bool *empty)
{
	int n = 0;

	e->prompt = prompt;
	e->interrupted = false;
	e->empty = true;
	*line = read_edited(e, &n);
	*empty = e->empty;
	if (e->interrupted) {
		fputs("^C\n", stderr);
		return gp_fail(EINTR, "interrupted");
	}
	if (!*line || n <= 0) {
		fputs("\n", stderr);
		return 0;
	}
	*bytes = strlen(*line);
	*bytes -= *bytes && (*line)[*bytes - 1] == '\n';
	return 1;
}

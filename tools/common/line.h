/* Messages that somebody types, or that come through a pipe. */
#ifndef GP_LINE_H
#define GP_LINE_H

#include <stdbool.h>
#include <stddef.h>

/* ---- line.c: messages ------------------------------------------------------------
 * A message is a line. A line that ends with a backslash goes on in the next one; one that
 * begins with """ goes on until one that ends with """. */
struct line_reader;
/* Edits where stdin and stderr are a terminal that can; history: the name of the file where
 * messages are kept for the next time, NULL: nowhere. */
int line_open(struct line_reader **l, const char *history);
void line_close(struct line_reader *l); /* NULL is fine */
bool line_is_typed(const struct line_reader *l); /* by a person, on a terminal */
/* 1: a message, l's until the next call; 0: there are no more. -EINTR: Ctrl-C, *empty: where
 * nothing was typed; -ECANCELED: another signal; -EILSEQ: a NUL byte in it. */
int line_read(struct line_reader *l, const char **text, bool *empty);

/* Until the terminal has something to read: true; false: a signal that ends the line. before:
 * called before each wait, for other signals; may be NULL. */
bool line_await(void (*before)(void *user), void *user);

/* ---- editor.c: lines, with libedit --------------------------------------------------- */
struct editor;
bool editor_can(void);          /* the terminal is one to edit on */
int editor_open(struct editor **e, const char *history);
void editor_close(struct editor *e);
/* As line_read, of a line without its newline; what was pasted or comes out of the history
 * may have some in it. */
int editor_read(struct editor *e, const char *prompt, const char **line, size_t *bytes,
		bool *empty);
/* What going back brings again. */
void editor_remember(struct editor *e, const char *message);

#endif

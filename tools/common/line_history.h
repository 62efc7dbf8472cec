/* What was typed before: libedit's history, in a file that only its owner can read. */
#ifndef GP_LINE_HISTORY_H
#define GP_LINE_HISTORY_H

#include <histedit.h>

/* $XDG_STATE_HOME/gempipe/NAME, or below ~/.local/state; makes the folders. malloc'ed;
 * NULL: there is no such place. */
char *line_history_path(const char *name);
/* path is copied; NULL: it is not kept. NULL: no memory. */
History *line_history_open(const char *path);
/* Written at once: a terminal may be closed. */
void line_history_add(History *h, const char *path, const char *message);

#endif

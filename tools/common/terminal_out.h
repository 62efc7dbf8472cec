/* Text of a model on a terminal: characters, and nothing that the terminal obeys. */
#ifndef GP_TERMINAL_OUT_H
#define GP_TERMINAL_OUT_H

#include <stdio.h>

/* A stream to stdout that shows control characters but newline and tab as U+FFFD; fclose
 * leaves stdout open. UTF-8. NULL: no memory. */
FILE *terminal_out_open(void);

#endif

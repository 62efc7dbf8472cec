/* Text of a model on a terminal: characters, and nothing that the terminal obeys. */
#ifndef GP_TERMINAL_OUT_H
#define GP_TERMINAL_OUT_H

#include <stdio.h>

/* A stream to the stream `to` that shows control characters but newline and tab as U+FFFD; fclose
 * leaves `to` open. UTF-8. NULL: no memory. */
FILE *terminal_out_open(FILE *to);

#endif

/* Lines of JSON objects on stdin, for tokenize and detokenize. */
#ifndef GP_JSONL_H
#define GP_JSONL_H

#include <jansson.h>

/* visit for each line's value until it fails; empty lines are passed over, and
 * a failure names the line. */
int cli_each_json_line(int (*visit)(const void *user, const json_t *value), const void *user);

#endif

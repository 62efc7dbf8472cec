/* Options of programs that serve many sequences at once. */
#ifndef GP_SERVING_H
#define GP_SERVING_H

#include "tools/common/cli.h"

enum { SERVING_SEQUENCES = CLI_FIRST_OWN, SERVING_QUEUE, SERVING_STEP, SERVING_KV,
       SERVING_PREFIXES, SERVING_FIRST_OWN };
#define SERVING_OPTIONS                                                                   \
	{ "max-sequences", required_argument, NULL, SERVING_SEQUENCES },                  \
	{ "max-queue", required_argument, NULL, SERVING_QUEUE },                          \
	{ "max-step-ms", required_argument, NULL, SERVING_STEP },                         \
	{ "kv-tokens", required_argument, NULL, SERVING_KV },                             \
	{ "prefixes", required_argument, NULL, SERVING_PREFIXES }
#define SERVING_HELP                                                                      \
	"      --max-step-ms T    of steps that carry a prompt beside tokens of others\n"   \
	"                         (default: twice what they take without, at least 40)\n"   \
	"      --prefixes N       beginnings of prompts that are kept for others (default: 16, or\n" \
	"                         as many as take 3 GiB)\n"                                 \
	"      --kv-tokens N      positions that all sequences together may hold; when they are\n" \
	"                         used up, the youngest makes room and begins again later\n" \
	"                         (default: max-sequences x ctx)\n"

/* 0 taken, -EINVAL (message), 1: another option. */
int serving_option(struct cli *c, int option);

#endif

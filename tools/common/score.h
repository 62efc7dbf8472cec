/* A text cut into chunks, and what a model says of each id: what perplexity and
 * evaluate share. The input of a chunk is <bos> and all but its last id. */
#ifndef GP_SCORE_H
#define GP_SCORE_H

#include "tools/common/cli.h"

struct score_text {
	const char *file, *ids_file;    /* one of them */
	uint64_t ctx;                   /* ids in a chunk */
	uint64_t most_chunks;           /* 0: all of the text */
	uint64_t skip;                  /* ids at a chunk's beginning that are not scored */
	uint32_t *ids;                  /* since score_read */
	size_t n_ids, n_chunks, per_chunk, n; /* scored ids of a chunk, of all */
};

enum { SCORE_IDS = CLI_FIRST_OWN, SCORE_CHUNKS, SCORE_PARALLEL, SCORE_SKIP, SCORE_FIRST_OWN };
#define SCORE_OPTIONS                                                                       \
	{ "file", required_argument, NULL, 'f' }, { "ids", required_argument, NULL, SCORE_IDS }, \
	{ "chunks", required_argument, NULL, SCORE_CHUNKS },                               \
	{ "parallel", required_argument, NULL, SCORE_PARALLEL },                           \
	{ "skip", required_argument, NULL, SCORE_SKIP }
#define SCORE_LETTERS "f:"
#define SCORE_HELP                                                                        \
	"      --ids F.npy        token ids instead of a text\n"                             \
	"      --ctx N            ids in a chunk (default 512)\n"                            \
	"      --chunks N         only the first N chunks\n"                                 \
	"      --skip N           do not score the first N ids of a chunk (default 0)\n"     \
	"      --parallel N       chunks in flight at once (default 1)\n"

/* The text's options and the shared ones: as cli_option. */
int score_option(struct score_text *t, struct cli *c, int o, const char *help);
/* 0, or 2 after a message: of the options some are missing or do not go together. */
int score_check_usage(const struct score_text *t, const struct cli *c);
/* Ids of the file, by model's tokenizer, or of the .npy. */
int score_read(struct score_text *t, const char *model);
void score_finish(struct score_text *t);

struct score_row {
	size_t i;                       /* of the text's n scored ids */
	const float *logits;
	uint32_t vocab;
	double log_sum;                 /* log of the sum of their exponentials */
	double nll;                     /* -log p of the text's id */
};
/* Every chunk through c's open engine; each scored row once, in order unless chunks run
 * in parallel. on_row's failure ends it. label stands in the progress. */
int score_run(struct cli *c, const struct score_text *t, const char *label,
	      int (*on_row)(void *user, const struct score_row *row), void *user);

#endif

/* Load on a server that speaks OpenAI's API, as its users make it, and what they get. */
#ifndef GP_LOAD_H
#define GP_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- load_lengths.c: how long prompts and answers are ---------------------------- */
struct load_length {
	uint32_t prompt, output;        /* tokens, >= 1 each */
};
struct load_lengths {
	struct load_length *of;         /* owned */
	size_t n;
	uint32_t longest;               /* prompt and output of one */
	uint32_t shortest_prompt;
};
/* NULL: the table of recorded ones. "P:N": one pair. Else a file, a pair a line; a comma or
 * blanks between its numbers, of which the last two count; lines that do not begin with a
 * digit are skipped. All are divided by divide. */
int load_lengths_read(struct load_lengths *l, const char *what, uint32_t divide);
void load_lengths_free(struct load_lengths *l);

/* ---- load_times.c ------------------------------------------------------------------ */
struct load_times {                     /* all zero: none; ms is owned */
	double *ms;
	size_t n, room;
	double first;                   /* what was added first */
};
int load_times_add(struct load_times *t, double ms); /* -ENOMEM */
void load_times_sort(struct load_times *t);
/* The smallest that a share of them does not exceed (nearest rank); sorted, 0 < share <= 1.
 * NaN: there is none. */
double load_times_at(const struct load_times *t, double share);

/* ---- load_client.c: one thread, over libcurl ----------------------------------------- */
struct load_target {
	const char *url;                /* http://HOST:PORT/v1 */
	const char *model, *key;        /* key: NULL: none */
};
struct load_level {
	uint32_t clients;               /* each asks again when it has its answer; 0: by rate */
	double rate;                    /* requests a second, at random (Poisson) */
	uint32_t requests;
	uint32_t shared;                /* tokens that all prompts begin with */
	uint64_t seed;                  /* of tokens and arrivals; no two levels' alike */
};
struct load_result {                    /* free with load_result_free */
	uint32_t done, failed;
	char failure[256];              /* of the first that failed */
	uint64_t prompt_tokens, output_tokens;
	bool counted;                   /* output is pieces, for the server gave no usage */
	double seconds;                 /* first request sent until last answer */
	/* A request sent until its first piece of text; from one piece to the next; until
	 * its end. */
	struct load_times first, between, whole;
};
/* go_on: now and then; false ends it with -EINTR. */
int load_run(const struct load_target *t, const struct load_level *l,
	     const struct load_lengths *lengths, struct load_result *r,
	     bool (*go_on)(void *user, const struct load_result *r), void *user);
void load_result_free(struct load_result *r);
/* The first model of the server; malloc'ed. */
int load_find_model(const struct load_target *t, char **model);

#endif

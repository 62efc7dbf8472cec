/* Whether tokens that were only guessed are worth a row of the next step: what steps of so
 * many rows take, how often guesses came true, and the best bet from both. */
#ifndef GP_ODDS_H
#define GP_ODDS_H

#include <stdbool.h>
#include <stdint.h>

#define GP_ODDS_ROWS 64u        /* of a step, at most; larger ones carry no guesses */

/* What steps with nothing but rows in decode take, by how many they are. Drifts. */
struct gp_step_costs {          /* zero: nothing is known */
	double ns[GP_ODDS_ROWS + 1];    /* 0: unknown */
	uint32_t seen[GP_ODDS_ROWS + 1]; /* when it was last learned, in steps */
	uint32_t steps;
};
void gp_costs_learn(struct gp_step_costs *c, uint32_t rows, uint64_t ns);
/* Of sizes never tried a hopeful guess, so that they are tried. 0: nothing is known. */
double gp_costs_of(const struct gp_step_costs *c, uint32_t rows);

/* How likely the next guess is right, when those before it were. By how it was come by: the
 * draft model, or how many tokens were alike at the place that was looked up (fewer than
 * GP_LOOKUP_LEAST: none before a wrong guess, after which it is resumed). */
enum gp_guess { GP_GUESS_DRAFT, GP_GUESS_RESUMED, GP_GUESS_SHORT, GP_GUESS_MIDDLE, GP_GUESS_LONG,
                GP_GUESS_KINDS };
struct gp_odds {
	double rate[GP_GUESS_KINDS];
};
void gp_odds_init(struct gp_odds *o);
enum gp_guess gp_odds_kind(uint32_t alike);
void gp_odds_learn(struct gp_odds *o, enum gp_guess kind, bool right);
/* A token came without a guess of this kind: what was given up is tried again in time. */
void gp_odds_forget(struct gp_odds *o, enum gp_guess kind);

struct gp_bet {                 /* a sequence's */
	double rate;
	uint32_t offered;       /* guesses there are */
	uint32_t taken;         /* those worth their rows */
};
/* Of n sequences with a row each, at most so many rows in all: as many guesses as give most
 * tokens in a given time. */
void gp_bets_place(const struct gp_step_costs *c, struct gp_bet *bets, uint32_t n, uint32_t rows);
/* How many tokens are worth being drafted for sequences of these rates, at most so many for
 * each, when one for all of them takes draft_ns. */
uint32_t gp_bets_depth(const struct gp_step_costs *c, const struct gp_bet *bets, uint32_t n,
                       uint32_t rows, double draft_ns, uint32_t most);

#endif

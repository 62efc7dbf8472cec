/* Tokens that are guessed go with a sequence's row, and are verified by the logits of the
 * rows before them: each row's token is chosen as it would have been without guesses, by the
 * sequence's own sampler, and as long as it is the guessed one, the next row stands. So the
 * text is the same as without, greedy or drawn; a wrong guess costs its row. */
#include "coordinator/engine_internal.h"

#define MOST_DRAFTED 8u         /* tokens a step of each sequence */

/* Has nothing on its way, and one token to be sent. */
static bool is_ready(const struct job *j)
{
	return gp_in_decode(j) && j->sent < j->n_tokens;
}

/* The last token that there will be is never sent. */
static uint32_t room_for(const struct job *j, uint32_t most)
{
	const uint32_t room = j->room - j->n_tokens;

	if (!room || j->request.no_guesses)
		return 0;
	return room - 1 < most ? room - 1 : most;
}

/* Live sequences that wait for the next step, in the order in which it takes them up. None
 * where prompts are computed: those steps have no time to spare. */
static uint32_t collect(struct gp_engine *e, uint32_t most)
{
	const uint32_t slots = e->plan.max_sequences;
	uint32_t n = 0;
	bool prompts = false;

	for (uint32_t i = 0; i < slots; i++) {
		struct job *j = e->slots[(e->turn + i) % slots];

		prompts |= gp_is_live(j) && !gp_in_decode(j);
		if (!is_ready(j))
			continue;
		j->n_guessed = 0;
		if (n < most)
			e->order[n++] = j;
	}
	return prompts ? 0 : n;
}

static void look_up(struct gp_engine *e, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct job *j = e->order[i];

		if (e->options.lookup)
			j->n_guessed = gp_lookup(j->tokens, j->n_tokens, room_for(j, e->options.lookup),
						 &j->place);
		j->guess = gp_odds_kind(j->place.alike);
		e->bets[i] = (struct gp_bet){ .rate = j->odds.rate[j->guess], .offered = j->n_guessed };
	}
}

/* Those whom the draft model serves better than what was looked up, to the front; how many. */
static uint32_t choose_drafted(struct gp_engine *e, uint32_t n)
{
	uint32_t drafted = 0;

	for (uint32_t i = 0; i < n; i++) {
		struct job *j = e->order[i];
		const struct gp_bet bet = e->bets[i];
		const double rate = j->odds.rate[GP_GUESS_DRAFT];

		if ((bet.offered && bet.rate >= rate) || !room_for(j, 1) ||
		    !gp_draft_takes(e->draft, j, MOST_DRAFTED))
			continue;
		e->order[i] = e->order[drafted];
		e->bets[i] = e->bets[drafted];
		e->order[drafted] = j;
		e->bets[drafted++] = (struct gp_bet){ .rate = rate };
		j->n_guessed = 0;
	}
	return drafted;
}

/* They get as many tokens each as pay, were they alone; what others looked up competes for
 * rows with these when the bets are placed. */
static void draft(struct gp_engine *e, uint32_t n, uint32_t rows)
{
	const uint32_t drafted = choose_drafted(e, n);
	uint32_t depth = gp_bets_depth(&e->costs, e->bets, drafted, rows - (n - drafted),
				       gp_draft_token_ns(e->draft), MOST_DRAFTED);

	if (e->options.all_guesses)
		depth = MOST_DRAFTED;
	for (uint32_t i = 0; i < drafted; i++)
		e->bets[i].offered = room_for(e->order[i], depth);
	if (depth)
		gp_draft_guess(e->draft, e->order, e->bets, drafted, depth);
	for (uint32_t i = 0; i < drafted; i++)
		e->order[i]->guess = GP_GUESS_DRAFT;
}

/* Guesses make no one else go: without a spare block they end where theirs does. */
static void keep_to_blocks(struct gp_engine *e, uint32_t n, const struct budget *left)
{
	const uint32_t needed = gp_seats_needed(e);
	uint32_t spare = left->blocks > needed ? left->blocks - needed : 0;

	for (uint32_t i = 0; i < n; i++) {
		const uint32_t in_block = GP_KV_BLOCK - 1 - e->order[i]->sent % GP_KV_BLOCK;

		if (e->bets[i].taken <= in_block)
			continue;
		if (spare)
			spare--;
		else
			e->bets[i].taken = in_block;
	}
}

static void take_all(struct gp_engine *e, uint32_t n, uint32_t rows)
{
	for (uint32_t i = 0, left = rows - n; i < n; i++) {
		const uint32_t offered = e->bets[i].offered;

		e->bets[i].taken = offered < left ? offered : left;
		left -= e->bets[i].taken;
	}
}

void gp_speculate(struct gp_engine *e, uint32_t sequences, const struct budget *left)
{
	const uint32_t rows = left->rows < left->logit_rows ? left->rows : left->logit_rows;
	uint32_t n;

	if (!e->options.lookup && !e->draft)
		return;
	n = collect(e, sequences);
	if (!n || n >= rows || n >= GP_ODDS_ROWS)
		return;
	look_up(e, n);
	if (e->draft)
		draft(e, n, rows);
	if (e->options.all_guesses)
		take_all(e, n, rows);
	else
		gp_bets_place(&e->costs, e->bets, n, rows);
	keep_to_blocks(e, n, left);
	for (uint32_t i = 0; i < n; i++)
		e->order[i]->n_guessed = e->bets[i].taken;
}

static struct gp_guess_stats *stats_of(struct gp_engine *e, const struct job *j)
{
	return j->guess == GP_GUESS_DRAFT ? &e->drafted : &e->looked_up;
}

uint32_t gp_guess_sent(struct gp_engine *e, struct job *j, uint32_t n)
{
	j->n_guessed = n;
	stats_of(e, j)->proposed += n;
	return n;
}

/* The place goes along with the text: one token that differs may be the only one. */
static void move_on(struct job *j, bool right)
{
	j->place.at += j->place.at > 0;
	if (!right && j->guess == GP_GUESS_RESUMED)
		j->place.at = 0;
}

void gp_guess_verify(struct gp_engine *e, struct job *j, uint32_t token)
{
	const bool right = !j->n_guessed || j->tokens[j->n_tokens] == token;

	move_on(j, right);
	for (int k = 0; k < GP_GUESS_KINDS && !j->n_guessed; k++)
		gp_odds_forget(&j->odds, (enum gp_guess)k);
	if (!j->n_guessed)
		return;
	gp_odds_learn(&j->odds, j->guess, right);
	stats_of(e, j)->accepted += right;
	if (right)
		j->n_guessed--;
	else
		gp_job_take_back(e, j, j->back);
}

#include "coordinator/odds.h"
#include "coordinator/lookup.h"

#define COST_WEIGHT 0.25        /* of the newest */
#define COST_LEAP 2.0           /* a step that takes longer by more was disturbed */
#define COST_AGE 512u           /* steps; what was learned before that is tried again */
#define HOPED_ROW 0.1           /* of a step: what a row is taken to add until one was tried */
#define RATE_WEIGHT 0.125       /* of the newest guess */
#define FORGET_WEIGHT (1.0 / 2048) /* of what was believed at first, each token */

static const double first_rate[GP_GUESS_KINDS] = {
	[GP_GUESS_DRAFT] = 0.7, [GP_GUESS_RESUMED] = 0.5, [GP_GUESS_SHORT] = 0.3,
	[GP_GUESS_MIDDLE] = 0.5, [GP_GUESS_LONG] = 0.8,
};

/* ---- what steps take ------------------------------------------------------------ */

static bool is_known(const struct gp_step_costs *c, uint32_t rows)
{
	return c->ns[rows] > 0 && c->steps - c->seen[rows] < COST_AGE;
}

void gp_costs_learn(struct gp_step_costs *c, uint32_t rows, uint64_t ns)
{
	double *mean, x = (double)ns;

	if (!rows || rows > GP_ODDS_ROWS || !ns)
		return;
	mean = &c->ns[rows];
	if (is_known(c, rows)) {
		x = x < COST_LEAP * *mean ? x : COST_LEAP * *mean;
		*mean += COST_WEIGHT * (x - *mean);
	} else {
		*mean = x;
	}
	c->seen[rows] = ++c->steps;
}

static uint32_t known_at_or_below(const struct gp_step_costs *c, uint32_t rows)
{
	while (rows && !is_known(c, rows))
		rows--;
	return rows;
}

static uint32_t known_at_or_above(const struct gp_step_costs *c, uint32_t rows)
{
	while (rows <= GP_ODDS_ROWS && !is_known(c, rows))
		rows++;
	return rows;
}

/* More rows than ever tried, beyond top: half as much for each as it was so far. */
static double beyond(const struct gp_step_costs *c, uint32_t rows, uint32_t top)
{
	const uint32_t low = known_at_or_above(c, 1);
	const double row = low < top ? (c->ns[top] - c->ns[low]) / (2 * (top - low))
				     : HOPED_ROW * c->ns[top];

	return c->ns[top] + (row > 0 ? row : 0) * (rows - top);
}

double gp_costs_of(const struct gp_step_costs *c, uint32_t rows)
{
	const uint32_t below = known_at_or_below(c, rows), above = known_at_or_above(c, rows);

	if (!below)
		return above <= GP_ODDS_ROWS ? c->ns[above] : 0;
	if (above > GP_ODDS_ROWS)
		return beyond(c, rows, below);
	if (above == below)
		return c->ns[rows];
	return c->ns[below] + (c->ns[above] - c->ns[below]) * (rows - below) / (above - below);
}

/* ---- how often guesses are right -------------------------------------------------- */

void gp_odds_init(struct gp_odds *o)
{
	for (int k = 0; k < GP_GUESS_KINDS; k++)
		o->rate[k] = first_rate[k];
}

enum gp_guess gp_odds_kind(uint32_t alike)
{
	if (alike < GP_LOOKUP_LEAST)
		return GP_GUESS_RESUMED;
	return alike < 4 ? GP_GUESS_SHORT : alike < 12 ? GP_GUESS_MIDDLE : GP_GUESS_LONG;
}

void gp_odds_learn(struct gp_odds *o, enum gp_guess kind, bool right)
{
	o->rate[kind] += RATE_WEIGHT * (right - o->rate[kind]);
}

void gp_odds_forget(struct gp_odds *o, enum gp_guess kind)
{
	if (o->rate[kind] < first_rate[kind])
		o->rate[kind] += FORGET_WEIGHT * (first_rate[kind] - o->rate[kind]);
}

/* ---- the bet ---------------------------------------------------------------------- */

/* That all guesses so far and one more are right. */
static double chance(double rate, uint32_t guesses)
{
	double p = rate;

	while (guesses--)
		p *= rate;
	return p;
}

/* Whose next guess is the likeliest; n: nobody has one left. */
static uint32_t likeliest(const double *p, const struct gp_bet *bets, uint32_t n)
{
	uint32_t best = n;

	for (uint32_t i = 0; i < n; i++)
		if (bets[i].taken < bets[i].offered && (best == n || p[i] > p[best]))
			best = i;
	return best;
}

/* Takes the likeliest guesses one by one; how many gave the best of all speeds. */
static uint32_t best_number(const struct gp_step_costs *c, struct gp_bet *bets, double *p,
			    uint32_t n, uint32_t rows)
{
	double tokens = n, best = n / gp_costs_of(c, n);
	uint32_t taken = 0, at = 0, i;

	while (n + taken < rows && (i = likeliest(p, bets, n)) < n) {
		tokens += p[i];
		p[i] *= bets[i].rate;
		bets[i].taken++;
		taken++;
		if (tokens / gp_costs_of(c, n + taken) > best) {
			best = tokens / gp_costs_of(c, n + taken);
			at = taken;
		}
	}
	return at;
}

static void start_over(struct gp_bet *bets, double *p, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		bets[i].taken = 0;
		p[i] = bets[i].rate;
	}
}

void gp_bets_place(const struct gp_step_costs *c, struct gp_bet *bets, uint32_t n, uint32_t rows)
{
	double p[GP_ODDS_ROWS];
	uint32_t take = 0, i;

	rows = rows < GP_ODDS_ROWS ? rows : GP_ODDS_ROWS;
	for (i = 0; i < n; i++)
		bets[i].taken = 0;
	if (!n || n >= rows || !(gp_costs_of(c, n) > 0))
		return;
	start_over(bets, p, n);
	take = best_number(c, bets, p, n, rows);
	start_over(bets, p, n);
	for (; take && (i = likeliest(p, bets, n)) < n; take--) {
		p[i] *= bets[i].rate;
		bets[i].taken++;
	}
}

uint32_t gp_bets_depth(const struct gp_step_costs *c, const struct gp_bet *bets, uint32_t n,
		       uint32_t rows, double draft_ns, uint32_t most)
{
	double tokens = n, best;
	uint32_t depth = 0;

	rows = rows < GP_ODDS_ROWS ? rows : GP_ODDS_ROWS;
	if (!n || n >= rows || !(gp_costs_of(c, n) > 0))
		return 0;
	best = tokens / gp_costs_of(c, n);
	for (uint32_t k = 1; k <= most && n * (k + 1) <= rows; k++) {
		for (uint32_t i = 0; i < n; i++)
			tokens += chance(bets[i].rate, k - 1);
		const double speed = tokens / (gp_costs_of(c, n * (k + 1)) + k * draft_ns);
		depth = speed > best ? k : depth;
		best = speed > best ? speed : best;
	}
	return depth;
}

#include "coordinator/deal.h"

/* In tokens of each sequence: until steps are what they will be; a period; how many
 * periods until the other way is tried again. */
#define SETTLE 2u
#define PERIOD 6u
#define TRY_AGAIN 60u

static void begin(struct gp_deal *d, uint32_t sequences)
{
	d->sequences = sequences;
	d->rows = 0;
	d->begin_ns = 0;
}

static bool about_as_many(uint32_t a, uint32_t b)
{
	return 4 * (uint64_t)a >= 3 * (uint64_t)b && 4 * (uint64_t)b >= 3 * (uint64_t)a;
}

/* The better way, or the other one where it is unknown or was not looked at for long. */
static void choose(struct gp_deal *d)
{
	if (d->rate[!d->split] > 0 && d->periods < TRY_AGAIN) {
		const bool better = d->rate[1] > d->rate[0];

		d->periods = better == d->split ? d->periods + 1 : 0;
		d->split = better;
		return;
	}
	d->periods = 0;
	d->split = !d->split;
}

void gp_deal_learn(struct gp_deal *d, uint32_t sequences, uint32_t rows, bool has_prompt,
		   uint64_t now_ns)
{
	if (has_prompt || sequences < 2 || !about_as_many(sequences, d->sequences)) {
		begin(d, sequences);
		return;
	}
	d->rows += rows;
	if (!d->begin_ns) {
		if (d->rows < SETTLE * sequences)
			return;
		d->begin_ns = now_ns;
		d->rows = 0;
	}
	if (d->rows < PERIOD * sequences || now_ns <= d->begin_ns)
		return;
	d->rate[d->split] = (double)d->rows / (double)(now_ns - d->begin_ns);
	choose(d);
	begin(d, sequences);
}

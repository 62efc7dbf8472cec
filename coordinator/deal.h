/* Into how many steps sequences in decode are dealt: one, or as many as there are stages.
 * All in one read the weights once for all, and leave every stage but one idle; where one
 * stage alone keeps the memory busy that is the better way, else the other is. Both are
 * tried. */
#ifndef GP_DEAL_H
#define GP_DEAL_H

#include <stdbool.h>
#include <stdint.h>

struct gp_deal {                /* zero: nothing is known; all in one */
	bool split;
	double rate[2];         /* tokens a ns, by split; 0: unknown */
	uint32_t periods;       /* since the other way was tried */
	uint32_t sequences, rows; /* of the period that is measured; rows that came back in it */
	uint64_t begin_ns;      /* 0: not settled yet */
};

/* A step came back with so many rows in decode, of so many sequences in decode. One with
 * prompt rows tells nothing. */
void gp_deal_learn(struct gp_deal *d, uint32_t sequences, uint32_t rows, bool has_prompt,
		   uint64_t now_ns);

#endif

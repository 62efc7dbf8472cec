/* How many prompt rows a step may carry beside rows in decode, from how long steps took. */
#ifndef GP_PACE_H
#define GP_PACE_H

#include <stdint.h>

#define GP_PACE_LEAST 16u  /* prompt rows; fewer cost as much */

struct gp_pace {                /* zero: nothing is known */
	double decode_ns;       /* a step with nothing but rows in decode */
	double row_ns;          /* what each prompt row adds */
	uint32_t mixed;         /* steps since one with nothing but rows in decode */
};

/* A step of so many rows took ns in all stages together. */
void gp_pace_learn(struct gp_pace *p, uint32_t decode, uint32_t prefill, uint64_t ns);
/* 25 tokens a second, which nobody reads: on devices with fast steps, to save more of these
 * would cost prompts much. */
#define GP_PACE_EASY_NS 40e6
/* At most so many that the step stays within max_ns; 0 for max_ns: within twice a step
 * without any, or GP_PACE_EASY_NS where that is more. Never so few that prompts would take forever; but now and then none, to
 * see what a step takes without. */
uint32_t gp_pace_rows(const struct gp_pace *p, uint64_t max_ns);

#endif

/* A step takes so long for its rows in decode, whose weights are read anyway, and so
 * much longer for each prompt row. Both drift, with the batch and the context. */
#include "coordinator/pace.h"

#define MIXED_STEPS 64u  /* in a row, before one without prompt rows */
#define WEIGHT 0.25      /* of the newest */

static void drift(double *mean, double x)
{
	*mean = *mean > 0 ? *mean + WEIGHT * (x - *mean) : x;
}

void gp_pace_learn(struct gp_pace *p, uint32_t decode, uint32_t prefill, uint64_t ns)
{
	const double more = (double)ns - p->decode_ns;

	if (prefill && more > 0)
		drift(&p->row_ns, more / prefill);
	if (!prefill && decode) {
		drift(&p->decode_ns, (double)ns);
		p->mixed = 0;
	} else if (decode) {
		p->mixed++;
	}
}

uint32_t gp_pace_rows(const struct gp_pace *p, uint64_t max_ns)
{
	const double twice = 2 * p->decode_ns, itself = twice > GP_PACE_EASY_NS ? twice : GP_PACE_EASY_NS;
	const double most = max_ns ? (double)max_ns : itself;
	const double room = most - p->decode_ns;

	if (!(p->decode_ns > 0) || p->mixed >= MIXED_STEPS)
		return 0;
	if (!(room > GP_PACE_LEAST * p->row_ns))
		return GP_PACE_LEAST;
	if (!(p->row_ns > 0) || room / p->row_ns >= UINT32_MAX)
		return UINT32_MAX;
	return (uint32_t)(room / p->row_ns) / GP_PACE_LEAST * GP_PACE_LEAST;
}

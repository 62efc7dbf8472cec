/* The innermost loops of the search, compiled once an instruction set: SUMS and SQUARES are
 * the names that this file gives them. Eight lanes side by side, added up at the end: the
 * compiler makes vectors of them. n is a multiple of 8. */
#include "quantize/internal.h"

enum { LANES = 8 };

struct levels {                    /* of a format, by value */
	float low, high;           /* integers between these, or */
	float value[16], until[16]; /* values, and where the next one begins */
};

static struct levels levels_of(const struct gp_format *f)
{
	struct levels v = { .low = (float)f->lowest, .high = (float)f->highest };

	for (int k = 0; k < 16 && f->values; k++) {
		v.value[k] = (float)f->values[k];
		v.until[k] = k < 15 ? 0.5f * (float)(f->values[k] + f->values[k + 1]) : 0;
	}
	return v;
}

/* The value nearest to t steps. NaN is the lowest. */
static inline float nearest_integer(const struct levels *f, float t)
{
	t = t > f->low ? t : f->low;
	t = t < f->high ? t : f->high;
	/* To the nearest integer, where 2^23 has no room for more; exact below it. */
	return (t + 0x1.8p23f) - 0x1.8p23f;
}

static inline float nearest_value(const struct levels *f, float t)
{
	float v = f->value[0];

	for (int k = 0; k < 15; k++)
		v = t > f->until[k] ? f->value[k + 1] : v;
	return v;
}

static float add_up(const float lane[LANES])
{
	return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
	       ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

#define SUM_LOOP(NEAREST)                                                              \
	for (uint32_t i = 0; i < n; i += LANES)                                        \
		for (uint32_t l = 0; l < LANES; l++) {                                 \
			const float v = NEAREST(&levels, (x[i + l] - base) * inverse); \
			const float a = w[i + l] * v;                                  \
                                                                                       \
			wv[l] += a;                                                    \
			wxv[l] += a * x[i + l];                                        \
			wvv[l] += a * v;                                               \
		}

void SUMS(const struct gp_format *f, const float *x, const float *w, uint32_t n, float step,
          float base, struct gp_grid_sums *s)
{
	const float inverse = step != 0.0f ? 1.0f / step : 0.0f;
	const struct levels levels = levels_of(f);
	float wv[LANES] = { 0 }, wxv[LANES] = { 0 }, wvv[LANES] = { 0 };

	if (f->values)
		SUM_LOOP(nearest_value)
	else
		SUM_LOOP(nearest_integer)
	*s = (struct gp_grid_sums){ add_up(wv), add_up(wxv), add_up(wvv) };
}

#define SQUARE_LOOP(NEAREST)                                                           \
	for (uint32_t i = 0; i < n; i += LANES)                                        \
		for (uint32_t l = 0; l < LANES; l++) {                                 \
			const float t = x[i + l] - base;                               \
			const float e = t - step * NEAREST(&levels, t * inverse);      \
                                                                                       \
			sum[l] += w[i + l] * e * e;                                    \
		}

float SQUARES(const struct gp_format *f, const float *x, const float *w, uint32_t n, float step,
              float base)
{
	const float inverse = step != 0.0f ? 1.0f / step : 0.0f;
	const struct levels levels = levels_of(f);
	float sum[LANES] = { 0 };

	if (f->values)
		SQUARE_LOOP(nearest_value)
	else
		SQUARE_LOOP(nearest_integer)
	return add_up(sum);
}

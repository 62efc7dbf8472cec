/* Values and codes of the block formats, for the search of grids. */
#include "quantize/internal.h"

const enum gp_type gp_cost_types[GP_COST_TYPES] = {
	GP_TYPE_Q3_K, GP_TYPE_IQ4_XS, GP_TYPE_Q4_K, GP_TYPE_Q4_0, GP_TYPE_IQ4_NL,
	GP_TYPE_Q5_K, GP_TYPE_Q6_K, GP_TYPE_Q8_0,
};

static int nearest_of_codebook(const int8_t *values, float v)
{
	int low = 0, high = 15;

	while (high - low > 1) {
		const int middle = (low + high) / 2;

		if (v < (float)values[middle])
			high = middle;
		else
			low = middle;
	}
	return v - (float)values[low] < (float)values[high] - v ? low : high;
}

int8_t gp_format_code(const struct gp_format *f, float v)
{
	if (!(v > -1e9f))
		v = -1e9f;      /* NaN too */
	if (f->values)
		return (int8_t)nearest_of_codebook(f->values, v);
	v = rintf(v);
	return (int8_t)(v < (float)f->lowest ? f->lowest : v > (float)f->highest ? f->highest : (int)v);
}

float gp_format_value(const struct gp_format *f, int8_t code)
{
	return (float)(f->values ? f->values[code] : code);
}

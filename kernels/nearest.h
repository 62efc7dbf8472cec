/* Rounding to nearest, compiled once an instruction set: NEAREST is the name that this file
 * gives it. A part's step follows from its extremes alone. Q8_0 and Q4_0 become the bytes that
 * ggml's reference gives; the others bytes that it reads, without its search for better
 * scales. Loops over eight lanes, of which the compiler makes vectors. */
#include <math.h>

#include "kernels/quantize.h"

enum { LANES = 8 };

static inline float clamp(float v, float least, float most) /* NaN: least */
{
	v = v > least ? v : least;
	return v < most ? v : most;
}

/* Halves to even; exact below 2^22. */
static inline float to_integer(float v)
{
	return (v + 0x1.8p23f) - 0x1.8p23f;
}

static inline int round_to(float v, int least, int most)
{
	return (int)to_integer(clamp(v, (float)least, (float)most));
}

static inline float inverse_of(float d)
{
	return d == 0.0f ? 0.0f : 1.0f / d;
}

/* As a block keeps it. A scale beyond a half's range would turn zeros into NaN. */
static float as_half(float v)
{
	return gp_f16_to_f32(gp_f32_to_f16(clamp(v, -65504.0f, 65504.0f)));
}

/* 0 counts too; NaN does not. n: a multiple of 8. */
static inline void range_of(const float *x, unsigned n, float *least, float *most)
{
	float low[LANES] = { 0 }, high[LANES] = { 0 };

	for (unsigned i = 0; i < n; i += LANES)
		for (unsigned l = 0; l < LANES; l++) {
			low[l] = x[i + l] < low[l] ? x[i + l] : low[l];
			high[l] = x[i + l] > high[l] ? x[i + l] : high[l];
		}
	*least = low[0];
	*most = high[0];
	for (unsigned l = 1; l < LANES; l++) {
		*least = low[l] < *least ? low[l] : *least;
		*most = high[l] > *most ? high[l] : *most;
	}
}

/* The element of the largest magnitude, with its sign; the first of equal ones. */
static inline float extreme_of(const float *x, unsigned n)
{
	float least, most;
	unsigned i = 0;

	range_of(x, n, &least, &most);
	if (most > -least)
		return most;
	if (-least > most)
		return least;
	while (most > 0.0f && i < n && !(fabsf(x[i]) >= most))
		i++;
	return most > 0.0f ? x[i] : 0.0f;
}

/* ---- codes of n elements: x, plus below, in units of 1 / inverse ------------------------------- */
static inline void integers(const float *x, unsigned n, float below, float inverse, int least,
                            int most, int8_t *code)
{
	for (unsigned i = 0; i < n; i++)
		code[i] = (int8_t)round_to((x[i] + below) * inverse, least, most);
}

/* The end of the step 0 is that of its neighbours: between two codes the upper one. */
static inline void integers_upwards(const float *x, float inverse, int8_t *code)
{
	for (unsigned i = 0; i < 32; i++)
		code[i] = (int8_t)((int)clamp(x[i] * inverse + 8.5f, 0, 15) - 8);
}

/* Between two codes the outer one. */
static inline void integers_outwards(const float *x, float inverse, int8_t *code)
{
	for (unsigned i = 0; i < 32; i++) {
		const float v = clamp(x[i] * inverse, -127, 127), r = to_integer(v);

		code[i] = (int8_t)((int)r + (v - r == 0.5f && v > 0.0f) - (v - r == -0.5f && v < 0.0f));
	}
}

static inline void codes_of_values(const float *x, unsigned n, float inverse, const int8_t *value,
                                   int8_t *code)
{
	float twice[32];
	int32_t k[32] = { 0 };

	for (unsigned at = 0; at < n; at += 32) {
		for (unsigned i = 0; i < 32; i++) {
			twice[i] = 2 * (x[at + i] * inverse);
			k[i] = 0;
		}
		for (unsigned v = 0; v < 15; v++) {
			const float until = (float)(value[v] + value[v + 1]);

			for (unsigned i = 0; i < 32; i++)
				k[i] += twice[i] >= until;
		}
		for (unsigned i = 0; i < 32; i++)
			code[at + i] = (int8_t)k[i];
	}
}

/* ---- blocks of one part ------------------------------------------------------------------------- */
static void whole_block(const struct gp_format *f, const float *x, struct gp_grid *g, int8_t *code)
{
	const float e = extreme_of(x, 32);
	float d;

	switch (f->type) {
	case GP_TYPE_Q8_0:
		d = fabsf(e) / 127.0f;
		integers_outwards(x, inverse_of(d), code);
		break;
	case GP_TYPE_Q4_0: /* the extreme becomes -8, the end that has one more step */
		d = e / -8.0f;
		integers_upwards(x, inverse_of(d), code);
		break;
	default:
		d = as_half(e / (float)f->values[0]);
		codes_of_values(x, 32, inverse_of(d), f->values, code);
		break;
	}
	g->d = as_half(d);
}

/* ---- super-blocks ----------------------------------------------------------------------------------- */
/* Q4_K, Q5_K: step and minimum of each 32. */
static void with_minima(const struct gp_format *f, const float *x, struct gp_grid *g, int8_t *code)
{
	float step[8], below[8];

	for (unsigned j = 0; j < 8; j++) {
		float least, most;

		range_of(x + 32 * j, 32, &least, &most);
		step[j] = (most - least) / (float)f->highest;
		below[j] = -least;
	}
	g->d = as_half(extreme_of(step, 8) / (float)f->scale_most);
	g->dmin = as_half(extreme_of(below, 8) / (float)f->min_most);
	const float id = inverse_of(g->d), imin = inverse_of(g->dmin);
	for (unsigned j = 0; j < 8; j++) {
		g->scale[j] = (int8_t)round_to(step[j] * id, 0, f->scale_most);
		g->min[j] = (uint8_t)round_to(below[j] * imin, 0, f->min_most);
		integers(x + 32 * j, 32, g->dmin * (float)g->min[j],
		         inverse_of(g->d * (float)g->scale[j]), f->lowest, f->highest, code + 32 * j);
	}
}

/* The extreme of each part becomes the lowest value, the end that has one more step; the
 * largest of the steps the lowest scale. */
static void with_signed_scales(const struct gp_format *f, const float *x, struct gp_grid *g,
                               int8_t *code)
{
	const float lowest = (float)(f->values ? f->values[0] : f->lowest);
	const unsigned n = f->parts == 16 ? 16 : 32, parts = 256 / n;
	float step[GP_MOST_PARTS];

	for (unsigned j = 0; j < parts; j++)
		step[j] = extreme_of(x + n * j, n) / lowest;
	g->d = as_half(extreme_of(step, parts) / (float)f->scale_least);
	const float id = inverse_of(g->d);
	for (unsigned j = 0; j < parts; j++) {
		g->scale[j] = (int8_t)round_to(step[j] * id, f->scale_least, f->scale_most);
		const float inverse = inverse_of(g->d * (float)g->scale[j]);

		if (f->values)
			codes_of_values(x + n * j, n, inverse, f->values, code + n * j);
		else
			integers(x + n * j, n, 0, inverse, f->lowest, f->highest, code + n * j);
	}
}

void NEAREST(const struct gp_format *f, const float *x, size_t n, uint8_t *dst)
{
	const size_t bytes = gp_type_info(f->type)->block_bytes;
	int8_t code[GP_MOST_BLOCK];
	struct gp_grid g = { 0 };

	for (; n; n -= f->block, x += f->block, dst += bytes) {
		if (f->parts == 1)
			whole_block(f, x, &g, code);
		else if (f->min_most)
			with_minima(f, x, &g, code);
		else
			with_signed_scales(f, x, &g, code);
		f->pack(&g, code, dst);
	}
}

/* Private to kernels/: what the encoders share. */
#ifndef GP_KERNELS_QUANTIZE_H
#define GP_KERNELS_QUANTIZE_H

#include <math.h>

#include "kernels/isa.h"

/* NaN becomes lo: the bytes stay valid whatever the input. */
static inline int round_to(float v, int lo, int hi)
{
	if (!(v > (float)lo))
		return lo;
	if (v >= (float)hi)
		return hi;
	return (int)lrintf(v);
}

/* A scale beyond f16 would turn zeros into NaN: stop at the largest. */
static inline void put_half(uint8_t *p, float v)
{
	const uint16_t h = gp_f32_to_f16(fmaxf(-65504.0f, fminf(65504.0f, v)));

	memcpy(p, &h, sizeof(h));
}

static inline float inverse(float d)
{
	return d == 0.0f ? 0.0f : 1.0f / d;
}

/* The element of the largest magnitude, with its sign. */
static inline float extreme(const float *x, unsigned n)
{
	float e = 0.0f;

	for (unsigned i = 0; i < n; i++)
		if (fabsf(x[i]) > fabsf(e))
			e = x[i];
	return e;
}

/* The number in gp_iq4_values that is nearest to v, of two the larger one; NaN: 0. */
static inline unsigned nearest_iq4(float v)
{
	const int8_t *values = gp_iq4_values;
	unsigned i = 0;

	for (unsigned n = 8; n; n /= 2)
		i += n * (2 * v >= (float)(values[i + n - 1] + values[i + n]));
	return i;
}

/* 32 elements, times id nearest to the values, to 16 bytes. */
static inline void put_iq4(const float *src, float id, uint8_t *dst)
{
	for (unsigned i = 0; i < 16; i++)
		dst[i] = (uint8_t)(nearest_iq4(src[i] * id) | nearest_iq4(src[i + 16] * id) << 4);
}

/* The formats with blocks of 256 elements (quantize_k.c). */
void gp_quantize_q3_k(const float *src, uint8_t *dst, size_t n);
void gp_quantize_q4_k(const float *src, uint8_t *dst, size_t n);
void gp_quantize_q5_k(const float *src, uint8_t *dst, size_t n);
void gp_quantize_q6_k(const float *src, uint8_t *dst, size_t n);
void gp_quantize_iq4_xs(const float *src, uint8_t *dst, size_t n);

#endif

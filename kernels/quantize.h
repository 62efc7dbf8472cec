/* Private to kernels/: what the encoders share. */
#ifndef GP_KERNELS_QUANTIZE_H
#define GP_KERNELS_QUANTIZE_H

#include "kernels/isa.h"

static inline void gp_put_half(uint8_t *p, float v)
{
	const uint16_t h = gp_f32_to_f16(v);

	memcpy(p, &h, sizeof(h));
}

/* nearest_*.c: n elements, a multiple of the format's block, packed as in files. */
typedef void gp_nearest_fn(const struct gp_format *f, const float *x, size_t n, uint8_t *dst);
gp_nearest_fn gp_nearest_any, gp_nearest_avx2;

#endif

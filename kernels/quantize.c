/* Round-to-nearest encoders. Q8_0 and Q4_0 give the bytes that ggml's reference
 * gives; Q4_K and Q6_K give bytes that it reads, without its search for better
 * scales. */
#include <math.h>

#include "base/base.h"
#include "kernels/isa.h"

/* NaN becomes lo: the bytes stay valid whatever the input. */
static int round_to(float v, int lo, int hi)
{
	if (!(v > (float)lo))
		return lo;
	if (v >= (float)hi)
		return hi;
	return (int)lrintf(v);
}

/* A scale beyond f16 would turn zeros into NaN: stop at the largest. */
static void put_half(uint8_t *p, float v)
{
	const uint16_t h = gp_f32_to_f16(fmaxf(-65504.0f, fminf(65504.0f, v)));

	memcpy(p, &h, sizeof(h));
}

static float inverse(float d)
{
	return d == 0.0f ? 0.0f : 1.0f / d;
}

/* The element of the largest magnitude, with its sign. */
static float extreme(const float *x, unsigned n)
{
	float e = 0.0f;

	for (unsigned i = 0; i < n; i++)
		if (fabsf(x[i]) > fabsf(e))
			e = x[i];
	return e;
}

static void quantize_f16(const float *src, uint8_t *dst, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const uint16_t h = gp_f32_to_f16(src[i]);

		memcpy(dst + 2 * i, &h, sizeof(h));
	}
}

static void quantize_bf16(const float *src, uint8_t *dst, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const uint16_t h = gp_f32_to_bf16(src[i]);

		memcpy(dst + 2 * i, &h, sizeof(h));
	}
}

static void quantize_q8_0(const float *src, uint8_t *dst, size_t n)
{
	for (; n; n -= 32, src += 32, dst += 34) {
		const float d = fabsf(extreme(src, 32)) / 127.0f, id = inverse(d);

		put_half(dst, d);
		for (unsigned i = 0; i < 32; i++)
			dst[2 + i] = (uint8_t)round_to(roundf(src[i] * id), -127, 127);
	}
}

static unsigned nibble(float v)
{
	return (unsigned)round_to(floorf(v + 8.5f), 0, 15);
}

/* The extreme maps to -8, the end that has one more step. */
static void quantize_q4_0(const float *src, uint8_t *dst, size_t n)
{
	for (; n; n -= 32, src += 32, dst += 18) {
		const float d = extreme(src, 32) / -8.0f, id = inverse(d);

		put_half(dst, d);
		for (unsigned i = 0; i < 16; i++)
			dst[2 + i] = (uint8_t)(nibble(src[i] * id) | nibble(src[i + 16] * id) << 4);
	}
}

/* Step and minimum (as a positive number) of each sub-block of 32. */
static void q4_k_ranges(const float *src, float step[8], float below[8])
{
	for (unsigned j = 0; j < 8; j++) {
		float min = 0.0f, max = 0.0f;

		for (unsigned i = 0; i < 32; i++) {
			min = fminf(min, src[32 * j + i]);
			max = fmaxf(max, src[32 * j + i]);
		}
		step[j] = (max - min) / 15.0f;
		below[j] = -min;
	}
}

/* The inverse of gp_scale_min_k4. */
static void q4_k_pack_scales(const uint8_t scale[8], const uint8_t min[8], uint8_t packed[12])
{
	for (unsigned j = 0; j < 4; j++) {
		packed[j] = (uint8_t)(scale[j] | scale[j + 4] >> 4 << 6);
		packed[j + 4] = (uint8_t)(min[j] | min[j + 4] >> 4 << 6);
		packed[j + 8] = (uint8_t)((scale[j + 4] & 15) | (min[j + 4] & 15) << 4);
	}
}

static void q4_k_scales(const float *src, uint8_t *dst)
{
	float step[8], below[8];
	uint8_t scale[8], min[8];

	q4_k_ranges(src, step, below);
	put_half(dst, extreme(step, 8) / 63.0f);
	put_half(dst + 2, extreme(below, 8) / 63.0f);
	const float id = inverse(gp_load_half(dst)), imin = inverse(gp_load_half(dst + 2));
	for (unsigned j = 0; j < 8; j++) {
		scale[j] = (uint8_t)round_to(step[j] * id, 0, 63);
		min[j] = (uint8_t)round_to(below[j] * imin, 0, 63);
	}
	q4_k_pack_scales(scale, min, dst + 4);
}

static void quantize_q4_k(const float *src, uint8_t *dst, size_t n)
{
	for (; n; n -= 256, src += 256, dst += 144) {
		q4_k_scales(src, dst);
		memset(dst + 16, 0, 128);
		for (unsigned j = 0; j < 8; j++) {
			uint8_t *q = dst + 16 + 32 * (j / 2), scale, min;

			gp_scale_min_k4(dst + 4, j, &scale, &min);
			const float id = inverse(gp_load_half(dst) * (float)scale);
			const float ml = gp_load_half(dst + 2) * (float)min;
			for (unsigned i = 0; i < 32; i++) {
				const int v = round_to((src[32 * j + i] + ml) * id, 0, 15);

				q[i] = (uint8_t)(q[i] | v << 4 * (j & 1));
			}
		}
	}
}

static void q6_k_scales(const float *src, uint8_t *dst)
{
	float step[16];

	for (unsigned j = 0; j < 16; j++)
		step[j] = extreme(src + 16 * j, 16) / -32.0f;
	put_half(dst + 208, fabsf(extreme(step, 16)) / 127.0f);
	const float id = inverse(gp_load_half(dst + 208));
	for (unsigned j = 0; j < 16; j++)
		dst[192 + j] = (uint8_t)round_to(step[j] * id, -127, 127);
}

static void quantize_q6_k(const float *src, uint8_t *dst, size_t n)
{
	for (; n; n -= 256, src += 256, dst += 210) {
		q6_k_scales(src, dst);
		memset(dst, 0, 192);
		for (unsigned i = 0; i < 256; i++) {
			const unsigned half = i / 128, s = i / 32 % 4, l = i % 32;
			const float step = gp_load_half(dst + 208) * (float)(int8_t)dst[192 + i / 16];
			const int v = round_to(src[i] * inverse(step), -32, 31) + 32;
			uint8_t *low = dst + 64 * half + l + 32 * (s & 1);
			uint8_t *high = dst + 128 + 32 * half + l;

			*low = (uint8_t)(*low | (v & 15) << 4 * (s / 2));
			*high = (uint8_t)(*high | v >> 4 << 2 * s);
		}
	}
}

int gp_quantize(enum gp_type t, const float *src, void *dst, size_t n)
{
	const struct gp_type_info *info = gp_type_info(t);

	if (info && n % info->block_elems)
		return gp_fail(EINVAL, "%s: %zu elements are no multiple of its block of %u; pad the row",
		               info->name, n, info->block_elems);
	switch (t) {
	case GP_TYPE_F32: memcpy(dst, src, n * sizeof(float)); return 0;
	case GP_TYPE_F16: quantize_f16(src, dst, n); return 0;
	case GP_TYPE_BF16: quantize_bf16(src, dst, n); return 0;
	case GP_TYPE_Q8_0: quantize_q8_0(src, dst, n); return 0;
	case GP_TYPE_Q4_0: quantize_q4_0(src, dst, n); return 0;
	case GP_TYPE_Q4_K: quantize_q4_k(src, dst, n); return 0;
	case GP_TYPE_Q6_K: quantize_q6_k(src, dst, n); return 0;
	default:
		return gp_fail(ENOTSUP,
		               "%s: there is no encoder for this type; "
		               "use F32, F16, BF16, Q8_0, Q4_0, Q4_K or Q6_K",
		               info ? info->name : "unknown type");
	}
}

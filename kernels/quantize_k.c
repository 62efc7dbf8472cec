/* Encoders of the formats with super-blocks of 256 elements, whose layouts stand
 * in dequantize_k.c. ggml reads the bytes, but would find better scales: here each
 * sub-block's step follows from its extremes alone. */
#include "kernels/quantize.h"

/* ---- Q4_K, Q5_K: quants of 0..top, step and minimum for each 32 ---------------- */
/* Step and minimum (as a positive number) of each sub-block. */
static void k4_ranges(const float *src, unsigned top, float step[8], float below[8])
{
	for (unsigned j = 0; j < 8; j++) {
		float min = 0.0f, max = 0.0f;

		for (unsigned i = 0; i < 32; i++) {
			min = fminf(min, src[32 * j + i]);
			max = fmaxf(max, src[32 * j + i]);
		}
		step[j] = (max - min) / (float)top;
		below[j] = -min;
	}
}

/* The inverse of gp_scale_min_k4. */
static void k4_pack_scales(const uint8_t scale[8], const uint8_t min[8], uint8_t packed[12])
{
	for (unsigned j = 0; j < 4; j++) {
		packed[j] = (uint8_t)(scale[j] | scale[j + 4] >> 4 << 6);
		packed[j + 4] = (uint8_t)(min[j] | min[j + 4] >> 4 << 6);
		packed[j + 8] = (uint8_t)((scale[j + 4] & 15) | (min[j + 4] & 15) << 4);
	}
}

static void k4_scales(const float *src, unsigned top, uint8_t *dst)
{
	float step[8], below[8];
	uint8_t scale[8], min[8];

	k4_ranges(src, top, step, below);
	put_half(dst, extreme(step, 8) / 63.0f);
	put_half(dst + 2, extreme(below, 8) / 63.0f);
	const float id = inverse(gp_load_half(dst)), imin = inverse(gp_load_half(dst + 2));
	for (unsigned j = 0; j < 8; j++) {
		scale[j] = (uint8_t)round_to(step[j] * id, 0, 63);
		min[j] = (uint8_t)round_to(below[j] * imin, 0, 63);
	}
	k4_pack_scales(scale, min, dst + 4);
}

/* The quants of a block whose scales are at head. */
static void k4_quants(const float *src, unsigned top, const uint8_t *head, uint8_t q[256])
{
	for (unsigned j = 0; j < 8; j++) {
		uint8_t scale, min;

		gp_scale_min_k4(head + 4, j, &scale, &min);
		const float id = inverse(gp_load_half(head) * (float)scale);
		const float ml = gp_load_half(head + 2) * (float)min;
		for (unsigned i = 32 * j; i < 32 * j + 32; i++)
			q[i] = (uint8_t)round_to((src[i] + ml) * id, 0, (int)top);
	}
}

/* Low nibbles: 64 elements share 32 bytes. */
static void k4_put_low(const uint8_t q[256], uint8_t low[128])
{
	for (unsigned i = 0; i < 128; i++) {
		const uint8_t *pair = q + 64 * (i / 32) + i % 32;

		low[i] = (uint8_t)((pair[0] & 15) | (pair[32] & 15) << 4);
	}
}

void gp_quantize_q4_k(const float *src, uint8_t *dst, size_t n)
{
	uint8_t q[256];

	for (; n; n -= 256, src += 256, dst += 144) {
		k4_scales(src, 15, dst);
		k4_quants(src, 15, dst, q);
		k4_put_low(q, dst + 16);
	}
}

void gp_quantize_q5_k(const float *src, uint8_t *dst, size_t n)
{
	uint8_t q[256];

	for (; n; n -= 256, src += 256, dst += 176) {
		k4_scales(src, 31, dst);
		k4_quants(src, 31, dst, q);
		memset(dst + 16, 0, 32);
		for (unsigned i = 0; i < 256; i++)
			dst[16 + i % 32] = (uint8_t)(dst[16 + i % 32] | q[i] >> 4 << i / 32);
		k4_put_low(q, dst + 48);
	}
}

/* ---- Q3_K, Q6_K: signed quants, a signed scale for each 16 ---------------------- */
/* The extreme of each 16 maps to lowest, the end that has one more step. The
 * largest of these steps is least units of what is put at d. */
static void signed_scales(const float *src, int lowest, int least, int most, uint8_t *d,
                          int8_t scale[16])
{
	float step[16];

	for (unsigned j = 0; j < 16; j++)
		step[j] = extreme(src + 16 * j, 16) / (float)lowest;
	put_half(d, extreme(step, 16) / (float)least);
	const float id = inverse(gp_load_half(d));
	for (unsigned j = 0; j < 16; j++)
		scale[j] = (int8_t)round_to(step[j] * id, least, most);
}

/* Quants of lowest .. -lowest - 1, as bytes from 0 on. */
static void signed_quants(const float *src, int lowest, float d, const int8_t scale[16],
                          uint8_t q[256])
{
	for (unsigned j = 0; j < 16; j++) {
		const float id = inverse(d * (float)scale[j]);

		for (unsigned i = 16 * j; i < 16 * j + 16; i++)
			q[i] = (uint8_t)(round_to(src[i] * id, lowest, -lowest - 1) - lowest);
	}
}

/* 16 scales, plus 32: four low bits in a nibble of the first 8 bytes, two high
 * bits in the last 4. */
static void q3_k_pack_scales(const int8_t scale[16], uint8_t packed[12])
{
	memset(packed, 0, 12);
	for (unsigned j = 0; j < 16; j++) {
		const unsigned v = (unsigned)(scale[j] + 32);

		packed[j % 8] = (uint8_t)(packed[j % 8] | (v & 15) << 4 * (j / 8));
		packed[8 + j % 4] = (uint8_t)(packed[8 + j % 4] | v >> 4 << 2 * (j / 4));
	}
}

void gp_quantize_q3_k(const float *src, uint8_t *dst, size_t n)
{
	int8_t scale[16];
	uint8_t q[256];

	for (; n; n -= 256, src += 256, dst += 110) {
		signed_scales(src, -4, -32, 31, dst + 108, scale);
		signed_quants(src, -4, gp_load_half(dst + 108), scale, q);
		memset(dst, 0, 96);
		q3_k_pack_scales(scale, dst + 96);
		for (unsigned i = 0; i < 256; i++) {
			uint8_t *high = dst + i % 32, *low = dst + 32 + 32 * (i / 128) + i % 32;

			*high = (uint8_t)(*high | q[i] >> 2 << i / 32);
			*low = (uint8_t)(*low | (q[i] & 3) << 2 * (i / 32 % 4));
		}
	}
}

void gp_quantize_q6_k(const float *src, uint8_t *dst, size_t n)
{
	int8_t scale[16];
	uint8_t q[256];

	for (; n; n -= 256, src += 256, dst += 210) {
		signed_scales(src, -32, -127, 127, dst + 208, scale);
		signed_quants(src, -32, gp_load_half(dst + 208), scale, q);
		memset(dst, 0, 192);
		memcpy(dst + 192, scale, sizeof(scale));
		for (unsigned i = 0; i < 256; i++) {
			const unsigned half = i / 128, s = i / 32 % 4, l = i % 32;
			uint8_t *low = dst + 64 * half + l + 32 * (s & 1);
			uint8_t *high = dst + 128 + 32 * half + l;

			*low = (uint8_t)(*low | (q[i] & 15) << 4 * (s / 2));
			*high = (uint8_t)(*high | q[i] >> 4 << 2 * s);
		}
	}
}

/* ---- IQ4_XS ---------------------------------------------------------------------- */
/* d, 16 bits of high scale bits, 4 bytes of low scale nibbles. */
static void iq4_xs_scales(const float *src, uint8_t *dst, int scale[8])
{
	float step[8];
	uint16_t high = 0;

	for (unsigned j = 0; j < 8; j++)
		step[j] = extreme(src + 32 * j, 32) / (float)gp_iq4_values[0];
	put_half(dst, extreme(step, 8) / -32.0f);
	const float id = inverse(gp_load_half(dst));
	memset(dst + 4, 0, 4);
	for (unsigned j = 0; j < 8; j++) {
		scale[j] = round_to(step[j] * id, -32, 31);
		const unsigned v = (unsigned)(scale[j] + 32);

		high = (uint16_t)(high | v >> 4 << 2 * j);
		dst[4 + j / 2] = (uint8_t)(dst[4 + j / 2] | (v & 15) << 4 * (j & 1));
	}
	memcpy(dst + 2, &high, sizeof(high));
}

void gp_quantize_iq4_xs(const float *src, uint8_t *dst, size_t n)
{
	int scale[8];

	for (; n; n -= 256, src += 256, dst += 136) {
		iq4_xs_scales(src, dst, scale);
		for (unsigned j = 0; j < 8; j++)
			put_iq4(src + 32 * j, inverse(gp_load_half(dst) * (float)scale[j]),
			        dst + 8 + 16 * j);
	}
}

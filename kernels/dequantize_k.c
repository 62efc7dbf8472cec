/* Formats with super-blocks of 256 elements: sub-blocks of 16 or 32 with their
 * own small scales, and one f16 scale above these. Layouts: ggml's. */
#include "kernels/isa.h"

/* scales[0..3] and [4..7] hold the low 6 bits of scales and minima 0..3; their
 * two upper bits are the upper bits of 4..7, whose lower four are in [8..11]. */
void gp_scale_min_k4(const uint8_t scales[12], unsigned j, uint8_t *scale, uint8_t *min)
{
	if (j < 4) {
		*scale = scales[j] & 63;
		*min = scales[j + 4] & 63;
	} else {
		*scale = (uint8_t)((scales[j + 4] & 15) | scales[j - 4] >> 6 << 4);
		*min = (uint8_t)(scales[j + 4] >> 4 | scales[j] >> 6 << 4);
	}
}

/* d, dmin, scales[12], 128 bytes: 64 elements share 32 bytes. */
void gp_dequantize_q4_k(const uint8_t *src, float *dst, size_t n)
{
	for (; n; n -= 256, src += 144, dst += 256) {
		const float d = gp_load_half(src), dmin = gp_load_half(src + 2);

		for (unsigned j = 0; j < 8; j++) {
			const uint8_t *q = src + 16 + 32 * (j / 2);
			uint8_t scale, min;

			gp_scale_min_k4(src + 4, j, &scale, &min);
			const float dl = d * (float)scale, ml = dmin * (float)min;
			for (unsigned i = 0; i < 32; i++)
				dst[32 * j + i] = dl * (float)(q[i] >> 4 * (j & 1) & 15) - ml;
		}
	}
}

/* As Q4_K, with 32 bytes of fifth bits before the others: bit j of byte i
 * belongs to element i of sub-block j. */
void gp_dequantize_q5_k(const uint8_t *src, float *dst, size_t n)
{
	for (; n; n -= 256, src += 176, dst += 256) {
		const float d = gp_load_half(src), dmin = gp_load_half(src + 2);
		const uint8_t *high = src + 16;

		for (unsigned j = 0; j < 8; j++) {
			const uint8_t *low = src + 48 + 32 * (j / 2);
			uint8_t scale, min;

			gp_scale_min_k4(src + 4, j, &scale, &min);
			const float dl = d * (float)scale, ml = dmin * (float)min;
			for (unsigned i = 0; i < 32; i++) {
				const int q = (low[i] >> 4 * (j & 1) & 15) | (high[i] >> j & 1) << 4;

				dst[32 * j + i] = dl * (float)q - ml;
			}
		}
	}
}

/* 128 bytes of low 4 bits, 64 of high 2, 16 int8 scales, d. Each half of the
 * block: element l + 32 s has its low bits in byte l + 32 (s & 1), nibble s / 2,
 * its high bits in byte l, pair s. */
void gp_dequantize_q6_k(const uint8_t *src, float *dst, size_t n)
{
	for (; n; n -= 256, src += 210, dst += 256) {
		const float d = gp_load_half(src + 208);

		for (unsigned i = 0; i < 256; i++) {
			const unsigned half = i / 128, s = i / 32 % 4, l = i % 32;
			const int low = src[64 * half + l + 32 * (s & 1)] >> 4 * (s / 2) & 15;
			const int high = src[128 + 32 * half + l] >> 2 * s & 3;
			const int8_t scale = (int8_t)src[192 + i / 16];

			dst[i] = d * (float)scale * (float)((low | high << 4) - 32);
		}
	}
}

/* 16 scales of 6 bits in 12 bytes: four low bits in a nibble of the first 8,
 * two high bits in the last 4. */
static int q3_k_scale(const uint8_t *packed, unsigned j)
{
	const int low = packed[j % 8] >> 4 * (j / 8) & 15;
	const int high = packed[8 + j % 4] >> 2 * (j / 4) & 3;

	return (low | high << 4) - 32;
}

/* 32 bytes of third bits (a clear bit means minus 4), 64 bytes of 2 bits,
 * scales, d. Each half of the block: element l + 32 s is pair s of byte l; its
 * third bit is bit s (+ 4 in the second half) of byte l. */
void gp_dequantize_q3_k(const uint8_t *src, float *dst, size_t n)
{
	for (; n; n -= 256, src += 110, dst += 256) {
		const float d = gp_load_half(src + 108);

		for (unsigned i = 0; i < 256; i++) {
			const unsigned half = i / 128, s = i / 32 % 4, l = i % 32;
			const int low = src[32 + 32 * half + l] >> 2 * s & 3;
			const int minus = src[l] >> (4 * half + s) & 1 ? 0 : 4;

			dst[i] = d * (float)q3_k_scale(src + 96, i / 16) * (float)(low - minus);
		}
	}
}

/* d, 16 bits of high scale bits, 4 bytes of low scale nibbles, 128 bytes; each
 * sub-block of 32 is laid out as IQ4_NL. */
void gp_dequantize_iq4_xs(const uint8_t *src, float *dst, size_t n)
{
	for (; n; n -= 256, src += 136, dst += 256) {
		const float d = gp_load_half(src);
		const unsigned high = gp_load16(src + 2);

		for (unsigned j = 0; j < 8; j++) {
			const uint8_t *q = src + 8 + 16 * j;
			const unsigned low = (unsigned)src[4 + j / 2] >> 4 * (j & 1) & 15;
			const int scale = (int)(low | (high >> 2 * j & 3) << 4) - 32;
			const float dl = d * (float)scale;

			for (unsigned i = 0; i < 16; i++) {
				dst[32 * j + i] = dl * (float)gp_iq4_values[q[i] & 15];
				dst[32 * j + i + 16] = dl * (float)gp_iq4_values[q[i] >> 4];
			}
		}
	}
}

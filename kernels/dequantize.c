/* Block formats of 32 elements, and the switch over all of them. Layouts: the
 * GGUF specification and ggml's block formats; a block starts with its scale
 * (f16), element i of the lower half shares a byte with element i + 16. */
#include "kernels/isa.h"

const int8_t gp_iq4_values[16] = {
	-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
};

static void dequantize_f16(const uint8_t *src, float *dst, size_t n)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = gp_load_half(src + 2 * i);
}

static void dequantize_bf16(const uint8_t *src, float *dst, size_t n)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = gp_bf16_to_f32(gp_load16(src + 2 * i));
}

static void dequantize_q8_0(const uint8_t *src, float *dst, size_t n)
{
	for (; n; n -= 32, src += 34, dst += 32) {
		const float d = gp_load_half(src);

		for (unsigned i = 0; i < 32; i++)
			dst[i] = (float)(int8_t)src[2 + i] * d;
	}
}

static void dequantize_q4_0(const uint8_t *src, float *dst, size_t n)
{
	for (; n; n -= 32, src += 18, dst += 32) {
		const float d = gp_load_half(src);

		for (unsigned i = 0; i < 16; i++) {
			dst[i] = (float)((src[2 + i] & 15) - 8) * d;
			dst[i + 16] = (float)((src[2 + i] >> 4) - 8) * d;
		}
	}
}

static void dequantize_q4_1(const uint8_t *src, float *dst, size_t n)
{
	for (; n; n -= 32, src += 20, dst += 32) {
		const float d = gp_load_half(src), min = gp_load_half(src + 2);

		for (unsigned i = 0; i < 16; i++) {
			dst[i] = (float)(src[4 + i] & 15) * d + min;
			dst[i + 16] = (float)(src[4 + i] >> 4) * d + min;
		}
	}
}

/* Bit i of the 32 high bits is the fifth bit of element i. */
static void unpack5(const uint8_t *high, const uint8_t *low, uint8_t q[32])
{
	uint32_t bits;

	memcpy(&bits, high, sizeof(bits));
	for (unsigned i = 0; i < 16; i++) {
		q[i] = (uint8_t)((low[i] & 15) | (bits >> i & 1) << 4);
		q[i + 16] = (uint8_t)(low[i] >> 4 | (bits >> (i + 16) & 1) << 4);
	}
}

static void dequantize_q5_0(const uint8_t *src, float *dst, size_t n)
{
	for (; n; n -= 32, src += 22, dst += 32) {
		const float d = gp_load_half(src);
		uint8_t q[32];

		unpack5(src + 2, src + 6, q);
		for (unsigned i = 0; i < 32; i++)
			dst[i] = (float)(q[i] - 16) * d;
	}
}

static void dequantize_q5_1(const uint8_t *src, float *dst, size_t n)
{
	for (; n; n -= 32, src += 24, dst += 32) {
		const float d = gp_load_half(src), min = gp_load_half(src + 2);
		uint8_t q[32];

		unpack5(src + 4, src + 8, q);
		for (unsigned i = 0; i < 32; i++)
			dst[i] = (float)q[i] * d + min;
	}
}

static void dequantize_iq4_nl(const uint8_t *src, float *dst, size_t n)
{
	for (; n; n -= 32, src += 18, dst += 32) {
		const float d = gp_load_half(src);

		for (unsigned i = 0; i < 16; i++) {
			dst[i] = d * (float)gp_iq4_values[src[2 + i] & 15];
			dst[i + 16] = d * (float)gp_iq4_values[src[2 + i] >> 4];
		}
	}
}

void gp_dequantize(enum gp_type t, const void *src, float *dst, size_t n)
{
	switch (t) {
	case GP_TYPE_F32: memcpy(dst, src, n * sizeof(float)); break;
	case GP_TYPE_F16: dequantize_f16(src, dst, n); break;
	case GP_TYPE_BF16: dequantize_bf16(src, dst, n); break;
	case GP_TYPE_Q8_0: dequantize_q8_0(src, dst, n); break;
	case GP_TYPE_Q4_0: dequantize_q4_0(src, dst, n); break;
	case GP_TYPE_Q4_1: dequantize_q4_1(src, dst, n); break;
	case GP_TYPE_Q5_0: dequantize_q5_0(src, dst, n); break;
	case GP_TYPE_Q5_1: dequantize_q5_1(src, dst, n); break;
	case GP_TYPE_Q3_K: gp_dequantize_q3_k(src, dst, n); break;
	case GP_TYPE_Q4_K: gp_dequantize_q4_k(src, dst, n); break;
	case GP_TYPE_Q5_K: gp_dequantize_q5_k(src, dst, n); break;
	case GP_TYPE_Q6_K: gp_dequantize_q6_k(src, dst, n); break;
	case GP_TYPE_IQ4_NL: dequantize_iq4_nl(src, dst, n); break;
	case GP_TYPE_IQ4_XS: gp_dequantize_iq4_xs(src, dst, n); break;
	}
}

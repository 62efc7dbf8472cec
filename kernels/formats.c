/* The block formats that are written, as grids, and their bytes. Layouts: ggml's (see
 * dequantize*.c, which read them). */
#include "kernels/quantize.h"

#include <string.h>

#include "base/base.h"

/* Element i of the lower half shares a byte with element i + 16. */
static void pack_nibbles(const int8_t *code, int offset, uint8_t *out)
{
	for (unsigned i = 0; i < 16; i++)
		out[i] = (uint8_t)((code[i] + offset) | (code[i + 16] + offset) << 4);
}

static void pack_q4_0(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	gp_put_half(out, g->d);
	pack_nibbles(code, 8, out + 2);
}

static void pack_iq4_nl(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	gp_put_half(out, g->d);
	pack_nibbles(code, 0, out + 2);
}

static void pack_q8_0(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	gp_put_half(out, g->d);
	memcpy(out + 2, code, 32);
}

/* Scales and minima of 6 bits in 12 bytes: the inverse of gp_scale_min_k4. */
static void pack_scales_k4(const struct gp_grid *g, uint8_t out[12])
{
	for (unsigned j = 0; j < 4; j++) {
		const unsigned s = (unsigned)g->scale[j], s4 = (unsigned)g->scale[j + 4];
		const unsigned m = (unsigned)g->min[j], m4 = (unsigned)g->min[j + 4];

		out[j] = (uint8_t)(s | s4 >> 4 << 6);
		out[j + 4] = (uint8_t)(m | m4 >> 4 << 6);
		out[j + 8] = (uint8_t)((s4 & 15) | (m4 & 15) << 4);
	}
}

/* 64 elements share 32 bytes: their low 4 bits. */
static void pack_low_k(const int8_t *code, uint8_t *out)
{
	for (unsigned j = 0; j < 4; j++, code += 64, out += 32)
		for (unsigned i = 0; i < 32; i++)
			out[i] = (uint8_t)((code[i] & 15) | (code[i + 32] & 15) << 4);
}

static void pack_q4_k(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	gp_put_half(out, g->d);
	gp_put_half(out + 2, g->dmin);
	pack_scales_k4(g, out + 4);
	pack_low_k(code, out + 16);
}

static void pack_q5_k(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	gp_put_half(out, g->d);
	gp_put_half(out + 2, g->dmin);
	pack_scales_k4(g, out + 4);
	memset(out + 16, 0, 32);
	for (unsigned j = 0; j < 8; j++)
		for (unsigned i = 0; i < 32; i++)
			out[16 + i] = (uint8_t)(out[16 + i] | (uint8_t)code[32 * j + i] >> 4 << j);
	pack_low_k(code, out + 48);
}

/* Each half block of 128: low four bits of elements i and i + 64 in a byte, the high two
 * of i, i + 32, i + 64, i + 96. */
static void pack_half_q6_k(const int8_t *code, uint8_t *low, uint8_t *high)
{
	for (unsigned i = 0; i < 64; i++)
		low[i] = (uint8_t)(((code[i] + 32) & 15) | ((code[i + 64] + 32) & 15) << 4);
	for (unsigned i = 0; i < 32; i++)
		high[i] = (uint8_t)((code[i] + 32) >> 4 | (code[i + 32] + 32) >> 4 << 2 |
		                    (code[i + 64] + 32) >> 4 << 4 | (code[i + 96] + 32) >> 4 << 6);
}

static void pack_q6_k(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	pack_half_q6_k(code, out, out + 128);
	pack_half_q6_k(code + 128, out + 64, out + 160);
	memcpy(out + 192, g->scale, 16);
	gp_put_half(out + 208, g->d);
}

/* 16 scales, plus 32: four low bits in a nibble of the first 8 bytes, two high bits in the
 * last 4. */
static void pack_scales_q3_k(const struct gp_grid *g, uint8_t out[12])
{
	memset(out, 0, 12);
	for (unsigned j = 0; j < 16; j++) {
		const unsigned v = (unsigned)(g->scale[j] + 32);

		out[j % 8] = (uint8_t)(out[j % 8] | (v & 15) << 4 * (j / 8));
		out[8 + j % 4] = (uint8_t)(out[8 + j % 4] | v >> 4 << 2 * (j / 4));
	}
}

static void pack_q3_k(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	memset(out, 0, 96);
	for (unsigned j = 0; j < 8; j++)
		for (unsigned i = 0; i < 32; i++) {
			const unsigned v = (unsigned)(code[32 * j + i] + 4);
			uint8_t *low = out + 32 + 32 * (j / 4);

			out[i] = (uint8_t)(out[i] | v >> 2 << j);
			low[i] = (uint8_t)(low[i] | (v & 3) << 2 * (j % 4));
		}
	pack_scales_q3_k(g, out + 96);
	gp_put_half(out + 108, g->d);
}

static void pack_iq4_xs(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	unsigned high = 0;

	gp_put_half(out, g->d);
	memset(out + 4, 0, 4);
	for (unsigned j = 0; j < 8; j++) {
		const unsigned v = (unsigned)(g->scale[j] + 32);

		out[4 + j / 2] = (uint8_t)(out[4 + j / 2] | (v & 15) << 4 * (j & 1));
		high |= v >> 4 << 2 * j;
		pack_nibbles(code + 32 * j, 0, out + 8 + 16 * j);
	}
	out[2] = (uint8_t)high;
	out[3] = (uint8_t)(high >> 8);
}

static const struct gp_format formats[] = {
	{ GP_TYPE_Q8_0, 32, 1, -127, 127, NULL, 0, 0, 0, pack_q8_0 },
	{ GP_TYPE_Q4_0, 32, 1, -8, 7, NULL, 0, 0, 0, pack_q4_0 },
	{ GP_TYPE_IQ4_NL, 32, 1, 0, 15, gp_iq4_values, 0, 0, 0, pack_iq4_nl },
	{ GP_TYPE_Q6_K, 256, 16, -32, 31, NULL, -128, 127, 0, pack_q6_k },
	{ GP_TYPE_Q5_K, 256, 8, 0, 31, NULL, 0, 63, 63, pack_q5_k },
	{ GP_TYPE_Q4_K, 256, 8, 0, 15, NULL, 0, 63, 63, pack_q4_k },
	{ GP_TYPE_IQ4_XS, 256, 8, 0, 15, gp_iq4_values, -32, 31, 0, pack_iq4_xs },
	{ GP_TYPE_Q3_K, 256, 16, -4, 3, NULL, -32, 31, 0, pack_q3_k },
};

const struct gp_format *gp_format_of(enum gp_type t)
{
	for (size_t i = 0; i < GP_ARRAY_LEN(formats); i++)
		if (formats[i].type == t)
			return &formats[i];
	return NULL;
}

void gp_grid_steps(const struct gp_format *f, struct gp_grid *g)
{
	for (uint32_t p = 0; p < f->parts; p++) {
		g->step[p] = f->parts == 1 ? g->d : g->d * (float)g->scale[p];
		g->base[p] = f->min_most ? -(g->dmin * (float)g->min[p]) : 0.0f;
	}
}

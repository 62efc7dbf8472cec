/* The block formats that quantize writes, as grids. Layouts: ggml's (see kernels/dequantize*.c,
 * which read them). */
#include "quantize/internal.h"

#include <string.h>

#include "base/base.h"

/* ---- bits and bytes ------------------------------------------------------------- */
static void put_half(uint8_t *p, float v)
{
	const uint16_t h = gp_f32_to_f16(v);

	memcpy(p, &h, sizeof h);
}

/* Element i of the lower half shares a byte with element i + 16. */
static void pack_nibbles(const int8_t *code, int offset, uint8_t *out)
{
	for (unsigned i = 0; i < 16; i++)
		out[i] = (uint8_t)((code[i] + offset) | (code[i + 16] + offset) << 4);
}

static void pack_q4_0(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	put_half(out, g->d);
	pack_nibbles(code, 8, out + 2);
}

static void pack_iq4_nl(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	put_half(out, g->d);
	pack_nibbles(code, 0, out + 2);
}

static void pack_q8_0(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	put_half(out, g->d);
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
	for (unsigned i = 0; i < 128; i++) {
		const int8_t *c = code + i / 32 * 64 + i % 32;

		out[i] = (uint8_t)((c[0] & 15) | (c[32] & 15) << 4);
	}
}

static void pack_q4_k(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	put_half(out, g->d);
	put_half(out + 2, g->dmin);
	pack_scales_k4(g, out + 4);
	pack_low_k(code, out + 16);
}

static void pack_q5_k(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	put_half(out, g->d);
	put_half(out + 2, g->dmin);
	pack_scales_k4(g, out + 4);
	memset(out + 16, 0, 32);
	for (unsigned i = 0; i < 256; i++)
		out[16 + i % 32] = (uint8_t)(out[16 + i % 32] | code[i] >> 4 << i / 32);
	pack_low_k(code, out + 48);
}

static void pack_q6_k(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	memset(out, 0, 192);
	for (unsigned i = 0; i < 256; i++) {
		const unsigned half = i / 128, s = i / 32 % 4, l = i % 32;
		const unsigned v = (unsigned)(code[i] + 32);
		uint8_t *low = out + 64 * half + l + 32 * (s & 1), *high = out + 128 + 32 * half + l;

		*low = (uint8_t)(*low | (v & 15) << 4 * (s / 2));
		*high = (uint8_t)(*high | v >> 4 << 2 * s);
	}
	memcpy(out + 192, g->scale, 16);
	put_half(out + 208, g->d);
}

static void pack_q3_k(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	memset(out, 0, 108);
	for (unsigned i = 0; i < 256; i++) {
		const unsigned half = i / 128, s = i / 32 % 4, l = i % 32;
		const unsigned v = (unsigned)(code[i] + 4);
		uint8_t *low = out + 32 + 32 * half + l;

		out[l] = (uint8_t)(out[l] | v >> 2 << (4 * half + s));
		*low = (uint8_t)(*low | (v & 3) << 2 * s);
	}
	for (unsigned j = 0; j < 16; j++) {
		const unsigned v = (unsigned)(g->scale[j] + 32);
		uint8_t *low = out + 96 + j % 8, *high = out + 104 + j % 4;

		*low = (uint8_t)(*low | (v & 15) << 4 * (j / 8));
		*high = (uint8_t)(*high | v >> 4 << 2 * (j / 4));
	}
	put_half(out + 108, g->d);
}

static void pack_iq4_xs(const struct gp_grid *g, const int8_t *code, uint8_t *out)
{
	unsigned high = 0;

	put_half(out, g->d);
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

/* ---- the table ------------------------------------------------------------------ */
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

const enum gp_type gp_cost_types[GP_COST_TYPES] = {
	GP_TYPE_Q3_K, GP_TYPE_IQ4_XS, GP_TYPE_Q4_K, GP_TYPE_Q4_0, GP_TYPE_IQ4_NL,
	GP_TYPE_Q5_K, GP_TYPE_Q6_K, GP_TYPE_Q8_0,
};

/* ---- values and codes ------------------------------------------------------------ */
void gp_grid_steps(const struct gp_format *f, struct gp_grid *g)
{
	for (uint32_t p = 0; p < f->parts; p++) {
		g->step[p] = f->parts == 1 ? g->d : g->d * (float)g->scale[p];
		g->base[p] = f->min_most ? -(g->dmin * (float)g->min[p]) : 0.0f;
	}
}

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

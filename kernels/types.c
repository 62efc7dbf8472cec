#include "kernels/kernels.h"

#include <string.h>
#include <strings.h>

#include "base/base.h"

static const struct gp_type_info types[] = {
	{ GP_TYPE_F32, "F32", 1, 4 },
	{ GP_TYPE_F16, "F16", 1, 2 },
	{ GP_TYPE_BF16, "BF16", 1, 2 },
	{ GP_TYPE_Q8_0, "Q8_0", 32, 34 },
	{ GP_TYPE_Q4_0, "Q4_0", 32, 18 },
	{ GP_TYPE_Q4_1, "Q4_1", 32, 20 },
	{ GP_TYPE_Q5_0, "Q5_0", 32, 22 },
	{ GP_TYPE_Q5_1, "Q5_1", 32, 24 },
	{ GP_TYPE_Q3_K, "Q3_K", 256, 110 },
	{ GP_TYPE_Q4_K, "Q4_K", 256, 144 },
	{ GP_TYPE_Q5_K, "Q5_K", 256, 176 },
	{ GP_TYPE_Q6_K, "Q6_K", 256, 210 },
	{ GP_TYPE_IQ4_NL, "IQ4_NL", 32, 18 },
	{ GP_TYPE_IQ4_XS, "IQ4_XS", 256, 136 },
};

const struct gp_type_info *gp_type_info(uint32_t type)
{
	for (size_t i = 0; i < GP_ARRAY_LEN(types); i++)
		if ((uint32_t)types[i].type == type)
			return &types[i];
	return NULL;
}

const struct gp_type_info *gp_type_by_name(const char *name)
{
	for (size_t i = 0; i < GP_ARRAY_LEN(types); i++)
		if (!strcasecmp(types[i].name, name))
			return &types[i];
	return NULL;
}

int gp_type_bytes(enum gp_type t, uint64_t rows, uint64_t cols, size_t *bytes)
{
	const struct gp_type_info *info = gp_type_info(t);
	size_t row, all;

	if (!info)
		return gp_fail(EINVAL, "number format %u is unknown; use a file in a supported one",
		               (unsigned)t);
	if (cols % info->block_elems)
		return gp_fail(EINVAL,
		               "%s: a row of %llu elements is no multiple of its block of %u; "
		               "use another type for this tensor",
		               info->name, (unsigned long long)cols, info->block_elems);
	if (rows > SIZE_MAX || cols > SIZE_MAX ||
	    !gp_size_mul((size_t)cols / info->block_elems, info->block_bytes, &row) ||
	    !gp_size_mul(row, (size_t)rows, &all))
		return gp_fail(EOVERFLOW,
		               "%s: %llu x %llu elements do not fit the address space; "
		               "the file's dimensions are wrong",
		               info->name, (unsigned long long)rows, (unsigned long long)cols);
	*bytes = all;
	return 0;
}

static uint32_t bits_of(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}

static float float_of(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}

/* A signalling NaN comes out quiet, as from the F16C instructions. */
float gp_f16_to_f32(uint16_t h)
{
	const uint32_t sign = (uint32_t)(h & 0x8000) << 16;
	const uint32_t exponent = (h >> 10) & 0x1f, mantissa = h & 0x3ff;
	const float subnormal = (float)mantissa * 0x1p-24f;

	if (exponent == 0)
		return float_of(sign | bits_of(subnormal));
	if (exponent == 31)
		return float_of(sign | 0x7f800000 | (mantissa ? 0x400000 | mantissa << 13 : 0));
	return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t gp_f32_to_f16(float f)
{
	const uint32_t sign = bits_of(f) >> 16 & 0x8000;
	uint32_t a = bits_of(f) & 0x7fffffff;

	if (a > 0x7f800000)
		return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
	if (a >= 0x477ff000) /* 65520, where rounding reaches infinity */
		return (uint16_t)(sign | 0x7c00);
	/* Subnormal: one unit is 2^-24, which is also the last bit of 0.5f, so
	 * the addition does the rounding. */
	if (a < 0x38800000)
		return (uint16_t)(sign | (bits_of(float_of(a) + 0.5f) - bits_of(0.5f)));
	a += 0xfff + (a >> 13 & 1);
	return (uint16_t)(sign | (a - 0x38000000) >> 13);
}

float gp_bf16_to_f32(uint16_t h)
{
	return float_of((uint32_t)h << 16);
}

uint16_t gp_f32_to_bf16(float f)
{
	const uint32_t u = bits_of(f);

	if ((u & 0x7fffffff) > 0x7f800000)
		return (uint16_t)(u >> 16 | 0x40);
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

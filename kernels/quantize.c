/* Round-to-nearest encoders. Q8_0 and Q4_0 give the bytes that ggml's reference
 * gives; the others give bytes that it reads, without its search for better scales. */
#include "base/base.h"
#include "kernels/quantize.h"

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

static void quantize_iq4_nl(const float *src, uint8_t *dst, size_t n)
{
	for (; n; n -= 32, src += 32, dst += 18) {
		put_half(dst, extreme(src, 32) / (float)gp_iq4_values[0]);
		put_iq4(src, inverse(gp_load_half(dst)), dst + 2);
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
	case GP_TYPE_IQ4_NL: quantize_iq4_nl(src, dst, n); return 0;
	case GP_TYPE_Q3_K: gp_quantize_q3_k(src, dst, n); return 0;
	case GP_TYPE_Q4_K: gp_quantize_q4_k(src, dst, n); return 0;
	case GP_TYPE_Q5_K: gp_quantize_q5_k(src, dst, n); return 0;
	case GP_TYPE_Q6_K: gp_quantize_q6_k(src, dst, n); return 0;
	case GP_TYPE_IQ4_XS: gp_quantize_iq4_xs(src, dst, n); return 0;
	default:
		return gp_fail(ENOTSUP,
		               "%s: there is no encoder for this type; "
		               "use F32, F16, BF16, Q8_0, Q4_0, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL or IQ4_XS",
		               info ? info->name : "unknown type");
	}
}

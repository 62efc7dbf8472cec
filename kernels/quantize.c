/* Round-to-nearest encoders. */
#include "kernels/quantize.h"

#include "base/base.h"

static void quantize_f16(const float *src, uint8_t *dst, size_t n)
{
	for (size_t i = 0; i < n; i++)
		gp_put_half(dst + 2 * i, src[i]);
}

static void quantize_bf16(const float *src, uint8_t *dst, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const uint16_t h = gp_f32_to_bf16(src[i]);

		memcpy(dst + 2 * i, &h, sizeof(h));
	}
}

static int quantize(enum gp_type t, const float *src, void *dst, size_t n, gp_nearest_fn *nearest)
{
	const struct gp_type_info *info = gp_type_info(t);
	const struct gp_format *f = gp_format_of(t);

	if (info && n % info->block_elems)
		return gp_fail(EINVAL, "%s: %zu elements are no multiple of its block of %u; pad the row",
		               info->name, n, info->block_elems);
	if (f) {
		nearest(f, src, n, dst);
		return 0;
	}
	switch (t) {
	case GP_TYPE_F32: memcpy(dst, src, n * sizeof(float)); return 0;
	case GP_TYPE_F16: quantize_f16(src, dst, n); return 0;
	case GP_TYPE_BF16: quantize_bf16(src, dst, n); return 0;
	default:
		return gp_fail(ENOTSUP,
		               "%s: there is no encoder for this type; "
		               "use F32, F16, BF16, Q8_0, Q4_0, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL or IQ4_XS",
		               info ? info->name : "unknown type");
	}
}

int gp_quantize(enum gp_type t, const float *src, void *dst, size_t n)
{
	return quantize(t, src, dst, n, gp_nearest_any);
}

int gp_quantize_avx2(enum gp_type t, const float *src, void *dst, size_t n)
{
	return quantize(t, src, dst, n, gp_nearest_avx2);
}

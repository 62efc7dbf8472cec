/* The plain reference of every entry of the table: sums in double, so that the
 * other variants are held against something better than themselves. */
#include <math.h>

#include "kernels/isa.h"

void gp_matmul_scalar(float *y, size_t y_stride, const float *x, size_t x_stride,
                      uint32_t rows, const void *w, enum gp_type type, uint32_t k,
                      uint32_t n0, uint32_t n1, float *scratch)
{
	const struct gp_type_info *info = gp_type_info(type);
	const size_t row_bytes = (size_t)k / info->block_elems * info->block_bytes;

	for (uint32_t n = n0; n < n1; n++) {
		gp_dequantize(type, (const uint8_t *)w + n * row_bytes, scratch, k);
		for (uint32_t m = 0; m < rows; m++) {
			const float *row = x + m * x_stride;
			double sum = 0.0;

			for (uint32_t i = 0; i < k; i++)
				sum += (double)row[i] * (double)scratch[i];
			y[m * y_stride + n] = (float)sum;
		}
	}
}

void gp_rms_norm_scalar(float *y, const float *x, const float *w, float offset, float eps,
                        uint32_t n)
{
	double sum = 0.0;

	for (uint32_t i = 0; i < n; i++)
		sum += (double)x[i] * (double)x[i];
	const float scale = (float)(1.0 / sqrt(sum / n + (double)eps));
	for (uint32_t i = 0; i < n; i++)
		y[i] = x[i] * scale * (w[i] + offset);
}

void gp_rope_scalar(float *x, const float *cos, const float *sin, uint32_t n)
{
	const uint32_t half = n / 2;

	for (uint32_t i = 0; i < half; i++) {
		const float a = x[i], b = x[i + half];

		x[i] = a * cos[i] - b * sin[i];
		x[i + half] = b * cos[i] + a * sin[i];
	}
}

/* g (1 + tanh(u)) / 2 = g / (1 + exp(-2u)), which loses nothing where tanh
 * nears -1. */
void gp_geglu_scalar(float *y, const float *gate, const float *up, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		const double g = (double)gate[i];
		const double u = 0.79788456080286536 * (g + 0.044715 * g * g * g);

		y[i] = (float)(g / (1.0 + exp(-2.0 * u))) * up[i];
	}
}

void gp_add_scalar(float *y, const float *x, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		y[i] += x[i];
}

static const float *kv_row(const struct gp_attention *a, const void *const *blocks,
                           uint32_t position, float *row)
{
	const uint8_t *block = blocks[position / GP_KV_BLOCK];

	gp_dequantize(a->kv_type, block + (size_t)(position % GP_KV_BLOCK) * a->row_bytes, row,
	              a->head_dim);
	return row;
}

static double score(const struct gp_attention *a, uint32_t position)
{
	float row[GP_MAX_HEAD_DIM];
	const float *k = kv_row(a, a->k, position, row);
	double sum = 0.0;

	for (uint32_t i = 0; i < a->head_dim; i++)
		sum += (double)a->q[i] * (double)k[i];
	return sum * (double)a->scale;
}

/* Online softmax position by position: blocks play no part in double. */
void gp_attention_scalar(const struct gp_attention *a)
{
	double acc[GP_MAX_HEAD_DIM] = { 0 }, max = -INFINITY, sum = 0.0;
	float row[GP_MAX_HEAD_DIM];

	for (uint32_t p = a->first; p < a->end; p++) {
		const double s = score(a, p), new_max = s > max ? s : max;
		const double keep = exp(max - new_max), weight = exp(s - new_max);
		const float *v = kv_row(a, a->v, p, row);

		for (uint32_t i = 0; i < a->head_dim; i++)
			acc[i] = acc[i] * keep + weight * (double)v[i];
		sum = sum * keep + weight;
		max = new_max;
	}
	for (uint32_t i = 0; i < a->head_dim; i++)
		a->out[i] = (float)(acc[i] / sum);
}

/* Only types that gp_quantize encodes get here, and n is a multiple of the
 * type's block: it cannot fail. */
void gp_store_kv_scalar(enum gp_type t, const float *src, void *dst, uint32_t n)
{
	(void)gp_quantize(t, src, dst, n);
}

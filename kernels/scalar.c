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

static void kv_row(const struct gp_attention *a, const void *const *blocks, uint32_t position,
                   float *row)
{
	const uint8_t *block = blocks[position / GP_KV_BLOCK];

	gp_dequantize(a->kv_type, block + (size_t)(position % GP_KV_BLOCK) * a->row_bytes, row,
	              a->head_dim);
}

static double score(const struct gp_attention *a, const float *q, uint32_t position)
{
	float k[GP_MAX_HEAD_DIM];
	double sum = 0.0;

	kv_row(a, a->k, position, k);
	for (uint32_t i = 0; i < a->head_dim; i++)
		sum += (double)q[i] * (double)k[i];
	return sum * (double)a->scale;
}

/* Online softmax position by position: blocks play no part in double. */
static void attend_part(const struct gp_attention *a, const float *q, uint32_t from, uint32_t to,
                        float *state)
{
	double acc[GP_MAX_HEAD_DIM] = { 0 }, max = -INFINITY, sum = 0.0;
	float v[GP_MAX_HEAD_DIM];

	for (uint32_t p = from; p < to; p++) {
		const double s = score(a, q, p), new_max = s > max ? s : max;
		const double keep = exp(max - new_max), weight = exp(s - new_max);

		kv_row(a, a->v, p, v);
		for (uint32_t i = 0; i < a->head_dim; i++)
			acc[i] = acc[i] * keep + weight * (double)v[i];
		sum = sum * keep + weight;
		max = new_max;
	}
	memset(state, 0, sizeof(float) * gp_attention_state_floats(a->head_dim));
	for (uint32_t i = 0; i < a->head_dim; i++)
		state[i] = (float)acc[i];
	state[gp_attention_max_at(a->head_dim)] = (float)max;
	state[gp_attention_max_at(a->head_dim) + 1] = (float)sum;
}

void gp_attention_scalar(const struct gp_attention *a, uint32_t begin, uint32_t end,
                         float *states, float *scratch)
{
	const size_t stride = gp_attention_state_floats(a->head_dim);

	end = end < a->pos + a->rows ? end : a->pos + a->rows;
	for (uint32_t p = begin; p < end; p += GP_KV_PART)
		for (uint32_t i = 0, from, to; i < a->rows * a->heads; i++) {
			const uint32_t row = i / a->heads, head = i % a->heads;

			if (!gp_attention_seen(a, row, p, p + GP_KV_PART, &from, &to))
				continue;
			attend_part(a, a->q + row * a->row_stride + (size_t)head * a->head_dim,
			            from, to, scratch);
			gp_attention_merge_scalar(states + i * stride, scratch, 1, a->head_dim);
		}
}

static void merge_state(float *state, const float *next, uint32_t head_dim)
{
	const size_t at = gp_attention_max_at(head_dim);
	const double m0 = (double)state[at], m1 = (double)next[at], max = m1 > m0 ? m1 : m0;
	const double f0 = exp(m0 - max), f1 = exp(m1 - max);

	for (uint32_t i = 0; i < head_dim; i++)
		state[i] = (float)(f0 * (double)state[i] + f1 * (double)next[i]);
	state[at] = (float)max;
	state[at + 1] = (float)(f0 * (double)state[at + 1] + f1 * (double)next[at + 1]);
}

void gp_attention_merge_scalar(float *states, const float *next, uint32_t n, uint32_t head_dim)
{
	const size_t stride = gp_attention_state_floats(head_dim);
	const size_t sum = gp_attention_max_at(head_dim) + 1;

	for (uint32_t i = 0; i < n; i++, states += stride, next += stride) {
		if (next[sum] == 0.0f)
			continue;
		if (states[sum] == 0.0f)
			memcpy(states, next, stride * sizeof(float));
		else
			merge_state(states, next, head_dim);
	}
}

void gp_attention_out_scalar(const struct gp_attention *a, const float *states)
{
	const size_t stride = gp_attention_state_floats(a->head_dim);

	for (uint32_t i = 0; i < a->rows * a->heads; i++, states += stride) {
		float *out = a->out + i / a->heads * a->row_stride +
		             (size_t)(i % a->heads) * a->head_dim;
		const float sum = states[gp_attention_max_at(a->head_dim) + 1];

		for (uint32_t d = 0; d < a->head_dim; d++)
			out[d] = states[d] / sum;
	}
}

/* Only types that gp_quantize encodes get here, and n is a multiple of the
 * type's block: it cannot fail. */
void gp_store_kv_scalar(enum gp_type t, const float *src, void *dst, uint32_t n)
{
	(void)gp_quantize(t, src, dst, n);
}

/* What all devices work out alike. */
#include "model/model.h"

#include <math.h>

#include "base/base.h"

int gp_tensor_check(const struct gp_tensor *t)
{
	size_t bytes;
	int rc;

	if (!t->rows || !t->cols || t->rows > UINT32_MAX || t->cols > UINT32_MAX)
		return gp_fail(EINVAL, "%llu x %llu is no matrix", (unsigned long long)t->rows,
		               (unsigned long long)t->cols);
	if ((rc = gp_type_bytes(t->type, t->rows, t->cols, &bytes)) < 0)
		return rc;
	if (bytes != t->bytes)
		return gp_fail(EINVAL, "%zu bytes, its shape needs %zu; fetch the file again",
		               t->bytes, bytes);
	return 0;
}

uint64_t gp_stage_weights(const struct gp_model *m, const struct gp_stage_shape *s,
                          uint64_t (*bytes)(void *dev, const struct gp_tensor *), void *dev)
{
	uint64_t sum = 0;

	for (uint32_t t = 0; t < GP_T_COUNT; t++) {
		const bool in_layers = t >= GP_T_PER_LAYER;
		const bool here = s->has_head || (s->embeds && t == GP_T_TOKEN_EMBD);
		const uint32_t first = in_layers ? s->first_layer : 0;
		const uint32_t end = in_layers ? s->end_layer : here;

		for (uint32_t i = first; i < end; i++) {
			const struct gp_tensor *w = gp_model_tensor(m, t, i);

			sum += bytes ? bytes(dev, w) : w->bytes;
		}
	}
	return sum;
}

int gp_find_wrong(const float *x, uint32_t rows, uint32_t width)
{
	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t i = 0; i < width; i++) {
			const float v = x[(size_t)r * width + i];

			if (!isfinite(v))
				return gp_fail(EDOM, "%s at row %u, column %u",
				               isnan(v) ? "NaN" : "infinity", r, i);
		}
	return 0;
}

void gp_stage_widths(const struct gp_stage_shape *s, uint32_t width[GP_BUF_COUNT])
{
	const struct gp_config *c = s->config;

	width[GP_BUF_HIDDEN] = width[GP_BUF_NORMED] = width[GP_BUF_BRANCH] = c->hidden;
	width[GP_BUF_Q] = width[GP_BUF_ATTN] = c->n_heads * c->head_dim;
	width[GP_BUF_K] = width[GP_BUF_V] = c->n_kv_heads * c->head_dim;
	width[GP_BUF_GATE] = width[GP_BUF_UP] = c->ffn;
	width[GP_BUF_LOGITS] = s->has_head ? c->vocab : 0;
}

void gp_kv_places(const struct gp_stage_shape *s, struct gp_kv_place place[GP_MAX_LAYERS],
                  uint32_t n_layers[GP_KV_KINDS])
{
	for (uint32_t k = 0; k < GP_KV_KINDS; k++)
		n_layers[k] = 0;
	for (uint32_t i = s->first_layer; i < s->end_layer; i++) {
		const enum gp_kv_kind kind = s->config->is_global[i] ? GP_KV_GLOBAL : GP_KV_LOCAL;

		place[i] = (struct gp_kv_place){ kind, n_layers[kind]++ };
	}
}

/* As the reference has it: frequencies, angles and their sines in float32. */
void gp_rope_frequencies(const struct gp_config *c, enum gp_kv_kind kind, float *inv_freq)
{
	const double base = (double)(kind == GP_KV_GLOBAL ? c->rope_base_global :
	                                                    c->rope_base_local);

	for (uint32_t i = 0; i < c->head_dim / 2; i++) {
		const double at = (float)(2 * i) / (float)c->head_dim;

		inv_freq[i] = 1.0f / (float)pow(base, at);
		if (kind == GP_KV_GLOBAL)
			inv_freq[i] /= c->rope_scale_global;
	}
}

/* Cosine and sine of |x| < 10^6, to a float's last bit but for one in 10^5: what prompts
 * need of them by the ten thousand takes a third of libm's time. x is n quarter turns and
 * a rest, of which both are sums of a few powers. */
static void cosine_and_sine(double x, float *c, float *s)
{
	const double round = 0x1.8p52;       /* added and taken off: no fraction is left */
	const double n = x * 0.63661977236758134308 + round - round;
	const double r = x - n * 1.5707963267341256 - n * 6.0771005065061922e-11;
	const double q = r * r;
	const double sine = r * (1 + q * (-1.0 / 6 + q * (1.0 / 120 + q * (-1.0 / 5040 +
	                    q * (1.0 / 362880 + q * (-1.0 / 39916800))))));
	const double cosine = 1 + q * (-1.0 / 2 + q * (1.0 / 24 + q * (-1.0 / 720 +
	                      q * (1.0 / 40320 + q * (-1.0 / 3628800 + q * (1.0 / 479001600))))));
	const int k = (int)n;
	const double a = k & 1 ? sine : cosine, b = k & 1 ? cosine : sine;

	*c = (float)((k + 1) & 2 ? -a : a);
	*s = (float)(k & 2 ? -b : b);
}

void gp_rope_row(float *row, const float *inv_freq, uint32_t half, uint32_t pos)
{
	for (uint32_t i = 0; i < half; i++)
		cosine_and_sine((double)((float)pos * inv_freq[i]), &row[i], &row[half + i]);
}

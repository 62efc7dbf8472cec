/* Rotation, the KV cache's new rows, attention. */
#include "workers/cpu/cpu_device.h"

#include <math.h>

#include "base/base.h"

static enum gp_kv_kind kind_of(const struct cpu_device *d, uint32_t layer)
{
	return d->place[layer].kind;
}

/* ---- rotation -------------------------------------------------------------- */
/* As the reference has it: frequencies, angles and their sines in float32. */
void cpu_rope_frequencies(struct cpu_device *d)
{
	const struct gp_config *c = &d->config;

	for (uint32_t i = 0; i < c->head_dim / 2; i++) {
		double at = (float)(2 * i) / (float)c->head_dim;
		float local = 1.0f / (float)pow((double)c->rope_base_local, at);
		float global = 1.0f / (float)pow((double)c->rope_base_global, at);

		d->inv_freq[GP_KV_LOCAL][i] = local;
		d->inv_freq[GP_KV_GLOBAL][i] = global / c->rope_scale_global;
	}
}

void cpu_rope_rows(struct cpu_device *d, uint32_t first, uint32_t end)
{
	uint32_t half = d->config.head_dim / 2;

	for (uint32_t k = 0; k < GP_KV_KINDS; k++) {
		if (!d->kv[k].n_layers)
			continue;
		for (uint32_t r = first; r < end; r++) {
			float *row = d->rope[k] + (size_t)r * 2 * half;

			for (uint32_t i = 0; i < half; i++) {
				float angle = (float)d->batch->pos[r] * d->inv_freq[k][i];

				row[i] = (float)cos((double)angle);
				row[half + i] = (float)sin((double)angle);
			}
		}
	}
}

/* ---- q/k norm, rotation, append -------------------------------------------- */
struct append {
	struct cpu_device *d;
	uint32_t layer;
	const float *q_norm, *k_norm;
};

static void norm_and_rotate(const struct append *a, float *x, uint32_t heads, const float *norm,
                            uint32_t row)
{
	const struct cpu_device *d = a->d;
	uint32_t dim = d->config.head_dim;
	const float *cs = d->rope[kind_of(d, a->layer)] + (size_t)row * dim;

	for (uint32_t h = 0; h < heads; h++, x += dim) {
		d->k.rms_norm(x, x, norm, 0, d->config.rms_eps, dim);
		d->k.rope(x, cs, cs + dim / 2, dim);
	}
}

static void append_row(const struct append *a, uint32_t row)
{
	const struct cpu_device *d = a->d;
	const struct gp_batch *b = d->batch;
	const struct gp_config *c = &d->config;
	const uint32_t *table = gp_kv_table(b->kv, kind_of(d, a->layer), b->seq[row]);
	uint32_t block = table[b->pos[row] / GP_KV_BLOCK];
	size_t at = (size_t)(b->pos[row] % GP_KV_BLOCK) * d->kv_row_bytes;
	const float *k = d->buffer[GP_BUF_K] + (size_t)row * d->width[GP_BUF_K];
	const float *v = d->buffer[GP_BUF_V] + (size_t)row * d->width[GP_BUF_V];

	for (uint32_t h = 0; h < c->n_kv_heads; h++) {
		char *kr = cpu_kv_rows(d, a->layer, block, 0, h);
		char *vr = cpu_kv_rows(d, a->layer, block, 1, h);

		d->k.store_kv(d->shape.kv_type, k + (size_t)h * c->head_dim, kr + at, c->head_dim);
		d->k.store_kv(d->shape.kv_type, v + (size_t)h * c->head_dim, vr + at, c->head_dim);
	}
}

static void append_rows(void *arg, uint32_t thread, uint32_t n_threads)
{
	const struct append *a = arg;
	const struct cpu_device *d = a->d;
	uint32_t first, end;

	gp_threads_split(d->batch->n_rows, 1, thread, n_threads, &first, &end);
	for (uint32_t r = first; r < end; r++) {
		float *q = d->buffer[GP_BUF_Q] + (size_t)r * d->width[GP_BUF_Q];
		float *k = d->buffer[GP_BUF_K] + (size_t)r * d->width[GP_BUF_K];

		norm_and_rotate(a, q, d->config.n_heads, a->q_norm, r);
		norm_and_rotate(a, k, d->config.n_kv_heads, a->k_norm, r);
		append_row(a, r);
	}
}

int cpu_qk_rope_append(void *dev, uint32_t layer, gp_handle q_norm, gp_handle k_norm)
{
	struct cpu_device *d = dev;
	struct append a = { .d = d, .layer = layer,
	                    .q_norm = cpu_weight(d, q_norm)->pages.data,
	                    .k_norm = cpu_weight(d, k_norm)->pages.data };

	return cpu_run(d, append_rows, &a,
	               (uint64_t)d->batch->n_rows * (d->width[GP_BUF_Q] + d->width[GP_BUF_K]));
}

/* ---- attention ------------------------------------------------------------- */
struct attend {
	struct cpu_device *d;
	uint32_t layer;
};

/* Where the row's KV head lies, block by block, from the first that it sees. */
static void find_blocks(const struct attend *a, uint32_t row, uint32_t kv_head, uint32_t first,
                        const void **k, const void **v)
{
	const struct cpu_device *d = a->d;
	const struct gp_batch *b = d->batch;
	const uint32_t *table = gp_kv_table(b->kv, kind_of(d, a->layer), b->seq[row]);

	for (uint32_t i = first / GP_KV_BLOCK; i <= b->pos[row] / GP_KV_BLOCK; i++) {
		k[i] = cpu_kv_rows(d, a->layer, table[i], 0, kv_head);
		v[i] = cpu_kv_rows(d, a->layer, table[i], 1, kv_head);
	}
}

static uint32_t first_seen(const struct cpu_device *d, uint32_t layer, uint32_t pos)
{
	if (d->config.is_global[layer] || pos < d->config.window)
		return 0;
	return pos - d->config.window + 1;
}

static void attend_head(const struct attend *a, uint32_t row, uint32_t head, const void **k,
                        const void **v)
{
	const struct cpu_device *d = a->d;
	const struct gp_config *c = &d->config;
	uint32_t pos = d->batch->pos[row];
	uint32_t first = first_seen(d, a->layer, pos);
	size_t at = (size_t)row * d->width[GP_BUF_Q] + (size_t)head * c->head_dim;

	find_blocks(a, row, head / (c->n_heads / c->n_kv_heads), first, k, v);
	d->k.attention(&(struct gp_attention){
		.q = d->buffer[GP_BUF_Q] + at, .out = d->buffer[GP_BUF_ATTN] + at,
		.k = k, .v = v, .first = first, .end = pos + 1, .head_dim = c->head_dim,
		.row_bytes = d->kv_row_bytes, .kv_type = d->shape.kv_type,
		.scale = c->attn_scale,
	});
}

/* Every n-th (row, head), not a run of them: later rows see more positions. */
static void attend_some(void *arg, uint32_t thread, uint32_t n_threads)
{
	const struct attend *a = arg;
	const struct cpu_device *d = a->d;
	uint64_t n = (uint64_t)d->batch->n_rows * d->config.n_heads;
	const void **k = d->pointers + (size_t)thread * 2 * d->table_blocks;

	for (uint64_t i = thread; i < n; i += n_threads)
		attend_head(a, (uint32_t)(i / d->config.n_heads), (uint32_t)(i % d->config.n_heads),
		            k, k + d->table_blocks);
}

int cpu_attention(void *dev, uint32_t layer)
{
	struct cpu_device *d = dev;
	struct attend a = { .d = d, .layer = layer };
	uint64_t seen = 0;

	for (uint32_t r = 0; r < d->batch->n_rows; r++)
		seen += d->batch->pos[r] + 1 - first_seen(d, layer, d->batch->pos[r]);
	return cpu_run(d, attend_some, &a, seen * d->width[GP_BUF_Q]);
}

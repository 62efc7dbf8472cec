/* Attention of steps that decode: a row of each of some sequences, all as long; and of
 * prompts: as many rows as a step carries of the end of one sequence. All blocks of the KV cache hold the same 64 positions, which makes results easy to check. */
#include "tests/bench/shaders.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define MOST_LAYERS 16u
#define MOST_SEQUENCES 64u
#define SAMPLES 4u             /* heads that are checked */

struct bench {
	struct vulkan_device *d;
	const struct model *model;
	struct gp_config c;
	enum gp_type kv_type;
	uint32_t sequences, positions;
	uint32_t rows;             /* of each sequence: its last ones */
	bool appends;              /* Q and K are still to be normed, K and V to be stored */
	struct gp_kv_cache *kv;
	char *block;
	float *q, *k, *v;
	struct gp_tensor norm;
	gp_handle norm_handle;
	uint32_t seq[MOST_ROWS], pos[MOST_ROWS], zero[MOST_ROWS];
};

static uint32_t rows_of(const struct bench *b)
{
	return b->sequences * b->rows;
}

static uint32_t position_of(const struct bench *b, uint32_t row)
{
	return b->positions - b->rows + row % b->rows;
}

/* ---- set up --------------------------------------------------------------------- */
static double layer_bytes(const struct bench *b)
{
	const double each = b->kv_type == GP_TYPE_F32 ? 4 : b->kv_type == GP_TYPE_F16 ? 2 : 34.0 / 32;

	return 2.0 * b->sequences * b->positions * b->c.n_kv_heads * b->c.head_dim * each;
}

/* -ENOMEM: too large for the device. */
static int configure(struct bench *b)
{
	const double layers = (double)COLD_BYTES / layer_bytes(b) + 1;

	b->c.n_layers = b->d->is_unified ? 1 : layers < MOST_LAYERS ? (uint32_t)layers : MOST_LAYERS;
	b->c.vocab = 256;
	b->c.attn_scale = 0.3f;
	b->c.rope_base_local = b->c.rope_base_global = 10000;
	b->c.rope_scale_global = 1;
	b->c.context = b->positions + GP_KV_BLOCK;
	for (uint32_t i = 0; i < b->c.n_layers; i++)
		b->c.is_global[i] = true;
	const struct gp_stage_shape s = {
		.config = &b->c, .end_layer = b->c.n_layers, .embeds = true, .max_rows = rows_of(b),
		.max_sequences = b->sequences, .context = b->c.context, .kv_type = b->kv_type };
	return vulkan_configure(b->d, &s);
}

/* Random bytes are quants, but no scales or floats. */
static void fill_block(struct bench *b)
{
	const size_t bytes = b->d->block_bytes[GP_KV_GLOBAL], n = bytes / 4;
	const size_t values = (size_t)GP_KV_BLOCK * b->c.head_dim, head = values / 32 * 34;
	const uint16_t scale = gp_f32_to_f16(1.0f / 127);
	float *x = random_floats(bytes);

	if (!(b->block = malloc(bytes)))
		check(gp_fail(ENOMEM, "no memory for a block"));
	if (b->kv_type == GP_TYPE_F32)
		memcpy(b->block, x, n * 4);
	else if (b->kv_type == GP_TYPE_F16)
		check(gp_quantize(GP_TYPE_F16, x, b->block, bytes / 2));
	else
		for (size_t i = 0; i < bytes; i++)
			b->block[i] = (char)(x[i] * 127);
	for (size_t h = 0; b->kv_type == GP_TYPE_Q8_0 && h < bytes / head; h++)
		for (size_t i = 0; i < values / 32; i++)
			memcpy(b->block + h * head + values + i * 2, &scale, 2);
	free(x);
}

static void fill_cache(struct bench *b)
{
	struct vulkan_device *d = b->d;
	const struct gp_kv_limits limits = {
		.max_sequences = b->sequences, .context = b->c.context, .window = b->c.window,
		.has_kind = { [GP_KV_GLOBAL] = true } };

	check(gp_kv_create(&b->kv, &limits, &gp_vulkan_device.ops->kv, d));
	for (uint32_t s = 0; s < b->sequences; s++)
		check(gp_kv_extend(b->kv, s, b->positions));
	fill_block(b);
	for (uint32_t i = 0; i < d->n_blocks[GP_KV_GLOBAL]; i++)
		check(vk_upload(d, &d->kv_blocks[GP_KV_GLOBAL][i], b->block,
		                d->block_bytes[GP_KV_GLOBAL]));
}

static void put_step(struct bench *b)
{
	const struct gp_batch batch = {
		.n_rows = rows_of(b), .seq = b->seq, .pos = b->pos, .token = b->zero,
		.logit_rows = b->zero, .candidates = b->zero, .kv = b->kv };

	for (uint32_t i = 0; i < rows_of(b); i++) {
		b->seq[i] = i / b->rows;
		b->pos[i] = position_of(b, i);
	}
	check(vulkan_begin_step(b->d, &batch, NULL));
}

static void set_up(struct bench *b)
{
	struct vulkan_device *d = b->d;
	const size_t q = (size_t)rows_of(b) * d->width[GP_BUF_Q];
	const size_t k = (size_t)rows_of(b) * d->width[GP_BUF_K];

	fill_cache(b);
	b->norm = random_vector(b->c.head_dim);
	check(vulkan_load(d, &b->norm, 0, &b->norm_handle));
	put(d, GP_BUF_Q, b->q = random_floats(q), q);
	put(d, GP_BUF_K, b->k = random_floats(k), k);
	put(d, GP_BUF_V, b->v = random_floats(k), k);
	check(vulkan_finish_load(d));
	put_step(b);
}

static void tear_down(struct bench *b)
{
	gp_kv_destroy(b->kv);
	vulkan_release(b->d);
	free(b->block);
	free(b->q);
	free(b->k);
	free(b->v);
	free((void *)(uintptr_t)b->norm.data);
}

/* ---- check ---------------------------------------------------------------------- */
/* Layer 0's K or V of a head at one of a block's positions. */
static void kept(const struct bench *b, uint32_t which, uint32_t head, uint32_t at, float *x)
{
	const size_t dim = b->c.head_dim, values = GP_KV_BLOCK * dim;
	const size_t bytes = b->kv_type == GP_TYPE_F32 ? values * 4 :
	                     b->kv_type == GP_TYPE_F16 ? values * 2 : values / 32 * 34;
	const char *from = b->block + (which * b->c.n_kv_heads + head) * bytes;

	for (size_t i = 0; i < dim; i++) {
		uint16_t half;

		if (b->kv_type == GP_TYPE_F32) {
			memcpy(&x[i], from + (at * dim + i) * 4, 4);
			continue;
		}
		memcpy(&half, b->kv_type == GP_TYPE_F16 ? from + (at * dim + i) * 2 :
		              from + values + (at * dim + i) / 32 * 2, 2);
		x[i] = gp_f16_to_f32(half);
		if (b->kv_type == GP_TYPE_Q8_0)
			x[i] *= (float)(signed char)from[at * dim + i];
	}
}

static void norm_and_rotate(const struct bench *b, float *x, uint32_t pos)
{
	const uint32_t dim = b->c.head_dim;
	float angles[1024];

	b->d->k.rms_norm(x, x, b->norm.data, 0, b->c.rms_eps, dim);
	gp_rope_row(angles, b->d->inv_freq[GP_KV_GLOBAL], dim / 2, pos);
	b->d->k.rope(x, angles, angles + dim / 2, dim);
}

/* Adds `count` positions of one key and value to a softmax. */
static void attend(const struct bench *b, const float *q, const float *k, const float *v,
                   double count, double *sum, double *out)
{
	double score = 0;

	for (uint32_t i = 0; i < b->c.head_dim; i++)
		score += (double)q[i] * (double)k[i];
	const double w = count * exp(score * (double)b->c.attn_scale);
	*sum += w;
	for (uint32_t i = 0; i < b->c.head_dim; i++)
		out[i] += w * (double)v[i];
}

static void check_head(const struct bench *b, const float *y, uint32_t row, uint32_t h)
{
	const uint32_t dim = b->c.head_dim, heads = b->c.n_heads, kv_heads = b->c.n_kv_heads;
	const uint32_t head = h / (heads / kv_heads), pos = position_of(b, row);
	const uint32_t old = pos + 1 - b->appends;
	double out[512] = { 0 }, sum = 0;
	float q[512], k[512], v[512];

	memcpy(q, b->q + ((size_t)row * heads + h) * dim, dim * 4);
	if (b->appends)
		norm_and_rotate(b, q, pos);
	for (uint32_t at = 0; at < GP_KV_BLOCK && at < old; at++) {
		kept(b, 0, head, at, k);
		kept(b, 1, head, at, v);
		attend(b, q, k, v, (old - at + GP_KV_BLOCK - 1) / GP_KV_BLOCK, &sum, out);
	}
	memcpy(k, b->k + ((size_t)row * kv_heads + head) * dim, dim * 4);
	memcpy(v, b->v + ((size_t)row * kv_heads + head) * dim, dim * 4);
	if (b->appends) {
		norm_and_rotate(b, k, pos);
		attend(b, q, k, v, 1, &sum, out);
	}
	for (uint32_t i = 0; i < dim; i++)
		check_near("attention", row, h * dim + i, y[((size_t)row * heads + h) * dim + i],
		           out[i] / sum, b->appends && b->kv_type == GP_TYPE_Q8_0 ? 0.1 : 5e-3);
}

/* ---- measure -------------------------------------------------------------------- */
static void run(void *arg, uint32_t layer)
{
	const struct bench *b = arg;

	check(b->appends ? vulkan_append_attention(b->d, layer, b->norm_handle, b->norm_handle) :
	                   vulkan_attention(b->d, layer));
}

static double multiplications(const struct bench *b)
{
	double seen = 0;

	for (uint32_t r = 0; r < rows_of(b); r++)
		seen += position_of(b, r) + 1;
	return 4.0 * seen * b->c.n_heads * b->c.head_dim;
}

static void measure(struct bench *b, const struct options *o)
{
	const uint32_t rows = rows_of(b);
	const size_t n = (size_t)rows * b->d->width[GP_BUF_ATTN];
	char of[64];

	run_once(b->d, run, b);
	float *y = get(b->d, &b->d->buffer[GP_BUF_ATTN], n);
	for (uint32_t i = 0; i < SAMPLES; i++)
		check_head(b, y, b->rows > 1 ? i * (rows - 1) / (SAMPLES - 1) : i % rows,
		           i * (b->c.n_heads - 1) / (SAMPLES - 1));
	free(y);
	snprintf(of, sizeof of, "%s, %u", gp_type_info(b->kv_type)->name, b->positions);
	report(o, b->model->name, b->rows > 1 ? "attention_prompt" : b->appends ?
	       "append_attention" : "attention", of, rows, seconds(b->d, run, b, b->c.n_layers),
	       layer_bytes(b), multiplications(b));
}

static void bench_one(struct bench *b, const struct options *o)
{
	const int rc = configure(b);

	if (rc == -ENOMEM || rc == -E2BIG) {
		fprintf(stderr, "bench-shaders: %s attention of %u x %u positions is left out: %s\n",
		        b->model->name, b->sequences, b->positions, gp_error());
		return;
	}
	check(rc);
	set_up(b);
	for (unsigned appends = 0; appends < (b->rows > 1 ? 1 : 2); appends++) {
		b->appends = appends;
		measure(b, o);
	}
	tear_down(b);
}

void bench_attention(struct vulkan_device *d, const struct model *m, const struct options *o)
{
	static const enum gp_type types[] = { GP_TYPE_F16, GP_TYPE_Q8_0, GP_TYPE_F32 };
	struct bench b = { .d = d, .model = m, .rows = 1 };

	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++)
		for (uint32_t p = 0; p < o->n_positions; p++) {
			b.kv_type = types[t];
			b.positions = o->positions[p];
			for (uint32_t s = 0; s < o->n_sequences && is_wanted(o, "append_attention"); s++) {
				b.c = m->c;
				b.rows = 1;
				b.sequences = o->sequences[s];
				if (b.sequences <= MOST_SEQUENCES)
					bench_one(&b, o);
			}
			b.c = m->c;
			b.rows = b.positions < MOST_ROWS ? b.positions : MOST_ROWS;
			b.sequences = 1;
			if (is_wanted(o, "attention_prompt"))
				bench_one(&b, o);
		}
}

/* Everything but products and attention: what lies between them in a step. Inputs stay
 * in the device's caches, as they do there. */
#include "tests/bench/shaders.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define TIMES 16u              /* in a submission */
#define LOGIT_ROWS 32u
#define PARTS 4u               /* of sums, as in vk_many.c */
#define SCALES 16u             /* of a row, as in tile_rows.glsl */

struct bench {
	struct vulkan_device *d;
	const struct model *model;
	const struct options *o;
	struct gp_config c;
	uint32_t rows, candidates;
	float *x[GP_BUF_COUNT];    /* what the buffers held at first */
	struct gp_tensor norm, head_norm, table;
	gp_handle norm_handle, head_norm_handle, table_handle;
	struct gp_kv_cache *kv;
	struct vk_span halves, scales, parts;
	float *parts_x;
	uint32_t numbers[MOST_ROWS], zeros[MOST_ROWS], wanted[LOGIT_ROWS];
};

struct op {
	const char *name;
	void (*run)(void *arg, uint32_t i);
	/* Of one run with the first inputs; row is one of those computed. NULL: the tests of
	 * products check it. */
	void (*check)(struct bench *b, uint32_t row);
	double (*bytes)(const struct bench *b); /* of a row */
	enum gp_buffer changed[2];              /* inputs that it writes */
};

/* ---- the operations --------------------------------------------------------------- */
static void run_embed(void *arg, uint32_t i)
{
	struct bench *b = arg;

	(void)i;
	check(vulkan_embed(b->d, b->table_handle, 2));
}

static void run_norm(void *arg, uint32_t i)
{
	struct bench *b = arg;

	(void)i;
	check(vulkan_rms_norm(b->d, GP_BUF_NORMED, GP_BUF_HIDDEN, b->norm_handle));
}

static void run_add_norm(void *arg, uint32_t i)
{
	struct bench *b = arg;

	(void)i;
	check(vulkan_add_norm(b->d, b->norm_handle, b->norm_handle));
}

static void run_rope(void *arg, uint32_t i)
{
	struct bench *b = arg;

	(void)i;
	check(vulkan_qk_rope_append(b->d, 0, b->head_norm_handle, b->head_norm_handle));
}

static void run_add(void *arg, uint32_t i)
{
	struct bench *b = arg;

	(void)i;
	check(vulkan_add(b->d, GP_BUF_HIDDEN, GP_BUF_BRANCH));
}

static void run_geglu(void *arg, uint32_t i)
{
	struct bench *b = arg;

	(void)i;
	check(vulkan_geglu(b->d));
}

static void run_quantize(void *arg, uint32_t i)
{
	struct bench *b = arg;

	(void)i;
	check(vk_quantize(b->d, GP_BUF_GATE, 0));
}

static void run_pack(void *arg, uint32_t i)
{
	struct bench *b = arg;
	const struct { uint64_t to, scales, from, picked; uint32_t rows, cols, stride; } p = {
		b->halves.address, b->scales.address, b->d->buffer[GP_BUF_GATE].address, 0, b->rows,
		b->c.ffn, b->c.ffn };

	(void)i;
	check(vk_dispatch(b->d, VK_PACK_ROWS, 0, &p, sizeof p, (const uint32_t[]){ b->rows, 1, 1 }));
	vk_barrier(b->d);
}

static void run_sum(void *arg, uint32_t i)
{
	struct bench *b = arg;
	const struct { uint64_t to, from; uint32_t n, parts; } p = {
		b->d->buffer[GP_BUF_BRANCH].address, b->parts.address, b->rows * b->c.hidden, PARTS };

	(void)i;
	check(vk_dispatch_over(b->d, VK_SUM_PARTS, 0, &p, sizeof p, p.n, 1024));
	vk_barrier(b->d);
}

static void run_best(void *arg, uint32_t i)
{
	struct bench *b = arg;

	(void)i;
	check(vk_record_best(b->d));
	vk_barrier(b->d);
}

/* ---- what they must give ---------------------------------------------------------- */
static float *row_of(struct bench *b, enum gp_buffer buffer, uint32_t row)
{
	const uint32_t width = b->d->width[buffer];
	struct vk_span at = b->d->buffer[buffer];

	at.offset += (VkDeviceSize)row * width * sizeof(float);
	return get(b->d, &at, width);
}

static void check_row(struct bench *b, const char *what, enum gp_buffer buffer, uint32_t row,
                      const double *want)
{
	float *y = row_of(b, buffer, row);

	for (uint32_t i = 0; i < b->d->width[buffer]; i++)
		check_near(what, row, i, y[i], want[i], 1e-4 * (1 + fabs(want[i])));
	free(y);
}

static void norm_of(const struct bench *b, const double *x, double *y)
{
	const float *w = b->norm.data;
	double sum = 0;

	for (uint32_t i = 0; i < b->c.hidden; i++)
		sum += x[i] * x[i];
	for (uint32_t i = 0; i < b->c.hidden; i++)
		y[i] = x[i] / sqrt(sum / b->c.hidden + (double)b->c.rms_eps) * (double)w[i];
}

static double *as_doubles(const float *x, size_t n)
{
	double *y = malloc(n * sizeof *y);

	if (!y)
		check(gp_fail(ENOMEM, "no memory for %zu numbers", n));
	for (size_t i = 0; i < n; i++)
		y[i] = (double)x[i];
	return y;
}

static double *input_row(const struct bench *b, enum gp_buffer buffer, uint32_t row)
{
	const uint32_t width = b->d->width[buffer];

	return as_doubles(b->x[buffer] + (size_t)row * width, width);
}

static void check_embed(struct bench *b, uint32_t row)
{
	const uint32_t cols = b->c.hidden, token = b->numbers[row];
	const size_t bytes = b->table.bytes / b->table.rows;
	float *w = malloc(cols * sizeof *w);

	if (!w)
		check(gp_fail(ENOMEM, "no memory for a row"));
	gp_dequantize(b->table.type, (const char *)b->table.data + token * bytes, w, cols);
	double *want = as_doubles(w, cols);
	for (uint32_t i = 0; i < cols; i++)
		want[i] *= 2;
	check_row(b, "embed", GP_BUF_HIDDEN, row, want);
	free(want);
	free(w);
}

static void check_norm(struct bench *b, uint32_t row)
{
	double *x = input_row(b, GP_BUF_HIDDEN, row);

	norm_of(b, x, x);
	check_row(b, "rms_norm", GP_BUF_NORMED, row, x);
	free(x);
}

static void check_add_norm(struct bench *b, uint32_t row)
{
	double *x = input_row(b, GP_BUF_BRANCH, row), *hidden = input_row(b, GP_BUF_HIDDEN, row);

	norm_of(b, x, x);
	for (uint32_t i = 0; i < b->c.hidden; i++)
		x[i] += hidden[i];
	check_row(b, "add_norm", GP_BUF_HIDDEN, row, x);
	norm_of(b, x, x);
	check_row(b, "add_norm", GP_BUF_NORMED, row, x);
	free(x);
	free(hidden);
}

static void check_rope(struct bench *b, uint32_t row)
{
	static const enum gp_buffer buffers[] = { GP_BUF_Q, GP_BUF_K };
	const uint32_t dim = b->c.head_dim;
	float angles[1024];

	gp_rope_row(angles, b->d->inv_freq[GP_KV_GLOBAL], dim / 2, row);
	for (size_t i = 0; i < GP_ARRAY_LEN(buffers); i++) {
		const uint32_t width = b->d->width[buffers[i]];
		float *x = b->x[buffers[i]] + (size_t)row * width, *y = malloc(width * sizeof *y);

		if (!y)
			check(gp_fail(ENOMEM, "no memory for a row"));
		memcpy(y, x, width * sizeof *y);
		for (uint32_t h = 0; h < width / dim; h++) {
			b->d->k.rms_norm(y + h * dim, y + h * dim, b->head_norm.data, 0,
			                 b->c.rms_eps, dim);
			b->d->k.rope(y + h * dim, angles, angles + dim / 2, dim);
		}
		double *want = as_doubles(y, width);
		check_row(b, "qk_rope_append", buffers[i], row, want);
		free(want);
		free(y);
	}
}

static void check_add(struct bench *b, uint32_t row)
{
	double *x = input_row(b, GP_BUF_HIDDEN, row), *branch = input_row(b, GP_BUF_BRANCH, row);

	for (uint32_t i = 0; i < b->c.hidden; i++)
		x[i] += branch[i];
	check_row(b, "add", GP_BUF_HIDDEN, row, x);
	free(x);
	free(branch);
}

static void check_geglu(struct bench *b, uint32_t row)
{
	double *x = input_row(b, GP_BUF_GATE, row), *up = input_row(b, GP_BUF_UP, row);

	for (uint32_t i = 0; i < b->c.ffn; i++)
		x[i] = 0.5 * x[i] * up[i] *
		       (1 + tanh(0.7978845608028654 * (x[i] + 0.044715 * x[i] * x[i] * x[i])));
	check_row(b, "geglu", GP_BUF_GATE, row, x);
	free(x);
	free(up);
}

static void check_sum(struct bench *b, uint32_t row)
{
	const size_t n = (size_t)b->rows * b->c.hidden;
	double *x = as_doubles(b->parts_x + (size_t)row * b->c.hidden, b->c.hidden);

	for (uint32_t part = 1; part < PARTS; part++)
		for (uint32_t i = 0; i < b->c.hidden; i++)
			x[i] += (double)b->parts_x[part * n + (size_t)row * b->c.hidden + i];
	check_row(b, "sum_parts", GP_BUF_BRANCH, row, x);
	free(x);
}

/* All rows at once. */
static void check_best(struct bench *b, uint32_t row)
{
	struct gp_candidate want[GP_MAX_CANDIDATES], got[LOGIT_ROWS * GP_MAX_CANDIDATES];
	struct gp_best best = { .c = want, .most = b->candidates };
	const struct gp_batch batch = { .n_rows = b->rows, .n_logit_rows = b->rows,
	                                .candidates = b->wanted };

	b->d->batch = &batch;
	vk_give_logits(b->d, (float *)(void *)got);
	b->d->batch = NULL;
	gp_best_scan(&best, &b->d->k, b->x[GP_BUF_LOGITS] + (size_t)row * b->c.vocab, 0, b->c.vocab);
	gp_best_sort(&best);
	for (uint32_t i = 0; i < b->candidates; i++)
		if (got[row * b->candidates + i].id != want[i].id)
			check(gp_fail(EIO, "best: candidate %u of row %u is token %u, not %u", i, row,
			              got[row * b->candidates + i].id, want[i].id));
}

/* ---- what they read and write ----------------------------------------------------- */
static double embed_bytes(const struct bench *b)
{
	return (double)b->table.bytes / (double)b->table.rows + 4.0 * b->c.hidden;
}

/* 8-bit outputs: a byte and a quarter. */
static double norm_bytes(const struct bench *b)
{
	return 9.25 * b->c.hidden;
}

static double add_norm_bytes(const struct bench *b)
{
	return 17.25 * b->c.hidden;
}

static double rope_bytes(const struct bench *b)
{
	return 8.0 * b->d->width[GP_BUF_Q] + (8.0 + 4 + 4) * b->d->width[GP_BUF_K];
}

static double add_bytes(const struct bench *b)
{
	return 12.0 * b->c.hidden;
}

static double geglu_bytes(const struct bench *b)
{
	return 13.25 * b->c.ffn;
}

static double quantize_bytes(const struct bench *b)
{
	return 5.25 * b->c.ffn;
}

static double pack_bytes(const struct bench *b)
{
	return 6.0 * b->c.ffn;
}

static double sum_bytes(const struct bench *b)
{
	return 4.0 * (PARTS + 1) * b->c.hidden;
}

static double best_bytes(const struct bench *b)
{
	return 4.0 * b->c.vocab;
}

static const struct op ops[] = {
	{ "embed", run_embed, check_embed, embed_bytes, { GP_BUF_HIDDEN } },
	{ "rms_norm", run_norm, check_norm, norm_bytes, { GP_BUF_HIDDEN } },
	{ "add_norm", run_add_norm, check_add_norm, add_norm_bytes, { GP_BUF_HIDDEN, GP_BUF_BRANCH } },
	{ "qk_rope_append", run_rope, check_rope, rope_bytes, { GP_BUF_Q, GP_BUF_K } },
	{ "add", run_add, check_add, add_bytes, { GP_BUF_HIDDEN, GP_BUF_BRANCH } },
	{ "geglu", run_geglu, check_geglu, geglu_bytes, { GP_BUF_GATE, GP_BUF_UP } },
	{ "quantize", run_quantize, NULL, quantize_bytes, { GP_BUF_GATE } },
	{ "pack_rows", run_pack, NULL, pack_bytes, { GP_BUF_GATE } },
	{ "sum_parts", run_sum, check_sum, sum_bytes, { GP_BUF_BRANCH } },
};
static const struct op best = { "best", run_best, check_best, best_bytes, { GP_BUF_LOGITS } };

/* ---- set up ----------------------------------------------------------------------- */
static void configure(struct bench *b)
{
	b->c.rope_base_local = b->c.rope_base_global = 10000;
	b->c.rope_scale_global = b->c.attn_scale = 1;
	b->c.is_global[0] = true;
	b->c.context = MOST_ROWS;
	const struct gp_stage_shape s = {
		.config = &b->c, .end_layer = 1, .embeds = true, .has_head = true,
		.max_rows = MOST_ROWS, .max_logit_rows = LOGIT_ROWS, .max_sequences = 1,
		.context = b->c.context, .kv_type = GP_TYPE_F16 };
	check(vulkan_configure(b->d, &s));
}

static void take_own(struct bench *b)
{
	struct vulkan_device *d = b->d;
	const size_t parts = (size_t)PARTS * MOST_ROWS * b->c.hidden;

	check(vk_take(d, &d->work_arena, (size_t)MOST_ROWS * b->c.ffn * 2, "halves", &b->halves));
	check(vk_take(d, &d->work_arena, MOST_ROWS * SCALES * 4, "scales", &b->scales));
	check(vk_take(d, &d->work_arena, parts * 4, "parts", &b->parts));
	b->parts_x = random_floats(parts);
	check(vk_upload(d, &b->parts, b->parts_x, parts * 4));
}

static void set_up(struct bench *b)
{
	struct vulkan_device *d = b->d;
	const struct gp_kv_limits limits = { .max_sequences = 1, .context = b->c.context,
	                                     .window = b->c.window,
	                                     .has_kind = { [GP_KV_GLOBAL] = true } };

	configure(b);
	check(gp_kv_create(&b->kv, &limits, &gp_vulkan_device.ops->kv, d));
	check(gp_kv_extend(b->kv, 0, MOST_ROWS));
	for (uint32_t i = 0; i < GP_BUF_COUNT; i++)
		b->x[i] = random_floats((size_t)(i == GP_BUF_LOGITS ? LOGIT_ROWS : MOST_ROWS) *
		                        d->width[i]);
	for (uint32_t i = 0; i < MOST_ROWS; i++)
		b->numbers[i] = i;
	b->norm = random_vector(b->c.hidden);
	b->head_norm = random_vector(b->c.head_dim);
	b->table = (struct gp_tensor){ .name = "table", .type = GP_TYPE_F32, .rows = MOST_ROWS,
	                               .cols = b->c.hidden, .data = b->x[GP_BUF_NORMED],
	                               .bytes = (size_t)MOST_ROWS * b->c.hidden * 4 };
	check(vulkan_load(d, &b->norm, 0, &b->norm_handle));
	check(vulkan_load(d, &b->head_norm, 0, &b->head_norm_handle));
	check(vulkan_load(d, &b->table, 0, &b->table_handle));
	take_own(b);
	check(vulkan_finish_load(d));
}

static void tear_down(struct bench *b)
{
	gp_kv_destroy(b->kv);
	vulkan_release(b->d);
	for (uint32_t i = 0; i < GP_BUF_COUNT; i++)
		free(b->x[i]);
	free(b->parts_x);
	free((void *)(uintptr_t)b->norm.data);
	free((void *)(uintptr_t)b->head_norm.data);
}

/* ---- measure ---------------------------------------------------------------------- */
/* Rows are positions of one sequence, and tokens, from 0 on. */
static void put_step(struct bench *b)
{
	const bool picks = b->candidates;
	const struct gp_batch batch = {
		.n_rows = b->rows, .seq = b->zeros, .pos = b->numbers, .token = b->numbers,
		.n_logit_rows = picks ? b->rows : 0, .logit_rows = b->numbers,
		.candidates = b->wanted, .kv = b->kv };

	for (uint32_t i = 0; i < LOGIT_ROWS; i++)
		b->wanted[i] = b->candidates;
	check(vulkan_begin_step(b->d, &batch, NULL));
	b->d->rows = b->rows;
}

static void measure(struct bench *b, const struct op *op)
{
	char of[32] = "";

	put_step(b);
	for (size_t i = 0; i < GP_ARRAY_LEN(op->changed); i++)
		put(b->d, op->changed[i], b->x[op->changed[i]],
		    (size_t)b->rows * b->d->width[op->changed[i]]);
	check(vk_end_uploads(b->d));
	run_once(b->d, op->run, b);
	if (op->check) {
		op->check(b, 0);
		op->check(b, b->rows - 1);
	}
	if (b->candidates)
		snprintf(of, sizeof of, "%u of %u", b->candidates, b->c.vocab);
	report(b->o, b->model->name, op->name, of, b->rows, seconds(b->d, op->run, b, TIMES),
	       op->bytes(b) * b->rows, 0);
}

void bench_ops(struct vulkan_device *d, const struct model *m, const struct options *o)
{
	static const uint32_t candidates[] = { 1, 40 };
	struct bench b = { .d = d, .model = m, .o = o, .c = m->c };
	bool wanted = is_wanted(o, best.name);

	for (size_t i = 0; i < GP_ARRAY_LEN(ops); i++)
		wanted |= is_wanted(o, ops[i].name);
	if (!wanted)
		return;
	set_up(&b);
	for (uint32_t r = 0; r < o->n_rows; r++) {
		b.rows = o->rows[r];
		b.candidates = 0;
		for (size_t i = 0; i < GP_ARRAY_LEN(ops); i++)
			if (is_wanted(o, ops[i].name))
				measure(&b, &ops[i]);
		for (size_t i = 0; i < GP_ARRAY_LEN(candidates); i++) {
			b.candidates = candidates[i];
			if (b.rows <= LOGIT_ROWS && is_wanted(o, best.name))
				measure(&b, &best);
		}
	}
	tear_down(&b);
}

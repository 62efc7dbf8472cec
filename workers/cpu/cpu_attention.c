/* Rotation, the KV cache's new rows, attention. */
#include "workers/cpu/cpu_device.h"

#include <string.h>

#include "base/base.h"

static enum gp_kv_kind kind_of(const struct cpu_device *d, uint32_t layer)
{
	return d->place[layer].kind;
}

/* ---- rotation -------------------------------------------------------------- */
void cpu_rope_rows(struct cpu_device *d, uint32_t first, uint32_t end)
{
	uint32_t half = d->config.head_dim / 2;

	for (uint32_t k = 0; k < GP_KV_KINDS; k++) {
		if (!d->kv[k].n_layers)
			continue;
		for (uint32_t r = first; r < end; r++)
			gp_rope_row(d->rope[k] + (size_t)r * 2 * half, d->inv_freq[k], half,
			            d->batch->pos[r]);
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

/* ---- attention -------------------------------------------------------------
 * An item of work is a tile of rows with one KV head. Items too large for an even
 * share among the threads are split by parts of the positions, whose states are
 * merged afterwards. A whole item's parts are merged likewise, by the kernel: the
 * bits do not depend on what is split. */
#define SLOTS_PER_THREAD 512u /* states of split items */
#define SHARES_PER_THREAD 2u   /* an item of more than one of these is split */

struct attend {
	struct cpu_device *d;
	uint32_t layer;
	uint32_t heads;                  /* that share a KV head */
	uint32_t n_tiles, n_split;       /* split tiles come first */
	uint32_t most_parts;             /* of a split tile */
	uint32_t wave, wave_parts;       /* of each split tile: [wave, wave + wave_parts) */
	_Atomic uint32_t next;           /* whole item that no thread has taken */
};

void cpu_attention_layout(struct cpu_device *d)
{
	const struct gp_config *c = &d->config;
	uint64_t parts = d->shape.context / GP_KV_PART + 2;
	uint64_t most = parts * d->shape.max_rows * c->n_heads;
	uint64_t slots = (uint64_t)gp_threads_count(d->threads) * SLOTS_PER_THREAD;

	d->attn_scratch_floats = gp_attention_scratch_floats(c->head_dim) +
		GP_ATTENTION_QUERIES * gp_attention_state_floats(c->head_dim);
	d->attn_slots = (uint32_t)(slots < most ? slots : most);
}

static uint32_t first_seen(const struct cpu_device *d, uint32_t layer, uint32_t pos)
{
	if (d->config.is_global[layer] || pos < d->config.window)
		return 0;
	return pos - d->config.window + 1;
}

static bool continues(const struct gp_batch *b, const struct cpu_tile *t, uint32_t row)
{
	return b->seq[row] == b->seq[t->row] && b->pos[row] == b->pos[t->row] + t->rows;
}

static void find_tiles(struct attend *a)
{
	struct cpu_device *d = a->d;
	const struct gp_batch *b = d->batch;
	uint32_t most = GP_ATTENTION_QUERIES / a->heads;
	struct cpu_tile *t = NULL;

	for (uint32_t r = 0; r < b->n_rows; r++) {
		if (!t || t->rows == most || !continues(b, t, r)) {
			t = &d->tiles[a->n_tiles++];
			*t = (struct cpu_tile){ .row = r, .first_part =
				first_seen(d, a->layer, b->pos[r]) / GP_KV_PART };
		}
		t->rows++;
		t->parts = b->pos[r] / GP_KV_PART - t->first_part + 1;
	}
}

/* Each split tile's items are more than a share, so there are less than
 * SHARES_PER_THREAD a thread and the slots hold several parts of each. */
static void split_tiles(struct attend *a)
{
	struct cpu_device *d = a->d;
	uint64_t threads = gp_threads_count(d->threads), total = 0;
	uint32_t slots = 0, room;

	for (uint32_t i = 0; i < a->n_tiles; i++)
		total += (uint64_t)d->tiles[i].rows * d->tiles[i].parts * d->config.n_kv_heads;
	for (uint32_t i = 0; i < a->n_tiles && threads > 1; i++) {
		struct cpu_tile t = d->tiles[i];

		if (t.parts == 1 || t.rows * t.parts * threads * SHARES_PER_THREAD <= total)
			continue;
		t.slot = slots;
		slots += t.rows * d->config.n_heads;
		a->most_parts = t.parts > a->most_parts ? t.parts : a->most_parts;
		d->tiles[i] = d->tiles[a->n_split];
		d->tiles[a->n_split++] = t;
	}
	room = slots ? d->attn_slots / slots - 1 : 0;
	a->wave_parts = room < a->most_parts ? room : a->most_parts;
}

/* States of a part of the wave, 1 for the first; 0: where they are merged. */
static float *states_of(const struct attend *a, const struct cpu_tile *t, uint32_t kv_head,
                        uint32_t part)
{
	const struct gp_config *c = &a->d->config;
	size_t slot = (size_t)t->slot * (a->wave_parts + 1) +
	              ((size_t)kv_head * (a->wave_parts + 1) + part) * t->rows * a->heads;

	return a->d->attn_states + slot * gp_attention_state_floats(c->head_dim);
}

/* Where the KV head lies, block by block, in the given parts. */
static void find_blocks(const struct attend *a, const struct cpu_tile *t, uint32_t kv_head,
                        uint32_t part, uint32_t end_part, const void **k, const void **v)
{
	const struct cpu_device *d = a->d;
	const struct gp_batch *b = d->batch;
	const uint32_t *table = gp_kv_table(b->kv, kind_of(d, a->layer), b->seq[t->row]);
	uint32_t first = first_seen(d, a->layer, b->pos[t->row]) / GP_KV_BLOCK;
	uint32_t last = (b->pos[t->row] + t->rows - 1) / GP_KV_BLOCK;

	for (uint32_t i = part * (GP_KV_PART / GP_KV_BLOCK);
	     i <= last && i < end_part * (GP_KV_PART / GP_KV_BLOCK); i++) {
		if (i < first)
			continue;
		k[i] = cpu_kv_rows(d, a->layer, table[i], 0, kv_head);
		v[i] = cpu_kv_rows(d, a->layer, table[i], 1, kv_head);
	}
}

static void clear_states(float *states, uint32_t n, uint32_t head_dim)
{
	memset(states, 0, n * gp_attention_state_floats(head_dim) * sizeof(float));
}

/* Where the KV head's next part begins, or NULL. */
static const void *next_part(const struct attend *a, const struct cpu_tile *t, uint32_t kv_head,
                             uint32_t part)
{
	const struct gp_batch *b = a->d->batch;

	if (part >= t->first_part + t->parts)
		return NULL;
	return cpu_kv_rows(a->d, a->layer,
	                   gp_kv_table(b->kv, kind_of(a->d, a->layer), b->seq[t->row])
	                   [part * (GP_KV_PART / GP_KV_BLOCK)], 0, kv_head);
}

/* Parts [part, end_part) of a tile into states; then to out, if they are all. */
static void attend_tile(const struct attend *a, const struct cpu_tile *t, uint32_t kv_head,
                        uint32_t part, uint32_t end_part, float *states, uint32_t thread)
{
	const struct cpu_device *d = a->d;
	const struct gp_config *c = &d->config;
	const void **k = d->pointers + (size_t)thread * 2 * d->table_blocks;
	size_t at = (size_t)t->row * d->width[GP_BUF_Q] + (size_t)kv_head * a->heads * c->head_dim;
	struct gp_attention tile = {
		.q = d->buffer[GP_BUF_Q] + at, .out = d->buffer[GP_BUF_ATTN] + at,
		.row_stride = d->width[GP_BUF_Q], .rows = t->rows, .heads = a->heads,
		.pos = d->batch->pos[t->row],
		.window = c->is_global[a->layer] ? 0 : c->window,
		.k = k, .v = k + d->table_blocks,
		.next = next_part(a, t, kv_head, end_part), .head_dim = c->head_dim,
		.row_bytes = d->kv_row_bytes, .kv_type = d->shape.kv_type,
		.scale = c->attn_scale,
	};

	find_blocks(a, t, kv_head, part, end_part, k, k + d->table_blocks);
	clear_states(states, t->rows * a->heads, c->head_dim);
	d->k.attention(&tile, part * GP_KV_PART, end_part * GP_KV_PART, states,
	               d->attn_scratch + thread * d->attn_scratch_floats);
	if (end_part - part == t->parts)
		d->k.attention_out(&tile, states);
}

static void attend_part(const struct attend *a, uint32_t item, uint32_t thread)
{
	uint32_t part = item % a->wave_parts, n = a->d->config.n_kv_heads;
	uint32_t kv_head = item / a->wave_parts % n;
	const struct cpu_tile *t = &a->d->tiles[item / a->wave_parts / n];
	uint32_t at = t->first_part + a->wave + part;

	if (a->wave + part < t->parts)
		attend_tile(a, t, kv_head, at, at + 1, states_of(a, t, kv_head, part + 1), thread);
}

/* The last tiles come first: they see most. */
static void attend_whole(const struct attend *a, uint32_t item, uint32_t thread)
{
	struct cpu_device *d = a->d;
	uint32_t n = d->config.n_kv_heads;
	const struct cpu_tile *t = &d->tiles[a->n_tiles - 1 - item / n];
	float *states = d->attn_scratch + thread * d->attn_scratch_floats +
	                gp_attention_scratch_floats(d->config.head_dim);

	attend_tile(a, t, item % n, t->first_part, t->first_part + t->parts, states, thread);
}

/* First the thread's own share, parts that follow each other in memory: threads
 * that take them in turn read at two thirds of the speed. Then what is left of
 * the others'. */
static void attend_parts(const struct attend *a, uint32_t n_items, uint32_t thread,
                         uint32_t n_threads)
{
	uint32_t first, end, item;

	for (uint32_t t = 0; t < n_threads; t++) {
		const uint32_t owner = (thread + t) % n_threads;
		_Atomic uint32_t *next = &a->d->shares[owner].next;

		gp_threads_split(n_items, 1, owner, n_threads, &first, &end);
		while ((item = first + atomic_fetch_add_explicit(next, 1, memory_order_relaxed)) <
		       end)
			attend_part(a, item, thread);
	}
}

static void attend_some(void *arg, uint32_t thread, uint32_t n_threads)
{
	struct attend *a = arg;
	const uint32_t n = a->d->config.n_kv_heads;
	const uint32_t whole = a->wave ? 0 : (a->n_tiles - a->n_split) * n;
	uint32_t item;

	attend_parts(a, a->n_split * n * a->wave_parts, thread, n_threads);
	while ((item = atomic_fetch_add_explicit(&a->next, 1, memory_order_relaxed)) < whole)
		attend_whole(a, item, thread);
}

/* One query of a split tile: its parts of this wave, in ascending order. */
static void merge_query(const struct attend *a, const struct cpu_tile *t, uint32_t kv_head,
                        uint32_t query)
{
	const struct cpu_device *d = a->d;
	uint32_t dim = d->config.head_dim, row = t->row + query / a->heads;
	uint32_t head = kv_head * a->heads + query % a->heads;
	size_t at = query * gp_attention_state_floats(dim);
	float *merged = states_of(a, t, kv_head, 0) + at;

	if (a->wave == 0)
		clear_states(merged, 1, dim);
	for (uint32_t i = 0; i < a->wave_parts && a->wave + i < t->parts; i++)
		d->k.attention_merge(merged, states_of(a, t, kv_head, i + 1) + at, 1, dim);
	if (a->wave + a->wave_parts >= t->parts)
		d->k.attention_out(&(struct gp_attention){
			.out = d->buffer[GP_BUF_ATTN] + (size_t)row * d->width[GP_BUF_ATTN] +
			       (size_t)head * dim,
			.rows = 1, .heads = 1, .head_dim = dim }, merged);
}

static void merge_some(void *arg, uint32_t thread, uint32_t n_threads)
{
	struct attend *a = arg;
	const struct cpu_device *d = a->d;
	uint32_t n = 0;

	for (uint32_t i = 0; i < a->n_split; i++)
		for (uint32_t h = 0; h < d->config.n_kv_heads; h++)
			for (uint32_t q = 0; q < d->tiles[i].rows * a->heads; q++)
				if (n++ % n_threads == thread)
					merge_query(a, &d->tiles[i], h, q);
}

static int attend_split(struct attend *a, uint64_t work)
{
	int rc;

	for (a->wave = 0; a->wave < a->most_parts; a->wave += a->wave_parts) {
		cpu_untake_shares(a->d, 1);
		atomic_store_explicit(&a->next, 0, memory_order_relaxed);
		if ((rc = cpu_run(a->d, attend_some, a, work)) < 0 ||
		    (rc = cpu_run(a->d, merge_some, a, work / GP_KV_PART)) < 0)
			return rc;
	}
	return 0;
}

int cpu_attention(void *dev, uint32_t layer)
{
	struct cpu_device *d = dev;
	struct attend a = { .d = d, .layer = layer,
	                    .heads = d->config.n_heads / d->config.n_kv_heads };
	uint64_t seen = 0;

	find_tiles(&a);
	split_tiles(&a);
	for (uint32_t r = 0; r < d->batch->n_rows; r++)
		seen += d->batch->pos[r] + 1 - first_seen(d, layer, d->batch->pos[r]);
	if (a.n_split)
		return attend_split(&a, seen * d->width[GP_BUF_Q]);
	return cpu_run(d, attend_some, &a, seen * d->width[GP_BUF_Q]);
}

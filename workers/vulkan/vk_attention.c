/* Attention: rows of one sequence that follow each other in tiles, where there are matrix
 * units; the others one by one, their positions cut into parts. */
#include "workers/vulkan/vulkan_device.h"

#include <stddef.h>

#include "base/base.h"

#define TILE_QUERIES 64u       /* rows of a tile x heads, as in attention_tile_coopmat.comp */
#define TILE_POSITIONS 32u
#define TILE_MOST_DIM 256u     /* registers hold no more */
#define TILE_LEAST_ROWS 16u    /* for fewer, parts of positions are faster */

static uint32_t heads_of(const struct vulkan_device *d)
{
	return d->config.n_heads / d->config.n_kv_heads;
}

/* op, halves: as in the shaders. */
static struct vk_constants constants_of(const struct vulkan_device *d, uint32_t op, bool halves)
{
	return (struct vk_constants){ { (uint32_t)d->shape.kv_type, heads_of(d),
	                                d->config.head_dim, 0, op, halves } };
}

int vk_prepare_attention(struct vulkan_device *d)
{
	const struct vk_constants tile = constants_of(d, 0, false);
	VkPipeline p;
	int rc = 0;

	for (uint32_t op = 0; op < 2 && rc == 0; op++) {
		const struct vk_constants floats = constants_of(d, op, false);
		const struct vk_constants halves = constants_of(d, op, true);

		if ((rc = vk_variant(d, VK_QK_ROPE_APPEND, &floats, &p)) < 0 ||
		    (rc = vk_variant(d, VK_ATTENTION, &floats, &p)) < 0)
			return rc;
		if (d->skinny.usable)
			rc = vk_variant(d, VK_ATTENTION, &halves, &p);
	}
	return rc == 0 && vk_tile_rows(d) ? vk_variant(d, VK_ATTENTION_TILE_COOPMAT, &tile, &p) : rc;
}

/* ---- before a step --------------------------------------------------------------- */
uint32_t vk_first_seen(const struct vulkan_device *d, enum gp_kv_kind k, uint32_t pos)
{
	const uint32_t window = d->config.window;

	return k == GP_KV_GLOBAL || pos < window ? 0 : pos - window + 1;
}

uint32_t vk_tile_rows(const struct vulkan_device *d)
{
	const struct vk_features *f = &d->features;
	const uint32_t dim = d->config.head_dim;
	const uint32_t bytes = TILE_QUERIES * ((dim / 8 + 1) + (TILE_POSITIONS / 4 + 1)) * 16 +
	                       TILE_QUERIES * 4;
	const bool is_16 = f->matrix[0] == 16 && f->matrix[1] == 16 && f->matrix[2] == 16;
	const bool may = f->matrix_units && is_16 && f->lanes == 32 && f->shared_bytes >= bytes &&
	                 vk_has_shader(VK_ATTENTION_TILE_COOPMAT);

	return may && d->shape.kv_type != GP_TYPE_F32 && dim % TILE_POSITIONS == 0 &&
	       dim <= TILE_MOST_DIM ? TILE_QUERIES / heads_of(d) : 0;
}

/* How many rows from r on are of one sequence and follow each other in it. */
static uint32_t run_of(const struct gp_batch *b, uint32_t r)
{
	uint32_t n = 1;

	while (r + n < b->n_rows && b->seq[r + n] == b->seq[r] && b->pos[r + n] == b->pos[r] + n)
		n++;
	return n;
}

static void put_tiles(struct vulkan_device *d, struct vk_step *s, uint32_t first, uint32_t n)
{
	const uint32_t rows = vk_tile_rows(d);

	for (uint32_t r = 0; r < n; r++)
		s->row[first + r].tiled = true;
	for (uint32_t r = 0; r < n; r += rows)
		((struct vk_tile *)(void *)d->tiles.host)[s->tile_groups[1]++] =
			(struct vk_tile){ first + r, n - r < rows ? n - r : rows };
}

/* The most blocks that one of these rows sees. */
static uint32_t most_blocks(const struct vulkan_device *d, enum gp_kv_kind k, uint32_t first,
                            uint32_t n)
{
	uint32_t most = 1;

	for (uint32_t r = first; r < first + n; r++) {
		const uint32_t pos = d->batch->pos[r];
		const uint32_t blocks = pos / GP_KV_BLOCK - vk_first_seen(d, k, pos) / GP_KV_BLOCK + 1;

		most = blocks > most ? blocks : most;
	}
	return most;
}

/* Positions are cut into parts so that there are work groups enough. */
static void put_parts(struct vulkan_device *d, struct vk_step *s, enum gp_kv_kind k,
                      uint32_t most)
{
	const uint32_t heads = d->config.n_kv_heads;
	const uint32_t room = VK_ATTENTION_GROUPS / (heads * d->batch->n_rows);
	const uint32_t parts = room < VK_MOST_PARTS ? room : VK_MOST_PARTS;
	const uint32_t each = parts > 1 ? (most + parts - 1) / parts : most;

	s->part_blocks[k] = each;
	s->groups[k][0] = heads;
	s->groups[k][1] = (most + each - 1) / each;
	s->groups[k][2] = d->batch->n_rows;
}

void vk_put_attention(struct vulkan_device *d)
{
	const struct gp_batch *b = d->batch;
	struct vk_step *s = (struct vk_step *)(void *)d->step.host;
	uint32_t most[GP_KV_KINDS] = { 0 };

	s->tile_groups[0] = d->config.n_kv_heads;
	s->tile_groups[1] = 0;
	s->tile_groups[2] = 1;
	for (uint32_t r = 0, n; r < b->n_rows; r += n) {
		n = run_of(b, r);
		if (n >= TILE_LEAST_ROWS && vk_tile_rows(d)) {
			put_tiles(d, s, r, n);
			continue;
		}
		for (uint32_t k = 0; k < GP_KV_KINDS; k++) {
			const uint32_t blocks = most_blocks(d, k, r, n);

			most[k] = blocks > most[k] ? blocks : most[k];
		}
	}
	const bool all_tiled = !most[0];

	for (uint32_t k = 0; k < GP_KV_KINDS; k++) {
		put_parts(d, s, k, all_tiled ? 1 : most[k]);
		if (all_tiled)
			s->groups[k][2] = 0;
	}
	s->rope_groups[0] = 2 * d->config.n_kv_heads + (all_tiled ? 0 : d->config.n_heads);
	s->rope_groups[1] = b->n_rows;
	s->rope_groups[2] = 1;
}

/* ---- operations ------------------------------------------------------------------ */
static int dispatch(struct vulkan_device *d, enum vk_shader shader, const struct vk_constants *c,
                    const void *push, uint32_t push_bytes, size_t groups)
{
	VkPipeline pipeline;
	int rc;

	if ((rc = vk_variant(d, shader, c, &pipeline)) < 0 ||
	    (rc = vk_bind(d, pipeline, push, push_bytes)) < 0)
		return rc;
	vkCmdDispatchIndirect(d->commands, d->step.buffer, d->step.offset + groups);
	return 0;
}

/* but_tiled: leaves Q of rows in tiles to who attends to these. */
static int rope_append(struct vulkan_device *d, uint32_t layer, gp_handle q_norm,
                       gp_handle k_norm, bool but_tiled)
{
	const struct gp_config *c = &d->config;
	const struct gp_kv_place at = d->place[layer];
	const struct vk_constants constants = constants_of(d, but_tiled, false);
	const struct {
		uint64_t q, k, v, q_norm, k_norm, step, angles;
		uint32_t heads, kv_heads, kind, layer;
		float eps;
	} p = {
		d->buffer[GP_BUF_Q].address, d->buffer[GP_BUF_K].address, d->buffer[GP_BUF_V].address,
		vk_weight(d, q_norm)->span.address, vk_weight(d, k_norm)->span.address,
		d->step.address, d->angles[at.kind].address, c->n_heads, c->n_kv_heads, at.kind,
		at.index, c->rms_eps };
	const uint32_t groups[] = { c->n_heads + 2 * c->n_kv_heads, d->rows, 1 };
	const int rc = but_tiled ?
		dispatch(d, VK_QK_ROPE_APPEND, &constants, &p, sizeof p,
		         offsetof(struct vk_step, rope_groups)) :
		vk_dispatch_variant(d, VK_QK_ROPE_APPEND, &constants, &p, sizeof p, groups);

	vk_barrier(d);
	return rc;
}

int vulkan_qk_rope_append(void *dev, uint32_t layer, gp_handle q_norm, gp_handle k_norm)
{
	return rope_append(dev, layer, q_norm, k_norm, false);
}

/* Those rows of a step that are in tiles; there may be none. q_norm 0: as in attend. */
static int attend_tiles(struct vulkan_device *d, uint32_t layer, uint64_t q_norm)
{
	const struct gp_config *c = &d->config;
	const struct gp_kv_place at = d->place[layer];
	const struct vk_constants constants = constants_of(d, 0, false);
	const struct {
		uint64_t q, to, step, q_norm, angles;
		uint32_t kv_heads, kind, layer;
		float scale, eps;
	} p = { d->buffer[GP_BUF_Q].address, d->buffer[GP_BUF_ATTN].address, d->step.address,
	        q_norm, d->angles[at.kind].address, c->n_kv_heads, at.kind, at.index,
	        c->attn_scale, c->rms_eps };

	return dispatch(d, VK_ATTENTION_TILE_COOPMAT, &constants, &p, sizeof p,
	                offsetof(struct vk_step, tile_groups));
}

struct push {                  /* as in attention.comp */
	uint64_t q, k, v, q_norm, k_norm, to, quants, blocks, step, angles, parts, ended;
	uint32_t kv_heads, kind, layer;
	float scale, eps;
};
_Static_assert(sizeof(struct push) <= VK_PUSH_BYTES, "what every device takes");

static bool may_have_tiles(const struct vulkan_device *d)
{
	return !d->alone && d->rows >= TILE_LEAST_ROWS && vk_tile_rows(d);
}

/* As the next product wants it: in halves, a chunk of which a KV head's outputs are a
 * multiple of, or in 8 bits. */
static bool choose_output(struct vulkan_device *d, struct push *p)
{
	const uint32_t width = heads_of(d) * d->config.head_dim;
	const bool halves = vk_skinny_reads_chunks(d) && width % VK_SKINNY_CHUNK == 0 &&
	                    !may_have_tiles(d);
	const bool quants = !halves && d->config.head_dim % 32 == 0;

	p->quants = halves ? d->skinny.rows.address : quants ? d->quants[GP_BUF_ATTN].address : 0;
	p->blocks = halves ? d->skinny.scales.address : d->blocks[GP_BUF_ATTN].address;
	d->skinny.packed = halves ? p->to : 0;
	d->skinny.by_chunk = halves;
	d->is_quantized[GP_BUF_ATTN] = quants && p->quants;
	return halves;
}

/* Norms of 0: Q is normed and rotated, K and V are stored already. */
static int attend(struct vulkan_device *d, uint32_t layer, uint64_t q_norm, uint64_t k_norm)
{
	const struct gp_config *c = &d->config;
	const struct gp_kv_place at = d->place[layer];
	struct push p = {
		.q = d->buffer[GP_BUF_Q].address, .k = d->buffer[GP_BUF_K].address,
		.v = d->buffer[GP_BUF_V].address, .q_norm = q_norm, .k_norm = k_norm,
		.to = d->buffer[GP_BUF_ATTN].address, .step = d->step.address,
		.angles = d->angles[at.kind].address, .parts = d->parts.address,
		.ended = d->ended.address, .kv_heads = c->n_kv_heads, .kind = at.kind,
		.layer = at.index, .scale = c->attn_scale, .eps = c->rms_eps };
	const struct vk_constants constants = constants_of(d, q_norm != 0, choose_output(d, &p));
	const int rc = dispatch(d, VK_ATTENTION, &constants, &p, sizeof p,
	                        offsetof(struct vk_step, groups[at.kind]));

	vk_barrier(d);
	return rc;
}

/* Of rows whose K and V are stored; q_norm: of those in tiles, 0 as in attend. */
static int attend_stored(struct vulkan_device *d, uint32_t layer, uint64_t q_norm, bool tiles)
{
	int rc;

	if (tiles && (rc = attend_tiles(d, layer, q_norm)) < 0)
		return rc;
	if ((rc = attend(d, layer, 0, 0)) == 0 && tiles)
		d->is_quantized[GP_BUF_ATTN] = false;
	return rc;
}

int vulkan_attention(void *dev, uint32_t layer)
{
	return attend_stored(dev, layer, 0, may_have_tiles(dev));
}

int vulkan_append_attention(void *dev, uint32_t layer, gp_handle q_norm, gp_handle k_norm)
{
	struct vulkan_device *d = dev;
	const uint64_t norm = vk_weight(d, q_norm)->span.address;
	const bool tiles = may_have_tiles(d);
	int rc;

	if (d->alone)
		return attend(d, layer, norm, vk_weight(d, k_norm)->span.address);
	if ((rc = rope_append(d, layer, q_norm, k_norm, tiles)) < 0)
		return rc;
	return attend_stored(d, layer, norm, tiles);
}

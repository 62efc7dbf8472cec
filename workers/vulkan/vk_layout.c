/* What the device keeps beside weights: activations, the KV cache's blocks. */
#include "workers/vulkan/vulkan_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* ---- activations --------------------------------------------------------------- */
static int check_kv(const struct gp_stage_shape *s)
{
	const uint32_t dim = s->config->head_dim, step = s->kv_type == GP_TYPE_Q8_0 ? 32 : 8;

	if (s->kv_type != GP_TYPE_F32 && s->kv_type != GP_TYPE_F16 && s->kv_type != GP_TYPE_Q8_0)
		return gp_fail(EINVAL, "KV type %s; Vulkan stages take --kv-type f32, f16 and q8_0",
		               gp_type_info(s->kv_type)->name);
	if (!dim || dim % step || dim > 512)
		return gp_fail(EINVAL, "head_dim %u with KV type %s; Vulkan stages take multiples of "
		               "%u up to 512: use cpu", dim, gp_type_info(s->kv_type)->name, step);
	return 0;
}

static int check_shape(const struct gp_stage_shape *s)
{
	const struct gp_config *c = s->config;

	if (s->end_layer > GP_MAX_LAYERS || !c->n_kv_heads || c->n_heads % c->n_kv_heads ||
	    c->n_heads / c->n_kv_heads > 8 || c->n_heads / c->n_kv_heads * c->head_dim > 1024)
		return gp_fail(EINVAL, "%u layers of %u heads of %u and %u KV heads; Vulkan stages "
		               "take up to %u layers and 8 heads of 1024 in all to a KV head: use cpu",
		               s->end_layer, c->n_heads, c->head_dim, c->n_kv_heads, GP_MAX_LAYERS);
	if (c->hidden % 4)
		return gp_fail(EINVAL, "hidden rows of %u; Vulkan stages take multiples of 4: use cpu",
		               c->hidden);
	if (s->max_rows > VK_MOST_ROWS)
		return gp_fail(EINVAL, "steps of %u rows; Vulkan stages take %u: use a smaller "
		               "--max-rows", s->max_rows, VK_MOST_ROWS);
	return check_kv(s);
}

static int set_places(struct vulkan_device *d)
{
	const size_t layer = (size_t)2 * d->config.n_kv_heads * GP_KV_BLOCK * d->config.head_dim;
	const size_t bytes = d->shape.kv_type == GP_TYPE_F32 ? layer * 4 :
	                     d->shape.kv_type == GP_TYPE_F16 ? layer * 2 : layer / 32 * 34;

	gp_kv_places(&d->shape, d->place, d->n_layers);
	for (uint32_t k = 0; k < GP_KV_KINDS; k++)
		if (!gp_size_mul(bytes, d->n_layers[k], &d->block_bytes[k]))
			return gp_fail(EOVERFLOW, "KV blocks are too large");
	return 0;
}

static int take_floats(struct vulkan_device *d, struct vk_arena *a, size_t rows, size_t width,
                       struct vk_span *out)
{
	size_t n;

	if (!gp_size_mul(rows, width, &n) || !gp_size_mul(n, sizeof(float), &n))
		return gp_fail(EOVERFLOW, "activations of %zu rows are too large; use fewer", rows);
	return vk_take(d, a, n, "activations", out);
}

/* Inputs of products, in 8 bits: those whose rows are whole blocks, where such products
 * are. */
static int take_quants(struct vulkan_device *d, uint32_t rows)
{
	static const enum gp_buffer inputs[] = { GP_BUF_NORMED, GP_BUF_ATTN, GP_BUF_GATE };
	int rc = 0;

	for (size_t i = 0; i < GP_ARRAY_LEN(inputs) && rc == 0; i++) {
		const enum gp_buffer b = inputs[i];

		d->quants[b] = d->blocks[b] = (struct vk_span){ 0 };
		if (d->width[b] % 32 || !d->features.dot_products)
			continue;
		if ((rc = take_floats(d, &d->work_arena, rows, d->width[b] / 4, &d->quants[b])) == 0)
			rc = take_floats(d, &d->work_arena, rows, d->width[b] / 16, &d->blocks[b]);
	}
	return rc;
}

/* Counts of ended parts begin at 0, and end there. */
static int take_parts(struct vulkan_device *d, uint32_t rows)
{
	const struct gp_config *c = &d->config;
	const size_t heads = c->n_heads / c->n_kv_heads;
	int rc;

	if ((rc = take_floats(d, &d->work_arena, VK_ATTENTION_GROUPS * heads, c->head_dim + 2,
	                      &d->parts)) < 0 ||
	    (rc = take_floats(d, &d->work_arena, rows, c->n_kv_heads, &d->ended)) < 0 ||
	    (rc = vk_begin_commands(d)) < 0)
		return rc;
	vkCmdFillBuffer(d->commands, d->ended.buffer, d->ended.offset,
	                (VkDeviceSize)rows * c->n_kv_heads * 4, 0);
	return vk_run_commands(d);
}

static int take_input(struct vulkan_device *d, uint32_t rows, uint32_t logit_rows)
{
	const struct gp_stage_shape *s = &d->shape;
	const size_t step = sizeof(struct vk_step) + (size_t)rows * sizeof(struct vk_row);
	int rc;

	d->table_blocks = s->context / GP_KV_BLOCK + 1;
	if ((rc = vk_take(d, &d->in_arena, step, "a step", &d->step)) < 0 ||
	    (rc = take_floats(d, &d->in_arena, rows, d->config.hidden, &d->hidden_in)) < 0 ||
	    (rc = take_floats(d, &d->in_arena, (size_t)s->max_sequences * GP_KV_KINDS,
	                      (size_t)d->table_blocks * 2, &d->tables)) < 0 ||
	    (rc = take_floats(d, &d->in_arena, rows, sizeof(struct vk_tile) / 4, &d->tiles)) < 0 ||
	    (rc = take_floats(d, &d->in_arena, logit_rows, 1, &d->picked)) < 0)
		return rc;
	for (uint32_t k = 0; k < GP_KV_KINDS && rc == 0; k++)
		rc = take_floats(d, &d->in_arena, rows, d->config.head_dim, &d->angles[k]);
	return rc;
}

static int take_buffers(struct vulkan_device *d)
{
	const struct gp_stage_shape *s = &d->shape;
	const uint32_t rows = vk_round_rows(s->max_rows);
	const uint32_t logit_rows = vk_round_rows(s->max_logit_rows);
	const size_t out = s->has_head ? (size_t)logit_rows * d->config.vocab :
	                                 (size_t)rows * d->config.hidden;
	int rc = 0;

	for (uint32_t b = 0; b < GP_BUF_COUNT && rc == 0; b++)
		rc = take_floats(d, &d->work_arena, b == GP_BUF_LOGITS ? logit_rows : rows,
		                 d->width[b], &d->buffer[b]);
	if (rc < 0 || (rc = take_quants(d, rows)) < 0 || (rc = take_parts(d, rows)) < 0 ||
	    (rc = take_input(d, rows, logit_rows)) < 0 || (rc = vk_many_take(d, rows)) < 0 ||
	    (rc = take_floats(d, &d->out_arena, out, 1, &d->out)) < 0 ||
	    (rc = vk_take_best(d, logit_rows)) < 0)
		return rc;
	return vk_take_recordings(d);
}

static int set_frequencies(struct vulkan_device *d)
{
	const struct gp_config *c = &d->config;
	float *f = calloc(c->head_dim, sizeof *f);

	if (!f)
		return gp_fail(ENOMEM, "no memory for the rotation");
	d->inv_freq[GP_KV_LOCAL] = f;
	d->inv_freq[GP_KV_GLOBAL] = f + c->head_dim / 2;
	for (uint32_t k = 0; k < GP_KV_KINDS; k++)
		gp_rope_frequencies(c, k, d->inv_freq[k]);
	return 0;
}

static int make_pipelines(struct vulkan_device *d)
{
	VkPipeline p;
	int rc = 0;

	for (uint32_t op = 0; op < 2 && rc == 0; op++)
		if ((rc = vk_pipeline(d, VK_ELEMENTWISE, op, &p)) == 0)
			rc = vk_pipeline(d, VK_QUANTIZE, op, &p);
	if (rc < 0 || (rc = vk_prepare_norms(d)) < 0 ||
	    (rc = vk_pipeline(d, VK_CHUNK_MAXIMA, 0, &p)) < 0 ||
	    (rc = vk_pipeline(d, VK_PICK_CHUNKS, 0, &p)) < 0)
		return rc;
	return vk_prepare_attention(d);
}

/* The whole pool, so that no step has to wait for memory or goes without. */
static int reserve_kv(struct vulkan_device *d)
{
	int rc = 0;

	for (uint32_t k = 0; k < GP_KV_KINDS && rc == 0; k++)
		rc = vk_reserve(d, &d->kv_arena[k], d->block_bytes[k], vk_most_kv_blocks(d, k),
		                "the KV cache");
	return rc;
}

int vulkan_configure(void *dev, const struct gp_stage_shape *shape)
{
	struct vulkan_device *d = dev;
	int rc;

	if ((rc = check_shape(shape)) < 0)
		return rc;
	vulkan_release(d);
	d->config = *shape->config;
	d->shape = *shape;
	d->shape.config = &d->config;
	gp_stage_widths(&d->shape, d->width);
	d->work_arena.expected = vk_work_bytes(d);
	d->work_arena.slack = UINT64_MAX;      /* its bytes are counted, whatever is in them */
	if ((rc = set_places(d)) < 0 || (rc = take_buffers(d)) < 0 ||
	    (rc = set_frequencies(d)) < 0 || (rc = make_pipelines(d)) < 0 ||
	    (rc = vk_take_checked(d)) < 0 || (rc = vk_check_fit(d)) < 0 ||
	    (rc = reserve_kv(d)) < 0) {
		/* What a device that hangs still uses must not be given back. */
		if (!d->is_lost)
			vulkan_release(d);
	}
	return rc;
}

void vulkan_release(struct vulkan_device *d)
{
	struct vk_arena *const arenas[] = { &d->weights_arena, &d->work_arena, &d->in_arena,
	                                    &d->out_arena, &d->kv_arena[GP_KV_LOCAL],
	                                    &d->kv_arena[GP_KV_GLOBAL] };

	/* A load that failed may have left some on their way. */
	vk_end_uploads(d);
	if (d->is_lost) /* and uses all this still */
		return;
	vk_give_recordings(d);
	for (size_t i = 0; i < GP_ARRAY_LEN(arenas); i++)
		vk_give_all(d, arenas[i]);
	for (uint32_t k = 0; k < GP_KV_KINDS; k++) {
		free(d->kv_blocks[k]);
		d->kv_blocks[k] = NULL;
		d->n_blocks[k] = d->blocks_room[k] = 0;
	}
	free(d->weights);
	d->weights = NULL;
	d->n_weights = d->weights_room = 0;
	free(d->inv_freq[GP_KV_LOCAL]);
	d->inv_freq[GP_KV_LOCAL] = d->inv_freq[GP_KV_GLOBAL] = NULL;
}

uint64_t vulkan_memory_bytes(void *dev)
{
	const struct vulkan_device *d = dev;

	return d->weights_arena.bytes + d->work_arena.bytes + d->kv_arena[GP_KV_LOCAL].bytes +
	       d->kv_arena[GP_KV_GLOBAL].bytes + d->in_arena.bytes + d->out_arena.bytes;
}

/* ---- KV blocks ----------------------------------------------------------------- */
int vulkan_kv_reserve(void *dev, enum gp_kv_kind kind, uint32_t id)
{
	struct vulkan_device *d = dev;
	int rc;

	if (id != d->n_blocks[kind])
		return gp_fail(EINVAL, "KV block %u reserved where %u is next", id,
		               d->n_blocks[kind]);
	if (id == d->blocks_room[kind]) {
		const uint32_t room = id ? id * 2 : 64;
		struct vk_span *grown = realloc(d->kv_blocks[kind], room * sizeof *grown);

		if (!grown)
			return gp_fail(ENOMEM, "no memory for %u KV blocks", room);
		d->kv_blocks[kind] = grown;
		d->blocks_room[kind] = room;
	}
	if ((rc = vk_take(d, &d->kv_arena[kind], d->block_bytes[kind], "KV cache",
	                  &d->kv_blocks[kind][id])) < 0)
		return rc;
	d->n_blocks[kind]++;
	return 0;
}

int vulkan_kv_copy(void *dev, enum gp_kv_kind kind, uint32_t to, uint32_t from)
{
	struct vulkan_device *d = dev;
	const struct vk_span *a = &d->kv_blocks[kind][from], *b = &d->kv_blocks[kind][to];
	const VkBufferCopy part = { a->offset, b->offset, d->block_bytes[kind] };
	int rc;

	if (!part.size)
		return 0;
	if ((rc = vk_begin_commands(d)) < 0)
		return rc;
	vk_barrier_of_begin(d);
	vkCmdCopyBuffer(d->commands, a->buffer, b->buffer, 1, &part);
	return vk_run_commands(d);
}

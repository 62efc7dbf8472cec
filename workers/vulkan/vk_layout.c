/* What the device keeps beside weights: activations, the KV cache's blocks. */
#include "workers/vulkan/vulkan_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* ---- activations --------------------------------------------------------------- */
static int check_shape(const struct gp_stage_shape *s)
{
	const struct gp_config *c = s->config;

	if (s->kv_type != GP_TYPE_F32 && s->kv_type != GP_TYPE_F16)
		return gp_fail(EINVAL, "KV type %s; Vulkan stages take f32 and f16",
		               gp_type_info(s->kv_type)->name);
	if (!c->head_dim || c->head_dim % 2 || c->head_dim > 512)
		return gp_fail(EINVAL, "head_dim %u; Vulkan stages take even ones up to 512",
		               c->head_dim);
	if (s->end_layer > GP_MAX_LAYERS || !c->n_kv_heads || c->n_heads % c->n_kv_heads)
		return gp_fail(EINVAL, "Vulkan cannot take %u layers of %u heads and %u KV heads",
		               s->end_layer, c->n_heads, c->n_kv_heads);
	return 0;
}

static int set_places(struct vulkan_device *d)
{
	const size_t element = d->shape.kv_type == GP_TYPE_F32 ? 4 : 2;
	const size_t layer = (size_t)2 * d->config.n_kv_heads * GP_KV_BLOCK * d->config.head_dim;

	gp_kv_places(&d->shape, d->place, d->n_layers);
	for (uint32_t k = 0; k < GP_KV_KINDS; k++)
		if (!gp_size_mul(layer * element, d->n_layers[k], &d->block_bytes[k]))
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

static int take_buffers(struct vulkan_device *d)
{
	const struct gp_stage_shape *s = &d->shape;
	const uint32_t rows = s->max_rows;
	const size_t out = s->has_head ? (size_t)s->max_logit_rows * d->config.vocab :
	                                 (size_t)rows * d->config.hidden;
	int rc = 0;

	for (uint32_t b = 0; b < GP_BUF_COUNT && rc == 0; b++)
		rc = take_floats(d, &d->work_arena, b == GP_BUF_LOGITS ? s->max_logit_rows : rows,
		                 d->width[b], &d->buffer[b]);
	d->table_blocks = s->context / GP_KV_BLOCK + 1;
	if (rc < 0 || (rc = take_floats(d, &d->out_arena, out, 1, &d->out)) < 0 ||
	    (rc = take_floats(d, &d->in_arena, rows, d->config.hidden, &d->hidden_in)) < 0 ||
	    (rc = take_floats(d, &d->in_arena, rows, sizeof(struct vk_row) / 4, &d->rows)) < 0 ||
	    (rc = take_floats(d, &d->in_arena, (size_t)s->max_sequences * GP_KV_KINDS,
	                      (size_t)d->table_blocks * 2, &d->tables)) < 0 ||
	    (rc = take_floats(d, &d->in_arena, rows, 1, &d->picked)) < 0)
		return rc;
	for (uint32_t k = 0; k < GP_KV_KINDS && rc == 0; k++)
		rc = take_floats(d, &d->in_arena, rows, d->config.head_dim, &d->angles[k]);
	return rc < 0 ? rc : vk_many_take(d, rows > s->max_logit_rows ? rows : s->max_logit_rows);
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
	const uint32_t kv = (uint32_t)d->shape.kv_type;
	VkPipeline p;
	int rc;

	if ((rc = vk_pipeline(d, VK_RMS_NORM, 0, &p)) < 0 ||
	    (rc = vk_pipeline(d, VK_ELEMENTWISE, 0, &p)) < 0 ||
	    (rc = vk_pipeline(d, VK_ELEMENTWISE, 1, &p)) < 0 ||
	    (rc = vk_pipeline(d, VK_QK_ROPE_APPEND, kv, &p)) < 0)
		return rc;
	return vk_pipeline(d, VK_ATTENTION, kv, &p);
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
	if ((rc = set_places(d)) < 0 || (rc = take_buffers(d)) < 0 ||
	    (rc = set_frequencies(d)) < 0 || (rc = make_pipelines(d)) < 0 ||
	    (rc = vk_take_checked(d)) < 0 || (rc = vk_check_fit(d)) < 0 ||
	    (rc = reserve_kv(d)) < 0)
		vulkan_release(d);
	return rc;
}

void vulkan_release(struct vulkan_device *d)
{
	struct vk_arena *const arenas[] = { &d->weights_arena, &d->work_arena, &d->in_arena,
	                                    &d->out_arena, &d->kv_arena[GP_KV_LOCAL],
	                                    &d->kv_arena[GP_KV_GLOBAL] };

	/* A load that failed may have left some on their way. */
	vk_end_uploads(d);
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
	vkCmdCopyBuffer(d->commands, a->buffer, b->buffer, 1, &part);
	return vk_run_commands(d);
}

/* The operations of a step, recorded one after the other and run by end_step. */
#include "workers/vulkan/vulkan_device.h"

#include <string.h>

#include "base/base.h"

#define MATMUL_OUTPUTS 4u      /* of a work group, as in matmul.comp */
#define MOST_GROUPS 32768u     /* in a dimension; Vulkan guarantees 65535 */
#define MOST_OUTS 4u           /* of one input */
#define UNUSED_BLOCK UINT32_MAX

/* ---- recording ----------------------------------------------------------------- */
/* All that was recorded before is done and visible. */
void vk_barrier(struct vulkan_device *d)
{
	const VkMemoryBarrier all = { .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
	                              .srcAccessMask = VK_ACCESS_MEMORY_WRITE_BIT,
	                              .dstAccessMask = VK_ACCESS_MEMORY_READ_BIT |
	                                               VK_ACCESS_MEMORY_WRITE_BIT };
	const VkPipelineStageFlags stages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT |
	                                    VK_PIPELINE_STAGE_TRANSFER_BIT;

	vkCmdPipelineBarrier(d->commands, stages, stages, 0, 1, &all, 0, NULL, 0, NULL);
}

int vk_dispatch_pipeline(struct vulkan_device *d, VkPipeline p, const void *push,
                         uint32_t push_bytes, const uint32_t groups[3])
{
	if (atomic_load_explicit(&d->cancelled, memory_order_relaxed))
		return gp_fail(ECANCELED, "the step was cancelled");
	vkCmdBindPipeline(d->commands, VK_PIPELINE_BIND_POINT_COMPUTE, p);
	vkCmdPushConstants(d->commands, d->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, push_bytes, push);
	vkCmdDispatch(d->commands, groups[0], groups[1], groups[2]);
	return 0;
}

int vk_dispatch(struct vulkan_device *d, enum vk_shader s, uint32_t constant, const void *push,
                uint32_t push_bytes, const uint32_t groups[3])
{
	VkPipeline p;
	const int rc = vk_pipeline(d, s, constant, &p);

	return rc < 0 ? rc : vk_dispatch_pipeline(d, p, push, push_bytes, groups);
}

/* A dispatch that what is recorded next may lean on. */
static int run(struct vulkan_device *d, enum vk_shader s, uint32_t constant, const void *push,
               uint32_t push_bytes, const uint32_t groups[3])
{
	const int rc = vk_dispatch(d, s, constant, push, push_bytes, groups);

	vk_barrier(d);
	return rc;
}

static const struct vk_weight *weight(const struct vulkan_device *d, gp_handle h)
{
	return &d->weights[h - 1];
}

/* ---- begin --------------------------------------------------------------------- */
static void put_angles(struct vulkan_device *d)
{
	const uint32_t half = d->config.head_dim / 2;

	for (uint32_t k = 0; k < GP_KV_KINDS; k++)
		for (uint32_t r = 0; r < d->batch->n_rows; r++)
			gp_rope_row((float *)d->angles[k].host + (size_t)r * 2 * half, d->inv_freq[k],
			            half, d->batch->pos[r]);
}

/* The addresses of a sequence's blocks; blocks that fell out of the window: 0. */
static void put_table(struct vulkan_device *d, enum gp_kv_kind k, uint32_t seq, uint32_t n,
                      uint32_t at)
{
	const uint32_t *ids = gp_kv_table(d->batch->kv, k, seq);
	uint64_t *to = (uint64_t *)d->tables.host + at;

	for (uint32_t i = 0; i < n; i++)
		to[i] = ids[i] == UNUSED_BLOCK ? 0 : d->kv_blocks[k][ids[i]].address;
}

static void put_rows(struct vulkan_device *d)
{
	const struct gp_batch *b = d->batch;
	struct vk_row *rows = (struct vk_row *)d->rows.host;

	for (uint32_t r = 0; r < b->n_rows; r++) {
		const uint32_t window = d->config.window, pos = b->pos[r], seq = b->seq[r];
		const uint32_t n = (gp_kv_length(b->kv, seq) + GP_KV_BLOCK - 1) / GP_KV_BLOCK;
		const bool again = r && seq == b->seq[r - 1];

		rows[r] = (struct vk_row){ .pos = pos, .token = b->token[r] };
		rows[r].first[GP_KV_LOCAL] = pos < window ? 0 : pos - window + 1;
		for (uint32_t k = 0; k < GP_KV_KINDS; k++) {
			rows[r].table[k] = (seq * GP_KV_KINDS + k) * d->table_blocks;
			if (!again && d->n_layers[k])
				put_table(d, k, seq, n, rows[r].table[k]);
		}
	}
}

int vulkan_begin_step(void *dev, const struct gp_batch *b, const float *hidden_in)
{
	struct vulkan_device *d = dev;
	const size_t bytes = (size_t)b->n_rows * d->config.hidden * sizeof(float);
	int rc;

	atomic_store_explicit(&d->cancelled, false, memory_order_relaxed);
	d->batch = b;
	put_angles(d);
	put_rows(d);
	memcpy(d->picked.host, b->logit_rows, b->n_logit_rows * sizeof(uint32_t));
	if (hidden_in)
		memcpy(d->hidden_in.host, hidden_in, bytes);
	if ((rc = vk_begin_commands(d)) < 0 || !hidden_in)
		return rc;
	const VkBufferCopy part = { d->hidden_in.offset, d->buffer[GP_BUF_HIDDEN].offset, bytes };
	vkCmdCopyBuffer(d->commands, d->hidden_in.buffer, d->buffer[GP_BUF_HIDDEN].buffer, 1, &part);
	vk_barrier(d);
	return 0;
}

/* ---- operations ----------------------------------------------------------------- */
int vulkan_embed(void *dev, gp_handle table, float scale)
{
	struct vulkan_device *d = dev;
	const struct vk_weight *w = weight(d, table);
	const struct { uint64_t table, to, rows; uint32_t cols, vocab; float scale; } p = {
		w->span.address, d->buffer[GP_BUF_HIDDEN].address, d->rows.address, w->cols,
		w->rows, scale };
	const uint32_t groups[] = { (w->cols + 2047) / 2048, d->batch->n_rows, 1 };

	return run(d, VK_EMBED, (uint32_t)w->type, &p, sizeof p, groups);
}

int vulkan_rms_norm(void *dev, enum gp_buffer to, enum gp_buffer from, gp_handle w)
{
	struct vulkan_device *d = dev;
	const struct { uint64_t to, from, w; uint32_t cols; float eps; } p = {
		d->buffer[to].address, d->buffer[from].address, weight(d, w)->span.address,
		d->width[to], d->config.rms_eps };
	const uint32_t groups[] = { d->batch->n_rows, 1, 1 };

	return run(d, VK_RMS_NORM, 0, &p, sizeof p, groups);
}

static int multiply_few(struct vulkan_device *d, const struct vk_many_in *in,
                        const struct vk_weight *w, uint64_t to)
{
	const uint32_t rows = in->rows;
	const struct { uint64_t to, from, w, picked; uint32_t rows, cols, n; } p = {
		to, in->from, w->span.address, in->picked, rows, w->cols, w->rows };
	const uint32_t tile = rows > 4 ? 3 : rows > 2 ? 2 : rows > 1 ? 1 : 0;
	const uint32_t n = (w->rows + MATMUL_OUTPUTS - 1) / MATMUL_OUTPUTS;
	const uint32_t groups[] = { n < MOST_GROUPS ? n : MOST_GROUPS,
	                            (rows + (1u << tile) - 1) >> tile,
	                            (n + MOST_GROUPS - 1) / MOST_GROUPS };

	return vk_dispatch(d, VK_MATMUL, (uint32_t)w->type + VK_TYPES * tile, &p, sizeof p, groups);
}

static int multiply(struct vulkan_device *d, enum gp_buffer from,
                    const struct gp_matmul_out *out, size_t n_out, uint64_t picked, uint32_t rows)
{
	const struct vk_many_in in = { d->buffer[from].address, picked, rows, d->width[from] };
	struct vk_many_out outs[MOST_OUTS];
	int rc = 0;

	if (n_out > MOST_OUTS)
		return gp_fail(EINVAL, "%zu products at once; %u is the most", n_out, MOST_OUTS);
	for (size_t i = 0; i < n_out; i++) {
		const struct vk_weight *w = weight(d, out[i].weight);
		const uint32_t width = d->width[out[i].to];

		if (w->cols != in.cols || w->rows != width)
			return gp_fail(EINVAL, "matrix of %u x %u between buffers of %u and %u",
			               w->rows, w->cols, in.cols, width);
		outs[i] = (struct vk_many_out){ w, d->buffer[out[i].to].address };
	}
	if (rows > VK_FEW_ROWS)
		return vk_multiply_many(d, &in, outs, n_out);
	for (size_t i = 0; i < n_out && rc == 0; i++)
		rc = multiply_few(d, &in, outs[i].w, outs[i].to);
	return rc;
}

int vulkan_matmul(void *dev, enum gp_buffer from, const struct gp_matmul_out *out, size_t n_out)
{
	struct vulkan_device *d = dev;
	const int rc = multiply(d, from, out, n_out, 0, d->batch->n_rows);

	vk_barrier(d);
	return rc;
}

int vulkan_qk_rope_append(void *dev, uint32_t layer, gp_handle q_norm, gp_handle k_norm)
{
	struct vulkan_device *d = dev;
	const struct gp_config *c = &d->config;
	const struct gp_kv_place at = d->place[layer];
	const struct {
		uint64_t q, k, v, q_norm, k_norm, rows, blocks, angles;
		uint32_t heads, kv_heads, dim, kind, layer;
		float eps;
	} p = {
		d->buffer[GP_BUF_Q].address, d->buffer[GP_BUF_K].address, d->buffer[GP_BUF_V].address,
		weight(d, q_norm)->span.address, weight(d, k_norm)->span.address, d->rows.address,
		d->tables.address, d->angles[at.kind].address, c->n_heads, c->n_kv_heads, c->head_dim,
		at.kind, at.index, c->rms_eps };
	const uint32_t groups[] = { c->n_heads + 2 * c->n_kv_heads, d->batch->n_rows, 1 };

	return run(d, VK_QK_ROPE_APPEND, (uint32_t)d->shape.kv_type, &p, sizeof p,
	           groups);
}

int vulkan_attention(void *dev, uint32_t layer)
{
	struct vulkan_device *d = dev;
	const struct gp_config *c = &d->config;
	const struct gp_kv_place at = d->place[layer];
	const struct {
		uint64_t q, to, rows, blocks;
		uint32_t heads, kv_heads, dim, kind, layer;
		float scale;
	} p = { d->buffer[GP_BUF_Q].address, d->buffer[GP_BUF_ATTN].address, d->rows.address,
	        d->tables.address, c->n_heads, c->n_kv_heads, c->head_dim, at.kind, at.index,
	        c->attn_scale };
	const uint32_t groups[] = { c->n_heads, d->batch->n_rows, 1 };

	return run(d, VK_ATTENTION, (uint32_t)d->shape.kv_type, &p, sizeof p, groups);
}

static int elementwise(struct vulkan_device *d, uint32_t op, enum gp_buffer to,
                       enum gp_buffer from)
{
	const uint32_t n = d->batch->n_rows * d->width[to], groups = (n + 255) / 256;
	const struct { uint64_t to, from; uint32_t n; } p = {
		d->buffer[to].address, d->buffer[from].address, n };

	return run(d, VK_ELEMENTWISE, op, &p, sizeof p,
	           (const uint32_t[]){ groups < MOST_GROUPS ? groups : MOST_GROUPS, 1, 1 });
}

int vulkan_geglu(void *dev)
{
	return elementwise(dev, 1, GP_BUF_GATE, GP_BUF_UP);
}

int vulkan_add(void *dev, enum gp_buffer to, enum gp_buffer from)
{
	return elementwise(dev, 0, to, from);
}

int vulkan_head(void *dev, gp_handle table)
{
	struct vulkan_device *d = dev;
	const struct gp_matmul_out out = { .weight = table, .to = GP_BUF_LOGITS };
	const int rc = multiply(d, GP_BUF_NORMED, &out, 1, d->picked.address, d->batch->n_logit_rows);

	vk_barrier(d);
	return rc;
}

/* ---- end ------------------------------------------------------------------------ */
static void select_best(struct vulkan_device *d, const float *row, uint32_t k, float *out)
{
	struct gp_best best = { .c = (struct gp_candidate *)out, .most = k };

	gp_best_scan(&best, &d->k, row, 0, d->config.vocab);
	gp_best_sort(&best);
}

static void give_logits(struct vulkan_device *d, float *out)
{
	const struct gp_batch *b = d->batch;

	for (uint32_t i = 0; i < b->n_logit_rows; i++) {
		const float *row = (const float *)d->out.host + (size_t)i * d->config.vocab;
		const uint32_t k = b->candidates[i];

		if (k)
			select_best(d, row, k, out);
		else
			memcpy(out, row, d->config.vocab * sizeof *out);
		out += k ? k * sizeof(struct gp_candidate) / sizeof *out : d->config.vocab;
	}
}

int vulkan_end_step(void *dev, enum gp_buffer from, float *out)
{
	struct vulkan_device *d = dev;
	const uint32_t rows = from == GP_BUF_LOGITS ? d->batch->n_logit_rows : d->batch->n_rows;
	const VkBufferCopy part = { d->buffer[from].offset, d->out.offset,
	                            (VkDeviceSize)rows * d->width[from] * sizeof(float) };
	int rc;

	if (rows)
		vkCmdCopyBuffer(d->commands, d->buffer[from].buffer, d->out.buffer, 1, &part);
	if ((rc = vk_run_commands(d)) < 0)
		return rc;
	if (from == GP_BUF_LOGITS)
		give_logits(d, out);
	else
		memcpy(out, d->out.host, part.size);
	d->batch = NULL;
	return 0;
}

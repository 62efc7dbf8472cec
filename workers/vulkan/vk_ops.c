/* The operations of a step, recorded one after the other and run by end_step. */
#include "workers/vulkan/vulkan_device.h"

#include <stddef.h>
#include <string.h>

#include "base/base.h"

#define NORM_SIZE 512u         /* invocations of a norm, where the device has so many */
#define UNUSED_BLOCK UINT32_MAX

/* ---- recording ----------------------------------------------------------------- */
static void order(struct vulkan_device *d, VkPipelineStageFlags before, VkAccessFlags written,
                  VkPipelineStageFlags after, VkAccessFlags used)
{
	const VkMemoryBarrier m = { .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
	                            .srcAccessMask = written, .dstAccessMask = used };

	vkCmdPipelineBarrier(d->commands, before, after, 0, 1, &m, 0, NULL, 0, NULL);
}

/* What shaders wrote is there for those dispatched next. */
void vk_barrier(struct vulkan_device *d)
{
	order(d, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_ACCESS_SHADER_WRITE_BIT,
	      VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_ACCESS_SHADER_READ_BIT |
	                                            VK_ACCESS_SHADER_WRITE_BIT);
}

/* Around copies: of what shaders wrote, or for what they read. */
void vk_barrier_to_copy(struct vulkan_device *d)
{
	order(d, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_ACCESS_SHADER_WRITE_BIT,
	      VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_READ_BIT);
}

static void barrier_from_copy(struct vulkan_device *d)
{
	order(d, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_WRITE_BIT,
	      VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_ACCESS_SHADER_READ_BIT |
	                                            VK_ACCESS_SHADER_WRITE_BIT);
}

/* Of anything by anything: what earlier submissions wrote, copies of KV blocks too. */
void vk_barrier_of_begin(struct vulkan_device *d)
{
	order(d, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, VK_ACCESS_MEMORY_WRITE_BIT,
	      VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, VK_ACCESS_MEMORY_READ_BIT |
	                                          VK_ACCESS_MEMORY_WRITE_BIT);
}

int vk_bind(struct vulkan_device *d, VkPipeline p, const void *push, uint32_t push_bytes)
{
	if (atomic_load_explicit(&d->cancelled, memory_order_relaxed))
		return gp_fail(ECANCELED, "the step was cancelled");
	vkCmdBindPipeline(d->commands, VK_PIPELINE_BIND_POINT_COMPUTE, p);
	vkCmdPushConstants(d->commands, d->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, push_bytes, push);
	return 0;
}

int vk_dispatch_pipeline(struct vulkan_device *d, VkPipeline p, const void *push,
                         uint32_t push_bytes, const uint32_t groups[3])
{
	const int rc = vk_bind(d, p, push, push_bytes);

	if (rc == 0)
		vkCmdDispatch(d->commands, groups[0], groups[1], groups[2]);
	return rc;
}

int vk_dispatch(struct vulkan_device *d, enum vk_shader s, uint32_t constant, const void *push,
                uint32_t push_bytes, const uint32_t groups[3])
{
	VkPipeline p;
	const int rc = vk_pipeline(d, s, constant, &p);

	return rc < 0 ? rc : vk_dispatch_pipeline(d, p, push, push_bytes, groups);
}

int vk_dispatch_over(struct vulkan_device *d, enum vk_shader s, uint32_t constant,
                     const void *push, uint32_t push_bytes, uint32_t n, uint32_t of_group)
{
	const uint32_t groups = (n + of_group - 1) / of_group;

	return vk_dispatch(d, s, constant, push, push_bytes,
	                   (const uint32_t[]){ groups < VK_MOST_GROUPS ? groups : VK_MOST_GROUPS,
	                                       1, 1 });
}

int vk_dispatch_variant(struct vulkan_device *d, enum vk_shader s, const struct vk_constants *c,
                        const void *push, uint32_t push_bytes, const uint32_t groups[3])
{
	VkPipeline p;
	const int rc = vk_variant(d, s, c, &p);

	return rc < 0 ? rc : vk_dispatch_pipeline(d, p, push, push_bytes, groups);
}

const struct vk_weight *vk_weight(const struct vulkan_device *d, gp_handle h)
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
	struct vk_row *rows = ((struct vk_step *)d->step.host)->row;

	for (uint32_t r = 0; r < b->n_rows; r++) {
		const uint32_t pos = b->pos[r], seq = b->seq[r];
		const uint32_t n = (gp_kv_length(b->kv, seq) + GP_KV_BLOCK - 1) / GP_KV_BLOCK;
		const bool again = r && seq == b->seq[r - 1];
		struct vk_row row = { .pos = pos, .token = b->token[r] };

		for (uint32_t k = 0; k < GP_KV_KINDS; k++) {
			row.first[k] = vk_first_seen(d, k, pos);
			row.table[k] = (seq * GP_KV_KINDS + k) * d->table_blocks;
			if (!again && d->n_layers[k])
				put_table(d, k, seq, n, row.table[k]);
		}
		rows[r] = row;
	}
}

/* Rows of a sequence that follow each other, or are mixed with others', need K and V of
 * one another. */
static bool are_alone(const struct gp_batch *b)
{
	for (uint32_t r = 1; r < b->n_rows; r++)
		for (uint32_t i = 0; i < r; i++)
			if (b->seq[i] == b->seq[r])
				return false;
	return true;
}

/* Rows that only round their number up want nothing. */
static void put_logit_row(struct vulkan_device *d, uint32_t i)
{
	const bool is_row = i < d->batch->n_logit_rows;

	((uint32_t *)d->picked.host)[i] = is_row ? d->batch->logit_rows[i] : 0;
	((uint32_t *)d->wanted.host)[i] = is_row ? d->batch->candidates[i] : 0;
}

static void put_step(struct vulkan_device *d, const float *hidden_in)
{
	const struct gp_batch *b = d->batch;
	struct vk_step *s = (struct vk_step *)d->step.host;

	s->tables = d->tables.address;
	s->tiles = d->tiles.address;
	s->rows = b->n_rows;
	s->logit_rows = b->n_logit_rows;
	put_angles(d);
	put_rows(d);
	vk_put_attention(d);
	for (uint32_t i = 0; i < d->logit_rows; i++)
		put_logit_row(d, i);
	if (hidden_in)
		memcpy(d->hidden_in.host, hidden_in,
		       (size_t)b->n_rows * d->config.hidden * sizeof(float));
}

static void record_input(struct vulkan_device *d)
{
	const struct vk_span *to = &d->buffer[GP_BUF_HIDDEN];
	const VkBufferCopy part = { d->hidden_in.offset, to->offset,
	                            (VkDeviceSize)d->rows * d->config.hidden * sizeof(float) };

	vkCmdCopyBuffer(d->commands, d->hidden_in.buffer, to->buffer, 1, &part);
	barrier_from_copy(d);
}

int vk_record_begin(struct vulkan_device *d)
{
	const int rc = vk_begin_recording(d);

	memset(d->is_quantized, 0, sizeof d->is_quantized);
	d->skinny.packed = 0;
	if (rc != 0)
		return rc;
	vk_barrier_of_begin(d);
	if (!d->shape.embeds)
		record_input(d);
	return 0;
}

int vulkan_begin_step(void *dev, const struct gp_batch *b, const float *hidden_in)
{
	struct vulkan_device *d = dev;

	atomic_store_explicit(&d->cancelled, false, memory_order_relaxed);
	d->batch = b;
	d->rows = vk_round_rows(b->n_rows);
	d->logit_rows = vk_round_rows(b->n_logit_rows);
	d->alone = are_alone(b);
	d->picks = b->n_logit_rows && vk_picks_best(d, b);
	put_step(d, hidden_in);
	return vk_record_begin(d);
}

/* ---- operations ----------------------------------------------------------------- */
/* Each part of the table writes the rows whose tokens it has. */
int vulkan_embed(void *dev, gp_handle table, float scale)
{
	struct vulkan_device *d = dev;
	int rc = 0;

	for (const struct vk_weight *w; table && rc == 0; table = w->next) {
		w = vk_weight(d, table);
		const struct {
			uint64_t table, to, step;
			uint32_t cols, first, rows;
			float scale;
		} p = { w->span.address, d->buffer[GP_BUF_HIDDEN].address, d->step.address,
		        w->cols, w->first, w->rows, scale };
		const uint32_t groups[] = { (w->cols + 2047) / 2048, d->rows, 1 };

		rc = vk_dispatch(d, VK_EMBED, (uint32_t)w->type, &p, sizeof p, groups);
	}
	vk_barrier(d);
	return rc;
}

static struct vk_constants norm_constants(const struct vulkan_device *d, uint32_t op, bool halves)
{
	const uint32_t vectors = d->config.hidden / 4;
	uint32_t size = 32;

	while (size < vectors && size < NORM_SIZE && size * 2 <= d->features.invocations)
		size *= 2;
	return (struct vk_constants){ { op, (vectors + size - 1) / size, 0, size, halves } };
}

int vk_prepare_norms(struct vulkan_device *d)
{
	VkPipeline p;
	int rc = 0;

	for (uint32_t op = 0; op < 3 && rc == 0; op++) {
		const struct vk_constants bytes = norm_constants(d, op, false);
		const struct vk_constants halves = norm_constants(d, op, true);

		if ((rc = vk_variant(d, VK_RMS_NORM, &bytes, &p)) == 0 && d->skinny.usable)
			rc = vk_variant(d, VK_RMS_NORM, &halves, &p);
	}
	return rc;
}

struct norm_push {
	uint64_t from, w, hidden, next, to, quants, blocks;
	uint32_t vectors;
	float eps;
};

/* To a buffer, as the product wants it that so many rows of it are for: in halves, or in
 * 8 bits. */
static bool choose_output(struct vulkan_device *d, enum gp_buffer to, struct norm_push *p)
{
	const bool halves = vk_skinny_reads(d, to);

	p->to = d->buffer[to].address;
	p->quants = halves ? d->skinny.rows.address : d->quants[to].address;
	p->blocks = halves ? d->skinny.scales.address : d->blocks[to].address;
	d->skinny.packed = halves ? p->to : 0;
	d->skinny.by_chunk = false;
	d->is_quantized[to] = !halves && p->quants;
	return halves;
}

static int norm(struct vulkan_device *d, uint32_t op, bool halves, const struct norm_push *p)
{
	const struct vk_constants c = norm_constants(d, op, halves);
	const int rc = vk_dispatch_variant(d, VK_RMS_NORM, &c, p, sizeof *p,
	                                   (const uint32_t[]){ d->rows, 1, 1 });

	vk_barrier(d);
	return rc;
}

int vulkan_rms_norm(void *dev, enum gp_buffer to, enum gp_buffer from, gp_handle w)
{
	struct vulkan_device *d = dev;
	struct norm_push p = {
		.from = d->buffer[from].address, .w = vk_weight(d, w)->span.address,
		.vectors = d->width[to] / 4, .eps = d->config.rms_eps };

	if (d->width[to] != d->config.hidden || d->width[from] != d->config.hidden)
		return gp_fail(EINVAL, "a norm of rows of %u; these have %u", d->width[from],
		               d->config.hidden);
	const bool halves = choose_output(d, to, &p);
	return norm(d, 0, halves, &p);
}

int vulkan_add_norm(void *dev, gp_handle w, gp_handle next)
{
	struct vulkan_device *d = dev;
	struct norm_push p = {
		.from = d->buffer[GP_BUF_BRANCH].address, .w = vk_weight(d, w)->span.address,
		.hidden = d->buffer[GP_BUF_HIDDEN].address,
		.next = next ? vk_weight(d, next)->span.address : 0,
		.vectors = d->config.hidden / 4, .eps = d->config.rms_eps };

	const bool halves = next && choose_output(d, GP_BUF_NORMED, &p);

	return norm(d, next ? 2 : 1, halves, &p);
}

static int elementwise(struct vulkan_device *d, uint32_t op, enum gp_buffer to,
                       enum gp_buffer from)
{
	const struct { uint64_t to, from; uint32_t n; } p = {
		d->buffer[to].address, d->buffer[from].address, d->rows * d->width[to] };
	const int rc = vk_dispatch_over(d, VK_ELEMENTWISE, op, &p, sizeof p, p.n, 256);

	d->is_quantized[to] = false;
	vk_barrier(d);
	return rc;
}

int vulkan_geglu(void *dev)
{
	struct vulkan_device *d = dev;

	if (!d->quants[GP_BUF_GATE].address)
		return elementwise(d, 1, GP_BUF_GATE, GP_BUF_UP);
	return vk_quantize(d, GP_BUF_GATE, d->buffer[GP_BUF_UP].address);
}

int vulkan_add(void *dev, enum gp_buffer to, enum gp_buffer from)
{
	return elementwise(dev, 0, to, from);
}

/* ---- end ------------------------------------------------------------------------ */
static int record_output(struct vulkan_device *d, enum gp_buffer from)
{
	const uint32_t rows = from == GP_BUF_LOGITS ? d->logit_rows : d->rows;
	const VkBufferCopy part = { d->buffer[from].offset, d->out.offset,
	                            (VkDeviceSize)rows * d->width[from] * sizeof(float) };

	if (from == GP_BUF_LOGITS && d->picks && rows)
		return vk_record_best(d);
	if (rows) {
		vk_barrier_to_copy(d);
		vkCmdCopyBuffer(d->commands, d->buffer[from].buffer, d->out.buffer, 1, &part);
	}
	return 0;
}

int vulkan_end_step(void *dev, enum gp_buffer from, float *out)
{
	struct vulkan_device *d = dev;
	int rc = 0;

	if (d->recording || d->shape.check_numerics)
		rc = record_output(d, from);
	if (rc < 0 || (rc = vk_run_recording(d)) < 0 || !d->batch)
		return rc;
	if (from == GP_BUF_LOGITS)
		vk_give_logits(d, out);
	else
		memcpy(out, d->out.host, (size_t)d->batch->n_rows * d->width[from] * sizeof *out);
	d->batch = NULL;
	return 0;
}

/* Weights on the device, in the layout that shaders/types.glsl describes. */
#include "workers/vulkan/vulkan_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define PART_BYTES ((size_t)4 << 20)   /* read and packed at once */

/* How a block of the file splits: its quants, and the scale that stands apart. */
struct split {
	uint32_t scale_at, quants_at, quants, block;
};

bool vk_is_native(enum gp_type t)
{
	switch (t) {
	case GP_TYPE_F32: case GP_TYPE_F16: case GP_TYPE_BF16: case GP_TYPE_Q4_0:
	case GP_TYPE_Q8_0: case GP_TYPE_Q4_K: case GP_TYPE_Q6_K:
		return true;
	default:
		return false;
	}
}

static struct split split_of(enum gp_type t)
{
	switch (t) {
	case GP_TYPE_Q4_0: return (struct split){ 0, 2, 16, 18 };
	case GP_TYPE_Q8_0: return (struct split){ 0, 2, 32, 34 };
	case GP_TYPE_Q6_K: return (struct split){ 208, 0, 208, 210 };
	default: return (struct split){ 0 };
	}
}

static int room_for_weight(struct vulkan_device *d)
{
	const size_t room = d->weights_room ? d->weights_room * 2 : 64;
	struct vk_weight *grown;

	if (d->n_weights < d->weights_room)
		return 0;
	if (!(grown = realloc(d->weights, room * sizeof *grown)))
		return gp_fail(ENOMEM, "no memory for %zu weights", room);
	d->weights = grown;
	d->weights_room = room;
	return 0;
}

static struct vk_span part_of(const struct vk_span *s, size_t at)
{
	return (struct vk_span){ .buffer = s->buffer, .offset = s->offset + at,
	                         .address = s->address + at, .host = s->host ? s->host + at : NULL };
}

/* Types without a shader, and vectors, as floats. */
static int load_converted(struct vulkan_device *d, const struct gp_tensor *t, float offset,
                          struct vk_weight *w)
{
	size_t bytes, n;
	char *raw;
	float *f;
	int rc;

	if (!gp_size_mul(t->rows, t->cols, &n) || !gp_size_mul(n, sizeof *f, &bytes))
		return gp_fail(EOVERFLOW, "its floats are too large");
	raw = malloc(t->bytes);
	f = malloc(bytes);
	rc = raw && f ? gp_tensor_read(t, 0, t->bytes, raw) :
	                gp_fail(ENOMEM, "no memory to convert it");
	if (rc == 0) {
		d->k.dequantize(t->type, raw, f, n);
		for (size_t i = 0; i < n && offset != 0; i++)
			f[i] += offset;
		rc = vk_take(d, &d->weights_arena, bytes, "weights", &w->span);
	}
	if (rc == 0)
		rc = vk_upload(d, &w->span, f, bytes);
	free(raw);
	free(f);
	w->type = GP_TYPE_F32;
	return rc;
}

static void split_blocks(const struct split *s, const char *from, size_t n, char *quants,
                         char *scales)
{
	for (size_t i = 0; i < n; i++, from += s->block) {
		memcpy(quants + i * s->quants, from + s->quants_at, s->quants);
		memcpy(scales + i * 2, from + s->scale_at, 2);
	}
}

/* The blocks [at, at + n) of the tensor; room: twice for them. */
static int upload_split(struct vulkan_device *d, const struct gp_tensor *t,
                        const struct split *s, const struct vk_span *to, size_t at, size_t n,
                        char *room)
{
	const size_t scales_at = t->bytes / s->block * s->quants;
	const struct vk_span quants = part_of(to, at * s->quants);
	const struct vk_span scales = part_of(to, scales_at + at * 2);
	char *raw = room + PART_BYTES;
	int rc;

	if ((rc = gp_tensor_read(t, at * s->block, n * s->block, raw)) < 0)
		return rc;
	split_blocks(s, raw, n, room, room + n * s->quants);
	if ((rc = vk_upload(d, &quants, room, n * s->quants)) < 0)
		return rc;
	return vk_upload(d, &scales, room + n * s->quants, n * 2);
}

static int upload_plain(struct vulkan_device *d, const struct gp_tensor *t,
                        const struct vk_span *to, size_t at, size_t bytes, char *room)
{
	const struct vk_span part = part_of(to, at);
	const int rc = gp_tensor_read(t, at, bytes, room);

	return rc < 0 ? rc : vk_upload(d, &part, room, bytes);
}

static int load_native(struct vulkan_device *d, const struct gp_tensor *t, struct vk_weight *w)
{
	const struct split s = split_of(t->type);
	const size_t unit = s.block ? s.block : 1, n = t->bytes / unit, most = PART_BYTES / unit;
	char *room = malloc(2 * PART_BYTES);
	int rc = room ? vk_take(d, &d->weights_arena, t->bytes, "weights", &w->span) :
	                gp_fail(ENOMEM, "no memory to pack it");

	for (size_t at = 0; at < n && rc == 0; at += most) {
		const size_t part = n - at < most ? n - at : most;

		rc = s.block ? upload_split(d, t, &s, &w->span, at, part, room) :
		               upload_plain(d, t, &w->span, at, part, room);
	}
	free(room);
	return rc;
}

int vulkan_load(void *dev, const struct gp_tensor *t, float norm_offset, gp_handle *out)
{
	struct vulkan_device *d = dev;
	const bool vector = t->rows == 1;
	VkPipeline p;
	int rc;

	if ((rc = gp_tensor_check(t)) < 0 || (rc = room_for_weight(d)) < 0)
		return rc;
	struct vk_weight *w = &d->weights[d->n_weights];
	*w = (struct vk_weight){ .type = t->type, .rows = (uint32_t)t->rows,
	                         .cols = (uint32_t)t->cols };
	rc = vector || !vk_is_native(t->type) ?
	     load_converted(d, t, vector ? norm_offset : 0, w) : load_native(d, t, w);
	if (rc == 0 && !vector && (rc = vk_prepare_products(d, w->type)) == 0)
		rc = vk_pipeline(d, VK_EMBED, (uint32_t)w->type, &p);
	if (rc < 0)
		return rc;
	*out = ++d->n_weights;
	return 0;
}

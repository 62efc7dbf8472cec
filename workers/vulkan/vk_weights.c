/* Weights on the device, in the layout that shaders/types.glsl describes. */
#include "workers/vulkan/vulkan_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define PART_BYTES ((size_t)8 << 20)   /* packed at once */

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
	float *f;
	int rc;

	if (!gp_size_mul(t->rows, t->cols, &n) || !gp_size_mul(n, sizeof *f, &bytes))
		return gp_fail(EOVERFLOW, "its floats are too large");
	if (!(f = malloc(bytes)))
		return gp_fail(ENOMEM, "no memory to convert it");
	d->k.dequantize(t->type, t->data, f, n);
	for (size_t i = 0; i < n && offset != 0; i++)
		f[i] += offset;
	if ((rc = vk_take(d, &d->weights_arena, bytes, "weights", &w->span)) == 0)
		rc = vk_upload(d, &w->span, f, bytes);
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

static int upload_split(struct vulkan_device *d, const struct gp_tensor *t,
                        const struct split *s, const struct vk_span *to)
{
	const size_t blocks = t->bytes / s->block, most = PART_BYTES / s->block;
	const size_t scales_at = blocks * s->quants;
	char *part = malloc(PART_BYTES);
	int rc = 0;

	if (!part)
		return gp_fail(ENOMEM, "no memory to pack it");
	for (size_t at = 0; at < blocks && rc == 0; at += most) {
		const size_t n = blocks - at < most ? blocks - at : most;
		const struct vk_span quants = part_of(to, at * s->quants);
		const struct vk_span scales = part_of(to, scales_at + at * 2);

		split_blocks(s, (const char *)t->data + at * s->block, n, part, part + n * s->quants);
		if ((rc = vk_upload(d, &quants, part, n * s->quants)) == 0)
			rc = vk_upload(d, &scales, part + n * s->quants, n * 2);
	}
	free(part);
	return rc;
}

static int load_native(struct vulkan_device *d, const struct gp_tensor *t, struct vk_weight *w)
{
	const struct split s = split_of(t->type);
	const int rc = vk_take(d, &d->weights_arena, t->bytes, "weights", &w->span);

	if (rc < 0)
		return rc;
	return s.block ? upload_split(d, t, &s, &w->span) :
	                 vk_upload(d, &w->span, t->data, t->bytes);
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
	if (rc == 0 && !vector)
		rc = vk_prepare_products(d, w->type);
	if (rc < 0 || (rc = vk_pipeline(d, VK_EMBED, (uint32_t)w->type, &p)) < 0)
		return rc;
	gp_tensor_release(t, 0, t->bytes);
	*out = ++d->n_weights;
	return 0;
}

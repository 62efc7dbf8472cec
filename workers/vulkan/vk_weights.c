/* Weights on the device, in the layout that shaders/types.glsl describes. */
#include "workers/vulkan/vulkan_device.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define PART_BYTES ((size_t)4 << 20)   /* read and packed at once */
#define PART_ROWS 256u                 /* parts of matrices are multiples of, of any type */
#define HALF_INFINITY 0x7c00u

/* A block of the file as the planes that stand apart: the quants, then scales. */
enum { MOST_PLANES = 3 };
struct split {
	struct { uint32_t at, bytes; } plane[MOST_PLANES];
};

/* Products in 8 bits need the device's dot product. What there is no shader for becomes
 * halves, which hold what a quantised weight says; vectors floats. */
enum gp_type vk_kept_type(const struct vulkan_device *d, const struct gp_tensor *t)
{
	if (t->rows == 1)
		return GP_TYPE_F32;
	switch (t->type) {
	case GP_TYPE_F32: case GP_TYPE_F16: case GP_TYPE_BF16:
		return t->type;
	case GP_TYPE_Q4_0: case GP_TYPE_Q8_0: case GP_TYPE_Q3_K: case GP_TYPE_Q4_K:
	case GP_TYPE_Q5_K: case GP_TYPE_Q6_K: case GP_TYPE_IQ4_NL: case GP_TYPE_IQ4_XS:
		return d->features.dot_products ? t->type : GP_TYPE_F16;
	default:
		return GP_TYPE_F16;
	}
}

static struct split split_of(enum gp_type t)
{
	switch (t) {
	case GP_TYPE_Q4_0: case GP_TYPE_IQ4_NL: return (struct split){ { { 2, 16 }, { 0, 2 } } };
	case GP_TYPE_Q8_0: return (struct split){ { { 2, 32 }, { 0, 2 } } };
	case GP_TYPE_Q3_K: return (struct split){ { { 0, 96 }, { 96, 12 }, { 108, 2 } } };
	case GP_TYPE_Q6_K: return (struct split){ { { 0, 208 }, { 208, 2 } } };
	case GP_TYPE_IQ4_XS: return (struct split){ { { 8, 128 }, { 0, 8 } } };
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

/* A tensor on its way, part by part. */
struct load {
	struct vulkan_device *d;
	const struct gp_tensor *t;
	const struct gp_type_info *info;   /* of its type in the file */
	struct vk_weight *w;
	float offset;                      /* for the elements of a vector */
	char *raw, *room;                  /* PART_BYTES each: as in the file; what it becomes */
};

static int read_blocks(const struct load *l, size_t at, size_t n, void *to)
{
	return gp_tensor_read(l->t, at * l->info->block_bytes, n * l->info->block_bytes, to);
}

/* As in the file: where the device's memory is mapped, straight into it. */
static int load_plain(const struct load *l, size_t at, size_t n)
{
	const struct vk_span to = part_of(&l->w->span, at * l->info->block_bytes);
	const int rc = read_blocks(l, at, n, to.host ? to.host : l->raw);

	return rc < 0 || to.host ? rc : vk_upload(l->d, &to, l->raw, n * l->info->block_bytes);
}

static void copy_plane(const char *from, size_t step, size_t n, char *to, size_t bytes)
{
	for (size_t i = 0; i < n; i++, from += step, to += bytes)
		memcpy(to, from, bytes);
}

/* Of blocks of Q4_0, which begin with it. Halves are ordered as their bits but for the sign. */
static float largest_scale(const char *from, size_t step, size_t n)
{
	uint16_t most = 0, scale;

	for (size_t i = 0; i < n; i++, from += step) {
		memcpy(&scale, from, sizeof scale);
		scale &= 0x7fff;
		if (scale > most && scale < HALF_INFINITY)
			most = scale;
	}
	return gp_f16_to_f32(most);
}

static int load_split(const struct load *l, size_t at, size_t n)
{
	const struct split s = split_of(l->t->type);
	const size_t block = l->info->block_bytes, blocks = l->t->bytes / block;
	size_t before = 0;                 /* bytes of a block in the planes before */
	int rc = read_blocks(l, at, n, l->raw);

	for (size_t i = 0; i < MOST_PLANES && s.plane[i].bytes && rc == 0; i++) {
		const size_t bytes = s.plane[i].bytes;
		const struct vk_span to = part_of(&l->w->span, before * blocks + at * bytes);
		char *plane = to.host ? to.host : l->room + before * n;

		copy_plane(l->raw + s.plane[i].at, block, n, plane, bytes);
		if (!to.host)
			rc = vk_upload(l->d, &to, plane, n * bytes);
		before += bytes;
	}
	if (rc == 0 && l->t->type == GP_TYPE_Q4_0)
		l->w->largest_scale = fmaxf(l->w->largest_scale, largest_scale(l->raw, block, n));
	return rc;
}

static int load_converted(const struct load *l, size_t at, size_t n)
{
	const size_t first = at * l->info->block_elems, elements = n * l->info->block_elems;
	const size_t bytes = l->w->type == GP_TYPE_F16 ? 2 : sizeof(float);
	const struct vk_span to = part_of(&l->w->span, first * bytes);
	float *f = (float *)(void *)l->room;
	int rc = read_blocks(l, at, n, l->raw);

	if (rc < 0)
		return rc;
	l->d->k.dequantize(l->t->type, l->raw, f, elements);
	for (size_t i = 0; i < elements && l->offset != 0; i++)
		f[i] += l->offset;
	if (l->w->type == GP_TYPE_F32)
		return vk_upload(l->d, &to, f, elements * bytes);
	rc = gp_quantize(GP_TYPE_F16, f, l->raw, elements);
	return rc < 0 ? rc : vk_upload(l->d, &to, l->raw, elements * bytes);
}

static int load_parts(const struct load *l)
{
	const bool converts = l->w->type != l->t->type || l->offset != 0;
	const size_t block = converts ? l->info->block_elems * sizeof(float) : l->info->block_bytes;
	const size_t n = l->t->bytes / l->info->block_bytes, most = PART_BYTES / block;
	int rc = 0;

	for (size_t at = 0; at < n && rc == 0; at += most) {
		const size_t part = n - at < most ? n - at : most;

		rc = converts ? load_converted(l, at, part) :
		     split_of(l->t->type).plane[0].bytes ? load_split(l, at, part) : load_plain(l, at, part);
	}
	return rc;
}

static int load_weight(struct vulkan_device *d, const struct gp_tensor *t, float offset,
                       struct vk_weight *w)
{
	char *room = malloc(2 * PART_BYTES);
	const struct load l = { .d = d, .t = t, .info = gp_type_info(t->type), .w = w,
	                        .offset = offset, .raw = room,
	                        .room = room ? room + PART_BYTES : NULL };
	size_t bytes;
	int rc = room ? gp_type_bytes(w->type, t->rows, t->cols, &bytes) :
	                gp_fail(ENOMEM, "no memory to read it");

	if (rc == 0)
		rc = vk_take(d, &d->weights_arena, bytes, "weights", &w->span);
	if (rc == 0)
		rc = load_parts(&l);
	free(room);
	return rc;
}

/* ---- matrices in parts ---------------------------------------------------------- */
/* How many rows are kept together: all, if one allocation can hold them; else so many
 * that also their products have room where vulkan_head puts them. Only tables are that
 * large: Vulkan promises allocations of 1 GiB. */
static uint64_t rows_together(struct vulkan_device *d, const struct gp_tensor *t)
{
	const uint64_t all = vulkan_weight_bytes(d, t);
	uint64_t rows = d->most_allocation / (all / t->rows + 1), room;

	if (all <= d->most_allocation)
		return t->rows;
	room = vk_buffer_bytes(d, GP_BUF_GATE) / sizeof(float) /
	       vk_round_rows(d->shape.max_logit_rows ? d->shape.max_logit_rows : 1);
	rows = (room < rows ? room : rows) / PART_ROWS * PART_ROWS;
	return rows ? rows : t->rows;
}

static struct gp_tensor rows_of(const struct gp_tensor *t, uint64_t first, uint64_t n)
{
	const size_t row = t->bytes / t->rows;
	struct gp_tensor part = *t;

	part.data = (const char *)t->data + first * row;
	part.offset += first * row;
	part.rows = n;
	part.bytes = n * row;
	return part;
}

/* type: that of the whole, which a last part of one row must not change. */
static int load_rows(struct vulkan_device *d, const struct gp_tensor *t, enum gp_type type,
                     uint64_t first, float offset)
{
	int rc;

	if ((rc = room_for_weight(d)) < 0)
		return rc;
	struct vk_weight *w = &d->weights[d->n_weights];
	*w = (struct vk_weight){ .type = type, .rows = (uint32_t)t->rows,
	                         .cols = (uint32_t)t->cols, .first = (uint32_t)first };
	if ((rc = load_weight(d, t, offset, w)) == 0)
		d->n_weights++;
	return rc;
}

int vulkan_load(void *dev, const struct gp_tensor *t, float norm_offset, gp_handle *out)
{
	struct vulkan_device *d = dev;
	const bool vector = t->rows == 1;
	VkPipeline p;
	int rc;

	if ((rc = gp_tensor_check(t)) < 0)
		return rc;
	const uint64_t together = rows_together(d, t);
	const enum gp_type type = vk_kept_type(d, t);
	*out = d->n_weights + 1;
	for (uint64_t first = 0, n; first < t->rows && rc == 0; first += n) {
		n = t->rows - first < together ? t->rows - first : together;
		const struct gp_tensor part = rows_of(t, first, n);

		if ((rc = load_rows(d, &part, type, first, vector ? norm_offset : 0)) == 0 &&
		    first + n < t->rows)
			d->weights[d->n_weights - 1].next = d->n_weights + 1;
	}
	if (rc == 0 && !vector && (rc = vk_prepare_products(d, type, (uint32_t)t->cols)) == 0)
		rc = vk_pipeline(d, VK_EMBED, (uint32_t)type, &p);
	return rc;
}

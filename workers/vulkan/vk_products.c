/* Products: of few rows by shaders/matmul_int8.comp and matmul_float.comp, of many by
 * vk_many.c. */
#include "workers/vulkan/vulkan_device.h"

#include "base/base.h"

#define MOST_OUTS 4u           /* of one input */
#define MOST_AT_ONCE 3u        /* of one dispatch, as in products.glsl */
#define MOST_TILE 16u          /* rows of a work group */
#define MOST_SPLIT 4u          /* subgroups of a work group, if they have 32 lanes */
#define SUBGROUPS_OF_UNIT 20u  /* keep a compute unit's memory busy, with one row or two */
#define UNKNOWN_UNITS 16u      /* where the device does not tell how many it has */

struct push {                  /* as in products.glsl */
	uint64_t from, blocks, picked, w[MOST_AT_ONCE], to[MOST_AT_ONCE];
	uint32_t n[MOST_AT_ONCE], cols, tiles;
	uint64_t quants_out, blocks_out;
};

bool vk_is_plain(enum gp_type t)
{
	return t == GP_TYPE_F32 || t == GP_TYPE_F16 || t == GP_TYPE_BF16;
}

/* ---- which shader --------------------------------------------------------------- */
/* A gated work group writes 32 outputs, of two matrices: a whole block of 8 bits. */
static struct vk_few choose(uint32_t rows, bool gated, uint32_t split)
{
	static const uint32_t outputs[] = { 4, 4, 4, 4, 2 }; /* as in matmul_*_TILE.comp */
	struct vk_few f = { .size = 128, .passes = 1, .split = split };

	while (f.tile + 1 < GP_ARRAY_LEN(outputs) && 1u << f.tile < rows)
		f.tile++;
	f.outputs = outputs[f.tile];
	if (gated)
		f.passes = 64 / (f.size / 32 * f.outputs);
	return f;
}

static struct vk_constants constants_of(enum gp_type t, const struct vk_few *f, bool gated)
{
	return (struct vk_constants){ { (uint32_t)t, 0, 0, f->size, f->split, f->passes, gated } };
}

static enum vk_shader shader_of(enum gp_type t, const struct vk_few *f)
{
	return (vk_is_plain(t) ? VK_MATMUL_FLOAT_1 : VK_MATMUL_INT8_1) + f->tile;
}

static uint32_t outputs_of_group(const struct vk_few *f)
{
	return f->size / 32 / f->split * f->passes * f->outputs;
}

static int prepare(struct vulkan_device *d, enum gp_type t, uint32_t rows, bool gated,
                   uint32_t split)
{
	const struct vk_few f = choose(rows, gated, split);
	const struct vk_constants c = constants_of(t, &f, gated);
	VkPipeline p;

	return vk_variant(d, shader_of(t, &f), &c, &p);
}

/* How many subgroups share an output where one each would be too few to keep the
 * device's memory busy. The more rows there are the fewer it takes. */
static uint32_t split_for(const struct vulkan_device *d, uint32_t outputs, uint32_t rows)
{
	const uint32_t units = d->features.units ? d->features.units : UNKNOWN_UNITS;
	const uint32_t wanted = units * SUBGROUPS_OF_UNIT / (rows > 2 ? rows / 2 : 1);
	uint32_t split = 1;

	while (split < MOST_SPLIT && outputs / 4 * split < wanted)
		split *= 2;
	return split;
}

int vk_prepare_products(struct vulkan_device *d, enum gp_type t, uint32_t cols)
{
	int rc = 0;

	for (uint32_t rows = 1; rows <= MOST_TILE && rc == 0; rows *= 2) {
		rc = prepare(d, t, rows, true, 1);
		for (uint32_t split = 1; split <= MOST_SPLIT && rc == 0; split *= 2)
			rc = prepare(d, t, rows, false, split);
	}
	return rc < 0 ? rc : vk_many_prepare(d, t, cols);
}

/* ---- inputs --------------------------------------------------------------------- */
int vk_quantize(struct vulkan_device *d, enum gp_buffer b, uint64_t up)
{
	const uint32_t vectors = d->width[b] / 4;
	const struct { uint64_t from, up, quants, blocks; uint32_t n, vectors; } p = {
		d->buffer[b].address, up, d->quants[b].address, d->blocks[b].address,
		d->rows * vectors, vectors };
	const int rc = vk_dispatch_over(d, VK_QUANTIZE, up != 0, &p, sizeof p, p.n, 256);

	vk_barrier(d);
	d->is_quantized[b] = rc == 0;
	return rc;
}

/* The input in 8 bits, if who wrote it did not write that too. */
static int quantize(struct vulkan_device *d, enum gp_buffer from)
{
	if (d->is_quantized[from])
		return 0;
	if (!d->quants[from].address)
		return gp_fail(EINVAL, "buffer %d is no input of products with quantised weights",
		               from);
	return vk_quantize(d, from, 0);
}

static struct push push_of(const struct vulkan_device *d, enum gp_buffer from, enum gp_type t)
{
	const bool plain = vk_is_plain(t);

	return (struct push){ .from = plain ? d->buffer[from].address : d->quants[from].address,
	                      .blocks = plain ? 0 : d->blocks[from].address,
	                      .cols = d->width[from] };
}

static bool are_few(const struct vulkan_device *d, uint32_t rows, const struct vk_many_out *out,
                    size_t n)
{
	bool any_plain = false;

	if (rows > VK_FEW_ROWS)
		return rows <= VK_FEW_ROWS_WITHOUT && !d->many.tiling[0].rows;
	for (size_t i = 0; i < n; i++)
		any_plain |= vk_is_plain(out[i].w->type);
	return rows <= VK_FEW_ROWS_SKINNY || any_plain || !vk_skinny_takes(d, out, n);
}

/* ---- few rows ------------------------------------------------------------------- */
static int dispatch_few(struct vulkan_device *d, enum gp_type t, const struct vk_few *f,
                        struct push *p, uint32_t rows, bool gated)
{
	const uint32_t of_group = outputs_of_group(f) / (gated ? 2 : 1);
	const struct vk_constants c = constants_of(t, f, gated);
	uint32_t n = 0;

	for (uint32_t i = 0; i < (gated ? 1 : MOST_AT_ONCE); i++)
		n += (p->n[i] + of_group - 1) / of_group;
	p->tiles = (rows + (1u << f->tile) - 1) >> f->tile;
	n *= p->tiles;
	return vk_dispatch_variant(d, shader_of(t, f), &c, p, sizeof *p,
	                           (const uint32_t[]){ n < VK_MOST_GROUPS ? n : VK_MOST_GROUPS,
	                                               (n + VK_MOST_GROUPS - 1) / VK_MOST_GROUPS, 1 });
}

/* Matrices of one type, as many as one dispatch takes. */
static int multiply_few(struct vulkan_device *d, enum gp_buffer from, const struct vk_many_in *in,
                        const struct vk_many_out *out, size_t n)
{
	const enum gp_type t = out[0].w->type;
	struct push p = push_of(d, from, t);
	uint32_t outputs = 0;

	p.picked = in->picked;
	for (size_t i = 0; i < n; i++) {
		p.w[i] = out[i].w->span.address;
		p.to[i] = out[i].to;
		p.n[i] = out[i].w->rows;
		outputs += out[i].w->rows;
	}
	const struct vk_few f = choose(in->rows, false, split_for(d, outputs, in->rows));
	return dispatch_few(d, t, &f, &p, in->rows, false);
}

static int multiply_runs(struct vulkan_device *d, enum gp_buffer from, const struct vk_many_in *in,
                         const struct vk_many_out *out, size_t n)
{
	int rc = 0;

	for (size_t i = 0; i < n && rc == 0; i++)
		if (!vk_is_plain(out[i].w->type))
			rc = quantize(d, from);
	for (size_t i = 0, run; i < n && rc == 0; i += run) {
		for (run = 1; i + run < n && run < MOST_AT_ONCE; run++)
			if (out[i + run].w->type != out[i].w->type)
				break;
		rc = multiply_few(d, from, in, out + i, run);
	}
	return rc;
}

/* All of one input; out's weights lie in one part each. */
static int multiply_outs(struct vulkan_device *d, enum gp_buffer from, const struct vk_many_in *in,
                         const struct vk_many_out *outs, size_t n)
{
	const int rc = are_few(d, in->rows, outs, n) ? multiply_runs(d, from, in, outs, n) :
	                                               vk_multiply_many(d, in, outs, n);

	d->skinny.packed = 0; /* was for this product, whoever did it */
	vk_barrier(d);
	return rc;
}

static int multiply(struct vulkan_device *d, enum gp_buffer from, const struct gp_matmul_out *out,
                    size_t n_out, uint64_t picked, uint32_t rows)
{
	const struct vk_many_in in = { d->buffer[from].address, picked, rows, d->width[from] };
	struct vk_many_out outs[MOST_OUTS] = { 0 };

	if (n_out > MOST_OUTS)
		return gp_fail(EINVAL, "%zu products at once; %u is the most", n_out, MOST_OUTS);
	for (size_t i = 0; i < n_out; i++) {
		const struct vk_weight *w = vk_weight(d, out[i].weight);
		const uint32_t width = d->width[out[i].to];

		if (w->cols != in.cols || w->rows != width)
			return gp_fail(EINVAL, "matrix of %u x %u between buffers of %u and %u",
			               w->rows, w->cols, in.cols, width);
		outs[i] = (struct vk_many_out){ w, d->buffer[out[i].to].address };
		d->is_quantized[out[i].to] = false;
	}
	return multiply_outs(d, from, &in, outs, n_out);
}

int vulkan_matmul(void *dev, enum gp_buffer from, const struct gp_matmul_out *out, size_t n_out)
{
	struct vulkan_device *d = dev;

	return multiply(d, from, out, n_out, 0, d->rows);
}

/* ---- the head --------------------------------------------------------------------- */
/* From where a part's logits were computed to their columns. */
static void copy_logits(struct vulkan_device *d, const struct vk_weight *w)
{
	const struct vk_span *from = &d->buffer[GP_BUF_GATE], *to = &d->buffer[GP_BUF_LOGITS];
	const VkDeviceSize part = w->rows * sizeof(float), all = d->width[GP_BUF_LOGITS] * sizeof(float);

	vk_barrier_to_copy(d);
	for (uint32_t r = 0; r < d->logit_rows; r++)
		vkCmdCopyBuffer(d->commands, from->buffer, to->buffer, 1,
		                &(VkBufferCopy){ from->offset + r * part,
		                                 to->offset + r * all + w->first * sizeof(float),
		                                 part });
	vk_barrier_of_begin(d);
}

/* A table in parts, whose products go by way of a buffer that nobody needs any more. */
static int multiply_parts(struct vulkan_device *d, gp_handle table)
{
	const struct vk_many_in in = { d->buffer[GP_BUF_NORMED].address, d->picked.address,
	                               d->logit_rows, d->width[GP_BUF_NORMED] };
	int rc = 0;

	d->is_quantized[GP_BUF_GATE] = false;
	for (const struct vk_weight *w; table && rc == 0; table = w->next) {
		w = vk_weight(d, table);
		const struct vk_many_out out = { w, d->buffer[GP_BUF_GATE].address };

		if ((rc = multiply_outs(d, GP_BUF_NORMED, &in, &out, 1)) == 0)
			copy_logits(d, w);
	}
	return rc;
}

int vulkan_head(void *dev, gp_handle table)
{
	struct vulkan_device *d = dev;
	const struct gp_matmul_out out = { table, GP_BUF_LOGITS };

	if (vk_weight(d, table)->next)
		return multiply_parts(d, table);
	return multiply(d, GP_BUF_NORMED, &out, 1, d->picked.address, d->logit_rows);
}

/* ---- gate and up ---------------------------------------------------------------- */
static int gated_few(struct vulkan_device *d, const struct vk_weight *gate,
                     const struct vk_weight *up)
{
	const struct vk_few f = choose(d->rows, true, 1);
	const bool blocks = outputs_of_group(&f) % 64 == 0 && d->quants[GP_BUF_GATE].address;
	struct push p = push_of(d, GP_BUF_NORMED, gate->type);
	int rc = vk_is_plain(gate->type) ? 0 : quantize(d, GP_BUF_NORMED);

	if (rc < 0)
		return rc;
	p.w[0] = gate->span.address;
	p.w[1] = up->span.address;
	p.to[0] = d->buffer[GP_BUF_GATE].address;
	p.n[0] = gate->rows;
	p.quants_out = blocks ? d->quants[GP_BUF_GATE].address : 0;
	p.blocks_out = d->blocks[GP_BUF_GATE].address;
	rc = dispatch_few(d, gate->type, &f, &p, d->rows, true);
	vk_barrier(d);
	d->is_quantized[GP_BUF_GATE] = blocks;
	return rc;
}

static int gated_many(struct vulkan_device *d, const struct vk_many_out out[2])
{
	const struct vk_many_in in = { d->buffer[GP_BUF_NORMED].address, 0, d->rows,
	                               d->width[GP_BUF_NORMED] };
	const int rc = vk_skinny_gated(d, &in, out);

	vk_barrier(d);
	d->is_quantized[GP_BUF_GATE] = false;
	return rc;
}

int vulkan_gated_matmul(void *dev, gp_handle gate, gp_handle up)
{
	struct vulkan_device *d = dev;
	const struct vk_weight *g = vk_weight(d, gate), *u = vk_weight(d, up);
	const struct gp_matmul_out out[] = { { gate, GP_BUF_GATE }, { up, GP_BUF_UP } };
	const struct vk_many_out outs[] = { { g, d->buffer[GP_BUF_GATE].address },
	                                    { u, d->buffer[GP_BUF_UP].address } };
	const bool few = are_few(d, d->rows, outs, 2);
	const bool alike = g->type == u->type && g->cols == d->width[GP_BUF_NORMED] &&
	                   u->cols == g->cols && g->rows == d->width[GP_BUF_GATE] &&
	                   u->rows == g->rows;
	int rc;

	if (few && alike)
		return gated_few(d, g, u);
	if (alike && vk_skinny_takes(d, outs, 2))
		return gated_many(d, outs);
	if ((rc = vulkan_matmul(dev, GP_BUF_NORMED, out, 2)) < 0)
		return rc;
	return vulkan_geglu(dev);
}

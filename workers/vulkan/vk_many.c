/* Products of many rows: as vk_skinny.c does them where it can; on matrix units through
 * tiles in shared memory where the weights fit halves; otherwise in float32. */
#include "workers/vulkan/vulkan_device.h"

#include "base/base.h"

#define FLOAT_ROWS 64u         /* of a work group, as in matmul_many.comp */
#define FLOAT_OUTPUTS 128u
#define TILE_STEP 256u         /* rows of halves are a multiple of: of any tiling's */
#define ELEMENT_STEP 64u       /* and their elements */
#define SCALES 16u             /* of a row, as in tile_rows.glsl */
#define MOST_PARTS 4u
#define MOST_SUMS 128u         /* of an invocation: half of what registers there may be */
#define LEAST_STEPS 16u        /* of a part */
#define SUBGROUPS_AT_ONCE 8u   /* on a compute unit, as the registers of a tile allow */

/* ---- tilings -------------------------------------------------------------------- */
/* The first of a list that fits the device is taken. */
static const struct vk_tiling few[] = { { 64, 128, 32, 32, 64 }, { 32, 64, 32, 32, 32 },
                                        { 16, 32, 32, 16, 16 } };
static const struct vk_tiling many[] = { { 128, 128, 32, 64, 64 }, { 64, 128, 32, 32, 64 },
                                         { 32, 64, 32, 32, 32 }, { 16, 32, 32, 16, 16 } };

static uint32_t subgroups_of(const struct vk_tiling *t)
{
	return t->rows / t->sub_rows * (t->outputs / t->sub_outputs);
}

bool vk_tiling_fits(const struct vk_features *f, const struct vk_tiling *t)
{
	const uint32_t invocations = subgroups_of(t) * f->subgroup;
	const uint32_t row_bytes = (t->elements + 8) * 2;

	return invocations && invocations <= f->invocations &&
	       t->sub_rows * t->sub_outputs <= MOST_SUMS * f->subgroup &&
	       t->sub_rows % f->matrix[0] == 0 &&
	       t->sub_outputs % f->matrix[1] == 0 && t->elements % f->matrix[2] == 0 &&
	       (t->rows + t->outputs) * row_bytes + VK_CODE_BYTES <= f->shared_bytes &&
	       t->rows * t->elements / 8 % invocations == 0;
}

static struct vk_tiling choose(const struct vk_features *f, const struct vk_tiling *list, size_t n)
{
	for (size_t i = 0; i < n && f->matrix_units && vk_has_shader(VK_MATMUL_MANY_COOPMAT); i++)
		if (vk_tiling_fits(f, &list[i]))
			return list[i];
	return (struct vk_tiling){ 0 };
}

void vk_many_choose(struct vulkan_device *d)
{
	d->many.tiling[0] = choose(&d->features, few, GP_ARRAY_LEN(few));
	d->many.tiling[1] = choose(&d->features, many, GP_ARRAY_LEN(many));
}

static bool has_halves(const struct vulkan_device *d, enum gp_type t)
{
	return d->many.halves.buffer && t != GP_TYPE_F32;
}

/* Float32 weights keep their precision; rows are read 8 elements at a time, results
 * written by whole operations. */
static bool takes_halves(const struct vulkan_device *d, const struct vk_weight *w)
{
	return has_halves(d, w->type) && w->cols % 8 == 0 && w->rows % d->features.matrix[1] == 0;
}

/* ---- before a step -------------------------------------------------------------- */
/* No input is left for tiles where all products go straight into registers. */
static bool has_tiles(const struct vulkan_device *d)
{
	static const enum gp_buffer inputs[] = { GP_BUF_NORMED, GP_BUF_ATTN, GP_BUF_GATE };
	bool all = d->skinny.usable;

	for (size_t i = 0; i < GP_ARRAY_LEN(inputs); i++)
		all &= d->width[inputs[i]] % VK_SKINNY_COLS == 0;
	return d->many.tiling[0].rows && !all;
}

int vk_many_take(struct vulkan_device *d, uint32_t rows)
{
	size_t width = 0, up, all;
	int rc;

	for (uint32_t b = 0; b < GP_BUF_COUNT; b++)
		if (b != GP_BUF_LOGITS && d->width[b] > width)
			width = d->width[b];
	d->many.halves = (struct vk_span){ 0 };
	if ((rc = vk_skinny_take(d, rows, width)) < 0 || !has_tiles(d))
		return rc;
	if (!gp_size_round_up(rows, TILE_STEP, &up) || !gp_size_round_up(width, ELEMENT_STEP, &width) ||
	    !gp_size_mul(up, width, &all) || !gp_size_mul(all, 2, &all))
		return gp_fail(EOVERFLOW, "activations of %u rows are too large; use fewer", rows);
	if ((rc = vk_take(d, &d->work_arena, all, "activations", &d->many.halves)) < 0 ||
	    (rc = vk_take(d, &d->work_arena, up * SCALES * sizeof(float), "activations",
	                  &d->many.scales)) < 0)
		return rc;
	d->many.parts_bytes = 0;
	if (!d->features.units)
		return 0;
	if (!gp_size_mul(up, d->config.hidden, &all) ||
	    !gp_size_mul(all, MOST_PARTS * sizeof(float), &all))
		return gp_fail(EOVERFLOW, "activations of %u rows are too large; use fewer", rows);
	if ((rc = vk_take(d, &d->work_arena, all, "partial sums", &d->many.parts)) == 0)
		d->many.parts_bytes = all;
	return rc;
}

static int create_coopmat(struct vulkan_device *d, uint32_t tiling, enum gp_type type)
{
	const struct vk_tiling *t = &d->many.tiling[tiling];
	const struct vk_features *f = &d->features;
	const uint32_t constants[] = {
		(uint32_t)type, subgroups_of(t) * f->subgroup, t->rows, t->outputs, t->elements,
		t->sub_rows, t->sub_outputs, f->matrix[0], f->matrix[1], f->matrix[2] };
	VkPipeline *p = &d->many.coopmat[tiling][type];

	return *p ? 0 : vk_create_pipeline(d, VK_MATMUL_MANY_COOPMAT, constants,
	                                   GP_ARRAY_LEN(constants), f->subgroup, p);
}

int vk_many_prepare(struct vulkan_device *d, enum gp_type type, uint32_t cols)
{
	VkPipeline p;
	int rc;

	if ((rc = vk_pipeline(d, VK_MATMUL_MANY, (uint32_t)type, &p)) < 0 ||
	    (rc = vk_skinny_prepare(d, type, cols)) < 0 || !has_halves(d, type))
		return rc;
	for (uint32_t t = 0; t < VK_TILINGS && rc == 0; t++)
		rc = create_coopmat(d, t, type);
	if (rc < 0 || (rc = vk_pipeline(d, VK_PACK_ROWS, 0, &p)) < 0)
		return rc;
	return vk_pipeline(d, VK_SUM_PARTS, 0, &p);
}

void vk_many_destroy(struct vulkan_device *d)
{
	for (uint32_t t = 0; t < VK_TILINGS; t++)
		for (uint32_t i = 0; i < VK_TYPES; i++)
			vkDestroyPipeline(d->device, d->many.coopmat[t][i], NULL);
	vk_skinny_destroy(d);
}

/* ---- a product ------------------------------------------------------------------ */
struct push {
	uint64_t to, from, scales, w;
	uint32_t rows, cols, n, stride, steps;
};

static int multiply_floats(struct vulkan_device *d, const struct vk_many_in *in,
                           const struct vk_many_out *out)
{
	const struct push p = { out->to, in->from, in->picked, out->w->span.address, in->rows,
	                        out->w->cols, out->w->rows, out->w->cols, 0 };
	const uint32_t groups[] = { vk_groups(in->rows, FLOAT_ROWS), vk_groups(out->w->rows, FLOAT_OUTPUTS),
	                            1 };

	return vk_dispatch(d, VK_MATMUL_MANY, (uint32_t)out->w->type, &p, sizeof p, groups);
}

/* Into how many parts the elements are cut so that work groups fill the device: each
 * part costs a pass over the sums, which is why one more must gain a tenth. */
static uint32_t parts_for(const struct vulkan_device *d, const struct vk_tiling *t,
                          const struct vk_many_in *in, const struct vk_many_out *out, size_t n)
{
	const uint32_t at_once = d->features.units * (SUBGROUPS_AT_ONCE / subgroups_of(t));
	const uint32_t steps = vk_groups(in->cols, t->elements);
	uint32_t groups = 0, best = 1;
	uint64_t sums = 0;
	double most = 0;

	for (size_t i = 0; i < n; i++) {
		groups += vk_groups(in->rows, t->rows) * vk_groups(out[i].w->rows, t->outputs);
		sums += (uint64_t)vk_groups(in->rows, VK_ROW_STEP) * VK_ROW_STEP * out[i].w->rows *
		        sizeof(float);
	}
	for (uint32_t parts = 1; parts <= MOST_PARTS && at_once; parts++) {
		const uint32_t all = groups * parts;
		const double filled = (double)all / (vk_groups(all, at_once) * at_once);

		if (parts > 1 && (parts * sums > d->many.parts_bytes || steps / parts < LEAST_STEPS))
			break;
		if (filled > most * 1.1) {
			most = filled;
			best = parts;
		}
	}
	return best;
}

static int pack(struct vulkan_device *d, const struct vk_many_in *in, uint32_t rows, uint32_t stride)
{
	const struct { uint64_t to, scales, from, picked; uint32_t rows, cols, stride; } p = {
		d->many.halves.address, d->many.scales.address, in->from, in->picked, in->rows,
		in->cols, stride };

	return vk_dispatch(d, VK_PACK_ROWS, 0, &p, sizeof p, (const uint32_t[]){ rows, 1, 1 });
}

static int sum_parts(struct vulkan_device *d, uint64_t to, uint64_t from, uint32_t n, uint32_t parts)
{
	const struct { uint64_t to, from; uint32_t n, parts; } p = { to, from, n, parts };

	return vk_dispatch_over(d, VK_SUM_PARTS, 0, &p, sizeof p, n, 1024);
}

static int multiply_halves(struct vulkan_device *d, const struct vk_many_in *in,
                           const struct vk_many_out *out, size_t n)
{
	const uint32_t which = in->rows > 64;
	const struct vk_tiling *t = &d->many.tiling[which];
	const uint32_t stride = vk_groups(in->cols, ELEMENT_STEP) * ELEMENT_STEP;
	const uint32_t rows = vk_groups(in->rows, VK_ROW_STEP) * VK_ROW_STEP;
	const uint32_t parts = parts_for(d, t, in, out, n), m_groups = vk_groups(in->rows, t->rows);
	uint64_t at = d->many.parts.address;
	int rc = pack(d, in, m_groups * t->rows, stride);

	vk_barrier(d);
	for (size_t i = 0; i < n && rc == 0; i++) {
		const struct vk_weight *w = out[i].w;
		const struct push p = { parts > 1 ? at : out[i].to, d->many.halves.address,
		                        d->many.scales.address, w->span.address, rows, w->cols,
		                        w->rows, stride, vk_groups(stride / t->elements, parts) };

		rc = vk_dispatch_pipeline(d, d->many.coopmat[which][w->type], &p, sizeof p,
		                          (const uint32_t[]){ m_groups, vk_groups(w->rows, t->outputs),
		                                              parts });
		at += (uint64_t)parts * rows * w->rows * sizeof(float);
	}
	if (parts == 1 || rc < 0)
		return rc;
	vk_barrier(d);
	at = d->many.parts.address;
	for (size_t i = 0; i < n && rc == 0; i++) {
		const uint32_t sums = rows * out[i].w->rows;

		rc = sum_parts(d, out[i].to, at, sums, parts);
		at += (uint64_t)parts * sums * sizeof(float);
	}
	return rc;
}

int vk_multiply_many(struct vulkan_device *d, const struct vk_many_in *in,
                     const struct vk_many_out *out, size_t n)
{
	int rc = 0;

	if (vk_skinny_takes(d, out, n))
		return vk_skinny_multiply(d, in, out, n);
	for (size_t i = 0, run; i < n && rc == 0; i += run) {
		const bool halves = takes_halves(d, out[i].w);

		if (i) /* what the run before made of its inputs is written again */
			vk_barrier(d);
		for (run = 1; halves && i + run < n && takes_halves(d, out[i + run].w); run++)
			;
		rc = halves ? multiply_halves(d, in, out + i, run) : multiply_floats(d, in, out + i);
	}
	return rc;
}

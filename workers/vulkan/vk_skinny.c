/* Products of more than a few rows on matrix units, with weights that go from memory into
 * the registers of matrix operations: faster than through the shared memory of vk_many.c,
 * but it takes for granted what Vulkan leaves open, which lane holds what. So that is
 * looked at first; where it is otherwise, these products are not used. */
#include "workers/vulkan/vulkan_device.h"

#include <math.h>
#include <string.h>

#include "base/base.h"

#define CHUNK VK_SKINNY_CHUNK
#define CHUNKED_ROWS 32u       /* the most whose chunks have scales: registers hold no more */
#define SUBGROUP 32u
#define PACK_SIZE 1024u        /* of a work group of pack_skinny.comp, where there are so many */
#define MOST_AT_ONCE 3u        /* matrices of a dispatch */
#define LEAST_STEPS 2u         /* of a part */
#define ROW_STEP 64u           /* rows of the largest work group */
#define STEPS 4u               /* as the shader's */

/* A work group's size, subgroups of it that share outputs, rows / 8, outputs / 16 of a
 * subgroup, whether rows go through shared memory; how many work groups of a compute unit
 * are worth cutting elements into parts for. As an H200 likes them: docs/benchmarks.md. */
struct shape {
	uint32_t size, split, row_tiles, out_tiles, staged, at_once;
};

enum { UP_TO_8, UP_TO_16, UP_TO_32, GATED_UP_TO_8, MORE };   /* and all after it */
static const struct shape shapes[VK_SKINNY_SHAPES] = {
	[UP_TO_8] = { 128, 4, 1, 2, 0, 4 }, [UP_TO_16] = { 256, 2, 2, 2, 1, 2 },
	[UP_TO_32] = { 192, 1, 4, 1, 1, 2 }, [GATED_UP_TO_8] = { 64, 2, 1, 3, 0, 8 },
	[MORE] = { 256, 1, 8, 3, 1, 1 },
	{ 224, 1, 8, 3, 1, 1 }, { 256, 1, 8, 2, 1, 1 } };

/* A lane holds the weights of two blocks for each 8 outputs: types of more than four bits
 * leave room for fewer. */
static struct shape shape_of(uint32_t which, enum gp_type type)
{
	struct shape s = shapes[type != GP_TYPE_Q4_0 && which == GATED_UP_TO_8 ? UP_TO_8 : which];

	if (type != GP_TYPE_Q4_0) {
		s.size += s.out_tiles == 3 ? s.size / 2 : 0;
		s.out_tiles = 1;
	}
	return s;
}

static uint32_t outputs_of(const struct shape *s)
{
	return s->size / SUBGROUP / s->split * s->out_tiles * 16;
}

static uint32_t shared_bytes(const struct shape *s)
{
	const uint32_t sums = s->row_tiles > 4 ? 0 :
	                      s->size / SUBGROUP * s->row_tiles * s->out_tiles * 512;
	const uint32_t rows = s->split * s->row_tiles * s->staged * 4096;

	return (sums > rows ? sums : rows) + 16 + VK_CODE_BYTES;
}

/* ---- whether they can be done ---------------------------------------------------- */
static bool may_be_usable(const struct vk_features *f)
{
	static const enum gp_type types[] = { GP_TYPE_Q4_0, GP_TYPE_Q8_0 }; /* and like it all others */
	bool fits = f->has_16_8_16 && f->lanes == SUBGROUP && vk_has_shader(VK_PROBE_COOPMAT);

	for (size_t i = 0; i < GP_ARRAY_LEN(types); i++)
		for (uint32_t t = 0; t < VK_SKINNY_SHAPES; t++) {
			const struct shape s = shape_of(t, types[i]);

			fits &= s.size <= f->invocations && shared_bytes(&s) <= f->shared_bytes;
		}
	return fits;
}

static int run_probe(struct vulkan_device *d, VkPipeline p, const struct vk_span *to)
{
	int rc;

	memset(to->host, 0, SUBGROUP * sizeof(uint32_t)); /* a lane that writes nothing does not fit */
	if ((rc = vk_begin_commands(d)) < 0 ||
	    (rc = vk_dispatch_pipeline(d, p, &to->address, sizeof to->address,
	                               (const uint32_t[]){ 1, 1, 1 })) < 0)
		return rc;
	return vk_run_commands(d);
}

static int probe(struct vulkan_device *d)
{
	struct vk_arena arena = { .kind = VK_MEMORY_TO_HOST };
	VkPipeline p = VK_NULL_HANDLE;
	struct vk_span found;
	uint32_t fitting = 0;
	int rc;

	if ((rc = vk_take(d, &arena, SUBGROUP * sizeof(uint32_t), "a probe", &found)) == 0 &&
	    (rc = vk_create_pipeline(d, VK_PROBE_COOPMAT, NULL, 0, SUBGROUP, &p)) == 0 &&
	    (rc = run_probe(d, p, &found)) == 0)
		for (uint32_t i = 0; i < SUBGROUP; i++)
			fitting += ((const uint32_t *)(const void *)found.host)[i] == 1;
	d->skinny.usable = fitting == SUBGROUP;
	if (d->is_lost) /* what it still uses must not be given back */
		return rc;
	if (rc < 0)
		gp_log(GP_LOG_INFO, "Vulkan: no products in registers: %s", gp_error());
	d->skinny.is_probed = true;
	vkDestroyPipeline(d->device, p, NULL);
	vk_give_all(d, &arena);
	return 0;
}

/* Sums of work groups along z, of which there are at most so many for each compute unit,
 * and counts of them, which begin at 0 and end there. */
static int take_parts(struct vulkan_device *d)
{
	size_t most = 0, groups = 0;
	int rc;

	for (uint32_t t = 0; t < VK_SKINNY_SHAPES; t++) {
		const size_t n = (size_t)shapes[t].at_once * d->features.units;
		const size_t floats = n * outputs_of(&shapes[t]) * shapes[t].row_tiles * 8;

		most = floats > most ? floats : most;
		groups = n > groups ? n : groups;
	}
	if (!groups)
		return 0;
	if ((rc = vk_take(d, &d->work_arena, most * sizeof(float), "partial sums",
	                  &d->skinny.parts)) < 0 ||
	    (rc = vk_take(d, &d->work_arena, groups * 4, "partial sums", &d->skinny.ended)) < 0 ||
	    (rc = vk_begin_commands(d)) < 0)
		return rc;
	vkCmdFillBuffer(d->commands, d->skinny.ended.buffer, d->skinny.ended.offset, groups * 4, 0);
	return vk_run_commands(d);
}

int vk_skinny_take(struct vulkan_device *d, uint32_t rows, size_t width)
{
	size_t bytes, up;
	int rc = 0;

	if (may_be_usable(&d->features) && !d->skinny.is_probed)
		rc = probe(d);
	if (rc < 0 || !d->skinny.usable)
		return rc;
	if (!gp_size_round_up(width, CHUNK, &bytes) || !gp_size_round_up(rows, ROW_STEP, &up) ||
	    !gp_size_mul(bytes, up, &bytes) || !gp_size_mul(bytes, 2, &bytes))
		return gp_fail(EOVERFLOW, "activations of %u rows are too large; use fewer", rows);
	up += CHUNKED_ROWS * (width / CHUNK + 1);
	if ((rc = vk_take(d, &d->work_arena, bytes, "activations", &d->skinny.rows)) < 0 ||
	    (rc = vk_take(d, &d->work_arena, up * sizeof(float), "activations",
	                  &d->skinny.scales)) < 0)
		return rc;
	return take_parts(d);
}

/* ---- pipelines ------------------------------------------------------------------ */
static struct vk_constants pack_constants(const struct vulkan_device *d, uint32_t cols)
{
	const uint32_t most = d->features.invocations, vectors = cols / 4;
	const uint32_t size = most < PACK_SIZE ? most : PACK_SIZE;

	return (struct vk_constants){ { 0, vk_groups(vectors, size), 0, size } };
}

static int pipeline_for(struct vulkan_device *d, enum gp_type type, uint32_t which,
                        enum vk_skinny_kind kind, VkPipeline *out)
{
	const struct shape s = shape_of(which, type);
	const uint32_t constants[] = { (uint32_t)type, s.size, s.split, s.row_tiles, s.out_tiles,
	                               s.staged, STEPS, kind == VK_SKINNY_GATED,
	                               kind == VK_SKINNY_CHUNKED };
	VkPipeline *p = &d->skinny.pipeline[kind][which][type];
	const int rc = *p ? 0 : vk_create_pipeline(d, VK_MATMUL_SKINNY_COOPMAT, constants,
	                                           GP_ARRAY_LEN(constants), SUBGROUP, p);

	*out = *p;
	return rc;
}

/* The plain ones, which the head may want in any step. Of the others, which take as long
 * to compile, those that steps want are made when these are recorded at load. */
int vk_skinny_prepare(struct vulkan_device *d, enum gp_type type, uint32_t cols)
{
	const struct vk_constants c = pack_constants(d, cols);
	VkPipeline p;
	int rc = 0;

	if (!d->skinny.usable || type == GP_TYPE_F32)
		return 0;
	for (uint32_t t = 0; t < VK_SKINNY_SHAPES && rc == 0; t++)
		if (t != GATED_UP_TO_8)
			rc = pipeline_for(d, type, t, VK_SKINNY_PLAIN, &p);
	return rc < 0 ? rc : vk_variant(d, VK_PACK_SKINNY, &c, &p);
}

void vk_skinny_destroy(struct vulkan_device *d)
{
	for (uint32_t t = 0; t < VK_SKINNY_SHAPES; t++)
		for (uint32_t i = 0; i < VK_TYPES; i++)
			for (uint32_t kind = 0; kind < VK_SKINNY_KINDS; kind++)
				vkDestroyPipeline(d->device, d->skinny.pipeline[kind][t][i], NULL);
}

/* ---- a product ------------------------------------------------------------------ */
bool vk_skinny_takes(const struct vulkan_device *d, const struct vk_many_out *out, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (out[i].w->type == GP_TYPE_F32 || out[i].w->cols % VK_SKINNY_COLS)
			return false;
	return d->skinny.usable;
}

bool vk_skinny_reads(const struct vulkan_device *d, enum gp_buffer b)
{
	return d->skinny.usable && b == GP_BUF_NORMED && d->rows > VK_FEW_ROWS_SKINNY &&
	       d->width[b] % VK_SKINNY_COLS == 0;
}

bool vk_skinny_reads_chunks(const struct vulkan_device *d)
{
	return d->skinny.usable && d->rows > VK_FEW_ROWS_SKINNY && d->rows <= CHUNKED_ROWS;
}

/* With the barrier after. */
static int pack(struct vulkan_device *d, const struct vk_many_in *in)
{
	const struct { uint64_t to, scales, from, picked; uint32_t vectors; } p = {
		d->skinny.rows.address, d->skinny.scales.address, in->from, in->picked, in->cols / 4 };
	const struct vk_constants c = pack_constants(d, in->cols);
	const int rc = vk_dispatch_variant(d, VK_PACK_SKINNY, &c, &p, sizeof p,
	                                   (const uint32_t[]){ in->rows, 1, 1 });

	vk_barrier(d);
	return rc;
}

struct push {                  /* as in matmul_skinny_coopmat.comp */
	uint64_t from, scales, w[MOST_AT_ONCE], to[MOST_AT_ONCE], parts, ended;
	uint32_t n[MOST_AT_ONCE], rows, cols, steps;
	float factor[MOST_AT_ONCE];
};
_Static_assert(sizeof(struct push) <= VK_PUSH_BYTES, "what every device takes");

/* Brings the largest of a matrix's scales just below 2 ^ 15. */
static float factor_of(const struct vk_weight *w)
{
	int exponent;

	frexpf(w->largest_scale, &exponent);
	return ldexpf(1, 15 - exponent);
}

/* Work groups of these outputs and rows. */
static uint32_t groups_of(const struct shape *s, uint32_t rows, const struct vk_many_out *out,
                          size_t n)
{
	uint32_t groups = 0;

	for (size_t i = 0; i < n; i++)
		groups += vk_groups(out[i].w->rows, outputs_of(s));
	return groups * vk_groups(rows, s->row_tiles * 8);
}

/* Wider work groups multiply faster, unless more of them stand idle at the end. */
static uint32_t shape_for(const struct vulkan_device *d, uint32_t rows,
                          const struct vk_many_out *out, size_t n, enum vk_skinny_kind kind)
{
	const uint32_t units = d->features.units ? d->features.units : 1;
	uint32_t best = MORE, least = UINT32_MAX;

	if (rows <= 8)
		return kind == VK_SKINNY_GATED ? GATED_UP_TO_8 : UP_TO_8;
	if (rows <= 32)
		return rows <= 16 ? UP_TO_16 : UP_TO_32;
	for (uint32_t i = MORE; i < VK_SKINNY_SHAPES; i++) {
		const struct shape s = shape_of(i, out[0].w->type);
		const uint32_t cost = vk_groups(groups_of(&s, rows, out, n), units) * outputs_of(&s);

		if (cost < least) {
			least = cost;
			best = i;
		}
	}
	return best;
}

/* Into how many parts elements are cut where outputs alone are too few work groups. */
static uint32_t parts_for(const struct vulkan_device *d, const struct shape *s, uint32_t groups,
                          uint32_t steps)
{
	const uint32_t parts = s->at_once * d->features.units / groups;
	const uint32_t most = steps / LEAST_STEPS;

	return parts < 1 || most < 1 ? 1 : parts < most ? parts : most;
}

/* Matrices of one type, as many as one dispatch takes. */
static int multiply(struct vulkan_device *d, const struct vk_many_in *in,
                    const struct vk_many_out *out, size_t n, enum vk_skinny_kind kind)
{
	const enum gp_type type = out[0].w->type;
	const uint32_t which = shape_for(d, in->rows, out, n, kind);
	const struct shape s = shape_of(which, type);
	const uint32_t groups = groups_of(&s, in->rows, out, n);
	const uint32_t row_groups = vk_groups(in->rows, s.row_tiles * 8);
	const uint32_t steps = vk_groups(in->cols, s.split * CHUNK);
	struct push p = { .from = d->skinny.rows.address, .scales = d->skinny.scales.address,
	                  .parts = d->skinny.parts.address, .ended = d->skinny.ended.address,
	                  .rows = in->rows, .cols = in->cols };
	VkPipeline pipeline;
	const int rc = pipeline_for(d, type, which, kind, &pipeline);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < n; i++) {
		p.w[i] = out[i].w->span.address;
		p.to[i] = out[i].to;
		p.n[i] = out[i].w->rows;
		p.factor[i] = factor_of(out[i].w);
	}
	p.steps = vk_groups(steps, parts_for(d, &s, groups, steps));
	return vk_dispatch_pipeline(d, pipeline, &p, sizeof p,
	                            (const uint32_t[]){ row_groups, groups / row_groups,
	                                                vk_groups(steps, p.steps) });
}

/* If who wrote the input did not do it, or another's came after. */
static int pack_once(struct vulkan_device *d, const struct vk_many_in *in)
{
	const bool packed = d->skinny.packed == in->from && !in->picked;

	d->skinny.packed = 0;
	d->skinny.by_chunk &= packed;
	return packed ? 0 : pack(d, in);
}

int vk_skinny_multiply(struct vulkan_device *d, const struct vk_many_in *in,
                       const struct vk_many_out *out, size_t n)
{
	int rc = pack_once(d, in);
	const enum vk_skinny_kind kind = d->skinny.by_chunk ? VK_SKINNY_CHUNKED : VK_SKINNY_PLAIN;

	for (size_t i = 0, run; i < n && rc == 0; i += run) {
		for (run = 1; i + run < n && run < MOST_AT_ONCE; run++)
			if (out[i + run].w->type != out[i].w->type)
				break;
		if (i) /* partial sums have one place */
			vk_barrier(d);
		rc = multiply(d, in, out + i, run, kind);
	}
	return rc;
}

int vk_skinny_gated(struct vulkan_device *d, const struct vk_many_in *in,
                    const struct vk_many_out out[2])
{
	const int rc = pack_once(d, in);

	return rc < 0 ? rc : multiply(d, in, out, 2, VK_SKINNY_GATED);
}

/* Rows to tiles and back. */
#include "kernels/aie/aie.h"

#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

const struct gp_aie_form_info gp_aie_forms[GP_AIE_FORMS] = {
	[GP_AIE_GEMM_INT4] = {
		"gemm-int4-32x256x64", GP_AIE_INT4_M, GP_AIE_INT4_K, GP_AIE_INT4_N,
		sizeof(struct gp_aie_int4_x), sizeof(struct gp_aie_int4_w), sizeof(struct gp_aie_int4_y),
		false,
	},
	[GP_AIE_GEMM_BF16] = {
		"gemm-bf16-64x64x64", GP_AIE_BF16_M, GP_AIE_BF16_K, GP_AIE_BF16_N,
		sizeof(struct gp_aie_bf16_x), sizeof(struct gp_aie_bf16_w), sizeof(struct gp_aie_bf16_y),
		false,
	},
	[GP_AIE_GEMV_INT4] = {
		"gemv-int4-1x256x64", 1, GP_AIE_INT4_K, GP_AIE_INT4_N,
		sizeof(struct gp_aie_gemv_x), sizeof(struct gp_aie_int4_w), sizeof(struct gp_aie_gemv_y),
		true,
	},
};

const struct gp_aie_form_info *gp_aie_form_by_name(const char *name)
{
	for (unsigned i = 0; i < GP_AIE_FORMS; i++)
		if (strcmp(gp_aie_forms[i].name, name) == 0)
			return &gp_aie_forms[i];
	return NULL;
}

/* ---- activations ------------------------------------------------------------- */
static const float *row_of(const struct gp_aie_piece *p, uint32_t row)
{
	return p->data + row * p->stride;
}

static float scale_of(const float *x, uint32_t k)
{
	float largest = 0;

	for (uint32_t i = 0; i < k; i++) {
		if (!isfinite(x[i]))
			return x[i];
		largest = fmaxf(largest, fabsf(x[i]));
	}
	return largest / 127;
}

void gp_aie_pack_int4_x(struct gp_aie_int4_x *tile, const struct gp_aie_piece *x)
{
	memset(tile->scale, 0, sizeof tile->scale);
	memset(tile->q, 0, sizeof tile->q);
	for (uint32_t m = 0; m < x->rows; m++) {
		const float *row = row_of(x, m), scale = scale_of(row, x->k);
		const float inverse = scale > 0 && isfinite(scale) ? 1 / scale : 0;
		int8_t *to = tile->q + (m / 4 * (GP_AIE_INT4_K / 16)) * 64 + m % 4 * 16;

		tile->scale[m] = scale;
		/* A scale that small leaves an infinite inverse: such a row is zero in effect. */
		if (!isfinite(inverse) || inverse == 0)
			continue;
		for (uint32_t k = 0; k < x->k; k++)
			to[k / 16 * 64 + k % 16] = (int8_t)lrintf(fminf(fmaxf(row[k] * inverse, -127), 127));
	}
}

void gp_aie_pack_bf16_x(struct gp_aie_bf16_x *tile, const struct gp_aie_piece *x)
{
	memset(tile->x, 0, sizeof tile->x);
	for (uint32_t m = 0; m < x->rows; m++) {
		const float *row = row_of(x, m);
		uint16_t *to = tile->x + (m / 4 * (GP_AIE_BF16_K / 8)) * 32 + m % 4 * 8;

		for (uint32_t k = 0; k < x->k; k++)
			to[k / 8 * 32 + k % 8] = gp_f32_to_bf16(row[k]);
	}
}

void gp_aie_pack_gemv_x(struct gp_aie_gemv_x *tile, const struct gp_aie_piece *x)
{
	memset(tile->x, 0, sizeof tile->x);
	for (uint32_t k = 0; x->rows && k < x->k; k++)
		tile->x[k] = gp_f32_to_bf16(x->data[k]);
}

/* ---- weights ----------------------------------------------------------------- */
void gp_aie_pack_bf16_w(struct gp_aie_bf16_w *tile, const struct gp_aie_piece *w)
{
	memset(tile->w, 0, sizeof tile->w);
	for (uint32_t n = 0; n < w->rows; n++) {
		const float *row = row_of(w, n);
		uint16_t *to = tile->w + (n / 4 * (GP_AIE_BF16_K / 8)) * 32 + n % 4;

		for (uint32_t k = 0; k < w->k; k++)
			to[(k / 8) * 32 + k % 8 * 4] = gp_f32_to_bf16(row[k]);
	}
}

struct q4_0 {
	uint16_t d;
	uint8_t q[16];         /* elements i and i + 16, each plus 8 */
};
_Static_assert(sizeof(struct q4_0) == 18, "GGUF's block");

/* The scales of a row's slice as integers times the step that is returned. */
static float integer_scales(const struct q4_0 *b, uint32_t groups, int16_t t[GP_AIE_INT4_GROUPS])
{
	float d[GP_AIE_INT4_GROUPS], largest = 0;

	for (uint32_t g = 0; g < groups; g++) {
		d[g] = gp_f16_to_f32(b[g].d);
		largest = fmaxf(largest, fabsf(d[g]));
	}
	/* Not finite scales are found by whoever reads the file; here they must not trap. */
	if (!(largest > 0) || !isfinite(largest))
		return 0;
	const float step = largest / GP_AIE_INT4_MAX_T;
	for (uint32_t g = 0; g < groups; g++)
		t[g] = (int16_t)lrintf(fminf(fmaxf(d[g] / step, -GP_AIE_INT4_MAX_T), GP_AIE_INT4_MAX_T));
	return step;
}

static int code_of(const struct q4_0 *b, uint32_t k)
{
	const uint8_t two = b[k / 32].q[k % 16];

	return (k % 32 < 16 ? two & 15 : two >> 4) - 8;
}

/* One output's slice into its part. */
static void pack_output(struct gp_aie_int4_part *part, uint32_t n, const struct q4_0 *b, uint32_t k)
{
	int16_t t[GP_AIE_INT4_GROUPS] = { 0 };
	uint8_t *q = part->q + n / 8 * (GP_AIE_INT4_K * 4) + n % 8 / 2;

	part->step[n] = integer_scales(b, k / GP_AIE_INT4_GROUP, t);
	for (uint32_t g = 0; g < GP_AIE_INT4_GROUPS; g++)
		part->t[(n / 8 * GP_AIE_INT4_GROUPS + g) * 8 + n % 8] = t[g];
	for (uint32_t i = 0; i < k; i++) {
		const unsigned code = (unsigned)code_of(b, i) & 15;

		q[i * 4] = (uint8_t)(q[i * 4] | code << (n % 2 * 4));
	}
}

void gp_aie_pack_int4_w(struct gp_aie_int4_w *tile, const void *q4_0, size_t stride,
                        uint32_t rows, uint32_t k)
{
	memset(tile, 0, sizeof *tile);
	for (uint32_t n = 0; n < rows; n++)
		pack_output(&tile->part[n / GP_AIE_INT4_PART_N], n % GP_AIE_INT4_PART_N,
		            (const void *)((const char *)q4_0 + n * stride), k);
}

/* ---- results ----------------------------------------------------------------- */
/* Of a tile of m rows in blocks of 4 rows by `wide` outputs, down first. */
static float *unpack_tile(const float *tile, uint32_t m, uint32_t wide, float *y, size_t stride,
                          uint32_t rows, uint32_t columns)
{
	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t n = 0; n < columns; n++)
			y[r * stride + n] = tile[(n / wide * (m / 4) + r / 4) * 4 * wide +
			                         r % 4 * wide + n % wide];
	return y + rows * stride;
}

void gp_aie_unpack_y(enum gp_aie_form form, const void *tiles, float *y, size_t stride,
                     uint32_t rows, uint32_t columns)
{
	const struct gp_aie_form_info *f = &gp_aie_forms[form];
	const float *tile = tiles;

	if (form == GP_AIE_GEMV_INT4) {
		memcpy(y, tile, rows ? columns * sizeof *y : 0);
		return;
	}
	for (uint32_t done = 0; done < rows; done += f->m, tile += f->m * f->n)
		y = unpack_tile(tile, f->m, form == GP_AIE_GEMM_INT4 ? 8 : 4, y, stride,
		                rows - done < f->m ? rows - done : f->m, columns);
}

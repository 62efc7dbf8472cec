/* Rows of weights to a block format. With a factor, GPTQ: columns are rounded in order, and
 * what an earlier column lost is made good by the later ones, as far as they can. */
#include <cblas.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "quantize/internal.h"

enum { PANEL = 256 };          /* columns whose errors reach the rest together */

struct encoder {
	const struct gp_encoding *e;
	const struct gp_format *f;
	size_t row_bytes, block_bytes;
	float *errors;             /* [rows][PANEL], compensating only */
	float *weight;             /* [cols]: of an element in a block's search */
};

/* What the columns behind could make good is no loss: an error of column j costs its square
 * over U[j][j]^2. */
static void weigh(const struct gp_encoding *e, float *weight)
{
	for (size_t j = 0; j < e->cols; j++) {
		const float u = e->factor ? e->factor[j * e->cols + j] : 0;

		weight[j] = e->factor ? 1 / (u * u) : e->importance ? e->importance[j] : 1;
	}
}

/* ---- without compensation --------------------------------------------------------------- */
static double encode_block(const struct encoder *c, const float *x, const float *weight,
                           uint8_t *out)
{
	const struct gp_format *f = c->f;
	int8_t code[GP_MOST_BLOCK];
	struct gp_grid g;
	double sum = 0;

	gp_grid_fit(f, x, weight, &g);
	for (uint32_t i = 0; i < f->block; i++) {
		const uint32_t p = i / (f->block / f->parts);
		const float step = g.step[p], base = g.base[p];

		code[i] = gp_format_code(f, step != 0.0f ? (x[i] - base) / step : 0.0f);
		const double e = (double)(x[i] - base - step * gp_format_value(f, code[i]));
		sum += (double)weight[i] * e * e;
	}
	f->pack(&g, code, out);
	return sum;
}

static double encode_rows(const struct encoder *c, const float *w, uint32_t rows, uint8_t *out)
{
	const uint32_t cols = c->e->cols;
	double sum = 0;

	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t b = 0; b < cols / c->f->block; b++)
			sum += encode_block(c, w + (size_t)r * cols + b * c->f->block,
			                    c->weight + b * c->f->block,
			                    out + r * c->row_bytes + b * c->block_bytes);
	return sum;
}

/* ---- with compensation ------------------------------------------------------------------- */
/* Columns [at, at + block) of a row; errors: as many. The columns up to end learn of each. */
static void compensate_block(const struct encoder *c, float *row, uint32_t at, uint32_t end,
                             float *errors, uint8_t *out)
{
	const struct gp_format *f = c->f;
	const size_t cols = c->e->cols;
	int8_t code[GP_MOST_BLOCK];
	struct gp_grid g;

	gp_grid_fit(f, row + at, c->weight + at, &g);
	for (uint32_t i = 0; i < f->block; i++) {
		const uint32_t p = i / (f->block / f->parts), j = at + i;
		const float step = g.step[p], base = g.base[p];
		const float *u = c->e->factor + j * cols;

		code[i] = gp_format_code(f, step != 0.0f ? (row[j] - base) / step : 0.0f);
		const float e = (row[j] - base - step * gp_format_value(f, code[i])) / u[j];

		errors[i] = e;
		for (uint32_t k = j + 1; k < end; k++)
			row[k] -= e * u[k];
	}
	f->pack(&g, code, out);
}

static double compensate_rows(const struct encoder *c, float *w, uint32_t rows, uint8_t *out)
{
	const uint32_t cols = c->e->cols;
	double sum = 0;

	for (uint32_t at = 0; at < cols; at += PANEL) {
		const uint32_t end = at + PANEL < cols ? at + PANEL : cols, n = end - at;

		for (uint32_t r = 0; r < rows; r++)
			for (uint32_t b = at; b < end; b += c->f->block)
				compensate_block(c, w + (size_t)r * cols, b, end,
				                 c->errors + r * PANEL + (b - at),
				                 out + r * c->row_bytes + b / c->f->block * c->block_bytes);
		for (uint32_t r = 0; r < rows; r++)
			for (uint32_t i = 0; i < n; i++)
				sum += (double)c->errors[r * PANEL + i] * (double)c->errors[r * PANEL + i];
		if (end < cols)
			cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows,
			            (int)(cols - end), (int)n, -1, c->errors, PANEL,
			            c->e->factor + (size_t)at * cols + end, (int)cols, 1, w + end,
			            (int)cols);
	}
	return sum;
}

/* ---- all ------------------------------------------------------------------------------------ */
/* Types without a grid are exact enough for no search. The error is not counted. */
static int encode_plain(const struct gp_encoding *e, const float *w, uint32_t rows, uint8_t *out)
{
	return gp_quantize(e->type, w, out, (size_t)rows * e->cols);
}

int gp_encode(const struct gp_encoding *e, float *w, uint32_t rows, uint8_t *out, double *error)
{
	const struct gp_type_info *info = gp_type_info(e->type);
	struct encoder c = { .e = e, .f = gp_format_of(e->type) };
	int rc = 0;

	*error = 0;
	if (!c.f || e->nearest)
		return encode_plain(e, w, rows, out);
	if (e->cols % info->block_elems)
		return gp_fail(EINVAL, "%s: %u columns are no multiple of its block of %u; choose "
		               "another type", info->name, e->cols, info->block_elems);
	c.block_bytes = info->block_bytes;
	c.row_bytes = e->cols / info->block_elems * c.block_bytes;
	c.weight = calloc(e->cols, sizeof *c.weight);
	c.errors = e->factor ? calloc((size_t)rows * PANEL, sizeof *c.errors) : NULL;
	if (!c.weight || (e->factor && !c.errors)) {
		rc = gp_fail(ENOMEM, "no memory to encode %u rows of %u", rows, e->cols);
	} else {
		weigh(e, c.weight);
		*error = e->factor ? compensate_rows(&c, w, rows, out) : encode_rows(&c, w, rows, out);
	}
	free(c.weight);
	free(c.errors);
	return rc;
}

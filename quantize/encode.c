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
/* What rows become before they are packed. */
struct rows {
	uint32_t n;
	float *w, *was;            /* [n][cols]: with what earlier columns left to make good; as wanted */
	float *errors;             /* [n][PANEL] */
	int8_t *code;              /* [n][cols] */
	struct gp_grid *grid;      /* [n][cols / block] */
};

/* Columns [at, at + block) of a row; errors: as many. The columns up to end learn of each. */
static void compensate_block(const struct encoder *c, float *row, uint32_t at, uint32_t end,
                             float *errors, int8_t *code, struct gp_grid *g)
{
	const struct gp_format *f = c->f;
	const size_t cols = c->e->cols;

	gp_grid_fit(f, row + at, c->weight + at, g);
	for (uint32_t i = 0; i < f->block; i++) {
		const uint32_t p = i / (f->block / f->parts), j = at + i;
		const float step = g->step[p], base = g->base[p];
		const float *u = c->e->factor + j * cols;

		code[i] = gp_format_code(f, step != 0.0f ? (row[j] - base) / step : 0.0f);
		const float e = (row[j] - base - step * gp_format_value(f, code[i])) / u[j];

		errors[i] = e;
		for (uint32_t k = j + 1; k < end; k++)
			row[k] -= e * u[k];
	}
}

static void compensate_rows(const struct encoder *c, const struct rows *r)
{
	const uint32_t cols = c->e->cols, block = c->f->block;

	for (uint32_t at = 0; at < cols; at += PANEL) {
		const uint32_t end = at + PANEL < cols ? at + PANEL : cols, n = end - at;

		for (size_t i = 0; i < r->n; i++)
			for (uint32_t b = at; b < end; b += block)
				compensate_block(c, r->w + i * cols, b, end, r->errors + i * PANEL + (b - at),
				                 r->code + i * cols + b, &r->grid[(i * cols + b) / block]);
		if (end < cols)
			cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)r->n,
			            (int)(cols - end), (int)n, -1, r->errors, PANEL,
			            c->e->factor + (size_t)at * cols + end, (int)cols, 1, r->w + end,
			            (int)cols);
	}
}

/* What is wanted of rows that will not read what they were made for. */
static void shift_rows(const struct encoder *c, const struct rows *r)
{
	const int cols = (int)c->e->cols;

	cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)r->n, cols, cols, 1, r->w, cols,
	            c->e->shift, cols, 1, r->was, cols);
	memcpy(r->w, r->was, (size_t)r->n * c->e->cols * sizeof *r->w);
}

/* w: what elements are read back as, less what they were. */
static void take_errors(const struct encoder *c, const struct rows *r)
{
	const struct gp_format *f = c->f;

	for (size_t i = 0; i < (size_t)r->n * c->e->cols; i++) {
		const struct gp_grid *g = &r->grid[i / f->block];
		const size_t p = i % f->block / (f->block / f->parts);

		r->w[i] = g->step[p] * gp_format_value(f, r->code[i]) + g->base[p] - r->was[i];
	}
}

static void pack_rows(const struct encoder *c, const struct rows *r, uint8_t *out)
{
	const size_t blocks = (size_t)r->n * c->e->cols / c->f->block;

	for (size_t b = 0; b < blocks; b++)
		c->f->pack(&r->grid[b], r->code + b * c->f->block, out + b * c->block_bytes);
}

static int encode_compensating(const struct encoder *c, float *w, uint32_t n, uint8_t *out,
                               double *error)
{
	const size_t all = (size_t)n * c->e->cols;
	struct rows r = {
		.n = n, .w = w, .was = malloc(all * sizeof(float)),
		.errors = malloc((size_t)n * PANEL * sizeof(float)), .code = malloc(all),
		.grid = malloc(all / c->f->block * sizeof(struct gp_grid)),
	};
	int rc = 0;

	if (!r.was || !r.errors || !r.code || !r.grid) {
		rc = gp_fail(ENOMEM, "no memory to encode %u rows of %u", n, c->e->cols);
	} else {
		memcpy(r.was, w, all * sizeof *w);
		if (c->e->shift)
			shift_rows(c, &r);
		compensate_rows(c, &r);
		take_errors(c, &r);
		const struct gp_descent d = { c->f, n, c->e->cols, c->e->factor, c->e->diagonal, r.code,
		                              r.grid, w };

		if ((rc = gp_descend(&d, error)) == 0)
			pack_rows(c, &r, out);
	}
	free(r.was);
	free(r.errors);
	free(r.code);
	free(r.grid);
	return rc;
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
	if (!c.weight)
		return gp_fail(ENOMEM, "no memory to encode %u rows of %u", rows, e->cols);
	weigh(e, c.weight);
	if (e->factor)
		rc = encode_compensating(&c, w, rows, out, error);
	else
		*error = encode_rows(&c, w, rows, out);
	free(c.weight);
	return rc;
}

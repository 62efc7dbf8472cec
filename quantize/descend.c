/* Coordinate descent: codes, scales and minima of rows that are encoded already, one after the
 * other set to the best for what all others are, until little changes. Error compensation decides
 * each column before it knows how the later ones round; here every one knows all others.
 *
 * With e the errors of a row, M the moments of the inputs and g = e M, a change of the row by d
 * changes the error e M e^T by 2 d g^T + d M d^T, and g by d M. Within a panel of columns g is
 * exact all the time; the other panels learn of its changes together. */
#include <cblas.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "quantize/internal.h"

/* Of what sweeps without end would gain, four gain nine tenths. */
enum { PANEL = 256, SWEEPS = 4 };

struct panel {
	const struct gp_format *f;
	uint32_t at, n;            /* columns */
	float *m;                  /* [n][PANEL]: the moments among them */
	float *change;             /* [rows][PANEL] */
	/* of the row in hand */
	float *g, *d;              /* [n] */
};

/* ---- one row, one panel -------------------------------------------------------------------- */
static void shift(const struct panel *p, uint32_t i, float by)
{
	p->d[i] += by;
	cblas_saxpy((int)p->n, by, p->m + (size_t)i * PANEL, 1, p->g, 1);
}

static void descend_codes(const struct panel *p, uint32_t at, int8_t *code, const struct gp_grid *g)
{
	const struct gp_format *f = p->f;

	for (uint32_t i = 0; i < f->block; i++) {
		const uint32_t part = i / (f->block / f->parts), j = at + i;
		const float step = g->step[part], bend = p->m[j * PANEL + j] * step;
		const float now = gp_format_value(f, code[i]);
		int8_t to;

		/* Too small or too large for floats: the code stays. */
		if (bend == 0.0f || !isfinite(bend) || !isfinite(p->g[j]))
			continue;
		to = gp_format_code(f, now - p->g[j] / bend);
		if (to == code[i])
			continue;
		code[i] = to;
		shift(p, j, step * (gp_format_value(f, to) - now));
	}
}

/* How far to go along u, of the elements [at, at + n): least squares. Finite, whatever g is. */
static float best_along(const struct panel *p, uint32_t at, uint32_t n, const float *u)
{
	double slope = 0, bend = 0;
	float by;

	for (uint32_t i = 0; i < n; i++) {
		const float *m = p->m + (size_t)(at + i) * PANEL + at;

		slope += (double)u[i] * (double)p->g[at + i];
		if (u[i] != 0.0f)
			bend += (double)u[i] * (double)cblas_sdot((int)n, m, 1, u, 1);
	}
	by = bend > 0 ? (float)(-slope / bend) : 0;
	return isfinite(by) ? by : 0;
}

static void go_along(const struct panel *p, uint32_t at, uint32_t n, const float *u, float by)
{
	for (uint32_t i = 0; i < n && by != 0.0f; i++)
		if (u[i] != 0.0f)
			shift(p, at + i, by * u[i]);
}

static int whole_beside(int now, float by, int least, int most)
{
	const float v = (float)now + rintf(by);

	return v < (float)least ? least : v > (float)most ? most : (int)v;
}

static void descend_parts(const struct panel *p, uint32_t at, const int8_t *code, struct gp_grid *g)
{
	const struct gp_format *f = p->f;
	const uint32_t n = f->block / f->parts;
	float u[GP_MOST_BLOCK];

	for (uint32_t k = 0; k < f->parts; k++) {
		const uint32_t first = at + k * n;
		float by;
		int to;

		for (uint32_t i = 0; i < n; i++)
			u[i] = g->d * gp_format_value(f, code[k * n + i]);
		by = best_along(p, first, n, u);
		to = whole_beside(g->scale[k], by, f->scale_least, f->scale_most);
		go_along(p, first, n, u, (float)(to - g->scale[k]));
		g->scale[k] = (int8_t)to;
		if (!f->min_most)
			continue;
		for (uint32_t i = 0; i < n; i++)
			u[i] = -g->dmin;
		by = best_along(p, first, n, u);
		to = whole_beside(g->min[k], by, 0, f->min_most);
		go_along(p, first, n, u, (float)(to - g->min[k]));
		g->min[k] = (uint8_t)to;
	}
}

/* d, and the whole block with it. */
static void descend_factor(const struct panel *p, uint32_t at, const int8_t *code,
                           struct gp_grid *g)
{
	const struct gp_format *f = p->f;
	float u[GP_MOST_BLOCK];

	for (uint32_t i = 0; i < f->block; i++)
		u[i] = (f->parts == 1 ? 1.0f : (float)g->scale[i / (f->block / f->parts)]) *
		       gp_format_value(f, code[i]);
	const float want = best_along(p, at, f->block, u);
	const float to = gp_f16_to_f32(gp_f32_to_f16(g->d + want));
	const float by = to - g->d;

	/* by is want, rounded: it may be past what still pays. */
	if (by == 0.0f || !(fabsf(by - want) < fabsf(want)) || !isfinite(to))
		return;
	go_along(p, at, f->block, u, by);
	g->d = to;
}

static void descend_block(const struct panel *p, uint32_t at, int8_t *code, struct gp_grid *g)
{
	descend_codes(p, at, code, g);
	if (p->f->parts > 1)
		descend_parts(p, at, code, g);
	descend_factor(p, at, code, g);
	gp_grid_steps(p->f, g);
}

/* ---- all rows ------------------------------------------------------------------------------ */
static void load_panel(const struct gp_descent *d, struct panel *p)
{
	for (uint32_t i = 0; i < p->n; i++)
		for (uint32_t j = 0; j <= i; j++) {
			const size_t r = p->at + i, c = p->at + j;

			p->m[i * PANEL + j] = p->m[j * PANEL + i] = i == j ? d->diagonal[r] :
				d->moments[r * d->cols + c];
		}
}

/* The columns before and behind the panel: below the diagonal lie the moments. */
static void tell_others(const struct gp_descent *d, const struct panel *p, float *g)
{
	const size_t cols = d->cols, end = p->at + p->n;

	if (p->at)
		cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)d->rows, (int)p->at,
		            (int)p->n, 1, p->change, PANEL, d->moments + p->at * cols, (int)cols, 1,
		            g, (int)cols);
	if (end < cols)
		cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)d->rows,
		            (int)(cols - end), (int)p->n, 1, p->change, PANEL,
		            d->moments + end * cols + p->at, (int)cols, 1, g + end, (int)cols);
}

static void sweep_panel(const struct gp_descent *d, struct panel *p, float *g)
{
	load_panel(d, p);
	memset(p->change, 0, (size_t)d->rows * PANEL * sizeof *p->change);
	for (size_t r = 0; r < d->rows; r++) {
		p->g = g + r * d->cols + p->at;
		p->d = p->change + r * PANEL;
		for (uint32_t b = 0; b < p->n; b += p->f->block)
			descend_block(p, b, d->code + r * d->cols + p->at + b,
			              &d->grid[(r * d->cols + p->at + b) / p->f->block]);
		for (uint32_t i = 0; i < p->n; i++)
			d->error[r * d->cols + p->at + i] += p->d[i];
	}
	tell_others(d, p, g);
}

static void sweep(const struct gp_descent *d, struct panel *p, float *g)
{
	for (p->at = 0; p->at < d->cols; p->at += PANEL) {
		p->n = d->cols - p->at < PANEL ? d->cols - p->at : PANEL;
		sweep_panel(d, p, g);
	}
}

static double sum_of(const struct gp_descent *d, const float *g)
{
	double sum = 0;

	for (size_t i = 0; i < (size_t)d->rows * d->cols; i++)
		sum += (double)g[i] * (double)d->error[i];
	return sum;
}

/* g = error M, of a diagonal and what is below it. */
static void begin(const struct gp_descent *d, struct panel *p, float *g)
{
	memset(g, 0, (size_t)d->rows * d->cols * sizeof *g);
	for (p->at = 0; p->at < d->cols; p->at += PANEL) {
		p->n = d->cols - p->at < PANEL ? d->cols - p->at : PANEL;
		load_panel(d, p);
		for (size_t r = 0; r < d->rows; r++)
			memcpy(p->change + r * PANEL, d->error + r * d->cols + p->at,
			       p->n * sizeof(float));
		cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)d->rows, (int)p->n,
		            (int)p->n, 1, p->change, PANEL, p->m, PANEL, 1, g + p->at, (int)d->cols);
		tell_others(d, p, g);
	}
}

int gp_descend(const struct gp_descent *d, double *sum)
{
	float *g = malloc((size_t)d->rows * d->cols * sizeof *g);
	struct panel p = { .f = d->f, .m = malloc(PANEL * PANEL * sizeof(float)),
	                   .change = malloc((size_t)d->rows * PANEL * sizeof(float)) };
	int rc = 0;

	if (!g || !p.m || !p.change) {
		rc = gp_fail(ENOMEM, "no memory to improve %u rows of %u", d->rows, d->cols);
	} else {
		begin(d, &p, g);
		for (int s = 0; s < SWEEPS; s++)
			sweep(d, &p, g);
		*sum = sum_of(d, g);
	}
	free(g);
	free(p.m);
	free(p.change);
	return rc;
}

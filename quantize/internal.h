/* What the files of quantize/ share. */
#ifndef GP_QUANTIZE_INTERNAL_H
#define GP_QUANTIZE_INTERNAL_H

#include <math.h>

#include "quantize/quantize.h"

/* The code whose value is nearest to v. */
int8_t gp_format_code(const struct gp_format *f, float v);
float gp_format_value(const struct gp_format *f, int8_t code);

/* sums_*.c: over n elements and the values v of their nearest codes. */
struct gp_grid_sums {
	float wv, wxv, wvv;
};
typedef void gp_grid_sums_fn(const struct gp_format *f, const float *x, const float *w, uint32_t n,
                             float step, float base, struct gp_grid_sums *s);
typedef float gp_grid_squares_fn(const struct gp_format *f, const float *x, const float *w,
                                 uint32_t n, float step, float base);
gp_grid_sums_fn gp_grid_sums_any, gp_grid_sums_avx2;
gp_grid_squares_fn gp_grid_squares_any, gp_grid_squares_avx2; /* sum w (x - base - step v)^2 */

/* descend.c: rows whose codes and grids are chosen already, each code and scale once more the best
 * for what all others are. Of an element j of row r, error[r * cols + j] is what it is read back as,
 * less what it should be. Codes, grids and errors change; moments and diagonal are of
 * gp_moments_factor. *sum: of error M error^T over the rows. */
struct gp_descent {
	const struct gp_format *f;
	uint32_t rows, cols;
	const float *moments, *diagonal;
	int8_t *code;                     /* [rows][cols] */
	struct gp_grid *grid;             /* [rows][cols / block] */
	float *error;                     /* [rows][cols] */
};
int gp_descend(const struct gp_descent *d, double *sum);

/* search.c: the grid for x that makes sum w (x - nearest)^2 small. */
void gp_grid_fit(const struct gp_format *f, const float *x, const float *w, struct gp_grid *g);

#endif

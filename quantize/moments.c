#include <cblas.h>
#include <math.h>
#include <stdlib.h>

#include "base/base.h"
#include "quantize/quantize.h"

/* LAPACK, by Fortran's rules: column-major, everything by address. */
void spotrf_(const char *uplo, const int *n, float *a, const int *lda, int *info);
void strtri_(const char *uplo, const char *diag, const int *n, float *a, const int *lda, int *info);

int gp_moments_init(struct gp_moments *m, uint32_t width, bool whole)
{
	size_t n = width;

	*m = (struct gp_moments){ .width = width };
	m->diagonal = calloc(n, sizeof *m->diagonal);
	if (m->diagonal && whole && gp_size_mul(n, n, &n))
		m->matrix = calloc(n, sizeof *m->matrix);
	if (!m->diagonal || (whole && !m->matrix)) {
		gp_moments_free(m);
		return gp_fail(ENOMEM, "no memory for the moments of %u inputs; "
		               "quantize without error compensation", width);
	}
	return 0;
}

void gp_moments_free(struct gp_moments *m)
{
	free(m->diagonal);
	free(m->matrix);
	*m = (struct gp_moments){ 0 };
}

/* cblas numbers the triangles by rows: ours is the upper one. */
void gp_moments_add(struct gp_moments *m, const float *x, uint32_t rows, uint32_t n_threads)
{
	const int width = (int)m->width;

	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t i = 0; i < m->width; i++) {
			const float v = x[(size_t)r * m->width + i];

			m->diagonal[i] += v * v;
		}
	if (m->matrix) {
		openblas_set_num_threads((int)n_threads);
		cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, width, (int)rows, 1, x, width, 1,
		            m->matrix, width);
	}
	m->rows += rows;
}

/* First to last: turns a matrix by half a turn, [i][j] to [n-1-i][n-1-j]. */
static void reverse(float *a, size_t n)
{
	for (size_t i = 0; i < n / 2; i++) {
		const float x = a[i];

		a[i] = a[n - 1 - i];
		a[n - 1 - i] = x;
	}
}

static int damp(struct gp_moments *m, float share)
{
	const size_t n = m->width;
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)m->matrix[i * n + i];
	if (!isfinite(sum))
		return -EDOM;
	/* Inputs that were never other than zero weigh nothing; any factor will do. */
	const float added = sum > 0 ? (float)(sum / (double)n) * share : 1;

	for (size_t i = 0; i < n; i++) {
		m->matrix[i * n + i] += added;
		m->diagonal[i] = m->matrix[i * n + i];
	}
	m->damping = added;
	return 0;
}

/* The triangle that the factor does not take keeps the moments; back: it gives them again. In
 * tiles, for the cache. */
static void mirror(float *a, size_t n, bool back)
{
	enum { TILE = 64 };

	for (size_t r = 0; r < n; r += TILE)
		for (size_t c = r; c < n; c += TILE)
			for (size_t i = r; i < r + TILE && i < n; i++)
				for (size_t j = c > i ? c : i + 1; j < c + TILE && j < n; j++) {
					float *above = &a[i * n + j], *below = &a[j * n + i];

					*(back ? above : below) = *(back ? below : above);
				}
}

/* With M = R R^T, R upper triangular, U = R^-1. LAPACK gives C^T of C C^T with C lower
 * triangular: of M turned by half a turn that is R turned. Rows of ours are its columns,
 * so our upper triangle, turned, is its upper one. */
int gp_moments_factor(struct gp_moments *m, float damping)
{
	const size_t all = (size_t)m->width * m->width;
	const int n = (int)m->width;
	int info = damp(m, damping);

	if (info < 0)
		return gp_fail(EDOM, "the inputs of a product are not finite; look for where with "
		               "--check-numerics");
	mirror(m->matrix, m->width, false);
	reverse(m->matrix, all);
	spotrf_("U", &n, m->matrix, &n, &info);
	if (info == 0)
		strtri_("U", "N", &n, m->matrix, &n, &info);
	reverse(m->matrix, all);
	return info == 0 ? 0 : gp_fail(EDOM, "the moments of %d inputs can't be factored; "
	                               "take more text", n);
}

static void forget_factor(struct gp_moments *m)
{
	const size_t n = m->width;

	mirror(m->matrix, n, true);
	for (size_t i = 0; i < n; i++) {
		m->diagonal[i] -= m->damping;
		m->matrix[i * n + i] = m->diagonal[i];
	}
}

/* S = share * cross * M^-1, and M^-1 = U^T U. */
int gp_moments_shift(struct gp_moments *m, float *cross, float damping, float share,
                     uint32_t n_threads)
{
	const int n = (int)m->width;
	int rc;

	openblas_set_num_threads((int)n_threads);
	if ((rc = gp_moments_factor(m, damping)) < 0)
		return rc;
	cblas_strmm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, n, n, share,
	            m->matrix, n, cross, n);
	cblas_strmm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, n, n, 1,
	            m->matrix, n, cross, n);
	forget_factor(m);
	return 0;
}

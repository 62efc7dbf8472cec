/* Encoders: what they write is what the readers read, and better than plain rounding. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"
#include "quantize/internal.h"

static uint64_t state;

static uint32_t any(void)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(state >> 32);
}

static float uniform(float low, float high)
{
	return low + (high - low) * (float)any() * 0x1p-32f;
}

/* Roughly normal, as weights are. */
static float normal(void)
{
	float sum = 0;

	for (int i = 0; i < 6; i++)
		sum += uniform(-1, 1);
	return sum * 0.7071f;
}

static int seed(void **s)
{
	(void)s;
	state = (uint64_t)time(NULL);
	print_message("seed %llu\n", (unsigned long long)state);
	return 0;
}

/* ---- formats ------------------------------------------------------------------------------ */
static struct gp_grid any_grid(const struct gp_format *f)
{
	struct gp_grid g = { .d = gp_f16_to_f32(gp_f32_to_f16(uniform(-0.1f, 0.1f))) };

	if (f->min_most)
		g.dmin = gp_f16_to_f32(gp_f32_to_f16(uniform(0, 0.1f)));
	for (uint32_t p = 0; p < f->parts && f->parts > 1; p++) {
		g.scale[p] = (int8_t)(f->scale_least + (int)(any() % (uint32_t)(f->scale_most - f->scale_least + 1)));
		g.min[p] = (uint8_t)(f->min_most ? any() % (uint32_t)(f->min_most + 1) : 0);
	}
	gp_grid_steps(f, &g);
	return g;
}

/* Any grid, any codes: what is packed comes back to the last bit. */
static void packed_blocks_read_back(void **s)
{
	(void)s;
	for (size_t t = 0; t < GP_COST_TYPES; t++) {
		const struct gp_format *f = gp_format_of(gp_cost_types[t]);
		const uint32_t n = f->block / f->parts;

		for (int round = 0; round < 200; round++) {
			const struct gp_grid g = any_grid(f);
			int8_t code[GP_MOST_BLOCK];
			uint8_t bytes[GP_MOST_BLOCK + 64];
			float read[GP_MOST_BLOCK];

			for (uint32_t i = 0; i < f->block; i++)
				code[i] = (int8_t)(f->lowest + (int)(any() % (uint32_t)(f->highest - f->lowest + 1)));
			memset(bytes, 0xee, sizeof bytes);
			f->pack(&g, code, bytes);
			assert_int_equal(bytes[gp_type_info(f->type)->block_bytes], 0xee);
			gp_dequantize(f->type, bytes, read, f->block);
			for (uint32_t i = 0; i < f->block; i++) {
				const float want = g.step[i / n] * gp_format_value(f, code[i]) + g.base[i / n];

				if (!(fabsf(read[i] - want) <= 1e-6f * fabsf(want)))
					fail_msg("%s: element %u is %g, not %g", gp_type_info(f->type)->name, i,
					         (double)read[i], (double)want);
			}
		}
	}
}

/* ---- errors ---------------------------------------------------------------------------------- */
enum { ROWS = 16, COLS = 512 };

struct matrix {
	float w[ROWS * COLS], importance[COLS];
	uint8_t encoded[ROWS * COLS * 4];
	float read[ROWS * COLS];
};

static struct matrix *any_matrix(void)
{
	struct matrix *m = calloc(1, sizeof *m);

	assert_non_null(m);
	for (size_t i = 0; i < ROWS * COLS; i++)
		m->w[i] = normal() * 0.05f;
	for (size_t i = 0; i < COLS; i++)
		m->importance[i] = expf(2 * normal());
	return m;
}

static double weighted_error(const struct matrix *m, enum gp_type t, bool weighted)
{
	struct matrix *x = (struct matrix *)(uintptr_t)m;
	double sum = 0;

	gp_dequantize(t, m->encoded, x->read, ROWS * COLS);
	for (size_t i = 0; i < ROWS * COLS; i++) {
		const double e = (double)m->w[i] - (double)m->read[i];

		sum += e * e * (weighted ? (double)m->importance[i % COLS] : 1);
	}
	return sum;
}

static double encode(struct matrix *m, enum gp_type t, const float *importance,
                     const struct gp_moments *moments)
{
	const struct gp_encoding e = { .type = t, .cols = COLS, .importance = importance,
	                               .factor = moments ? moments->matrix : NULL,
	                               .diagonal = moments ? moments->diagonal : NULL };
	float *w = malloc(sizeof m->w);
	double error;

	assert_non_null(w);
	memcpy(w, m->w, sizeof m->w);
	assert_int_equal(gp_encode(&e, w, ROWS, m->encoded, &error), 0);
	free(w);
	return error;
}

static void search_beats_rounding(void **s)
{
	(void)s;
	for (size_t t = 0; t < GP_COST_TYPES; t++) {
		const enum gp_type type = gp_cost_types[t];
		struct matrix *m = any_matrix();
		double plain, searched, told;

		assert_int_equal(gp_quantize(type, m->w, m->encoded, ROWS * COLS), 0);
		plain = weighted_error(m, type, true);
		told = encode(m, type, m->importance, NULL);
		searched = weighted_error(m, type, true);
		if (!(searched < plain) || !(fabs(told - searched) <= 1e-4 * searched))
			fail_msg("%s: searched %g (says %g), rounded %g", gp_type_info(type)->name, searched,
			         told, plain);
		/* Without weights it minimises without weights. */
		const double with = weighted_error(m, type, false);

		encode(m, type, NULL, NULL);
		assert_true(weighted_error(m, type, false) < with);
		free(m);
	}
}

/* What every encoder must survive, and read back near to what it was. */
static void hostile_rows_stay_finite(void **s)
{
	static const float odd[] = { 0, -0.0f, 1e-30f, -1e-30f, 1e-7f, 1, -1, 1000, -60000, 1e6f, -1e30f };

	(void)s;
	for (size_t t = 0; t < GP_COST_TYPES; t++) {
		struct matrix *m = any_matrix();

		for (size_t r = 0; r < ROWS; r++)
			for (size_t i = 0; i < COLS; i++)
				m->w[r * COLS + i] = r < GP_ARRAY_LEN(odd) ? odd[r] : r == 12 ? odd[any() % 9] :
				                     r == 13 ? (i == 5 ? 3.0f : 0) : r == 14 && i == 9 ? NAN : normal();
		encode(m, gp_cost_types[t], m->importance, NULL);
		gp_dequantize(gp_cost_types[t], m->encoded, m->read, ROWS * COLS);
		for (size_t i = 0; i < ROWS * COLS; i++)
			assert_true(isfinite(m->read[i]));
		for (size_t i = 0; i < COLS; i++) {
			assert_true(m->read[i] == 0);
			assert_true(fabsf(m->read[5 * COLS + i] - 1) <= 0.02f);
			assert_true(fabsf(m->read[8 * COLS + i] + 60000) <= 1500);
		}
		free(m);
	}
}

/* ---- error compensation ------------------------------------------------------------------------ */
/* Inputs that go together: a few causes behind all columns. */
static float *correlated_inputs(uint32_t n)
{
	float *x = calloc((size_t)n * COLS, sizeof *x), *cause = calloc(16 * COLS, sizeof *cause);

	assert_true(x && cause);
	for (size_t i = 0; i < 16 * COLS; i++)
		cause[i] = normal();
	for (uint32_t r = 0; r < n; r++)
		for (int c = 0; c < 16; c++) {
			const float by = normal();

			for (size_t i = 0; i < COLS; i++)
				x[r * COLS + i] += by * cause[(size_t)c * COLS + i] + 0.3f * normal();
		}
	free(cause);
	return x;
}

/* |W x - Q x|^2 over all inputs. */
static double output_error(struct matrix *m, enum gp_type t, const float *x, uint32_t n)
{
	double sum = 0;

	gp_dequantize(t, m->encoded, m->read, ROWS * COLS);
	for (uint32_t k = 0; k < n; k++)
		for (size_t r = 0; r < ROWS; r++) {
			double e = 0;

			for (size_t i = 0; i < COLS; i++)
				e += ((double)m->w[r * COLS + i] - (double)m->read[r * COLS + i]) *
				     (double)x[k * COLS + i];
			sum += e * e;
		}
	return sum;
}

static void compensation_beats_search(void **s)
{
	enum { INPUTS = 700 };
	float *x = correlated_inputs(INPUTS);
	struct gp_moments moments;

	(void)s;
	assert_int_equal(gp_moments_init(&moments, COLS, true), 0);
	gp_moments_add(&moments, x, INPUTS, 1);
	assert_int_equal(gp_moments_factor(&moments, 1e-4f), 0);
	for (size_t t = 0; t < GP_COST_TYPES; t++) {
		struct matrix *m = any_matrix();
		double searched, compensated, told;

		encode(m, gp_cost_types[t], moments.diagonal, NULL);
		searched = output_error(m, gp_cost_types[t], x, INPUTS);
		told = encode(m, gp_cost_types[t], NULL, &moments);
		compensated = output_error(m, gp_cost_types[t], x, INPUTS);
		/* What is told holds the damping too. */
		if (!(compensated < 0.5 * searched) || !(told > 0.9 * compensated && told < 1.5 * compensated))
			fail_msg("%s: compensated %g (says %g), searched %g",
			         gp_type_info(gp_cost_types[t])->name, compensated, told, searched);
		free(m);
	}
	gp_moments_free(&moments);
	free(x);
}

/* e M e^T of all rows, M from the lower triangle and the diagonal. */
static double moments_error(const struct gp_descent *d)
{
	double sum = 0;

	for (uint32_t r = 0; r < d->rows; r++)
		for (uint32_t i = 0; i < d->cols; i++)
			for (uint32_t j = 0; j <= i; j++)
				sum += (i == j ? (double)d->diagonal[i] : 2 * (double)d->moments[i * d->cols + j]) *
				       (double)d->error[r * d->cols + i] * (double)d->error[r * d->cols + j];
	return sum;
}

static void read_errors(const struct gp_descent *d, const float *w, float *error)
{
	const uint32_t block = d->f->block, n = block / d->f->parts;

	for (uint32_t i = 0; i < d->rows * d->cols; i++) {
		const struct gp_grid *g = &d->grid[i / block];
		const uint32_t p = i % block / n;

		error[i] = g->step[p] * gp_format_value(d->f, d->code[i]) + g->base[p] - w[i];
	}
}

/* From the searched grids: less error, the one that is told, and that of the codes and grids. A
 * width that ends within a panel. */
static void descent_descends(void **s)
{
	enum { N = 8, WIDTH = 416 };
	float x[700 * WIDTH / 10], w[N * COLS], error[N * COLS], again[N * COLS];
	int8_t code[N * COLS];
	struct gp_grid grid[N * COLS / 32];

	(void)s;
	for (size_t t = 0; t < GP_COST_TYPES; t++) {
		const struct gp_format *f = gp_format_of(gp_cost_types[t]);
		const uint32_t cols = f->block == 32 ? WIDTH : COLS, inputs = GP_ARRAY_LEN(x) / COLS;
		struct gp_moments m;
		struct gp_descent d = { f, N, cols, NULL, NULL, code, grid, error };
		double before, after, told;

		for (size_t i = 0; i < GP_ARRAY_LEN(x); i++)
			x[i] = normal() + (i % 7 ? x[i - 1] : 0);
		for (size_t i = 0; i < N * cols; i++) {
			w[i] = normal();
			again[i] = 1;
		}
		assert_int_equal(gp_moments_init(&m, cols, true), 0);
		gp_moments_add(&m, x, inputs, 1);
		assert_int_equal(gp_moments_factor(&m, 0.01f), 0);
		d.moments = m.matrix;
		d.diagonal = m.diagonal;
		for (uint32_t b = 0; b < N * cols / f->block; b++) {
			gp_grid_fit(f, w + b * f->block, again, &grid[b]);
			for (uint32_t i = 0; i < f->block; i++) {
				const uint32_t p = i / (f->block / f->parts);
				const float step = grid[b].step[p], v = w[b * f->block + i] - grid[b].base[p];

				code[b * f->block + i] = gp_format_code(f, step != 0.0f ? v / step : 0);
			}
		}
		read_errors(&d, w, error);
		before = moments_error(&d);
		assert_int_equal(gp_descend(&d, &told), 0);
		after = moments_error(&d);
		read_errors(&d, w, again);
		for (size_t i = 0; i < N * cols; i++)
			if (!(fabsf(again[i] - error[i]) <= 1e-4f))
				fail_msg("%s: element %zu is off by %g, not %g", gp_type_info(f->type)->name, i,
				         (double)again[i], (double)error[i]);
		if (!(after < 0.8 * before) || !(fabs(told - after) <= 0.01 * after))
			fail_msg("%s: from %g to %g (says %g)", gp_type_info(f->type)->name, before, after, told);
		gp_moments_free(&m);
	}
}

/* Weights whose products leave the range of floats spoil no other row. */
static void hostile_rows_are_compensated(void **s)
{
	static const float odd[] = { 0, 1e-30f, 1, -60000, 1e6f, -1e30f, 3e38f };
	float *x = correlated_inputs(64);
	struct gp_moments moments;

	(void)s;
	assert_int_equal(gp_moments_init(&moments, COLS, true), 0);
	gp_moments_add(&moments, x, 64, 1);
	assert_int_equal(gp_moments_factor(&moments, 0.01f), 0);
	for (size_t t = 0; t < GP_COST_TYPES; t++) {
		const size_t first = GP_ARRAY_LEN(odd) * COLS;
		struct matrix *m = any_matrix();
		float *clean = malloc(sizeof m->read);

		assert_non_null(clean);
		encode(m, gp_cost_types[t], NULL, &moments);
		gp_dequantize(gp_cost_types[t], m->encoded, clean, ROWS * COLS);
		for (size_t i = 0; i < first; i++)
			m->w[i] = odd[i / COLS] * uniform(0.5f, 1);
		encode(m, gp_cost_types[t], NULL, &moments);
		gp_dequantize(gp_cost_types[t], m->encoded, m->read, ROWS * COLS);
		for (size_t i = 0; i < ROWS * COLS; i++)
			assert_true(isfinite(m->read[i]));
		assert_memory_equal(m->read + first, clean + first, (ROWS * COLS - first) * sizeof *clean);
		free(clean);
		free(m);
	}
	gp_moments_free(&moments);
	free(x);
}

/* Moments next to nothing: their products with steps are 0. What is encoded already stays. */
static void descent_stays_where_nothing_tells(void **s)
{
	float m[32 * 32] = { 0 }, diagonal[32], error[32] = { 0 };
	int8_t code[32];
	struct gp_grid grid = { .d = 0x1p-20f, .step = { 0x1p-20f } };
	const struct gp_descent d = { gp_format_of(GP_TYPE_Q4_0), 1, 32, m, diagonal, code, &grid, error };
	double told;

	(void)s;
	for (int i = 0; i < 32; i++) {
		diagonal[i] = 1e-42f;
		code[i] = (int8_t)(i % 16 - 8);
	}
	assert_int_equal(gp_descend(&d, &told), 0);
	for (int i = 0; i < 32; i++)
		assert_int_equal(code[i], i % 16 - 8);
	assert_true(grid.d == 0x1p-20f && told == 0);
}

static void the_factor_is_of_the_inverse(void **s)
{
	enum { N = 40 };
	float x[100 * N];
	double m[N][N] = { { 0 } };
	struct gp_moments moments;

	(void)s;
	for (size_t i = 0; i < GP_ARRAY_LEN(x); i++)
		x[i] = normal();
	for (int r = 0; r < 100; r++)
		for (int i = 0; i < N; i++)
			for (int j = 0; j < N; j++)
				m[i][j] += (double)x[r * N + i] * (double)x[r * N + j];
	assert_int_equal(gp_moments_init(&moments, N, true), 0);
	gp_moments_add(&moments, x, 100, 2);
	for (int i = 0; i < N; i++)
		assert_true(fabs((double)moments.diagonal[i] - m[i][i]) <= 1e-4 * m[i][i]);
	assert_int_equal(gp_moments_factor(&moments, 0), 0);
	/* U^T U M = 1 */
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			double sum = 0;

			for (int k = 0; k < N; k++) {
				double u = 0;

				for (int l = 0; l < N; l++)
					u += (l >= k ? (double)moments.matrix[k * N + l] : 0) * m[l][j];
				sum += (i >= k ? (double)moments.matrix[k * N + i] : 0) * u;
			}
			assert_true(fabs(sum - (i == j)) <= 1e-3);
		}
	gp_moments_free(&moments);
}

/* S (M + damping) = share * C, and M is what it was. */
static void the_shift_is_a_ridge_regression(void **s)
{
	enum { N = 40, ROWS_IN = 100 };
	const double share = 0.7, damping = 0.5;
	float x[ROWS_IN * N], cross[N * N] = { 0 }, shift[N * N];
	double mean = 0;
	struct gp_moments was, m;

	(void)s;
	for (size_t i = 0; i < GP_ARRAY_LEN(x); i++)
		x[i] = normal();
	for (size_t i = 0; i < GP_ARRAY_LEN(cross); i++)
		shift[i] = cross[i] = normal();
	assert_int_equal(gp_moments_init(&was, N, true), 0);
	assert_int_equal(gp_moments_init(&m, N, true), 0);
	gp_moments_add(&was, x, ROWS_IN, 1);
	gp_moments_add(&m, x, ROWS_IN, 1);
	assert_int_equal(gp_moments_shift(&m, shift, (float)damping, (float)share, 1), 0);
	for (int i = 0; i < N; i++)
		mean += (double)was.matrix[i * N + i] / N;
	for (int i = 0; i < N; i++) {
		assert_true(fabs((double)(m.diagonal[i] - was.diagonal[i])) <= 1e-5 * mean);
		for (int j = 0; j < N; j++) {
			double sum = 0;

			for (int k = 0; k < N; k++)
				sum += (double)shift[i * N + k] *
				       ((double)was.matrix[k < j ? k * N + j : j * N + k] +
				        (k == j ? damping * mean : 0));
			assert_true(fabs(sum - share * (double)cross[i * N + j]) <= 1e-3);
			assert_true(j < i || fabs((double)(m.matrix[i * N + j] - was.matrix[i * N + j])) <=
			            1e-5 * mean);
		}
	}
	gp_moments_free(&was);
	gp_moments_free(&m);
}

/* Inputs that come with errors: weights for them give less error than those for the true ones. */
static void shifted_rows_suit_other_inputs(void **s)
{
	enum { INPUTS = 2000 };
	float *y = correlated_inputs(INPUTS), *x = malloc((size_t)INPUTS * COLS * sizeof *x);
	float *cross = calloc((size_t)COLS * COLS, sizeof *cross);
	struct matrix *m = any_matrix();
	struct gp_moments moments;
	double error[2] = { 0 };

	(void)s;
	assert_true(x && cross);
	for (size_t i = 0; i < (size_t)INPUTS * COLS; i++)
		x[i] = y[i] + 0.5f * y[i / COLS * COLS + (i + 1) % COLS];
	assert_int_equal(gp_moments_init(&moments, COLS, true), 0);
	gp_moments_add(&moments, x, INPUTS, 1);
	for (size_t r = 0; r < INPUTS; r++)
		for (size_t i = 0; i < COLS; i++)
			for (size_t j = 0; j < COLS; j++)
				cross[i * COLS + j] += (y[r * COLS + i] - x[r * COLS + i]) * x[r * COLS + j];
	assert_int_equal(gp_moments_shift(&moments, cross, 0.01f, 1, 2), 0);
	assert_int_equal(gp_moments_factor(&moments, 0.01f), 0);
	for (int shifted = 0; shifted < 2; shifted++) {
		const struct gp_encoding e = { .type = GP_TYPE_Q6_K, .cols = COLS,
			.factor = moments.matrix, .diagonal = moments.diagonal,
			.shift = shifted ? cross : NULL };
		float *w = malloc(sizeof m->w);
		double told;

		assert_non_null(w);
		memcpy(w, m->w, sizeof m->w);
		assert_int_equal(gp_encode(&e, w, ROWS, m->encoded, &told), 0);
		gp_dequantize(GP_TYPE_Q6_K, m->encoded, w, (size_t)ROWS * COLS);
		for (size_t k = 0; k < 200; k++)
			for (size_t r = 0; r < ROWS; r++) {
				double d = 0;

				for (size_t i = 0; i < COLS; i++)
					d += (double)m->w[r * COLS + i] * (double)y[k * COLS + i] -
					     (double)w[r * COLS + i] * (double)x[k * COLS + i];
				error[shifted] += d * d;
			}
		free(w);
	}
	if (!(error[1] < 0.1 * error[0]))
		fail_msg("shifted %g, as given %g", error[1], error[0]);
	gp_moments_free(&moments);
	free(m);
	free(cross);
	free(x);
	free(y);
}

static void infinite_inputs_are_an_error(void **s)
{
	float x[64] = { 1, INFINITY };
	struct gp_moments moments;

	(void)s;
	assert_int_equal(gp_moments_init(&moments, 32, true), 0);
	gp_moments_add(&moments, x, 2, 1);
	assert_int_equal(gp_moments_factor(&moments, 0.01f), -EDOM);
	gp_moments_free(&moments);
}

/* ---- whole tensors ---------------------------------------------------------------------------------- */
struct collected {
	uint8_t *bytes;
	size_t n;
};

static int collect(void *user, const void *data, size_t bytes)
{
	struct collected *c = user;

	memcpy(c->bytes + c->n, data, bytes);
	c->n += bytes;
	return 0;
}

static void halves_hold_what_they_can(void **s)
{
	float w[2 * 32] = { 65504, -65519 };
	const struct gp_tensor t = { .name = "w", .type = GP_TYPE_F32, .rows = 2, .cols = 32,
	                             .data = w, .bytes = sizeof w };
	const struct gp_encoding e = { .type = GP_TYPE_F16, .cols = 32 };
	uint8_t bytes[sizeof w];
	struct collected c = { .bytes = bytes };
	double error;

	(void)s;
	assert_int_equal(gp_encode_tensor(&t, &e, 0, 1, collect, &c, &error), 0);
	w[40] = -65520;
	assert_int_equal(gp_encode_tensor(&t, &e, 0, 1, collect, &c, &error), -ERANGE);
	assert_non_null(strstr(gp_error(), "row 1 holds -65520"));
}

/* Pieces and threads change nothing. */
static void tensors_are_the_same_on_any_threads(void **s)
{
	enum { TALL = 3001 };
	float *w = calloc(TALL * COLS, sizeof *w);
	const struct gp_tensor t = { .name = "w", .type = GP_TYPE_F32, .rows = TALL, .cols = COLS,
	                             .data = w, .bytes = TALL * COLS * sizeof *w };
	const struct gp_encoding e = { .type = GP_TYPE_Q4_0, .cols = COLS };
	size_t bytes;
	struct collected one = { 0 }, three = { 0 };
	double error[2];

	(void)s;
	for (size_t i = 0; i < TALL * COLS; i++)
		w[i] = normal();
	assert_int_equal(gp_type_bytes(e.type, TALL, COLS, &bytes), 0);
	one.bytes = malloc(bytes);
	three.bytes = malloc(bytes);
	assert_int_equal(gp_encode_tensor(&t, &e, 0, 1, collect, &one, &error[0]), 0);
	assert_int_equal(gp_encode_tensor(&t, &e, 0, 3, collect, &three, &error[1]), 0);
	assert_true(one.n == bytes && three.n == bytes);
	assert_memory_equal(one.bytes, three.bytes, bytes);
	assert_true(fabs(error[0] - error[1]) <= 1e-9 * error[0]);
	free(one.bytes);
	free(three.bytes);
	free(w);
}

static int fail_at_seven(void *user, size_t i)
{
	(void)user;
	return i == 7 ? gp_fail(EIO, "the seventh") : 0;
}

static void a_failure_on_a_thread_is_told(void **s)
{
	(void)s;
	assert_int_equal(gp_parallel(100, 4, fail_at_seven, NULL), -EIO);
	assert_string_equal(gp_error(), "the seventh");
	assert_int_equal(gp_parallel(7, 4, fail_at_seven, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(packed_blocks_read_back),
		cmocka_unit_test(search_beats_rounding),
		cmocka_unit_test(hostile_rows_stay_finite),
		cmocka_unit_test(compensation_beats_search),
		cmocka_unit_test(descent_descends),
		cmocka_unit_test(hostile_rows_are_compensated),
		cmocka_unit_test(descent_stays_where_nothing_tells),
		cmocka_unit_test(halves_hold_what_they_can),
		cmocka_unit_test(the_factor_is_of_the_inverse),
		cmocka_unit_test(the_shift_is_a_ridge_regression),
		cmocka_unit_test(shifted_rows_suit_other_inputs),
		cmocka_unit_test(infinite_inputs_are_an_error),
		cmocka_unit_test(tensors_are_the_same_on_any_threads),
		cmocka_unit_test(a_failure_on_a_thread_is_told),
	};

	return cmocka_run_group_tests(tests, seed, NULL);
}

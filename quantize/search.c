/* The grid of a block: steps (and minima) that make the weighted squared error small. First
 * each part by itself over real numbers, then the part's scales as the whole numbers that the
 * format stores, then the factors that all parts share, as halves. */
#include "quantize/internal.h"

#include <pthread.h>

enum { TRIES = 12, ROUNDS = 2 };

/* A part by itself: step and base over real numbers, and how much its error grows with the
 * square of what the step is off. */
struct part {
	float step, base, stiffness;
};

struct sums { /* over a part's elements, of the value v that the nearest code has */
	double w, wx, wv, wxv, wvv;
};

/* Asked once: in a virtual machine the question alone takes longer than a block's search. */
static pthread_once_t asked = PTHREAD_ONCE_INIT;
static bool avx2;

static void ask(void)
{
	avx2 = (gp_cpu_flags() & GP_CPU_AVX2) != 0;
}

static bool has_avx2(void)
{
	pthread_once(&asked, ask);
	return avx2;
}

static struct sums sum_up(const struct gp_format *f, const float *x, const float *w, uint32_t n,
                          float step, float base)
{
	struct sums s = { 0 };
	struct gp_grid_sums of;

	(has_avx2() ? gp_grid_sums_avx2 : gp_grid_sums_any)(f, x, w, n, step, base, &of);
	for (uint32_t i = 0; i < n && f->min_most; i++) {
		s.w += (double)w[i];
		s.wx += (double)w[i] * (double)x[i];
	}
	s.wv = (double)of.wv;
	s.wxv = (double)of.wxv;
	s.wvv = (double)of.wvv;
	return s;
}

/* ---- a part without minimum -------------------------------------------------------- */
static float extreme(const float *x, uint32_t n)
{
	float e = 0.0f;

	for (uint32_t i = 0; i < n; i++)
		if (fabsf(x[i]) > fabsf(e))
			e = x[i];
	return e;
}

/* Of steps that are alike but for rounding the first is taken, so that parts which hold the
 * same choose the same, and a common factor suits them all. */
static const double ALIKE = 1 + 1e-5;

/* With the best step for its codes, the error is sum w x^2 - gain. */
static double symmetric_gain(const struct sums *s)
{
	return s->wvv > 0 ? s->wxv * s->wxv / s->wvv : 0;
}

/* Steps that put the extreme near either end of the codes. */
static struct part fit_symmetric(const struct gp_format *f, const float *x, const float *w,
                                 uint32_t n)
{
	const float e = extreme(x, n);
	const float ends[2] = { gp_format_value(f, (int8_t)f->lowest),
	                        gp_format_value(f, (int8_t)f->highest) };
	struct part best = { 0 };
	double most = 0;

	for (int end = 0; end < 2 && e != 0.0f; end++)
		for (int t = -TRIES; t <= TRIES; t++) {
			const float reach = ends[end] * (1.0f + 0.035f * (float)t);
			struct sums s = sum_up(f, x, w, n, e / reach, 0);

			for (int again = 0; again < 2 && s.wvv > 0; again++) {
				if (symmetric_gain(&s) > most * ALIKE) {
					most = symmetric_gain(&s);
					best = (struct part){ (float)(s.wxv / s.wvv), 0, (float)s.wvv };
				}
				s = sum_up(f, x, w, n, (float)(s.wxv / s.wvv), 0);
			}
		}
	return best;
}

/* ---- a part with a minimum ------------------------------------------------------------ */
/* Least squares for step and base with these codes; a base is never above 0. Where all codes
 * are 0, the step plays no part and stays. */
static struct part solve_affine(const struct sums *s, float step)
{
	const double det = s->w * s->wvv - s->wv * s->wv;
	struct part p = { step, 0, (float)s->wvv };
	double base = det > 0 ? (s->wvv * s->wx - s->wv * s->wxv) / det : 0;

	if (!(s->wvv > 0))
		base = s->wx / s->w;
	base = base < 0 ? base : 0;
	p.base = (float)base;
	if (s->wvv > 0)
		p.step = (float)((s->wxv - base * s->wv) / s->wvv);
	return p;
}

static double affine_error(const struct sums *s, const struct part *p)
{
	const double a = (double)p->step, b = (double)p->base;

	return a * a * s->wvv + b * b * s->w + 2 * a * b * s->wv - 2 * a * s->wxv - 2 * b * s->wx;
}

static struct part fit_affine(const struct gp_format *f, const float *x, const float *w, uint32_t n)
{
	float min = 0.0f, max = 0.0f;
	struct part best = { 0 };
	double least = 0;

	for (uint32_t i = 0; i < n; i++) {
		min = fminf(min, x[i]);
		max = fmaxf(max, x[i]);
	}
	for (int t = -TRIES; t <= TRIES && max > min; t++) {
		struct part p = { (max - min) / ((float)f->highest * (1.0f + 0.035f * (float)t)), min, 0 };

		for (int again = 0; again < 3 && p.step > 0; again++) {
			const struct sums s = sum_up(f, x, w, n, p.step, p.base);

			p = solve_affine(&s, p.step);
			if (p.step > 0 && affine_error(&s, &p) < least * ALIKE) {
				least = affine_error(&s, &p);
				best = p;
			}
		}
	}
	return best;
}

/* ---- whole numbers under one factor ------------------------------------------------------ */
static float to_half(float v)
{
	return gp_f16_to_f32(gp_f32_to_f16(fmaxf(-65504.0f, fminf(65504.0f, v))));
}

static int whole(float v, int least, int most)
{
	v = rintf(v);
	return !(v > (float)least) ? least : v > (float)most ? most : (int)v;
}

/* d such that d times whole numbers comes near all of v, weighted. */
static float common_factor(const float *v, const float *weight, uint32_t n, int least, int most)
{
	const float e = extreme(v, n);
	float best = 0;
	double best_gain = 0;

	for (int end = 0; end < 2 && e != 0.0f; end++)
		for (int t = 0; t < 2 * TRIES; t++) {
			const float reach = (float)(end ? most : least) * (1.0f - 0.02f * (float)t);
			double vk = 0, kk = 0;

			if (reach == 0.0f)
				break;
			for (uint32_t i = 0; i < n; i++) {
				const double k = whole(v[i] * reach / e, least, most);

				vk += (double)weight[i] * (double)v[i] * k;
				kk += (double)weight[i] * k * k;
			}
			if (kk > 0 && vk * vk / kk > best_gain) {
				best_gain = vk * vk / kk;
				best = (float)(vk / kk);
			}
		}
	return to_half(best);
}

static void share_scales(const struct gp_format *f, const struct part *p, struct gp_grid *g)
{
	float v[GP_MOST_PARTS], weight[GP_MOST_PARTS];

	for (uint32_t i = 0; i < f->parts; i++) {
		v[i] = p[i].step;
		weight[i] = p[i].stiffness;
	}
	g->d = common_factor(v, weight, f->parts, f->scale_least, f->scale_most);
	for (uint32_t i = 0; i < f->parts; i++)
		g->scale[i] = g->d != 0.0f ? (int8_t)whole(v[i] / g->d, f->scale_least, f->scale_most) : 0;
}

static void share_minima(const struct gp_format *f, const struct part *p, struct gp_grid *g)
{
	float v[GP_MOST_PARTS], weight[GP_MOST_PARTS];

	for (uint32_t i = 0; i < f->parts; i++) {
		v[i] = -p[i].base;
		weight[i] = 1;
	}
	g->dmin = common_factor(v, weight, f->parts, 0, f->min_most);
	for (uint32_t i = 0; i < f->parts; i++)
		g->min[i] = g->dmin != 0.0f ? (uint8_t)whole(v[i] / g->dmin, 0, f->min_most) : 0;
}

/* ---- the block ---------------------------------------------------------------------------- */
static double part_error(const struct gp_format *f, const float *x, const float *w, uint32_t n,
                         float step, float base)
{
	return (double)(has_avx2() ? gp_grid_squares_avx2 : gp_grid_squares_any)(f, x, w, n, step, base);
}

/* The scale and minimum of a part, each one up or down if that is better. */
static void settle_part(const struct gp_format *f, const float *x, const float *w, uint32_t p,
                        struct gp_grid *g)
{
	const uint32_t n = f->block / f->parts;
	const int s0 = g->scale[p], m0 = g->min[p];
	double least = INFINITY;

	for (int s = s0 - 1; s <= s0 + 1; s++)
		for (int m = m0 - 1; m <= m0 + 1; m++) {
			if (s < f->scale_least || s > f->scale_most || m < 0 || m > f->min_most)
				continue;
			const double e = part_error(f, x, w, n, g->d * (float)s, -(g->dmin * (float)m));

			if (e < least) {
				least = e;
				g->scale[p] = (int8_t)s;
				g->min[p] = (uint8_t)m;
			}
		}
}

/* The factors once more, by least squares over all elements with the codes of now. */
static void refit_factors(const struct gp_format *f, const float *x, const float *w,
                          struct gp_grid *g)
{
	const uint32_t n = f->block / f->parts;
	double xa = 0, xb = 0, aa = 0, ab = 0, bb = 0;

	gp_grid_steps(f, g);
	for (uint32_t p = 0; p < f->parts; p++) {
		const struct sums s = sum_up(f, x + p * n, w + p * n, n, g->step[p], g->base[p]);
		const double k = f->parts == 1 ? 1 : g->scale[p], m = -(double)g->min[p];

		xa += s.wxv * k;
		aa += s.wvv * k * k;
		xb += s.wx * m;
		ab += s.wv * k * m;
		bb += s.w * m * m;
	}
	const double det = aa * bb - ab * ab;

	if (bb > 0 && det > 1e-9 * aa * bb) {
		g->d = to_half((float)((xa * bb - xb * ab) / det));
		g->dmin = to_half((float)((xb * aa - xa * ab) / det));
	} else if (aa > 0) {
		g->d = to_half((float)(xa / aa));
	}
}

static double block_error(const struct gp_format *f, const float *x, const float *w,
                          struct gp_grid *g)
{
	const uint32_t n = f->block / f->parts;
	double sum = 0;

	gp_grid_steps(f, g);
	for (uint32_t p = 0; p < f->parts; p++)
		sum += part_error(f, x + p * n, w + p * n, n, g->step[p], g->base[p]);
	return sum;
}

/* Refined while it helps. */
static void refine(const struct gp_format *f, const float *x, const float *w, struct gp_grid *g)
{
	const uint32_t n = f->block / f->parts;
	double least = block_error(f, x, w, g);

	for (int round = 0; round < ROUNDS; round++) {
		struct gp_grid tried = *g;
		double e;

		for (uint32_t p = 0; p < f->parts && f->parts > 1; p++)
			settle_part(f, x + p * n, w + p * n, p, &tried);
		refit_factors(f, x, w, &tried);
		e = block_error(f, x, w, &tried);
		if (!(e < least))
			break;
		least = e;
		*g = tried;
	}
}

void gp_grid_fit(const struct gp_format *f, const float *x, const float *w, struct gp_grid *g)
{
	const uint32_t n = f->block / f->parts;
	struct part parts[GP_MOST_PARTS];

	*g = (struct gp_grid){ 0 };
	for (uint32_t p = 0; p < f->parts; p++)
		parts[p] = f->min_most ? fit_affine(f, x + p * n, w + p * n, n) :
		                         fit_symmetric(f, x + p * n, w + p * n, n);
	if (f->parts == 1) {
		g->d = to_half(parts[0].step);
	} else {
		share_scales(f, parts, g);
		if (f->min_most)
			share_minima(f, parts, g);
	}
	refine(f, x, w, g);
	gp_grid_steps(f, g);
}

/* What a user with the hardware runs: known products through the device, held against
 * scalar code (gempipe check npu --verify), and the constants of the cost model (gempipe
 * bench --device npu). On the simulated NPU every line says so. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/base.h"
#include "workers/npu/array.h"
#include "workers/npu/npu_device.h"

static bool simulates;         /* whose lines these are */

static void say(const char *fmt, ...) GP_PRINTF(1, 2);
static void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs(simulates ? "SIMULATED " : "", stdout);
	vprintf(fmt, ap);
	putchar('\n');
	va_end(ap);
}

/* ---- a device without a stage ------------------------------------------------------------ */
static int open_bare(struct npu_device **out, const struct gp_device_options *o)
{
	void *dev;
	int rc;

	if (o->npu && strcmp(o->npu, "off") == 0)
		return gp_fail(EINVAL, "--npu off leaves nothing to test");
	if ((rc = npu_open(&dev, o)) < 0)
		return rc;
	*out = dev;
	simulates = (*out)->info.simulated;
	return 0;
}

/* ---- known products ------------------------------------------------------------------------ */
struct vector {                /* one command, and what it has to give */
	struct gp_npu_dispatch x;
	bool integers;         /* small ones: the result is exact */
	uint32_t seed;
};

/* Shapes that reach every tile, buffer and repeat of a program. */
static const struct vector vectors[] = {
	{ { GP_AIE_GEMM_INT4, 1, 1, 1, 0, 0 }, true, 1 },
	{ { GP_AIE_GEMM_INT4, 1, 2, 3, 0, 0 }, true, 2 },
	{ { GP_AIE_GEMM_INT4, 4, 3, 2, 0, 0 }, false, 3 },
	{ { GP_AIE_GEMM_INT4, 2, 5, 7, 64, 0 }, false, 4 },
	{ { GP_AIE_GEMM_BF16, 1, 1, 1, 0, 0 }, true, 5 },
	{ { GP_AIE_GEMM_BF16, 1, 2, 3, 0, 0 }, true, 6 },
	{ { GP_AIE_GEMM_BF16, 2, 3, 4, 0, 0 }, false, 7 },
	{ { GP_AIE_GEMV_INT4, 1, 1, 1, 0, 0 }, true, 8 },
	{ { GP_AIE_GEMV_INT4, 1, 4, 5, 0, 0 }, false, 9 },
};

struct run {
	struct npu_device *d;
	const struct vector *v;
	const struct gp_aie_form_info *f;
	uint32_t rows, outs, k, state;
	float *x, *w;          /* as plain rows; w: what the packed weights mean */
	struct npu_memory mx, mw, my;
	struct gp_npu_result result;
};

/* xorshift32; Marsaglia, "Xorshift RNGs", 2003. */
static float random_value(struct run *r)
{
	r->state ^= r->state << 13;
	r->state ^= r->state >> 17;
	r->state ^= r->state << 5;
	const float u = (float)(r->state >> 8) * 0x1p-23f - 1.0f;
	return r->v->integers ? rintf(3 * u) : u;
}

static int fill(struct run *r)
{
	const size_t nx = (size_t)r->rows * r->k, nw = (size_t)r->outs * r->k;

	r->x = malloc(nx * sizeof *r->x);
	r->w = malloc(nw * sizeof *r->w);
	if (!r->x || !r->w)
		return gp_fail(ENOMEM, "no memory for a product of %u x %u x %u", r->rows, r->k, r->outs);
	for (size_t i = 0; i < nx; i++) /* 127 among integers: their scale is 1 */
		r->x[i] = r->v->integers && i % r->f->k == 0 ? 127 : random_value(r);
	for (size_t i = 0; i < nw; i++) /* -8 likewise, of each block */
		r->w[i] = r->v->integers && i % 32 == 0 ? -8 : random_value(r);
	return 0;
}

/* What the device sees of x and w takes their place, so that only its sums are judged. */
static void round_bf16(float *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = gp_bf16_to_f32(gp_f32_to_bf16(p[i]));
}

static void pack_x_tile(struct run *r, char *tile, uint32_t first, uint32_t s)
{
	const struct gp_aie_header h = { .slices = r->v->x.slices, .slice = s };
	const struct gp_aie_piece p = { r->x + (size_t)first * r->k + s * r->f->k, r->k, r->f->m,
	                                r->f->k };

	memcpy(tile, &h, sizeof h);
	if (r->v->x.form == GP_AIE_GEMM_INT4)
		gp_aie_pack_int4_x((void *)tile, &p);
	else if (r->v->x.form == GP_AIE_GEMM_BF16)
		gp_aie_pack_bf16_x((void *)tile, &p);
	else
		gp_aie_pack_gemv_x((void *)tile, &p);
}

static void pack_x(struct run *r)
{
	const struct gp_npu_dispatch *x = &r->v->x;
	char *to = r->mx.host;

	for (uint32_t row = 0; row < (r->f->shares_x ? 1 : GP_AIE_ROWS); row++)
		for (uint32_t b = 0; b < x->row_blocks; b++)
			for (uint32_t s = 0; s < x->slices; s++, to += r->f->x_bytes)
				pack_x_tile(r, to, (b * GP_AIE_ROWS + row) * r->f->m, s);
	if (x->form != GP_AIE_GEMM_INT4)
		round_bf16(r->x, (size_t)r->rows * r->k);
}

static int pack_w(struct run *r)
{
	const struct gp_npu_dispatch *x = &r->v->x;
	const size_t row_bytes = r->k / 32 * 18;
	char *to = (char *)r->mw.host + x->w_offset;
	char *blocks = malloc(r->outs * row_bytes);

	if (!blocks)
		return gp_fail(ENOMEM, "no memory for weights of %u x %u", r->outs, r->k);
	gp_quantize(GP_TYPE_Q4_0, r->w, blocks, (size_t)r->outs * r->k);
	for (uint32_t c = 0; c < GP_AIE_COLUMNS; c++)
		for (uint32_t b = 0; b < x->out_blocks; b++)
			for (uint32_t s = 0; s < x->slices; s++, to += r->f->w_bytes) {
				const uint32_t first = (b * GP_AIE_COLUMNS + c) * r->f->n;

				if (x->form == GP_AIE_GEMM_BF16)
					gp_aie_pack_bf16_w((void *)to, &(struct gp_aie_piece){
						r->w + (size_t)first * r->k + s * r->f->k, r->k, r->f->n, r->f->k });
				else
					gp_aie_pack_int4_w((void *)to, blocks + first * row_bytes +
					                   s * r->f->k / 32 * 18, row_bytes, r->f->n, r->f->k);
			}
	if (x->form == GP_AIE_GEMM_BF16)
		round_bf16(r->w, (size_t)r->outs * r->k);
	else
		gp_dequantize(GP_TYPE_Q4_0, blocks, r->w, (size_t)r->outs * r->k);
	free(blocks);
	return 0;
}

static int take_all(struct run *r)
{
	struct gp_npu_context *context;
	size_t x, w, y;
	int rc = gp_npu_dispatch_bytes(&r->v->x, &x, &w, &y);

	if (rc == 0 && (rc = npu_context(r->d, r->v->x.form, &context)) == 0 &&
	    (rc = npu_take(r->d, GP_NPU_DATA, x, "activations", &r->mx)) == 0 &&
	    (rc = npu_take(r->d, GP_NPU_DATA, w + r->v->x.w_offset, "weights", &r->mw)) == 0)
		rc = npu_take(r->d, GP_NPU_DATA, y, "results", &r->my);
	return rc;
}

static int compute(struct run *r)
{
	const struct gp_npu_driver *t = r->d->driver;
	int rc;

	pack_x(r);
	if ((rc = pack_w(r)) < 0 ||
	    (rc = t->sync(r->d->npu, r->mx.buffer, GP_NPU_TO_DEVICE, 0, r->mx.bytes)) < 0 ||
	    (rc = t->sync(r->d->npu, r->mw.buffer, GP_NPU_TO_DEVICE, 0, r->mw.bytes)) < 0 ||
	    (rc = npu_submit(r->d, &r->v->x, &r->mw, &r->mx, &r->my)) < 0 ||
	    (rc = npu_wait(r->d, &r->result)) < 0)
		return rc;
	return t->sync(r->d->npu, r->my.buffer, GP_NPU_FROM_DEVICE, 0, r->my.bytes);
}

/* How far a result may be off, by the sum of its terms' sizes: what 8-bit activations cost
 * (half a step of 1 / 127 of the largest), integer scales of 2^-14, and float32 sums. Of
 * whole numbers only that scales are 8191 / 8191, by products that AIE2 builds from bfloat16
 * ones: far less than a wrong code is worth. */
static double tolerance(const struct run *r)
{
	if (r->v->x.form == GP_AIE_GEMM_BF16)
		return r->v->integers ? 0 : 1e-5;
	if (r->v->integers)
		return 2e-5;
	return r->v->x.form == GP_AIE_GEMV_INT4 ? 1.3e-4 : 1.0 / 127;
}

/* Against double precision sums; the largest error over what is allowed. */
static double judge(const struct run *r, const float *y)
{
	double worst = 0;

	for (uint32_t m = 0; m < r->rows; m++)
		for (uint32_t n = 0; n < r->outs; n++) {
			const float *x = r->x + (size_t)m * r->k, *w = r->w + (size_t)n * r->k;
			double want = 0, size = 1e-30;

			for (uint32_t k = 0; k < r->k; k++) {
				want += (double)x[k] * (double)w[k];
				size += fmax(fabs((double)x[k]), r->v->integers ? 0 : 1) * fabs((double)w[k]);
			}
			const double off = fabs((double)y[(size_t)m * r->outs + n] - want);
			const double allowed = tolerance(r) * size;

			if (!(off <= allowed))
				return INFINITY;
			worst = fmax(worst, allowed > 0 ? off / allowed : 0);
		}
	return worst;
}

static void unpack(const struct run *r, float *y)
{
	const struct gp_npu_dispatch *x = &r->v->x;
	const uint32_t rows = r->f->shares_x ? 1 : GP_AIE_ROWS * r->f->m;
	const char *from = r->my.host;

	for (uint32_t c = 0; c < GP_AIE_COLUMNS; c++)
		for (uint32_t b = 0; b < x->row_blocks; b++)
			for (uint32_t o = 0; o < x->out_blocks; o++, from += GP_AIE_ROWS * r->f->y_bytes)
				gp_aie_unpack_y(x->form, from, y + (size_t)b * rows * r->outs +
				                (o * GP_AIE_COLUMNS + c) * r->f->n, r->outs, rows, r->f->n);
}

/* 1: passed, 0: failed, < 0: could not be run. */
static int run_vector(struct npu_device *d, const struct vector *v)
{
	const struct gp_aie_form_info *f = &gp_aie_forms[v->x.form];
	struct run r = {
		.d = d, .v = v, .f = f, .state = v->seed * 2654435761u, .k = v->x.slices * f->k,
		.rows = f->shares_x ? 1 : GP_AIE_ROWS * f->m * v->x.row_blocks,
		.outs = GP_AIE_COLUMNS * f->n * v->x.out_blocks,
	};
	float *y = NULL;
	double worst = INFINITY;
	int rc;

	if ((rc = fill(&r)) == 0 && (rc = take_all(&r)) == 0 && (rc = compute(&r)) == 0 &&
	    !(y = malloc((size_t)r.rows * r.outs * sizeof *y)))
		rc = gp_fail(ENOMEM, "no memory for results");
	if (rc == 0) {
		unpack(&r, y);
		worst = judge(&r, y);
		say("%s %s, %u x %u x %u%s: error %.2g of what is allowed, %.3f ms",
		    worst <= 1 ? "PASS" : "FAIL", f->name, r.rows, r.k, r.outs,
		    v->integers ? ", integers" : "", worst, (double)r.result.ns * 1e-6);
	} else {
		say("FAIL %s, %u x %u x %u: %s", f->name, r.rows, r.k, r.outs, gp_error());
	}
	free(y);
	free(r.x);
	free(r.w);
	npu_give(d, &r.mx);
	npu_give(d, &r.mw);
	npu_give(d, &r.my);
	return rc < 0 ? rc : worst <= 1;
}

static void say_machine(const struct npu_device *d)
{
	struct utsname u;

	if (uname(&u) == 0)
		say("kernel: %s %s", u.sysname, u.release);
	say("gempipe: %s", GP_VERSION);
	say("device: %s, %u x %u tiles", d->info.device, d->info.columns, d->info.rows);
	say("driver: %s", d->info.driver);
}

int npu_verify(const struct gp_device_options *o)
{
	const size_t n = GP_ARRAY_LEN(vectors);
	struct npu_device *d;
	size_t passed = 0;
	int rc = open_bare(&d, o);

	if (rc < 0) {
		fprintf(stderr, "gempipe check: npu: %s\n", gp_error());
		return 1;
	}
	say_machine(d);
	for (size_t i = 0; i < n && rc >= 0; i++)
		if ((rc = run_vector(d, &vectors[i])) > 0)
			passed++;
	say("%zu of %zu products passed%s", passed, n,
	    simulates ? "; nothing here was run on hardware" :
	                "; please attach this to an issue, whatever it says");
	npu_close(d);
	return passed == n ? fflush(stdout) != 0 : 1;
}

/* ---- speed ------------------------------------------------------------------------------------ */
static void say_cost(const char *whose, const struct npu_cost *c)
{
	char text[3][32];

	for (unsigned f = 0; f < GP_AIE_FORMS; f++)
		snprintf(text[f], sizeof text[f], "%.2f us", c->pair_ns[f] * 1e-3);
	say("%s: a command %.1f us; 16 pairs of tiles %s (int4), %s (bf16), %s (GEMV)", whose,
	    c->dispatch_ns * 1e-3, text[0], text[1], text[2]);
}

static void json_cost(const struct npu_device *d)
{
	json_t *tiles = json_object();

	for (unsigned f = 0; f < GP_AIE_FORMS; f++)
		json_object_set_new(tiles, gp_aie_forms[f].name, json_real(d->cost.pair_ns[f]));
	json_t *all = json_pack("{s:s, s:s, s:b, s:f, s:o}", "device", d->info.device, "driver",
		d->info.driver, "simulated", d->info.simulated, "command_ns", d->cost.dispatch_ns,
		"tile_pairs_ns", tiles);
	json_dumpf(all, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(all);
}

int npu_measure(const struct gp_device_options *o, bool json)
{
	struct npu_cost published;
	struct npu_device *d;
	int rc = open_bare(&d, o);

	for (unsigned f = 0; f < GP_AIE_FORMS && rc == 0; f++)
		if ((rc = npu_measure_device(d, (enum gp_aie_form)f)) < 0)
			npu_close(d);
	if (rc < 0) {
		fprintf(stderr, "gempipe bench: npu: %s\n", gp_error());
		return 1;
	}
	npu_published_cost(&published);
	if (json) {
		json_cost(d);
	} else {
		say_machine(d);
		say_cost("predicted from published limits", &published);
		say_cost(simulates ? "here" : "measured here", &d->cost);
	}
	npu_close(d);
	return fflush(stdout) != 0;
}

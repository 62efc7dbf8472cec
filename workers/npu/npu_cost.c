/* What a product costs here and there. The choice is made product by product from these
 * numbers, so all that the estimates have to get right is which side is faster. */
#include <string.h>

#include "base/base.h"
#include "workers/npu/array.h"
#include "workers/npu/npu_device.h"

/* Host constants that stand until measured: Zen 4 with 8 cores and AVX-512 VNNI computes
 * about 1e12 and copies about 2e10 bytes a second. */
#define PUBLISHED_HOST_NS 1e-3
#define PUBLISHED_COPY_NS 0.05

#define PROBE_BLOCKS 4u
#define PROBE_SLICES 8u
#define PROBES 3u
#define HOST_ROWS 64u

void npu_published_cost(struct npu_cost *c)
{
	*c = (struct npu_cost){
		.dispatch_ns = GP_ARRAY_DISPATCH_NS, .copy_ns = PUBLISHED_COPY_NS,
		.host_ns = PUBLISHED_HOST_NS,
	};
	for (unsigned form = 0; form < GP_AIE_FORMS; form++) {
		const struct gp_npu_dispatch d = { .form = form, .row_blocks = 1, .out_blocks = 64,
		                                   .slices = 64 };
		struct gp_npu_count count;

		gp_npu_array_predict(&d, &count);
		c->pair_ns[form] = (double)(count.ns - GP_ARRAY_DISPATCH_NS) / (64 * 64);
	}
}

/* ---- measuring ------------------------------------------------------------------------- */
struct probe { struct npu_memory x, w, y; };

/* x tiles only have to tell their number; zeros times zeros take as long as any. */
static void write_headers(void *x, const struct gp_npu_dispatch *d)
{
	const struct gp_aie_form_info *f = &gp_aie_forms[d->form];
	const uint32_t strips = (f->shares_x ? 1 : GP_AIE_ROWS) * d->row_blocks;

	for (uint32_t i = 0; i < strips * d->slices; i++) {
		const struct gp_aie_header h = { .slices = d->slices, .slice = i % d->slices };

		memcpy((char *)x + (size_t)i * f->x_bytes, &h, sizeof h);
	}
}

/* The shortest of some runs. */
static int time_command(struct npu_device *d, struct probe *p, const struct gp_npu_dispatch *x,
                        uint64_t *ns)
{
	struct gp_npu_result r;
	int rc;

	*ns = UINT64_MAX;
	write_headers(p->x.host, x);
	if ((rc = d->driver->sync(d->npu, p->x.buffer, GP_NPU_TO_DEVICE, 0, p->x.bytes)) < 0)
		return rc;
	for (unsigned i = 0; i < PROBES; i++) {
		if ((rc = npu_submit(d, x, &p->w, &p->x, &p->y)) < 0 || (rc = npu_wait(d, &r)) < 0)
			return rc;
		*ns = r.ns < *ns ? r.ns : *ns;
	}
	return 0;
}

static int time_both(struct npu_device *d, struct probe *p, const struct gp_npu_dispatch *large)
{
	const struct gp_npu_dispatch small = { .form = large->form, .row_blocks = 1, .out_blocks = 1,
	                                       .slices = 1 };
	const uint32_t pairs = large->out_blocks * large->slices;
	uint64_t short_ns, long_ns;
	int rc;

	if ((rc = time_command(d, p, &small, &short_ns)) < 0 ||
	    (rc = time_command(d, p, large, &long_ns)) < 0)
		return rc;
	const double pair = long_ns > short_ns ? (double)(long_ns - short_ns) / (pairs - 1) : 0;

	d->cost.pair_ns[large->form] = pair;
	d->cost.dispatch_ns = (double)short_ns > pair ? (double)short_ns - pair : 0;
	d->cost.measured = true;
	d->cost.simulated = d->info.simulated;
	return 0;
}

int npu_measure_device(struct npu_device *d, enum gp_aie_form form)
{
	const struct gp_npu_dispatch large = { .form = form, .row_blocks = 1,
	                                       .out_blocks = PROBE_BLOCKS, .slices = PROBE_SLICES };
	struct gp_npu_context *context;
	struct probe p = { 0 };
	size_t x, w, y;
	int rc;

	if ((rc = gp_npu_dispatch_bytes(&large, &x, &w, &y)) == 0 &&
	    (rc = npu_context(d, form, &context)) == 0 &&
	    (rc = npu_take(d, GP_NPU_DATA, x, "a measurement", &p.x)) == 0 &&
	    (rc = npu_take(d, GP_NPU_DATA, w, "a measurement", &p.w)) == 0 &&
	    (rc = npu_take(d, GP_NPU_DATA, y, "a measurement", &p.y)) == 0)
		rc = time_both(d, &p, &large);
	npu_give(d, &p.x);
	npu_give(d, &p.w);
	npu_give(d, &p.y);
	return rc;
}

/* The buffers that a matrix of a layer stands between. */
static bool buffers_of(const struct npu_device *d, const struct npu_weight *w, enum gp_buffer *from,
                       enum gp_buffer *to)
{
	static const enum gp_buffer pairs[][2] = {
		{ GP_BUF_NORMED, GP_BUF_GATE }, { GP_BUF_GATE, GP_BUF_BRANCH },
		{ GP_BUF_NORMED, GP_BUF_Q }, { GP_BUF_ATTN, GP_BUF_BRANCH },
	};

	for (size_t i = 0; i < GP_ARRAY_LEN(pairs); i++)
		if (d->cpu.width[pairs[i][0]] == w->cols && d->cpu.width[pairs[i][1]] == w->rows) {
			*from = pairs[i][0];
			*to = pairs[i][1];
			return true;
		}
	return false;
}

int npu_measure_host(struct npu_device *d, const struct npu_weight *w, gp_handle handle)
{
	const uint32_t most = d->cpu.shape.max_rows, rows = most < HOST_ROWS ? most : HOST_ROWS;
	const struct gp_batch b = { .n_rows = rows };
	struct gp_matmul_out out = { .weight = handle };
	uint64_t best = UINT64_MAX;
	enum gp_buffer from;
	int rc = 0;

	if (!buffers_of(d, w, &from, &out.to))
		return 0;
	d->cpu.batch = &b;
	for (unsigned i = 0; i < PROBES && rc == 0; i++) {
		const uint64_t start = gp_now_ns();

		rc = cpu_matmul(&d->cpu, from, &out, 1);
		const uint64_t ns = gp_now_ns() - start;
		best = ns < best ? ns : best;
	}
	d->cpu.batch = NULL;
	d->cost.host_ns = (double)best / ((double)rows * w->rows * w->cols);
	return rc;
}

/* ---- the model -------------------------------------------------------------------------- */
double npu_product_ns(const struct npu_cost *c, const struct npu_weight *w, uint32_t rows)
{
	const struct gp_aie_form_info *f = &gp_aie_forms[w->form];
	const double row_blocks = npu_row_blocks(w->form, rows);
	const double array = row_blocks * w->blocks * w->slices * c->pair_ns[w->form];
	const double staging = w->pinned.buffer ? 0 : (double)w->bytes * c->copy_ns;
	/* Float32 rows read and tiles written, tiles read and float32 rows written. */
	const double moved = row_blocks * GP_AIE_ROWS * w->slices * f->x_bytes +
	                     2 * row_blocks * GP_AIE_ROWS * GP_AIE_COLUMNS * w->blocks * f->y_bytes +
	                     4.0 * rows * w->cols;

	return npu_commands(w, rows) * c->dispatch_ns + (array > staging ? array : staging) + moved * c->copy_ns;
}

double npu_host_ns(const struct npu_cost *c, const struct npu_weight *w, uint32_t rows)
{
	return (double)rows * w->rows * w->cols * c->host_ns;
}

/* One after the other to the side that is done with it first. There are two or three, and
 * those that come together are of about one size. */
uint32_t npu_share(const struct npu_cost *c, const struct npu_weight *const *w, size_t n,
                   uint32_t rows)
{
	double npu = 0, host = 0;
	uint32_t share = 0;

	for (size_t i = 0; i < n; i++) {
		if (!w[i])
			continue;
		const double on_npu = npu + npu_product_ns(c, w[i], rows);
		const double on_host = host + npu_host_ns(c, w[i], rows);

		if (on_npu < on_host) {
			share |= 1u << i;
			npu = on_npu;
		} else {
			host = on_host;
		}
	}
	return share;
}

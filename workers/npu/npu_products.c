/* Products of a prompt's rows on the NPU. While one command runs, the weights of the next
 * are copied into the other staging buffer; while the first runs, the host computes its
 * share. */
#include <string.h>

#include "base/base.h"
#include "workers/npu/npu_device.h"

uint32_t npu_row_blocks(enum gp_aie_form form, uint32_t rows)
{
	const uint32_t block = GP_AIE_ROWS * gp_aie_forms[form].m;

	return (rows + block - 1) / block;
}

/* ---- one command after the other ------------------------------------------------------ */
struct product { const struct npu_weight *w; enum gp_buffer to; };

struct products {
	struct npu_device *d;
	enum gp_buffer from;
	struct product p[MAX_MATMUL_OUT];
	size_t n;
	struct gp_matmul_out host[MAX_MATMUL_OUT]; /* the host's share */
	size_t n_host;
	uint32_t rows;
};

struct part {                  /* of a product: one command */
	size_t i;
	uint32_t first_block, first_row;
};

static bool is_end(const struct products *a, const struct part *at)
{
	return at->i == a->n;
}

static struct gp_npu_dispatch dispatch_of(const struct products *a, const struct part *at)
{
	const struct npu_weight *w = a->p[at->i].w;
	const uint32_t rows = npu_row_blocks(w->form, a->rows - at->first_row);
	const uint32_t left = w->blocks - at->first_block;

	return (struct gp_npu_dispatch){
		.form = w->form, .slices = w->slices,
		.row_blocks = rows < GP_NPU_MOST_ROW_BLOCKS ? rows : GP_NPU_MOST_ROW_BLOCKS,
		.out_blocks = left < w->part_blocks ? left : w->part_blocks,
	};
}

/* Rows first: the weights of a part are staged once for all of them. */
static struct part next_part(const struct products *a, struct part at)
{
	const struct gp_npu_dispatch x = dispatch_of(a, &at);

	at.first_row += x.row_blocks * GP_AIE_ROWS * gp_aie_forms[x.form].m;
	if (at.first_row < a->rows)
		return at;
	at.first_row = 0;
	at.first_block += x.out_blocks;
	if (at.first_block < a->p[at.i].w->blocks)
		return at;
	return (struct part){ .i = at.i + 1 };
}

/* ---- weights --------------------------------------------------------------------------- */
struct staging_copy {
	const struct npu_weight *w;
	char *to;
	uint32_t first_block, blocks;
};

static void copy_some(void *arg, uint32_t thread, uint32_t n_threads)
{
	const struct staging_copy *c = arg;
	const size_t block = (size_t)c->w->slices * gp_aie_forms[c->w->form].w_bytes;
	uint32_t first, end;

	gp_threads_split(GP_AIE_COLUMNS * c->blocks, 1, thread, n_threads, &first, &end);
	for (uint32_t unit = first; unit < end; unit++) {
		const uint32_t column = unit / c->blocks, b = unit % c->blocks;

		memcpy(c->to + unit * block,
		       c->w->data + ((size_t)column * c->w->blocks + c->first_block + b) * block, block);
	}
}

static bool is_staged(const struct npu_staging *s, const struct npu_weight *w, uint32_t first)
{
	return s->holds == w && s->first_block == first;
}

/* Into the buffer that the command which runs, if one does, has not got. */
static int stage(struct products *a, const struct part *at)
{
	struct npu_device *d = a->d;
	const struct npu_weight *w = a->p[at->i].w;
	const struct gp_npu_dispatch x = dispatch_of(a, at);
	const size_t bytes = (size_t)GP_AIE_COLUMNS * x.out_blocks * w->slices *
	                     gp_aie_forms[w->form].w_bytes;
	int rc;

	if (w->pinned.buffer)
		return 0;
	for (uint32_t i = 0; i < 2; i++)
		if (is_staged(&d->staging[i], w, at->first_block)) {
			d->turn = i;
			return 0;
		}
	struct npu_staging *s = &d->staging[d->turn ^= 1];
	struct staging_copy c = { w, s->memory.host, at->first_block, x.out_blocks };

	s->holds = NULL;
	if ((rc = cpu_run(&d->cpu, copy_some, &c, bytes)) < 0 ||
	    (rc = d->driver->sync(d->npu, s->memory.buffer, GP_NPU_TO_DEVICE, 0, bytes)) < 0)
		return rc;
	s->holds = w;
	s->first_block = at->first_block;
	return 0;
}

/* ---- activations ------------------------------------------------------------------------ */
struct rows_in {
	const struct products *a;
	struct gp_npu_dispatch x;
	uint32_t first_row, cols;
};

static void pack_tiles(const struct rows_in *in, uint32_t row, uint32_t block)
{
	const struct cpu_device *c = &in->a->d->cpu;
	const struct gp_aie_form_info *f = &gp_aie_forms[in->x.form];
	const uint32_t first = in->first_row + (block * GP_AIE_ROWS + row) * f->m;
	const uint32_t left = in->a->rows > first ? in->a->rows - first : 0;
	const size_t width = c->width[in->a->from];
	char *to = (char *)in->a->d->x.host +
	           ((size_t)row * in->x.row_blocks + block) * in->x.slices * f->x_bytes;

	for (uint32_t s = 0; s < in->x.slices; s++, to += f->x_bytes) {
		const uint32_t from = s * f->k;
		const struct gp_aie_piece piece = {
			c->buffer[in->a->from] + (left ? first * width : 0) + from, width,
			left < f->m ? left : f->m, in->cols - from < f->k ? in->cols - from : f->k,
		};
		const struct gp_aie_header header = { .slices = in->x.slices, .slice = s };

		memcpy(to, &header, sizeof header);
		if (in->x.form == GP_AIE_GEMM_INT4)
			gp_aie_pack_int4_x((void *)to, &piece);
		else
			gp_aie_pack_bf16_x((void *)to, &piece);
	}
}

static void pack_some(void *arg, uint32_t thread, uint32_t n_threads)
{
	const struct rows_in *in = arg;
	uint32_t first, end;

	gp_threads_split(GP_AIE_ROWS * in->x.row_blocks, 1, thread, n_threads, &first, &end);
	for (uint32_t unit = first; unit < end; unit++)
		pack_tiles(in, unit / in->x.row_blocks, unit % in->x.row_blocks);
}

static int pack_x(struct products *a, const struct part *at)
{
	struct npu_device *d = a->d;
	struct rows_in in = { a, dispatch_of(a, at), at->first_row, a->p[at->i].w->cols };
	size_t x, w, y;
	int rc;

	if ((rc = gp_npu_dispatch_bytes(&in.x, &x, &w, &y)) < 0 ||
	    (rc = cpu_run(&d->cpu, pack_some, &in, (uint64_t)a->rows * in.cols * 4)) < 0)
		return rc;
	return d->driver->sync(d->npu, d->x.buffer, GP_NPU_TO_DEVICE, 0, x);
}

/* ---- results ------------------------------------------------------------------------------ */
struct rows_out {
	const struct products *a;
	struct part at;
	struct gp_npu_dispatch x;
};

static void unpack_block(const struct rows_out *o, uint32_t column, uint32_t block)
{
	const struct gp_aie_form_info *f = &gp_aie_forms[o->x.form];
	const struct product *p = &o->a->p[o->at.i];
	const struct cpu_device *c = &o->a->d->cpu;
	const uint32_t first = ((o->at.first_block + block) * GP_AIE_COLUMNS + column) * f->n;
	const size_t width = c->width[p->to], tiles = (size_t)GP_AIE_ROWS * f->y_bytes;

	if (first >= p->w->rows)
		return;
	for (uint32_t b = 0; b < o->x.row_blocks; b++) {
		const uint32_t row = o->at.first_row + b * GP_AIE_ROWS * f->m;
		const uint32_t left = o->a->rows - row, n = p->w->rows - first;

		gp_aie_unpack_y(o->x.form, (const char *)o->a->d->y.host +
		                (((size_t)column * o->x.row_blocks + b) * o->x.out_blocks + block) * tiles,
		                c->buffer[p->to] + row * width + first, width,
		                left < GP_AIE_ROWS * f->m ? left : GP_AIE_ROWS * f->m,
		                n < f->n ? n : f->n);
	}
}

static void unpack_some(void *arg, uint32_t thread, uint32_t n_threads)
{
	const struct rows_out *o = arg;
	uint32_t first, end;

	gp_threads_split(GP_AIE_COLUMNS * o->x.out_blocks, 1, thread, n_threads, &first, &end);
	for (uint32_t unit = first; unit < end; unit++)
		unpack_block(o, unit % GP_AIE_COLUMNS, unit / GP_AIE_COLUMNS);
}

static int unpack_y(struct products *a, const struct part *at)
{
	struct npu_device *d = a->d;
	struct rows_out o = { a, *at, dispatch_of(a, at) };
	size_t x, w, y;
	int rc;

	if ((rc = gp_npu_dispatch_bytes(&o.x, &x, &w, &y)) < 0 ||
	    (rc = d->driver->sync(d->npu, d->y.buffer, GP_NPU_FROM_DEVICE, 0, y)) < 0)
		return rc;
	return cpu_run(&d->cpu, unpack_some, &o, y / sizeof(float));
}

/* ---- running -------------------------------------------------------------------------------- */
static int start(struct products *a, const struct part *at)
{
	struct npu_device *d = a->d;
	const struct npu_weight *w = a->p[at->i].w;
	struct gp_npu_dispatch x = dispatch_of(a, at);
	const size_t block = (size_t)w->slices * gp_aie_forms[w->form].w_bytes;

	if (!w->pinned.buffer)
		return npu_submit(d, &x, &d->staging[d->turn].memory, &d->x, &d->y);
	x.w_offset = at->first_block * block;
	x.w_stride = w->blocks * block;
	return npu_submit(d, &x, &w->pinned, &d->x, &d->y);
}

static int finish(struct npu_device *d, uint64_t start_ns)
{
	struct gp_npu_result r;
	const int rc = npu_wait(d, &r);

	if (rc == 0 && gp_trace_on())
		gp_trace_span("npu", d->info.simulated ? "product (simulated NPU)" : "product (NPU)",
		              start_ns, gp_now_ns(), d->info.simulated ? "simulated_ns" : "ns",
		              (int64_t)r.ns);
	return rc;
}

/* Whether a command's x is what is in the buffer already. */
static bool same_x(const struct products *a, const struct part *old, const struct part *at)
{
	return old && a->p[old->i].w->form == a->p[at->i].w->form && old->first_row == at->first_row;
}

static int run_products(struct products *a)
{
	struct part at = { 0 }, old = { 0 };
	bool have_x = false;
	int rc = a->n ? stage(a, &at) : 0;

	while (rc == 0 && !is_end(a, &at)) {
		const struct part next = next_part(a, at);
		const uint64_t start_ns = gp_now_ns();

		if (!same_x(a, have_x ? &old : NULL, &at) && (rc = pack_x(a, &at)) < 0)
			return rc;
		if ((rc = start(a, &at)) < 0)
			return rc;
		if (!is_end(a, &next))
			rc = stage(a, &next);
		if (rc == 0 && !have_x && a->n_host)
			rc = cpu_matmul(&a->d->cpu, a->from, a->host, a->n_host);
		if (rc == 0)
			rc = finish(a->d, start_ns);
		if (rc == 0)
			rc = unpack_y(a, &at);
		old = at;
		have_x = true;
		at = next;
	}
	return rc;
}

/* Rows of one sequence side by side: a prompt's. */
static bool is_prefill(const struct gp_batch *b)
{
	for (uint32_t i = 1; i < b->n_rows; i++)
		if (b->seq[i] == b->seq[i - 1])
			return true;
	return false;
}

int npu_begin_step(void *dev, const struct gp_batch *b, const float *hidden_in)
{
	struct npu_device *d = dev;
	int rc;

	if ((rc = npu_drain(d)) < 0)
		return rc;
	d->prefill = is_prefill(b);
	return cpu_begin_step(dev, b, hidden_in);
}

int npu_matmul(void *dev, enum gp_buffer from, const struct gp_matmul_out *out, size_t n_out)
{
	struct npu_device *d = dev;
	struct products a = { .d = d, .from = from, .rows = d->cpu.batch->n_rows };
	const struct npu_weight *w[MAX_MATMUL_OUT] = { NULL };

	if (!d->prefill || n_out > MAX_MATMUL_OUT)
		return cpu_matmul(dev, from, out, n_out);
	for (size_t i = 0; i < n_out; i++)
		w[i] = d->weight[out[i].weight - 1];
	const uint32_t share = d->always ? ~0u : npu_share(&d->cost, w, n_out, a.rows);
	for (size_t i = 0; i < n_out; i++)
		if (w[i] && share >> i & 1)
			a.p[a.n++] = (struct product){ w[i], out[i].to };
		else
			a.host[a.n_host++] = out[i];
	return a.n ? run_products(&a) : cpu_matmul(dev, from, out, n_out);
}

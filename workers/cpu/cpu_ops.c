/* The operations of a step on the CPU. Threads share a matrix by its output
 * columns and everything else by rows, never by a reduction, so that no result
 * depends on their number. */
#include "workers/cpu/cpu_device.h"

#include <string.h>

#include "base/base.h"

#define MIN_SHARED_WORK 32768u /* floats: about the microseconds that waking costs */
#define PIECES 32u             /* of a thread's share */
#define LEAST_PIECE 64u        /* output columns: the streams of one row */

int cpu_run(struct cpu_device *d, gp_threads_fn *fn, void *arg, uint64_t work)
{
	if (atomic_load_explicit(&d->cancelled, memory_order_relaxed))
		return gp_fail(ECANCELED, "the step was cancelled");
	if (work < MIN_SHARED_WORK)
		fn(arg, 0, 1);
	else
		gp_threads_run(d->threads, fn, arg);
	return 0;
}

void cpu_untake_shares(struct cpu_device *d, size_t n)
{
	for (size_t i = 0; i < n * gp_threads_count(d->threads); i++)
		atomic_store_explicit(&d->shares[i].next, 0, memory_order_relaxed);
}

const struct cpu_weight *cpu_weight(const struct cpu_device *d, gp_handle h)
{
	return &d->weights[h - 1];
}

static float *row_of(const struct cpu_device *d, enum gp_buffer b, uint32_t row)
{
	return d->buffer[b] + (size_t)row * d->width[b];
}

/* ---- begin, end ------------------------------------------------------------ */
static void rope_some(void *arg, uint32_t thread, uint32_t n_threads)
{
	struct cpu_device *d = arg;
	uint32_t first, end;

	gp_threads_split(d->batch->n_rows, 1, thread, n_threads, &first, &end);
	cpu_rope_rows(d, first, end);
}

int cpu_begin_step(void *dev, const struct gp_batch *b, const float *hidden_in)
{
	struct cpu_device *d = dev;

	atomic_store_explicit(&d->cancelled, false, memory_order_relaxed);
	d->batch = b;
	if (hidden_in)
		memcpy(d->buffer[GP_BUF_HIDDEN], hidden_in,
		       (size_t)b->n_rows * d->config.hidden * sizeof(float));
	/* A sine costs about as much as 16 floats of other work. */
	return cpu_run(d, rope_some, d, (uint64_t)b->n_rows * d->config.head_dim * 16);
}

int cpu_end_step(void *dev, enum gp_buffer from, float *out)
{
	struct cpu_device *d = dev;
	int rc = 0;

	if (from == GP_BUF_LOGITS)
		rc = cpu_logits_out(d, out);
	else
		memcpy(out, d->buffer[from], d->batch->n_rows * d->width[from] * sizeof(float));
	d->batch = NULL;
	return rc;
}

const float *cpu_peek(void *dev, enum gp_buffer b)
{
	return ((struct cpu_device *)dev)->buffer[b];
}

int cpu_check(void *dev, enum gp_buffer b, uint32_t rows)
{
	const struct cpu_device *d = dev;

	return gp_find_wrong(d->buffer[b], rows, d->width[b]);
}

/* ---- embedding ------------------------------------------------------------- */
struct embed {
	struct cpu_device *d;
	const struct cpu_weight *table;
	float scale;
};

/* The token's row in the file's layout, from where it is. */
static const void *table_row(const struct embed *e, uint32_t token, void *room)
{
	const struct cpu_weight *w = e->table;
	const struct gp_type_info *t = gp_type_info(w->type);
	const size_t row_bytes = (size_t)(w->cols / t->block_elems) * t->block_bytes;
	const uint32_t lanes = e->d->k.lanes;
	const char *rows = w->pages.data;

	if (!w->packed)
		return rows + token * row_bytes;
	gp_unpack_row(w->type, lanes, rows + (size_t)(token / lanes) * lanes * row_bytes,
	              token % lanes, w->cols, room);
	return room;
}

static void embed_some(void *arg, uint32_t thread, uint32_t n_threads)
{
	const struct embed *e = arg;
	struct cpu_device *d = e->d;
	uint32_t first, end;

	gp_threads_split(d->batch->n_rows, 1, thread, n_threads, &first, &end);
	for (uint32_t r = first; r < end; r++) {
		float *x = row_of(d, GP_BUF_HIDDEN, r);
		const void *src = table_row(e, d->batch->token[r],
		                            d->scratch + thread * d->scratch_floats);

		d->k.dequantize(e->table->type, src, x, e->table->cols);
		for (uint32_t i = 0; i < e->table->cols; i++)
			x[i] *= e->scale;
	}
}

int cpu_embed(void *dev, gp_handle table, float scale)
{
	struct cpu_device *d = dev;
	struct embed e = { d, cpu_weight(d, table), scale };

	return cpu_run(d, embed_some, &e, (uint64_t)d->batch->n_rows * e.table->cols * 4);
}

/* ---- by rows --------------------------------------------------------------- */
struct row_op {
	struct cpu_device *d;
	enum gp_buffer to, from;
	const float *w;
	void (*row)(const struct row_op *op, float *to, const float *from);
};

static void rows_some(void *arg, uint32_t thread, uint32_t n_threads)
{
	const struct row_op *op = arg;
	uint32_t first, end;

	gp_threads_split(op->d->batch->n_rows, 1, thread, n_threads, &first, &end);
	for (uint32_t r = first; r < end; r++)
		op->row(op, row_of(op->d, op->to, r), row_of(op->d, op->from, r));
}

static int run_rows(struct row_op *op, uint64_t work_factor)
{
	uint64_t floats = (uint64_t)op->d->batch->n_rows * op->d->width[op->to];

	return cpu_run(op->d, rows_some, op, floats * work_factor);
}

static void norm_row(const struct row_op *op, float *to, const float *from)
{
	op->d->k.rms_norm(to, from, op->w, 0, op->d->config.rms_eps, op->d->width[op->to]);
}

int cpu_rms_norm(void *dev, enum gp_buffer to, enum gp_buffer from, gp_handle w)
{
	struct cpu_device *d = dev;
	struct row_op op = { d, to, from, cpu_weight(d, w)->pages.data, norm_row };

	return run_rows(&op, 1);
}

static void add_row(const struct row_op *op, float *to, const float *from)
{
	op->d->k.add(to, from, op->d->width[op->to]);
}

int cpu_add(void *dev, enum gp_buffer to, enum gp_buffer from)
{
	struct row_op op = { dev, to, from, NULL, add_row };

	return run_rows(&op, 1);
}

static void geglu_row(const struct row_op *op, float *to, const float *from)
{
	op->d->k.geglu(to, to, from, op->d->width[op->to]);
}

int cpu_geglu(void *dev)
{
	struct row_op op = { dev, GP_BUF_GATE, GP_BUF_UP, NULL, geglu_row };

	return run_rows(&op, 8); /* its exponential */
}

/* ---- matrices -------------------------------------------------------------- */
struct matmul {
	struct cpu_device *d;
	enum gp_buffer from;
	uint32_t rows, cols;
	size_t n_out;
	const struct cpu_weight *w[MAX_MATMUL_OUT];
	enum gp_buffer to[MAX_MATMUL_OUT];
};

static void quantize_some(void *arg, uint32_t thread, uint32_t n_threads)
{
	const struct matmul *m = arg;
	const struct cpu_device *d = m->d;
	uint32_t first, end;

	gp_threads_split(m->rows, 1, thread, n_threads, &first, &end);
	for (uint32_t r = first; r < end; r++)
		d->k.quantize_q8(d->quantized + gp_q8_at(r, m->cols / 32),
		                 gp_q8_stride(r, m->rows), row_of(d, m->from, r), m->cols);
}

static void multiply(const struct matmul *m, size_t i, uint32_t n0, uint32_t n1, float *scratch)
{
	const struct cpu_device *d = m->d;
	const struct cpu_weight *w = m->w[i];
	float *y = d->buffer[m->to[i]];
	const uint32_t y_stride = d->width[m->to[i]];

	if (w->packed)
		d->k.matmul_packed(y, y_stride, d->quantized, m->rows, w->pages.data, w->type,
		                   w->cols, n0, n1);
	else
		d->k.matmul(y, y_stride, d->buffer[m->from], d->width[m->from], m->rows,
		            w->pages.data, w->type, w->cols, n0, n1, scratch);
}

/* What is left of a thread's share of an output, piece by piece. A thread that
 * is ahead so takes from one that the system holds up. Which thread computes an
 * output never changes its bits. */
static void multiply_share(const struct matmul *m, size_t i, uint32_t owner, uint32_t n_threads,
                           float *scratch)
{
	_Atomic uint32_t *next = &m->d->shares[i * gp_threads_count(m->d->threads) + owner].next;
	uint32_t first, end;

	gp_threads_split(m->w[i]->rows, CPU_MATMUL_GRAIN, owner, n_threads, &first, &end);
	const uint64_t step = ((end - first) / PIECES / LEAST_PIECE + 1) * LEAST_PIECE;
	/* Relaxed: only the numbers matter; the run itself orders the data. */
	for (uint64_t n; (n = first + step * atomic_fetch_add_explicit(
	                          next, 1, memory_order_relaxed)) < end;)
		multiply(m, i, (uint32_t)n, (uint32_t)(n + step < end ? n + step : end), scratch);
}

/* First the thread's own share of each output: the rows that it packed when they
 * were loaded, and so those in the memory of its own node. */
static void matmul_some(void *arg, uint32_t thread, uint32_t n_threads)
{
	const struct matmul *m = arg;
	float *scratch = m->d->scratch + thread * m->d->scratch_floats;

	for (size_t i = 0; i < m->n_out; i++)
		multiply_share(m, i, thread, n_threads, scratch);
	for (uint32_t t = 1; t < n_threads; t++)
		for (size_t i = 0; i < m->n_out; i++)
			multiply_share(m, i, (thread + t) % n_threads, n_threads, scratch);
}

static int run_matmul(struct matmul *m)
{
	bool packed = false;
	uint64_t work = 0;
	int rc;

	m->cols = m->d->width[m->from];
	for (size_t i = 0; i < m->n_out; i++) {
		if (m->w[i]->cols != m->cols || m->w[i]->rows != m->d->width[m->to[i]])
			return gp_fail(EINVAL, "matrix of %u x %u between buffers of %u and %u",
			               m->w[i]->rows, m->w[i]->cols, m->cols,
			               m->d->width[m->to[i]]);
		packed |= m->w[i]->packed;
		work += (uint64_t)m->w[i]->rows * m->w[i]->cols;
	}
	if (packed && (rc = cpu_run(m->d, quantize_some, m,
	                            m->rows > 1 ? (uint64_t)m->rows * m->cols : 0)) < 0)
		return rc;
	cpu_untake_shares(m->d, m->n_out);
	return cpu_run(m->d, matmul_some, m, work * m->rows);
}

int cpu_matmul(void *dev, enum gp_buffer from, const struct gp_matmul_out *out, size_t n_out)
{
	struct cpu_device *d = dev;
	struct matmul m = { .d = d, .from = from, .rows = d->batch->n_rows, .n_out = n_out };

	if (n_out > MAX_MATMUL_OUT)
		return gp_fail(EINVAL, "%zu outputs of one matmul; at most %u", n_out,
		               MAX_MATMUL_OUT);
	for (size_t i = 0; i < n_out; i++) {
		m.w[i] = cpu_weight(d, out[i].weight);
		m.to[i] = out[i].to;
	}
	return run_matmul(&m);
}

int cpu_head(void *dev, gp_handle table)
{
	struct cpu_device *d = dev;
	const struct gp_batch *b = d->batch;
	struct matmul m = { .d = d, .from = GP_BUF_BRANCH, .rows = b->n_logit_rows, .n_out = 1,
	                    .w = { cpu_weight(d, table) }, .to = { GP_BUF_LOGITS } };

	/* BRANCH is free by now: the wanted rows side by side. */
	for (uint32_t i = 0; i < b->n_logit_rows; i++)
		memcpy(row_of(d, GP_BUF_BRANCH, i), row_of(d, GP_BUF_NORMED, b->logit_rows[i]),
		       d->config.hidden * sizeof(float));
	return run_matmul(&m);
}

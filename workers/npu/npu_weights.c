/* Which matrices the NPU gets, and how they are kept: packed once, in the order in which
 * they are streamed, beside the host's own copy, which decodes. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "workers/npu/npu_device.h"

#define Q4_0_BYTES 18u         /* a block of 32 */

/* ---- which ------------------------------------------------------------------------- */
/* The three largest of a layer: what a step may send to the NPU are three commands. */
static size_t least_size(const struct gp_config *c)
{
	const size_t q = (size_t)c->hidden * c->n_heads * c->head_dim;
	const size_t kv = (size_t)c->hidden * c->n_kv_heads * c->head_dim;
	const size_t ffn = (size_t)c->hidden * c->ffn;
	size_t size[NPU_LAYER_MATRICES] = { q, kv, kv, q, ffn, ffn, ffn };

	for (size_t i = 1; i < NPU_LAYER_MATRICES; i++)
		for (size_t j = i; j && size[j - 1] < size[j]; j--) {
			const size_t s = size[j];

			size[j] = size[j - 1];
			size[j - 1] = s;
		}
	return size[NPU_LAYER_COMMANDS - 1];
}

int npu_configure(void *dev, const struct gp_stage_shape *shape)
{
	struct npu_device *d = dev;

	npu_release(d);
	d->least_size = least_size(shape->config);
	return cpu_configure(&d->cpu, shape);
}

/* The shape of a matrix in tiles; false: the NPU cannot have it. */
static bool lay_out(const struct npu_device *d, const struct gp_tensor *t, struct npu_weight *w)
{
	const enum gp_aie_form form = t->type == GP_TYPE_Q4_0 ? GP_AIE_GEMM_INT4 : GP_AIE_GEMM_BF16;
	const struct gp_aie_form_info *f = &gp_aie_forms[form];

	*w = (struct npu_weight){
		.form = form, .rows = (uint32_t)t->rows, .cols = (uint32_t)t->cols,
		.slices = (uint32_t)((t->cols + f->k - 1) / f->k),
		.blocks = (uint32_t)((t->rows + GP_AIE_COLUMNS * f->n - 1) / (GP_AIE_COLUMNS * f->n)),
	};
	const size_t block = (size_t)GP_AIE_COLUMNS * w->slices * f->w_bytes;
	const bool pins = gp_size_mul(block, w->blocks, &w->bytes) &&
	                  w->bytes <= d->pin_bytes - d->pinned_bytes;
	const size_t fit = pins ? w->blocks : d->staging_bytes / block;

	w->part_blocks = fit < w->blocks ? (uint32_t)fit : w->blocks;
	if (w->part_blocks > GP_NPU_MOST_OUT_BLOCKS)
		w->part_blocks = GP_NPU_MOST_OUT_BLOCKS;
	return w->bytes && w->part_blocks;
}

uint32_t npu_commands(const struct npu_weight *w, uint32_t rows)
{
	const uint32_t blocks = npu_row_blocks(w->form, rows);

	return (blocks + GP_NPU_MOST_ROW_BLOCKS - 1) / GP_NPU_MOST_ROW_BLOCKS *
	       ((w->blocks + w->part_blocks - 1) / w->part_blocks);
}

/* Matrices come layer by layer; the embedding is none of them. */
static bool is_wanted(struct npu_device *d, const struct gp_tensor *t, struct npu_weight *w)
{
	if (!d->npu || t->rows == 1 || t->rows == d->cpu.config.vocab)
		return false;
	if (d->matrices++ % NPU_LAYER_MATRICES == 0)
		d->layer_commands = 0;
	if (t->rows * t->cols < d->least_size || !lay_out(d, t, w))
		return false;
	/* Of a step of as many rows as there may be. */
	const uint32_t commands = npu_commands(w, d->cpu.shape.max_rows);
	if (d->layer_commands + commands > NPU_LAYER_COMMANDS)
		return false;
	d->layer_commands += commands;
	return true;
}

/* ---- packing ------------------------------------------------------------------------ */
struct packing {
	const struct npu_device *d;
	const struct npu_weight *w;
	const struct gp_tensor *t;
	size_t row_bytes;
	atomic_int rc;
};

/* The w tiles of n outputs that one column gets of one block. */
static void pack_outputs(const struct packing *p, uint32_t first, const char *raw, float *rows,
                         char *to)
{
	const struct npu_weight *w = p->w;
	const struct gp_aie_form_info *f = &gp_aie_forms[w->form];
	const uint32_t n = w->rows <= first ? 0 : w->rows - first < f->n ? w->rows - first : f->n;

	for (uint32_t r = 0; r < n && w->form == GP_AIE_GEMM_BF16; r++)
		p->d->cpu.k.dequantize(p->t->type, raw + r * p->row_bytes, rows + (size_t)r * w->cols,
		                       w->cols);
	for (uint32_t s = 0; s < w->slices; s++, to += f->w_bytes) {
		const uint32_t from = s * f->k, k = w->cols - from < f->k ? w->cols - from : f->k;

		if (w->form == GP_AIE_GEMM_INT4)
			gp_aie_pack_int4_w((void *)to, raw + from / 32 * Q4_0_BYTES, p->row_bytes, n, k);
		else
			gp_aie_pack_bf16_w((void *)to, &(struct gp_aie_piece){ rows + from, w->cols, n, k });
	}
}

static int pack_block(const struct packing *p, uint32_t unit, char *raw, float *rows)
{
	const struct npu_weight *w = p->w;
	const struct gp_aie_form_info *f = &gp_aie_forms[w->form];
	const uint32_t column = unit % GP_AIE_COLUMNS, block = unit / GP_AIE_COLUMNS;
	const uint32_t first = unit * f->n;
	int rc = 0;

	if (first < w->rows) {
		const uint32_t n = w->rows - first < f->n ? w->rows - first : f->n;

		rc = gp_tensor_read(p->t, first * p->row_bytes, n * p->row_bytes, raw);
	}
	if (rc == 0)
		pack_outputs(p, first, raw, rows, w->data +
		             ((size_t)column * w->blocks + block) * w->slices * f->w_bytes);
	return rc;
}

static void pack_some(void *arg, uint32_t thread, uint32_t n_threads)
{
	struct packing *p = arg;
	const struct gp_aie_form_info *f = &gp_aie_forms[p->w->form];
	char *raw = malloc(f->n * p->row_bytes);
	float *rows = malloc(p->w->form == GP_AIE_GEMM_BF16 ? f->n * p->w->cols * sizeof *rows : 1);
	uint32_t first, end;
	int rc = raw && rows ? 0 : -ENOMEM;

	gp_threads_split(p->w->blocks * GP_AIE_COLUMNS, 1, thread, n_threads, &first, &end);
	for (uint32_t unit = first; unit < end && rc == 0; unit++)
		rc = pack_block(p, unit, raw, rows);
	free(raw);
	free(rows);
	if (rc < 0)
		atomic_store(&p->rc, rc);
}

static int take_room(struct npu_device *d, struct npu_weight *w)
{
	struct gp_npu_context *context;
	int rc = npu_context(d, w->form, &context);

	if (rc < 0)
		return rc;
	if (w->bytes > d->pin_bytes - d->pinned_bytes) {
		rc = cpu_pages_take(&w->pages, w->bytes, "weights for the NPU");
		w->data = w->pages.data;
		return rc;
	}
	if ((rc = npu_take(d, GP_NPU_DATA, w->bytes, "pinned weights", &w->pinned)) < 0)
		return rc;
	w->data = w->pinned.host;
	d->pinned_bytes += w->bytes;
	return 0;
}

static int pack(struct npu_device *d, struct npu_weight *w, const struct gp_tensor *t)
{
	struct packing p = { .d = d, .w = w, .t = t, .row_bytes = t->bytes / t->rows };
	int rc = take_room(d, w);

	if (rc < 0)
		return rc;
	gp_threads_run(d->cpu.threads, pack_some, &p);
	/* The message of another thread does not reach this one. */
	if ((rc = atomic_load(&p.rc)) == -ENOMEM)
		return gp_fail(ENOMEM, "no memory to pack tensor '%s' for the NPU", t->name);
	if (rc < 0)
		return gp_fail(-rc, "tensor '%s' can't be read: its file was cut short or its disk "
		               "fails; fetch it again", t->name);
	return w->pinned.buffer ? d->driver->sync(d->npu, w->pinned.buffer, GP_NPU_TO_DEVICE, 0,
	                                          w->bytes) : 0;
}

static void drop(struct npu_device *d, struct npu_weight *w)
{
	if (!w)
		return;
	cpu_pages_give(&w->pages);
	npu_give(d, &w->pinned);
	free(w);
}

static int room_for(struct npu_device *d)
{
	const size_t room = d->weights_room ? 2 * d->weights_room : 64;

	if (d->n_weights < d->weights_room)
		return 0;
	struct npu_weight **more = realloc(d->weight, room * sizeof(struct npu_weight *));
	if (!more)
		return gp_fail(ENOMEM, "no memory for the list of weights");
	d->weight = more;
	d->weights_room = room;
	return 0;
}

int npu_load(void *dev, const struct gp_tensor *t, float norm_offset, gp_handle *out)
{
	struct npu_device *d = dev;
	struct npu_weight shape, *w;
	int rc;

	if ((rc = room_for(d)) < 0 || (rc = cpu_load(&d->cpu, t, norm_offset, out)) < 0)
		return rc;
	d->weight[d->n_weights++] = NULL;
	if (!is_wanted(d, t, &shape))
		return 0;
	if (!(w = malloc(sizeof *w)))
		return gp_fail(ENOMEM, "no memory for a weight");
	*w = shape;
	d->weight[*out - 1] = w;
	return pack(d, w, t);
}

/* ---- what steps need ------------------------------------------------------------------ */
static size_t most(size_t a, size_t b)
{
	return a > b ? a : b;
}

/* Bytes of the largest command of any weight. */
static int size_up(const struct npu_device *d, size_t *x, size_t *y, size_t *staging)
{
	*x = *y = *staging = 0;
	for (size_t i = 0; i < d->n_weights; i++) {
		const struct npu_weight *w = d->weight[i];
		size_t sizes[3];
		int rc;

		if (!w)
			continue;
		const uint32_t rows = npu_row_blocks(w->form, d->cpu.shape.max_rows);
		const struct gp_npu_dispatch most_of_it = {
			.form = w->form, .out_blocks = w->part_blocks, .slices = w->slices,
			.row_blocks = rows < GP_NPU_MOST_ROW_BLOCKS ? rows : GP_NPU_MOST_ROW_BLOCKS,
		};
		if ((rc = gp_npu_dispatch_bytes(&most_of_it, &sizes[0], &sizes[1], &sizes[2])) < 0)
			return rc;
		*x = most(*x, sizes[0]);
		*y = most(*y, sizes[2]);
		*staging = most(*staging, w->pinned.buffer ? 0 : sizes[1]);
	}
	return 0;
}

static int take_buffers(struct npu_device *d)
{
	size_t x, y, staging;
	int rc = size_up(d, &x, &y, &staging);

	if (rc < 0 || !x)
		return rc;
	if ((rc = npu_take(d, GP_NPU_DATA, x, "activations", &d->x)) < 0 ||
	    (rc = npu_take(d, GP_NPU_DATA, y, "results", &d->y)) < 0)
		return rc;
	for (int i = 0; i < 2 && staging; i++)
		if ((rc = npu_take(d, GP_NPU_DATA, staging, "staged weights",
		                   &d->staging[i].memory)) < 0)
			return rc;
	return 0;
}

int npu_finish_load(void *dev)
{
	struct npu_device *d = dev;
	bool done[GP_AIE_FORMS] = { false };
	int rc = d->npu ? take_buffers(d) : 0;

	if (!d->npu || rc < 0)
		return rc;
	for (size_t i = 0; i < d->n_weights; i++) {
		const struct npu_weight *w = d->weight[i];

		if (!w || done[w->form])
			continue;
		done[w->form] = true;
		if ((rc = npu_measure_device(d, w->form)) < 0 ||
		    (!d->always && (rc = npu_measure_host(d, w, (gp_handle)i + 1)) < 0))
			return rc;
	}
	return 0;
}

void npu_release(struct npu_device *d)
{
	if (npu_drain(d) < 0)
		gp_log(GP_LOG_DEBUG, "%s", gp_error());
	for (size_t i = 0; i < d->n_weights; i++)
		drop(d, d->weight[i]);
	free(d->weight);
	d->weight = NULL;
	d->n_weights = d->weights_room = 0;
	d->matrices = d->layer_commands = 0;
	d->pinned_bytes = 0;
	npu_give(d, &d->x);
	npu_give(d, &d->y);
	for (int i = 0; i < 2; i++) {
		npu_give(d, &d->staging[i].memory);
		d->staging[i] = (struct npu_staging){ 0 };
	}
}

uint64_t npu_memory_bytes(void *dev)
{
	const struct npu_device *d = dev;
	uint64_t sum = cpu_memory_bytes(dev) + d->x.bytes + d->y.bytes +
	               d->staging[0].memory.bytes + d->staging[1].memory.bytes;

	for (size_t i = 0; i < d->n_weights; i++)
		sum += d->weight[i] ? d->weight[i]->bytes : 0;
	return sum;
}

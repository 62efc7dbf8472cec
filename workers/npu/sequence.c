/* Three kinds of tasks a column: y out, x in, w in. All linear, because what is streamed
 * lies in the order in which it is. */
#include "workers/npu/sequence.h"

#include "base/base.h"
#include "workers/npu/stream.h"

int gp_npu_dispatch_bytes(const struct gp_npu_dispatch *d, size_t *x, size_t *w, size_t *y)
{
	const struct gp_aie_form_info *f = &gp_aie_forms[d->form];
	const size_t rows = f->shares_x ? 1 : (size_t)GP_AIE_ROWS * d->row_blocks;
	const size_t blocks = (size_t)d->row_blocks * d->out_blocks;
	const size_t outs = (size_t)GP_AIE_COLUMNS * d->out_blocks;

	if (gp_size_mul(rows * f->x_bytes, d->slices, x) &&
	    gp_size_mul(outs * f->w_bytes, d->slices, w) &&
	    gp_size_mul(blocks * GP_AIE_COLUMNS * GP_AIE_ROWS, f->y_bytes, y))
		return 0;
	return gp_fail(EOVERFLOW, "a product of %u blocks of rows, %u of outputs and %u slices is "
	               "too large", d->row_blocks, d->out_blocks, d->slices);
}

static int check(const struct gp_npu_dispatch *d)
{
	if (d->row_blocks && d->row_blocks <= GP_NPU_MOST_ROW_BLOCKS && d->out_blocks &&
	    d->out_blocks <= GP_NPU_MOST_OUT_BLOCKS && d->slices &&
	    (!gp_aie_forms[d->form].shares_x || d->row_blocks == 1))
		return 0;
	return gp_fail(EINVAL, "one command cannot do %u blocks of rows by %u of outputs by %u "
	               "slices; split it", d->row_blocks, d->out_blocks, d->slices);
}

struct put {
	struct gp_task_writer *tasks;
	uint8_t column;
};

static void put(const struct put *p, bool to_array, uint8_t channel, uint32_t arg, uint64_t offset,
                uint64_t bytes, uint32_t repeats)
{
	const struct gp_shim_task t = {
		.on = { .column = p->column, .channel = channel, .to_array = to_array },
		.bd = { .n_words = (uint32_t)(bytes / 4) },
		.repeats = repeats, .arg = arg, .offset = offset, .token = !to_array,
	};

	gp_tasks_put(p->tasks, &t);
}

static void put_column(const struct put *p, const struct gp_npu_dispatch *d)
{
	const struct gp_aie_form_info *f = &gp_aie_forms[d->form];
	const uint64_t strip = (uint64_t)d->slices * f->x_bytes;
	const uint64_t w_bytes = (uint64_t)d->slices * d->out_blocks * f->w_bytes;
	const uint64_t y_bytes = (uint64_t)d->row_blocks * d->out_blocks * GP_AIE_ROWS * f->y_bytes;
	const uint64_t x_first = f->shares_x ? 0 : p->column * d->row_blocks * strip;

	put(p, false, 0, 2, p->column * y_bytes, y_bytes, 1);
	put(p, true, 1, 1, d->w_offset + p->column * (d->w_stride ? d->w_stride : w_bytes), w_bytes,
	    d->row_blocks);
	for (uint32_t b = 0; b < d->row_blocks; b++)
		put(p, true, 0, 0, x_first + b * strip, strip, d->out_blocks);
}

int gp_npu_sequence(const struct gp_npu_dispatch *d, uint32_t words[GP_NPU_SEQUENCE_WORDS],
                    uint32_t *n_words)
{
	struct gp_task_writer tasks;
	struct gp_stream s;
	size_t x, w, y, n;
	int rc;

	if ((rc = check(d)) < 0 || (rc = gp_npu_dispatch_bytes(d, &x, &w, &y)) < 0)
		return rc;
	gp_stream_begin(&s, words, GP_NPU_SEQUENCE_WORDS);
	gp_tasks_begin(&tasks, &s);
	for (uint8_t c = 0; c < GP_AIE_COLUMNS; c++)
		put_column(&(struct put){ &tasks, c }, d);
	gp_tasks_end(&tasks);
	if ((rc = gp_stream_end(&s, &n)) < 0)
		return gp_fail_in(rc, "instructions of a product");
	*n_words = (uint32_t)n;
	return 0;
}

/* The array, functionally: the tasks of each shim channel are strung together into one
 * stream of bytes, and the tiles take from the streams in as the kernels' loop does. */
#include "workers/npu/array.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "kernels/aie/aie.h"
#include "workers/npu/sequence.h"
#include "workers/npu/stream.h"

struct piece { char *data; size_t bytes; };
#define MOST_PIECES (1u << 20)     /* of a lane; our own streams have a thousand at most */
struct lane {                      /* one channel of one shim tile */
	struct piece *pieces;
	size_t n, room, next, used; /* used: bytes of pieces[next] */
};

#define MOST_X 8448u               /* bytes of the largest tiles, to 64 */
#define MOST_W 9472u
#define MOST_Y 16384u
_Static_assert(sizeof(struct gp_aie_int4_x) <= MOST_X && sizeof(struct gp_aie_bf16_x) <= MOST_X &&
               sizeof(struct gp_aie_int4_w) <= MOST_W && sizeof(struct gp_aie_bf16_w) <= MOST_W &&
               sizeof(struct gp_aie_int4_y) <= MOST_Y && sizeof(struct gp_aie_bf16_y) <= MOST_Y,
               "every form's tiles fit");

struct array {
	enum gp_aie_form form;
	void *const *args;
	const size_t *arg_bytes;
	size_t n_args;
	struct lane x[GP_AIE_COLUMNS], w[GP_AIE_COLUMNS], y[GP_AIE_COLUMNS];
	struct gp_npu_count count;
	/* what the tiles hold */
	_Alignas(64) char x_tile[GP_AIE_ROWS][MOST_X];
	_Alignas(64) char w_tile[GP_AIE_COLUMNS][MOST_W];
	_Alignas(64) char y_tile[GP_AIE_COLUMNS][GP_AIE_ROWS][MOST_Y];
};

/* ---- streams ---------------------------------------------------------------------- */
struct gathering {
	struct lane *lane;
	char *data;
};

static int add_piece(void *context, uint64_t offset, uint64_t bytes)
{
	const struct gathering *g = context;
	struct lane *l = g->lane;

	if (l->n == l->room) {
		const size_t room = l->room ? 2 * l->room : 16;
		struct piece *more = NULL;

		/* A task can come by its bytes one word at a time, 2^40 of them. */
		if (room > MOST_PIECES)
			return gp_fail(ERANGE, "a channel's tasks are in more than %u pieces", MOST_PIECES);
		if (!(more = realloc(l->pieces, room * sizeof *more)))
			return gp_fail(ENOMEM, "no memory for the simulated NPU");
		l->pieces = more;
		l->room = room;
	}
	l->pieces[l->n++] = (struct piece){ g->data + offset, bytes };
	return 0;
}

static struct lane *lane_of(struct array *a, const struct gp_shim_channel *on)
{
	if (on->column >= GP_AIE_COLUMNS || on->channel > on->to_array)
		return NULL;
	if (!on->to_array)
		return &a->y[on->column];
	return on->channel ? &a->w[on->column] : &a->x[on->column];
}

static int on_task(void *context, const struct gp_shim_task *t)
{
	struct array *a = context;
	struct gathering g = { .lane = lane_of(a, &t->on) };
	uint64_t moved, end;
	int rc;

	if (!g.lane)
		return gp_fail(EINVAL, "the program routes nothing at column %u, channel %u",
		               t->on.column, t->on.channel);
	if (t->arg >= a->n_args)
		return gp_fail(EINVAL, "instructions name buffer %u of %zu", t->arg, a->n_args);
	if ((rc = gp_shim_task_extent(t, &moved, &end)) < 0)
		return rc;
	if (end > a->arg_bytes[t->arg])
		return gp_fail(ERANGE, "a task reaches to byte %llu of buffer %u, which has %zu",
		               (unsigned long long)end, t->arg, a->arg_bytes[t->arg]);
	g.data = a->args[t->arg];
	if (t->on.to_array)
		a->count.bytes_in += moved;
	else
		a->count.bytes_out += moved;
	return gp_shim_task_walk(t, add_piece, &g);
}

static int on_wait(void *context, const struct gp_shim_channel *on)
{
	(void)context;
	(void)on; /* all tasks end together here */
	return 0;
}

static bool is_empty(const struct lane *l)
{
	return l->next == l->n;
}

/* Moves bytes between a stream and a tile; -ETIMEDOUT: there are not so many. */
static int move(struct lane *l, char *tile, size_t bytes, bool in)
{
	while (bytes) {
		if (is_empty(l))
			return gp_fail(ETIMEDOUT, "the simulated NPU waits forever: its instructions "
			               "stream less than the program takes");
		struct piece *p = &l->pieces[l->next];
		const size_t some = p->bytes - l->used < bytes ? p->bytes - l->used : bytes;

		if (in)
			memcpy(tile, p->data + l->used, some);
		else
			memcpy(p->data + l->used, tile, some);
		tile += some;
		bytes -= some;
		l->used += some;
		if (l->used == p->bytes)
			l->next++, l->used = 0;
	}
	return 0;
}

/* ---- the tiles -------------------------------------------------------------------- */
static void run_kernel(struct array *a, uint32_t row, uint32_t column)
{
	void *x = a->x_tile[a->form == GP_AIE_GEMV_INT4 ? column : row];
	void *w = a->w_tile[column], *y = a->y_tile[column][row];

	if (a->form == GP_AIE_GEMM_INT4)
		gp_aie_gemm_int4(x, w, y);
	else if (a->form == GP_AIE_GEMM_BF16)
		gp_aie_gemm_bf16(x, w, y);
	else
		gp_aie_gemv_int4(x, &((struct gp_aie_int4_w *)w)->part[row], y);
}

static int take_x(struct array *a)
{
	int rc = 0;

	for (uint32_t c = 0; c < GP_AIE_COLUMNS && rc == 0; c++)
		rc = move(&a->x[c], a->x_tile[c], gp_aie_forms[a->form].x_bytes, true);
	return rc;
}

static int take_w(struct array *a)
{
	int rc = 0;

	for (uint32_t c = 0; c < GP_AIE_COLUMNS && rc == 0; c++)
		rc = move(&a->w[c], a->w_tile[c], gp_aie_forms[a->form].w_bytes, true);
	return rc;
}

static int give_y(struct array *a)
{
	int rc = 0;

	for (uint32_t c = 0; c < GP_AIE_COLUMNS; c++)
		for (uint32_t r = 0; r < GP_AIE_ROWS && rc == 0; r++)
			rc = move(&a->y[c], a->y_tile[c][r], gp_aie_forms[a->form].y_bytes, false);
	return rc;
}

/* One block: S slices, as many as the first x tile's header says. */
static int run_block(struct array *a)
{
	struct gp_aie_header header;
	int rc = take_x(a);

	if (rc < 0)
		return rc;
	memcpy(&header, a->x_tile[0], sizeof header);
	if (!header.slices)
		return gp_fail(ETIMEDOUT, "the simulated NPU waits forever: an x tile of no slices");
	for (uint32_t s = 0; s < header.slices; s++) {
		if ((s && (rc = take_x(a)) < 0) || (rc = take_w(a)) < 0)
			return rc;
		for (uint32_t c = 0; c < GP_AIE_COLUMNS; c++)
			for (uint32_t r = 0; r < GP_AIE_ROWS; r++)
				run_kernel(a, r, c);
	}
	return give_y(a);
}

/* ---- time ------------------------------------------------------------------------- */
static uint64_t most(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* By hand, for a pair of tiles; see array.h.
 * int4: 16 blocks of 8 x 16 outputs, each 8 groups of 8 products, 4 + 4 vector operations,
 *       then 8 x (conversion 4, two float32 products 18, load and store 2).
 * bf16: 2048 products and as many loads side by side, a tenth for the ends.
 * GEMV: 2 x 8 groups of 16 steps of 4 operations, then two float32 products. */
static const uint32_t kernel_cycles[GP_AIE_FORMS] = {
	[GP_AIE_GEMM_INT4] = 16 * (8 * 16 + 8 * 24),
	[GP_AIE_GEMM_BF16] = 2048 + 205,
	[GP_AIE_GEMV_INT4] = 16 * (16 * 4 + 18),
};

/* blocks of S slices, of which each pair of tiles takes what the slowest of kernel and
 * ports takes; bfloat16 has one buffer for y, so its way out is not hidden. */
static uint64_t cycles_of(enum gp_aie_form form, uint64_t blocks, uint64_t slices)
{
	const struct gp_aie_form_info *f = &gp_aie_forms[form];
	const uint64_t ports = most(f->x_bytes, f->w_bytes) / GP_ARRAY_PORT_BYTES;
	const uint64_t step = most(kernel_cycles[form], ports) + GP_ARRAY_LOCK_CYCLES;
	const uint64_t out = (uint64_t)GP_AIE_ROWS * f->y_bytes / GP_ARRAY_PORT_BYTES;
	const uint64_t in = slices * step;

	return blocks * (form == GP_AIE_GEMM_BF16 ? in + out : most(in, out)) + ports + out;
}

static void add_time(struct gp_npu_count *c)
{
	const uint64_t array = c->cycles * 1000000000u / GP_ARRAY_CLOCK_HZ;
	const uint64_t memory = (uint64_t)((double)(c->bytes_in + c->bytes_out) * 1e9 /
	                                   (double)GP_ARRAY_MEMORY_BYTES_PER_S);

	c->ns = most(array, memory) + GP_ARRAY_DISPATCH_NS;
}

void gp_npu_array_predict(const struct gp_npu_dispatch *d, struct gp_npu_count *count)
{
	const struct gp_aie_form_info *f = &gp_aie_forms[d->form];
	const uint64_t blocks = (uint64_t)d->row_blocks * d->out_blocks, pairs = blocks * d->slices;

	*count = (struct gp_npu_count){
		.cycles = cycles_of(d->form, blocks, d->slices),
		.bytes_in = pairs * GP_AIE_COLUMNS * (f->x_bytes + f->w_bytes),
		.bytes_out = blocks * GP_AIE_COLUMNS * GP_AIE_ROWS * f->y_bytes,
	};
	add_time(count);
}

/* ---- a command --------------------------------------------------------------------- */
static int run_all(struct array *a)
{
	uint64_t blocks = 0, slices = 0;
	int rc;

	while (!is_empty(&a->x[0])) {
		if ((rc = run_block(a)) < 0)
			return rc;
		slices = ((struct gp_aie_header *)(void *)a->x_tile[0])->slices;
		blocks++;
	}
	for (uint32_t c = 0; c < GP_AIE_COLUMNS; c++)
		if (!is_empty(&a->x[c]) || !is_empty(&a->w[c]) || !is_empty(&a->y[c]))
			return gp_fail(ETIMEDOUT, "the simulated NPU waits forever: its instructions "
			               "stream more than the program takes");
	a->count.cycles = cycles_of(a->form, blocks, slices);
	add_time(&a->count);
	return 0;
}

static void finish(struct array *a)
{
	for (uint32_t c = 0; c < GP_AIE_COLUMNS; c++) {
		free(a->x[c].pieces);
		free(a->w[c].pieces);
		free(a->y[c].pieces);
	}
	free(a);
}

int gp_npu_array_run(const char *program, const uint32_t *words, size_t n_words,
                     void *const args[], const size_t arg_bytes[], size_t n_args,
                     struct gp_npu_count *count)
{
	const struct gp_aie_form_info *f = gp_aie_form_by_name(program);

	if (!f)
		return gp_fail(ENOENT, "the simulated NPU has no program '%.60s'", program);
	struct array *a = aligned_alloc(64, (sizeof *a + 63) / 64 * 64);
	if (!a)
		return gp_fail(ENOMEM, "no memory for the simulated NPU");
	memset(a, 0, sizeof *a);
	a->form = (enum gp_aie_form)(f - gp_aie_forms);
	a->args = args;
	a->arg_bytes = arg_bytes;
	a->n_args = n_args;
	const struct gp_stream_visitor v = { .task = on_task, .wait = on_wait, .context = a };
	int rc = gp_stream_read(words, n_words, &v);
	if (rc == 0)
		rc = run_all(a);
	if (rc == 0 && count)
		*count = a->count;
	finish(a);
	return rc;
}

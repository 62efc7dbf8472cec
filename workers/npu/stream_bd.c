/* Descriptors of the shim DMA, and the memory that a task of them covers. */
#include <string.h>

#include "base/base.h"
#include "workers/npu/stream.h"

#define BURST (1u << 31) /* 256 bytes, the longest; it and the next as mlir-aie sets them */
#define CACHE (2u << 24) /* AXI's: lets the network on chip widen accesses */
enum {
	MOST_SIZE = 1023, MOST_STEP = 1 << 20, MOST_ITERATIONS = 64,
	VALID = 1 << 25,
	STEP_MASK = MOST_STEP - 1,
};

/* The field of a step; 0 is 1. */
static uint32_t step_field(uint32_t step)
{
	return step == 0 ? 0 : step - 1;
}

static uint32_t at_least_1(uint32_t n)
{
	return n == 0 ? 1 : n;
}

static int check_bd(const struct gp_shim_bd *bd)
{
	const uint64_t row = at_least_1(bd->d0_size), plane = row * at_least_1(bd->d1_size);

	if (bd->n_words == 0)
		return gp_fail(EINVAL, "DMA descriptor: moves nothing");
	if (bd->d0_size > MOST_SIZE || bd->d1_size > MOST_SIZE || bd->d0_step > MOST_STEP ||
	    bd->d1_step > MOST_STEP || bd->d2_step > MOST_STEP ||
	    bd->iterations > MOST_ITERATIONS || bd->iteration_step > MOST_STEP)
		return gp_fail(ERANGE, "DMA descriptor: sizes %u %u, steps %u %u %u, iterations %u step %u: "
		               "the most is %d, %d, %d", bd->d0_size, bd->d1_size, bd->d0_step, bd->d1_step,
		               bd->d2_step, bd->iterations, bd->iteration_step, MOST_SIZE, MOST_STEP,
		               MOST_ITERATIONS);
	if ((bd->d0_size == 0 && bd->d1_size != 0) || bd->n_words % plane != 0)
		return gp_fail(EINVAL, "DMA descriptor: %u words are not whole pieces of %u x %u",
		               bd->n_words, bd->d0_size, bd->d1_size);
	return 0;
}

int gp_shim_bd_write(const struct gp_shim_bd *bd, uint32_t words[GP_SHIM_BD_WORDS])
{
	const int rc = check_bd(bd);

	if (rc)
		return rc;
	memset(words, 0, GP_SHIM_BD_WORDS * sizeof *words);
	words[0] = bd->n_words;
	words[3] = bd->d0_size << 20 | step_field(bd->d0_step);
	words[4] = BURST | bd->d1_size << 20 | step_field(bd->d1_step);
	words[5] = CACHE | step_field(bd->d2_step);
	words[6] = step_field(bd->iterations) << 20 | step_field(bd->iteration_step);
	words[7] = VALID;
	return 0;
}

int gp_shim_bd_read(struct gp_shim_bd *bd, const uint32_t words[GP_SHIM_BD_WORDS])
{
	/* Words 1 and 2 are the address, and above it what belongs to packets. */
	if (words[2] >> 16 != 0 || words[4] >> 30 != BURST >> 30 ||
	    words[5] >> 20 != CACHE >> 20 || words[6] >> 26 != 0 || words[7] != VALID)
		return gp_fail(EINVAL, "DMA descriptor: packets, locks, chains or iterations under way, "
		               "or not valid (%08x %08x %08x %08x %08x)", words[2], words[4],
		               words[5], words[6], words[7]);
	*bd = (struct gp_shim_bd){
		.n_words = words[0],
		.d0_size = words[3] >> 20 & MOST_SIZE, .d0_step = (words[3] & STEP_MASK) + 1,
		.d1_size = words[4] >> 20 & MOST_SIZE, .d1_step = (words[4] & STEP_MASK) + 1,
		.d2_step = (words[5] & STEP_MASK) + 1,
		.iterations = (words[6] >> 20 & (MOST_ITERATIONS - 1)) + 1,
		.iteration_step = (words[6] & STEP_MASK) + 1,
	};
	return check_bd(bd);
}

/* Words in a row, rows in a plane, planes: of one run. */
struct walk {
	uint64_t row, rows, planes;
	uint64_t step[3], iteration_step, iterations;
};

static struct walk walk_of(const struct gp_shim_bd *bd)
{
	struct walk w = {
		.row = bd->d0_size == 0 ? bd->n_words : bd->d0_size,
		.step = { at_least_1(bd->d0_step), at_least_1(bd->d1_step), at_least_1(bd->d2_step) },
		.iterations = at_least_1(bd->iterations),
		.iteration_step = at_least_1(bd->iteration_step),
	};

	w.rows = bd->d1_size == 0 ? bd->n_words / w.row : bd->d1_size;
	w.planes = bd->n_words / w.row / w.rows;
	return w;
}

int gp_shim_task_extent(const struct gp_shim_task *t, uint64_t *moved, uint64_t *end)
{
	const int rc = check_bd(&t->bd);

	if (rc)
		return rc;
	/* None of these can be over 2^52. */
	const struct walk w = walk_of(&t->bd);
	const uint64_t runs = t->repeats < w.iterations ? at_least_1(t->repeats) : w.iterations;
	const uint64_t last = (w.row - 1) * w.step[0] + (w.rows - 1) * w.step[1] +
	                      (w.planes - 1) * w.step[2] + (runs - 1) * w.iteration_step;

	if (__builtin_add_overflow(t->offset, (last + 1) * 4, end))
		return gp_fail(EOVERFLOW, "DMA task: starts at byte %llu", (unsigned long long)t->offset);
	*moved = (uint64_t)t->bd.n_words * 4 * at_least_1(t->repeats);
	return 0;
}

typedef int piece_fn(void *context, uint64_t offset, uint64_t bytes);

static int walk_row(const struct walk *w, uint64_t at, piece_fn *piece, void *context)
{
	int rc = 0;

	if (w->step[0] == 1)
		return piece(context, at, w->row * 4);
	for (uint64_t i = 0; i < w->row && rc == 0; i++)
		rc = piece(context, at + i * w->step[0] * 4, 4);
	return rc;
}

static int walk_run(const struct walk *w, uint64_t at, piece_fn *piece, void *context)
{
	int rc = 0;

	for (uint64_t p = 0; p < w->planes && rc == 0; p++)
		for (uint64_t r = 0; r < w->rows && rc == 0; r++)
			rc = walk_row(w, at + (p * w->step[2] + r * w->step[1]) * 4, piece, context);
	return rc;
}

int gp_shim_task_walk(const struct gp_shim_task *t, piece_fn *piece, void *context)
{
	const struct walk w = walk_of(&t->bd);
	int rc = 0;

	for (uint64_t i = 0; i < at_least_1(t->repeats) && rc == 0; i++)
		rc = walk_run(&w, t->offset + i % w.iterations * w.iteration_step * 4, piece, context);
	return rc;
}

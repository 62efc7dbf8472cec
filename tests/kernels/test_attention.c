/* Attention: each instruction set against the scalar reference; a query's bits
 * whatever tile it is in, whoever has which parts, wherever the blocks lie. */
#include "tests/kernels/bench.h"

enum { BLOCKS = 13, POSITIONS = BLOCKS * GP_KV_BLOCK };

static struct gp_kernels sets[MAX_CHECK_SETS + 1]; /* the first is the reference */
static int n_sets;

struct tile {
	struct gp_attention a;
	float *q, *out;            /* [row][row_stride] */
	float *f[2];               /* K and V as the cache holds them, all positions */
	uint8_t *bytes[2];
	const void *blocks[2][BLOCKS];
	float *states, *scratch;
	size_t n_out, states_bytes, scratch_bytes;
};

struct shape {
	enum gp_type type;
	uint32_t dim, rows, heads, pos, window;
};

static uint32_t first_seen(const struct gp_attention *a, uint32_t row)
{
	const uint32_t past = a->pos + row + 1;

	return a->window && past > a->window ? past - a->window : 0;
}

/* Rows that no query sees are NaN: whatever reads them shows. */
static void fill_rows(struct tile *t, int which, int how)
{
	const uint32_t dim = t->a.head_dim;
	float *row = guarded(dim);

	for (uint32_t p = 0; p < POSITIONS; p++) {
		uint8_t *at = t->bytes[which] + (size_t)p * t->a.row_bytes;

		check_fill(row, dim, (enum check_fill)how);
		/* f16 ends at 65504. */
		for (uint32_t i = 0; t->a.kv_type == GP_TYPE_F16 && i < dim; i++)
			row[i] = fmaxf(-6e4f, fminf(6e4f, row[i]));
		if (p < first_seen(&t->a, 0) || p >= t->a.pos + t->a.rows)
			memset(at, 0xff, t->a.row_bytes);
		else
			assert_int_equal(gp_quantize(t->a.kv_type, row, at, dim), 0);
		gp_dequantize(t->a.kv_type, at, t->f[which] + (size_t)p * dim, dim);
	}
	guarded_free(row);
}

/* Between the rows of q and out lies what nothing may touch. */
static struct tile tile_open(const struct shape *s, int how)
{
	struct tile t = { .a = { .rows = s->rows, .heads = s->heads, .pos = s->pos,
		                 .window = s->window, .head_dim = s->dim, .kv_type = s->type,
		                 .row_stride = s->heads * s->dim + 5,
		                 .scale = 1.0f / sqrtf((float)s->dim) } };
	size_t row;

	assert_int_equal(gp_type_bytes(s->type, 1, s->dim, &row), 0);
	t.a.row_bytes = (uint32_t)row;
	t.n_out = s->rows * t.a.row_stride - 5;
	t.q = edge_alloc(t.n_out * sizeof(float));
	check_fill(t.q, t.n_out, (enum check_fill)how);
	t.a.q = t.q;
	t.out = guarded(t.n_out);
	for (int i = 0; i < 2; i++) {
		t.bytes[i] = edge_alloc(POSITIONS * row);
		t.f[i] = malloc(sizeof(float) * POSITIONS * s->dim);
		fill_rows(&t, i, how);
		for (size_t b = 0; b < BLOCKS; b++)
			t.blocks[i][b] = t.bytes[i] + b * GP_KV_BLOCK * row;
	}
	t.states_bytes = s->rows * s->heads * gp_attention_state_floats(s->dim) * sizeof(float);
	t.states = edge_alloc(t.states_bytes);
	t.scratch_bytes = gp_attention_scratch_floats(s->dim) * sizeof(float);
	t.scratch = edge_alloc(t.scratch_bytes);
	memset(t.scratch, 0xff, t.scratch_bytes);
	return t;
}

static void tile_close(struct tile *t)
{
	edge_free(t->q, t->n_out * sizeof(float));
	guarded_free(t->out);
	for (int i = 0; i < 2; i++) {
		edge_free(t->bytes[i], (size_t)POSITIONS * t->a.row_bytes);
		free(t->f[i]);
	}
	edge_free(t->states, t->states_bytes);
	edge_free(t->scratch, t->scratch_bytes);
}

static void attend(struct tile *t, const struct gp_kernels *k)
{
	struct gp_attention a = t->a;

	a.k = t->blocks[0];
	a.v = t->blocks[1];
	a.out = t->out;
	memset(t->out, 0xff, t->n_out * sizeof(float));
	memset(t->states, 0, t->states_bytes);
	k->attention(&a, 0, UINT32_MAX / GP_KV_PART * GP_KV_PART, t->states, t->scratch);
	k->attention_out(&a, t->states);
}

/* Nothing written between the rows or around them. */
static void assert_gaps(const struct tile *t)
{
	const size_t used = t->a.heads * t->a.head_dim;

	assert_true(guards_intact(t->out, t->n_out));
	for (size_t i = 0; i < t->n_out; i++)
		if (i % t->a.row_stride >= used) {
			uint32_t bits;

			memcpy(&bits, t->out + i, sizeof(bits));
			assert_true(bits == 0xffffffffu);
		}
}

/* Rounding of the scores turns into relative errors of the weights. */
static float tolerance(const struct tile *t, uint32_t row, uint32_t head)
{
	const uint32_t dim = t->a.head_dim;
	const float *q = t->q + row * t->a.row_stride + head * dim;
	double score = 0.0, value = 0.0;

	for (uint32_t p = first_seen(&t->a, row); p <= t->a.pos + row; p++) {
		double sum = 0.0;

		for (uint32_t i = 0; i < dim; i++) {
			sum += fabs((double)q[i] * (double)t->f[0][(size_t)p * dim + i]);
			value = fmax(value, fabs((double)t->f[1][(size_t)p * dim + i]));
		}
		score = fmax(score, sum * (double)t->a.scale);
	}
	const double error = fmin(2.0, 4e-6 + 1e-6 * score);
	return (float)(error * value + 1e-36);
}

static void compare(const struct tile *t, const char *set, const float *want)
{
	for (uint32_t r = 0; r < t->a.rows; r++)
		for (uint32_t h = 0; h < t->a.heads; h++) {
			const size_t at = r * t->a.row_stride + h * t->a.head_dim;
			const float tol = tolerance(t, r, h);

			for (uint32_t i = 0; i < t->a.head_dim; i++)
				if (!(fabsf(want[at + i] - t->out[at + i]) <= tol))
					fail_msg("%s %s dim %u, %u x %u from %u, window %u: row %u "
					         "head %u element %u: %.9g, reference %.9g", set,
					         gp_type_info(t->a.kv_type)->name, t->a.head_dim,
					         t->a.rows, t->a.heads, t->a.pos, t->a.window, r, h,
					         i, (double)t->out[at + i], (double)want[at + i]);
		}
}

static void check_reference(const struct shape *s, int how)
{
	struct tile t = tile_open(s, how);
	float *want = malloc(t.n_out * sizeof(float));

	attend(&t, &sets[0]);
	assert_gaps(&t);
	memcpy(want, t.out, t.n_out * sizeof(float));
	for (int i = 1; i < n_sets; i++) {
		attend(&t, &sets[i]);
		assert_gaps(&t);
		compare(&t, sets[i].name, want);
	}
	free(want);
	tile_close(&t);
}

static const uint32_t dims[] = { 8, 24, 32, 40, 64, 128, 256, 512 };
static const enum gp_type types[] = { GP_TYPE_F32, GP_TYPE_F16, GP_TYPE_Q8_0 };

/* Rows, heads, position and window at random. */
static struct shape any_shape(enum gp_type type, uint32_t dim, uint32_t most_rows)
{
	struct shape s = { .type = type, .dim = dim, .heads = 1 + check_random() % 8 };

	most_rows = most_rows * s.heads > GP_ATTENTION_QUERIES ? GP_ATTENTION_QUERIES / s.heads :
	            most_rows;
	s.rows = 1 + check_random() % most_rows;
	s.pos = check_random() % (POSITIONS - s.rows);
	s.window = check_random() % 3 ? 1 + check_random() % 300 : 0;
	return s;
}

static void for_shapes(void (*check)(const struct shape *s, int how), uint32_t n)
{
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++)
		for (size_t d = 0; d < GP_ARRAY_LEN(dims); d++)
			for (uint32_t i = 0; i < n; i++) {
				const uint32_t most = i % 3 ? GP_ATTENTION_QUERIES : 3;
				const struct shape s = any_shape(types[t], dims[d], most);

				if (dims[d] % gp_type_info(types[t])->block_elems == 0)
					check(&s, (int)(i % N_FILLS));
			}
}

static void reference(void **state)
{
	static const struct shape edges[] = {
		{ GP_TYPE_F16, 64, 1, 1, 0, 0 },     { GP_TYPE_F16, 64, 1, 1, 63, 0 },
		{ GP_TYPE_F16, 64, 1, 2, 64, 0 },    { GP_TYPE_F32, 64, 2, 1, 63, 1 },
		{ GP_TYPE_F32, 64, 64, 1, 0, 0 },    { GP_TYPE_F16, 128, 32, 2, 240, 64 },
		{ GP_TYPE_Q8_0, 32, 3, 3, 255, 0 },  { GP_TYPE_F16, 256, 1, 4, 256, 256 },
		{ GP_TYPE_F32, 8, 8, 8, 767, 512 },  { GP_TYPE_F16, 24, 1, 64, 800, 40 },
		{ GP_TYPE_F16, 256, 64, 1, 700, 2 }, { GP_TYPE_Q8_0, 256, 1, 2, 831, 512 },
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(edges); i++)
		check_reference(&edges[i], FILL_RANDOM);
	for_shapes(check_reference, 2 * N_FILLS);
}

/* Each query alone, against out, which the tile has made. */
static void check_alone(struct tile *t, const struct gp_kernels *k, uint32_t rows)
{
	const uint32_t dim = t->a.head_dim;
	float *alone = guarded(dim);

	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t h = 0; h < t->a.heads; h++) {
			const size_t at = r * t->a.row_stride + h * dim;
			struct gp_attention a = t->a;

			a.q = t->q + at;
			a.out = alone;
			a.rows = a.heads = 1;
			a.pos += r;
			a.k = t->blocks[0];
			a.v = t->blocks[1];
			memset(t->states, 0, t->states_bytes);
			memset(t->scratch, 0xff, t->scratch_bytes);
			k->attention(&a, first_seen(&a, 0) / GP_KV_PART * GP_KV_PART, a.pos + 1,
			             t->states, t->scratch);
			k->attention_out(&a, t->states);
			if (memcmp(alone, t->out + at, dim * sizeof(float)))
				fail_msg("%s %s dim %u, %u x %u from %u, window %u: row %u head %u "
				         "has other bits alone", k->name,
				         gp_type_info(a.kv_type)->name, dim, t->a.rows, t->a.heads,
				         t->a.pos, a.window, r, h);
			assert_true(guards_intact(alone, dim));
		}
	guarded_free(alone);
}

/* The last row's own position holds what would spoil the rows before it. */
static void poison_last(struct tile *t)
{
	for (int i = 0; i < 2; i++)
		memset(t->bytes[i] + (size_t)(t->a.pos + t->a.rows - 1) * t->a.row_bytes, 0xff,
		       t->a.row_bytes);
}

static void check_tiles(const struct shape *s, int how)
{
	struct tile t = tile_open(s, how);

	for (int i = 0; i < n_sets; i++) {
		attend(&t, &sets[i]);
		check_alone(&t, &sets[i], s->rows);
	}
	poison_last(&t);
	for (int i = 0; i < n_sets; i++) {
		attend(&t, &sets[i]);
		check_alone(&t, &sets[i], s->rows - 1);
	}
	tile_close(&t);
}

static void any_tile(void **state)
{
	(void)state;
	for_shapes(check_tiles, N_FILLS);
}

/* Each part into states of its own, the last first; then merged upwards. */
static void attend_parts(struct tile *t, const struct gp_kernels *k)
{
	const uint32_t n = (POSITIONS + GP_KV_PART - 1) / GP_KV_PART, queries = t->a.rows * t->a.heads;
	const size_t floats = t->states_bytes / sizeof(float);
	float *parts = aligned_alloc(64, n * t->states_bytes);
	struct gp_attention a = t->a;

	a.k = t->blocks[0];
	a.v = t->blocks[1];
	a.out = t->out;
	memset(parts, 0, n * t->states_bytes);
	memset(t->states, 0, t->states_bytes);
	memset(t->out, 0xff, t->n_out * sizeof(float));
	for (uint32_t p = n; p--;)
		k->attention(&a, p * GP_KV_PART, (p + 1) * GP_KV_PART, parts + p * floats, t->scratch);
	for (uint32_t p = 0; p < n; p++)
		k->attention_merge(t->states, parts + p * floats, queries, a.head_dim);
	k->attention_out(&a, t->states);
	free(parts);
}

static void check_parts(const struct shape *s, int how)
{
	struct tile t = tile_open(s, how);
	float *want = malloc(t.n_out * sizeof(float));

	for (int i = 0; i < n_sets; i++) {
		attend(&t, &sets[i]);
		memcpy(want, t.out, t.n_out * sizeof(float));
		attend_parts(&t, &sets[i]);
		assert_memory_equal(want, t.out, t.n_out * sizeof(float));
	}
	free(want);
	tile_close(&t);
}

static void any_parts(void **state)
{
	(void)state;
	for_shapes(check_parts, N_FILLS);
}

/* Each block elsewhere, at another alignment. */
static void check_places(const struct shape *s, int how)
{
	struct tile t = tile_open(s, how);
	const size_t block = GP_KV_BLOCK * t.a.row_bytes;
	uint8_t *moved = malloc(2 * BLOCKS * (block + 2));
	float *want[MAX_CHECK_SETS + 1];

	for (int i = 0; i < n_sets; i++) {
		attend(&t, &sets[i]);
		want[i] = malloc(t.n_out * sizeof(float));
		memcpy(want[i], t.out, t.n_out * sizeof(float));
	}
	for (size_t i = 0; i < 2 * BLOCKS; i++) {
		uint8_t *to = moved + (i * 7 + 3) % (2 * BLOCKS) * (block + 2);

		memcpy(to, t.blocks[i / BLOCKS][i % BLOCKS], block);
		t.blocks[i / BLOCKS][i % BLOCKS] = to;
	}
	for (int i = 0; i < n_sets; i++) {
		attend(&t, &sets[i]);
		assert_memory_equal(want[i], t.out, t.n_out * sizeof(float));
		free(want[i]);
	}
	free(moved);
	tile_close(&t);
}

static void any_place(void **state)
{
	(void)state;
	for_shapes(check_places, 3);
}

/* ---- speed ------------------------------------------------------------------- */
/* The query group of 4B: two heads of 256, the rows the last of LONG positions. */
enum { BENCH_DIM = 256, BENCH_HEADS = 2, LONG = 8192 };

struct speed {
	const struct gp_kernels *k;
	struct gp_attention a;
	float *states, *scratch;
	size_t states_bytes;
};

static void run_tile(void *arg)
{
	struct speed *s = arg;

	memset(s->states, 0, s->states_bytes);
	s->k->attention(&s->a, 0, LONG, s->states, s->scratch);
	s->k->attention_out(&s->a, s->states);
}

static void bench_rows(struct speed *s, uint32_t rows)
{
	double reference = 0;

	s->a.rows = rows;
	s->a.pos = LONG - rows;
	for (int i = 0; i < n_sets; i++) {
		s->k = &sets[i];
		const double seconds = bench_seconds(run_tile, s);

		bench_print("attention", s->k->name, gp_type_info(s->a.kv_type)->name, rows,
		            2.0 * LONG * s->a.row_bytes / seconds * 1e-9,
		            4.0 * LONG * BENCH_HEADS * BENCH_DIM * rows / seconds * 1e-9,
		            &reference);
	}
}

static void bench_type(enum gp_type type, const float *values, uint8_t *kv, struct speed *s)
{
	static const uint32_t rows[] = { 1, 4, GP_ATTENTION_QUERIES / BENCH_HEADS };
	const void *blocks[2][LONG / GP_KV_BLOCK];
	size_t row;

	assert_int_equal(gp_type_bytes(type, 1, BENCH_DIM, &row), 0);
	assert_int_equal(gp_quantize(type, values, kv, (size_t)2 * LONG * BENCH_DIM), 0);
	for (size_t i = 0; i < 2 * LONG / GP_KV_BLOCK; i++)
		blocks[i % 2][i / 2] = kv + i * GP_KV_BLOCK * row;
	s->a.k = blocks[0];
	s->a.v = blocks[1];
	s->a.kv_type = type;
	s->a.row_bytes = (uint32_t)row;
	for (size_t r = 0; r < GP_ARRAY_LEN(rows); r++)
		bench_rows(s, rows[r]);
}

static int bench(void)
{
	static const enum gp_type kv[] = { GP_TYPE_F32, GP_TYPE_F16, GP_TYPE_Q8_0 };
	const size_t n = (size_t)2 * LONG * BENCH_DIM, q = GP_ATTENTION_QUERIES * BENCH_DIM;
	float *values = bench_alloc(n * sizeof(float)), *in = bench_alloc(q * sizeof(float));
	float *out = bench_alloc(q * sizeof(float));
	uint8_t *bytes = bench_alloc(n * sizeof(float));
	struct speed s = {
		.states_bytes = gp_attention_state_floats(BENCH_DIM) * GP_ATTENTION_QUERIES * sizeof(float),
		.scratch = bench_alloc(gp_attention_scratch_floats(BENCH_DIM) * sizeof(float)),
		.a = { .q = in, .out = out, .heads = BENCH_HEADS, .head_dim = BENCH_DIM,
		       .row_stride = BENCH_HEADS * BENCH_DIM, .scale = 0.0625f },
	};

	s.states = bench_alloc(s.states_bytes);
	check_fill(values, n, FILL_RANDOM);
	check_fill(in, q, FILL_RANDOM);
	for (size_t t = 0; t < GP_ARRAY_LEN(kv); t++)
		bench_type(kv[t], values, bytes, &s);
	free(values);
	free(in);
	free(out);
	free(bytes);
	free(s.states);
	free(s.scratch);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reference),
		cmocka_unit_test(any_tile),
		cmocka_unit_test(any_parts),
		cmocka_unit_test(any_place),
	};

	check_seed();
	gp_kernels_init(&sets[0], 0);
	n_sets = 1 + check_sets(sets + 1);
	if (bench_wanted(argc, argv))
		return bench();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

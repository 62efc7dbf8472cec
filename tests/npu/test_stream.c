/* Instruction streams: written, read back, and what reading refuses. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "workers/npu/stream.h"

enum { ROOM = 4096 };

/* GP_SEED repeats a run. */
static uint64_t seed;

static uint32_t random_below(uint32_t n)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((seed >> 32) * n >> 32);
}

static uint32_t random_word(void)
{
	return random_below(1u << 16) << 16 | random_below(1u << 16);
}

static int set_up(void **state)
{
	const char *given = getenv("GP_SEED");

	(void)state;
	seed = given ? strtoull(given, NULL, 10) : gp_now_ns();
	print_message("# GP_SEED=%llu\n", (unsigned long long)seed);
	return 0;
}

/* The end of a page that none follows: one word too far is a crash. */
static uint32_t *at_edge(const uint32_t *words, size_t n, void **map)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = n * sizeof *words;
	const size_t whole = (bytes + page - 1) / page * page;
	char *p = mmap(NULL, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(mprotect(p + whole, page, PROT_NONE), 0);
	*map = p;
	return memcpy(p + whole - bytes, words, bytes);
}

static void leave_edge(void *map, size_t n)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);

	munmap(map, (n * 4 + page - 1) / page * page + page);
}

/* ---- operations ---------------------------------------------------------- */
static struct gp_stream_op random_op(uint32_t data[8])
{
	static const enum gp_stream_code codes[] = {
		GP_STREAM_WRITE, GP_STREAM_BLOCK_WRITE, GP_STREAM_MASK_WRITE, GP_STREAM_MASK_POLL,
		GP_STREAM_SYNC, GP_STREAM_PATCH };
	struct gp_stream_op op = { .code = codes[random_below(6)] };

	switch (op.code) {
	case GP_STREAM_BLOCK_WRITE:
		op.words = data;
		op.n_words = 1 + random_below(8);
		for (uint32_t i = 0; i < op.n_words; i++)
			data[i] = random_word();
		break;
	case GP_STREAM_SYNC:
		op.column = (uint8_t)random_below(256);
		op.row = (uint8_t)random_below(256);
		op.columns = (uint8_t)random_below(256);
		op.rows = (uint8_t)random_below(256);
		op.channel = (uint8_t)random_below(256);
		op.to_array = random_below(2);
		return op;
	case GP_STREAM_PATCH:
		op.arg = random_word();
		op.arg_offset = (uint64_t)random_word() << 32 | random_word();
		break;
	case GP_STREAM_MASK_WRITE:
	case GP_STREAM_MASK_POLL:
		op.mask = random_word();
		op.value = random_word();
		break;
	case GP_STREAM_WRITE:
		op.value = random_word();
		break;
	}
	op.address = random_word();
	return op;
}

static void assert_same_op(const struct gp_stream_op *a, const struct gp_stream_op *b)
{
	struct gp_stream_op x = *a, y = *b;

	assert_int_equal(a->n_words, b->n_words);
	if (a->n_words)
		assert_memory_equal(a->words, b->words, a->n_words * 4);
	x.words = y.words = NULL;
	assert_memory_equal(&x, &y, sizeof x);
}

static void test_operations_round_trip(void **state)
{
	static uint32_t data[100][8], words[ROOM];
	struct gp_stream_op op[100], got;

	(void)state;
	for (int round = 0; round < 200; round++) {
		const uint32_t n = random_below(101);
		struct gp_stream_reader r;
		struct gp_stream s;
		size_t n_words;

		memset(op, 0, sizeof op);
		gp_stream_begin(&s, words, ROOM);
		for (uint32_t i = 0; i < n; i++) {
			op[i] = random_op(data[i]);
			gp_stream_put(&s, &op[i]);
		}
		assert_int_equal(gp_stream_end(&s, &n_words), 0);
		assert_int_equal(gp_stream_open(&r, words, n_words), 0);
		for (uint32_t i = 0; i < n; i++) {
			memset(&got, 0, sizeof got);
			assert_int_equal(gp_stream_next(&r, &got), 1);
			assert_same_op(&got, &op[i]);
		}
		assert_int_equal(gp_stream_next(&r, &got), 0);
	}
}

/* Word for word what mlir-aie writes for Phoenix. */
static void test_known_words(void **state)
{
	static const uint32_t want[] = {
		0x06030100, 0x00000105, 4, 4 * (4 + 12 + 12 + 6 + 4),
		1, 0, 0x0201d040, 48,                           /* column 1, descriptor 2 */
		0x400, 0, 0, 0, 0x80000000, 0x02000000, 0, 0x02000000,
		0x81, 48, 0, 0, 0, 0, 0x0201d044, 0, 1, 0, 0x3000, 0,
		0, 0, 0x0201d21c, 0, 0x80070002, 24,            /* MM2S 1, 8 runs, a token */
		0x80, 16, 0x00010001, 0x01010100,
	};
	uint32_t bd[8];
	uint32_t words[64];
	struct gp_stream s;
	size_t n;

	(void)state;
	assert_int_equal(gp_shim_bd_write(&(struct gp_shim_bd){ .n_words = 0x400 }, bd), 0);
	gp_stream_begin(&s, words, 64);
	gp_stream_put(&s, &(struct gp_stream_op){ .code = GP_STREAM_BLOCK_WRITE, .words = bd, .n_words = 8,
	              .address = gp_stream_address(1, 0, 0x1d040) });
	gp_stream_put(&s, &(struct gp_stream_op){ .code = GP_STREAM_PATCH, .arg = 1, .arg_offset = 0x3000,
	              .address = gp_stream_address(1, 0, 0x1d044) });
	gp_stream_put(&s, &(struct gp_stream_op){ .code = GP_STREAM_WRITE, .value = 0x80070002,
	              .address = gp_stream_address(1, 0, 0x1d21c) });
	gp_stream_put(&s, &(struct gp_stream_op){ .code = GP_STREAM_SYNC, .column = 1, .columns = 1, .rows = 1,
	              .channel = 1, .to_array = true });
	assert_int_equal(gp_stream_end(&s, &n), 0);
	assert_int_equal(n, GP_ARRAY_LEN(want));
	assert_memory_equal(words, want, sizeof want);
}

static void test_no_room(void **state)
{
	uint32_t words[12] = { 0 };
	struct gp_stream s;
	size_t n = 77;

	(void)state;
	gp_stream_begin(&s, words, 9);
	gp_stream_put(&s, &(struct gp_stream_op){ .code = GP_STREAM_WRITE });
	assert_int_equal(gp_stream_end(&s, &n), -ENOSPC);
	gp_stream_put(&s, &(struct gp_stream_op){ .code = GP_STREAM_SYNC });
	assert_int_equal(gp_stream_end(&s, &n), -ENOSPC);
	assert_int_equal(n, 77);
	for (int i = 0; i < 12; i++)
		assert_int_equal(words[i], 0);
	gp_stream_begin(&s, words, 3);
	assert_int_equal(gp_stream_end(&s, &n), -ENOSPC);
	gp_stream_begin(&s, words, 12);
	gp_stream_put(&s, &(struct gp_stream_op){ .code = (enum gp_stream_code)7 });
	assert_int_equal(gp_stream_end(&s, &n), -EINVAL);
}

/* ---- descriptors --------------------------------------------------------- */
static struct gp_shim_bd random_bd(void)
{
	struct gp_shim_bd bd = {
		.d0_size = random_below(3) ? 1 + random_below(20) : 0,
		.d0_step = random_below(2) ? 1 : 1 + random_below(50),
		.d1_step = 1 + random_below(300), .d2_step = 1 + random_below(3000),
		.iterations = 1 + random_below(4), .iteration_step = 1 + random_below(5000),
	};

	if (bd.d0_size && random_below(2))
		bd.d1_size = 1 + random_below(8);
	bd.n_words = (bd.d0_size ? bd.d0_size : 1) * (bd.d1_size ? bd.d1_size : 1) * (1 + random_below(6));
	return bd;
}

struct seen {
	uint64_t *word;
	size_t n, room;
};

static int see(void *context, uint64_t offset, uint64_t bytes)
{
	struct seen *s = context;

	assert_true(bytes > 0 && bytes % 4 == 0);
	for (uint64_t i = 0; i < bytes; i += 4) {
		assert_true(s->n < s->room);
		s->word[s->n++] = offset + i;
	}
	return 0;
}

/* The address of word k of run r, straight from the definition. */
static uint64_t place(const struct gp_shim_task *t, uint64_t r, uint64_t k)
{
	const struct gp_shim_bd *bd = &t->bd;
	const uint64_t d0 = bd->d0_size ? bd->d0_size : UINT64_MAX, d1 = bd->d1_size ? bd->d1_size : UINT64_MAX;

	return t->offset + 4 * (r % bd->iterations * bd->iteration_step + k % d0 * bd->d0_step +
	                        k / d0 % d1 * bd->d1_step + k / d0 / d1 * bd->d2_step);
}

static void test_descriptors(void **state)
{
	static uint64_t room[1 << 14];

	(void)state;
	for (int round = 0; round < 2000; round++) {
		const struct gp_shim_task t = { .bd = random_bd(), .repeats = 1 + random_below(9),
		                                .offset = 4 * (uint64_t)random_below(1000) };
		struct seen seen = { .word = room, .room = GP_ARRAY_LEN(room) };
		uint64_t moved, end, furthest = 0;
		uint32_t words[GP_SHIM_BD_WORDS];
		struct gp_shim_bd got;

		memset(&got, 0, sizeof got);
		assert_int_equal(gp_shim_bd_write(&t.bd, words), 0);
		assert_int_equal(gp_shim_bd_read(&got, words), 0);
		assert_memory_equal(&got, &t.bd, sizeof got);
		assert_int_equal(gp_shim_task_walk(&t, see, &seen), 0);
		assert_int_equal(seen.n, t.repeats * t.bd.n_words);
		for (size_t i = 0; i < seen.n; i++) {
			assert_int_equal(seen.word[i], place(&t, i / t.bd.n_words, i % t.bd.n_words));
			furthest = seen.word[i] + 4 > furthest ? seen.word[i] + 4 : furthest;
		}
		assert_int_equal(gp_shim_task_extent(&t, &moved, &end), 0);
		assert_int_equal(moved, seen.n * 4);
		assert_int_equal(end, furthest);
	}
}

static int stop(void *context, uint64_t offset, uint64_t bytes)
{
	(void)offset, (void)bytes;
	return ++*(int *)context == 3 ? -7 : 0;
}

static void test_descriptor_limits(void **state)
{
	static const struct gp_shim_bd wrong[] = {
		{ 0 }, { .n_words = 8, .d0_size = 1024 }, { .n_words = 8, .d0_size = 3 },
		{ .n_words = 8, .d1_size = 2 }, { .n_words = 8, .d0_size = 2, .d1_size = 3 },
		{ .n_words = 8, .d0_step = (1 << 20) + 1 }, { .n_words = 8, .iterations = 65 },
		{ .n_words = 8, .iteration_step = (1 << 20) + 1 },
	};
	uint32_t words[GP_SHIM_BD_WORDS];
	struct gp_shim_task t = { .bd = { .n_words = 6, .d0_size = 1, .d1_step = 2 }, .repeats = 1 };
	uint64_t moved, end;
	struct gp_shim_bd bd;
	int n = 0;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(wrong); i++)
		assert_true(gp_shim_bd_write(&wrong[i], words) < 0);
	assert_int_equal(gp_shim_task_walk(&t, stop, &n), -7);
	assert_int_equal(n, 3);
	t.offset = UINT64_MAX - 8;
	assert_int_equal(gp_shim_task_extent(&t, &moved, &end), -EOVERFLOW);
	t = (struct gp_shim_task){ .repeats = 256, .bd = { .n_words = UINT32_MAX, .d0_step = 1 << 20,
	                           .iterations = 64, .iteration_step = 1 << 20 } };
	assert_int_equal(gp_shim_task_extent(&t, &moved, &end), 0);
	assert_int_equal(moved, 4ull * UINT32_MAX * 256);
	assert_int_equal(end, 4 * (((uint64_t)UINT32_MAX - 1 + 63) * (1 << 20) + 1));

	/* Bits that no stream here sets. */
	for (int round = 0; round < 500; round++) {
		static const struct { uint32_t word, from, n; } fixed[] = {
			{ 2, 16, 16 }, { 4, 30, 2 }, { 5, 20, 12 }, { 6, 26, 6 }, { 7, 0, 32 } };
		const uint32_t f = random_below(GP_ARRAY_LEN(fixed));
		assert_int_equal(gp_shim_bd_write(&(struct gp_shim_bd){ .n_words = 4 }, words), 0);
		words[fixed[f].word] ^= 1u << (fixed[f].from + random_below(fixed[f].n));
		assert_int_equal(gp_shim_bd_read(&bd, words), -EINVAL);
	}
}

/* ---- tasks ----------------------------------------------------------------- */
struct events {
	struct gp_shim_task task[64];
	struct gp_shim_channel wait[64];
	uint32_t n_tasks, n_waits, n_writes;
	int answer;
};

static int on_task(void *context, const struct gp_shim_task *t)
{
	struct events *e = context;

	if (e->n_tasks < 64)
		e->task[e->n_tasks] = *t;
	e->n_tasks++;
	return e->answer;
}

static int on_wait(void *context, const struct gp_shim_channel *on)
{
	struct events *e = context;

	if (e->n_waits < 64)
		e->wait[e->n_waits] = *on;
	e->n_waits++;
	return 0;
}

static int on_write(void *context, uint32_t address, uint32_t value)
{
	(void)address, (void)value;
	((struct events *)context)->n_writes++;
	return 0;
}

static int read_all(struct events *e, const uint32_t *words, size_t n)
{
	memset(e, 0, sizeof *e);
	return gp_stream_read(words, n, &(struct gp_stream_visitor){ on_task, on_wait, on_write, e });
}

static struct gp_shim_task task_of(uint8_t column, uint8_t channel, bool to_array, uint32_t n_words)
{
	return (struct gp_shim_task){
		.on = { column, channel, to_array }, .repeats = 1, .arg = to_array ? channel : 2,
		.offset = 64u * column, .token = !to_array,
		.bd = { .n_words = n_words, .d0_step = 1, .d1_step = 1, .d2_step = 1, .iterations = 1,
		        .iteration_step = 1 } };
}

/* As a product's: on four columns one task for results, one for weights, four for rows. */
static uint32_t put_product(struct gp_task_writer *w, struct gp_shim_task put[64])
{
	uint32_t n = 0;

	for (uint8_t c = 0; c < 4; c++) {
		put[n++] = task_of(c, 0, false, 4096);
		put[n] = task_of(c, 1, true, 1024);
		put[n++].repeats = 4;
		for (uint32_t b = 0; b < 4; b++) {
			put[n] = task_of(c, 0, true, 256);
			put[n].offset += b * 1024;
			put[n++].repeats = 256;
		}
	}
	for (uint32_t i = 0; i < n; i++)
		gp_tasks_put(w, &put[i]);
	gp_tasks_end(w);
	return n;
}

static size_t write_product(uint32_t words[ROOM], struct gp_shim_task put[64], uint32_t *n_put)
{
	struct gp_task_writer w;
	struct gp_stream s;
	size_t n = 0;

	gp_stream_begin(&s, words, ROOM);
	gp_tasks_begin(&w, &s);
	*n_put = put_product(&w, put);
	assert_int_equal(w.n_tasks, *n_put);
	assert_int_equal(gp_stream_end(&s, &n), 0);
	return n;
}

static void test_tasks_round_trip(void **state)
{
	static struct gp_shim_task put[64];
	static uint32_t words[ROOM];
	struct events e;
	uint32_t n_put;

	(void)state;
	memset(put, 0, sizeof put);
	const size_t n = write_product(words, put, &n_put);
	assert_int_equal(read_all(&e, words, n), 0);
	assert_int_equal(e.n_tasks, n_put);
	for (uint32_t i = 0; i < n_put; i++) {
		assert_memory_equal(&e.task[i].bd, &put[i].bd, sizeof put[i].bd);
		assert_int_equal(e.task[i].on.column, put[i].on.column);
		assert_int_equal(e.task[i].on.channel, put[i].on.channel);
		assert_int_equal(e.task[i].on.to_array, put[i].on.to_array);
		assert_int_equal(e.task[i].repeats, put[i].repeats);
		assert_int_equal(e.task[i].arg, put[i].arg);
		assert_int_equal(e.task[i].offset, put[i].offset);
		assert_int_equal(e.task[i].token, put[i].token);
	}
	assert_int_equal(e.n_waits, 4);
	for (uint8_t c = 0; c < 4; c++)
		assert_true(e.wait[c].column == c && !e.wait[c].to_array);
}

/* A long queue is waited for, and its descriptors are taken again. */
static void test_queue_is_waited_for(void **state)
{
	static uint32_t words[ROOM];
	struct gp_task_writer w;
	struct gp_stream s;
	struct events e;
	size_t n;

	(void)state;
	gp_stream_begin(&s, words, ROOM);
	gp_tasks_begin(&w, &s);
	for (uint32_t i = 0; i < 40; i++) {
		struct gp_shim_task t = task_of(2, 1, i % 2, 16);
		t.token = t.on.to_array; /* the others are given one */
		gp_tasks_put(&w, &t);
	}
	gp_tasks_end(&w);
	assert_int_equal(gp_stream_end(&s, &n), 0);
	assert_int_equal(read_all(&e, words, n), 0);
	assert_int_equal(e.n_tasks, 40);
	assert_int_equal(e.n_waits, 40);

	/* No token to wait for. */
	gp_stream_begin(&s, words, ROOM);
	gp_tasks_begin(&w, &s);
	for (uint32_t i = 0; i < 5; i++) {
		const struct gp_shim_task t = task_of(2, 1, true, 16);
		assert_int_equal(s.error, 0);
		gp_tasks_put(&w, &t);
	}
	assert_int_equal(gp_stream_end(&s, &n), -EINVAL);
}

static void test_tasks_that_cannot_be(void **state)
{
	static uint32_t words[ROOM];
	struct gp_task_writer w;
	struct gp_stream s;
	size_t n;

	(void)state;
	for (int i = 0; i < 6; i++) {
		struct gp_shim_task t = task_of(0, 0, true, 16);
		switch (i) {
		case 0: t.on.column = 5; break;
		case 1: t.on.channel = 2; break;
		case 2: t.arg = 7; break;
		case 3: t.repeats = 0; break;
		case 4: t.repeats = 257; break;
		case 5: t.bd.n_words = 0; break;
		}
		gp_stream_begin(&s, words, ROOM);
		gp_tasks_begin(&w, &s);
		gp_tasks_put(&w, &t);
		assert_int_equal(gp_stream_end(&s, &n), -EINVAL);
	}
}

/* ---- hostile streams --------------------------------------------------------- */
struct raw {
	uint32_t words[256];
	struct gp_stream s;
};

static void raw_begin(struct raw *r)
{
	gp_stream_begin(&r->s, r->words, 256);
}

static void raw_bd(struct raw *r, uint32_t bd)
{
	uint32_t words[GP_SHIM_BD_WORDS];

	assert_int_equal(gp_shim_bd_write(&(struct gp_shim_bd){ .n_words = 4 }, words), 0);
	gp_stream_put(&r->s, &(struct gp_stream_op){ .code = GP_STREAM_BLOCK_WRITE, .n_words = 8,
	              .words = words, .address = gp_stream_address(1, 0, 0x1d000 + 32 * bd) });
}

static void raw_patch(struct raw *r, uint32_t bd, uint32_t arg)
{
	gp_stream_put(&r->s, &(struct gp_stream_op){ .code = GP_STREAM_PATCH, .arg = arg,
	              .address = gp_stream_address(1, 0, 0x1d004 + 32 * bd) });
}

static void raw_write(struct raw *r, uint32_t row, uint32_t reg, uint32_t value)
{
	gp_stream_put(&r->s, &(struct gp_stream_op){ .code = GP_STREAM_WRITE, .value = value,
	              .address = gp_stream_address(1, row, reg) });
}

static void raw_wait(struct raw *r, uint8_t row, uint8_t columns, uint8_t channel)
{
	gp_stream_put(&r->s, &(struct gp_stream_op){ .code = GP_STREAM_SYNC, .column = 1, .row = row,
	              .rows = 1, .columns = columns, .channel = channel });
}

static int raw_read(struct raw *r, struct events *e)
{
	size_t n = 0;

	assert_int_equal(gp_stream_end(&r->s, &n), 0);
	return read_all(e, r->words, n);
}

static void refused(struct raw *r, const char *text)
{
	struct events e;

	assert_int_equal(raw_read(r, &e), -EINVAL);
	if (!strstr(gp_error(), text))
		fail_msg("'%s' is not in: %s", text, gp_error());
}

#define S2MM_0 0x1d204
#define TOKEN (1u << 31)

/* Of S2MM 0's tokens, and MM2S 1's. */
static void raw_name(struct raw *r, uint32_t reg, uint32_t value, uint32_t mask)
{
	gp_stream_put(&r->s, &(struct gp_stream_op){ .code = GP_STREAM_MASK_WRITE, .value = value,
	              .mask = mask, .address = gp_stream_address(1, 0, reg) });
}

static void good(struct raw *r)
{
	raw_begin(r);
	raw_name(r, 0x1d200, 0xf00, 0x1f00);
	raw_bd(r, 3);
	raw_patch(r, 3, 2);
	raw_write(r, 0, S2MM_0, 3 | TOKEN);
}

static void test_refused_orders(void **state)
{
	struct events e;
	struct raw r;

	(void)state;
	good(&r), raw_wait(&r, 0, 1, 0);
	raw_write(&r, 2, 0x400, 5);
	assert_int_equal(raw_read(&r, &e), 0);
	assert_true(e.n_tasks == 1 && e.n_waits == 1 && e.n_writes == 1);

	good(&r), refused(&r, "nobody waits");
	good(&r), raw_wait(&r, 0, 1, 0), raw_write(&r, 0, S2MM_0, 3), refused(&r, "nobody waits");
	/* The descriptor of two tasks, one of which is done. */
	good(&r), raw_write(&r, 0, S2MM_0, 3 | TOKEN), raw_wait(&r, 0, 1, 0), raw_bd(&r, 3);
	refused(&r, "may still read it");
	good(&r), raw_wait(&r, 0, 1, 0), raw_wait(&r, 0, 1, 0), refused(&r, "no task gives");
	good(&r), raw_wait(&r, 0, 1, 1), refused(&r, "no task gives");
	good(&r), raw_wait(&r, 0, 2, 0), refused(&r, "column 2 S2MM 0");
	good(&r), raw_wait(&r, 0, 5, 0), refused(&r, "a wait for");
	good(&r), raw_wait(&r, 1, 1, 0), refused(&r, "a wait for");
	good(&r), raw_wait(&r, 0, 1, 2), refused(&r, "a wait for");
	good(&r), raw_bd(&r, 3), refused(&r, "may still read it");
	good(&r), raw_patch(&r, 3, 2), refused(&r, "may still read it");
	good(&r), raw_patch(&r, 4, 7), refused(&r, "data buffer 7");
	good(&r), raw_write(&r, 0, S2MM_0, 4), refused(&r, "has no address");
	good(&r), raw_bd(&r, 4), raw_write(&r, 0, S2MM_0, 4), refused(&r, "has no address");
	good(&r), raw_patch(&r, 4, 0), raw_write(&r, 0, S2MM_0, 4), refused(&r, "not valid");
	good(&r), raw_write(&r, 0, S2MM_0, 3 | 1 << 5), refused(&r, "task");
	good(&r), raw_write(&r, 0, 0x1d224, 3), refused(&r, "no program here");
	good(&r), raw_write(&r, 0, 0x1d200, 3), refused(&r, "no program here");
	good(&r), raw_write(&r, 0, 0x1d001, 3), refused(&r, "no program here");
	good(&r), raw_write(&r, 6, 0, 3), refused(&r, "no program here");
	good(&r);
	for (int i = 0; i < 4; i++)
		raw_write(&r, 0, S2MM_0, 3);
	refused(&r, "over 4 tasks");
	good(&r);
	gp_stream_put(&r.s, &(struct gp_stream_op){ .code = GP_STREAM_MASK_POLL });
	refused(&r, "operation 4");
	good(&r), raw_name(&r, 0x1d200, 0xf00, 0x1f01), refused(&r, "under mask");
	good(&r), raw_name(&r, 0x1d200, 0xe00, 0x1f00), refused(&r, "under mask");
	good(&r), raw_name(&r, 0x1d204, 0xf00, 0x1f00), refused(&r, "under mask");
	good(&r), raw_name(&r, 0x1d220, 0xf00, 0x1f00), refused(&r, "under mask");
	/* The packet of one channel's tokens is none of another's. */
	good(&r), raw_bd(&r, 4), raw_patch(&r, 4, 0), raw_write(&r, 0, 0x1d21c, 4 | TOKEN);
	refused(&r, "gets lost");
	good(&r), raw_wait(&r, 0, 1, 0), raw_bd(&r, 4), raw_patch(&r, 4, 0), raw_name(&r, 0x1d218, 0xf00, 0x1f00);
	raw_write(&r, 0, 0x1d21c, 4 | TOKEN);
	refused(&r, "nobody waits");
	good(&r);
	gp_stream_put(&r.s, &(struct gp_stream_op){ .code = GP_STREAM_PATCH,
	              .address = gp_stream_address(1, 0, 0x1d008) });
	refused(&r, "no descriptor's");
}

static void test_visitor_ends_it(void **state)
{
	struct events e = { .answer = -EINTR };
	struct raw r;
	size_t n;

	(void)state;
	good(&r), raw_wait(&r, 0, 1, 0);
	assert_int_equal(gp_stream_end(&r.s, &n), 0);
	assert_int_equal(gp_stream_read(r.words, n, &(struct gp_stream_visitor){ on_task, on_wait, NULL, &e }),
	                 -EINTR);
	assert_int_equal(e.n_waits, 0);
	good(&r), raw_wait(&r, 0, 1, 0), raw_write(&r, 2, 0x400, 5);
	assert_int_equal(gp_stream_end(&r.s, &n), 0);
	e.answer = 0;
	assert_int_equal(gp_stream_read(r.words, n, &(struct gp_stream_visitor){ on_task, on_wait, NULL, &e }),
	                 -EINVAL);
}

static void test_cut_off(void **state)
{
	static struct gp_shim_task put[64];
	static uint32_t words[ROOM];
	struct events e;
	uint32_t n_put;

	(void)state;
	const size_t n = write_product(words, put, &n_put);
	for (size_t cut = 0; cut < n; cut++) {
		void *map;
		uint32_t *at = at_edge(words, cut ? cut : 1, &map);

		if (cut >= GP_STREAM_HEADER_WORDS)
			at[3] = (uint32_t)cut * 4;
		assert_int_equal(read_all(&e, at, cut), -EINVAL);
		leave_edge(map, cut ? cut : 1);
	}
	assert_int_equal(read_all(&e, words, n + 1), -EINVAL);
	words[2]++;
	assert_int_equal(read_all(&e, words, n), -EINVAL);
	words[2] -= 2;
	assert_int_equal(read_all(&e, words, n), -EINVAL);
	assert_non_null(strstr(gp_error(), "after its last"));
}

/* Only a block's size is free. */
static void test_wrong_sizes(void **state)
{
	static const struct { uint32_t code, size_at, words; } op[] = {
		{ 0, 5, 6 }, { 1, 3, 5 }, { 3, 6, 7 }, { 4, 6, 7 }, { 0x80, 1, 4 }, { 0x81, 1, 12 } };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(op); i++)
		for (uint32_t bytes = 0; bytes < 70; bytes++) {
			uint32_t words[24] = { GP_STREAM_HEADER, 0x105, 1, 4 * 24, op[i].code };
			struct gp_stream_reader r;
			struct gp_stream_op got;

			words[4 + op[i].size_at] = bytes;
			const bool right = op[i].code == 1 ? bytes % 4 == 0 && bytes >= 20 : bytes == op[i].words * 4;
			assert_int_equal(gp_stream_open(&r, words, 24), 0);
			assert_int_equal(gp_stream_next(&r, &got), right ? 1 : -EINVAL);
		}
}

/* Whatever is read, no task leaves what its extent says, and no word behind the stream
 * is looked at. */
static void test_hostile(void **state)
{
	static struct gp_shim_task put[64];
	static uint32_t words[ROOM];
	uint32_t n_put, passed = 0;
	struct events e;

	(void)state;
	const size_t n = write_product(words, put, &n_put);
	void *map;
	uint32_t *at = at_edge(words, n, &map);
	for (int round = 0; round < 20000; round++) {
		memcpy(at, words, n * sizeof *at);
		for (uint32_t k = 1 + random_below(3); k > 0; k--) {
			const uint32_t i = random_below((uint32_t)n);
			at[i] = random_below(2) ? random_word() : at[i] ^ 1u << random_below(32);
		}
		const int rc = read_all(&e, at, n);
		assert_true(rc == 0 || rc == -EINVAL || rc == -ERANGE);
		passed += rc == 0;
		for (uint32_t i = 0; i < e.n_tasks && i < 64; i++) {
			uint64_t moved, end;
			assert_true(e.task[i].on.column < 5 && e.task[i].on.channel < 2 && e.task[i].arg < 7);
			if (gp_shim_task_extent(&e.task[i], &moved, &end) == 0)
				assert_true(end > e.task[i].offset && moved >= 4);
		}
	}
	leave_edge(map, n);
	/* Most of a stream's words matter. */
	assert_true(passed > 0 && passed < 18000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_operations_round_trip), cmocka_unit_test(test_known_words),
		cmocka_unit_test(test_no_room), cmocka_unit_test(test_descriptors),
		cmocka_unit_test(test_descriptor_limits), cmocka_unit_test(test_tasks_round_trip),
		cmocka_unit_test(test_queue_is_waited_for), cmocka_unit_test(test_tasks_that_cannot_be),
		cmocka_unit_test(test_refused_orders), cmocka_unit_test(test_visitor_ends_it),
		cmocka_unit_test(test_cut_off), cmocka_unit_test(test_wrong_sizes),
		cmocka_unit_test(test_hostile),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}

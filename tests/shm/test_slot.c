#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "shm/shm.h"

static const struct gp_slot_geometry geometry = {
	.max_ops = 4, .max_rows = 5, .payload = GP_PAYLOAD_LOGITS, .max_payload_rows = 3,
	.payload_cols = 100, .vocab = 1000, .max_sequences = 8, .context = 64,
};
static const struct gp_slot_header header = {
	.epoch = 3, .n_ops = 3, .n_rows = 4, .payload = GP_PAYLOAD_LOGITS, .payload_rows = 2,
	.payload_cols = 100, .step = 77, .times = { [63] = { 1, 2, 3 } },
};
static const struct gp_kv_op ops[3] = {
	{ .kind = GP_KV_DROP, .seq = 7 },
	{ .kind = GP_KV_TRUNCATE, .seq = 1, .pos = 64 },
	{ .kind = GP_KV_COPY, .seq = 2, .src = 3, .pos = 10 },
};
static const struct gp_row rows[4] = {
	{ .seq = 0, .pos = 63, .token = 999, .flags = GP_ROW_WANTS_LOGITS },
	{ .seq = 7, .pos = 0, .token = 0 },
	{ .seq = 1, .pos = 1, .token = 1 },
	{ .seq = 2, .pos = 2, .token = 2, .flags = GP_ROW_WANTS_LOGITS, .candidates = 3 },
};
static const struct gp_slot_candidate best[3] = { { 2.5f, 99 }, { -1, 0 }, { -1, 7 } };

struct fixture {
	size_t bytes;
	uint8_t *slot; /* the good slot lies here again after restore() */
	struct gp_slot_view view;
};

static void restore(struct fixture *f)
{
	memset(f->slot, 0xff, f->bytes);
	assert_int_equal(gp_slot_write(&geometry, f->slot, &header, ops, rows), 0);
	memcpy(gp_slot_payload(&geometry, f->slot) + geometry.payload_cols, best, sizeof best);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	*state = f;
	if (!f || gp_slot_bytes(&geometry, &f->bytes) < 0)
		return -1;
	f->slot = aligned_alloc(64, f->bytes);
	return f->slot ? gp_slot_view_create(&f->view, &geometry) : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	gp_slot_view_finish(&f->view);
	gp_slot_view_finish(&f->view);
	free(f->slot);
	free(f);
	return 0;
}

static void test_round_trip(void **state)
{
	struct fixture *f = *state;

	restore(f);
	float *payload = gp_slot_payload(&geometry, f->slot);
	assert_int_equal((uintptr_t)payload % 64, 0);
	assert_true((uint8_t *)(payload + 300) <= f->slot + f->bytes);
	payload[299] = 4.5f;
	assert_int_equal(gp_slot_read(&f->view, &geometry, f->slot), 0);
	assert_int_equal(f->view.header.magic, GP_SLOT_MAGIC);
	assert_int_equal(f->view.header.step, 77);
	assert_int_equal(f->view.header.epoch, 3);
	assert_int_equal(f->view.header.times[63].end_ns, 3);
	assert_memory_equal(f->view.ops, ops, sizeof ops);
	assert_memory_equal(f->view.rows, rows, sizeof rows);
	assert_ptr_equal(f->view.payload, payload);
	assert_ptr_equal(f->view.logits[0].row, payload);
	assert_null(f->view.logits[1].row);
	assert_int_equal(f->view.logits[1].n_best, 3);
	/* The reader's rows are its own: a later change by the peer is not seen. */
	memset(f->slot, 0, f->bytes);
	assert_memory_equal(f->view.rows, rows, sizeof rows);
	assert_memory_equal(f->view.logits[1].best, best, sizeof best);
}

static size_t op_at(size_t i)
{
	return sizeof(struct gp_slot_header) + i * sizeof(struct gp_kv_op);
}

static size_t row_at(size_t i)
{
	return op_at(geometry.max_ops) + i * sizeof(struct gp_row);
}

static void refuse(struct fixture *f, size_t offset, uint32_t value, const char *field)
{
	restore(f);
	memcpy(f->slot + offset, &value, sizeof value);
	assert_int_equal(gp_slot_read(&f->view, &geometry, f->slot), -EPROTO);
	if (!strstr(gp_error(), field))
		fail_msg("'%s' does not name %s", gp_error(), field);
}

#define HEADER(field) offsetof(struct gp_slot_header, field)
#define OP(i, field) (op_at(i) + offsetof(struct gp_kv_op, field))
#define ROW(i, field) (row_at(i) + offsetof(struct gp_row, field))

static void test_each_field(void **state)
{
	const struct { size_t at; uint32_t value; const char *field; } cases[] = {
		{ HEADER(magic), 0, "magic" },
		{ HEADER(abi), GP_SLOT_ABI + 1, "abi is 3, this program speaks 2" },
		{ HEADER(n_ops), 5, "n_ops is 5" },
		{ HEADER(n_ops), UINT32_MAX, "n_ops" },
		{ HEADER(n_rows), 6, "n_rows is 6" },
		{ HEADER(n_rows), UINT32_MAX, "n_rows" },
		{ HEADER(n_rows), 3, "payload_rows is 2, the rows call for 1" },
		{ HEADER(payload), GP_PAYLOAD_HIDDEN, "payload is of kind 1" },
		{ HEADER(payload), 9, "payload is of kind 9" },
		{ HEADER(payload_rows), 1, "payload_rows" },
		{ HEADER(payload_rows), UINT32_MAX, "payload_rows" },
		{ HEADER(payload_cols), 99, "payload_cols" },
		{ OP(0, kind), 0, "operation 0: kind" },
		{ OP(2, kind), 4, "operation 2: kind" },
		{ OP(0, seq), 8, "operation 0: seq" },
		{ OP(0, src), 1, "operation 0: src" },
		{ OP(0, pos), 1, "operation 0: pos" },
		{ OP(1, pos), 65, "operation 1: pos" },
		{ OP(2, src), 8, "operation 2: src" },
		{ OP(2, src), 2, "operation 2: src" },
		{ OP(2, pos), UINT32_MAX, "operation 2: pos" },
		{ ROW(0, seq), 8, "row 0: seq" },
		{ ROW(1, pos), 64, "row 1: pos" },
		{ ROW(2, token), 1000, "row 2: token" },
		{ ROW(3, flags), 2, "row 3: flags" },
		{ ROW(3, flags), 0, "payload_rows" },
		{ ROW(1, flags), 1u << 16, "row 1: candidates is 1, it may ask for 0" },
		{ ROW(3, flags), 51u << 16 | 1, "row 3: candidates is 51, it may ask for 50" },
		{ ROW(0, flags), 0xffff0001, "row 0: candidates" },
	};

	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++)
		refuse(*state, cases[i].at, cases[i].value, cases[i].field);
}

/* A broken logit comes first and is its reader's to see. */
static void test_candidates(void **state)
{
	const struct { struct gp_slot_candidate c[3]; const char *says; } cases[] = {
		{ { { 2.5f, 100 }, { -1, 0 }, { -1, 7 } }, "row 1: candidate 0 is token 100 of 100" },
		{ { { 2.5f, 1 }, { -1, 0 }, { -1, UINT32_MAX } }, "candidate 2 is token" },
		{ { { 2.5f, 1 }, { 3, 0 }, { -1, 7 } }, "candidate 1 is better" },
		{ { { 2.5f, 1 }, { 2.5f, 0 }, { -1, 7 } }, "candidate 1 is better" },
		{ { { 2.5f, 1 }, { 1, 0 }, { 1, 0 } }, "candidate 2 is better" },
		{ { { 2.5f, 1 }, { 1, 0 }, { NAN, 3 } }, "candidate 2 is better" },
		{ { { NAN, 1 }, { -INFINITY, 4 }, { 5, 0 } }, NULL },
		{ { { 0.0f, 1 }, { -0.0f, 4 }, { -INFINITY, 0 } }, NULL },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++) {
		restore(f);
		memcpy(gp_slot_payload(&geometry, f->slot) + 100, cases[i].c, sizeof cases[i].c);
		const int rc = gp_slot_read(&f->view, &geometry, f->slot);
		assert_int_equal(rc, cases[i].says ? -EPROTO : 0);
		if (cases[i].says && !strstr(gp_error(), cases[i].says))
			fail_msg("'%s' does not say %s", gp_error(), cases[i].says);
	}
}

/* As many as there may be, in every row: the last byte of the payload's room. */
static void test_most_candidates(void **state)
{
	struct fixture *f = *state;
	struct gp_slot_header h = header;
	struct gp_row full[3];
	float *payload = gp_slot_payload(&geometry, f->slot);

	assert_int_equal(gp_slot_most_candidates(&geometry), 50);
	h.n_rows = h.payload_rows = 3;
	for (uint32_t r = 0; r < 3; r++) {
		full[r] = (struct gp_row){ .seq = r, .flags = GP_ROW_WANTS_LOGITS, .candidates = 50 };
		for (uint32_t i = 0; i < 50; i++) {
			const struct gp_slot_candidate c = { -(float)i, i + r };

			memcpy(payload + 100 * r + 2 * i, &c, sizeof c);
		}
	}
	assert_int_equal(gp_slot_write(&geometry, f->slot, &h, ops, full), 0);
	assert_int_equal(gp_slot_read(&f->view, &geometry, f->slot), 0);
	assert_int_equal(f->view.logits[2].best[49].id, 51);
	struct gp_slot_geometry large = geometry;
	large.payload_cols = 262144;
	assert_int_equal(gp_slot_most_candidates(&large), GP_SLOT_CANDIDATES);
}

static void test_write_refuses(void **state)
{
	struct fixture *f = *state;
	struct gp_slot_header h = header;

	h.n_rows = 6;
	assert_int_equal(gp_slot_write(&geometry, f->slot, &h, ops, rows), -E2BIG);
	h = header;
	h.n_ops = 5;
	assert_int_equal(gp_slot_write(&geometry, f->slot, &h, ops, rows), -E2BIG);
	h = header;
	h.payload_rows = 4;
	assert_int_equal(gp_slot_write(&geometry, f->slot, &h, ops, rows), -E2BIG);
}

static void test_too_many_payload_rows(void **state)
{
	struct fixture *f = *state;
	struct gp_slot_geometry small = geometry;

	/* The rows agree with payload_rows, but the ring holds fewer. */
	small.max_payload_rows = 1;
	restore(f);
	assert_int_equal(gp_slot_read(&f->view, &small, f->slot), -EPROTO);
	assert_non_null(strstr(gp_error(), "the ring takes 1"));
}

static void test_payload_kinds(void **state)
{
	struct fixture *f = *state;
	struct gp_slot_geometry g = geometry;
	struct gp_slot_header h = header;

	g.payload = h.payload = GP_PAYLOAD_HIDDEN;
	g.max_payload_rows = 5;
	h.payload_rows = 4;
	uint8_t *slot = aligned_alloc(64, f->bytes * 2);
	assert_non_null(slot);
	assert_int_equal(gp_slot_write(&g, slot, &h, ops, rows), 0);
	assert_int_equal(gp_slot_read(&f->view, &g, slot), 0);
	assert_int_equal(f->view.rows[3].candidates, 3); /* carried on to the head */

	g.payload = h.payload = GP_PAYLOAD_NONE;
	h.payload_rows = h.payload_cols = 0;
	assert_int_equal(gp_slot_write(&g, slot, &h, ops, rows), 0);
	assert_int_equal(gp_slot_read(&f->view, &g, slot), 0);
	h.payload_rows = 1;
	assert_int_equal(gp_slot_write(&g, slot, &h, ops, rows), 0);
	assert_int_equal(gp_slot_read(&f->view, &g, slot), -EPROTO);
	free(slot);
}

static void test_sizes(void **state)
{
	struct gp_slot_geometry g = geometry;
	size_t bytes;

	(void)state;
	assert_int_equal(gp_slot_bytes(&g, &bytes), 0);
	assert_int_equal(bytes % 64, 0);
	g.payload_cols = g.max_payload_rows = UINT32_MAX;
	assert_int_equal(gp_slot_bytes(&g, &bytes), -EOVERFLOW);
	g = geometry;
	g.payload = 3;
	assert_int_equal(gp_slot_bytes(&g, &bytes), -EINVAL);
	g = geometry;
	g.max_rows = 0;
	assert_int_equal(gp_slot_bytes(&g, &bytes), -EINVAL);
}

static void check_in_range(const struct gp_slot_view *v)
{
	assert_true(v->header.n_ops <= geometry.max_ops && v->header.n_rows <= geometry.max_rows);
	assert_true(v->header.payload_rows <= geometry.max_payload_rows);
	for (uint32_t i = 0; i < v->header.n_rows; i++)
		assert_true(v->rows[i].seq < geometry.max_sequences &&
			    v->rows[i].pos < geometry.context &&
			    v->rows[i].token < geometry.vocab);
	for (uint32_t i = 0; i < v->header.payload_rows; i++)
		for (uint32_t k = 0; k < v->logits[i].n_best; k++)
			assert_true(v->logits[i].best[k].id < geometry.payload_cols);
}

/* Mutations of a good slot get further than noise does. */
static void test_random_bytes(void **state)
{
	struct fixture *f = *state;
	uint64_t x = 88172645463325252u;
	size_t accepted = 0;

	for (int round = 0; round < 200000; round++) {
		if (round % 100 == 0)
			restore(f);
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		/* Of the header only what is checked: the times are free. */
		const size_t end = (size_t)((uint8_t *)gp_slot_payload(&geometry, f->slot) -
					    f->slot) + 106 * sizeof(float);
		const size_t span = 48 + end - op_at(0);
		size_t at = (size_t)(x >> 8) % span;
		if (at >= 48)
			at += op_at(0) - 48;
		f->slot[at] ^= (uint8_t)(1u << (x & 7));
		const int rc = gp_slot_read(&f->view, &geometry, f->slot);
		assert_true(rc == 0 || rc == -EPROTO);
		if (rc == 0) {
			check_in_range(&f->view);
			accepted++;
		} else if (round % 3 == 0) {
			restore(f);
		}
	}
	assert_true(accepted > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_each_field, setup, teardown),
		cmocka_unit_test_setup_teardown(test_candidates, setup, teardown),
		cmocka_unit_test_setup_teardown(test_most_candidates, setup, teardown),
		cmocka_unit_test_setup_teardown(test_write_refuses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_many_payload_rows, setup, teardown),
		cmocka_unit_test_setup_teardown(test_payload_kinds, setup, teardown),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test_setup_teardown(test_random_bytes, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

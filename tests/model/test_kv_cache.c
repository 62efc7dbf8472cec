/* KV cache bookkeeping over a device that only records: each block remembers
 * what was written to its positions, so sharing mistakes show as wrong values. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/model.h"

#define MAX_BLOCKS 4096u

struct device {
	uint32_t reserved[GP_KV_KINDS], copies, fail_reserve_after, fail_copy;
	uint32_t value[GP_KV_KINDS][MAX_BLOCKS][GP_KV_BLOCK];
};
static struct device dev;

static int reserve(void *d, enum gp_kv_kind kind, uint32_t id)
{
	struct device *v = d;

	if (v->fail_reserve_after && --v->fail_reserve_after == 0)
		return gp_fail(ENOMEM, "as asked");
	assert_int_equal(id, v->reserved[kind]);
	assert_true(id < MAX_BLOCKS);
	v->reserved[kind]++;
	return 0;
}

static int copy(void *d, enum gp_kv_kind kind, uint32_t to, uint32_t from)
{
	struct device *v = d;

	if (v->fail_copy)
		return gp_fail(EIO, "as asked");
	memcpy(v->value[kind][to], v->value[kind][from], sizeof(v->value[kind][to]));
	v->copies++;
	return 0;
}

static struct gp_kv_cache *make(uint32_t sequences, uint32_t context, uint32_t window)
{
	const struct gp_kv_limits l = { sequences, context, window, { true, true }, 0 };
	const struct gp_kv_storage s = { reserve, copy };
	struct gp_kv_cache *kv;

	memset(&dev, 0, sizeof(dev));
	assert_int_equal(gp_kv_create(&kv, &l, &s, &dev), 0);
	return kv;
}

/* Extends and marks the new positions of both kinds with tag + position. */
static void write_rows(struct gp_kv_cache *kv, uint32_t seq, uint32_t n, uint32_t tag)
{
	uint32_t pos = gp_kv_length(kv, seq);

	assert_int_equal(gp_kv_extend(kv, seq, n), 0);
	assert_int_equal(gp_kv_length(kv, seq), pos + n);
	for (uint32_t p = pos; p < pos + n; p++)
		for (uint32_t k = 0; k < GP_KV_KINDS; k++)
			dev.value[k][gp_kv_table(kv, k, seq)[p / GP_KV_BLOCK]][p % GP_KV_BLOCK] =
				tag + p;
}

/* Positions [from, to) of seq read tag + position; local ones from `window` back. */
static void check_rows(struct gp_kv_cache *kv, uint32_t seq, uint32_t from, uint32_t to,
                       uint32_t tag, uint32_t local_from)
{
	for (uint32_t p = from; p < to; p++) {
		for (uint32_t k = 0; k < GP_KV_KINDS; k++) {
			uint32_t id = gp_kv_table(kv, k, seq)[p / GP_KV_BLOCK];

			if (k == GP_KV_LOCAL && p < local_from)
				continue;
			assert_true(id < dev.reserved[k]);
			assert_int_equal(dev.value[k][id][p % GP_KV_BLOCK], tag + p);
		}
	}
}

static void test_grows_and_gives_back(void **state)
{
	struct gp_kv_cache *kv = make(2, 4096, 100);

	(void)state;
	for (uint32_t i = 0; i < 2000; i++)
		write_rows(kv, 1, 1, 7);
	check_rows(kv, 1, 0, 2000, 7, 2000 - 100 - GP_KV_SLACK);
	assert_int_equal(gp_kv_blocks_used(kv, GP_KV_GLOBAL), 32);
	assert_true(gp_kv_blocks_used(kv, GP_KV_LOCAL) <= (100 + GP_KV_SLACK) / GP_KV_BLOCK + 2);
	assert_int_equal(gp_kv_table(kv, GP_KV_LOCAL, 1)[0], UINT32_MAX);
	assert_int_equal(gp_kv_length(kv, 0), 0);
	assert_int_equal(gp_kv_drop(kv, 1), 0);
	assert_int_equal(gp_kv_blocks_used(kv, GP_KV_GLOBAL), 0);
	assert_int_equal(gp_kv_blocks_used(kv, GP_KV_LOCAL), 0);
	write_rows(kv, 0, 2000, 9);
	assert_int_equal(dev.reserved[GP_KV_GLOBAL], 32);
	gp_kv_destroy(kv);
}

/* A step's first position looks back a whole window, however long the step is. */
static void test_long_step_keeps_the_window(void **state)
{
	struct gp_kv_cache *kv = make(1, 4096, 100);

	(void)state;
	write_rows(kv, 0, 1000, 1);
	write_rows(kv, 0, 1000, 1);
	check_rows(kv, 0, 1000 - 99, 2000, 1, 1000 - 99 - GP_KV_SLACK);
	gp_kv_destroy(kv);
}

static void test_truncate(void **state)
{
	struct gp_kv_cache *kv = make(1, 4096, 100);

	(void)state;
	for (uint32_t i = 0; i < 1000; i++)
		write_rows(kv, 0, 1, 1);
	assert_int_equal(gp_kv_truncate(kv, 0, 1001), -ERANGE);
	assert_int_equal(gp_kv_truncate(kv, 0, 200), -ERANGE);
	assert_int_equal(gp_kv_length(kv, 0), 1000);
	assert_int_equal(gp_kv_truncate(kv, 0, 1000 - GP_KV_SLACK), 0);
	check_rows(kv, 0, 0, 1000 - GP_KV_SLACK, 1, 1000 - GP_KV_SLACK - 99);
	write_rows(kv, 0, 300, 5000);
	check_rows(kv, 0, 0, 872, 1, 872 - 99);
	check_rows(kv, 0, 872, 1172, 5000, 872);
	assert_int_equal(gp_kv_truncate(kv, 0, 0), 0);
	assert_int_equal(gp_kv_blocks_used(kv, GP_KV_LOCAL), 0);
	write_rows(kv, 0, 10, 6000);
	check_rows(kv, 0, 0, 10, 6000, 0);
	gp_kv_destroy(kv);
}

static void test_copy_shares_then_parts(void **state)
{
	struct gp_kv_cache *kv = make(3, 1024, 1024);

	(void)state;
	write_rows(kv, 0, 150, 100);
	write_rows(kv, 1, 70, 9000);
	assert_int_equal(gp_kv_copy(kv, 1, 0, 130), 0);
	assert_int_equal(gp_kv_copy(kv, 2, 1, 64), 0);
	assert_int_equal(gp_kv_length(kv, 1), 130);
	assert_int_equal(gp_kv_blocks_used(kv, GP_KV_GLOBAL), 3);
	assert_int_equal(dev.copies, 0);
	write_rows(kv, 1, 40, 20000);   /* parts from 0 inside block 2 */
	assert_int_equal(dev.copies, 2);
	write_rows(kv, 0, 40, 30000);   /* alone in its block by now */
	assert_int_equal(dev.copies, 2);
	write_rows(kv, 2, 1, 40000);    /* begins a block: nothing to copy */
	assert_int_equal(dev.copies, 2);
	check_rows(kv, 0, 0, 150, 100, 0);
	check_rows(kv, 0, 150, 190, 30000, 0);
	check_rows(kv, 1, 0, 130, 100, 0);
	check_rows(kv, 1, 130, 170, 20000, 0);
	check_rows(kv, 2, 0, 64, 100, 0);
	check_rows(kv, 2, 64, 65, 40000, 0);
	assert_int_equal(gp_kv_drop(kv, 0), 0);
	check_rows(kv, 1, 0, 130, 100, 0);
	assert_int_equal(gp_kv_copy(kv, 1, 1, 5), 0);
	assert_int_equal(gp_kv_length(kv, 1), 5);
	gp_kv_clear(kv);
	assert_int_equal(gp_kv_blocks_used(kv, GP_KV_GLOBAL), 0);
	assert_int_equal(gp_kv_blocks_used(kv, GP_KV_LOCAL), 0);
	gp_kv_destroy(kv);
}

static void test_copy_out_of_range(void **state)
{
	struct gp_kv_cache *kv = make(2, 4096, 16);

	(void)state;
	for (uint32_t i = 0; i < 600; i++)
		write_rows(kv, 0, 1, 0);
	write_rows(kv, 1, 5, 70);
	assert_int_equal(gp_kv_copy(kv, 1, 0, 601), -ERANGE);
	assert_int_equal(gp_kv_copy(kv, 1, 0, 100), -ERANGE);
	assert_int_equal(gp_kv_copy(kv, 1, 2, 0), -EINVAL);
	assert_int_equal(gp_kv_copy(kv, 2, 1, 0), -EINVAL);
	check_rows(kv, 1, 0, 5, 70, 0);
	assert_int_equal(gp_kv_copy(kv, 1, 0, 599), 0);
	write_rows(kv, 1, 100, 800);
	check_rows(kv, 1, 584, 599, 0, 0);
	check_rows(kv, 0, 584, 600, 0, 0);
	gp_kv_destroy(kv);
}

/* After a failed extend: same length, same blocks, and the next one works. */
static void test_extend_all_or_nothing(void **state)
{
	struct gp_kv_cache *kv = make(2, 1024, 1024);

	(void)state;
	write_rows(kv, 0, 100, 1);
	assert_int_equal(gp_kv_copy(kv, 1, 0, 100), 0);
	for (uint32_t fail = 1; fail <= 8; fail++) {
		dev.fail_reserve_after = fail;
		if (gp_kv_extend(kv, 1, 28 + 64 * 3) == 0)
			break;
		dev.fail_reserve_after = 0;
		assert_int_equal(gp_kv_length(kv, 1), 100);
		assert_int_equal(gp_kv_blocks_used(kv, GP_KV_LOCAL), 2);
		assert_int_equal(gp_kv_blocks_used(kv, GP_KV_GLOBAL), 2);
		assert_int_equal(gp_kv_table(kv, GP_KV_LOCAL, 1)[1],
		                 gp_kv_table(kv, GP_KV_LOCAL, 0)[1]);
		assert_true(fail < 8);
	}
	dev.fail_reserve_after = 0;
	assert_int_equal(gp_kv_truncate(kv, 1, 0), 0);
	assert_int_equal(gp_kv_copy(kv, 1, 0, 100), 0);
	dev.fail_copy = 1;
	assert_int_equal(gp_kv_extend(kv, 1, 200), -EIO);
	assert_int_equal(gp_kv_blocks_used(kv, GP_KV_GLOBAL), 2);
	dev.fail_copy = 0;
	assert_int_equal(gp_kv_extend(kv, 1, 925), -ERANGE);
	assert_int_equal(gp_kv_extend(kv, 1, 924), 0);
	assert_int_equal(gp_kv_extend(kv, 1, 1), -ERANGE);
	assert_int_equal(gp_kv_extend(kv, 1, UINT32_MAX), -ERANGE);
	assert_int_equal(gp_kv_extend(kv, 2, 1), -EINVAL);
	gp_kv_destroy(kv);
}

static void test_stage_of_one_kind(void **state)
{
	struct gp_kv_limits l = { 1, 4096, 16, { [GP_KV_GLOBAL] = true }, 0 };
	const struct gp_kv_storage s = { reserve, copy };
	struct gp_kv_cache *kv;

	(void)state;
	memset(&dev, 0, sizeof(dev));
	assert_int_equal(gp_kv_create(&kv, &l, &s, &dev), 0);
	for (uint32_t i = 0; i < 1000; i++)
		assert_int_equal(gp_kv_extend(kv, 0, 1), 0);
	assert_int_equal(gp_kv_truncate(kv, 0, 3), 0);
	assert_int_equal(dev.reserved[GP_KV_LOCAL], 0);
	gp_kv_destroy(kv);
	l.window = 0;
	assert_int_equal(gp_kv_create(&kv, &l, &s, &dev), -EINVAL);
	assert_null(kv);
	gp_kv_destroy(NULL);
}

static uint32_t next_random(uint32_t *x)
{
	*x = *x * 1664525u + 1013904223u;
	return *x >> 8;
}

/* Random walks against a plain model: what each sequence should read. Rollback
 * upon rollback may pass the slack: then -ERANGE, and nothing has changed. */
static void test_random_walk(void **state)
{
	enum { SEQUENCES = 5, CONTEXT = 700, WINDOW = 50 };
	static uint32_t want[SEQUENCES][CONTEXT];
	struct gp_kv_cache *kv = make(SEQUENCES, CONTEXT, WINDOW);
	uint32_t x = 1, tag = 0;
	int rc;

	(void)state;
	for (uint32_t step = 0; step < 20000; step++) {
		uint32_t seq = next_random(&x) % SEQUENCES, other = next_random(&x) % SEQUENCES;
		uint32_t len = gp_kv_length(kv, seq), n = 1 + next_random(&x) % 90;

		switch (next_random(&x) % 8) {
		case 0:
			rc = gp_kv_truncate(kv, seq, len - len % n % 100);
			assert_true(rc == 0 || rc == -ERANGE);
			break;
		case 1:
			n = gp_kv_length(kv, other);
			n -= n < 60 ? 0 : next_random(&x) % 60;
			rc = gp_kv_copy(kv, seq, other, n);
			assert_true(rc == 0 || rc == -ERANGE);
			if (rc == 0 && seq != other)
				memcpy(want[seq], want[other], sizeof(want[seq]));
			break;
		default:
			if (len + n > CONTEXT) {
				assert_int_equal(gp_kv_drop(kv, seq), 0);
				break;
			}
			write_rows(kv, seq, n, tag += 1000);
			for (uint32_t p = len; p < len + n; p++)
				want[seq][p] = tag + p;
		}
		len = gp_kv_length(kv, seq);
		for (uint32_t p = 0; p < len; p++)
			check_rows(kv, seq, p, p + 1, want[seq][p] - p,
			           len > WINDOW ? len - WINDOW + 1 : 0);
	}
	/* A device that reserves so many beforehand never needs more. */
	for (uint32_t k = 0; k < GP_KV_KINDS; k++)
		assert_in_range(dev.reserved[k], 1, gp_kv_most_blocks(
			&(struct gp_kv_limits){ SEQUENCES, CONTEXT, WINDOW, { true, true }, 0 }, 90, k));
	gp_kv_clear(kv);
	assert_int_equal(gp_kv_blocks_used(kv, GP_KV_LOCAL), 0);
	assert_int_equal(gp_kv_blocks_used(kv, GP_KV_GLOBAL), 0);
	gp_kv_destroy(kv);
}

static void test_most_blocks(void **state)
{
	struct gp_kv_limits l = { 2, 8192, 1024, { true, true }, 0 };

	(void)state;
	assert_int_equal(gp_kv_most_blocks(&l, 512, GP_KV_GLOBAL), 2 * 128 + 1);
	/* Window, slack and step, each sequence's last step as long as it may be. */
	assert_int_equal(gp_kv_most_blocks(&l, 512, GP_KV_LOCAL), 2 * (26 + 2) + 9 + 1);
	l.kv_blocks = 200;
	assert_int_equal(gp_kv_most_blocks(&l, 512, GP_KV_GLOBAL), 200 + 1);
	l.kv_blocks = 0;
	l.context = 100;
	assert_int_equal(gp_kv_most_blocks(&l, 512, GP_KV_LOCAL), 2 * 2 + 1);
	l.has_kind[GP_KV_LOCAL] = false;
	assert_int_equal(gp_kv_most_blocks(&l, 512, GP_KV_LOCAL), 0);
	l = (struct gp_kv_limits){ UINT32_MAX, UINT32_MAX, UINT32_MAX, { true, true }, 0 };
	assert_int_equal(gp_kv_most_blocks(&l, UINT32_MAX, GP_KV_GLOBAL), UINT32_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_grows_and_gives_back),
		cmocka_unit_test(test_long_step_keeps_the_window),
		cmocka_unit_test(test_truncate),
		cmocka_unit_test(test_copy_shares_then_parts),
		cmocka_unit_test(test_copy_out_of_range),
		cmocka_unit_test(test_extend_all_or_nothing),
		cmocka_unit_test(test_stage_of_one_kind),
		cmocka_unit_test(test_random_walk), cmocka_unit_test(test_most_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

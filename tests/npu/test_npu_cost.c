/* Which side gets a product, by the cost model's published constants. */
#include "tests/kernels/check.h"

#include "workers/npu/array.h"
#include "workers/npu/npu_device.h"

static struct npu_weight weight(enum gp_aie_form form, uint32_t rows, uint32_t cols)
{
	const struct gp_aie_form_info *f = &gp_aie_forms[form];
	struct npu_weight w = {
		.form = form, .rows = rows, .cols = cols, .slices = (cols + f->k - 1) / f->k,
		.blocks = (rows + 4 * f->n - 1) / (4 * f->n),
	};

	w.part_blocks = w.blocks;
	w.bytes = (size_t)4 * w.blocks * w.slices * f->w_bytes;
	return w;
}

static void test_sides(void **state)
{
	const struct npu_weight gate = weight(GP_AIE_GEMM_INT4, 21504, 5376);
	const struct npu_weight small = weight(GP_AIE_GEMM_INT4, 256, 256);
	struct npu_cost c;

	(void)state;
	npu_published_cost(&c);
	assert_false(c.measured);
	assert_true(gate.bytes <= NPU_STAGING_BYTES);
	assert_true(npu_product_ns(&c, &gate, 512) < npu_host_ns(&c, &gate, 512));
	assert_true(npu_product_ns(&c, &gate, 8) > npu_host_ns(&c, &gate, 8));
	assert_true(npu_product_ns(&c, &small, 512) > npu_host_ns(&c, &small, 512));
	/* At least what the array and the command take. */
	const struct gp_npu_dispatch d = { GP_AIE_GEMM_INT4, 4, 84, 21, 0, 0 };
	struct gp_npu_count count;
	gp_npu_array_predict(&d, &count);
	assert_true(npu_product_ns(&c, &gate, 512) >= 0.95 * (double)count.ns);
	assert_true(npu_product_ns(&c, &gate, 512) <= 1.5 * (double)count.ns);
}

static void test_shares(void **state)
{
	const struct npu_weight gate = weight(GP_AIE_GEMM_INT4, 21504, 5376);
	const struct npu_weight *const pair[] = { &gate, &gate }, *const none[] = { NULL, NULL };
	const struct npu_weight *const one[] = { NULL, &gate };
	struct npu_cost c;

	(void)state;
	npu_published_cost(&c);
	assert_int_equal(npu_share(&c, pair, 2, 512), 1); /* one each, side by side */
	assert_int_equal(npu_share(&c, pair, 2, 2), 0);
	assert_int_equal(npu_share(&c, one, 2, 512), 2);
	assert_int_equal(npu_share(&c, none, 2, 512), 0);
	c.host_ns *= 10;                                  /* a slow host */
	assert_int_equal(npu_share(&c, pair, 2, 512), 3);
	c.host_ns /= 1000;
	assert_int_equal(npu_share(&c, pair, 2, 512), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_sides), cmocka_unit_test(test_shares) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Products of many rows on whatever Vulkan device there is, for every type that has a
 * shader, against sums in double of the weights that the scalar kernels unpack. */
#include "tests/common/vulkan_products.h"

#define MOST_ROWS 200u
#define MOST_COLS 4352u
#define LONG_COLS 2816u
#define MOST_OUTPUTS 300u

static struct product product;
/* The device may see its rows where the host reads slowly. */
static float *unpacked, *x;

/* What halves lose: 2^-12 of an activation, 2^-12 of a weight, a little in sums. */
static double tolerance(enum gp_type t)
{
	return product.d->many.tiling[0].rows && t != GP_TYPE_F32 ? 6e-4 : 4e-6;
}

/* How large a weight's error may be in units of its rounding: in Q4_K and Q5_K, where the
 * minimum is subtracted, as large as for the largest of its block. */
static double magnitude(enum gp_type t, const float *w, uint32_t k, uint32_t cols)
{
	const bool has_minimum = t == GP_TYPE_Q4_K || t == GP_TYPE_Q5_K;
	double most = fabs(w[k]);

	for (uint32_t i = k / 32 * 32; has_minimum && i < k / 32 * 32 + 32 && i < cols; i++)
		most = fmax(most, 2 * fabs(w[i]));
	return most;
}

static void check_output(enum gp_type t, const float *row, const float *w, uint32_t cols, float y,
                         const char *what)
{
	double sum = 0, size = 0;

	for (uint32_t k = 0; k < cols; k++) {
		sum += (double)row[k] * w[k];
		size += fabs((double)row[k]) * magnitude(t, w, k, cols);
	}
	if (!(fabs(y - sum) <= tolerance(t) * size + 1e-30))
		fail_msg("%s: %.9g instead of %.9g, off by %.3g of %.3g", what, y, sum,
		         fabs(y - sum) / size, tolerance(t));
}

static void run(const struct vk_weight *w, uint64_t picked, uint32_t rows)
{
	const struct vk_many_in in = { product.x.address, picked, rows, w->cols };
	const struct vk_many_out out = { w, product.y.address };

	memcpy(product.x.host, x, (size_t)MOST_ROWS * w->cols * sizeof *x);
	if (vk_begin_commands(product.d) < 0 || vk_multiply_many(product.d, &in, &out, 1) < 0 ||
	    vk_run_commands(product.d) < 0)
		fail_msg("%s", gp_error());
}

static void check_product(const struct gp_tensor *t, const uint32_t *picked, uint32_t rows)
{
	const struct vk_weight w = product_weight(&product, t);
	const uint32_t cols = (uint32_t)t->cols, n = (uint32_t)t->rows;
	const float *y = (const float *)(void *)product.y.host;
	const uint32_t room = (rows + VK_ROW_STEP - 1) / VK_ROW_STEP * VK_ROW_STEP;
	char what[128];

	if (picked)
		memcpy(product.picked.host, picked, rows * sizeof *picked);
	memset(product.y.host, 0xff, ((size_t)room * n + CANARY) * 4);
	run(&w, picked ? product.picked.address : 0, rows);
	gp_dequantize(t->type, t->data, unpacked, (size_t)n * cols);
	for (uint32_t m = 0; m < rows; m++)
		for (uint32_t i = 0; i < n; i++) {
			snprintf(what, sizeof what, "%s %u rows x %u, %u outputs: [%u][%u]",
			         gp_type_info(t->type)->name, rows, cols, n, m, i);
			check_output(t->type, x + (size_t)(picked ? picked[m] : m) * cols,
			             unpacked + (size_t)i * cols, cols, y[(size_t)m * n + i], what);
		}
	for (uint32_t i = 0; i < CANARY * 4; i++)
		assert_int_equal((unsigned char)product.y.host[(size_t)room * n * 4 + i], 0xff);
}

static const enum gp_type types[] = { GP_TYPE_F32, GP_TYPE_F16, GP_TYPE_BF16, GP_TYPE_Q4_0,
                                      GP_TYPE_Q8_0, GP_TYPE_Q3_K, GP_TYPE_Q4_K, GP_TYPE_Q5_K,
                                      GP_TYPE_Q6_K, GP_TYPE_IQ4_NL, GP_TYPE_IQ4_XS };

static void check_shape(enum gp_type type, uint32_t rows, uint32_t cols, uint32_t n,
                        enum check_fill fill)
{
	struct gp_tensor t = random_matrix(type, n, cols);

	check_fill(x, (size_t)rows * cols, fill);
	check_product(&t, NULL, rows);
	free((void *)t.data);
}

/* Rows and outputs that fill no tile, and more than one; as many columns as a type's
 * blocks allow, and odd ones where it has none; 64 and no more divides the last, whose
 * products go straight into registers where any do. */
static void test_shapes(void **state)
{
	static const uint32_t shapes[][2] = { { 33, 5 }, { 64, 32 }, { 65, 144 }, { 128, 129 },
	                                      { 200, 272 } };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(types); i++) {
		const uint32_t block = gp_type_info(types[i])->block_elems;
		const uint32_t cols[] = { block == 1 ? 7 : block, block == 1 ? 100 : block * 3,
		                          block == 256 ? 1280 : 352, block == 256 ? 512 : 320 };

		/* Every other of them, to save time. */
		for (size_t s = 0; s < GP_ARRAY_LEN(shapes); s++)
			for (size_t c = (s + i) % 2; c < GP_ARRAY_LEN(cols); c += 2)
				check_shape(types[i], shapes[s][0], cols[c], shapes[s][1],
				            FILL_RANDOM);
	}
}

/* Elements long enough that they are cut into parts. */
static void test_long_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(types); i++)
		check_shape(types[i], 70, LONG_COLS, 144, FILL_RANDOM);
}

/* As many rows as sequences that are decoded together, up to 32; elements that are no
 * multiple of what a subgroup takes at once, and enough of them to be cut into parts. */
static void test_some_rows(void **state)
{
	static const uint32_t rows[] = { 5, 8, 13, 32 };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(types); i++)
		for (size_t r = 0; r < GP_ARRAY_LEN(rows); r++) {
			const uint32_t block = gp_type_info(types[i])->block_elems;

			check_shape(types[i], rows[r], block == 256 ? 256 : 320, 272, FILL_RANDOM);
			check_shape(types[i], rows[r], MOST_COLS, 44, FILL_RANDOM);
		}
}

/* Gemma 3's residual stream leaves the range of halves. */
static void test_large_activations(void **state)
{
	static const enum check_fill fills[] = { FILL_HUGE, FILL_MIXED, FILL_TINY, FILL_ZERO };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(types); i++)
		for (size_t f = 0; f < GP_ARRAY_LEN(fills); f++)
			for (uint32_t rows = 20; rows <= 40; rows += 20)
				check_shape(types[i], rows, 512, 48, fills[f]);
}

/* What stands beside a large activation keeps its precision. */
static void test_outlier(void **state)
{
	struct gp_tensor t = random_matrix(GP_TYPE_F16, 64, 96);

	(void)state;
	for (uint32_t i = 0; i < 64; i++)
		((uint16_t *)(uintptr_t)t.data)[i * 96 + 17] = 0;
	check_fill(x, (size_t)48 * 96, FILL_RANDOM);
	for (uint32_t m = 0; m < 48; m++)
		x[m * 96 + 17] = 1e6f;
	check_product(&t, NULL, 48);
	free((void *)(uintptr_t)t.data);
}

/* A row's NaN stays in its row. */
static void test_nan(void **state)
{
	struct gp_tensor t = random_matrix(GP_TYPE_Q4_0, 48, 64);
	const struct vk_weight w = product_weight(&product, &t);
	const float *y = (const float *)(void *)product.y.host;

	(void)state;
	check_fill(x, (size_t)40 * 64, FILL_RANDOM);
	x[3 * 64 + 5] = NAN;
	x[7 * 64 + 9] = INFINITY;
	for (uint32_t rows = 20; rows <= 40; rows += 20) {
		run(&w, 0, rows);
		for (uint32_t i = 0; i < rows * 48; i++)
			assert_int_equal(!isfinite(y[i]), i / 48 == 3 || i / 48 == 7);
	}
	free((void *)t.data);
}

/* Rows out of turn, as the head takes them. */
static void test_picked(void **state)
{
	uint32_t picked[50];

	(void)state;
	for (uint32_t i = 0; i < 50; i++)
		picked[i] = (i * 37 + 11) % 90;
	for (size_t i = 0; i < GP_ARRAY_LEN(types); i++) {
		struct gp_tensor t = random_matrix(types[i], 80, 256);

		check_fill(x, (size_t)90 * 256, FILL_RANDOM);
		check_product(&t, picked, 50);
		check_product(&t, picked, 19);
		free((void *)t.data);
	}
}

static int open_product(void **state)
{
	(void)state;
	check_seed();
	product_open(&product, MOST_ROWS, MOST_COLS, MOST_OUTPUTS);
	unpacked = malloc((size_t)MOST_COLS * MOST_OUTPUTS * sizeof *unpacked);
	const uint32_t *m = product.d->features.matrix;
	if (product.d->many.tiling[0].rows)
		printf("# matrix units: %u x %u x %u\n", m[0], m[1], m[2]);
	x = calloc((size_t)MOST_ROWS * MOST_COLS, sizeof *x);
	return unpacked && x ? 0 : -1;
}

static int close_product(void **state)
{
	(void)state;
	product_close(&product);
	free(unpacked);
	free(x);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shapes), cmocka_unit_test(test_some_rows),
		cmocka_unit_test(test_long_rows),
		cmocka_unit_test(test_large_activations), cmocka_unit_test(test_outlier),
		cmocka_unit_test(test_nan), cmocka_unit_test(test_picked),
	};

	return cmocka_run_group_tests(tests, open_product, close_product);
}

/* NPU stages on the simulated device against the reference's outputs: prompts go through
 * its tile kernels, instruction streams and staging, decoding stays on the host. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "kernels/kernels.h"
#include "tests/common/model_helpers.h"
#include "tests/common/process.h"
#include "tests/common/sanitizers.h"
#include "tests/common/tiny_model.h"
#include "workers/npu/array.h"
#include "workers/npu/npu_device.h"

#define FEW 4u                 /* chunks of the perplexity, unless GP_CHUNKS says otherwise */

static const struct chain_options on_npu = { .device = &gp_npu_device, .npu = "sim", .threads = 2 };

/* ---- bf16 -------------------------------------------------------------------------- */
/* Inputs of products are rounded to bfloat16 on their way in, by 2^-9 at most; these logits
 * come 0.033 off. */
#define BF16_TOLERANCE 6e-2

static void test_random_text(void **state)
{
	struct golden *g = golden_open(RANDOM_TEXT "/golden.safetensors");
	const uint32_t *ids = golden_ids(g, "b.input_ids", 300);
	const float *want = golden_f32(g, "b.logits", 300 * 512);
	struct chain_options o = on_npu;

	(void)state;
	float *host = file_logits(RANDOM_TEXT, ids, 300, 0, &(struct chain_options){ .threads = 2 });
	float *one = file_logits(RANDOM_TEXT, ids, 300, 0, &o);
	assert_true(memcmp(host, one, 300 * 512 * sizeof *one) != 0); /* it was there */
	o.n_stages = 3;
	o.memory_bytes = 1 << 30; /* pinned */
	float *pinned = file_logits(RANDOM_TEXT, ids, 300, 0, &o);
	assert_memory_equal(one, pinned, 300 * 512 * sizeof *one);
	assert_near("pinned, three stages", want, pinned, 300 * 512, BF16_TOLERANCE);
	assert_near("steps of 37", want, file_logits(RANDOM_TEXT, ids, 300, 37, &on_npu), 300 * 512,
	            BF16_TOLERANCE);
	assert_near("one step", want, one, 300 * 512, BF16_TOLERANCE);
	free(host);
	golden_close(g);
}

static void test_random_text_greedy(void **state)
{
	(void)state;
	check_random_text_greedy(&on_npu);
}

static void test_mini_greedy(void **state)
{
	(void)state;
	NOT_UNDER_SANITIZERS();
	check_mini_greedy(&on_npu);
}

/* Products that are cut by their outputs, because staging is small, or by their rows,
 * because there are more than one command takes, give the same bits. */
static void test_cut_products(void **state)
{
	(void)state;
	NOT_UNDER_SANITIZERS();
	struct golden *g = golden_open(MINI_GOLDEN);
	const uint32_t *ids = golden_ids(g, "valid.ids", CHUNKS * CHUNK);
	const size_t bytes = (size_t)300 * 4096 * sizeof(float);
	struct chain_options o = on_npu;

	float *whole = file_logits(MINI, ids, 300, 0, &o);
	setenv("GP_NPU_STAGING", "524288", 1); /* each product takes two commands: gate alone */
	float *cut = file_logits(MINI, ids, 300, 0, &o);
	assert_true(memcmp(whole, cut, bytes) != 0); /* two products more are the host's */
	o.memory_bytes = 600000;               /* pinned: nothing */
	float *again = file_logits(MINI, ids, 300, 0, &o);
	assert_memory_equal(cut, again, bytes);
	free(again);
	unsetenv("GP_NPU_STAGING");
	o = on_npu;
	o.max_rows = 3000;                     /* three commands: gate alone */
	again = file_logits(MINI, ids, 300, 0, &o);
	assert_memory_equal(cut, again, bytes);
	free(again);
	again = file_logits(MINI, ids, 1100, 0, &o);
	setenv("GP_NPU_STAGING", "524288", 1);
	float *steps = file_logits(MINI, ids, 1100, 300, &on_npu);
	unsetenv("GP_NPU_STAGING");
	assert_memory_equal(steps, again, (size_t)1100 * 4096 * sizeof(float));
	free(steps);
	free(whole);
	free(cut);
	free(again);
	golden_close(g);
}

/* Pinned weights are cut only above 65536 outputs: here each product is, after it was laid
 * out. The parts start inside of the pinned buffer. */
static void test_pinned_parts(void **state)
{
	struct gp_config shape = tiny_config();
	uint32_t ids[20], cut = 0;
	struct chain_options o = on_npu;
	char path[64];
	struct chain c;

	(void)state;
	shape.ffn = 600; /* three blocks of 256, the last not whole */
	random_model_create(path, &shape, 7);
	for (uint32_t i = 0; i < 20; i++)
		ids[i] = i * 3 % shape.vocab;
	o.memory_bytes = 1 << 30;
	float *whole = file_logits(path, ids, 20, 0, &o), *parts = floats((size_t)20 * shape.vocab);
	chain_open(&c, path, &o);
	struct npu_device *d = c.dev[0];
	for (size_t i = 0; i < d->n_weights; i++)
		if (d->weight[i] && d->weight[i]->blocks > 1) {
			assert_non_null(d->weight[i]->pinned.buffer);
			d->weight[i]->part_blocks = 1;
			cut++;
		}
	assert_true(cut >= 2);
	chain_feed(&c, 0, ids, 20, 0, parts);
	assert_memory_equal(whole, parts, (size_t)20 * shape.vocab * sizeof *parts);
	chain_close(&c);
	random_model_remove(path);
	free(whole);
	free(parts);
}

/* Twenty times what is predicted, and 2 s: a long command gets long. */
static void test_deadline(void **state)
{
	struct gp_config shape = tiny_config();
	struct chain_options o = on_npu;
	struct gp_npu_dispatch x = { .form = GP_AIE_GEMM_BF16, .row_blocks = 1 };
	struct gp_npu_count count;
	struct gp_npu_result r;
	char path[64];
	struct chain c;

	(void)state;
	random_model_create(path, &shape, 7);
	o.memory_bytes = 1 << 30;
	chain_open(&c, path, &o);
	struct npu_device *d = c.dev[0];
	const struct npu_weight *w = NULL;
	for (size_t i = 0; i < d->n_weights && !w; i++)
		w = d->weight[i];
	assert_non_null(w);
	x.out_blocks = w->blocks;
	x.slices = w->slices;
	gp_npu_array_predict(&x, &count);
	const uint64_t least = gp_now_ns() + 2000000000u + 20 * count.ns;
	assert_int_equal(npu_submit(d, &x, &w->pinned, &d->x, &d->y), 0);
	const uint64_t most = gp_now_ns() + 2000000000u + 20 * count.ns;
	assert_true(d->deadline_ns >= least);
	assert_true(d->deadline_ns <= most);
	d->deadline_ns = 0; /* nothing of it is in place: it hangs */
	assert_int_equal(npu_wait(d, &r), -ETIMEDOUT);
	chain_close(&c);
	random_model_remove(path);
}

/* ---- int4 weights, int8 activations ------------------------------------------------- */
static void test_int4_perplexity(void **state)
{
	(void)state;
	NOT_UNDER_SANITIZERS();
	struct golden *g = golden_open(MINI_GOLDEN);
	const uint32_t *ids = golden_ids(g, "valid.ids", CHUNKS * CHUNK);
	char folder[] = "/tmp/gp-npu-XXXXXX", path[64];
	const uint32_t n = chunks_wanted(FEW);
	struct result r;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof path, "%s/mini.gguf", folder);
	RUN(&r, program("convert"), MINI, "-o", path, "--type", "q4_0");
	assert_int_equal(r.status, 0);
	result_free(&r);
	const double host = exp(chunks_mean_nll(path, ids, n,
	                                        &(struct chain_options){ .threads = 2 }));
	const double npu = exp(chunks_mean_nll(path, ids, n, &on_npu));
	print_message("perplexity of %u chunks in Q4_0: %.4f on the host, %.4f on the simulated NPU\n",
	              n, host, npu);
	assert_true(npu != host);
	assert_true(fabs(npu / host - 1) <= 0.005);
	unlink(path);
	rmdir(folder);
	golden_close(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_text), cmocka_unit_test(test_random_text_greedy),
		cmocka_unit_test(test_mini_greedy), cmocka_unit_test(test_cut_products),
		cmocka_unit_test(test_pinned_parts), cmocka_unit_test(test_deadline),
		cmocka_unit_test(test_int4_perplexity),
	};

	setenv("GP_NPU_USE", "always", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

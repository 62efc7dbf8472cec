/* Vulkan stages against the reference's outputs and the CPU's, on whatever device
 * there is: Mesa's lavapipe needs no hardware. */
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
#include "tests/common/model_helpers.h"
#include "tests/common/process.h"
#include "tests/common/vulkan_driver.h"

#define MANY 2e-2              /* steps of over 32 rows may go through tiles of halves */

static void test_random_text(void **state)
{
	struct golden *g = golden_open(RANDOM_TEXT "/golden.safetensors");
	const uint32_t *ids = golden_ids(g, "b.input_ids", 300);
	const float *want = golden_f32(g, "b.logits", 300 * 512);
	const struct {
		const char *name;
		uint32_t chunk;
		struct chain_options o;
		double tolerance;
	} cases[] = {
		{ "one step", 0, { .device = &gp_vulkan_device }, MANY },
		{ "three stages", 0, { .device = &gp_vulkan_device, .n_stages = 3 }, MANY },
		{ "steps of 7", 7, { .device = &gp_vulkan_device }, 2e-3 },
		{ "F16 keys and values", 0, { .device = &gp_vulkan_device, .kv_type = GP_TYPE_F16 },
		  2e-2 },
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++)
		assert_near(cases[i].name, want, file_logits(RANDOM_TEXT, ids, 300, cases[i].chunk,
		                                           &cases[i].o), 300 * 512,
		            cases[i].tolerance);
	golden_close(g);
}

static void test_mini(void **state)
{
	struct golden *g = golden_open(MINI_GOLDEN);
	const float *want = golden_f32(g, "chunk0.last_logits", 64 * 4096);
	const uint32_t *ids = golden_ids(g, "valid.ids", CHUNKS * CHUNK);
	uint32_t input[CHUNK] = { 2 };

	(void)state;
	memcpy(input + 1, ids, (CHUNK - 1) * sizeof(*input));
	float *got = file_logits(MINI, input, CHUNK, 0,
	                       &(struct chain_options){ .device = &gp_vulkan_device });
	memmove(got, got + (size_t)(CHUNK - 64) * 4096, (size_t)64 * 4096 * sizeof(*got));
	assert_near("bundled model", want, got, 64 * 4096, MANY);
	golden_close(g);
}

/* Each type that has a shader of its own, and one that is converted at load. */
static void test_types(void **state)
{
	static const char *const types[] = { "f32", "f16", "q8_0", "q4_0", "q4_k", "q6_k",
	                                     "q3_k", "q5_k", "iq4_nl", "iq4_xs" };
	struct golden *g = golden_open(MINI_GOLDEN);
	const uint32_t *ids = golden_ids(g, "valid.ids", CHUNKS * CHUNK);
	char folder[] = "/tmp/gp-vulkan.XXXXXX", path[64], whole[64];
	struct result r;

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof path, "%s/small.gguf", folder);
	snprintf(whole, sizeof whole, "%s/whole.gguf", folder);
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++) {
		RUN(&r, program("convert"), "-q", MINI, "-o", path, "--type", types[t]);
		assert_int_equal(r.status, 0);
		result_free(&r);
		RUN(&r, program("convert"), "-q", path, "-o", whole, "--type", "f32");
		assert_int_equal(r.status, 0);
		result_free(&r);
		/* In float32 the CPU's products are those of the same weights. */
		float *want = file_logits(whole, ids, 64, 0, &(struct chain_options){ 0 });
		float *got = file_logits(path, ids, 64, 0,
		                       &(struct chain_options){ .device = &gp_vulkan_device });
		/* Scales and minima of 4-bit blocks become halves there. */
		assert_near(types[t], want, got, 64 * 4096, 5e-2);
		free(want);
		unlink(path);
		unlink(whole);
	}
	rmdir(folder);
	golden_close(g);
}

/* Rows of two sequences in turn, then a sequence that begins as a copy: as from the
 * CPU. */
static void mixed_rows(const struct gp_worker_device *device, const uint32_t *ids, float *logits)
{
	struct gp_stage_row rows[80];
	struct chain c;

	for (uint32_t i = 0; i < 80; i++)
		rows[i] = (struct gp_stage_row){ .seq = i % 2, .pos = i / 2, .token = ids[i],
		                                 .wants_logits = true };
	chain_open(&c, RANDOM_TEXT, &(struct chain_options){ .device = device });
	chain_step(&c, rows, 80, logits);
	assert_int_equal(gp_kv_copy(gp_stage_kv(c.stage[0]), 2, 1, 33), 0);
	chain_feed(&c, 2, ids + 80, 40, 0, logits + (size_t)80 * 512);
	chain_close(&c);
}

static void test_sequences(void **state)
{
	struct golden *g = golden_open(RANDOM_TEXT "/golden.safetensors");
	const uint32_t *ids = golden_ids(g, "b.input_ids", 300);
	float *want = floats((size_t)120 * 512), *got = floats((size_t)120 * 512);

	(void)state;
	mixed_rows(&gp_cpu_device, ids, want);
	mixed_rows(&gp_vulkan_device, ids, got);
	assert_near("sequences", want, got, (size_t)120 * 512, MANY);
	free(want);
	golden_close(g);
}

static struct gp_device_ops cancelling;
static uint32_t norms_left, steps_left;

static int norm_then_cancel(void *dev, gp_handle w, gp_handle next)
{
	const int rc = gp_vulkan_device.ops->add_norm(dev, w, next);

	if (norms_left && --norms_left == 0)
		gp_vulkan_device.ops->cancel(dev);
	return rc;
}

static int begin_then_cancel(void *dev, const struct gp_batch *b, const float *hidden_in)
{
	const int rc = gp_vulkan_device.ops->begin_step(dev, b, hidden_in);

	if (steps_left && --steps_left == 0)
		gp_vulkan_device.ops->cancel(dev);
	return rc;
}

/* A step that is cancelled, while it is recorded or once it was, leaves nothing that the
 * next would trip over. */
static void test_cancel(void **state)
{
	struct gp_worker_device device = gp_vulkan_device;
	/* Of a kind that is not recorded ahead. */
	struct gp_stage_row rows[] = { { .wants_logits = true }, { .pos = 1, .wants_logits = true } };
	float first[2 * 512], again[2 * 512];
	struct chain c;

	(void)state;
	cancelling = *gp_vulkan_device.ops;
	cancelling.add_norm = norm_then_cancel;
	cancelling.begin_step = begin_then_cancel;
	device.ops = &cancelling;
	chain_open(&c, RANDOM_TEXT, &(struct chain_options){ .device = &device });
	norms_left = 2;
	assert_int_equal(gp_stage_run(c.stage[0], rows, 2, NULL, first), -ECANCELED);
	assert_int_equal(norms_left, 0);
	assert_int_equal(gp_kv_drop(gp_stage_kv(c.stage[0]), 0), 0);
	assert_int_equal(gp_stage_run(c.stage[0], rows, 2, NULL, first), 0);
	rows[0].seq = rows[1].seq = 1;
	steps_left = 1;
	assert_int_equal(gp_stage_run(c.stage[0], rows, 2, NULL, again), -ECANCELED);
	assert_int_equal(gp_kv_drop(gp_stage_kv(c.stage[0]), 1), 0);
	assert_int_equal(gp_stage_run(c.stage[0], rows, 2, NULL, again), 0);
	assert_memory_equal(again, first, sizeof first);
	chain_close(&c);
}

static void test_numerics(void **state)
{
	(void)state;
	check_numerics_find(&gp_vulkan_device);
}

/* A pipeline of both devices, whole programs: greedy text as from the CPU alone. */
static void test_mixed_pipeline(void **state)
{
	static const char *const stages[] = { "cpu:0-5", "vulkan:0-5", "cpu:0-1,vulkan:2-5",
	                                      "vulkan:0-2,cpu:3-5", "vulkan:0-2,vulkan:3-5" };
	char *want = NULL;
	struct result r;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(stages); i++) {
		RUN(&r, program("run"), "-m", MINI, "-p", "In the beginning", "-n", "40", "-q",
		    "--stages", stages[i]);
		if (r.status)
			fail_msg("%s: %s", stages[i], r.err);
		if (!want) {
			want = r.out;
			r.out = NULL;
		} else {
			assert_string_equal(r.out, want);
		}
		result_free(&r);
	}
	free(want);
}

/* Of what a stage has no shader for, it says so before it loads. */
static void test_refused(void **state)
{
	struct result r;

	(void)state;
	setenv("VK_ICD_FILENAMES", "/nonexistent.json", 1);
	setenv("VK_DRIVER_FILES", "/nonexistent.json", 1);
	RUN(&r, program("run"), "-m", MINI, "-p", "x", "--stages", "vulkan:0-5");
	unsetenv("VK_ICD_FILENAMES");
	unsetenv("VK_DRIVER_FILES");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "mesa-vulkan-drivers"));
	result_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_text), cmocka_unit_test(test_mini),
		cmocka_unit_test(test_types), cmocka_unit_test(test_sequences),
		cmocka_unit_test(test_cancel), cmocka_unit_test(test_numerics),
		cmocka_unit_test(test_mixed_pipeline),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, keep_driver, let_driver_go);
}

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

#define CHUNK 512u
#define CHUNKS 200u

static float *floats(size_t n)
{
	float *x = malloc(n * sizeof(*x));

	assert_non_null(x);
	memset(x, 0xff, n * sizeof(*x)); /* NaN until written */
	return x;
}

/* Logits of n ids as one sequence, in steps of chunk rows. */
static float *logits_of(const char *path, const uint32_t *ids, uint32_t n, uint32_t chunk,
                        const struct chain_options *o)
{
	struct chain c;
	float *got;

	chain_open(&c, path, o);
	got = floats((size_t)n * c.config->vocab);
	chain_feed(&c, 0, ids, n, chunk, got);
	chain_close(&c);
	return got;
}

static void assert_near(const char *what, const float *want, float *got, size_t n,
                        double tolerance)
{
	const double error = largest_difference(want, got, n);

	print_message("%s: largest error of a logit %.2g\n", what, error);
	if (!(error <= tolerance))
		fail_msg("%s: %.4g apart, at most %.4g", what, error, tolerance);
	free(got);
}

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
		{ "one step", 0, { .device = &gp_vulkan_device }, 2e-3 },
		{ "three stages", 0, { .device = &gp_vulkan_device, .n_stages = 3 }, 2e-3 },
		{ "steps of 7", 7, { .device = &gp_vulkan_device }, 2e-3 },
		{ "F16 keys and values", 0, { .device = &gp_vulkan_device, .kv_type = GP_TYPE_F16 },
		  2e-2 },
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++)
		assert_near(cases[i].name, want, logits_of(RANDOM_TEXT, ids, 300, cases[i].chunk,
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
	float *got = logits_of(MINI, input, CHUNK, 0,
	                       &(struct chain_options){ .device = &gp_vulkan_device });
	memmove(got, got + (size_t)(CHUNK - 64) * 4096, (size_t)64 * 4096 * sizeof(*got));
	assert_near("bundled model", want, got, 64 * 4096, 2e-3);
	golden_close(g);
}

/* Each type that has a shader of its own, and one that is converted at load. */
static void test_types(void **state)
{
	static const char *const types[] = { "f32", "f16", "q8_0", "q4_0", "q4_k", "q6_k" };
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
		float *want = logits_of(whole, ids, 64, 0, &(struct chain_options){ 0 });
		float *got = logits_of(path, ids, 64, 0,
		                       &(struct chain_options){ .device = &gp_vulkan_device });
		assert_near(types[t], want, got, 64 * 4096, 2e-3);
		free(want);
		unlink(path);
		unlink(whole);
	}
	rmdir(folder);
	golden_close(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_text), cmocka_unit_test(test_mini),
		cmocka_unit_test(test_types),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

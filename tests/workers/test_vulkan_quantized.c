/* Perplexity of quantised weights on Vulkan, by the products of few rows (activations
 * in 8 bits where the device has integer dot products) and by those of many, against
 * the same weights in float32 on the CPU: within 0.2%. 8-bit activations are allowed
 * twice that here: over 3,066 tokens they are 0.06 - 0.1% off, over the few hundred that
 * a test has time for single tokens show. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/common/process.h"
#include "tests/common/tiny_model.h"

#define TEXT "tests/data/gemma3-mini-valid.txt"
#define TEXT_BYTES 3000u
#define TOLERANCE 0.002

static void cut_text(const char *path)
{
	size_t n;
	uint8_t *text = tiny_load(TEXT, &n);

	assert_true(n > TEXT_BYTES);
	tiny_store(path, text, TEXT_BYTES);
	free(text);
}

static double perplexity(const char *model, const char *text, const char *stages,
                         const char *mask, const char *rows)
{
	struct result r;
	json_t *json;

	RUN(&r, program("perplexity"), "-m", model, "-f", text, "--stages", stages, "--cpu-mask",
	    mask, "--max-rows", rows, "--json");
	if (r.status)
		fail_msg("%s on %s: %s", model, stages, r.err);
	json = json_loads(r.out, 0, NULL);
	const double p = json_number_value(json_object_get(json, "perplexity"));

	json_decref(json);
	result_free(&r);
	return p;
}

static void perplexity_is_that_of_the_weights(void **state)
{
	static const struct {
		const char *type, *rows;
		double tolerance;
	} cases[] = {
		{ "q4_0", "8", 2 * TOLERANCE }, { "q4_0", "512", TOLERANCE },
		{ "q8_0", "8", 2 * TOLERANCE }, { "q4_k", "8", 2 * TOLERANCE },
		{ "q6_k", "8", 2 * TOLERANCE }, { "q6_k", "512", TOLERANCE },
	};
	char folder[] = "/tmp/gp-quantized.XXXXXX", model[96], text[96];
	struct result r;

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(model, sizeof model, "%s/model.gguf", folder);
	snprintf(text, sizeof text, "%s/text", folder);
	cut_text(text);
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++) {
		RUN(&r, program("convert"), "-q", MINI, "-o", model, "--type", cases[i].type);
		assert_int_equal(r.status, 0);
		result_free(&r);
		const double want = perplexity(model, text, "cpu:0-5", "scalar", "512");
		const double got = perplexity(model, text, "vulkan:0-5", "avx512bf16",
		                              cases[i].rows);

		print_message("%s, %s rows: %.5f, of its weights in float32 %.5f\n", cases[i].type,
		              cases[i].rows, got, want);
		unlink(model);
		if (!(fabs(got / want - 1) <= cases[i].tolerance))
			fail_msg("%s, %s rows: %.3f%% apart", cases[i].type, cases[i].rows,
			         100 * (got / want - 1));
	}
	unlink(text);
	rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(perplexity_is_that_of_the_weights),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Perplexity of quantised weights on Vulkan, by the products of few rows (activations
 * in 8 bits where the device has integer dot products) and by those of many, against
 * the same weights in float32 on the CPU: within 0.2%. */
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

#define TEXT "tests/data/gemma3-mini-valid.txt"
#define TEXT_BYTES 12000u      /* 3,066 tokens: of fewer the noise of single ones is seen */
#define TOLERANCE 0.002

static void cut_text(const char *path)
{
	static char text[TEXT_BYTES];
	FILE *from = fopen(TEXT, "r"), *to = fopen(path, "w");

	assert_true(from && to);
	assert_int_equal(fread(text, 1, sizeof text, from), sizeof text);
	assert_int_equal(fwrite(text, 1, sizeof text, to), sizeof text);
	fclose(from);
	assert_int_equal(fclose(to), 0);
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
	static const char *const types[] = { "q4_0", "q8_0", "q4_k", "q6_k" };
	static const char *const rows[] = { "8", "512" };
	char folder[] = "/tmp/gp-quantized.XXXXXX", model[96], text[96];
	struct result r;

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(model, sizeof model, "%s/model.gguf", folder);
	snprintf(text, sizeof text, "%s/text", folder);
	cut_text(text);
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++) {
		RUN(&r, program("convert"), "-q", MINI, "-o", model, "--type", types[t]);
		assert_int_equal(r.status, 0);
		result_free(&r);
		const double want = perplexity(model, text, "cpu:0-5", "scalar", "512");

		for (size_t i = 0; i < GP_ARRAY_LEN(rows); i++) {
			const double got = perplexity(model, text, "vulkan:0-5", "avx512bf16", rows[i]);

			print_message("%s, %s rows: %.5f, of its weights in float32 %.5f\n", types[t],
			              rows[i], got, want);
			if (!(fabs(got / want - 1) <= TOLERANCE))
				fail_msg("%s, %s rows: %.3f%% apart", types[t], rows[i],
				         100 * (got / want - 1));
		}
		unlink(model);
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

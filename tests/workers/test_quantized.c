/* Integer products against the same quantised weights in float32: perplexity of
 * the bundled model within 0.1%.
 * GP_CHUNKS=n limits the chunks, to four at least. */
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

#define SOME_CHUNKS 24u
#define FEWEST_CHUNKS 4u       /* of less the noise of single tokens is seen */
#define TOLERANCE 0.001

static void convert(const char *from, const char *to, const char *type)
{
	struct result r;

	RUN(&r, program("convert"), "-q", from, "-o", to, "--type", type);
	if (r.status)
		fail_msg("convert to %s: %s", type, r.err);
	result_free(&r);
}

static uint32_t some_chunks(void)
{
	const uint32_t n = chunks_wanted(SOME_CHUNKS);

	return n < FEWEST_CHUNKS ? FEWEST_CHUNKS : n < SOME_CHUNKS ? n : SOME_CHUNKS;
}

static void perplexity_is_that_of_the_weights(void **state)
{
	static const char *const types[] = { "q4_0", "q8_0", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs" };
	const struct chain_options o = { .threads = 2 };
	struct golden *g = golden_open(MINI_GOLDEN);
	const uint32_t *ids = golden_ids(g, "valid.ids", CHUNKS * CHUNK);
	const uint32_t n = some_chunks();
	/* Few tokens: their noise does not average out. */
	const double tolerance = n < SOME_CHUNKS ? 4 * TOLERANCE : TOLERANCE;
	char folder[] = "/tmp/gp-quantized.XXXXXX", small[96], whole[96];

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(small, sizeof(small), "%s/small.gguf", folder);
	snprintf(whole, sizeof(whole), "%s/f32.gguf", folder);
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++) {
		convert(MINI, small, types[t]);
		convert(small, whole, "f32");
		const double got = chunks_mean_nll(small, ids, n, &o);
		const double want = chunks_mean_nll(whole, ids, n, &o);

		print_message("%s: perplexity %.5f, of its weights in float32 %.5f\n", types[t],
		              exp(got), exp(want));
		unlink(small);
		unlink(whole);
		if (!(fabs(exp(got - want) - 1) <= tolerance))
			fail_msg("%s: %.3f%% apart", types[t], 100 * (exp(got - want) - 1));
	}
	rmdir(folder);
	golden_close(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(perplexity_is_that_of_the_weights),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What a plan chooses by itself. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "coordinator/coordinator.h"
#include "tests/common/model_helpers.h"

static uint32_t prefixes_of(const char *path, uint32_t wanted, enum gp_type kv_type)
{
	const struct gp_plan_request r = { .prefixes = wanted, .kv_type = (int)kv_type, .threads = 1 };
	struct gp_model *m;
	struct gp_plan p;

	assert_int_equal(gp_model_open(&m, path), 0);
	assert_int_equal(gp_plan_make(&p, &r, m), 0);
	gp_model_close(m);
	return p.prefixes;
}

/* A window of 8,064 positions and a step behind it are all 8,192; of six layers with keys and
 * values of 4,096 numbers, 805 MB in halves. */
static void prefixes_fit_3_gib(void **state)
{
	static const struct gp_config wide = {
		.n_layers = 7, .hidden = 32, .n_heads = 16, .n_kv_heads = 16, .head_dim = 256,
		.ffn = 32, .vocab = 64, .window = 8064, .context = 8192, .is_global = { [6] = true },
		.rope_base_local = 10000, .rope_base_global = 1000000, .rope_scale_global = 1,
		.attn_scale = 0.0625f, .rms_eps = 1e-6f, .norm_offset = 1, .bos = 2, .eos = 1,
	};
	char path[64];

	(void)state;
	assert_int_equal(prefixes_of(MINI, GP_PREFIXES_AUTO, GP_TYPE_F16), 16);
	assert_int_equal(prefixes_of(MINI, 0, GP_TYPE_F16), 0);
	random_model_create(path, &wide, 3);
	assert_int_equal(prefixes_of(path, GP_PREFIXES_AUTO, GP_TYPE_F16), 4);
	assert_int_equal(prefixes_of(path, GP_PREFIXES_AUTO, GP_TYPE_F32), 2);
	assert_int_equal(prefixes_of(path, GP_PREFIXES_AUTO, GP_TYPE_Q8_0), 7);
	assert_int_equal(prefixes_of(path, 40, GP_TYPE_F32), 40);
	random_model_remove(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(prefixes_fit_3_gib) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Models with one wrong weight, and what --check-numerics says of them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "tests/common/model_helpers.h"

static const struct gp_config config = {
	.n_layers = 3, .hidden = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32, .ffn = 96,
	.vocab = 160, .window = 16, .context = 4096, .is_global = { [1] = true },
	.rope_base_local = 10000, .rope_base_global = 1000000, .rope_scale_global = 8,
	.attn_scale = 0.2f, .rms_eps = 1e-6f, .norm_offset = 1, .bos = 2, .eos = 1,
};

static int run_model(const struct gp_worker_device *device, const char *path, bool check)
{
	const struct gp_stage_row rows[] = {
		{ .token = 3 }, { .pos = 1, .token = 5, .wants_logits = true } };
	float *logits = floats(config.vocab);
	struct chain chain;

	chain_open(&chain, path, &(struct chain_options){ .device = device,
	                                                  .check_numerics = check });
	const int rc = gp_stage_run(chain.stage[0], rows, GP_ARRAY_LEN(rows), NULL, logits);
	chain_close(&chain);
	free(logits);
	return rc;
}

void check_numerics_find(const struct gp_worker_device *device)
{
	/* The norm that a layer begins with is worked out when the one before ends. fused:
	 * where the device does several operations at once. */
	static const struct {
		const char *tensor;
		uint32_t element;
		float value;
		const char *says, *fused;
	} cases[] = {
		{ "model.embed_tokens.weight", 5 * 64 + 7, NAN,
		  "embed (hidden): NaN at row 1, column 7", NULL },
		{ "model.layers.1.input_layernorm.weight", 9, INFINITY,
		  "layer 1: rms_norm (normed): infinity at row 0, column 9",
		  "layer 0: add_norm (normed): infinity at row 0, column 9" },
		{ "model.layers.0.self_attn.v_proj.weight", 2 * 64 + 1, NAN,
		  "layer 0: matmul (V): NaN at row 0, column 2", NULL },
		{ "model.layers.1.self_attn.q_norm.weight", 3, NAN,
		  "layer 1: qk_rope_append (Q): NaN at row 0",
		  "layer 1: append_attention (heads): NaN at row 0" },
		{ "model.layers.0.self_attn.k_norm.weight", 3, NAN,
		  "layer 0: qk_rope_append (K): NaN at row 0",
		  "layer 0: append_attention (heads): NaN at row 0" },
		{ "model.layers.2.mlp.up_proj.weight", 95 * 64, NAN,
		  "layer 2: matmul (up): NaN at row 0, column 95",
		  "layer 2: gated_matmul (gate): NaN at row 0, column 95" },
		{ "model.layers.2.mlp.down_proj.weight", 96, INFINITY,
		  "layer 2: matmul (branch): ", NULL },
		{ "model.norm.weight", 63, NAN, "rms_norm (normed): NaN at row 0, column 63",
		  "layer 2: add_norm (normed): NaN at row 0, column 63" },
	};
	const bool fuses = device->ops->add_norm != NULL;
	char path[64];

	random_model_create(path, &config, 7);
	assert_int_equal(run_model(device, path, true), 0);
	random_model_remove(path);
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++) {
		random_model_create(path, &config, 7);
		random_model_poison(path, cases[i].tensor, cases[i].element, cases[i].value);
		assert_int_equal(run_model(device, path, false), 0);
		assert_int_equal(run_model(device, path, true), -EDOM);
		random_model_remove(path);
		const char *says = fuses && cases[i].fused ? cases[i].fused : cases[i].says;
		if (strncmp(gp_error(), says, strlen(says)) != 0)
			fail_msg("%s: '%s', not '%s'", cases[i].tensor, gp_error(), says);
	}
}

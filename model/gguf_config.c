/* Gemma 3's configuration as GGUF metadata, both ways, and the tensors' names.
 * The keys are llama.cpp's. */
#include <math.h>
#include <string.h>

#include "base/base.h"
#include "model/internal.h"

#define ARCH "gemma3"

static int missing(const struct gp_gguf *g, const char *key)
{
	return gp_fail(EINVAL, "%s: key '%s' is missing; convert the model again",
		       gp_gguf_path(g), key);
}

static int need_u32(const struct gp_gguf *g, const char *key, uint32_t *out)
{
	int rc = gp_gguf_get_u32(g, key, out);

	return rc == 0 ? missing(g, key) : rc;
}

static int check_architecture(const struct gp_gguf *g)
{
	const char *s = NULL;
	size_t n = 0;
	int rc = gp_gguf_get_string(g, "general.architecture", &s, &n);

	if (rc <= 0)
		return rc < 0 ? rc : missing(g, "general.architecture");
	if (n == strlen(ARCH) && memcmp(s, ARCH, n) == 0)
		return 0;
	return gp_fail(EINVAL, "%s: architecture '%.*s'; gempipe runs Gemma 3 ('" ARCH "') only",
		       gp_gguf_path(g), (int)(n < 64 ? n : 64), s);
}

static int read_sizes(struct gp_config *c, const struct gp_gguf *g)
{
	const struct { const char *key; uint32_t *out; } need[] = {
		{ ARCH ".block_count", &c->n_layers },
		{ ARCH ".embedding_length", &c->hidden },
		{ ARCH ".feed_forward_length", &c->ffn },
		{ ARCH ".attention.head_count", &c->n_heads },
		{ ARCH ".context_length", &c->context },
		{ ARCH ".attention.sliding_window", &c->window },
	};
	uint32_t value_length;
	int rc = 0;

	for (size_t i = 0; i < GP_ARRAY_LEN(need); i++)
		if ((rc = need_u32(g, need[i].key, need[i].out)) < 0)
			return rc;
	c->n_kv_heads = c->n_heads;
	c->head_dim = c->n_heads ? c->hidden / c->n_heads : 0;
	if ((rc = gp_gguf_get_u32(g, ARCH ".attention.head_count_kv", &c->n_kv_heads)) < 0 ||
	    (rc = gp_gguf_get_u32(g, ARCH ".attention.key_length", &c->head_dim)) < 0)
		return rc;
	value_length = c->head_dim;
	if ((rc = gp_gguf_get_u32(g, ARCH ".attention.value_length", &value_length)) < 0)
		return rc;
	if (value_length != c->head_dim)
		return gp_fail(EINVAL, "%s: keys of %u but values of %u elements; Gemma 3 has one "
			       "length for both", gp_gguf_path(g), c->head_dim, value_length);
	if (c->n_layers < 1 || c->n_layers > GP_MAX_LAYERS)
		return gp_fail(EINVAL, "%s: " ARCH ".block_count is %u; gempipe runs 1 to %u layers",
			       gp_gguf_path(g), c->n_layers, GP_MAX_LAYERS);
	return 0;
}

/* linear, or none (also where the key is missing: sizes below 4B). */
static int read_rope_scaling(struct gp_config *c, const struct gp_gguf *g)
{
	const char *s = "linear";
	size_t n = strlen(s);
	int named, rc;

	c->rope_scale_global = 1;
	if ((named = gp_gguf_get_string(g, ARCH ".rope.scaling.type", &s, &n)) < 0)
		return named;
	if (n == 4 && memcmp(s, "none", 4) == 0)
		return 0;
	if (n != 6 || memcmp(s, "linear", 6) != 0)
		return gp_fail(EINVAL, "%s: rope scaling '%.*s'; gempipe knows 'linear' and 'none'",
			       gp_gguf_path(g), (int)(n < 64 ? n : 64), s);
	rc = gp_gguf_get_f32(g, ARCH ".rope.scaling.factor", &c->rope_scale_global);
	return rc == 0 && named ? missing(g, ARCH ".rope.scaling.factor") : rc;
}

static int read_floats(struct gp_config *c, const struct gp_gguf *g)
{
	float softcap = 0;
	int rc = gp_gguf_get_f32(g, ARCH ".attention.layer_norm_rms_epsilon", &c->rms_eps);

	if (rc <= 0)
		return rc < 0 ? rc : missing(g, ARCH ".attention.layer_norm_rms_epsilon");
	c->rope_base_global = 1000000;
	c->rope_base_local = 10000;
	c->attn_scale = gp_config_default_scale(c);
	if ((rc = gp_gguf_get_f32(g, ARCH ".rope.freq_base", &c->rope_base_global)) < 0 ||
	    (rc = gp_gguf_get_f32(g, ARCH ".rope.freq_base_swa", &c->rope_base_local)) < 0 ||
	    (rc = gp_gguf_get_f32(g, ARCH ".attention.scale", &c->attn_scale)) < 0 ||
	    (rc = gp_gguf_get_f32(g, ARCH ".final_logit_softcapping", &softcap)) < 0)
		return rc;
	if (!(softcap == 0))
		return gp_fail(EINVAL, "%s: has logit soft-capping, which Gemma 3 has not",
			       gp_gguf_path(g));
	return read_rope_scaling(c, g);
}

static int read_pattern_array(struct gp_config *c, const struct gp_gguf *g, const char *key)
{
	const struct gp_gguf_value *v = NULL;
	int rc = gp_gguf_get_array(g, key, GP_GGUF_BOOL, &v);

	if (rc < 0)
		return rc;
	if (v->n != c->n_layers)
		return gp_fail(EINVAL, "%s: key '%s' has %llu items for %u layers",
			       gp_gguf_path(g), key, (unsigned long long)v->n, c->n_layers);
	for (uint32_t i = 0; i < c->n_layers; i++)
		c->is_global[i] = v->data[i] == 0;
	return 0;
}

static int read_pattern(struct gp_config *c, const struct gp_gguf *g)
{
	static const char key[] = ARCH ".attention.sliding_window_pattern";
	const struct gp_gguf_value *v = gp_gguf_find(g, key);
	uint32_t period = 6;
	int rc;

	if (v && v->kind == GP_GGUF_ARRAY)
		return read_pattern_array(c, g, key);
	if ((rc = gp_gguf_get_u32(g, key, &period)) < 0)
		return rc;
	if (period == 0)
		return gp_fail(EINVAL, "%s: key '%s' is 0; expected every how many layers one is "
			       "global", gp_gguf_path(g), key);
	for (uint32_t i = 0; i < c->n_layers; i++)
		c->is_global[i] = (i + 1) % period == 0;
	return 0;
}

/* Absent: -1. Beyond INT32_MAX: refused by gp_config_check. */
static int read_id(const struct gp_gguf *g, const char *key, int32_t *id)
{
	uint32_t v = UINT32_MAX;
	int rc = gp_gguf_get_u32(g, key, &v);

	if (rc < 0)
		return rc;
	*id = rc == 0 ? -1 : v > INT32_MAX ? INT32_MAX : (int32_t)v;
	return 0;
}

int gp_config_from_gguf(struct gp_config *c, const struct gp_gguf *g)
{
	int rc;

	*c = (struct gp_config){ 0 };
	if ((rc = check_architecture(g)) < 0 || (rc = read_sizes(c, g)) < 0 ||
	    (rc = read_floats(c, g)) < 0 || (rc = read_pattern(c, g)) < 0 ||
	    (rc = read_id(g, "tokenizer.ggml.bos_token_id", &c->bos)) < 0)
		return rc;
	return read_id(g, "tokenizer.ggml.eos_token_id", &c->eos);
}

/* The period of the global layers, or 0 where there is none. */
static uint32_t pattern_period(const struct gp_config *c)
{
	uint32_t period = 0;

	while (period < c->n_layers && !c->is_global[period])
		period++;
	period++;
	for (uint32_t i = 0; i < c->n_layers; i++)
		if (c->is_global[i] != ((i + 1) % period == 0))
			return 0;
	return period;
}

static int add_pattern(struct gp_gguf_writer *w, const struct gp_config *c)
{
	uint32_t period = pattern_period(c);
	bool all_local = period == c->n_layers + 1;

	if (period == 6 || (all_local && period < 6))
		return 0;
	if (period == 0)
		return gp_fail(EINVAL, "the global layers follow no period; gempipe writes "
			       "GGUF files with one only");
	return gp_gguf_add_u32(w, ARCH ".attention.sliding_window_pattern", period);
}

static int add_floats(struct gp_gguf_writer *w, const struct gp_config *c)
{
	int rc = gp_gguf_add_f32(w, ARCH ".attention.layer_norm_rms_epsilon", c->rms_eps);

	if (rc < 0 || (rc = gp_gguf_add_f32(w, ARCH ".rope.freq_base", c->rope_base_global)) < 0 ||
	    (rc = gp_gguf_add_f32(w, ARCH ".rope.freq_base_swa", c->rope_base_local)) < 0)
		return rc;
	if (c->rope_scale_global > 1 || c->rope_scale_global < 1) {
		rc = gp_gguf_add_string(w, ARCH ".rope.scaling.type", "linear", 6);
		if (rc < 0 || (rc = gp_gguf_add_f32(w, ARCH ".rope.scaling.factor",
						    c->rope_scale_global)) < 0)
			return rc;
	}
	/* Rounding apart, the default needs no key. */
	if (!(fabsf(c->attn_scale - gp_config_default_scale(c)) <= 1e-6f * c->attn_scale))
		rc = gp_gguf_add_f32(w, ARCH ".attention.scale", c->attn_scale);
	return rc;
}

int gp_gguf_add_config(struct gp_gguf_writer *w, const struct gp_config *c, const char *name)
{
	const struct { const char *key; uint32_t v; } sizes[] = {
		{ ARCH ".context_length", c->context },
		{ ARCH ".embedding_length", c->hidden },
		{ ARCH ".block_count", c->n_layers },
		{ ARCH ".feed_forward_length", c->ffn },
		{ ARCH ".attention.head_count", c->n_heads },
		{ ARCH ".attention.head_count_kv", c->n_kv_heads },
		{ ARCH ".attention.key_length", c->head_dim },
		{ ARCH ".attention.value_length", c->head_dim },
		{ ARCH ".attention.sliding_window", c->window },
	};
	int rc;

	if ((rc = gp_gguf_add_string(w, "general.architecture", ARCH, strlen(ARCH))) < 0 ||
	    (rc = gp_gguf_add_string(w, "general.type", "model", 5)) < 0 ||
	    (rc = gp_gguf_add_string(w, "general.name", name, strlen(name))) < 0 ||
	    (rc = gp_gguf_add_u32(w, "general.quantization_version", 2)) < 0)
		return rc;
	for (size_t i = 0; i < GP_ARRAY_LEN(sizes); i++)
		if ((rc = gp_gguf_add_u32(w, sizes[i].key, sizes[i].v)) < 0)
			return rc;
	if ((rc = add_floats(w, c)) < 0)
		return rc;
	return add_pattern(w, c);
}

void gp_gguf_tensor_name(char name[64], enum gp_tensor_id id, uint32_t layer)
{
	static const char *const text[GP_T_COUNT] = {
		[GP_T_TOKEN_EMBD] = "token_embd", [GP_T_OUTPUT_NORM] = "output_norm",
		[GP_T_ATTN_NORM] = "attn_norm", [GP_T_ATTN_Q] = "attn_q",
		[GP_T_ATTN_K] = "attn_k", [GP_T_ATTN_V] = "attn_v",
		[GP_T_ATTN_OUT] = "attn_output", [GP_T_ATTN_Q_NORM] = "attn_q_norm",
		[GP_T_ATTN_K_NORM] = "attn_k_norm",
		[GP_T_POST_ATTN_NORM] = "post_attention_norm", [GP_T_FFN_NORM] = "ffn_norm",
		[GP_T_FFN_GATE] = "ffn_gate", [GP_T_FFN_UP] = "ffn_up",
		[GP_T_FFN_DOWN] = "ffn_down", [GP_T_POST_FFN_NORM] = "post_ffw_norm",
	};

	if (id < GP_T_PER_LAYER)
		snprintf(name, 64, "%s.weight", text[id]);
	else
		snprintf(name, 64, "blk.%u.%s.weight", layer, text[id]);
}

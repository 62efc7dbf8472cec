/* Gemma 3's configuration: its bounds, and Hugging Face's config.json. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/internal.h"

static int check_counts(const struct gp_config *c)
{
	/* A matrix of one row would pass for a norm. */
	const struct { const char *name; uint32_t v, min, max; } range[] = {
		{ "layers", c->n_layers, 1, GP_MAX_LAYERS },
		{ "hidden size", c->hidden, 2, 1u << 16 },
		{ "heads", c->n_heads, 1, 1024 },
		{ "KV heads", c->n_kv_heads, 1, 1024 },
		{ "head size", c->head_dim, 8, 512 },
		{ "feed-forward size", c->ffn, 2, 1u << 20 },
		{ "vocabulary", c->vocab, 2, 1u << 22 },
		{ "window", c->window, 1, 1u << 24 },
		{ "context", c->context, 1, 1u << 24 },
	};

	for (size_t i = 0; i < GP_ARRAY_LEN(range); i++)
		if (range[i].v < range[i].min || range[i].v > range[i].max)
			return gp_fail(EINVAL, "configuration: %s is %u; gempipe runs %u to %u",
				       range[i].name, range[i].v, range[i].min, range[i].max);
	if (c->n_heads % c->n_kv_heads != 0)
		return gp_fail(EINVAL, "configuration: heads (%u) is no multiple of KV heads (%u)",
			       c->n_heads, c->n_kv_heads);
	if (c->head_dim % 8 != 0)
		return gp_fail(EINVAL, "configuration: head size is %u, no multiple of 8",
			       c->head_dim);
	return 0;
}

static int check_id(const char *name, int32_t id, uint32_t vocab)
{
	if (id >= -1 && id < (int32_t)vocab)
		return 0;
	return gp_fail(EINVAL, "configuration: %s is %d, outside the vocabulary of %u", name, id,
		       vocab);
}

int gp_config_check(const struct gp_config *c)
{
	const struct { const char *name; float v, min, max; } range[] = {
		{ "local RoPE base", c->rope_base_local, 1, 1e12f },
		{ "global RoPE base", c->rope_base_global, 1, 1e12f },
		{ "global RoPE factor", c->rope_scale_global, 1e-3f, 1e6f },
		{ "attention scale", c->attn_scale, 1e-6f, 1e3f },
		{ "RMS norm epsilon", c->rms_eps, 0, 1 },
		{ "norm offset", c->norm_offset, 0, 1 },
	};
	int rc = check_counts(c);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < GP_ARRAY_LEN(range); i++)
		/* Written so that NaN is refused. */
		if (!(range[i].v >= range[i].min && range[i].v <= range[i].max))
			return gp_fail(EINVAL, "configuration: %s is %g; gempipe runs %g to %g",
				       range[i].name, (double)range[i].v, (double)range[i].min,
				       (double)range[i].max);
	if ((rc = check_id("BOS id", c->bos, c->vocab)) < 0)
		return rc;
	return check_id("EOS id", c->eos, c->vocab);
}

float gp_config_default_scale(const struct gp_config *c)
{
	float per_head = (float)c->head_dim;

	/* 27B alone differs, and is told by its depth, as llama.cpp does. */
	if (c->n_layers == 62 && c->n_heads)
		per_head = (float)(c->hidden / c->n_heads);
	return 1 / sqrtf(per_head);
}

/* ---- config.json: a null or absent field leaves *out at its default -------- */
struct source {
	const json_t *object;
	const char *path;
};

static const json_t *field(const struct source *s, const char *key)
{
	const json_t *v = json_object_get(s->object, key);

	return json_is_null(v) ? NULL : v;
}

static int wrong(const struct source *s, const char *key, const char *expected)
{
	return gp_fail(EINVAL, "%s: config.json: '%s' is no %s", s->path, key, expected);
}

static int get_u32(const struct source *s, const char *key, uint32_t *out)
{
	const json_t *v = field(s, key);
	json_int_t n = json_integer_value(v);

	if (!v)
		return 0;
	if (!json_is_integer(v) || n < 0 || n > UINT32_MAX)
		return wrong(s, key, "integer from 0 to 4294967295");
	*out = (uint32_t)n;
	return 0;
}

static int get_f32(const struct source *s, const char *key, float *out)
{
	const json_t *v = field(s, key);

	if (!v)
		return 0;
	if (!json_is_number(v))
		return wrong(s, key, "number");
	*out = (float)json_number_value(v);
	return 0;
}

/* An id, or a list of which the first counts. */
static int get_id(const struct source *s, const char *key, int32_t *out)
{
	const json_t *v = field(s, key);

	if (json_is_array(v))
		v = json_array_get(v, 0);
	if (!v)
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
		return wrong(s, key, "token id");
	*out = (int32_t)json_integer_value(v);
	return 0;
}

static int get_ids(struct gp_config *c, const struct source *s)
{
	int rc;

	if (!s->object)
		return 0;
	rc = get_id(s, "bos_token_id", &c->bos);
	return rc < 0 ? rc : get_id(s, "eos_token_id", &c->eos);
}

static int get_sizes(struct gp_config *c, const struct source *s, float *query_scalar)
{
	const struct { const char *key; uint32_t *out; } field_of[] = {
		{ "vocab_size", &c->vocab }, { "hidden_size", &c->hidden },
		{ "intermediate_size", &c->ffn }, { "num_hidden_layers", &c->n_layers },
		{ "num_attention_heads", &c->n_heads },
		{ "num_key_value_heads", &c->n_kv_heads }, { "head_dim", &c->head_dim },
		{ "max_position_embeddings", &c->context }, { "sliding_window", &c->window },
	};
	int rc;

	for (size_t i = 0; i < GP_ARRAY_LEN(field_of); i++)
		if ((rc = get_u32(s, field_of[i].key, field_of[i].out)) < 0)
			return rc;
	if ((rc = get_f32(s, "rms_norm_eps", &c->rms_eps)) < 0)
		return rc;
	if (c->n_layers < 1 || c->n_layers > GP_MAX_LAYERS)
		return gp_fail(EINVAL, "%s: config.json: num_hidden_layers is %u; gempipe runs 1 to "
			       "%u", s->path, c->n_layers, GP_MAX_LAYERS);
	return get_f32(s, "query_pre_attn_scalar", query_scalar);
}

/* "rope_type" is today's name of what was "type". */
static int get_scaling(const struct source *s, bool may_scale, float *factor)
{
	const json_t *v = field(s, "rope_type") ? field(s, "rope_type") : field(s, "type");
	const char *type = v ? json_string_value(v) : "default";

	if (type && strcmp(type, "default") == 0)
		return 0;
	if (type && may_scale && strcmp(type, "linear") == 0) {
		if (!field(s, "factor"))
			return gp_fail(EINVAL, "%s: config.json: linear RoPE scaling lacks 'factor'; "
				       "fetch the file again", s->path);
		return get_f32(s, "factor", factor);
	}
	return gp_fail(EINVAL, "%s: config.json: RoPE type '%s'; gempipe knows 'default', and "
		       "'linear' on global layers", s->path, type ? type : "(no text)");
}

static int get_rope_of(const struct source *s, const char *kind, bool may_scale, float *base,
		       float *factor)
{
	const struct source rope = { field(s, kind), s->path };
	int rc;

	if (!rope.object)
		return 0;
	if (!json_is_object(rope.object))
		return wrong(s, kind, "object");
	rc = get_f32(&rope, "rope_theta", base);
	return rc < 0 ? rc : get_scaling(&rope, may_scale, factor);
}

/* The old style (rope_theta, rope_scaling, rope_local_base_freq), then the new
 * one (rope_parameters by kind of layer), which wins where both are there. */
static int get_rope(struct gp_config *c, const struct source *s)
{
	const struct source by_kind = { field(s, "rope_parameters"), s->path };
	float *base = &c->rope_base_global, *factor = &c->rope_scale_global, one = 1;
	int rc;

	if ((rc = get_f32(s, "rope_theta", base)) < 0 ||
	    (rc = get_f32(s, "rope_local_base_freq", &c->rope_base_local)) < 0 ||
	    (rc = get_rope_of(s, "rope_scaling", true, base, factor)) < 0)
		return rc;
	if (!by_kind.object)
		return 0;
	if (!field(&by_kind, "full_attention") && !field(&by_kind, "sliding_attention"))
		return get_rope_of(s, "rope_parameters", true, base, factor);
	if ((rc = get_rope_of(&by_kind, "full_attention", true, base, factor)) < 0)
		return rc;
	return get_rope_of(&by_kind, "sliding_attention", false, &c->rope_base_local, &one);
}

static int get_layer_types(struct gp_config *c, const struct source *s, const json_t *types)
{
	if (!json_is_array(types) || json_array_size(types) != c->n_layers)
		return gp_fail(EINVAL, "%s: config.json: 'layer_types' is no list of %u layers",
			       s->path, c->n_layers);
	for (uint32_t i = 0; i < c->n_layers; i++) {
		const char *t = json_string_value(json_array_get(types, i));

		if (!t || (strcmp(t, "full_attention") != 0 && strcmp(t, "sliding_attention") != 0))
			return gp_fail(EINVAL, "%s: config.json: layer %u is of type '%s'; Gemma 3 "
				       "has 'full_attention' and 'sliding_attention'", s->path, i,
				       t ? t : "(no text)");
		c->is_global[i] = t[0] == 'f';
	}
	return 0;
}

static int get_layers(struct gp_config *c, const struct source *s)
{
	const json_t *types = field(s, "layer_types");
	uint32_t period = 6;
	int rc;

	if (types)
		return get_layer_types(c, s, types);
	if ((rc = get_u32(s, "_sliding_window_pattern", &period)) < 0 ||
	    (rc = get_u32(s, "sliding_window_pattern", &period)) < 0)
		return rc;
	if (period == 0)
		return wrong(s, "sliding_window_pattern", "number of layers from 1 on");
	for (uint32_t i = 0; i < c->n_layers; i++)
		c->is_global[i] = (i + 1) % period == 0;
	return 0;
}

/* What other members of the family have and this forward pass has not. */
static int refuse_variants(const struct source *s)
{
	static const char *const off[] = { "attention_bias", "use_bidirectional_attention" };
	static const char *const none[] = { "attn_logit_softcapping", "final_logit_softcapping" };
	const json_t *act = field(s, "hidden_activation"), *tied = field(s, "tie_word_embeddings");

	for (size_t i = 0; i < GP_ARRAY_LEN(off); i++)
		if (field(s, off[i]) && !json_is_false(field(s, off[i])))
			return gp_fail(EINVAL, "%s: config.json: '%s' is set; gempipe runs the "
				       "generating Gemma 3 models, which lack it", s->path, off[i]);
	for (size_t i = 0; i < GP_ARRAY_LEN(none); i++)
		if (field(s, none[i]))
			return gp_fail(EINVAL, "%s: config.json: '%s' is set; Gemma 3 has no "
				       "soft-capping", s->path, none[i]);
	if (act && (!json_is_string(act) ||
		    strcmp(json_string_value(act), "gelu_pytorch_tanh") != 0))
		return gp_fail(EINVAL, "%s: config.json: 'hidden_activation' is not "
			       "'gelu_pytorch_tanh', Gemma 3's", s->path);
	if (tied && !json_is_true(tied))
		return gp_fail(EINVAL, "%s: config.json: 'tie_word_embeddings' is off; Gemma 3's "
			       "head is its embedding", s->path);
	return 0;
}

static int check_model_type(const json_t *root, const char *path)
{
	const char *type = json_string_value(json_object_get(root, "model_type"));

	if (!type)
		return gp_fail(EINVAL, "%s: config.json has no 'model_type'; is it a Hugging Face "
			       "model folder?", path);
	if (strcmp(type, "gemma3") == 0 || strcmp(type, "gemma3_text") == 0)
		return 0;
	return gp_fail(EINVAL, "%s: architecture '%s'; gempipe runs Gemma 3 ('gemma3', "
		       "'gemma3_text') only", path, type);
}

/* transformers' Gemma3TextConfig: published files leave out what equals it. */
static const struct gp_config defaults = {
	.n_layers = 26, .hidden = 2304, .n_heads = 8, .n_kv_heads = 4, .head_dim = 256,
	.ffn = 9216, .vocab = 262208, .window = 4096, .context = 131072,
	.rope_base_local = 10000, .rope_base_global = 1000000, .rope_scale_global = 1,
	.rms_eps = 1e-6f, .norm_offset = 1, .bos = 2, .eos = 1,
};

int gp_config_from_json(struct gp_config *c, const json_t *root, const json_t *generation,
			const char *path)
{
	const json_t *text = json_object_get(root, "text_config");
	const struct source whole = { root, path };
	const struct source s = { json_is_object(text) ? text : root, path };
	const struct source generating = { generation, path };
	float query_scalar = 256;
	int rc = check_model_type(root, path);

	*c = defaults;
	if (rc < 0 || (rc = refuse_variants(&whole)) < 0 || (rc = refuse_variants(&s)) < 0 ||
	    (rc = get_sizes(c, &s, &query_scalar)) < 0 || (rc = get_rope(c, &s)) < 0 ||
	    (rc = get_layers(c, &s)) < 0)
		return rc;
	/* The nearest to the language model last, so that it wins. */
	if ((rc = get_ids(c, &generating)) < 0 || (rc = get_ids(c, &whole)) < 0 ||
	    (rc = get_ids(c, &s)) < 0)
		return rc;
	c->attn_scale = 1 / sqrtf(query_scalar);
	return 0;
}

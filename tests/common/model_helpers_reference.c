/* Gemma 3 written apart from model/ and kernels/: doubles, plain loops, the
 * formulas of the published model. Only the readers are shared. */
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
#include "tests/common/model_helpers.h"

struct reference {
	const struct gp_model *m;
	const struct gp_config *c;
	double *k, *v;             /* [layer][position][KV head][head_dim] */
	uint32_t n;                /* positions */
};

static double *doubles(size_t n)
{
	double *x = calloc(n ? n : 1, sizeof(*x));

	assert_non_null(x);
	return x;
}

/* y = W x, rows of W from the file. */
static void multiply(const struct reference *r, enum gp_tensor_id id, uint32_t layer,
                     const double *x, double *y)
{
	const struct gp_tensor *t = gp_model_tensor(r->m, id, layer);
	size_t row_bytes = t->bytes / (size_t)t->rows;
	float *w = calloc((size_t)t->cols, sizeof(*w));

	assert_non_null(w);
	for (size_t i = 0; i < t->rows; i++) {
		gp_dequantize(t->type, (const char *)t->data + i * row_bytes, w, (size_t)t->cols);
		y[i] = 0;
		for (size_t j = 0; j < t->cols; j++)
			y[i] += (double)w[j] * x[j];
	}
	free(w);
}

static void normalise(const struct reference *r, enum gp_tensor_id id, uint32_t layer, double *x)
{
	const struct gp_tensor *t = gp_model_tensor(r->m, id, layer);
	size_t n = (size_t)t->cols;
	float *w = calloc(n, sizeof(*w));
	double sum = 0;

	assert_non_null(w);
	gp_dequantize(t->type, t->data, w, n);
	for (size_t i = 0; i < n; i++)
		sum += x[i] * x[i];
	for (size_t i = 0; i < n; i++)
		x[i] *= ((double)w[i] + (double)r->c->norm_offset) /
		        sqrt(sum / (double)n + (double)r->c->rms_eps);
	free(w);
}

static void rotate(const struct reference *r, uint32_t layer, uint32_t pos, double *x)
{
	uint32_t half = r->c->head_dim / 2;
	bool global = r->c->is_global[layer];
	double base = (double)(global ? r->c->rope_base_global : r->c->rope_base_local);
	double at = pos / (global ? (double)r->c->rope_scale_global : 1.0);

	for (uint32_t i = 0; i < half; i++) {
		double angle = at * pow(base, -(double)i / half);
		double a = x[i], b = x[i + half];

		x[i] = a * cos(angle) - b * sin(angle);
		x[i + half] = b * cos(angle) + a * sin(angle);
	}
}

/* softmax(q k^T) v of one head over the positions that pos sees. */
static void attend(const struct reference *r, uint32_t layer, uint32_t pos, uint32_t head,
                   const double *q, double *out)
{
	const struct gp_config *c = r->c;
	size_t stride = (size_t)c->n_kv_heads * c->head_dim;
	size_t at = (size_t)layer * r->n * stride +
	            head / (c->n_heads / c->n_kv_heads) * (size_t)c->head_dim;
	uint32_t first = !c->is_global[layer] && pos >= c->window ? pos + 1 - c->window : 0;
	double *p = doubles(pos + 1), top = -INFINITY, sum = 0;

	for (uint32_t j = first; j <= pos; j++) {
		for (uint32_t i = 0; i < c->head_dim; i++)
			p[j] += q[i] * r->k[at + j * stride + i];
		p[j] *= (double)c->attn_scale;
		top = fmax(top, p[j]);
	}
	for (uint32_t j = first; j <= pos; j++)
		sum += p[j] = exp(p[j] - top);
	memset(out, 0, c->head_dim * sizeof(*out));
	for (uint32_t j = first; j <= pos; j++)
		for (uint32_t i = 0; i < c->head_dim; i++)
			out[i] += p[j] / sum * r->v[at + j * stride + i];
	free(p);
}

static void attention_block(const struct reference *r, uint32_t layer, uint32_t pos, double *x)
{
	const struct gp_config *c = r->c;
	size_t stride = (size_t)c->n_kv_heads * c->head_dim;
	size_t at = ((size_t)layer * r->n + pos) * stride;
	double *h = doubles(c->hidden), *q = doubles((size_t)c->n_heads * c->head_dim);
	double *o = doubles((size_t)c->n_heads * c->head_dim);

	memcpy(h, x, c->hidden * sizeof(*h));
	normalise(r, GP_T_ATTN_NORM, layer, h);
	multiply(r, GP_T_ATTN_Q, layer, h, q);
	multiply(r, GP_T_ATTN_K, layer, h, r->k + at);
	multiply(r, GP_T_ATTN_V, layer, h, r->v + at);
	for (uint32_t i = 0; i < c->n_kv_heads; i++) {
		normalise(r, GP_T_ATTN_K_NORM, layer, r->k + at + (size_t)i * c->head_dim);
		rotate(r, layer, pos, r->k + at + (size_t)i * c->head_dim);
	}
	for (uint32_t i = 0; i < c->n_heads; i++) {
		normalise(r, GP_T_ATTN_Q_NORM, layer, q + (size_t)i * c->head_dim);
		rotate(r, layer, pos, q + (size_t)i * c->head_dim);
		attend(r, layer, pos, i, q + (size_t)i * c->head_dim, o + (size_t)i * c->head_dim);
	}
	multiply(r, GP_T_ATTN_OUT, layer, o, h);
	normalise(r, GP_T_POST_ATTN_NORM, layer, h);
	for (uint32_t i = 0; i < c->hidden; i++)
		x[i] += h[i];
	free(h);
	free(q);
	free(o);
}

static void ffn_block(const struct reference *r, uint32_t layer, double *x)
{
	const struct gp_config *c = r->c;
	double *h = doubles(c->hidden), *g = doubles(c->ffn), *u = doubles(c->ffn);

	memcpy(h, x, c->hidden * sizeof(*h));
	normalise(r, GP_T_FFN_NORM, layer, h);
	multiply(r, GP_T_FFN_GATE, layer, h, g);
	multiply(r, GP_T_FFN_UP, layer, h, u);
	for (uint32_t i = 0; i < c->ffn; i++)
		g[i] = 0.5 * g[i] * (1 + tanh(sqrt(2 / M_PI) * (g[i] + 0.044715 * pow(g[i], 3)))) *
		       u[i];
	multiply(r, GP_T_FFN_DOWN, layer, g, h);
	normalise(r, GP_T_POST_FFN_NORM, layer, h);
	for (uint32_t i = 0; i < c->hidden; i++)
		x[i] += h[i];
	free(h);
	free(g);
	free(u);
}

static void embed(const struct reference *r, uint32_t id, double *x)
{
	const struct gp_tensor *t = gp_model_tensor(r->m, GP_T_TOKEN_EMBD, 0);
	float *w = calloc(r->c->hidden, sizeof(*w));

	assert_non_null(w);
	gp_dequantize(t->type, (const char *)t->data + id * (t->bytes / (size_t)t->rows), w,
	              r->c->hidden);
	for (uint32_t i = 0; i < r->c->hidden; i++)
		x[i] = (double)w[i] * sqrt(r->c->hidden);
	free(w);
}

void reference_logits(const struct gp_model *m, const uint32_t *ids, uint32_t n, float *logits)
{
	struct reference r = { .m = m, .c = gp_model_config(m), .n = n };
	size_t kv = (size_t)r.c->n_layers * n * r.c->n_kv_heads * r.c->head_dim;
	double *x = doubles(r.c->hidden), *y = doubles(r.c->vocab);

	r.k = doubles(kv);
	r.v = doubles(kv);
	for (uint32_t pos = 0; pos < n; pos++) {
		embed(&r, ids[pos], x);
		for (uint32_t layer = 0; layer < r.c->n_layers; layer++) {
			attention_block(&r, layer, pos, x);
			ffn_block(&r, layer, x);
		}
		normalise(&r, GP_T_OUTPUT_NORM, 0, x);
		multiply(&r, GP_T_TOKEN_EMBD, 0, x, y);
		for (uint32_t i = 0; i < r.c->vocab; i++)
			logits[(size_t)pos * r.c->vocab + i] = (float)y[i];
	}
	free(x);
	free(y);
	free(r.k);
	free(r.v);
}

/* ---- made-up models -------------------------------------------------------- */
static json_t *config_json(const struct gp_config *c)
{
	json_t *types = json_array();
	double scalar = 1 / ((double)c->attn_scale * (double)c->attn_scale);

	for (uint32_t i = 0; i < c->n_layers; i++)
		json_array_append_new(types, json_string(c->is_global[i] ? "full_attention" :
		                                         "sliding_attention"));
	return json_pack("{s:[s],s:s, s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i, s:f,s:f,s:o,"
	                 "s:{s:{s:s,s:f,s:f},s:{s:s,s:f}}}",
	                 "architectures", "Gemma3ForCausalLM", "model_type", "gemma3_text",
	                 "num_hidden_layers", c->n_layers, "hidden_size", c->hidden,
	                 "num_attention_heads", c->n_heads, "num_key_value_heads", c->n_kv_heads,
	                 "head_dim", c->head_dim, "intermediate_size", c->ffn,
	                 "vocab_size", c->vocab, "sliding_window", c->window,
	                 "max_position_embeddings", c->context,
	                 "rms_norm_eps", (double)c->rms_eps, "query_pre_attn_scalar", scalar,
	                 "layer_types", types,
	                 "rope_parameters", "full_attention", "rope_type", "linear",
	                 "factor", (double)c->rope_scale_global,
	                 "rope_theta", (double)c->rope_base_global,
	                 "sliding_attention", "rope_type", "default",
	                 "rope_theta", (double)c->rope_base_local);
}

static void declare(json_t *header, size_t *bytes, const char *name, uint32_t rows, uint32_t cols)
{
	size_t end = *bytes + (rows ? rows : 1) * (size_t)cols * sizeof(float);
	json_t *shape = rows ? json_pack("[ii]", rows, cols) : json_pack("[i]", cols);

	json_object_set_new(header, name, json_pack("{s:s,s:o,s:[II]}", "dtype", "F32",
	                                            "shape", shape, "data_offsets",
	                                            (json_int_t)*bytes, (json_int_t)end));
	*bytes = end;
}

static void declare_layer(json_t *h, size_t *bytes, const struct gp_config *c, uint32_t layer)
{
	const uint32_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
	const struct {
		const char *name;
		uint32_t rows, cols;
	} parts[] = {
		{ "input_layernorm", 0, c->hidden }, { "self_attn.q_proj", q, c->hidden },
		{ "self_attn.k_proj", kv, c->hidden }, { "self_attn.v_proj", kv, c->hidden },
		{ "self_attn.o_proj", c->hidden, q }, { "self_attn.q_norm", 0, c->head_dim },
		{ "self_attn.k_norm", 0, c->head_dim }, { "post_attention_layernorm", 0, c->hidden },
		{ "pre_feedforward_layernorm", 0, c->hidden }, { "mlp.gate_proj", c->ffn, c->hidden },
		{ "mlp.up_proj", c->ffn, c->hidden }, { "mlp.down_proj", c->hidden, c->ffn },
		{ "post_feedforward_layernorm", 0, c->hidden },
	};
	char name[96];

	for (size_t i = 0; i < GP_ARRAY_LEN(parts); i++) {
		snprintf(name, sizeof(name), "model.layers.%u.%s.weight", layer, parts[i].name);
		declare(h, bytes, name, parts[i].rows, parts[i].cols);
	}
}

static void write_weights(FILE *f, size_t n, uint32_t seed)
{
	for (size_t i = 0; i < n; i++) {
		float w;

		seed = seed * 1664525u + 1013904223u;
		w = ((float)(seed >> 8) / 16777216.0f - 0.5f) * 0.6f;
		assert_int_equal(fwrite(&w, sizeof(w), 1, f), 1);
	}
}

static void write_safetensors(const char *path, const struct gp_config *c, uint32_t seed)
{
	json_t *header = json_object();
	size_t bytes = 0;
	uint64_t text_bytes;
	FILE *f = fopen(path, "wb");
	char *text;

	assert_non_null(f);
	declare(header, &bytes, "model.embed_tokens.weight", c->vocab, c->hidden);
	declare(header, &bytes, "model.norm.weight", 0, c->hidden);
	for (uint32_t i = 0; i < c->n_layers; i++)
		declare_layer(header, &bytes, c, i);
	assert_non_null(text = json_dumps(header, JSON_COMPACT));
	text_bytes = strlen(text);
	assert_int_equal(fwrite(&text_bytes, sizeof(text_bytes), 1, f), 1);
	assert_int_equal(fwrite(text, (size_t)text_bytes, 1, f), 1);
	write_weights(f, bytes / sizeof(float), seed);
	assert_int_equal(fclose(f), 0);
	free(text);
	json_decref(header);
}

void random_model_create(char path[64], const struct gp_config *c, uint32_t seed)
{
	json_t *config = config_json(c);
	char name[96];

	assert_non_null(config);
	strcpy(path, "/tmp/gempipe-test-XXXXXX");
	assert_non_null(mkdtemp(path));
	snprintf(name, sizeof(name), "%s/config.json", path);
	assert_int_equal(json_dump_file(config, name, 0), 0);
	json_decref(config);
	snprintf(name, sizeof(name), "%s/model.safetensors", path);
	write_safetensors(name, c, seed);
}

void random_model_remove(const char *path)
{
	char name[96];

	snprintf(name, sizeof(name), "%s/config.json", path);
	unlink(name);
	snprintf(name, sizeof(name), "%s/model.safetensors", path);
	unlink(name);
	rmdir(path);
}

void random_model_poison(const char *path, const char *tensor, size_t element, float value)
{
	char name[96];
	uint64_t text_bytes;

	snprintf(name, sizeof(name), "%s/model.safetensors", path);
	FILE *f = fopen(name, "r+b");
	assert_non_null(f);
	assert_int_equal(fread(&text_bytes, sizeof(text_bytes), 1, f), 1);
	json_t *header = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL);
	const json_t *offsets = json_object_get(json_object_get(header, tensor), "data_offsets");
	assert_int_equal(json_array_size(offsets), 2);
	const size_t at = sizeof(text_bytes) + (size_t)text_bytes + element * sizeof(value) +
	                  (size_t)json_integer_value(json_array_get(offsets, 0));
	json_decref(header);
	assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
	assert_int_equal(fwrite(&value, sizeof(value), 1, f), 1);
	assert_int_equal(fclose(f), 0);
}

#include "tests/common/model_helpers.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/mapped_file.h"
#include "workers/workers.h"

/* ---- golden.safetensors ---------------------------------------------------- */
struct golden {
	struct gp_mapped_file file;
	json_t *header;
	const uint8_t *data;
	size_t bytes;
};

struct golden *golden_open(const char *path)
{
	struct golden *g = calloc(1, sizeof(*g));
	uint64_t header = 0;

	assert_non_null(g);
	if (gp_mapped_file_open(&g->file, path) < 0)
		fail_msg("%s", gp_error());
	assert_true(g->file.bytes > sizeof(header));
	memcpy(&header, g->file.data, sizeof(header));
	assert_true(header <= g->file.bytes - sizeof(header));
	g->header = json_loadb((const char *)g->file.data + sizeof(header), (size_t)header, 0, NULL);
	assert_non_null(g->header);
	g->data = g->file.data + sizeof(header) + header;
	g->bytes = g->file.bytes - sizeof(header) - (size_t)header;
	return g;
}

void golden_close(struct golden *g)
{
	json_decref(g->header);
	gp_mapped_file_close(&g->file);
	free(g);
}

static const void *golden_data(const struct golden *g, const char *name, const char *dtype,
                               size_t n)
{
	json_t *t = json_object_get(g->header, name), *at = json_object_get(t, "data_offsets");
	const char *type = json_string_value(json_object_get(t, "dtype"));
	size_t from = (size_t)json_integer_value(json_array_get(at, 0));
	size_t to = (size_t)json_integer_value(json_array_get(at, 1));

	if (!type || strcmp(type, dtype) || to - from != n * 4 || to > g->bytes)
		fail_msg("golden tensor %s is not %zu of %s", name, n, dtype);
	assert_int_equal((uintptr_t)(g->data + from) % 4, 0);
	return g->data + from;
}

const float *golden_f32(const struct golden *g, const char *name, size_t n)
{
	return golden_data(g, name, "F32", n);
}

const uint32_t *golden_ids(const struct golden *g, const char *name, size_t n)
{
	return golden_data(g, name, "I32", n);
}

/* ---- comparing ------------------------------------------------------------- */
double largest_difference(const float *want, const float *got, size_t n)
{
	double largest = 0;

	for (size_t i = 0; i < n; i++) {
		double d = fabs((double)want[i] - (double)got[i]);

		if (!(d <= largest))
			largest = isnan(d) ? INFINITY : d;
	}
	return largest;
}

void assert_near(const char *what, const float *want, float *got, size_t n,
                        double tolerance)
{
	const double error = largest_difference(want, got, n);

	print_message("%s: largest error of a logit %.2g\n", what, error);
	if (!(error <= tolerance))
		fail_msg("%s: %.4g apart, at most %.4g", what, error, tolerance);
	free(got);
}

double largest_magnitude(const float *x, size_t n)
{
	double largest = 0;

	for (size_t i = 0; i < n; i++)
		largest = fmax(largest, fabs((double)x[i]));
	return largest;
}

float *floats(size_t n)
{
	float *x = malloc(n * sizeof(*x));

	assert_non_null(x);
	memset(x, 0xff, n * sizeof(*x)); /* NaN until written */
	return x;
}

uint32_t best_of(const float *logits, size_t n)
{
	size_t best = 0;

	for (size_t i = 1; i < n; i++)
		if (logits[i] > logits[best])
			best = i;
	return (uint32_t)best;
}

/* ---- a chain of stages ----------------------------------------------------- */
static void open_stage(struct chain *c, uint32_t i, const struct chain_options *o)
{
	const uint32_t layers = c->config->n_layers;
	const struct gp_stage_shape shape = {
		.config = c->config, .first_layer = layers * i / c->n,
		.end_layer = layers * (i + 1) / c->n, .embeds = i == 0, .has_head = i + 1 == c->n,
		.max_rows = c->max_rows, .max_logit_rows = c->max_rows,
		.max_sequences = o->max_sequences ? o->max_sequences : 4,
		.context = o->context ? o->context : 2048, .kv_type = o->kv_type,
		.check_numerics = o->check_numerics,
	};
	const struct gp_device_options options = {
		.threads = o->threads ? o->threads : 1, .npu = o->npu, .memory_bytes = o->memory_bytes,
	};

	if (c->device->open(&c->dev[i], &options) < 0 ||
	    gp_stage_create(&c->stage[i], c->model, &shape, c->device->ops, c->dev[i], NULL,
	                    NULL) < 0)
		fail_msg("%s", gp_error());
}

void chain_open(struct chain *c, const char *path, const struct chain_options *o)
{
	memset(c, 0, sizeof(*c));
	c->device = o->device ? o->device : &gp_cpu_device;
	if (gp_model_open(&c->model, path) < 0)
		fail_msg("%s", gp_error());
	c->config = gp_model_config(c->model);
	c->n = o->n_stages ? o->n_stages : 1;
	c->max_rows = o->max_rows ? o->max_rows : 512;
	assert_true(c->n <= MAX_CHAIN);
	for (uint32_t i = 0; i < c->n; i++)
		open_stage(c, i, o);
	for (uint32_t i = 0; i < 2; i++)
		assert_non_null(c->hidden[i] = calloc((size_t)c->max_rows * c->config->hidden,
		                                      sizeof(float)));
}

void chain_close(struct chain *c)
{
	for (uint32_t i = 0; i < c->n; i++) {
		gp_stage_destroy(c->stage[i]);
		c->device->close(c->dev[i]);
	}
	for (uint32_t i = 0; i < 2; i++)
		free(c->hidden[i]);
	gp_model_close(c->model);
}

void chain_step(struct chain *c, const struct gp_stage_row *rows, uint32_t n, float *logits)
{
	for (uint32_t i = 0; i < c->n; i++) {
		float *out = i + 1 == c->n ? logits : c->hidden[i % 2];

		if (gp_stage_run(c->stage[i], rows, n, i ? c->hidden[(i - 1) % 2] : NULL, out) < 0)
			fail_msg("stage %u: %s", i, gp_error());
	}
}

void chain_feed(struct chain *c, uint32_t seq, const uint32_t *ids, uint32_t n, uint32_t chunk,
                float *logits)
{
	uint32_t start = gp_kv_length(gp_stage_kv(c->stage[0]), seq);
	uint32_t most = chunk && chunk < c->max_rows ? chunk : c->max_rows;
	struct gp_stage_row *rows = calloc(most, sizeof(*rows));

	assert_non_null(rows);
	for (uint32_t done = 0, now; done < n; done += now) {
		now = n - done < most ? n - done : most;
		for (uint32_t i = 0; i < now; i++)
			rows[i] = (struct gp_stage_row){
				.seq = seq, .pos = start + done + i, .token = ids[done + i],
				.wants_logits = true };
		chain_step(c, rows, now, logits + (size_t)done * c->config->vocab);
	}
	free(rows);
}

float *chain_logits(struct chain *c, const uint32_t *ids, uint32_t n, uint32_t chunk)
{
	float *got = floats((size_t)n * c->config->vocab);

	chain_drop(c, 0);
	chain_feed(c, 0, ids, n, chunk, got);
	return got;
}

float *file_logits(const char *path, const uint32_t *ids, uint32_t n, uint32_t chunk,
                   const struct chain_options *o)
{
	struct chain c;

	chain_open(&c, path, o);
	float *got = chain_logits(&c, ids, n, chunk);
	chain_close(&c);
	return got;
}

void chain_greedy(struct chain *c, uint32_t seq, const float *logits, uint32_t *ids, uint32_t n)
{
	float *row = calloc(c->config->vocab, sizeof(*row));

	assert_non_null(row);
	memcpy(row, logits, c->config->vocab * sizeof(*row));
	for (uint32_t i = 0; i < n; i++) {
		ids[i] = best_of(row, c->config->vocab);
		chain_feed(c, seq, &ids[i], 1, 1, row);
	}
	free(row);
}

void chain_drop(struct chain *c, uint32_t seq)
{
	for (uint32_t i = 0; i < c->n; i++)
		assert_int_equal(gp_kv_drop(gp_stage_kv(c->stage[i]), seq), 0);
}

double nll_of(const float *logits, uint32_t n, uint32_t id)
{
	double top = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < n; i++)
		top = fmax(top, (double)logits[i]);
	for (uint32_t i = 0; i < n; i++)
		sum += exp((double)logits[i] - top);
	return log(sum) + top - (double)logits[id];
}

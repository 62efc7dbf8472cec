/* A calibration as a file: an importance matrix as llama.cpp writes and reads it (GGUF of
 * general.type "imatrix": of each matrix NAME.in_sum2 and NAME.counts), and the costs beside
 * it as metadata of our own. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/gguf.h"
#include "quantize/quantize.h"

#define COSTS "gempipe.calibration.costs"   /* f32, [matrix][type] */
#define TYPES "gempipe.calibration.types"   /* strings */

static void name_of(char name[80], const struct gp_matrix_cost *x, const char *what)
{
	char tensor[64];

	gp_gguf_tensor_name(tensor, x->id, x->layer);
	snprintf(name, 80, "%s.%s", tensor, what);
}

/* ---- writing ---------------------------------------------------------------------------- */
static int write_costs(struct gp_gguf_writer *w, const struct gp_calibration *c)
{
	const size_t n = c->n * GP_COST_TYPES;
	float *cost = calloc(n, sizeof *cost);
	const char *names[GP_COST_TYPES];
	size_t bytes[GP_COST_TYPES];
	int rc;

	if (!cost)
		return gp_fail(ENOMEM, "no memory for %zu costs", n);
	for (size_t i = 0; i < n; i++)
		cost[i] = (float)c->matrix[i / GP_COST_TYPES].cost[i % GP_COST_TYPES];
	for (size_t k = 0; k < GP_COST_TYPES; k++) {
		names[k] = gp_type_info(gp_cost_types[k])->name;
		bytes[k] = strlen(names[k]);
	}
	rc = gp_gguf_add_string_array(w, TYPES, names, bytes, GP_COST_TYPES);
	if (rc == 0)
		rc = gp_gguf_add_f32_array(w, COSTS, cost, n);
	free(cost);
	return rc;
}

static int write_header(struct gp_gguf_writer *w, const struct gp_calibration *c, const char *text)
{
	const size_t bytes = strlen(text);
	int rc;

	if ((rc = gp_gguf_add_string(w, "general.type", "imatrix", 7)) < 0 ||
	    (rc = gp_gguf_add_string_array(w, "imatrix.datasets", &text, &bytes, 1)) < 0 ||
	    (rc = gp_gguf_add_u32(w, "imatrix.chunk_count", (uint32_t)c->chunks)) < 0 ||
	    (rc = gp_gguf_add_u32(w, "imatrix.chunk_size", c->chunk)) < 0 ||
	    (rc = write_costs(w, c)) < 0)
		return rc;
	for (size_t i = 0; i < c->n; i++) {
		const struct gp_matrix_cost *x = &c->matrix[i];
		char name[80];

		name_of(name, x, "in_sum2");
		if ((rc = gp_gguf_add_tensor(w, name, GP_TYPE_F32, 1, x->cols)) < 0)
			return rc;
		name_of(name, x, "counts");
		if ((rc = gp_gguf_add_tensor(w, name, GP_TYPE_F32, 1, 1)) < 0)
			return rc;
	}
	return 0;
}

int gp_calibration_write(const struct gp_calibration *c, struct gp_gguf_writer *w, const char *text)
{
	const float tokens = (float)c->chunks * (float)c->chunk;
	int rc = write_header(w, c, text);

	for (size_t i = 0; i < c->n && rc == 0; i++) {
		const struct gp_matrix_cost *x = &c->matrix[i];

		for (uint32_t k = 0; k < x->cols && rc == 0; k++) {
			const float sum = x->importance[k] * tokens;

			rc = gp_gguf_write(w, &sum, sizeof sum);
		}
		if (rc == 0)
			rc = gp_gguf_write(w, &tokens, sizeof tokens);
	}
	return rc < 0 ? rc : gp_gguf_writer_finish(w);
}

/* ---- reading ------------------------------------------------------------------------------ */
static const struct gp_gguf_tensor *find(const struct gp_gguf *g, const char *name)
{
	const struct gp_gguf_tensor *t;
	const size_t n = gp_gguf_tensors(g, &t);

	for (size_t i = 0; i < n; i++)
		if (strcmp(t[i].name, name) == 0)
			return &t[i];
	return NULL;
}

static float float_at(const struct gp_gguf_tensor *t, size_t i)
{
	float v;

	memcpy(&v, t->data + i * sizeof v, sizeof v);
	return v;
}

/* One matrix' numbers, checked: what is not there keeps an importance of 1. */
static int read_matrix(const struct gp_gguf *g, struct gp_matrix_cost *x, bool *found)
{
	const struct gp_gguf_tensor *sums, *counts;
	char name[80];
	float count;

	name_of(name, x, "counts");
	counts = find(g, name);
	name_of(name, x, "in_sum2");
	sums = find(g, name);
	*found = sums && counts;
	for (uint32_t k = 0; k < x->cols; k++)
		x->importance[k] = 1;
	if (!*found)
		return 0;
	if (sums->type != GP_TYPE_F32 || counts->type != GP_TYPE_F32 ||
	    sums->bytes != x->cols * sizeof(float) || counts->bytes < sizeof(float))
		return gp_fail(EINVAL, "%s: '%s' is not of %u columns; it is another model's",
		               gp_gguf_path(g), name, x->cols);
	count = float_at(counts, 0);
	if (!(count > 0))
		return gp_fail(EINVAL, "%s: '%s' was counted %g times; make the file again",
		               gp_gguf_path(g), name, (double)count);
	for (uint32_t k = 0; k < x->cols; k++) {
		const float v = float_at(sums, k) / count;

		if (!(v >= 0) || !isfinite(v))
			return gp_fail(EINVAL, "%s: '%s' holds %g at %u; make the file again",
			               gp_gguf_path(g), name, (double)v, k);
		x->importance[k] = v + 1e-30f;
	}
	return 0;
}

/* Every type whose blocks divide the rows must have one. */
static int check_costs(const struct gp_gguf *g, const struct gp_calibration *c)
{
	for (size_t i = 0; i < c->n; i++)
		for (size_t t = 0; t < GP_COST_TYPES; t++) {
			const struct gp_type_info *type = gp_type_info(gp_cost_types[t]);
			const double v = c->matrix[i].cost[t];

			if (c->matrix[i].cols % type->block_elems == 0 && !(v >= 0 && isfinite(v)))
				return gp_fail(EINVAL, "%s: a cost of %g as %s; make the file again",
				               gp_gguf_path(g), v, type->name);
		}
	return 1;
}

/* A file without costs is llama.cpp's: there are none. */
static int read_costs(const struct gp_gguf *g, struct gp_calibration *c)
{
	const struct gp_gguf_value *types, *costs;
	int rc;

	if ((rc = gp_gguf_get_array(g, TYPES, GP_GGUF_STRING, &types)) <= 0 ||
	    (rc = gp_gguf_get_array(g, COSTS, GP_GGUF_F32, &costs)) <= 0)
		return rc;
	if (types->n == 0)
		return 0;
	if (costs->n != c->n * types->n)
		return gp_fail(EINVAL, "%s: %llu costs for %zu matrices; it is another model's",
		               gp_gguf_path(g), (unsigned long long)costs->n, c->n);
	for (uint64_t k = 0; k < types->n; k++) {
		const char *s;
		size_t bytes;

		gp_gguf_string_at(g, types, k, &s, &bytes);
		for (size_t i = 0; i < c->n; i++)
			for (size_t t = 0; t < GP_COST_TYPES; t++) {
				const char *name = gp_type_info(gp_cost_types[t])->name;

				if (strlen(name) == bytes && memcmp(name, s, bytes) == 0)
					c->matrix[i].cost[t] = (double)gp_gguf_f32_at(costs, i * types->n + k);
			}
	}
	return check_costs(g, c);
}

static int read_chunks(const struct gp_gguf *g, struct gp_calibration *c)
{
	uint32_t chunks = 0;
	int rc = gp_gguf_get_u32(g, "imatrix.chunk_count", &chunks);

	c->chunks = chunks;
	return rc < 0 ? rc : gp_gguf_get_u32(g, "imatrix.chunk_size", &c->chunk);
}

int gp_calibration_read(struct gp_calibration *c, const char *path, const struct gp_model *m)
{
	struct gp_gguf *g;
	size_t n_found = 0;
	int rc = gp_calibration_init(c, m);

	if (rc < 0)
		return rc;
	if ((rc = gp_gguf_open(&g, path)) < 0) {
		gp_calibration_free(c);
		return rc;
	}
	for (size_t i = 0; i < c->n && rc == 0; i++) {
		bool found;

		rc = read_matrix(g, &c->matrix[i], &found);
		n_found += found;
	}
	if (rc == 0 && n_found == 0)
		rc = gp_fail(EINVAL, "%s: holds no importance of this model's matrices; make it with "
		             "gempipe calibrate", path);
	if (rc == 0 && (rc = read_chunks(g, c)) >= 0)
		rc = read_costs(g, c);
	gp_gguf_close(g);
	if (rc < 0)
		gp_calibration_free(c);
	return rc;
}

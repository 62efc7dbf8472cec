#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>

#include "base/base.h"
#include "quantize/quantize.h"

/* ---- costs without a calibration ------------------------------------------------------------ */
/* Squared error of normally distributed weights over their square, with searched scales. */
static double relative_error(enum gp_type t)
{
	switch (t) {
	case GP_TYPE_Q3_K: return 0.0275;
	case GP_TYPE_IQ4_XS: return 0.0062;
	case GP_TYPE_Q4_K: return 0.0058;
	case GP_TYPE_Q4_0: return 0.0080;
	case GP_TYPE_IQ4_NL: return 0.0059;
	case GP_TYPE_Q5_K: return 0.0015;
	case GP_TYPE_Q6_K: return 0.0005;
	default: return 0.00003;
	}
}

/* What the same relative error costs from one matrix to the next, by what calibrations of small
 * Gemma 3 models say; their sum over a layer is about 1. */
static double sensitivity(enum gp_tensor_id id)
{
	switch (id) {
	case GP_T_ATTN_Q: return 0.08;
	case GP_T_ATTN_K: return 0.08;
	case GP_T_ATTN_V: return 0.2;
	case GP_T_ATTN_OUT: return 0.2;
	case GP_T_FFN_GATE: return 0.15;
	case GP_T_FFN_UP: return 0.15;
	case GP_T_FFN_DOWN: return 0.2;
	default: return 3;         /* the embedding, once a model */
	}
}

static bool has_costs(const struct gp_calibration *c)
{
	for (size_t i = 0; c && i < c->n; i++)
		for (size_t k = 0; k < GP_COST_TYPES; k++)
			if (isfinite(c->matrix[i].cost[k]))
				return true;
	return false;
}

static double cost_of(const struct gp_calibration *c, size_t matrix, enum gp_tensor_id id,
                      enum gp_type t)
{
	for (size_t k = 0; has_costs(c) && k < GP_COST_TYPES; k++)
		if (gp_cost_types[k] == t)
			return c->matrix[matrix].cost[k];
	return has_costs(c) ? 0 : sensitivity(id) * relative_error(t);
}

/* ---- sizes ------------------------------------------------------------------------------------- */
static int begin(struct gp_recipe *r, const struct gp_model *m)
{
	*r = (struct gp_recipe){ .n = gp_matrix_count(gp_model_config(m)), .cost = NAN };
	r->type = calloc(r->n, sizeof *r->type);
	return r->type ? 0 : gp_fail(ENOMEM, "no memory for the types of %zu matrices", r->n);
}

void gp_recipe_free(struct gp_recipe *r)
{
	free(r->type);
	*r = (struct gp_recipe){ 0 };
}

static uint64_t vector_elements(const struct gp_model *m)
{
	const uint32_t n_layers = gp_model_config(m)->n_layers;
	uint64_t n = gp_model_tensor(m, GP_T_OUTPUT_NORM, 0)->cols;

	for (uint32_t l = 0; l < n_layers; l++)
		for (uint32_t id = GP_T_PER_LAYER; id < GP_T_COUNT; id++) {
			const struct gp_tensor *t = gp_model_tensor(m, id, l);

			n += t->rows == 1 ? t->cols : 0;
		}
	return n;
}

/* bytes, parameters and cost of the types chosen. */
static int sum_up(struct gp_recipe *r, const struct gp_model *m, const struct gp_calibration *c)
{
	const struct gp_config *config = gp_model_config(m);
	int rc = 0;

	r->parameters = vector_elements(m);
	r->bytes = r->parameters * sizeof(float);
	r->cost = has_costs(c) ? 0 : NAN;
	for (size_t i = 0; i < r->n && rc == 0; i++) {
		const struct gp_tensor *t;
		enum gp_tensor_id id;
		uint32_t layer;
		size_t bytes = 0;

		gp_matrix_at(config, i, &id, &layer);
		t = gp_model_tensor(m, id, layer);
		rc = gp_type_bytes(r->type[i], t->rows, t->cols, &bytes);
		r->bytes += bytes;
		r->parameters += t->rows * t->cols;
		if (has_costs(c))
			r->cost += cost_of(c, i, id, r->type[i]);
	}
	return rc;
}

static bool divides(enum gp_type t, uint64_t cols)
{
	return cols % gp_type_info(t)->block_elems == 0;
}

/* ---- types that are given --------------------------------------------------------- */
static bool is_pinned(const struct gp_pins *pins, size_t i, enum gp_tensor_id id, uint32_t layer)
{
	char name[64];

	gp_gguf_tensor_name(name, id, layer);
	return fnmatch(pins->pin[i].pattern, name, 0) == 0;
}

static bool pinned_type(const struct gp_pins *pins, enum gp_tensor_id id, uint32_t layer,
                        enum gp_type *type)
{
	for (size_t i = pins ? pins->n : 0; i-- > 0;)
		if (is_pinned(pins, i, id, layer)) {
			*type = pins->pin[i].type;
			return true;
		}
	return false;
}

static int check_pin(const struct gp_recipe *r, const struct gp_model *m,
                     const struct gp_pins *pins, size_t pin)
{
	const struct gp_type_info *type = gp_type_info(pins->pin[pin].type);
	bool found = false;

	for (size_t i = 0; i < r->n; i++) {
		enum gp_tensor_id id;
		uint32_t layer;

		gp_matrix_at(gp_model_config(m), i, &id, &layer);
		if (!is_pinned(pins, pin, id, layer))
			continue;
		found = true;
		if (!divides(type->type, gp_model_tensor(m, id, layer)->cols))
			return gp_fail(EINVAL, "'%s': %s has blocks of %u, which do not divide rows "
			               "of %llu; choose another type", pins->pin[pin].pattern,
			               type->name, type->block_elems, (unsigned long long)
			               gp_model_tensor(m, id, layer)->cols);
	}
	return found ? 0 : gp_fail(EINVAL, "'%s': matches no matrix; their names are such as "
	                           "blk.0.ffn_down.weight and token_embd.weight",
	                           pins->pin[pin].pattern);
}

static int check_pins(const struct gp_recipe *r, const struct gp_model *m,
                      const struct gp_pins *pins)
{
	int rc = 0;

	for (size_t i = 0; pins && i < pins->n && rc == 0; i++)
		rc = check_pin(r, m, pins, i);
	return rc;
}

/* ---- one type ------------------------------------------------------------------------ */
enum gp_type gp_fitting_type(enum gp_type wanted, uint64_t cols)
{
	if (divides(wanted, cols))
		return wanted;
	return divides(GP_TYPE_Q8_0, cols) ? GP_TYPE_Q8_0 : GP_TYPE_F16;
}

enum gp_type gp_embedding_type(enum gp_type matrices)
{
	const struct gp_type_info *t = gp_type_info(matrices);

	return 8 * t->block_bytes < 6 * t->block_elems ? GP_TYPE_Q6_K : matrices;
}

int gp_recipe_uniform(struct gp_recipe *r, const struct gp_model *m, enum gp_type type,
                      enum gp_type embedding, const struct gp_calibration *c,
                      const struct gp_pins *pins)
{
	const struct gp_config *config = gp_model_config(m);
	int rc = begin(r, m);

	if (rc == 0)
		rc = check_pins(r, m, pins);
	for (size_t i = 0; i < r->n && rc == 0; i++) {
		enum gp_tensor_id id;
		uint32_t layer;

		gp_matrix_at(config, i, &id, &layer);
		if (!pinned_type(pins, id, layer, &r->type[i]))
			r->type[i] = gp_fitting_type(id == GP_T_TOKEN_EMBD ? embedding : type,
			                             gp_model_tensor(m, id, layer)->cols);
	}
	return rc < 0 ? rc : sum_up(r, m, c);
}

/* ---- a budget -------------------------------------------------------------------------- */
struct choices {
	struct gp_choice of[GP_COST_TYPES];
};

/* No block divides the row, or a type is given: there is no choice, whatever it costs. */
static uint32_t only(enum gp_type type, const struct gp_tensor *t, struct gp_choice *out)
{
	size_t bytes = 0;

	gp_type_bytes(type, t->rows, t->cols, &bytes);
	*out = (struct gp_choice){ type, bytes, 0 };
	return 1;
}

static uint32_t list_choices(const struct gp_model *m, const struct gp_calibration *c,
                             const struct gp_pins *pins, size_t matrix, struct choices *out)
{
	enum gp_tensor_id id;
	enum gp_type type;
	const struct gp_tensor *t;
	uint32_t layer, n = 0;

	gp_matrix_at(gp_model_config(m), matrix, &id, &layer);
	t = gp_model_tensor(m, id, layer);
	if (pinned_type(pins, id, layer, &type))
		return only(type, t, out->of);
	for (size_t k = 0; k < GP_COST_TYPES; k++) {
		const double cost = cost_of(c, matrix, id, gp_cost_types[k]);
		size_t bytes;

		if (divides(gp_cost_types[k], t->cols) && isfinite(cost) &&
		    gp_type_bytes(gp_cost_types[k], t->rows, t->cols, &bytes) == 0)
			out->of[n++] = (struct gp_choice){ gp_cost_types[k], bytes, cost };
	}
	return n ? n : only(GP_TYPE_F16, t, out->of);
}

static int choose(struct gp_recipe *r, const struct gp_model *m, uint64_t budget,
                  const struct gp_calibration *c, const struct gp_pins *pins,
                  struct gp_item *items, struct choices *choices)
{
	int rc = check_pins(r, m, pins);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < r->n; i++) {
		items[i].choice = choices[i].of;
		items[i].n = list_choices(m, c, pins, i, &choices[i]);
	}
	if ((rc = gp_knapsack(items, r->n, budget)) < 0)
		return rc;
	for (size_t i = 0; i < r->n; i++)
		r->type[i] = items[i].choice[items[i].chosen].type;
	return sum_up(r, m, c);
}

int gp_recipe_budget(struct gp_recipe *r, const struct gp_model *m, uint64_t bytes,
                     const struct gp_calibration *c, const struct gp_pins *pins)
{
	const uint64_t vectors = vector_elements(m) * sizeof(float);
	const uint64_t budget = bytes > vectors ? bytes - vectors : 0;
	int rc = begin(r, m);
	struct gp_item *items = calloc(r->n, sizeof *items);
	struct choices *choices = calloc(r->n, sizeof *choices);

	if (rc == 0)
		rc = items && choices ? choose(r, m, budget, c, pins, items, choices) :
		     gp_fail(ENOMEM, "no memory to choose types of %zu matrices", r->n);
	free(items);
	free(choices);
	if (rc < 0)
		gp_recipe_free(r);
	return rc;
}

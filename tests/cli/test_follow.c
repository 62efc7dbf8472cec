/* What a product reads in two models at once: as given, and as far as it is quantised. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "quantize/quantize.h"
#include "workers/workers.h"

#define MODEL "tests/data/gemma3-random-text"
enum { CHUNK = 24, CHUNKS = 3, TOKENS = CHUNK * CHUNKS };

static struct gp_model *model;
static uint32_t ids[TOKENS];
static struct gp_walk walk;
static float *given;
static const struct gp_tensor *none[GP_T_COUNT], *encoded[GP_T_COUNT];
static struct gp_tensor v;

/* V of the first layer in Q4_0, and no more. */
static int encode_v(void)
{
	const struct gp_tensor *t = gp_model_tensor(model, GP_T_ATTN_V, 0);
	const size_t n = (size_t)(t->rows * t->cols);
	float *w = malloc(n * sizeof *w);
	uint8_t *raw = malloc(t->bytes), *out = NULL;

	v = *t;
	v.type = GP_TYPE_Q4_0;
	v.mapped = false;
	if (w && raw && gp_type_bytes(v.type, t->rows, t->cols, &v.bytes) == 0 &&
	    (out = malloc(v.bytes)) && gp_tensor_read(t, 0, t->bytes, raw) == 0) {
		gp_dequantize(t->type, raw, w, n);
		gp_quantize(v.type, w, out, n);
	}
	v.data = out;
	encoded[GP_T_ATTN_V] = &v;
	free(w);
	free(raw);
	return out ? 0 : -1;
}

static int set_up(void **state)
{
	const struct gp_device_options options = { .threads = 2 };

	(void)state;
	if (gp_model_open(&model, MODEL) < 0)
		return -1;
	for (uint32_t i = 0; i < TOKENS; i++)
		ids[i] = 7 + i * 37 % 500;
	walk = (struct gp_walk){ .model = model, .ops = gp_cpu_device.ops, .ids = ids,
	                         .n_chunks = CHUNKS, .chunk = CHUNK, .bos = 2 };
	given = calloc((size_t)TOKENS * gp_model_config(model)->hidden, sizeof *given);
	if (given && gp_cpu_device.open(&walk.dev, &options) == 0 && gp_walk_embed(&walk, given) == 0)
		return encode_v();
	print_error("%s\n", gp_error());
	return -1;
}

static int tear_down(void **state)
{
	(void)state;
	free((void *)(uintptr_t)v.data);
	free(given);
	gp_cpu_device.close(walk.dev);
	gp_model_close(model);
	return 0;
}

static double squares(const float *x, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)x[i] * (double)x[i];
	return sum;
}

static double follow(enum gp_tensor_id id, const struct gp_tensor *const *of, struct gp_moments *m)
{
	const struct gp_follow f = { .walk = &walk, .threads = 2, .given = given, .followed = given,
	                             .encoded = of };
	const uint32_t width = (uint32_t)gp_model_tensor(model, id, 0)->cols;
	float *cross = calloc((size_t)width * width, sizeof *cross);
	double sum;

	assert_non_null(cross);
	assert_int_equal(gp_moments_init(m, width, true), 0);
	assert_int_equal(gp_follow(&f, id, m, cross), 0);
	sum = squares(cross, (size_t)width * width);
	free(cross);
	return sum;
}

static int observe(void *user, enum gp_tensor_id id, uint32_t layer, const float *x, uint32_t rows)
{
	(void)layer;
	if (id == GP_T_FFN_GATE)
		gp_moments_add(user, x, rows, 2);
	return 0;
}

static void nothing_encoded_changes_nothing(void **state)
{
	static const enum gp_tensor_id inputs[] = { GP_T_ATTN_Q, GP_T_ATTN_OUT, GP_T_FFN_GATE,
	                                            GP_T_FFN_DOWN };
	struct gp_moments m, seen;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(inputs); i++) {
		assert_true(follow(inputs[i], none, &m) == 0);
		assert_true(squares(m.diagonal, m.width) > 0 && m.rows == TOKENS);
		gp_moments_free(&m);
	}
	/* What is followed is what anybody sees. */
	assert_true(follow(GP_T_FFN_GATE, none, &m) == 0);
	assert_int_equal(gp_moments_init(&seen, m.width, true), 0);
	walk.observe = observe;
	walk.user = &seen;
	assert_int_equal(gp_walk_layer(&walk, 0, CHUNKS, given, NULL), 0);
	walk.observe = NULL;
	assert_memory_equal(m.matrix, seen.matrix, (size_t)m.width * m.width * sizeof *m.matrix);
	gp_moments_free(&m);
	gp_moments_free(&seen);
}

/* What comes before V does not see it; what comes behind does, and then it is gone again. */
static void what_is_encoded_shows_behind_it(void **state)
{
	struct gp_moments m;
	double cross;

	(void)state;
	assert_true(follow(GP_T_ATTN_Q, encoded, &m) == 0);
	gp_moments_free(&m);
	cross = follow(GP_T_ATTN_OUT, encoded, &m);
	/* Of an error of about a tenth. */
	assert_true(cross > 0 && cross < 0.1 * squares(m.matrix, (size_t)m.width * m.width));
	gp_moments_free(&m);
	assert_ptr_not_equal(gp_model_tensor(model, GP_T_ATTN_V, 0), &v);
}

static void a_followed_layer_is_run_as_it_is_encoded(void **state)
{
	const struct gp_follow f = { .walk = &walk, .threads = 2, .encoded = encoded };
	const struct gp_tensor *was = gp_model_tensor(model, GP_T_ATTN_V, 0);
	const size_t n = (size_t)TOKENS * gp_model_config(model)->hidden;
	float *a = calloc(n, sizeof *a), *b = calloc(n, sizeof *b);

	(void)state;
	assert_true(a && b);
	assert_int_equal(gp_follow_layer(&f, NULL, NULL, CHUNKS, given, a), 0);
	assert_int_equal(gp_walk_layer(&walk, 0, CHUNKS, given, b), 0);
	assert_memory_not_equal(a, b, n * sizeof *a);
	gp_model_replace(model, GP_T_ATTN_V, 0, &v);
	assert_int_equal(gp_walk_layer(&walk, 0, CHUNKS, given, b), 0);
	gp_model_replace(model, GP_T_ATTN_V, 0, was);
	assert_memory_equal(a, b, n * sizeof *a);
	free(a);
	free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_encoded_changes_nothing),
		cmocka_unit_test(what_is_encoded_shows_behind_it),
		cmocka_unit_test(a_followed_layer_is_run_as_it_is_encoded),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* The table's entries other than matmul and attention, each instruction set against the
 * scalar reference. */
#include "tests/kernels/check.h"

enum { MAX_N = 600 };

static struct gp_kernels ref, sets[MAX_CHECK_SETS];
static int n_sets;

static void near(const char *set, const char *what, const float *want, const float *got,
                 const float *tol, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (!(fabsf(want[i] - got[i]) <= tol[i]))
			fail_msg("%s %s, element %u of %u: %.9g, reference %.9g", set, what, i, n,
			         (double)got[i], (double)want[i]);
	assert_true(guards_intact(got, n));
}

static float *filled(uint32_t n, int how)
{
	float *p = guarded(n);

	check_fill(p, n, (enum check_fill)how);
	return p;
}

static float *guarded_copy(const float *from, uint32_t n)
{
	float *p = guarded(n);

	memcpy(p, from, n * sizeof(float));
	return p;
}

/* Every entry, for odd and even lengths and every kind of data. */
static void for_shapes(void (*check)(const struct gp_kernels *k, uint32_t n, int how))
{
	static const uint32_t lengths[] = { 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 257, MAX_N };

	for (int s = 0; s < n_sets; s++)
		for (size_t i = 0; i < GP_ARRAY_LEN(lengths); i++)
			for (int how = 0; how < N_FILLS; how++)
				check(&sets[s], lengths[i], how);
}

static void check_rms_norm(const struct gp_kernels *k, uint32_t n, int how)
{
	float *x = filled(n, how), *w = filled(n, FILL_RANDOM), *want = guarded(n);
	float *got = guarded(n), tol[MAX_N];

	ref.rms_norm(want, x, w, 1.0f, 1e-6f, n);
	k->rms_norm(got, x, w, 1.0f, 1e-6f, n);
	for (uint32_t i = 0; i < n; i++)
		tol[i] = 6e-6f * fabsf(want[i]) + 1e-30f;
	near(k->name, "rms_norm", want, got, tol, n);
	k->rms_norm(x, x, w, 1.0f, 1e-6f, n);
	assert_memory_equal(x, got, n * sizeof(float));
	guarded_free(x);
	guarded_free(w);
	guarded_free(want);
	guarded_free(got);
}

static void rms_norm(void **state)
{
	(void)state;
	for_shapes(check_rms_norm);
}

static void check_rope(const struct gp_kernels *k, uint32_t n, int how)
{
	const uint32_t half = n;
	float *x = filled(2 * half, how), *got = guarded_copy(x, 2 * half);
	float *c = filled(half, FILL_RANDOM), *s = filled(half, FILL_RANDOM), tol[2 * MAX_N];

	for (uint32_t i = 0; i < half; i++)
		tol[i] = tol[i + half] = 2e-7f * (fabsf(x[i]) + fabsf(x[i + half])) + 1e-37f;
	ref.rope(x, c, s, 2 * half);
	k->rope(got, c, s, 2 * half);
	near(k->name, "rope", x, got, tol, 2 * half);
	guarded_free(x);
	guarded_free(got);
	guarded_free(c);
	guarded_free(s);
}

static void rope(void **state)
{
	(void)state;
	for_shapes(check_rope);
}

/* The error of exp(-2u) grows with u's own rounding; where the result is below
 * 1e-30 of its factors, the reference has gone to zero. */
static float geglu_tolerance(float gate, float up, float want)
{
	const float u = 1.6f * fabsf(gate) * (1.0f + 0.045f * gate * gate);

	return 3e-7f * (4.0f + fminf(u, 90.0f)) * fabsf(want) + 1e-30f * fabsf(gate * up) + 1e-37f;
}

static void check_geglu(const struct gp_kernels *k, uint32_t n, int how)
{
	float *gate = filled(n, how), *up = filled(n, (how + 1) % N_FILLS), *want = guarded(n);
	float *got = guarded(n), tol[MAX_N];

	for (uint32_t i = 0; how == FILL_RANDOM && i < n; i++)
		gate[i] *= 12.0f;
	ref.geglu(want, gate, up, n);
	k->geglu(got, gate, up, n);
	for (uint32_t i = 0; i < n; i++)
		tol[i] = geglu_tolerance(gate[i], up[i], want[i]);
	near(k->name, "geglu", want, got, tol, n);
	k->geglu(gate, gate, up, n);
	assert_memory_equal(gate, got, n * sizeof(float));
	guarded_free(gate);
	guarded_free(up);
	guarded_free(want);
	guarded_free(got);
}

static void geglu(void **state)
{
	(void)state;
	for_shapes(check_geglu);
}

static void check_add(const struct gp_kernels *k, uint32_t n, int how)
{
	float *x = filled(n, how), *want = filled(n, FILL_MIXED), *got = guarded_copy(want, n);

	ref.add(want, x, n);
	k->add(got, x, n);
	assert_memory_equal(want, got, n * sizeof(float));
	assert_true(guards_intact(got, n));
	guarded_free(x);
	guarded_free(want);
	guarded_free(got);
}

static void add(void **state)
{
	(void)state;
	for_shapes(check_add);
}

/* Every line counts once: otherwise less was read than is claimed. */
static void read_memory(void **state)
{
	uint8_t data[64 * 41 + 1];

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)check_random();
	for (int s = 0; s < n_sets; s++)
		for (size_t lines = 0; lines <= 41; lines++)
			for (unsigned p = 0; p < GP_READ_PATTERNS; p++)
				assert_true(sets[s].read(data + 1, 64 * lines, p) ==
				            ref.read(data + 1, 64 * lines, 0));
	assert_true(ref.read(data, 64, 0) != ref.read(data + 1, 64, 0));
}

/* Work left out would show as the same result for other counts, or another sum
 * than that of 3 times -5. */
static void rulers_do_all_their_work(void **state)
{
	const uint64_t sums = 12, per_sum = GP_INT8_OPS / 2 / sums;

	(void)state;
	for (int s = 0; s < n_sets; s++) {
		for (uint64_t i = 0; i < 9; i++)
			assert_true(sets[s].float_ops(i) != sets[s].float_ops(i + 1));
		for (uint64_t i = 0; i < 9 && sets[s].int8_ops; i++) {
			const uint64_t lanes = sets[s].lanes;

			assert_int_equal((int32_t)sets[s].int8_ops(i),
					 66 - (int64_t)(15 * i * sums * per_sum / lanes));
		}
	}
}

static void nan_is_not_lost(void **state)
{
	float x[40], w[40], y[40];

	(void)state;
	for (int s = 0; s < n_sets; s++) {
		check_fill(x, 40, FILL_RANDOM);
		check_fill(w, 40, FILL_RANDOM);
		x[21] = NAN;
		sets[s].geglu(y, x, w, 40);
		assert_true(isnan(y[21]) && !isnan(y[20]) && !isnan(y[22]));
		sets[s].rms_norm(y, x, w, 0.0f, 1e-6f, 40);
		assert_true(isnan(y[0]) && isnan(y[39]));
	}
}

/* The bytes of the cache do not depend on the instruction set. */
static void store_kv(void **state)
{
	static const enum gp_type types[] = { GP_TYPE_F32, GP_TYPE_F16, GP_TYPE_Q8_0 };
	unsigned char want[256 * 4 + 8], got[256 * 4 + 8];

	(void)state;
	for (int s = 0; s < n_sets; s++)
		for (size_t t = 0; t < GP_ARRAY_LEN(types); t++)
			for (int how = 0; how < N_FILLS; how++)
				for (uint32_t n = 8; n <= 256; n += 8) {
					if (n % gp_type_info(types[t])->block_elems)
						continue;
					float *x = filled(n, how);

					memset(want, 0x5a, sizeof(want));
					memset(got, 0x5a, sizeof(got));
					ref.store_kv(types[t], x, want, n);
					sets[s].store_kv(types[t], x, got, n);
					assert_memory_equal(want, got, sizeof(want));
					guarded_free(x);
				}
}

static void check_dequantize(const struct gp_kernels *k, const struct gp_type_info *info)
{
	const size_t n = info->block_elems == 1 ? 77 : info->block_elems * 5u;
	const size_t bytes = n / info->block_elems * info->block_bytes;
	uint8_t *memory = malloc(bytes + 1);
	float *want = guarded(n), *got = guarded(n);

	for (size_t i = 0; i <= bytes; i++)
		memory[i] = (uint8_t)check_random();
	if (info->block_elems > 1)
		check_random_blocks(info->type, memory + 1, bytes);
	ref.dequantize(info->type, memory + 1, want, n);
	k->dequantize(info->type, memory + 1, got, n);
	if (memcmp(want, got, n * sizeof(float)))
		fail_msg("%s dequantize %s: other bits than the reference", k->name, info->name);
	assert_true(guards_intact(got, n));
	free(memory);
	guarded_free(want);
	guarded_free(got);
}

static void dequantize(void **state)
{
	(void)state;
	for (int s = 0; s < n_sets; s++)
		for (uint32_t t = 0; t < 40; t++)
			for (int run = 0; run < 50 && gp_type_info(t); run++)
				check_dequantize(&sets[s], gp_type_info(t));
}

/* Values with ties of magnitude and of rounding among them. */
static void check_quantize(const struct gp_kernels *k, enum gp_type t, enum check_fill how)
{
	const size_t n = 256 * 5, bytes = n * 4;
	float *x = guarded(n);
	uint8_t *want = malloc(bytes), *got = malloc(bytes);

	check_fill(x, (int)n, how);
	for (size_t i = 0; i < n / 2; i++)
		x[i] = roundf(x[i] * 254) / 254;
	memset(want, 0x5a, bytes);
	memset(got, 0x5a, bytes);
	assert_int_equal(ref.quantize(t, x, want, n), k->quantize(t, x, got, n));
	if (memcmp(want, got, bytes))
		fail_msg("%s quantize %s: other bytes than the reference", k->name, gp_type_info(t)->name);
	guarded_free(x);
	free(want);
	free(got);
}

static void quantize(void **state)
{
	(void)state;
	for (int s = 0; s < n_sets; s++)
		for (uint32_t t = 0; t < 40; t++)
			for (int run = 0; run < 5 * N_FILLS && gp_type_info(t); run++)
				check_quantize(&sets[s], (enum gp_type)t, (enum check_fill)(run % N_FILLS));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rms_norm),
		cmocka_unit_test(rope),
		cmocka_unit_test(geglu),
		cmocka_unit_test(add),
		cmocka_unit_test(read_memory),
		cmocka_unit_test(rulers_do_all_their_work),
		cmocka_unit_test(nan_is_not_lost),
		cmocka_unit_test(store_kv),
		cmocka_unit_test(dequantize),
		cmocka_unit_test(quantize),
	};

	check_seed();
	gp_kernels_init(&ref, 0);
	n_sets = check_sets(sets);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

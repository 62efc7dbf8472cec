/* Number formats: conversions, sizes, golden vectors, encoders. */
#include "tests/kernels/check.h"

static const char *const names[] = { "F32",  "F16",  "BF16", "Q8_0", "Q4_0",   "Q4_1",  "Q5_0",
	                             "Q5_1", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS" };

struct golden {
	const struct gp_type_info *info;
	uint32_t n, bytes; /* elements, encoded bytes */
	float *src, *decoded;
	uint8_t *encoded;
};

static void read_part(FILE *f, void *p, size_t bytes)
{
	assert_int_equal(fread(p, 1, bytes, f), bytes);
}

static struct golden golden_open(const char *name)
{
	struct golden g = { .info = gp_type_by_name(name) };
	char path[64];

	snprintf(path, sizeof(path), "tests/data/quant/%s.bin", name);
	FILE *f = fopen(path, "rb");
	assert_non_null(f);
	assert_non_null(g.info);
	read_part(f, &g.n, sizeof(g.n));
	read_part(f, &g.bytes, sizeof(g.bytes));
	assert_in_range(g.n, 1, 4096);
	g.src = malloc(g.n / 2 * sizeof(float));
	g.encoded = malloc(g.bytes);
	g.decoded = malloc(g.n * sizeof(float));
	read_part(f, g.src, g.n / 2 * sizeof(float));
	read_part(f, g.encoded, g.bytes);
	read_part(f, g.decoded, g.n * sizeof(float));
	assert_int_equal(fgetc(f), EOF);
	fclose(f);
	return g;
}

static void golden_close(struct golden *g)
{
	free(g->src);
	free(g->encoded);
	free(g->decoded);
}

static void golden_decoding(void **state)
{
	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(names); t++) {
		struct golden g = golden_open(names[t]);
		float *got = guarded(g.n);
		size_t bytes;

		assert_int_equal(gp_type_bytes(g.info->type, 1, g.n, &bytes), 0);
		assert_int_equal(bytes, g.bytes);
		gp_dequantize(g.info->type, g.encoded, got, g.n);
		for (uint32_t i = 0; i < g.n; i++) {
			const float want = g.decoded[i];

			if (got[i] != want && !(fabsf(got[i] - want) <= 1e-6f * fabsf(want)))
				fail_msg("%s element %u: %.9g, golden %.9g", names[t], i,
				         (double)got[i], (double)want);
		}
		assert_true(guards_intact(got, g.n));
		guarded_free(got);
		golden_close(&g);
	}
}

static void golden_bytes(void **state)
{
	static const char *const exact[] = { "F32", "F16", "BF16", "Q8_0", "Q4_0" };

	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(exact); t++) {
		struct golden g = golden_open(exact[t]);
		uint8_t *got = malloc(g.bytes / 2);

		assert_int_equal(gp_quantize(g.info->type, g.src, got, g.n / 2), 0);
		assert_memory_equal(got, g.encoded, g.bytes / 2);
		free(got);
		golden_close(&g);
	}
}

static double squared_error(const float *a, const float *b, size_t n)
{
	double sum = 0.0;

	for (size_t i = 0; i < n; i++)
		sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
	return sum;
}

/* Rounding to nearest may lose to ggml's search for scales, but not by much. */
static void k_encoders_near_golden(void **state)
{
	static const char *const searched[] = { "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS" };

	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(searched); t++) {
		struct golden g = golden_open(searched[t]);
		const uint32_t n = g.n / 2;
		uint8_t *bytes = malloc(g.bytes / 2);
		float *got = guarded(n);

		assert_int_equal(gp_quantize(g.info->type, g.src, bytes, n), 0);
		gp_dequantize(g.info->type, bytes, got, n);
		const double ours = squared_error(g.src, got, n);
		const double theirs = squared_error(g.src, g.decoded, n);
		if (!(ours <= 2.0 * theirs))
			fail_msg("%s: squared error %g, golden %g", searched[t], ours, theirs);
		free(bytes);
		guarded_free(got);
		golden_close(&g);
	}
}

/* Blocks whose extremes are quants, and largest scale and minimum the ends of their
 * ranges, decode to what they were. */
static void what_is_representable_stays(void **state)
{
	static const struct {
		enum gp_type type;
		unsigned sub;          /* elements of a scale */
		int low, high;         /* quants */
		int largest, others;   /* scales; others: less up to 19 */
		float min;             /* unit of the minima */
	} cases[] = {
		{ GP_TYPE_Q4_0, 256, -8, 7, 1, 0, 0 },
		{ GP_TYPE_Q3_K, 16, -4, 3, -32, 31, 0 }, { GP_TYPE_Q6_K, 16, -32, 31, -128, 127, 0 },
		{ GP_TYPE_Q4_K, 32, 0, 15, 63, 63, 0.125f }, { GP_TYPE_Q5_K, 32, 0, 31, 63, 63, 0.125f },
	};
	float src[256], got[256];
	uint8_t bytes[512];

	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(cases); t++) {
		int scale = cases[t].largest, min = 63;

		for (unsigned i = 0; i < 256; i++) {
			const unsigned in = i % cases[t].sub;
			const int q = in % 32 == 0 ? cases[t].low : in % 32 == 1 ? cases[t].high :
				cases[t].low + (int)(check_random() % (unsigned)(cases[t].high - cases[t].low));

			if (i && in == 0) {
				scale = cases[t].others - (int)(check_random() % 20);
				min = (int)(check_random() % 64);
			}
			src[i] = 0.25f * (float)(scale * q) - cases[t].min * (float)min;
		}
		assert_int_equal(gp_quantize(cases[t].type, src, bytes, 256), 0);
		gp_dequantize(cases[t].type, bytes, got, 256);
		for (unsigned i = 0; i < 256; i++)
			if (!(fabsf(got[i] - src[i]) <= 0.0f))
				fail_msg("%s element %u: %g became %g",
				         gp_type_info(cases[t].type)->name, i, (double)src[i],
				         (double)got[i]);
	}
}

/* Zeros stay zeros, and no input makes NaN or infinity of a finite number. Numbers
 * up to 1: half a step of the widest gap, or the side without the extreme. */
static void encoders_take_extremes(void **state)
{
	static const enum gp_type types[] = { GP_TYPE_Q8_0, GP_TYPE_Q4_0, GP_TYPE_Q4_K,
		                              GP_TYPE_Q5_K, GP_TYPE_Q6_K, GP_TYPE_IQ4_NL,
		                              GP_TYPE_IQ4_XS, GP_TYPE_Q3_K };
	float src[512], got[512];
	uint8_t bytes[512 * 2];

	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(types); t++)
		for (int how = 0; how < N_FILLS + 2; how++) {
			check_fill(src, 512, (enum check_fill)(how % N_FILLS));
			if (how == N_FILLS)
				src[5] = 3e38f;
			if (how == N_FILLS + 1)
				src[300] = NAN;
			assert_int_equal(gp_quantize(types[t], src, bytes, 512), 0);
			gp_dequantize(types[t], bytes, got, 512);
			for (int i = 0; i < 512; i++) {
				assert_true(isfinite(got[i]));
				if (how == FILL_ZERO)
					assert_true(got[i] == 0.0f);
				if (how == FILL_RANDOM && !(fabsf(got[i] - src[i]) <=
				                            (types[t] == GP_TYPE_Q3_K ? 0.27f : 0.13f)))
					fail_msg("type %d: %g became %g", (int)types[t],
					         (double)src[i], (double)got[i]);
			}
		}
}

static void encoder_errors(void **state)
{
	float src[64] = { 0 };
	uint8_t bytes[64];

	(void)state;
	assert_int_equal(gp_quantize(GP_TYPE_Q8_0, src, bytes, 33), -EINVAL);
	assert_int_equal(gp_quantize(GP_TYPE_Q5_1, src, bytes, 32), -ENOTSUP);
	assert_non_null(strstr(gp_error(), "Q5_1"));
	assert_int_equal(gp_quantize((enum gp_type)99, src, bytes, 32), -ENOTSUP);
}

static uint32_t bits_of(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}

static float float_of(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}

static void f16_is_complete(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 65536; h++) {
		const float f = gp_f16_to_f32((uint16_t)h);
		const uint32_t quiet = (h & 0x7fff) > 0x7c00 ? h | 0x200 : h;

		assert_int_equal(gp_f32_to_f16(f), quiet);
		/* Halfway to the next one goes to the even one. */
		if ((h & 0x7fff) < 0x7bff) {
			const float next = gp_f16_to_f32((uint16_t)(h + 1));
			const float middle = f + (next - f) / 2;
			const uint32_t even = h & 1 ? h + 1 : h;

			assert_int_equal(gp_f32_to_f16(middle), even);
			assert_int_equal(gp_f32_to_f16(float_of(bits_of(middle) - 1)), h);
			assert_int_equal(gp_f32_to_f16(float_of(bits_of(middle) + 1)), h + 1);
		}
	}
	assert_int_equal(gp_f32_to_f16(65519.996f), 0x7bff);
	assert_int_equal(gp_f32_to_f16(65520.0f), 0x7c00);
	assert_int_equal(gp_f32_to_f16(-1e30f), 0xfc00);
	assert_int_equal(gp_f32_to_f16(1e-30f), 0);
}

static void bf16_rounds_to_even(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 65536; h++) {
		const float f = gp_bf16_to_f32((uint16_t)h);

		assert_int_equal(bits_of(f), h << 16);
		assert_int_equal(gp_f32_to_bf16(f), isnan(f) ? h | 0x40 : h);
	}
	assert_int_equal(gp_f32_to_bf16(float_of(0x3f808000)), 0x3f80);
	assert_int_equal(gp_f32_to_bf16(float_of(0x3f818000)), 0x3f82);
	assert_int_equal(gp_f32_to_bf16(float_of(0x3f808001)), 0x3f81);
	assert_int_equal(gp_f32_to_bf16(float_of(0x7f7fffff)), 0x7f80);
	assert_true(isnan(gp_bf16_to_f32(gp_f32_to_bf16(float_of(0x7f800001)))));
}

static void names_and_sizes(void **state)
{
	size_t bytes = 7;

	(void)state;
	for (size_t t = 0; t < GP_ARRAY_LEN(names); t++) {
		const struct gp_type_info *info = gp_type_by_name(names[t]);

		assert_non_null(info);
		assert_ptr_equal(gp_type_info((uint32_t)info->type), info);
	}
	assert_ptr_equal(gp_type_by_name("q4_k"), gp_type_info(GP_TYPE_Q4_K));
	assert_null(gp_type_by_name("Q4"));
	assert_null(gp_type_info(4));
	assert_null(gp_type_info(UINT32_MAX));
	assert_int_equal(gp_type_bytes(GP_TYPE_Q4_K, 3, 512, &bytes), 0);
	assert_int_equal(bytes, 3 * 2 * 144);
	assert_int_equal(gp_type_bytes(GP_TYPE_F32, 0, 5, &bytes), 0);
	assert_int_equal(bytes, 0);
	assert_int_equal(gp_type_bytes(GP_TYPE_Q4_K, 1, 255, &bytes), -EINVAL);
	assert_non_null(strstr(gp_error(), "Q4_K"));
	assert_int_equal(gp_type_bytes((enum gp_type)5, 1, 256, &bytes), -EINVAL);
	assert_int_equal(gp_type_bytes(GP_TYPE_F32, UINT64_MAX / 2, 3, &bytes), -EOVERFLOW);
	assert_int_equal(gp_type_bytes(GP_TYPE_F32, 1, UINT64_MAX, &bytes), -EOVERFLOW);
	assert_int_equal(bytes, 0);
}

static void cpu_masks(void **state)
{
	unsigned mask = 99;
	struct gp_kernels k;

	(void)state;
	assert_int_equal(gp_cpu_mask("sse9", &mask), -EINVAL);
	assert_non_null(strstr(gp_error(), "sse9"));
	assert_int_equal(mask, 99);
	assert_int_equal(gp_cpu_mask("", &mask), 0);
	assert_int_equal(mask, GP_CPU_ALL);
	assert_int_equal(gp_cpu_mask("scalar", &mask), 0);
	gp_kernels_init(&k, mask);
	assert_string_equal(k.name, "scalar");
	assert_int_equal(gp_cpu_mask("avx512", &mask), 0);
	assert_true(mask & GP_CPU_AVX2 && mask & GP_CPU_AVX512);
	assert_int_equal(gp_cpu_mask("avx2", &mask), 0);
	gp_kernels_init(&k, mask);
	assert_string_equal(k.name, gp_cpu_text(gp_cpu_flags() & GP_CPU_AVX2));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(golden_decoding),
		cmocka_unit_test(golden_bytes),
		cmocka_unit_test(k_encoders_near_golden),
		cmocka_unit_test(what_is_representable_stays),
		cmocka_unit_test(encoders_take_extremes),
		cmocka_unit_test(encoder_errors),
		cmocka_unit_test(f16_is_complete),
		cmocka_unit_test(bf16_rounds_to_even),
		cmocka_unit_test(names_and_sizes),
		cmocka_unit_test(cpu_masks),
	};

	check_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

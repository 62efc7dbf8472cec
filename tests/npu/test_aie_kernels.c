/* The NPU's tile kernels, compiled for the host, against scalar code written from aie.h:
 * exact where the numbers are integers. */
#include "tests/kernels/check.h"

#include <sys/wait.h>

#include "kernels/aie/aie.h"

#define SLICES 3u

/* ---- int4 GEMM ------------------------------------------------------------------ */
enum { M = GP_AIE_INT4_M, K = GP_AIE_INT4_K, N = GP_AIE_INT4_N };

struct int4_case {
	struct gp_aie_int4_x x[SLICES];
	struct gp_aie_int4_w w[SLICES];
	struct gp_aie_int4_y y;
};

static void *room(size_t bytes)
{
	void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

	assert_non_null(p);
	memset(p, 0xa5, bytes);
	return p;
}

static int x_code(const struct gp_aie_int4_x *x, uint32_t m, uint32_t k)
{
	return x->q[(m / 4 * (K / 16) + k / 16) * 64 + m % 4 * 16 + k % 16];
}

static int w_code(const struct gp_aie_int4_w *w, uint32_t n, uint32_t k)
{
	const struct gp_aie_int4_part *p = &w->part[n / 16];
	const uint32_t at = ((n % 16 / 8 * (K / 16) + k / 16) * 16 + k % 16) * 8 + n % 8;
	const int code = p->q[at / 2] >> (at % 2 * 4) & 15;

	return code < 8 ? code : code - 16;
}

static int w_scale(const struct gp_aie_int4_w *w, uint32_t n, uint32_t group)
{
	return w->part[n / 16].t[(n % 16 / 8 * GP_AIE_INT4_GROUPS + group) * 8 + n % 8];
}

/* As aie.h has it: integers within a slice, then float32 slice by slice. */
static float int4_reference(const struct int4_case *c, uint32_t m, uint32_t n)
{
	float y = 0;

	for (uint32_t s = 0; s < SLICES; s++) {
		int64_t sum = 0;

		for (uint32_t k = 0; k < K; k++)
			sum += (int64_t)w_scale(&c->w[s], n, k / 32) * x_code(&c->x[s], m, k) *
			       w_code(&c->w[s], n, k);
		assert_in_range(sum + INT32_MAX, 0, 2 * (int64_t)INT32_MAX);
		y += (float)(int32_t)sum * (c->x[s].scale[m] * c->w[s].part[n / 16].step[n % 16]);
	}
	return y;
}

static void assert_int4(struct int4_case *c)
{
	static float y[M * N];

	for (uint32_t s = 0; s < SLICES; s++) {
		c->x[s].header = (struct gp_aie_header){ .slices = SLICES, .slice = s };
		gp_aie_gemm_int4(&c->x[s], &c->w[s], &c->y);
	}
	gp_aie_unpack_y(GP_AIE_GEMM_INT4, &c->y, y, N, M, N);
	for (uint32_t m = 0; m < M; m++)
		for (uint32_t n = 0; n < N; n++) {
			const float want = int4_reference(c, m, n);

			if (memcmp(&want, &y[m * N + n], sizeof want) != 0)
				fail_msg("row %u output %u: %.9g, want %.9g", m, n,
				         (double)y[m * N + n], (double)want);
		}
}

static void test_int4_random(void **state)
{
	struct int4_case *c = room(sizeof *c);

	(void)state;
	for (uint32_t round = 0; round < 20; round++) {
		for (uint32_t s = 0; s < SLICES; s++) {
			uint8_t *bytes = (uint8_t *)&c->w[s];

			for (size_t i = 0; i < sizeof c->w[s]; i++)
				bytes[i] = (uint8_t)(check_random() >> 7);
			for (uint32_t n = 0; n < N; n++) {
				struct gp_aie_int4_part *p = &c->w[s].part[n / 16];

				p->step[n % 16] = check_uniform();
				for (uint32_t g = 0; g < 8; g++)
					p->t[(n % 16 / 8 * 8 + g) * 8 + n % 8] =
						(int16_t)((int)(check_random() % 16383) - 8191);
			}
			for (uint32_t i = 0; i < M * K; i++)
				c->x[s].q[i] = (int8_t)((int)(check_random() % 255) - 127);
			check_fill(c->x[s].scale, M, FILL_RANDOM);
		}
		assert_int4(c);
	}
	free(c);
}

/* The largest sums that the layout allows, of either sign. */
static void test_int4_extremes(void **state)
{
	struct int4_case *c = room(sizeof *c);

	(void)state;
	for (int sign = -1; sign <= 1; sign += 2) {
		memset(c->w, 0x88, sizeof c->w); /* codes -8 */
		for (uint32_t s = 0; s < SLICES; s++) {
			memset(c->x[s].q, sign * 127, sizeof c->x[s].q);
			for (uint32_t i = 0; i < M; i++)
				c->x[s].scale[i] = 1;
			for (uint32_t p = 0; p < 4; p++)
				for (uint32_t i = 0; i < 128; i++) {
					c->w[s].part[p].step[i % 16] = 1;
					c->w[s].part[p].t[i] = GP_AIE_INT4_MAX_T;
				}
		}
		assert_int4(c);
	}
	free(c);
}

/* Packing: products of what Q4_0 means, within what 8-bit activations cost. */
static void int4_packed(uint32_t rows, uint32_t outputs, uint32_t k, enum check_fill how)
{
	struct int4_case *c = room(sizeof *c);
	float *x = room(M * SLICES * K * sizeof *x), *w = room(SLICES * K * sizeof *w), y[M * N];
	uint8_t *blocks = room((size_t)N * SLICES * K / 32 * 18);
	const size_t stride = k / 32 * 18;

	check_fill(x, M * SLICES * K, how);
	for (uint32_t n = 0; n < outputs; n++) {
		check_fill(w, k, FILL_RANDOM);
		assert_int_equal(gp_quantize(GP_TYPE_Q4_0, w, blocks + n * stride, k), 0);
	}
	for (uint32_t s = 0, at = 0; s < SLICES; s++, at += K) {
		const uint32_t some = at >= k ? 0 : k - at < K ? k - at : K;

		gp_aie_pack_int4_x(&c->x[s], &(struct gp_aie_piece){ x + at, k, rows, some });
		gp_aie_pack_int4_w(&c->w[s], blocks + at / 32 * 18, stride, outputs, some);
	}
	assert_int4(c);
	gp_aie_unpack_y(GP_AIE_GEMM_INT4, &c->y, y, N, M, N);
	for (uint32_t n = 0; n < N; n++) {
		if (n < outputs)
			gp_dequantize(GP_TYPE_Q4_0, blocks + n * stride, w, k);
		for (uint32_t m = 0; m < M; m++) {
			double want = 0, room_left = 1e-30;

			for (uint32_t i = 0; i < k && m < rows && n < outputs; i++) {
				float largest = 0;
				const uint32_t from = i / K * K;

				for (uint32_t j = from; j < from + K && j < k; j++)
					largest = fmaxf(largest, fabsf(x[m * k + j]));
				want += (double)x[m * k + i] * (double)w[i];
				/* half a step of x, and what the scales were rounded by */
				room_left += fabs((double)w[i]) * (double)largest * (0.501 / 127 + 1e-4);
			}
			if (!(fabs((double)y[m * N + n] - want) <= room_left))
				fail_msg("row %u output %u: %g, want %g +- %g", m, n,
				         (double)y[m * N + n], want, room_left);
		}
	}
	free(c);
	free(x);
	free(w);
	free(blocks);
}

static void test_int4_packing(void **state)
{
	(void)state;
	int4_packed(M, N, SLICES * K, FILL_RANDOM);
	int4_packed(M, N, SLICES * K, FILL_HUGE);
	int4_packed(M, N, SLICES * K, FILL_MIXED);
	int4_packed(5, 37, 2 * K + 96, FILL_RANDOM);
	int4_packed(1, 1, 32, FILL_RANDOM);
	int4_packed(3, 64, K, FILL_ZERO);
}

/* NaN and infinity in a row stay in that row, and are seen. */
static void test_int4_not_finite(void **state)
{
	static const float bad[] = { NAN, INFINITY, -INFINITY };
	struct gp_aie_int4_x *x = room(sizeof *x);
	float data[2 * K];

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(bad); i++) {
		check_fill(data, 2 * K, FILL_RANDOM);
		data[17] = bad[i];
		gp_aie_pack_int4_x(x, &(struct gp_aie_piece){ data, K, 2, K });
		assert_true(!isfinite(x->scale[0]));
		assert_true(isfinite(x->scale[1]));
	}
	free(x);
}

/* ---- bf16 GEMM ------------------------------------------------------------------- */
static void bf16(enum check_fill how, bool integers, uint32_t rows, uint32_t outputs, uint32_t k)
{
	enum { B = GP_AIE_BF16_K };
	struct gp_aie_bf16_x *x = room(sizeof *x);
	struct gp_aie_bf16_w *w = room(sizeof *w);
	struct gp_aie_bf16_y *y = room(sizeof *y);
	float *xf = room(B * B * SLICES * 4), *wf = room(B * B * SLICES * 4), got[B * B];

	check_fill(xf, B * B * SLICES, how);
	check_fill(wf, B * B * SLICES, how);
	for (uint32_t i = 0; i < B * B * SLICES; i++) {
		xf[i] = gp_bf16_to_f32(gp_f32_to_bf16(integers ? rintf(xf[i] * 15) : xf[i]));
		wf[i] = gp_bf16_to_f32(gp_f32_to_bf16(integers ? rintf(wf[i] * 127) : wf[i]));
	}
	for (uint32_t s = 0, at = 0; s < SLICES; s++, at += B) {
		const uint32_t some = at >= k ? 0 : k - at < B ? k - at : B;

		x->header = (struct gp_aie_header){ .slices = SLICES, .slice = s };
		gp_aie_pack_bf16_x(x, &(struct gp_aie_piece){ xf + at, k, rows, some });
		gp_aie_pack_bf16_w(w, &(struct gp_aie_piece){ wf + at, k, outputs, some });
		gp_aie_gemm_bf16(x, w, y);
	}
	gp_aie_unpack_y(GP_AIE_GEMM_BF16, y, got, B, B, B);
	for (uint32_t m = 0; m < B; m++)
		for (uint32_t n = 0; n < B; n++) {
			double want = 0, size = 0;

			for (uint32_t i = 0; i < k && m < rows && n < outputs; i++) {
				want += (double)xf[m * k + i] * (double)wf[n * k + i];
				size += fabs((double)xf[m * k + i] * (double)wf[n * k + i]);
			}
			if (!(fabs((double)got[m * B + n] - want) <= (integers ? 0 : 2e-6 * size)))
				fail_msg("row %u output %u: %g, want %g", m, n,
				         (double)got[m * B + n], want);
		}
	free(x);
	free(w);
	free(y);
	free(xf);
	free(wf);
}

static void test_bf16(void **state)
{
	(void)state;
	bf16(FILL_RANDOM, true, 64, 64, 192);
	bf16(FILL_RANDOM, false, 64, 64, 192);
	bf16(FILL_HUGE, false, 64, 64, 192);
	bf16(FILL_RANDOM, true, 7, 33, 130);
	bf16(FILL_RANDOM, true, 1, 1, 1);
}

/* ---- GEMV ------------------------------------------------------------------------- */
static void test_gemv(void **state)
{
	struct gp_aie_gemv_x *x = room(sizeof *x);
	struct gp_aie_int4_w *w = room(sizeof *w);
	struct gp_aie_gemv_y *y = room(4 * sizeof *y);
	float xf[SLICES * K], row[SLICES * K];
	uint8_t blocks[N][SLICES * K / 32 * 18];

	(void)state;
	for (int integers = 0; integers < 2; integers++) {
		check_fill(xf, SLICES * K, FILL_RANDOM);
		for (uint32_t i = 0; i < SLICES * K; i++)
			xf[i] = gp_bf16_to_f32(gp_f32_to_bf16(integers ? rintf(xf[i] * 127) : xf[i]));
		for (uint32_t n = 0; n < N; n++) {
			check_fill(row, SLICES * K, FILL_RANDOM);
			assert_int_equal(gp_quantize(GP_TYPE_Q4_0, row, blocks[n], SLICES * K), 0);
		}
		for (uint32_t s = 0; s < SLICES; s++) {
			x->header = (struct gp_aie_header){ .slices = SLICES, .slice = s };
			gp_aie_pack_gemv_x(x, &(struct gp_aie_piece){ xf + s * K, 0, 1, K });
			gp_aie_pack_int4_w(w, blocks[0] + s * K / 32 * 18, sizeof blocks[0], N, K);
			for (uint32_t part = 0; part < 4; part++)
				gp_aie_gemv_int4(x, &w->part[part], &y[part]);
		}
		for (uint32_t n = 0; n < N; n++) {
			double want = 0, size = 0;
			const double got = (double)y[n / 16].y[n % 16];

			gp_dequantize(GP_TYPE_Q4_0, blocks[n], row, SLICES * K);
			for (uint32_t i = 0; i < SLICES * K; i++) {
				want += (double)xf[i] * (double)row[i];
				size += fabs((double)xf[i] * (double)row[i]);
			}
			if (!(fabs(got - want) <= 1.3e-4 * size)) /* 2^-14 of the scales; float sums */
				fail_msg("output %u: %g, want %g", n, got, want);
		}
	}
	free(x);
	free(w);
	free(y);
}

/* ---- what the emulated API refuses ---------------------------------------------------- */
static int compiles(const char *code)
{
	char command[512];

	snprintf(command, sizeof command,
	         "printf '#include <aie_api/aie.hpp>\\nvoid f() { %s }\\n' | "
	         "g++ -std=c++20 -fsyntax-only -Ikernels/aie/emulation -x c++ - 2>/dev/null", code);
	const int status = system(command);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void test_illegal_shapes(void **state)
{
	(void)state;
	if (!compiles("aie::mmul<4, 16, 8, int8, int4> m; (void)m;"))
		skip(); /* no g++ by that name */
	assert_false(compiles("aie::mmul<4, 8, 8, int8, int4> m; (void)m;"));
	assert_false(compiles("aie::mmul<8, 8, 4, bfloat16, bfloat16> m; (void)m;"));
	assert_false(compiles("aie::mmul<4, 8, 4, float, float> m; (void)m;"));
	assert_false(compiles("aie::vector<int8, 24> v; (void)v;"));
	assert_false(compiles("aie::accum<acc32, 4> v; (void)v;"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_int4_random), cmocka_unit_test(test_int4_extremes),
		cmocka_unit_test(test_int4_packing), cmocka_unit_test(test_int4_not_finite),
		cmocka_unit_test(test_bf16), cmocka_unit_test(test_gemv),
		cmocka_unit_test(test_illegal_shapes),
	};

	check_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

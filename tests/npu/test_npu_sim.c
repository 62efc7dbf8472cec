/* The simulated device through the device interface: products of random shapes, what it
 * counts, what it refuses, and how it fails when it is told to. */
#include "tests/kernels/check.h"

#include "kernels/aie/aie.h"
#include "workers/npu/array.h"
#include "workers/npu/npu.h"
#include "workers/npu/sequence.h"
#include "workers/npu/stream.h"

static const struct gp_npu_driver *const sim = &gp_npu_sim;

struct product {
	struct gp_npu *npu;
	struct gp_npu_context *context;
	struct gp_npu_command command;
	struct gp_npu_dispatch d;
	void *words, *x, *w, *y;
	size_t x_bytes, w_bytes, y_bytes;
};

static void need(int rc)
{
	if (rc < 0)
		fail_msg("%s", gp_error());
}

static void buffer(struct product *p, uint32_t i, size_t bytes, void **host)
{
	need(sim->alloc(p->npu, p->context, GP_NPU_DATA, bytes, &p->command.buffers[i], host));
	p->command.n_buffers = i + 1;
}

static void open_product(struct product *p, const struct gp_npu_dispatch *d, size_t w_bytes)
{
	struct gp_npu_program program = { .path = NULL };

	*p = (struct product){ .d = *d };
	snprintf(program.name, sizeof program.name, "%s", gp_aie_forms[d->form].name);
	need(sim->open(&p->npu));
	need(sim->load(p->npu, &program, &p->context));
	need(gp_npu_dispatch_bytes(d, &p->x_bytes, &p->w_bytes, &p->y_bytes));
	buffer(p, 0, p->x_bytes, &p->x);
	buffer(p, 1, w_bytes ? w_bytes : p->w_bytes, &p->w);
	buffer(p, 2, p->y_bytes, &p->y);
	need(sim->alloc(p->npu, p->context, GP_NPU_INSTRUCTIONS, GP_NPU_SEQUENCE_WORDS * 4,
	                &p->command.instructions, &p->words));
	need(gp_npu_sequence(d, p->words, &p->command.words));
	p->command.context = p->context;
}

static void run(struct product *p, struct gp_npu_result *r)
{
	need(sim->sync(p->npu, p->command.buffers[0], GP_NPU_TO_DEVICE, 0, p->x_bytes));
	need(sim->submit(p->npu, &p->command));
	need(sim->wait(p->npu, gp_now_ns() + 60000000000u, NULL, r));
	need(sim->sync(p->npu, p->command.buffers[2], GP_NPU_FROM_DEVICE, 0, p->y_bytes));
}

/* ---- products --------------------------------------------------------------------- */
/* y of every element where x is small integers and w is, so that all is exact. */
static void exact_product(enum gp_aie_form form, uint32_t row_blocks, uint32_t out_blocks,
                          uint32_t slices, uint32_t gap)
{
	const struct gp_aie_form_info *f = &gp_aie_forms[form];
	const uint32_t rows = f->m == 1 ? 1 : 4 * f->m * row_blocks, outs = 4 * f->n * out_blocks;
	const uint32_t k = slices * f->k - (slices > 1 ? f->k / 2 : 0); /* the last slice in part */
	const uint64_t column = (uint64_t)slices * out_blocks * f->w_bytes;
	const struct gp_npu_dispatch d = {
		.form = form, .row_blocks = row_blocks, .out_blocks = out_blocks, .slices = slices,
		.w_offset = gap, .w_stride = gap ? column + gap : 0,
	};
	float *x = calloc((size_t)rows * k, sizeof *x), *w = calloc((size_t)outs * k, sizeof *w);
	float *y = calloc((size_t)rows * outs, sizeof *y);
	uint8_t *blocks = calloc(outs, k / 32 * 18);
	struct gp_npu_result r;
	struct gp_npu_count predicted;
	struct product p;

	for (size_t i = 0; i < (size_t)rows * k; i++)
		x[i] = (float)((int)(check_random() % 3) - 1);
	for (uint32_t i = 0; i < rows && form == GP_AIE_GEMM_INT4; i++)
		for (uint32_t j = 0; j < k; j += f->k)
			x[(size_t)i * k + j] = 127; /* so that 8 bits hold each as it is */
	for (size_t i = 0; i < (size_t)outs * k; i++) /* -8 and nothing else keeps Q4_0's scale 1 */
		w[i] = i % 32 ? (float)((int)(check_random() % 8) - 4) : -8;
	open_product(&p, &d, 4 * (column + gap) + gap);
	memset(p.w, 0x5a, 4 * (column + gap) + gap);
	for (uint32_t o = 0; o < outs; o++)
		need(gp_quantize(GP_TYPE_Q4_0, w + (size_t)o * k, blocks + (size_t)o * (k / 32 * 18), k));
	for (uint32_t c = 0; c < 4; c++)
		for (uint32_t b = 0; b < out_blocks; b++)
			for (uint32_t s = 0; s < slices; s++) {
				const uint32_t o = (b * 4 + c) * f->n, from = s * f->k;
				const uint32_t some = k - from < f->k ? k - from : f->k;
				char *tile = (char *)p.w + gap + c * (column + gap) +
				             ((size_t)b * slices + s) * f->w_bytes;

				if (form == GP_AIE_GEMM_BF16)
					gp_aie_pack_bf16_w((void *)tile, &(struct gp_aie_piece){
						w + (size_t)o * k + from, k, f->n, some });
				else
					gp_aie_pack_int4_w((void *)tile, blocks + (size_t)o * (k / 32 * 18) +
					                   from / 32 * 18, k / 32 * 18, f->n, some);
			}
	for (uint32_t row = 0; row < (f->m == 1 ? 1 : 4); row++)
		for (uint32_t b = 0; b < row_blocks; b++)
			for (uint32_t s = 0; s < slices; s++) {
				const uint32_t from = s * f->k;
				char *tile = (char *)p.x +
				             (((size_t)row * row_blocks + b) * slices + s) * f->x_bytes;
				const struct gp_aie_piece piece = {
					x + (size_t)((b * 4 + row) * f->m) * k + from, k, f->m,
					k - from < f->k ? k - from : f->k };

				*(struct gp_aie_header *)(void *)tile =
					(struct gp_aie_header){ .slices = slices, .slice = s };
				if (form == GP_AIE_GEMM_INT4)
					gp_aie_pack_int4_x((void *)tile, &piece);
				else if (form == GP_AIE_GEMM_BF16)
					gp_aie_pack_bf16_x((void *)tile, &piece);
				else
					gp_aie_pack_gemv_x((void *)tile, &piece);
			}
	run(&p, &r);
	for (uint32_t c = 0; c < 4; c++)
		for (uint32_t b = 0; b < row_blocks; b++)
			for (uint32_t o = 0; o < out_blocks; o++)
				gp_aie_unpack_y(form, (char *)p.y + (((size_t)c * row_blocks + b) *
				                out_blocks + o) * 4 * f->y_bytes,
				                y + (size_t)b * 4 * f->m * outs + (o * 4 + c) * f->n, outs,
				                f->m == 1 ? 1 : 4 * f->m, f->n);
	for (uint32_t m = 0; m < rows; m++)
		for (uint32_t o = 0; o < outs; o++) {
			double want = 0;

			for (uint32_t i = 0; i < k; i++)
				want += (double)x[(size_t)m * k + i] * (double)w[(size_t)o * k + i];
			if (!(fabs((double)y[(size_t)m * outs + o] - want) <= 1e-3 + 2e-6 * fabs(want)))
				fail_msg("%s: row %u output %u: %g, want %g", f->name, m, o,
				         (double)y[(size_t)m * outs + o], want);
		}
	gp_npu_array_predict(&d, &predicted);
	assert_true(r.simulated);
	assert_int_equal(r.ns, predicted.ns);
	assert_int_equal(r.cycles, predicted.cycles);
	assert_int_equal(r.bytes_in, predicted.bytes_in);
	assert_int_equal(r.bytes_out, predicted.bytes_out);
	sim->close(p.npu);
	free(x);
	free(w);
	free(y);
	free(blocks);
}

static void test_products(void **state)
{
	(void)state;
	exact_product(GP_AIE_GEMM_INT4, 1, 1, 1, 0);
	exact_product(GP_AIE_GEMM_INT4, 2, 2, 3, 64);
	exact_product(GP_AIE_GEMM_BF16, 1, 1, 1, 0);
	exact_product(GP_AIE_GEMM_BF16, 2, 1, 3, 128);
	exact_product(GP_AIE_GEMV_INT4, 1, 3, 2, 0);
	exact_product(GP_AIE_GEMV_INT4, 1, 1, 1, 4);
	for (int i = 0; i < 4; i++)
		exact_product(check_random() % 2 ? GP_AIE_GEMM_INT4 : GP_AIE_GEMM_BF16,
		              1 + check_random() % 2, 1 + check_random() % 3, 1 + check_random() % 4,
		              check_random() % 3 * 4);
}

/* No product beats the array's own limits. */
static void test_counts(void **state)
{
	static const struct gp_npu_dispatch big = { GP_AIE_GEMM_INT4, 4, 84, 21, 0, 0 };
	struct gp_npu_count c;

	(void)state;
	gp_npu_array_predict(&big, &c); /* 512 x 5376 x 21504 */
	const double products = 512.0 * 5376 * 21504, per_cycle = products / (double)c.cycles;
	assert_true(per_cycle > 500 && per_cycle < 16 * 512);
	assert_true((double)c.bytes_in / (double)c.cycles <= 32);
	assert_true(c.ns >= GP_ARRAY_DISPATCH_NS + c.cycles);
	const struct gp_npu_dispatch flat = { GP_AIE_GEMM_INT4, 4, 84, 1, 0, 0 };
	gp_npu_array_predict(&flat, &c); /* little to compute, much to write */
	assert_true((double)c.bytes_out / (double)c.cycles <= 16);
}

/* ---- limits ------------------------------------------------------------------------ */
static void test_refusals(void **state)
{
	uint32_t words[GP_NPU_SEQUENCE_WORDS], n;
	struct gp_npu_dispatch d = { GP_AIE_GEMM_INT4, 4, 256, 84, 0, 0 };
	struct gp_npu_program program = { .name = "gemm-int3-1x1x1" };
	struct gp_npu_context *context[GP_NPU_MAX_CONTEXTS + 1];
	struct gp_npu *npu;

	(void)state;
	need(gp_npu_sequence(&d, words, &n));
	d.row_blocks = 5;
	assert_int_equal(gp_npu_sequence(&d, words, &n), -EINVAL);
	d.row_blocks = 4;
	d.out_blocks = 257;
	assert_int_equal(gp_npu_sequence(&d, words, &n), -EINVAL);
	d.out_blocks = 1;
	d.slices = 0;
	assert_int_equal(gp_npu_sequence(&d, words, &n), -EINVAL);
	d = (struct gp_npu_dispatch){ GP_AIE_GEMV_INT4, 2, 1, 1, 0, 0 };
	assert_int_equal(gp_npu_sequence(&d, words, &n), -EINVAL);

	need(sim->open(&npu));
	assert_int_equal(sim->load(npu, &program, &context[0]), -ENOENT);
	snprintf(program.name, sizeof program.name, "%s", gp_aie_forms[0].name);
	for (uint32_t i = 0; i < GP_NPU_MAX_CONTEXTS; i++)
		need(sim->load(npu, &program, &context[i]));
	assert_int_equal(sim->load(npu, &program, &context[GP_NPU_MAX_CONTEXTS]), -EBUSY);
	sim->unload(npu, context[3]);
	need(sim->load(npu, &program, &context[3]));
	sim->close(npu);
}

/* Instructions that stream too much, too little or past a buffer. */
static void test_wrong_streams(void **state)
{
	const struct gp_npu_dispatch d = { GP_AIE_GEMM_INT4, 1, 1, 2, 0, 0 };
	struct gp_npu_result r;
	struct product p;

	(void)state;
	for (uint32_t slices = 0; slices <= 4; slices++) {
		open_product(&p, &d, 0);
		for (uint32_t i = 0; i < 8; i++)
			((struct gp_aie_int4_x *)p.x)[i].header.slices = slices;
		need(sim->submit(p.npu, &p.command));
		const int rc = sim->wait(p.npu, gp_now_ns() + 20000000, NULL, &r);
		/* 1: the two slices look like two blocks, for which there is no room out. */
		assert_int_equal(rc, slices == 2 ? 0 : -ETIMEDOUT);
		if (rc < 0)
			assert_int_equal(sim->submit(p.npu, &p.command), -EIO);
		sim->close(p.npu);
	}
	open_product(&p, &d, 4 * gp_aie_forms[0].w_bytes);
	need(sim->submit(p.npu, &p.command));
	assert_int_equal(sim->submit(p.npu, &p.command), -EBUSY);
	assert_int_equal(sim->wait(p.npu, UINT64_MAX, NULL, &r), -ERANGE);
	p.command.words = 3;
	need(sim->submit(p.npu, &p.command));
	assert_int_equal(sim->wait(p.npu, UINT64_MAX, NULL, &r), -EINVAL);
	assert_int_equal(sim->wait(p.npu, UINT64_MAX, NULL, &r), -EINVAL);
	sim->close(p.npu);
}

/* A small buffer, read over and over in pieces: what is asked for does not have to fit
 * into memory. */
static void test_too_many_pieces(void **state)
{
	static uint32_t words[GP_NPU_SEQUENCE_WORDS], data[16384];
	const struct gp_shim_task t = {
		.on = { .to_array = true }, .repeats = GP_SHIM_MOST_REPEATS,
		.bd = { .n_words = 1023 * 1023 * 64, .d0_size = 1023, .d0_step = 1, .d1_size = 1023,
		        .d1_step = 1, .d2_step = 1 },
	};
	void *args[] = { data };
	const size_t bytes[] = { sizeof data };
	struct gp_task_writer tasks;
	struct gp_stream s;
	size_t n;

	(void)state;
	gp_stream_begin(&s, words, GP_NPU_SEQUENCE_WORDS);
	gp_tasks_begin(&tasks, &s);
	gp_tasks_put(&tasks, &t);
	gp_tasks_end(&tasks);
	need(gp_stream_end(&s, &n));
	assert_int_equal(gp_npu_array_run("gemm-int4-32x256x64", words, n, args, bytes, 1, NULL), -ERANGE);
	assert_non_null(strstr(gp_error(), "pieces"));
}

/* ---- faults ------------------------------------------------------------------------- */
static void test_faults(void **state)
{
	const struct gp_npu_dispatch d = { GP_AIE_GEMM_INT4, 1, 1, 1, 0, 0 };
	const struct { const char *fault; int rc; } at_open[] = {
		{ "no-device", -ENODEV }, { "permission", -EACCES }, { "firmware", -EPROTO },
		{ "old-driver", -ENOTSUP },
	};
	struct gp_npu_info info;
	struct gp_npu_result r;
	struct gp_npu *npu;
	struct product p;
	void *host;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(at_open); i++) {
		setenv("GP_NPU_SIM_FAULT", at_open[i].fault, 1);
		assert_int_equal(sim->probe(&info), at_open[i].rc);
		assert_int_equal(sim->open(&npu), at_open[i].rc);
	}
	unsetenv("GP_NPU_SIM_FAULT");
	need(sim->probe(&info));
	assert_true(info.simulated && strstr(info.device, "SIMULATED"));
	open_product(&p, &d, 0);
	((struct gp_aie_int4_x *)p.x)[0].header.slices = 1;
	setenv("GP_NPU_SIM_FAULT", "memlock", 1);
	assert_int_equal(sim->alloc(p.npu, NULL, GP_NPU_DATA, 64, &p.command.buffers[3], &host),
	                 -EPERM);
	setenv("GP_NPU_SIM_FAULT", "timeout@2", 1);
	run(&p, &r);
	need(sim->submit(p.npu, &p.command));
	assert_int_equal(sim->wait(p.npu, 0, NULL, &r), -EAGAIN);
	const bool cancelled = true;
	assert_int_equal(sim->wait(p.npu, gp_now_ns() + 60000000000u, &cancelled, &r), -ECANCELED);
	assert_int_equal(sim->wait(p.npu, gp_now_ns() + 20000000, NULL, &r), -ETIMEDOUT);
	assert_int_equal(sim->submit(p.npu, &p.command), -EIO);
	sim->close(p.npu);
	for (int lost = 0; lost < 2; lost++) {
		open_product(&p, &d, 0);
		setenv("GP_NPU_SIM_FAULT", lost ? "lost" : "wedged", 1);
		assert_int_equal(sim->submit(p.npu, &p.command), lost ? -ECONNRESET : -EIO);
		assert_int_equal(sim->submit(p.npu, &p.command), -EIO);
		sim->close(p.npu);
	}
	unsetenv("GP_NPU_SIM_FAULT");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_products), cmocka_unit_test(test_counts),
		cmocka_unit_test(test_refusals), cmocka_unit_test(test_wrong_streams),
		cmocka_unit_test(test_too_many_pieces),
		cmocka_unit_test(test_faults),
	};

	check_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The vendor's unmodified runtime and gempipe's shim against a device that is simulated
 * (tests/preload/npu_device.c). tools/check-xrt runs this in a folder where XRT is, with
 * programs made for the simulation: PROGRAMS/NAME.xclbin; argv[1] is PROGRAMS.
 *
 * XRT keeps what it has found, so each case is a process of its own. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "kernels/aie/aie.h"
#include "workers/npu/npu.h"
#include "workers/npu/sequence.h"

#define SECOND 1000000000ull

static const char *programs;

/* ---- a process for each case ------------------------------------------------- */
/* As a worker does: XRT's own end is run. */
static bool ends_by_exit;

/* What a case is to end with: 0, or this errno and a line that has this text. */
static void in_process(int (*run)(void), const char *fault, int want, const char *text)
{
	char line[GP_ERROR_BYTES] = "";
	int fd[2], status;

	assert_int_equal(pipe(fd), 0);
	const pid_t pid = fork();
	if (pid == 0) {
		if (fault)
			setenv("GP_NPU_FAULT", fault, 1);
		const int rc = run();
		if (rc && write(fd[1], gp_error(), strlen(gp_error())) < 0)
			_exit(255);
		if (ends_by_exit)
			exit(-rc);
		_exit(-rc);
	}
	close(fd[1]);
	const ssize_t n = read(fd[0], line, sizeof line - 1);
	close(fd[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	line[n > 0 ? n : 0] = 0;
	if (!WIFEXITED(status))
		fail_msg("ended by signal %d", WTERMSIG(status));
	if (WEXITSTATUS(status) != want || (text && !strstr(line, text)))
		fail_msg("ended with %d: %s", WEXITSTATUS(status), line);
	if (text)
		print_message("# %s\n", line);
}

/* ---- products ------------------------------------------------------------------ */
struct product {
	const struct gp_npu_driver *driver;
	struct gp_npu *npu;
	struct gp_npu_command command;
	uint8_t *x, *w, *y;
	size_t x_bytes, w_bytes, y_bytes;
};

static int load(struct product *p, const char *name, struct gp_npu_context **context)
{
	char path[256];
	struct gp_npu_program program = { .path = path };

	snprintf(path, sizeof path, "%s/%s.xclbin", programs, name);
	snprintf(program.name, sizeof program.name, "%s", name);
	return p->driver->load(p->npu, &program, context);
}

static int get(struct product *p, uint32_t i, size_t bytes, uint8_t **host)
{
	return p->driver->alloc(p->npu, p->command.context, GP_NPU_DATA, bytes, &p->command.buffers[i],
	                        (void **)host);
}

static int set_up(struct product *p, const struct gp_npu_driver *driver, const struct gp_npu_dispatch *d)
{
	void *words;
	int rc;

	*p = (struct product){ .driver = driver, .command.n_buffers = 3 };
	/* Instructions and x before there is a context, as the worker has it. */
	if ((rc = gp_npu_dispatch_bytes(d, &p->x_bytes, &p->w_bytes, &p->y_bytes)) ||
	    (rc = driver->open(&p->npu)) ||
	    (rc = driver->alloc(p->npu, NULL, GP_NPU_INSTRUCTIONS, GP_NPU_SEQUENCE_WORDS * 4,
	                        &p->command.instructions, &words)) ||
	    (rc = get(p, 0, p->x_bytes, &p->x)) ||
	    (rc = load(p, gp_aie_forms[d->form].name, &p->command.context)) ||
	    (rc = get(p, 1, p->w_bytes, &p->w)) || (rc = get(p, 2, p->y_bytes, &p->y)))
		return rc;
	rc = gp_npu_sequence(d, words, &p->command.words);
	return rc ? rc : driver->sync(p->npu, p->command.instructions, GP_NPU_TO_DEVICE, 0, p->command.words * 4);
}

/* Numbers that are finite in any form; the headers of x tiles say which slice they are. */
static void fill(struct product *p, const struct gp_npu_dispatch *d, uint32_t seed)
{
	const struct gp_aie_form_info *f = &gp_aie_forms[d->form];

	for (size_t i = 0; i < p->x_bytes; i++)
		p->x[i] = (uint8_t)((seed = seed * 1103515245 + 12345) >> 24 & 0x3f);
	for (size_t i = 0; i < p->w_bytes; i++)
		p->w[i] = (uint8_t)((seed = seed * 1103515245 + 12345) >> 24 & 0x3f);
	for (size_t i = 0; i < p->x_bytes / f->x_bytes; i++)
		*(struct gp_aie_header *)(void *)(p->x + i * f->x_bytes) =
			(struct gp_aie_header){ .slices = d->slices, .slice = (uint32_t)(i % d->slices) };
}

static int run(struct product *p, struct gp_npu_result *r, uint64_t ns)
{
	int rc;

	if ((rc = p->driver->sync(p->npu, p->command.buffers[0], GP_NPU_TO_DEVICE, 0, p->x_bytes)) ||
	    (rc = p->driver->sync(p->npu, p->command.buffers[1], GP_NPU_TO_DEVICE, 0, p->w_bytes)) ||
	    (rc = p->driver->submit(p->npu, &p->command)) ||
	    (rc = p->driver->wait(p->npu, gp_now_ns() + ns, NULL, r)))
		return rc;
	return p->driver->sync(p->npu, p->command.buffers[2], GP_NPU_FROM_DEVICE, 0, p->y_bytes);
}

static const struct gp_npu_dispatch small = { .form = GP_AIE_GEMM_INT4, .row_blocks = 2, .out_blocks = 3,
                                              .slices = 2 };

/* The same bytes through XRT and through the simulated driver. */
static int same_product(const struct gp_npu_dispatch *d, uint32_t seed)
{
	const struct gp_npu_driver *xrt;
	struct product real, sim;
	struct gp_npu_result r;
	int rc = gp_npu_xrt(&xrt);

	if (rc || (rc = set_up(&real, xrt, d)) || (rc = set_up(&sim, &gp_npu_sim, d)))
		return rc;
	for (uint32_t again = 0; again < 3; again++) {
		fill(&real, d, seed + again);
		fill(&sim, d, seed + again);
		memset(real.y, 0xff, real.y_bytes);
		if ((rc = run(&sim, &r, 60 * SECOND)) || (rc = run(&real, &r, 60 * SECOND)))
			return rc;
		if (!r.simulated || r.ns == 0)
			return gp_fail(EDOM, "the result does not say that it is simulated");
		if (memcmp(real.y, sim.y, real.y_bytes) != 0)
			return gp_fail(EDOM, "XRT's product is another than the simulation's");
	}
	xrt->close(real.npu);
	gp_npu_sim.close(sim.npu);
	return 0;
}

static int every_form(void)
{
	int rc = 0;

	for (int form = 0; form < GP_AIE_FORMS && rc == 0; form++) {
		struct gp_npu_dispatch d = small;
		d.form = (enum gp_aie_form)form;
		d.row_blocks = gp_aie_forms[form].m == 1 ? 1 : 2;
		rc = same_product(&d, 17 + (uint32_t)form);
	}
	return rc;
}

static int largest(void)
{
	const struct gp_npu_dispatch d = { .form = GP_AIE_GEMM_INT4, .row_blocks = GP_NPU_MOST_ROW_BLOCKS,
	                                   .out_blocks = 8, .slices = 3 };

	return same_product(&d, 99);
}

static void test_products(void **state)
{
	(void)state;
	in_process(every_form, NULL, 0, NULL);
	in_process(largest, NULL, 0, NULL);
}

static int one_product(void)
{
	return same_product(&small, 5);
}

/* ---- what stands around a product ------------------------------------------------- */
static int describe(void)
{
	const struct gp_npu_driver *xrt;
	struct gp_npu_info info;
	int rc = gp_npu_xrt(&xrt);

	if (rc || (rc = xrt->probe(&info)))
		return rc;
	if (!info.simulated || strncmp(info.device, "SIMULATED", 9) != 0 || info.columns != 4 ||
	    strcmp(xrt->name, "xrt") != 0 || info.clock_hz != SECOND || !strstr(info.driver, "firmware 1.5") || !strstr(info.driver, ", XRT 2."))
		return gp_fail(EDOM, "probe: %s, %s", info.device, info.driver);
	return 0;
}

/* Taken, given back, taken again; whatever is left is given back by close. */
static int many_buffers(void)
{
	const struct gp_npu_driver *xrt;
	struct product p;
	struct gp_npu_buffer *b[40];
	void *host;
	int rc = gp_npu_xrt(&xrt);

	if (rc || (rc = set_up(&p, xrt, &small)))
		return rc;
	for (int round = 0; round < 5; round++) {
		for (size_t i = 0; i < 40; i++) {
			rc = xrt->alloc(p.npu, NULL, i % 4 ? GP_NPU_DATA : GP_NPU_INSTRUCTIONS, 1 + i * 40000, &b[i], &host);
			if (rc)
				return rc;
			if ((uintptr_t)host % GP_NPU_BUFFER_ALIGN)
				return gp_fail(EDOM, "a buffer that is not aligned");
			for (size_t k = 0; k < 1 + i * 40000; k++)
				if (((char *)host)[k])
					return gp_fail(EDOM, "a buffer that is not zero");
			memset(host, 0xee, 1 + i * 40000);
		}
		for (size_t i = 0; i < (round == 4 ? 20 : 40); i++)
			xrt->free(p.npu, b[i]);
	}
	xrt->free(p.npu, NULL);
	xrt->unload(p.npu, NULL);
	xrt->close(p.npu);
	xrt->close(NULL);
	return one_product();
}

static int one_command_at_a_time(void)
{
	const struct gp_npu_driver *xrt;
	struct gp_npu_result r;
	struct product p;
	int rc = gp_npu_xrt(&xrt);

	if (rc || (rc = set_up(&p, xrt, &small)))
		return rc;
	fill(&p, &small, 1);
	if (xrt->wait(p.npu, 0, NULL, &r) != -EINVAL || xrt->submit(p.npu, &p.command) != 0 ||
	    xrt->submit(p.npu, &p.command) != -EBUSY)
		return gp_fail(EDOM, "two commands at a time");
	return xrt->wait(p.npu, gp_now_ns() + 60 * SECOND, NULL, &r);
}

static void test_around_it(void **state)
{
	(void)state;
	in_process(describe, NULL, 0, NULL);
	in_process(many_buffers, NULL, 0, NULL);
	in_process(one_command_at_a_time, NULL, 0, NULL);
}

/* ---- faults -------------------------------------------------------------------------- */
static int bad_program(const char *name)
{
	const struct gp_npu_driver *xrt;
	struct gp_npu_context *context;
	struct product p;
	int rc = gp_npu_xrt(&xrt);

	if (rc)
		return rc;
	p = (struct product){ .driver = xrt };
	rc = xrt->open(&p.npu);
	if (!rc)
		rc = load(&p, name, &context);
	if (!rc)
		return gp_fail(EDOM, "%s was taken", name);
	/* The device is none the worse. */
	xrt->close(p.npu);
	char line[GP_ERROR_BYTES];
	snprintf(line, sizeof line, "%s", gp_error());
	const int again = one_product();
	return again ? again : gp_fail(-rc, "%s", line);
}

static int missing(void) { return bad_program("no-such-program"); }
static int no_program(void) { return bad_program("text"); }
static int unmarked(void) { return bad_program("unmarked"); }

static void test_programs(void **state)
{
	(void)state;
	in_process(missing, NULL, ENOENT, "no-such-program.xclbin");
	in_process(no_program, NULL, EINVAL, "build it with");
	/* Not made for the simulation: the fake takes it no more than firmware takes ours. */
	in_process(unmarked, NULL, EPROTO, "do not take the program");
}

static int too_many_contexts(void)
{
	const struct gp_npu_driver *xrt;
	struct gp_npu_context *context;
	struct product p;
	int rc = gp_npu_xrt(&xrt);

	if (rc || (rc = set_up(&p, xrt, &small)))
		return rc;
	for (uint32_t i = 1; i < GP_NPU_MAX_CONTEXTS && rc == 0; i++)
		rc = load(&p, "gemm-int4-32x256x64", &context);
	if (rc)
		return gp_fail(EDOM, "only some contexts: %s", gp_error());
	rc = load(&p, "gemm-int4-32x256x64", &context);
	char line[GP_ERROR_BYTES];
	snprintf(line, sizeof line, "%s", gp_error());
	struct gp_npu_result r;
	fill(&p, &small, 1);
	if (run(&p, &r, 60 * SECOND))
		return -EDOM;
	return gp_fail(-rc, "%s", line);
}

/* As an ordinary user: no right to lock more than the limit. */
static int locked_memory(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0 } };

	if (syscall(SYS_capget, &header, data) == 0) {
		data[0].effective &= ~(1u << CAP_IPC_LOCK);
		syscall(SYS_capset, &header, data);
	}
	setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){ 8 << 20, 8 << 20 });
	return one_product();
}

static int hang(void)
{
	const struct gp_npu_driver *xrt;
	struct gp_npu_result r;
	struct product p;
	int rc = gp_npu_xrt(&xrt);
	bool cancelled = true;

	if (rc || (rc = set_up(&p, xrt, &small)))
		return rc;
	fill(&p, &small, 1);
	if (xrt->submit(p.npu, &p.command) || xrt->wait(p.npu, 0, NULL, &r) != -EAGAIN ||
	    xrt->wait(p.npu, gp_now_ns() + SECOND, &cancelled, &r) != -ECANCELED)
		return gp_fail(EDOM, "asked, and cancelled: %s", gp_error());
	const uint64_t start = gp_now_ns();
	rc = xrt->wait(p.npu, start + SECOND / 5, NULL, &r);
	char line[GP_ERROR_BYTES];
	snprintf(line, sizeof line, "%s", gp_error());
	if (gp_now_ns() - start < SECOND / 5 || gp_now_ns() - start > 5 * SECOND)
		return gp_fail(EDOM, "the deadline was not kept");
	if (xrt->submit(p.npu, &p.command) != -EIO || xrt->wait(p.npu, gp_now_ns() + SECOND, NULL, &r) != -EIO)
		return gp_fail(EDOM, "a wedged device takes commands");
	xrt->free(p.npu, p.command.buffers[0]);
	xrt->close(p.npu);
	if (gp_now_ns() - start > 10 * SECOND)
		return gp_fail(EDOM, "closing a wedged device waits for it");
	return gp_fail(-rc, "%s", line);
}

/* What is left of a device that is gone, or wedged, does not end the process with it. */
static int end_with_it(void)
{
	const struct gp_npu_driver *xrt;
	struct gp_npu_context *context;
	struct gp_npu_result r;
	struct product p;
	void *host;
	int rc = gp_npu_xrt(&xrt);

	if (rc || (rc = set_up(&p, xrt, &small)))
		return rc;
	fill(&p, &small, 1);
	rc = run(&p, &r, SECOND / 5);
	char line[GP_ERROR_BYTES];
	snprintf(line, sizeof line, "%s", gp_error());
	if (xrt->alloc(p.npu, NULL, GP_NPU_DATA, 4096, &p.command.buffers[3], &host) != -EIO ||
	    xrt->sync(p.npu, p.command.buffers[0], GP_NPU_TO_DEVICE, 0, 4096) != -EIO ||
	    load(&p, "gemm-bf16-64x64x64", &context) != -EIO || xrt->submit(p.npu, &p.command) != -EIO)
		return gp_fail(EDOM, "a lost device takes something");
	xrt->free(p.npu, p.command.buffers[0]);
	xrt->unload(p.npu, p.command.context);
	xrt->close(p.npu);
	ends_by_exit = true;
	return gp_fail(-rc, "%s", line);
}

static int three_products(void)
{
	int rc = 0;

	for (int i = 0; i < 3 && rc == 0; i++)
		rc = one_product();
	return rc;
}

static void test_faults(void **state)
{
	(void)state;
	in_process(one_product, "access", EACCES, "usermod -aG render");
	in_process(one_product, "old", ENOTSUP, "Linux 6.14");
	in_process(locked_memory, NULL, EPERM, "memlock unlimited");
	/* XRT's own ways to find out: at its heap, at a buffer, at a later one. */
	in_process(one_product, "memlock:1", EPERM, "memlock unlimited");
	in_process(one_product, "memlock:4", EPERM, "memlock unlimited");
	in_process(many_buffers, "memlock:60", EPERM, "memlock unlimited");
	in_process(one_product, "create", EPROTO, "update firmware and kernel");
	in_process(one_product, "contexts", EBUSY, "contexts are taken");
	in_process(too_many_contexts, NULL, EBUSY, "contexts are taken");
	in_process(hang, "hang", ETIMEDOUT, "counts as wedged");
	in_process(one_product, "abort:2", EIO, "ended in state 6");
	in_process(three_products, "lost:5", ECONNRESET, "the context is lost");
	in_process(three_products, "gone:5", ECONNRESET, "the context is lost");
	in_process(end_with_it, "gone", ECONNRESET, "the context is lost");
	in_process(end_with_it, "lost", ECONNRESET, "the context is lost");
	in_process(end_with_it, "abort", EIO, "ended in state 6");
	in_process(end_with_it, "hang", ETIMEDOUT, "counts as wedged");
}

static int no_shim(void)
{
	setenv("GP_NPU_SHIM", "/no/shim.so", 1);
	return describe();
}

static int without_shim(void)
{
	unsetenv("GP_NPU_SHIM");
	return describe();
}

static int other_shim(void)
{
	setenv("GP_NPU_SHIM", "libm.so.6", 1);
	return describe();
}

static void test_shim(void **state)
{
	(void)state;
	in_process(without_shim, NULL, ENODEV, "built without XRT");
	in_process(no_shim, NULL, ENODEV, "XRT does not load");
	in_process(other_shim, NULL, ENODEV, "of another gempipe");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_products), cmocka_unit_test(test_around_it),
		cmocka_unit_test(test_programs), cmocka_unit_test(test_faults),
		cmocka_unit_test(test_shim),
	};

	if (argc != 2)
		return 2;
	programs = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}

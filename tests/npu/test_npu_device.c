/* The fake device (tests/preload/npu_device.c), asked through the ioctls themselves, so
 * that what make check-xrt leans on is tested where there is no XRT: it computes what the
 * simulated array computes, and takes nothing that a device would not take. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "kernels/aie/aie.h"
#include "tests/common/process.h"
#include "tests/preload/npu_mark.h"
#include "workers/npu/array.h"
#include "workers/npu/npu.h"
#include "workers/npu/sequence.h"
#include "workers/npu/xdna_abi.h"

#define HEAP_BYTES ((size_t)64 << 20)
enum { COMPLETED = 4, FAILED = 5, ABORTED = 6 };

static char folder[64];
static int fd;

/* ---- calls ---------------------------------------------------------------------- */
#define CALL(number, type, ...) call(DRM_REQUEST(number, type), &(type){ __VA_ARGS__ })
static int call(unsigned long request, void *a)
{
	return ioctl(fd, request, a) ? -errno : 0;
}

struct buffer {
	uint32_t handle;
	uint64_t address;
	char *host;
};

static char *heap;

static struct buffer create(enum xdna_bo_type type, size_t bytes)
{
	struct xdna_create_bo a = { .bytes = bytes, .type = type };
	struct xdna_bo_info info = { 0 };
	struct buffer b = { 0 };

	assert_int_equal(call(DRM_REQUEST(XDNA_CREATE_BO, struct xdna_create_bo), &a), 0);
	info.handle = b.handle = a.handle;
	assert_int_equal(call(DRM_REQUEST(XDNA_GET_BO_INFO, struct xdna_bo_info), &info), 0);
	b.address = info.address;
	if (type == XDNA_BO_DEV) {
		b.host = heap + (info.address - 0x4000000);
		assert_true(info.map_offset == XDNA_NO_ADDRESS);
		return b;
	}
	b.host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)info.map_offset);
	assert_ptr_not_equal(b.host, MAP_FAILED);
	if (type == XDNA_BO_HEAP)
		heap = b.host;
	else
		b.address = (uintptr_t)b.host;
	return b;
}

static uint32_t create_context(void)
{
	struct xdna_create_context a = { .tiles = 16 };

	assert_int_equal(call(DRM_REQUEST(XDNA_CREATE_CONTEXT, struct xdna_create_context), &a), 0);
	return a.handle;
}

static int configure(uint32_t context, const struct npu_mark *mark)
{
	_Alignas(struct xdna_cu_config) char room[sizeof(struct xdna_cu_config) + sizeof(struct xdna_cu)];
	struct xdna_cu_config *cus = memset(room, 0, sizeof room);
	const struct buffer program = create(XDNA_BO_DEV, 4096);

	memcpy(program.host, mark, sizeof *mark);
	cus->n = 1;
	cus->cu[0].bo = program.handle;
	return CALL(XDNA_CONFIG_CONTEXT, struct xdna_config_context, .handle = context, .type = XDNA_CONFIG_CU,
	            .value = (uintptr_t)cus, .value_bytes = sizeof room);
}

static const struct npu_mark good_mark = { NPU_MARK, "gemm-int4-32x256x64" };

/* ---- a product ----------------------------------------------------------------------- */
struct product {
	struct buffer x, w, y, words, command;
	size_t bytes[3];
	uint32_t context, n_words;
};

static void set_up_product(struct product *p)
{
	const struct gp_npu_dispatch d = { .form = GP_AIE_GEMM_INT4, .row_blocks = 1, .out_blocks = 1, .slices = 1 };
	struct gp_aie_int4_x *x;

	assert_int_equal(gp_npu_dispatch_bytes(&d, &p->bytes[0], &p->bytes[1], &p->bytes[2]), 0);
	create(XDNA_BO_HEAP, HEAP_BYTES);
	p->context = create_context();
	assert_int_equal(configure(p->context, &good_mark), 0);
	p->x = create(XDNA_BO_SHARE, p->bytes[0]);
	p->w = create(XDNA_BO_SHARE, p->bytes[1]);
	p->y = create(XDNA_BO_SHARE, p->bytes[2]);
	p->words = create(XDNA_BO_DEV, GP_NPU_SEQUENCE_WORDS * 4);
	p->command = create(XDNA_BO_CMD, 4096);
	memset(p->x.host, 3, p->bytes[0]);
	memset(p->w.host, 5, p->bytes[1]);
	x = (void *)p->x.host;
	for (int i = 0; i < 4; i++)
		x[i].header = (struct gp_aie_header){ .slices = 1 };
	assert_int_equal(gp_npu_sequence(&d, (uint32_t *)(void *)p->words.host, &p->n_words), 0);
}

/* As XRT lays out the kernel's registers; the state afterwards. */
static int run(struct product *p, uint64_t opcode, uint64_t words, uint32_t n_words, uint64_t y)
{
	const uint64_t data[] = { p->x.address, p->w.address, y };
	uint32_t *packet = (uint32_t *)(void *)p->command.host;
	struct xdna_exec a = { .context = p->context, .commands = p->command.handle, .n_commands = 1 };

	packet[0] = 1 | 12 << 12;
	memcpy(packet + 2, &opcode, 8);
	memcpy(packet + 4, &words, 8);
	packet[6] = n_words;
	memcpy(packet + 7, data, sizeof data);
	const int rc = call(DRM_REQUEST(XDNA_EXEC, struct xdna_exec), &a);
	if (rc)
		return rc;
	const struct xdna_wait wait = { .context = p->context, .sequence = a.sequence, .timeout_ms = 20 };
	const int waited = ioctl(fd, _IOW('d', XDNA_WAIT, struct xdna_wait), &wait) ? -errno : 0;
	return waited ? waited : (int)(packet[0] & 15);
}

static int run_well(struct product *p)
{
	return run(p, 3, p->words.address, p->n_words, p->y.address);
}

static int set_up(void **state)
{
	char path[128];

	(void)state;
	unsetenv("GP_NPU_FAULT");
	if (!process_has_preload("npu_device.so"))
		return 0;
	snprintf(folder, sizeof folder, "%s/gp-npu.XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof path, "%s/dev", folder);
	mkdir(path, 0700);
	snprintf(path, sizeof path, "%s/dev/accel", folder);
	mkdir(path, 0700);
	snprintf(path, sizeof path, "%s/dev/accel/accel0", folder);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
	char command[128];

	(void)state;
	if (!process_has_preload("npu_device.so"))
		return 0;
	close(fd);
	snprintf(command, sizeof command, "rm -rf '%s'", folder);
	return system(command);
}

/* ---- tests ------------------------------------------------------------------------------ */
static void test_product(void **state)
{
	struct product p;

	(void)state;
	if (!process_has_preload("npu_device.so"))
		skip();
	set_up_product(&p);
	void *want = calloc(1, p.bytes[2]);
	assert_non_null(want);
	assert_int_equal(gp_npu_array_run(good_mark.program, (uint32_t *)(void *)p.words.host, p.n_words,
	                                  (void *[]){ p.x.host, p.w.host, want }, p.bytes, 3, NULL), 0);
	for (int i = 0; i < 2; i++) {
		memset(p.y.host, 0xff, p.bytes[2]);
		assert_int_equal(run_well(&p), COMPLETED);
		assert_memory_equal(p.y.host, want, p.bytes[2]);
	}
	free(want);
}

/* What is broken is a command's end in error, and the device goes on. */
static void test_refused_commands(void **state)
{
	struct product p;

	(void)state;
	if (!process_has_preload("npu_device.so"))
		skip();
	set_up_product(&p);
	assert_int_equal(run(&p, 2, p.words.address, p.n_words, p.y.address), FAILED);
	assert_int_equal(run(&p, 3, p.words.address, p.n_words - 1, p.y.address), FAILED);
	assert_int_equal(run(&p, 3, p.words.address, GP_NPU_SEQUENCE_WORDS + 1, p.y.address), FAILED);
	assert_int_equal(run(&p, 3, p.words.address + HEAP_BYTES, p.n_words, p.y.address), FAILED);
	assert_int_equal(run(&p, 3, 0, p.n_words, p.y.address), FAILED);
	/* One word before the buffer, and a y that reaches past its end. */
	assert_int_equal(run(&p, 3, p.words.address, p.n_words, p.y.address - 4), FAILED);
	assert_int_equal(run(&p, 3, p.words.address, p.n_words, p.y.address + 4), FAILED);
	assert_int_equal(run(&p, 3, p.words.address, p.n_words, (uintptr_t)&p), FAILED);
	assert_int_equal(run_well(&p), COMPLETED);
	p.context++;
	assert_int_equal(run_well(&p), -EINVAL);
	p.context--;
	p.command = p.x;
	assert_int_equal(run_well(&p), -EINVAL);
}

static void test_programs(void **state)
{
	struct npu_mark other = good_mark;

	(void)state;
	if (!process_has_preload("npu_device.so"))
		skip();
	create(XDNA_BO_HEAP, HEAP_BYTES);
	const uint32_t context = create_context();
	assert_int_equal(configure(context, &(struct npu_mark){ .program = "gemm-int4-32x256x64" }), -EINVAL);
	other.program[0] = 0;
	assert_int_equal(configure(context, &other), -EINVAL);
	memset(other.program, 'x', sizeof other.program);
	assert_int_equal(configure(context, &other), -EINVAL);
	assert_int_equal(configure(context + 1, &good_mark), -EINVAL);
	assert_int_equal(configure(context, &good_mark), 0);
	for (uint32_t i = 1; i < GP_NPU_MAX_CONTEXTS; i++)
		create_context();
	assert_int_equal(CALL(XDNA_CREATE_CONTEXT, struct xdna_create_context, .tiles = 16), -ENOSPC);
	assert_int_equal(CALL(XDNA_DESTROY_CONTEXT, struct xdna_destroy_context, .handle = context), 0);
	assert_int_equal(CALL(XDNA_DESTROY_CONTEXT, struct xdna_destroy_context, .handle = context), -EINVAL);
	create_context();
}

static void test_buffers(void **state)
{
	(void)state;
	if (!process_has_preload("npu_device.so"))
		skip();
	assert_int_equal(CALL(XDNA_CREATE_BO, struct xdna_create_bo, .bytes = 4096, .type = XDNA_BO_DEV), -ENOMEM);
	assert_int_equal(CALL(XDNA_CREATE_BO, struct xdna_create_bo, .type = XDNA_BO_SHARE), -EINVAL);
	assert_int_equal(CALL(XDNA_CREATE_BO, struct xdna_create_bo, .bytes = 4096, .type = 9), -EINVAL);
	assert_int_equal(CALL(XDNA_GET_BO_INFO, struct xdna_bo_info, .handle = 1), -ENOENT);
	create(XDNA_BO_HEAP, HEAP_BYTES);
	/* The heap's places are taken once, and again when they are free. */
	const struct buffer a = create(XDNA_BO_DEV, 5000), b = create(XDNA_BO_DEV, HEAP_BYTES - 8192);
	assert_true(b.address >= a.address + 5000);
	assert_int_equal(CALL(XDNA_CREATE_BO, struct xdna_create_bo, .bytes = 1, .type = XDNA_BO_DEV), -ENOMEM);
	assert_int_equal(CALL(DRM_CLOSE_BO, struct drm_handle, .handle = a.handle), 0);
	assert_int_equal(CALL(DRM_CLOSE_BO, struct drm_handle, .handle = a.handle), -EINVAL);
	assert_true(create(XDNA_BO_DEV, 8192).address == a.address);
	/* New memory is zero, whoever had it before. */
	struct buffer c = create(XDNA_BO_SHARE, 4096);
	memset(c.host, 1, 4096);
	assert_int_equal(CALL(DRM_CLOSE_BO, struct drm_handle, .handle = c.handle), 0);
	c = create(XDNA_BO_SHARE, 4096);
	for (int i = 0; i < 4096; i++)
		assert_int_equal(c.host[i], 0);
	assert_int_equal(call(_IOWR('d', 0x3f, uint64_t), &(uint64_t){ 0 }), -ENOTTY);
}

static void test_faults(void **state)
{
	struct product p;

	(void)state;
	if (!process_has_preload("npu_device.so"))
		skip();
	set_up_product(&p);
	setenv("GP_NPU_FAULT", "hang:2", 1);
	assert_int_equal(run_well(&p), COMPLETED);
	assert_int_equal(run_well(&p), -ETIME);
	setenv("GP_NPU_FAULT", "abort", 1);
	assert_int_equal(run_well(&p), ABORTED);
	setenv("GP_NPU_FAULT", "lost", 1);
	assert_int_equal(run_well(&p), -EINVAL);
	setenv("GP_NPU_FAULT", "gone", 1);
	assert_int_equal(run_well(&p), -ENODEV);
	assert_int_equal(CALL(DRM_CLOSE_BO, struct drm_handle, .handle = p.x.handle), -ENODEV);
}

int main(int argc, char **argv)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	/* The last leaves a device behind that is gone. */
	const struct CMUnitTest tests[] = {
		TEST(test_product), TEST(test_refused_commands), TEST(test_programs), TEST(test_buffers),
		TEST(test_faults),
	};

	(void)argc;
	process_preload("npu_device.so", argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

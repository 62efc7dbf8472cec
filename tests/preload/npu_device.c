/* Preloaded into a program, to have an NPU where there is none: answers the ioctls of
 * Linux' amdxdna driver for /dev/accel/accel0, which is a sparse file here, so that the
 * vendor's unmodified runtime talks to it. Commands are run by the software model of the
 * array (workers/npu/array.h): only programs made for it (npu_mark.h) are taken, and the
 * device calls itself SIMULATED.
 *
 * Memory of a buffer is a range of the file; its address for the device is that of the
 * mapping in this process, but for buffers in the heap, which have the heap's own.
 *
 * GP_NPU_FAULT=WHAT[:CALL] makes a device that fails at the CALL-th of the calls in
 * question (1 if not given) and from then on:
 *   old          the driver knows none of the calls that a version needs
 *   name         another driver than amdxdna answers
 *   firmware     the firmware has no version
 *   array        the array is that of a later device
 *   access       opening is not permitted
 *   memlock      memory cannot be locked (mmap)
 *   contexts     no context is free
 *   create       a context cannot be made
 *   hang         a command never ends
 *   abort        a command ends with an error
 *   lost         the context is gone at the next command
 *   gone         the device is gone at the next command: nothing answers any more
 * GP_NPU_LOG=FILE: a line for each call that is answered. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/preload/npu_mark.h"
#include "workers/npu/array.h"
#include "workers/npu/npu.h"
#include "workers/npu/xdna_abi.h"

enum { MOST_BOS = 512, CUS = 4, PAGE = 4096, REGISTERS = 0x14, MOST_ARGS = GP_NPU_MAX_BUFFERS };
enum command_state { NEW = 1, COMPLETED = 4, FAILED = 5, ABORTED = 6 };
#define HEAP_ADDRESS 0x4000000ull /* of the heap's buffers, in the array's space */

struct bo {
	enum xdna_bo_type type;         /* 0: free */
	uint64_t bytes, at;             /* in the file; of a heap's buffer: in the heap */
	char *host;                     /* where this process has it; NULL: not yet */
};

struct context {
	bool used, configured;
	char program[GP_NPU_NAME_BYTES];
	uint64_t done;                  /* commands */
};

/* One device for a process; the lock is for threads of the runtime. */
static struct {
	pthread_mutex_t lock;
	int fd;                         /* -1: not open */
	struct bo bo[MOST_BOS];         /* by handle */
	struct context context[GP_NPU_MAX_CONTEXTS + 1]; /* by handle; 0 is none */
	uint64_t file_bytes, sequence;
	char *heap;
	bool gone;                      /* whatever is asked */
} npu = { .lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1 };

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

static void say(const char *fmt, ...)
{
	static FILE *log;
	const char *path = getenv("GP_NPU_LOG");
	va_list a;

	if (!path || (!log && !(log = fopen(path, "ae"))))
		return;
	va_start(a, fmt);
	vfprintf(log, fmt, a);
	va_end(a);
	fputc('\n', log);
	fflush(log);
}

/* Is it this fault, and has its call come? */
static bool fails(const char *what, unsigned *calls)
{
	const char *fault = getenv("GP_NPU_FAULT");
	const size_t n = strlen(what);

	if (!fault || strncmp(fault, what, n) != 0 || (fault[n] != ':' && fault[n] != 0))
		return false;
	return ++*calls >= (fault[n] ? (unsigned)atoi(fault + n + 1) : 1);
}

/* ---- buffers ------------------------------------------------------------------ */
static struct bo *bo_of(uint32_t handle)
{
	return handle > 0 && handle < MOST_BOS && npu.bo[handle].type ? &npu.bo[handle] : NULL;
}

/* First place in the heap that no other buffer has. */
static bool place_in_heap(struct bo *bo, uint64_t heap_bytes)
{
	uint64_t at = 0;

	for (uint32_t i = 1; i < MOST_BOS; i++) {
		const struct bo *b = &npu.bo[i];
		if (b == bo || b->type != XDNA_BO_DEV || b->at >= at + bo->bytes || at >= b->at + b->bytes)
			continue;
		at = (b->at + b->bytes + PAGE - 1) / PAGE * PAGE;
		i = 0;
	}
	bo->at = at;
	return at + bo->bytes <= heap_bytes;
}

static const struct bo *heap_bo(void)
{
	for (uint32_t i = 1; i < MOST_BOS; i++)
		if (npu.bo[i].type == XDNA_BO_HEAP)
			return &npu.bo[i];
	return NULL;
}

static int place(struct bo *bo)
{
	const struct bo *heap = heap_bo();

	if (bo->type == XDNA_BO_DEV)
		return heap && place_in_heap(bo, heap->bytes) ? 0 : ENOMEM;
	bo->at = npu.file_bytes;
	npu.file_bytes += (bo->bytes + PAGE - 1) / PAGE * PAGE;
	return ftruncate(npu.fd, (off_t)npu.file_bytes) ? errno : 0;
}

static int create_bo(struct xdna_create_bo *a)
{
	struct bo *bo;
	uint32_t handle = 1;

	while (handle < MOST_BOS && npu.bo[handle].type)
		handle++;
	if (handle == MOST_BOS)
		return ENOMEM;
	if (a->bytes == 0 || a->bytes > 1ull << 34 || a->vaddr || a->flags || a->type < XDNA_BO_SHARE ||
	    a->type > XDNA_BO_CMD)
		return EINVAL;
	bo = &npu.bo[handle];
	*bo = (struct bo){ .type = (enum xdna_bo_type)a->type, .bytes = a->bytes };
	const int rc = place(bo);
	if (rc)
		bo->type = 0;
	a->handle = handle;
	return rc;
}

static int bo_info(struct xdna_bo_info *a)
{
	const struct bo *bo = bo_of(a->handle);

	if (!bo)
		return ENOENT;
	a->map_offset = bo->type == XDNA_BO_DEV ? XDNA_NO_ADDRESS : bo->at;
	a->vaddr = 0;
	a->address = bo->type == XDNA_BO_DEV ? HEAP_ADDRESS + bo->at :
	             bo->type == XDNA_BO_HEAP ? HEAP_ADDRESS : XDNA_NO_ADDRESS;
	return 0;
}

static int close_bo(const struct drm_handle *a)
{
	struct bo *bo = bo_of(a->handle);

	if (!bo)
		return EINVAL;
	if (bo->type == XDNA_BO_HEAP)
		npu.heap = NULL;
	/* Its pages are given back; its range is not used again. */
	if (bo->type != XDNA_BO_DEV)
		fallocate(npu.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)bo->at, (off_t)bo->bytes);
	bo->type = 0;
	return 0;
}

/* What the device sees in a buffer; NULL: this process has not mapped it. */
static char *contents(const struct bo *bo)
{
	if (bo->type != XDNA_BO_DEV)
		return bo->host;
	return npu.heap ? npu.heap + bo->at : NULL;
}

/* The buffer that has this address for the device, and its rest from there on. */
static char *at_address(uint64_t address, uint64_t *rest)
{
	for (uint32_t i = 1; i < MOST_BOS; i++) {
		const struct bo *bo = &npu.bo[i];
		const uint64_t start = bo->type == XDNA_BO_DEV ? HEAP_ADDRESS + bo->at : (uintptr_t)bo->host;
		if (!bo->type || bo->type == XDNA_BO_HEAP || !contents(bo) || address < start ||
		    address - start >= bo->bytes)
			continue;
		*rest = bo->bytes - (address - start);
		return contents(bo) + (address - start);
	}
	return NULL;
}

/* ---- contexts ------------------------------------------------------------------- */
static int create_context(struct xdna_create_context *a)
{
	static unsigned full, broken;
	uint32_t handle = 1;

	if (fails("create", &broken))
		return EINVAL;
	while (handle <= GP_NPU_MAX_CONTEXTS && npu.context[handle].used)
		handle++;
	if (handle > GP_NPU_MAX_CONTEXTS || fails("contexts", &full))
		return ENOSPC;
	npu.context[handle] = (struct context){ .used = true };
	a->handle = handle;
	a->umq_doorbell = UINT32_MAX;
	a->syncobj = handle;
	return 0;
}

static struct context *context_of(uint32_t handle)
{
	return handle > 0 && handle <= GP_NPU_MAX_CONTEXTS && npu.context[handle].used ?
	       &npu.context[handle] : NULL;
}

static int destroy_context(const struct xdna_destroy_context *a)
{
	struct context *c = context_of(a->handle);

	if (!c)
		return EINVAL;
	c->used = false;
	return 0;
}

/* The program's text: only this project's mark and a name are one. */
static int configure(const struct xdna_config_context *a)
{
	const struct xdna_cu_config *cus = (const struct xdna_cu_config *)(uintptr_t)a->value;
	struct context *c = context_of(a->handle);

	if (!c || a->type != XDNA_CONFIG_CU || a->value_bytes < sizeof *cus + sizeof *cus->cu || cus->n != 1)
		return EINVAL;
	const struct bo *bo = bo_of(cus->cu[0].bo);
	const struct npu_mark *mark = bo && bo->bytes >= sizeof *mark ? (const void *)contents(bo) : NULL;
	if (!mark || memcmp(mark->text, NPU_MARK, sizeof mark->text) != 0 || mark->program[0] == 0 ||
	    memchr(mark->program, 0, sizeof mark->program) == NULL) {
		say("refused: a program that is not for the simulated array");
		return EINVAL;
	}
	memcpy(c->program, mark->program, sizeof c->program);
	c->configured = true;
	say("program %s", c->program);
	return 0;
}

/* ---- commands --------------------------------------------------------------------- */
/* The registers of a kernel as programs here have them: opcode 3, instructions, their
 * count in words, data buffers. */
static bool run(const struct context *c, const uint32_t *registers, uint32_t n)
{
	uint64_t word[3 + MOST_ARGS], rest = 0;
	void *args[MOST_ARGS];
	size_t bytes[MOST_ARGS], n_args = 0;
	uint32_t n_words;

	if (n * 4 < REGISTERS + 8)
		return false;
	memcpy(&word[0], registers, 8);
	memcpy(&word[1], registers + 2, 8);
	n_words = registers[4];
	const uint32_t *words = (const void *)at_address(word[1], &rest);
	if (word[0] != 3 || !words || n_words > rest / 4) {
		say("refused: opcode %u, %u words of instructions", (unsigned)word[0], n_words);
		return false;
	}
	while (n_args < MOST_ARGS && REGISTERS + 8 * (n_args + 1) <= n * 4) {
		memcpy(&word[2], registers + 5 + 2 * n_args, 8);
		args[n_args] = at_address(word[2], &rest);
		if (!args[n_args])
			break;
		bytes[n_args++] = rest;
	}
	const int rc = gp_npu_array_run(c->program, words, n_words, args, bytes, n_args, NULL);
	if (rc)
		say("refused: %s", gp_error());
	return rc == 0;
}

static int execute(struct xdna_exec *a)
{
	static unsigned hangs, aborts, lost, gone;
	struct context *c = context_of(a->context);
	struct bo *bo = bo_of((uint32_t)a->commands);

	npu.gone |= fails("gone", &gone);
	if (npu.gone)
		return ENODEV;
	if (fails("lost", &lost) || !c)
		return EINVAL;
	if (!c->configured || !bo || bo->type != XDNA_BO_CMD || !bo->host || a->type != XDNA_EXEC_BUFFER ||
	    a->n_commands != 1)
		return EINVAL;
	uint32_t *packet = (uint32_t *)(void *)bo->host;
	/* state 3:0, extra masks 11:10, words that follow 22:12, opcode 27:23 */
	const uint32_t extra = packet[0] >> 10 & 3, count = packet[0] >> 12 & 0x7ff;
	if (count < 1 + extra || (count + 1) * 4 > bo->bytes)
		return EINVAL;
	a->sequence = ++npu.sequence;
	if (fails("hang", &hangs))
		return 0;
	enum command_state state = run(c, packet + 2 + extra, count - 1 - extra) ? COMPLETED : FAILED;
	if (fails("abort", &aborts))
		state = ABORTED;
	c->done = a->sequence;
	packet[0] = (packet[0] & ~15u) | state;
	return 0;
}

/* Commands end before execute returns, or never. */
static int wait_for(const struct context *c, uint64_t sequence, int64_t until_ns)
{
	struct timespec now;

	if (!c)
		return EINVAL;
	while (c->done < sequence) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec * 1000000000LL + now.tv_nsec >= until_ns)
			return ETIME;
		pthread_mutex_unlock(&npu.lock);
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
		pthread_mutex_lock(&npu.lock);
	}
	return 0;
}

static int wait_syncobj(const struct drm_timeline_wait *a)
{
	const uint32_t *handle = (const uint32_t *)(uintptr_t)a->handles;
	const uint64_t *point = (const uint64_t *)(uintptr_t)a->points;

	if (a->n != 1)
		return EINVAL;
	return wait_for(context_of(handle[0]), point[0], a->until_ns);
}

static int wait_command(const struct xdna_wait *a)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return wait_for(context_of(a->context), a->sequence, a->timeout_ms == 0 ? INT64_MAX :
	                now.tv_sec * 1000000000LL + now.tv_nsec + a->timeout_ms * 1000000LL);
}

/* ---- questions ----------------------------------------------------------------------- */
static int answer(struct xdna_get_info *a, const void *data, size_t bytes)
{
	if (a->bytes < bytes)
		return ENOSPC;
	memcpy((void *)(uintptr_t)a->buffer, data, bytes);
	a->bytes = (uint32_t)bytes;
	return 0;
}

static int get_info(struct xdna_get_info *a)
{
	static const struct xdna_aie_metadata metadata = {
		.column_bytes = 0x2000000, .columns = 5, .rows = 6, .version = { 1, 1 },
		.core = { 4, 2, 2, 16, 4, { 0 } }, .memory = { 1, 1, 6, 64, 8, { 0 } },
		.shim = { 1, 0, 2, 16, 8, { 0 } },
	};
	static const struct xdna_aie_metadata other = { .columns = 1, .version = { 1, 1 }, .core = { .rows = 4 } };
	static unsigned firmwares, arrays;
	static const struct xdna_clocks clocks = { { "MP-NPU Clock", 800, 0 }, { "H Clock", 1000, 0 } };

	switch (a->query) {
	case XDNA_AIE_METADATA:
		return answer(a, fails("array", &arrays) ? &other : &metadata, sizeof metadata);
	case XDNA_AIE_VERSION:
		return answer(a, &metadata.version, sizeof metadata.version);
	case XDNA_CLOCKS:
		return answer(a, &clocks, sizeof clocks);
	case XDNA_FIRMWARE_VERSION:
		return answer(a, fails("firmware", &firmwares) ? &(struct xdna_firmware){ 0, 0, 0, 0 } :
		              &(struct xdna_firmware){ 1, 5, 0, 0 }, sizeof(struct xdna_firmware));
	case XDNA_POWER_MODE:
		return answer(a, &(uint64_t){ 0 }, sizeof(uint64_t));
	case XDNA_RESOURCES:
		return answer(a, &(uint64_t[5]){ 1000, 10, GP_NPU_MAX_CONTEXTS, 10, 0 }, sizeof(uint64_t[5]));
	case XDNA_SENSORS:
	case XDNA_CONTEXTS:
		a->bytes = 0;
		return 0;
	}
	return EOPNOTSUPP;
}

static int version(struct drm_version_text *v)
{
	static unsigned names;
	const char *name = fails("name", &names) ? "other" : "amdxdna_accel_driver";

	v->major = 0;
	v->minor = 6;
	v->patch = 0;
	if (v->name)
		memcpy(v->name, name, v->name_bytes < strlen(name) ? v->name_bytes : strlen(name));
	v->name_bytes = strlen(name);
	v->date_bytes = v->text_bytes = 0;
	return 0;
}

/* ---- the calls ------------------------------------------------------------------------- */
/* An errno; -1: this device has no such call. */
static int dispatch(unsigned number, void *a)
{
	switch (number) {
	case DRM_VERSION: return version(a);
	case DRM_CLOSE_BO: return close_bo(a);
	case DRM_SYNCOBJ_WAIT: return wait_syncobj(a);
	case DRM_SYNCOBJ_DESTROY: return 0;
	case XDNA_CREATE_CONTEXT: return create_context(a);
	case XDNA_DESTROY_CONTEXT: return destroy_context(a);
	case XDNA_CONFIG_CONTEXT: return configure(a);
	case XDNA_CREATE_BO: return create_bo(a);
	case XDNA_GET_BO_INFO: return bo_info(a);
	case XDNA_SYNC_BO: return 0;
	case XDNA_EXEC: return execute(a);
	case XDNA_GET_INFO: return get_info(a);
	case XDNA_GET_ARRAY: ((struct xdna_get_array *)a)->n = 0; return 0;
	case XDNA_WAIT: return wait_command(a);
	}
	return -1;
}

static int answer_ioctl(unsigned long request, void *a)
{
	static unsigned olds;
	int rc;

	pthread_mutex_lock(&npu.lock);
	rc = npu.gone ? ENODEV : _IOC_NR(request) != DRM_VERSION && fails("old", &olds) ? EINVAL :
	     dispatch(_IOC_NR(request), a);
	say("ioctl %#lx: %d", _IOC_NR(request), rc);
	pthread_mutex_unlock(&npu.lock);
	if (rc)
		errno = rc < 0 ? ENOTTY : rc;
	return rc ? -1 : 0;
}

/* What is put in front of the C library's. */
#pragma GCC visibility push(default)

int ioctl(int fd, unsigned long request, ...)
{
	int (*real)(int, unsigned long, void *) = (int (*)(int, unsigned long, void *))next("ioctl");
	va_list list;

	va_start(list, request);
	void *a = va_arg(list, void *);
	va_end(list);
	return fd >= 0 && fd == npu.fd ? answer_ioctl(request, a) : real(fd, request, a);
}

static bool is_device(const char *path)
{
	static const char node[] = "/dev/accel/accel0";
	const size_t n = strlen(path);

	/* Tests that look at sysfs have their own root. */
	return n >= sizeof node - 1 && strcmp(path + n - (sizeof node - 1), node) == 0;
}

static int open_it(const char *name, const char *path, int flags, mode_t mode)
{
	int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))next(name);
	static unsigned calls;

	if (is_device(path) && fails("access", &calls)) {
		errno = EACCES;
		return -1;
	}
	const int fd = real(path, flags, mode);
	if (fd >= 0 && is_device(path)) {
		npu.fd = fd;
		say("opened");
	}
	return fd;
}

#define MODE(flags) ({ va_list l; va_start(l, flags); \
	const mode_t m = (flags) & O_CREAT ? va_arg(l, mode_t) : 0; va_end(l); m; })
int open(const char *path, int flags, ...)
{
	return open_it("open", path, flags, MODE(flags));
}

int open64(const char *path, int flags, ...)
{
	return open_it("open64", path, flags, MODE(flags));
}

int close(int fd)
{
	int (*real)(int) = (int (*)(int))next("close");

	if (fd >= 0 && fd == npu.fd) {
		pthread_mutex_lock(&npu.lock);
		say("closed");
		npu.fd = -1;
		npu.file_bytes = 0;
		npu.heap = NULL;
		memset(npu.bo, 0, sizeof npu.bo);
		memset(npu.context, 0, sizeof npu.context);
		pthread_mutex_unlock(&npu.lock);
	}
	return real(fd);
}

static void remember(off_t offset, void *host)
{
	for (uint32_t i = 1; i < MOST_BOS; i++) {
		struct bo *bo = &npu.bo[i];
		if (!bo->type || bo->type == XDNA_BO_DEV || bo->at != (uint64_t)offset)
			continue;
		bo->host = host;
		if (bo->type == XDNA_BO_HEAP)
			npu.heap = host;
	}
}

static void *map_it(const char *name, void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
	void *(*real)(void *, size_t, int, int, int, off_t) =
		(void *(*)(void *, size_t, int, int, int, off_t))next(name);
	static unsigned calls;

	if (fd < 0 || fd != npu.fd)
		return real(at, bytes, protection, flags, fd, offset);
	if (fails("memlock", &calls)) {
		errno = EAGAIN;
		return MAP_FAILED;
	}
	/* What the real device locks is not locked here: no test needs that much. */
	void *host = real(at, bytes, protection, flags & ~MAP_LOCKED, fd, offset);
	pthread_mutex_lock(&npu.lock);
	if (host != MAP_FAILED)
		remember(offset, host);
	pthread_mutex_unlock(&npu.lock);
	return host;
}

void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
	return map_it("mmap", at, bytes, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t bytes, int protection, int flags, int fd, off64_t offset)
{
	return map_it("mmap64", at, bytes, protection, flags, fd, offset);
}

#pragma GCC visibility pop

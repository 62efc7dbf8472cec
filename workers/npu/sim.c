/* The simulated device. A command runs when it is waited for, on the calling thread: what
 * its caller changes too early shows.
 *
 * For tests, GP_NPU_SIM_FAULT=KIND[@N] makes it fail as a real one does: no-device,
 * permission, firmware, old-driver (probe and open), memlock (alloc), contexts (load), and
 * at the N-th command of the process, first if not said: timeout, wedged, lost, and stuck,
 * which is wedged and leaves the file GP_NPU_SIM_STUCK: while that is there, no process can
 * open the device. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "kernels/aie/aie.h"
#include "workers/npu/array.h"
#include "workers/npu/npu.h"

struct gp_npu_buffer { void *data; size_t bytes; struct gp_npu_buffer *next; };
struct gp_npu_context { char program[GP_NPU_NAME_BYTES]; struct gp_npu_context *next; };

struct gp_npu {
	struct gp_npu_buffer *buffers;
	struct gp_npu_context *contexts;
	uint32_t n_contexts;
	bool runs, hangs, dead;
	uint64_t commands;
	struct gp_npu_command command; /* that runs */
};

/* ---- faults ------------------------------------------------------------------------ */
static bool fault_is(const char *kind)
{
	const char *text = getenv("GP_NPU_SIM_FAULT");
	const size_t n = strlen(kind);

	return text && strncmp(text, kind, n) == 0 && (text[n] == '\0' || text[n] == '@');
}

static bool fault_now(const char *kind, uint64_t command)
{
	const char *at = fault_is(kind) ? strchr(getenv("GP_NPU_SIM_FAULT"), '@') : NULL;

	return fault_is(kind) && command == (at ? strtoull(at + 1, NULL, 10) : 1);
}

static int get_stuck(void)
{
	const char *path = getenv("GP_NPU_SIM_STUCK");
	const int fd = path ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;

	if (fd >= 0)
		close(fd);
	return gp_fail(EIO, "the NPU does not take commands (simulated fault)");
}

static int fault_at_open(void)
{
	const char *stuck = getenv("GP_NPU_SIM_STUCK");

	if (stuck && access(stuck, F_OK) == 0)
		return gp_fail(EPROTO, "the NPU's firmware does not answer (simulated fault)");
	if (fault_is("no-device"))
		return gp_fail(ENODEV, "no NPU (simulated fault): /dev/accel/accel0 does not exist");
	if (fault_is("permission"))
		return gp_fail(EACCES, "the NPU may not be opened (simulated fault); join the group render");
	if (fault_is("firmware"))
		return gp_fail(EPROTO, "the NPU's firmware speaks another protocol (simulated fault)");
	if (fault_is("old-driver"))
		return gp_fail(ENOTSUP, "the NPU's driver is too old (simulated fault)");
	return 0;
}

/* ---- the device -------------------------------------------------------------------- */
static int sim_probe(struct gp_npu_info *info)
{
	const int rc = fault_at_open();

	if (rc == 0)
		*info = (struct gp_npu_info){
			.device = "SIMULATED NPU Phoenix", .driver = "simulated",
			.columns = GP_NPU_COLUMNS, .rows = GP_NPU_ROWS, .clock_hz = GP_ARRAY_CLOCK_HZ,
			.simulated = true,
		};
	return rc;
}

static int sim_open(struct gp_npu **npu)
{
	const int rc = fault_at_open();

	if (rc < 0)
		return rc;
	*npu = calloc(1, sizeof **npu);
	return *npu ? 0 : gp_fail(ENOMEM, "no memory for the simulated NPU");
}

static void sim_free(struct gp_npu *npu, struct gp_npu_buffer *buffer)
{
	for (struct gp_npu_buffer **b = &npu->buffers; *b; b = &(*b)->next)
		if (*b == buffer) {
			*b = buffer->next;
			free(buffer->data);
			free(buffer);
			return;
		}
}

static void sim_unload(struct gp_npu *npu, struct gp_npu_context *context)
{
	for (struct gp_npu_context **c = &npu->contexts; *c; c = &(*c)->next)
		if (*c == context) {
			*c = context->next;
			npu->n_contexts--;
			free(context);
			return;
		}
}

static void sim_close(struct gp_npu *npu)
{
	if (!npu)
		return;
	while (npu->buffers)
		sim_free(npu, npu->buffers);
	while (npu->contexts)
		sim_unload(npu, npu->contexts);
	free(npu);
}

static int sim_alloc(struct gp_npu *npu, struct gp_npu_context *context, enum gp_npu_use use,
                     size_t bytes, struct gp_npu_buffer **buffer, void **host)
{
	char text[32];
	size_t whole;

	(void)context;
	(void)use;
	if (fault_is("memlock"))
		return gp_fail(EPERM, "%s for the NPU cannot be locked in memory (simulated fault); raise "
		               "the limit: ulimit -l unlimited", gp_size_text(text, bytes));
	struct gp_npu_buffer *b = calloc(1, sizeof *b);
	if (b && gp_size_round_up(bytes, GP_NPU_BUFFER_ALIGN, &whole))
		b->data = aligned_alloc(GP_NPU_BUFFER_ALIGN, whole);
	if (!b || !b->data) {
		free(b);
		return gp_fail(ENOMEM, "no memory for %s of the simulated NPU", gp_size_text(text, bytes));
	}
	memset(b->data, 0, whole);
	b->bytes = bytes;
	b->next = npu->buffers;
	npu->buffers = b;
	*buffer = b;
	*host = b->data;
	return 0;
}

static int sim_sync(struct gp_npu *npu, struct gp_npu_buffer *buffer, enum gp_npu_direction to,
                    size_t offset, size_t bytes)
{
	(void)to;
	if (npu->dead)
		return gp_fail(EIO, "the simulated NPU is wedged");
	if (offset > buffer->bytes || bytes > buffer->bytes - offset)
		return gp_fail(EINVAL, "sync of bytes %zu to %zu of a buffer of %zu", offset,
		               offset + bytes, buffer->bytes);
	return 0;
}

static int sim_load(struct gp_npu *npu, const struct gp_npu_program *program,
                    struct gp_npu_context **context)
{
	if (npu->n_contexts == GP_NPU_MAX_CONTEXTS || fault_is("contexts"))
		return gp_fail(EBUSY, "the simulated NPU has no context left; end other programs that "
		               "use it");
	if (!gp_aie_form_by_name(program->name))
		return gp_fail(ENOENT, "the simulated NPU has no program '%s'", program->name);
	struct gp_npu_context *c = calloc(1, sizeof *c);
	if (!c)
		return gp_fail(ENOMEM, "no memory for the simulated NPU");
	memcpy(c->program, program->name, sizeof c->program);
	c->next = npu->contexts;
	npu->contexts = c;
	npu->n_contexts++;
	*context = c;
	return 0;
}

/* ---- commands ------------------------------------------------------------------------ */
static int run(const struct gp_npu_command *c, struct gp_npu_result *result)
{
	void *args[GP_NPU_MAX_BUFFERS];
	size_t bytes[GP_NPU_MAX_BUFFERS];
	struct gp_npu_count count;

	for (uint32_t i = 0; i < c->n_buffers; i++) {
		args[i] = c->buffers[i]->data;
		bytes[i] = c->buffers[i]->bytes;
	}
	const int rc = gp_npu_array_run(c->context->program, c->instructions->data, c->words, args,
	                                bytes, c->n_buffers, &count);
	if (rc == 0)
		*result = (struct gp_npu_result){
			.ns = count.ns, .cycles = count.cycles, .bytes_in = count.bytes_in,
			.bytes_out = count.bytes_out, .simulated = true,
		};
	return rc;
}

static int sim_submit(struct gp_npu *npu, const struct gp_npu_command *c)
{
	if (npu->dead)
		return gp_fail(EIO, "the simulated NPU is wedged");
	if (npu->runs)
		return gp_fail(EBUSY, "the simulated NPU runs a command already");
	if (c->n_buffers > GP_NPU_MAX_BUFFERS || c->words > c->instructions->bytes / 4)
		return gp_fail(EINVAL, "a command of %u buffers and %u words of instructions",
		               c->n_buffers, c->words);
	npu->commands++;
	if (fault_now("wedged", npu->commands)) {
		npu->dead = true;
		return gp_fail(EIO, "the NPU does not take commands (simulated fault)");
	}
	if (fault_now("stuck", npu->commands)) {
		npu->dead = true;
		return get_stuck();
	}
	if (fault_now("lost", npu->commands)) {
		npu->dead = true;
		return gp_fail(ECONNRESET, "the NPU's context is lost (simulated fault)");
	}
	npu->hangs = fault_now("timeout", npu->commands);
	npu->command = *c;
	npu->runs = true;
	return 0;
}

static int hang(struct gp_npu *npu, uint64_t deadline_ns, const volatile bool *cancelled)
{
	const struct timespec nap = { .tv_nsec = 5000000 };

	while (gp_now_ns() < deadline_ns) {
		if (cancelled && __atomic_load_n(cancelled, __ATOMIC_RELAXED))
			return gp_fail(ECANCELED, "the wait was cancelled");
		nanosleep(&nap, NULL);
	}
	npu->dead = true;
	return gp_fail(ETIMEDOUT, "the simulated NPU did not end a command in time: it counts as wedged");
}

static int sim_wait(struct gp_npu *npu, uint64_t deadline_ns, const volatile bool *cancelled,
                    struct gp_npu_result *result)
{
	if (npu->dead)
		return gp_fail(EIO, "the simulated NPU is wedged");
	if (!npu->runs)
		return gp_fail(EINVAL, "the simulated NPU runs nothing");
	const bool asks = gp_now_ns() >= deadline_ns;
	const int rc = npu->hangs ? -ETIMEDOUT : run(&npu->command, result);
	npu->runs = npu->hangs = rc == -ETIMEDOUT;
	/* What would wait forever on the array hangs here, too: its deadline ends it. */
	if (npu->hangs)
		return asks ? gp_fail(EAGAIN, "the command still runs") :
			      hang(npu, deadline_ns, cancelled);
	return rc;
}

const struct gp_npu_driver gp_npu_sim = {
	.name = "sim", .simulated = true, .probe = sim_probe, .open = sim_open, .close = sim_close,
	.alloc = sim_alloc, .free = sim_free, .sync = sim_sync, .load = sim_load,
	.unload = sim_unload, .submit = sim_submit, .wait = sim_wait,
};

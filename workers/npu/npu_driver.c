/* From the worker to the device interface: one device, its programs, its memory, one
 * command at a time. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "workers/npu/array.h"
#include "workers/npu/npu_device.h"

/* A command that takes 20 times what is predicted and 2 s hangs. */
#define DEADLINE_NS 2000000000u
#define DEADLINE_TIMES 20u
#define LEAST_WAIT_NS 100000000u

int npu_driver(const char *which, const struct gp_npu_driver **driver)
{
	*driver = NULL;
	if (which && strcmp(which, "off") == 0)
		return 0;
	if (which && strcmp(which, "sim") == 0) {
		*driver = &gp_npu_sim;
		return 0;
	}
	if (which)
		return gp_fail(EINVAL, "--npu '%.20s': must be sim or off", which);
	return gp_npu_xrt(driver);
}

const char *npu_word(const struct npu_device *d)
{
	return d->info.simulated ? "simulated NPU" : "NPU";
}

/* Where programs are: GP_NPU_PROGRAMS, else what `kernels/aie/build` made and installed. */
static int program_path(const char *name, char path[4096])
{
	const char *folder = getenv("GP_NPU_PROGRAMS");

	if (!folder || !*folder)
		folder = GP_NPU_PROGRAM_DIR;
	if (snprintf(path, 4096, "%s/%s.xclbin", folder, name) >= 4096)
		return gp_fail(ENAMETOOLONG, "GP_NPU_PROGRAMS: the path is too long");
	return 0;
}

static int load(struct npu_device *d, enum gp_aie_form form)
{
	struct gp_npu_program p = { .path = NULL };
	char path[4096];
	int rc;

	snprintf(p.name, sizeof p.name, "%s", gp_aie_forms[form].name);
	if (!d->driver->simulated) {
		if ((rc = program_path(p.name, path)) < 0)
			return rc;
		p.path = path;
	}
	if ((rc = d->driver->load(d->npu, &p, &d->context[form])) < 0)
		return gp_fail_in(rc, "%s: program %s", npu_word(d), p.name);
	return 0;
}

int npu_context(struct npu_device *d, enum gp_aie_form form, struct gp_npu_context **context)
{
	int rc = d->context[form] ? 0 : load(d, form);

	if (rc == 0 && !d->instructions.buffer)
		rc = npu_take(d, GP_NPU_INSTRUCTIONS, GP_NPU_SEQUENCE_WORDS * sizeof(uint32_t),
		              "instructions", &d->instructions);
	*context = d->context[form];
	return rc;
}

int npu_take(struct npu_device *d, enum gp_npu_use use, size_t bytes, const char *what,
             struct npu_memory *m)
{
	struct gp_npu_context *last = NULL;

	for (unsigned f = 0; f < GP_AIE_FORMS; f++)
		last = d->context[f] ? d->context[f] : last;
	const int rc = d->driver->alloc(d->npu, last, use, bytes, &m->buffer, &m->host);
	if (rc < 0)
		return gp_fail_in(rc, "%s: %s", npu_word(d), what);
	m->bytes = bytes;
	return 0;
}

void npu_give(struct npu_device *d, struct npu_memory *m)
{
	if (m->buffer)
		d->driver->free(d->npu, m->buffer);
	*m = (struct npu_memory){ 0 };
}

int npu_submit(struct npu_device *d, const struct gp_npu_dispatch *dispatch,
               const struct npu_memory *w, const struct npu_memory *x, const struct npu_memory *y)
{
	struct gp_npu_command c = {
		.n_buffers = 3,
		.buffers = { x->buffer, w->buffer, y->buffer },
	};
	struct gp_npu_count predicted;
	int rc;

	if ((rc = npu_context(d, dispatch->form, &c.context)) < 0)
		return rc;
	c.instructions = d->instructions.buffer;
	if ((rc = gp_npu_sequence(dispatch, d->instructions.host, &c.words)) < 0 ||
	    (rc = d->driver->sync(d->npu, d->instructions.buffer, GP_NPU_TO_DEVICE, 0,
	                          c.words * sizeof(uint32_t))) < 0 ||
	    (rc = d->driver->submit(d->npu, &c)) < 0)
		return rc;
	gp_npu_array_predict(dispatch, &predicted);
	d->deadline_ns = gp_now_ns() + DEADLINE_NS + DEADLINE_TIMES * predicted.ns;
	d->runs = true;
	return 0;
}

int npu_wait(struct npu_device *d, struct gp_npu_result *result)
{
	/* The host may have been busy with its share for longer. */
	const uint64_t least = gp_now_ns() + LEAST_WAIT_NS;
	const int rc = d->driver->wait(d->npu, d->deadline_ns > least ? d->deadline_ns : least,
	                               &d->cancelled, result);

	d->runs = rc == -ECANCELED;
	if (rc < 0)
		return rc;
	d->commands++;
	d->command_ns += result->ns;
	return 0;
}

int npu_drain(struct npu_device *d)
{
	struct gp_npu_result r;

	__atomic_store_n(&d->cancelled, false, __ATOMIC_RELAXED);
	return d->runs ? npu_wait(d, &r) : 0;
}

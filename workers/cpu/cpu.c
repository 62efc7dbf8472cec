/* The CPU as a device: any x86-64 machine, with the kernels of its best
 * instruction set. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "workers/cpu/cpu_device.h"
#include "workers/workers.h"

void cpu_finish(struct cpu_device *d)
{
	cpu_release(d);
	gp_threads_destroy(d->threads);
	free(d->shares);
	d->threads = NULL;
	d->shares = NULL;
}

int cpu_start(struct cpu_device *d, const struct gp_device_options *o)
{
	unsigned mask;
	int rc;

	if ((rc = gp_cpu_mask_wanted(&mask)) < 0)
		return rc;
	gp_kernels_init(&d->k, mask);
	if ((rc = gp_threads_create(&d->threads, o->threads, o->first_cpu)) < 0)
		return rc;
	d->shares = aligned_alloc(_Alignof(struct cpu_share), MAX_MATMUL_OUT *
	                          gp_threads_count(d->threads) * sizeof(*d->shares));
	if (d->shares)
		return 0;
	cpu_finish(d);
	return gp_fail(ENOMEM, "no memory for the CPU device");
}

static void cpu_close(void *dev)
{
	if (dev)
		cpu_finish(dev);
	free(dev);
}

static int cpu_open(void **dev, const struct gp_device_options *o)
{
	int rc;

	*dev = NULL;
	if (o->index)
		return gp_fail(ENODEV, "there is one CPU device; leave out --device %u", o->index);
	struct cpu_device *d = calloc(1, sizeof(*d));
	if (!d)
		return gp_fail(ENOMEM, "no memory for the CPU device");
	if ((rc = cpu_start(d, o)) < 0)
		free(d);
	else
		*dev = d;
	return rc;
}

void cpu_describe(const struct gp_device_options *o, char text[256])
{
	(void)o;
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
	const char *most = getenv("GP_CPU");
	unsigned mask;

	if (gp_cpu_mask_wanted(&mask) < 0)
		mask = 0;
	const int length = snprintf(text, 256, "%d core%s, %s", n, n == 1 ? "" : "s",
	                            gp_cpu_text(gp_cpu_flags() & mask));
	if (most && *most)
		snprintf(text + length, 256 - (size_t)length, " (at most %s)", most);
}

void cpu_cancel(void *dev)
{
	struct cpu_device *d = dev;

	atomic_store_explicit(&d->cancelled, true, memory_order_relaxed);
}

static const struct gp_device_ops cpu_ops = {
	.name = "cpu",
	.configure = cpu_configure,
	.load = cpu_load,
	.kv = { .reserve = cpu_kv_reserve, .copy = cpu_kv_copy },
	.begin_step = cpu_begin_step,
	.embed = cpu_embed,
	.rms_norm = cpu_rms_norm,
	.matmul = cpu_matmul,
	.qk_rope_append = cpu_qk_rope_append,
	.attention = cpu_attention,
	.geglu = cpu_geglu,
	.add = cpu_add,
	.head = cpu_head,
	.end_step = cpu_end_step,
	.check = cpu_check,
	.peek = cpu_peek,
	.memory_bytes = cpu_memory_bytes,
	.cancel = cpu_cancel,
};

const struct gp_worker_device gp_cpu_device = {
	.ops = &cpu_ops, .open = cpu_open, .close = cpu_close, .describe = cpu_describe,
	.list = cpu_list,
};

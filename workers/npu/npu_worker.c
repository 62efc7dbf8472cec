/* The device that an NPU stage runs on: the host's, with some products on the NPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "workers/npu/npu_device.h"
#include "workers/workers.h"

void npu_close(void *dev)
{
	struct npu_device *d = dev;

	if (!d)
		return;
	if (d->commands)
		gp_log(GP_LOG_INFO, "%s: %llu commands, %.3f s%s", npu_word(d),
		       (unsigned long long)d->commands, (double)d->command_ns * 1e-9,
		       d->info.simulated ? " (simulated)" : "");
	npu_release(d);
	npu_give(d, &d->instructions);
	if (d->npu)
		d->driver->close(d->npu);
	cpu_finish(&d->cpu);
	free(d);
}

static int open_npu(struct npu_device *d, const struct gp_device_options *o)
{
	int rc;

	if ((rc = npu_driver(o->npu, &d->driver)) < 0)
		return rc;
	if (!d->driver) {
		gp_log(GP_LOG_WARNING, "the NPU failed too often: the host computes this stage");
		return 0;
	}
	if ((rc = d->driver->probe(&d->info)) < 0 || (rc = d->driver->open(&d->npu)) < 0)
		return rc;
	gp_log(GP_LOG_INFO, "%s: %s, %s", npu_word(d), d->info.device, d->info.driver);
	return 0;
}

int npu_open(void **dev, const struct gp_device_options *o)
{
	const char *use = getenv("GP_NPU_USE"), *staging = getenv("GP_NPU_STAGING");
	int rc = 0;

	*dev = NULL;
	if (o->index)
		return gp_fail(ENODEV, "there is one NPU; leave out --device %u", o->index);
	struct npu_device *d = calloc(1, sizeof *d);
	if (!d)
		return gp_fail(ENOMEM, "no memory for the NPU device");
	d->pin_bytes = o->memory_bytes;
	d->staging_bytes = NPU_STAGING_BYTES;
	if (staging)
		rc = gp_parse_u64("GP_NPU_STAGING", staging, 1, NPU_STAGING_BYTES, &d->staging_bytes);
	d->always = use && strcmp(use, "always") == 0;
	npu_published_cost(&d->cost);
	if (rc < 0 || (rc = cpu_start(&d->cpu, o)) < 0) {
		free(d);
		return rc;
	}
	if ((rc = open_npu(d, o)) < 0)
		npu_close(d);
	else
		*dev = d;
	return rc;
}

static void npu_describe(const struct gp_device_options *o, char text[256])
{
	const struct gp_npu_driver *driver;
	struct gp_npu_info info;
	char host[256];

	cpu_describe(o, host);
	if (npu_driver(o->npu, &driver) < 0 || (driver && driver->probe(&info) < 0))
		snprintf(text, 256, "no NPU");
	else if (!driver)
		snprintf(text, 256, "NPU off; host: %.200s", host);
	else
		snprintf(text, 256, "%.60s; host: %.180s", info.device, host);
}

static json_t *npu_list(void)
{
	const struct gp_npu_driver *driver;
	struct gp_npu_info info;

	if (npu_driver(NULL, &driver) < 0 || driver->probe(&info) < 0)
		return json_array();
	return json_pack("[{s:s, s:s, s:s, s:i, s:i}]", "device", "npu", "name", info.device,
	                 "driver", info.driver, "columns", (int)info.columns, "rows",
	                 (int)info.rows);
}

static void npu_cancel(void *dev)
{
	struct npu_device *d = dev;

	__atomic_store_n(&d->cancelled, true, __ATOMIC_RELAXED);
	cpu_cancel(dev);
}

static const struct gp_device_ops npu_ops = {
	.name = "npu",
	.configure = npu_configure,
	.load = npu_load,
	.finish_load = npu_finish_load,
	.kv = { .reserve = cpu_kv_reserve, .copy = cpu_kv_copy },
	.begin_step = npu_begin_step,
	.embed = cpu_embed,
	.rms_norm = cpu_rms_norm,
	.matmul = npu_matmul,
	.qk_rope_append = cpu_qk_rope_append,
	.attention = cpu_attention,
	.geglu = cpu_geglu,
	.add = cpu_add,
	.head = cpu_head,
	.end_step = cpu_end_step,
	.check = cpu_check,
	.peek = cpu_peek,
	.memory_bytes = npu_memory_bytes,
	.cancel = npu_cancel,
};

const struct gp_worker_device gp_npu_device = {
	.ops = &npu_ops, .open = npu_open, .close = npu_close, .describe = npu_describe,
	.list = npu_list, .verify = npu_verify, .measure = npu_measure,
};

/* The device that a Vulkan stage runs on. */
#include "workers/workers.h"

#include <stdlib.h>
#include <stdio.h>

#include "base/base.h"
#include "workers/vulkan/vulkan_device.h"

static void vulkan_close(void *dev)
{
	struct vulkan_device *d = dev;

	if (!d)
		return;
	if (d->device && !d->is_lost)
		vulkan_release(d);
	vk_close_device(d);
	free(d);
}

static int vulkan_open(void **dev, const struct gp_device_options *o)
{
	struct vulkan_device *d = calloc(1, sizeof *d);
	int rc;

	*dev = NULL;
	if (!d)
		return gp_fail(ENOMEM, "no memory for the Vulkan device");
	d->memory_limit = o->memory_bytes;
	d->in_arena.kind = VK_MEMORY_STEP;
	d->stage_arena.kind = VK_MEMORY_TO_DEVICE;
	d->out_arena.kind = VK_MEMORY_TO_HOST;
	gp_kernels_init(&d->k, GP_CPU_ALL);
	if ((rc = vk_open_device(d, o->index)) < 0) {
		vulkan_close(d);
		return rc;
	}
	*dev = d;
	return 0;
}

static void vulkan_describe(const struct gp_device_options *o, char text[256])
{
	VkInstance instance = NULL;
	VkPhysicalDevice p;
	VkPhysicalDeviceProperties props;

	snprintf(text, 256, "no Vulkan device");
	if (vk_open_instance(&instance) == 0 && vk_find_device(instance, o->index, &p) == 0) {
		vkGetPhysicalDeviceProperties(p, &props);
		snprintf(text, 256, "%.200s, Vulkan %u.%u", props.deviceName,
		         VK_API_VERSION_MAJOR(props.apiVersion),
		         VK_API_VERSION_MINOR(props.apiVersion));
	}
	if (instance)
		vkDestroyInstance(instance, NULL);
}

static void vulkan_cancel(void *dev)
{
	struct vulkan_device *d = dev;

	atomic_store_explicit(&d->cancelled, true, memory_order_relaxed);
}

static const struct gp_device_ops vulkan_ops = {
	.name = "vulkan",
	.configure = vulkan_configure,
	.load = vulkan_load,
	.weight_bytes = vulkan_weight_bytes,
	.prepare = vulkan_prepare,
	.finish_load = vulkan_finish_load,
	.kv = { .reserve = vulkan_kv_reserve, .copy = vulkan_kv_copy },
	.begin_step = vulkan_begin_step,
	.embed = vulkan_embed,
	.rms_norm = vulkan_rms_norm,
	.matmul = vulkan_matmul,
	.qk_rope_append = vulkan_qk_rope_append,
	.attention = vulkan_attention,
	.append_attention = vulkan_append_attention,
	.add_norm = vulkan_add_norm,
	.gated_matmul = vulkan_gated_matmul,
	.geglu = vulkan_geglu,
	.add = vulkan_add,
	.head = vulkan_head,
	.end_step = vulkan_end_step,
	.check = vulkan_check,
	.memory_bytes = vulkan_memory_bytes,
	.cancel = vulkan_cancel,
};

const struct gp_worker_device gp_vulkan_device = {
	.ops = &vulkan_ops, .open = vulkan_open, .close = vulkan_close, .describe = vulkan_describe,
	.list = vulkan_list,
};

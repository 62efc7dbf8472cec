/* The instance, the device, its one queue. */
#include "workers/vulkan/vulkan_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

int vk_fail(VkResult r, const char *what)
{
	switch (r) {
	case VK_ERROR_OUT_OF_HOST_MEMORY:
	case VK_ERROR_OUT_OF_DEVICE_MEMORY:
		return gp_fail(ENOMEM, "Vulkan: no memory for %s; give this stage fewer layers", what);
	case VK_ERROR_DEVICE_LOST:
		return gp_fail(EIO, "Vulkan: the device was lost in %s; the kernel log says why, "
		               "--check-numerics in which layer", what);
	case VK_ERROR_INCOMPATIBLE_DRIVER:
	case VK_ERROR_INITIALIZATION_FAILED:
		return gp_fail(ENODEV, "Vulkan: no driver takes %s; install one "
		               "(Debian: mesa-vulkan-drivers)", what);
	default:
		return gp_fail(EIO, "Vulkan: %s failed (VkResult %d); try a newer driver, or give "
		               "these layers to cpu", what, (int)r);
	}
}

/* ---- what the device has -------------------------------------------------------- */
/* Each allocation has one buffer over it. */
static uint64_t most_allocation(VkPhysicalDevice physical)
{
	VkPhysicalDeviceMaintenance4Properties buffer = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_4_PROPERTIES };
	VkPhysicalDeviceVulkan11Properties v11 = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES };
	VkPhysicalDeviceProperties2 p = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &v11 };

	if (vk_has_extension(physical, VK_KHR_MAINTENANCE_4_EXTENSION_NAME))
		v11.pNext = &buffer;
	vkGetPhysicalDeviceProperties2(physical, &p);
	return buffer.maxBufferSize && buffer.maxBufferSize < v11.maxMemoryAllocationSize ?
	       buffer.maxBufferSize : v11.maxMemoryAllocationSize;
}

static void read_limits(struct vulkan_device *d)
{
	VkPhysicalDeviceProperties p;

	vkGetPhysicalDeviceProperties(d->physical, &p);
	vkGetPhysicalDeviceMemoryProperties(d->physical, &d->memory);
	d->most_allocation = most_allocation(d->physical);
	d->is_unified = p.deviceType == VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU ||
	                p.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU;
	d->has_budget = vk_has_extension(d->physical, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
	d->has_calibration = vk_has_extension(d->physical,
	                                      VK_EXT_CALIBRATED_TIMESTAMPS_EXTENSION_NAME);
	d->timestamp_ns = (double)p.limits.timestampPeriod;
}

static int check_features(struct vulkan_device *d)
{
	struct vk_core core;
	const char *name;
	VkBool32 *has;

	vk_chain_core(&core, NULL);
	vkGetPhysicalDeviceFeatures2(d->physical, &core.all);
	for (uint32_t i = 0; (name = vk_needed(i, &core, &has)); i++)
		if (!*has)
			return gp_fail(ENODEV, "Vulkan: the device lacks %s; update its driver", name);
	const char *lacks = vk_lacking_limit(d->physical);
	if (lacks)
		return gp_fail(ENODEV, "Vulkan: the device lacks %s; use another (gempipe devices)",
		               lacks);
	return 0;
}

/* The first that has nothing to do with graphics, if there is one: a desktop then waits
 * for no step, nor a step for it, and a long step is no hang of the display. */
static int find_queue(struct vulkan_device *d)
{
	VkQueueFamilyProperties families[16];
	uint32_t n = 16, best = UINT32_MAX;

	vkGetPhysicalDeviceQueueFamilyProperties(d->physical, &n, families);
	for (uint32_t i = n; i-- > 0;) {
		const VkQueueFlags can = families[i].queueFlags;

		if (can & VK_QUEUE_COMPUTE_BIT &&
		    (best == UINT32_MAX || !(can & VK_QUEUE_GRAPHICS_BIT) ||
		     families[best].queueFlags & VK_QUEUE_GRAPHICS_BIT))
			best = i;
	}
	if (best == UINT32_MAX)
		return gp_fail(ENODEV, "Vulkan: the device has no compute queue; use another "
		               "(gempipe devices)");
	d->family = best;
	d->timestamp_bits = families[best].timestampValidBits;
	return 0;
}

static int create_device(struct vulkan_device *d)
{
	struct vk_core core;
	VkBool32 *feature;
	const float priority = 1;
	const VkDeviceQueueCreateInfo queue = {
		.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueFamilyIndex = d->family,
		.queueCount = 1, .pQueuePriorities = &priority };
	if (d->has_calibration)
		d->features.extensions[d->features.n_extensions++] =
			VK_EXT_CALIBRATED_TIMESTAMPS_EXTENSION_NAME;
	const VkDeviceCreateInfo info = { .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
	                                  .pNext = &core.all, .queueCreateInfoCount = 1,
	                                  .pQueueCreateInfos = &queue,
	                                  .enabledExtensionCount = d->features.n_extensions,
	                                  .ppEnabledExtensionNames = d->features.extensions };

	vk_chain_core(&core, d->features.chain);
	for (uint32_t i = 0; vk_needed(i, &core, &feature); i++)
		*feature = true;
	core.v12.vulkanMemoryModel = d->features.matrix_units;
	const VkResult r = vkCreateDevice(d->physical, &info, NULL, &d->device);
	if (r < 0)
		return vk_fail(r, "the device");
	vkGetDeviceQueue(d->device, d->family, 0, &d->queue);
	return 0;
}

static int create_commands(struct vulkan_device *d)
{
	const VkCommandPoolCreateInfo pool = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO, .queueFamilyIndex = d->family,
		.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT };
	const VkSemaphoreTypeCreateInfo type = {
		.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
		.semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE };
	const VkSemaphoreCreateInfo timeline = {
		.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = &type };
	const VkPushConstantRange range = { VK_SHADER_STAGE_COMPUTE_BIT, 0, VK_PUSH_BYTES };
	const VkPipelineLayoutCreateInfo layout = {
		.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO, .pushConstantRangeCount = 1,
		.pPushConstantRanges = &range };
	VkResult r = vkCreateCommandPool(d->device, &pool, NULL, &d->pool);

	const VkCommandBufferAllocateInfo buffer = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO, .commandPool = d->pool,
		.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY, .commandBufferCount = 1 };
	if (r >= 0)
		r = vkAllocateCommandBuffers(d->device, &buffer, &d->once);
	if (r >= 0)
		r = vkCreateSemaphore(d->device, &timeline, NULL, &d->timeline);
	if (r >= 0)
		r = vkCreatePipelineLayout(d->device, &layout, NULL, &d->layout);
	return r < 0 ? vk_fail(r, "command buffers") : 0;
}

int vk_open_device(struct vulkan_device *d, uint32_t index)
{
	int rc;

	if ((rc = vk_open_instance(&d->instance)) < 0 ||
	    (rc = vk_find_device(d->instance, index, &d->physical)) < 0)
		return rc;
	read_limits(d);
	if ((rc = check_features(d)) < 0 || (rc = find_queue(d)) < 0)
		return rc;
	vk_find_features(d);
	if ((rc = create_device(d)) < 0)
		return rc;
	vk_load_cache(d);
	vk_many_choose(d);
	return create_commands(d);
}

/* A device that is lost may keep whoever waits for it; the process is about to end. */
void vk_close_device(struct vulkan_device *d)
{
	if (d->is_lost)
		return;
	if (d->device) {
		vkDeviceWaitIdle(d->device);
		vk_save_cache(d);
		vk_destroy_pipelines(d);
		vkDestroyPipelineCache(d->device, d->cache, NULL);
		vk_many_destroy(d);
		vkDestroyPipelineLayout(d->device, d->layout, NULL);
		vkDestroySemaphore(d->device, d->timeline, NULL);
		vkDestroyQueryPool(d->device, d->timestamps, NULL);
		vkDestroyCommandPool(d->device, d->pool, NULL);
		vkDestroyDevice(d->device, NULL);
	}
	if (d->instance)
		vkDestroyInstance(d->instance, NULL);
}

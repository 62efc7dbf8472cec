/* The instance, the device, its one queue. */
#include "workers/vulkan/vulkan_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define STEP_TIMEOUT_NS 60000000000ull

int vk_fail(VkResult r, const char *what)
{
	switch (r) {
	case VK_ERROR_OUT_OF_HOST_MEMORY:
	case VK_ERROR_OUT_OF_DEVICE_MEMORY:
		return gp_fail(ENOMEM, "Vulkan: no memory for %s; give this stage fewer layers", what);
	case VK_ERROR_DEVICE_LOST:
		return gp_fail(EIO, "Vulkan: the device was lost in %s; the kernel log says why", what);
	case VK_ERROR_INCOMPATIBLE_DRIVER:
	case VK_ERROR_INITIALIZATION_FAILED:
		return gp_fail(ENODEV, "Vulkan: no driver takes %s; install one "
		               "(Debian: mesa-vulkan-drivers)", what);
	default:
		return gp_fail(EIO, "Vulkan: %s failed (%d)", what, (int)r);
	}
}

static int create_instance(struct vulkan_device *d)
{
	const VkApplicationInfo app = { .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
	                                .pApplicationName = "gempipe",
	                                .apiVersion = VK_API_VERSION_1_2 };
	const VkInstanceCreateInfo info = { .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
	                                    .pApplicationInfo = &app };
	const VkResult r = vkCreateInstance(&info, NULL, &d->instance);

	return r < 0 ? vk_fail(r, "an instance of version 1.2") : 0;
}

/* Real GPUs before emulations. */
static uint32_t rank_of(VkPhysicalDevice p)
{
	VkPhysicalDeviceProperties props;

	vkGetPhysicalDeviceProperties(p, &props);
	if (props.apiVersion < VK_API_VERSION_1_2)
		return 0;
	return props.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU ? 1 : 2;
}

static int pick_physical(struct vulkan_device *d)
{
	VkPhysicalDevice all[16];
	uint32_t n = 16, best = 0;

	const VkResult r = vkEnumeratePhysicalDevices(d->instance, &n, all);
	if (r < 0)
		return vk_fail(r, "the list of devices");
	for (uint32_t i = 0; i < n; i++)
		if (rank_of(all[i]) > best) {
			best = rank_of(all[i]);
			d->physical = all[i];
		}
	if (!best)
		return gp_fail(ENODEV, "Vulkan: no device of version 1.2 or later; install a driver "
		               "(Debian: mesa-vulkan-drivers)");
	vkGetPhysicalDeviceMemoryProperties(d->physical, &d->memory);
	return 0;
}

static int check_features(struct vulkan_device *d)
{
	VkPhysicalDeviceVulkan12Features v12 = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES };
	VkPhysicalDeviceVulkan11Features v11 = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES, .pNext = &v12 };
	VkPhysicalDeviceFeatures2 f = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &v11 };

	vkGetPhysicalDeviceFeatures2(d->physical, &f);
	const struct { bool has; const char *name; } needed[] = {
		{ v12.bufferDeviceAddress, "bufferDeviceAddress" },
		{ v12.scalarBlockLayout, "scalarBlockLayout" },
		{ v12.storageBuffer8BitAccess, "storageBuffer8BitAccess" },
		{ v11.storageBuffer16BitAccess, "storageBuffer16BitAccess" },
		{ v12.shaderInt8, "shaderInt8" }, { v12.shaderFloat16, "shaderFloat16" },
		{ f.features.shaderInt16, "shaderInt16" }, { f.features.shaderInt64, "shaderInt64" },
	};
	for (size_t i = 0; i < GP_ARRAY_LEN(needed); i++)
		if (!needed[i].has)
			return gp_fail(ENODEV, "Vulkan: the device lacks %s; update its driver",
			               needed[i].name);
	return 0;
}

static int find_queue(struct vulkan_device *d)
{
	VkQueueFamilyProperties families[16];
	uint32_t n = 16;

	vkGetPhysicalDeviceQueueFamilyProperties(d->physical, &n, families);
	for (d->family = 0; d->family < n; d->family++)
		if (families[d->family].queueFlags & VK_QUEUE_COMPUTE_BIT)
			return 0;
	return gp_fail(ENODEV, "Vulkan: the device has no compute queue");
}

static int create_device(struct vulkan_device *d)
{
	VkPhysicalDeviceVulkan12Features v12 = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
		.bufferDeviceAddress = true, .scalarBlockLayout = true,
		.storageBuffer8BitAccess = true, .shaderInt8 = true, .shaderFloat16 = true,
		.vulkanMemoryModel = d->features.matrix_units, .pNext = d->features.chain };
	VkPhysicalDeviceVulkan11Features v11 = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES, .pNext = &v12,
		.storageBuffer16BitAccess = true };
	const VkPhysicalDeviceFeatures2 f = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &v11,
		.features = { .shaderInt16 = true, .shaderInt64 = true } };
	const float priority = 1;
	const VkDeviceQueueCreateInfo queue = {
		.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueFamilyIndex = d->family,
		.queueCount = 1, .pQueuePriorities = &priority };
	const VkDeviceCreateInfo info = { .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
	                                  .pNext = &f, .queueCreateInfoCount = 1,
	                                  .pQueueCreateInfos = &queue,
	                                  .enabledExtensionCount = d->features.n_extensions,
	                                  .ppEnabledExtensionNames = d->features.extensions };
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
	const VkFenceCreateInfo fence = { .sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO };
	const VkPushConstantRange range = { VK_SHADER_STAGE_COMPUTE_BIT, 0, VK_PUSH_BYTES };
	const VkPipelineLayoutCreateInfo layout = {
		.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO, .pushConstantRangeCount = 1,
		.pPushConstantRanges = &range };
	VkResult r = vkCreateCommandPool(d->device, &pool, NULL, &d->pool);

	const VkCommandBufferAllocateInfo buffer = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO, .commandPool = d->pool,
		.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY, .commandBufferCount = 1 };
	if (r >= 0)
		r = vkAllocateCommandBuffers(d->device, &buffer, &d->commands);
	if (r >= 0)
		r = vkCreateFence(d->device, &fence, NULL, &d->fence);
	if (r >= 0)
		r = vkCreatePipelineLayout(d->device, &layout, NULL, &d->layout);
	return r < 0 ? vk_fail(r, "command buffers") : 0;
}

int vk_open_device(struct vulkan_device *d)
{
	int rc;

	if ((rc = create_instance(d)) < 0 || (rc = pick_physical(d)) < 0 ||
	    (rc = check_features(d)) < 0 || (rc = vk_find_features(d)) < 0 ||
	    (rc = find_queue(d)) < 0 || (rc = create_device(d)) < 0)
		return rc;
	vk_many_choose(d);
	return create_commands(d);
}

void vk_close_device(struct vulkan_device *d)
{
	if (d->device) {
		vkDeviceWaitIdle(d->device);
		vk_destroy_pipelines(d);
		vk_many_destroy(d);
		vkDestroyPipelineLayout(d->device, d->layout, NULL);
		vkDestroyFence(d->device, d->fence, NULL);
		vkDestroyCommandPool(d->device, d->pool, NULL);
		vkDestroyDevice(d->device, NULL);
	}
	if (d->instance)
		vkDestroyInstance(d->instance, NULL);
}

int vk_begin_commands(struct vulkan_device *d)
{
	const VkCommandBufferBeginInfo info = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
		.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT };
	/* A step that was cancelled has left it half recorded. */
	VkResult r = vkResetCommandBuffer(d->commands, 0);

	if (r >= 0)
		r = vkBeginCommandBuffer(d->commands, &info);
	return r < 0 ? vk_fail(r, "recording") : 0;
}

int vk_run_commands(struct vulkan_device *d)
{
	const VkMemoryBarrier to_host = { .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
	                                  .srcAccessMask = VK_ACCESS_MEMORY_WRITE_BIT,
	                                  .dstAccessMask = VK_ACCESS_HOST_READ_BIT };
	const VkSubmitInfo submit = { .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
	                              .commandBufferCount = 1, .pCommandBuffers = &d->commands };
	VkResult r;

	vkCmdPipelineBarrier(d->commands, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT,
	                     VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &to_host, 0, NULL, 0, NULL);
	if ((r = vkEndCommandBuffer(d->commands)) < 0 ||
	    (r = vkResetFences(d->device, 1, &d->fence)) < 0 ||
	    (r = vkQueueSubmit(d->queue, 1, &submit, d->fence)) < 0 ||
	    (r = vkWaitForFences(d->device, 1, &d->fence, true, STEP_TIMEOUT_NS)) < 0)
		return vk_fail(r, "a step");
	if (r == VK_TIMEOUT)
		return gp_fail(ETIMEDOUT, "Vulkan: the device hangs: a step took over %llu s",
		               STEP_TIMEOUT_NS / 1000000000ull);
	return 0;
}

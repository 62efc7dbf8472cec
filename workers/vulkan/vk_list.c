/* What gempipe devices shows of Vulkan. */
#include "workers/vulkan/vulkan_device.h"

#include <stdlib.h>

#include "base/base.h"

/* Everything that is asked of a device, in one chain for each of two calls. */
struct facts {
	VkPhysicalDeviceProperties2 props;
	VkPhysicalDeviceVulkan11Properties p11;
	VkPhysicalDeviceVulkan12Properties p12;
	VkPhysicalDeviceSubgroupSizeControlProperties sizes;
	VkPhysicalDeviceFeatures2 features;
	VkPhysicalDeviceVulkan11Features f11;
	VkPhysicalDeviceVulkan12Features f12;
	VkPhysicalDeviceShaderIntegerDotProductFeatures dot;
	VkPhysicalDeviceMemoryProperties2 memory;
	VkPhysicalDeviceMemoryBudgetPropertiesEXT budget;
	bool has_sizes, has_dot, has_budget, has_calibration, has_matrix;
};

static void find_extensions(VkPhysicalDevice p, struct facts *f)
{
	VkPhysicalDeviceProperties props;

	vkGetPhysicalDeviceProperties(p, &props);
	const bool in_core = props.apiVersion >= VK_API_VERSION_1_3;
	f->has_sizes = in_core || vk_has_extension(p, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
	f->has_dot = in_core || vk_has_extension(p, VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME);
	f->has_budget = vk_has_extension(p, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
	f->has_calibration = vk_has_extension(p, VK_EXT_CALIBRATED_TIMESTAMPS_EXTENSION_NAME);
	f->has_matrix = vk_has_extension(p, "VK_KHR_cooperative_matrix");
}

/* A structure that the device does not know stays out of the chain, and zero. */
static void read_facts(VkPhysicalDevice p, struct facts *f)
{
	*f = (struct facts){
		.props.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
		.p11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES,
		.p12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES,
		.sizes.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES,
		.features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2,
		.f11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES,
		.f12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
		.dot.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES,
		.memory.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
		.budget.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT };
	find_extensions(p, f);
	f->props.pNext = &f->p11;
	f->p11.pNext = &f->p12;
	f->p12.pNext = f->has_sizes ? &f->sizes : NULL;
	f->features.pNext = &f->f11;
	f->f11.pNext = &f->f12;
	f->f12.pNext = f->has_dot ? &f->dot : NULL;
	f->memory.pNext = f->has_budget ? &f->budget : NULL;
	vkGetPhysicalDeviceProperties2(p, &f->props);
	vkGetPhysicalDeviceFeatures2(p, &f->features);
	vkGetPhysicalDeviceMemoryProperties2(p, &f->memory);
}

static const char *type_name(VkPhysicalDeviceType t)
{
	switch (t) {
	case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return "integrated GPU";
	case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return "discrete GPU";
	case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: return "virtual GPU";
	case VK_PHYSICAL_DEVICE_TYPE_CPU: return "emulation on the CPU";
	default: return "other";
	}
}

static json_t *list_heaps(const struct facts *f)
{
	const VkPhysicalDeviceMemoryProperties *m = &f->memory.memoryProperties;
	json_t *list = json_array();

	for (uint32_t i = 0; i < m->memoryHeapCount; i++) {
		const bool local = m->memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT;
		bool visible = false;

		for (uint32_t t = 0; t < m->memoryTypeCount; t++)
			visible |= m->memoryTypes[t].heapIndex == i &&
			           m->memoryTypes[t].propertyFlags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT;
		json_t *heap = json_pack("{s:I, s:b, s:b}", "bytes",
		                         (json_int_t)m->memoryHeaps[i].size, "device_local", local,
		                         "host_visible", visible);
		if (f->has_budget)
			json_object_set_new(heap, "budget_bytes",
			                    json_integer((json_int_t)f->budget.heapBudget[i]));
		json_array_append_new(list, heap);
	}
	return list;
}

/* What gempipe needs or makes use of. */
static void list_features(VkPhysicalDevice p, const struct facts *f, json_t *device)
{
	const struct { const char *name; bool has, needed; } all[] = {
		{ "8-bit storage", f->f12.storageBuffer8BitAccess, true },
		{ "16-bit storage", f->f11.storageBuffer16BitAccess, true },
		{ "8-bit integers", f->f12.shaderInt8, true },
		{ "16-bit integers", f->features.features.shaderInt16, true },
		{ "64-bit integers", f->features.features.shaderInt64, true },
		{ "buffer addresses", f->f12.bufferDeviceAddress, true },
		{ "scalar block layout", f->f12.scalarBlockLayout, true },
		{ "float16", f->f12.shaderFloat16, true },
		{ "timeline semaphores", f->f12.timelineSemaphore, true },
		{ "integer dot product", f->dot.shaderIntegerDotProduct, false },
		{ "cooperative matrix", f->has_matrix, false },
		{ "subgroup size control", f->has_sizes, false },
		{ "calibrated timestamps", f->has_calibration, false },
		{ "memory budget", f->has_budget, false },
	};
	json_t *has = json_array(), *lacks = json_array();
	bool usable = true;

	for (size_t i = 0; i < GP_ARRAY_LEN(all); i++) {
		json_array_append_new(all[i].has ? has : lacks, json_string(all[i].name));
		usable &= all[i].has || !all[i].needed;
	}
	const char *limit = vk_lacking_limit(p);
	if (limit)
		json_array_append_new(lacks, json_string(limit));
	json_object_set_new(device, "features", has);
	json_object_set_new(device, "missing", lacks);
	json_object_set_new(device, "usable", json_boolean(usable && !limit));
}

static json_t *describe(VkPhysicalDevice p, uint32_t index)
{
	struct facts f;
	char name[32], version[32], driver[2 * VK_MAX_DRIVER_NAME_SIZE];

	read_facts(p, &f);
	const VkPhysicalDeviceProperties *props = &f.props.properties;
	const uint32_t subgroup = f.p11.subgroupSize;
	snprintf(name, sizeof name, "vulkan[%u]", index);
	snprintf(version, sizeof version, "%u.%u.%u", VK_API_VERSION_MAJOR(props->apiVersion),
	         VK_API_VERSION_MINOR(props->apiVersion), VK_API_VERSION_PATCH(props->apiVersion));
	snprintf(driver, sizeof driver, "%.255s %.255s", f.p12.driverName, f.p12.driverInfo);
	json_t *d = json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:I, s:o}",
		"device", name, "name", props->deviceName, "type", type_name(props->deviceType),
		"driver", driver, "api_version", version, "subgroup_size", (int)subgroup,
		"min_subgroup_size", (int)(f.has_sizes ? f.sizes.minSubgroupSize : subgroup),
		"max_subgroup_size", (int)(f.has_sizes ? f.sizes.maxSubgroupSize : subgroup),
		"max_allocation_bytes", (json_int_t)f.p11.maxMemoryAllocationSize,
		"max_storage_buffer_bytes", (json_int_t)props->limits.maxStorageBufferRange,
		"heaps", list_heaps(&f));
	if (d)
		list_features(p, &f, d);
	return d;
}

json_t *vulkan_list(void)
{
	VkPhysicalDevice found[VK_MOST_DEVICES];
	VkInstance instance = NULL;
	json_t *list = json_array();
	uint32_t n = 0;

	if (vk_open_instance(&instance) == 0 && vk_find_devices(instance, found, &n) == 0)
		for (uint32_t i = 0; i < n; i++)
			json_array_append_new(list, describe(found[i], i));
	if (instance)
		vkDestroyInstance(instance, NULL);
	return list;
}

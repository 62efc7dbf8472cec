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
	struct vk_core core;
	VkPhysicalDeviceMemoryProperties2 memory;
	VkPhysicalDeviceMemoryBudgetPropertiesEXT budget;
	bool has_sizes, has_budget, has_calibration;
};

static void find_extensions(VkPhysicalDevice p, struct facts *f)
{
	f->has_sizes = vk_has_extension(p, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
	f->has_budget = vk_has_extension(p, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
	f->has_calibration = vk_has_extension(p, VK_EXT_CALIBRATED_TIMESTAMPS_EXTENSION_NAME);
}

/* A structure that the device does not know stays out of the chain, and zero. */
static void read_facts(VkPhysicalDevice p, struct facts *f)
{
	*f = (struct facts){
		.props.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
		.p11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES,
		.p12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES,
		.sizes.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES,
		.memory.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
		.budget.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT };
	find_extensions(p, f);
	f->props.pNext = &f->p11;
	f->p11.pNext = &f->p12;
	f->p12.pNext = f->has_sizes ? &f->sizes : NULL;
	f->memory.pNext = f->has_budget ? &f->budget : NULL;
	vk_chain_core(&f->core, NULL);
	vkGetPhysicalDeviceProperties2(p, &f->props);
	vkGetPhysicalDeviceFeatures2(p, &f->core.all);
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

/* What is made use of where the device has it. */
static void list_choices(VkInstance instance, VkPhysicalDevice p, const struct facts *f,
                         json_t *has, json_t *lacks)
{
	struct vulkan_device d = { .instance = instance, .physical = p };

	vk_find_features(&d);
	const bool has_matrix_shaders = vk_has_shader(VK_MATMUL_MANY_COOPMAT);
	const struct { const char *name; bool has; } all[] = {
		{ "integer dot product", d.features.dot_products },
		{ has_matrix_shaders ? "cooperative matrix" : "cooperative matrix (in this build)",
		  d.features.matrix_units && has_matrix_shaders },
		{ "subgroup size control", d.features.subgroup },
		{ "calibrated timestamps", f->has_calibration },
		{ "memory budget", f->has_budget },
	};
	for (size_t i = 0; i < GP_ARRAY_LEN(all); i++)
		json_array_append_new(all[i].has ? has : lacks, json_string(all[i].name));
}

static void list_features(VkInstance instance, VkPhysicalDevice p, struct facts *f,
                          json_t *device)
{
	const char *name, *limit = vk_lacking_limit(p);
	json_t *has = json_array(), *lacks = json_array();
	VkBool32 *feature;

	if (limit)
		json_array_append_new(lacks, json_string(limit));
	for (uint32_t i = 0; (name = vk_needed(i, &f->core, &feature)); i++)
		json_array_append_new(*feature ? has : lacks, json_string(name));
	json_object_set_new(device, "usable", json_boolean(!json_array_size(lacks)));
	list_choices(instance, p, f, has, lacks);
	json_object_set_new(device, "features", has);
	json_object_set_new(device, "missing", lacks);
}

static json_t *describe(VkInstance instance, VkPhysicalDevice p, uint32_t index)
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
		list_features(instance, p, &f, d);
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
			json_array_append_new(list, describe(instance, found[i], i));
	if (instance)
		vkDestroyInstance(instance, NULL);
	return list;
}

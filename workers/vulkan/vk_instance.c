/* The loader, and which of its devices is which. */
#include "workers/vulkan/vulkan_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

int vk_open_instance(VkInstance *out)
{
	const VkApplicationInfo app = { .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
	                                .pApplicationName = "gempipe",
	                                .apiVersion = VK_API_VERSION_1_2 };
	const VkInstanceCreateInfo info = { .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
	                                    .pApplicationInfo = &app };
	const VkResult r = vkCreateInstance(&info, NULL, out);

	return r < 0 ? vk_fail(r, "an instance of version 1.2") : 0;
}

/* 0: cannot be used. */
static uint32_t rank_of(VkPhysicalDevice p)
{
	VkPhysicalDeviceProperties props;

	vkGetPhysicalDeviceProperties(p, &props);
	if (props.apiVersion < VK_API_VERSION_1_2)
		return 0;
	return props.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU ? 1 : 2;
}

int vk_find_devices(VkInstance instance, VkPhysicalDevice found[VK_MOST_DEVICES], uint32_t *n)
{
	VkPhysicalDevice all[VK_MOST_DEVICES];
	uint32_t n_all = VK_MOST_DEVICES;
	const VkResult r = vkEnumeratePhysicalDevices(instance, &n_all, all);

	*n = 0;
	if (r < 0)
		return vk_fail(r, "the list of devices");
	for (uint32_t rank = 2; rank > 0; rank--)
		for (uint32_t i = 0; i < n_all; i++)
			if (rank_of(all[i]) == rank)
				found[(*n)++] = all[i];
	if (!*n)
		return gp_fail(ENODEV, "Vulkan: no device of version 1.2 or later; install a driver "
		               "(Debian: mesa-vulkan-drivers)");
	return 0;
}

int vk_find_device(VkInstance instance, uint32_t index, VkPhysicalDevice *out)
{
	VkPhysicalDevice found[VK_MOST_DEVICES];
	uint32_t n;
	const int rc = vk_find_devices(instance, found, &n);

	if (rc < 0)
		return rc;
	if (index >= n)
		return gp_fail(ENODEV, "Vulkan: there is no vulkan[%u]; gempipe devices lists "
		               "the %u there are", index, n);
	*out = found[index];
	return 0;
}

bool vk_has_extension(VkPhysicalDevice p, const char *name)
{
	uint32_t n = 0;
	bool has = false;

	if (vkEnumerateDeviceExtensionProperties(p, NULL, &n, NULL) < 0 || !n)
		return false;
	VkExtensionProperties *all = calloc(n, sizeof *all);
	if (!all || vkEnumerateDeviceExtensionProperties(p, NULL, &n, all) < 0)
		n = 0;
	for (uint32_t i = 0; i < n && !has; i++)
		has = strcmp(all[i].extensionName, name) == 0;
	free(all);
	return has;
}

/* Keeps the Vulkan driver loaded for a whole test program. Loaders let go of it with the
 * last instance, and some drivers (NVIDIA's) cannot be loaded again and again: room for
 * thread-local data runs out. A worker opens its device once. */
#ifndef TESTS_COMMON_VULKAN_DRIVER_H
#define TESTS_COMMON_VULKAN_DRIVER_H

#include <vulkan/vulkan.h>

static VkInstance kept_instance;

/* As cmocka's group fixtures. Without a driver the tests say so themselves. */
static inline int keep_driver(void **state)
{
	const VkApplicationInfo app = { .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
	                                .apiVersion = VK_API_VERSION_1_2 };
	const VkInstanceCreateInfo info = { .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
	                                    .pApplicationInfo = &app };

	(void)state;
	if (vkCreateInstance(&info, NULL, &kept_instance) < 0)
		kept_instance = NULL;
	return 0;
}

static inline int let_driver_go(void **state)
{
	(void)state;
	if (kept_instance)
		vkDestroyInstance(kept_instance, NULL);
	return 0;
}

#endif

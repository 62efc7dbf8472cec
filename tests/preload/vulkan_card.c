/* Preloaded into workers, to have a graphics card where there is only an emulation:
 * GP_CARD=A,B gives it two heaps of A and B MiB that the host cannot see, beside the
 * host's; and there are two such cards, which know neither a budget nor the host's
 * clock, nor the extensions that GP_CARD_WITHOUT names. */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vulkan.h>

#define CARD_HEAPS 2u

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

static VkDeviceSize heap_bytes(uint32_t heap)
{
	const char *card = getenv("GP_CARD");
	unsigned mib[CARD_HEAPS] = { 1024, 1024 };

	if (card && sscanf(card, "%u,%u", &mib[0], &mib[1]) != 2)
		abort();
	return (VkDeviceSize)mib[heap] << 20;
}

VKAPI_ATTR VkResult VKAPI_CALL vkEnumeratePhysicalDevices(VkInstance instance, uint32_t *n,
                                                          VkPhysicalDevice *devices)
{
	PFN_vkEnumeratePhysicalDevices real = (PFN_vkEnumeratePhysicalDevices)
		next("vkEnumeratePhysicalDevices");
	const uint32_t room = *n;
	const VkResult r = real(instance, n, devices);

	if (r >= 0 && *n == 1 && devices && room >= 2)
		devices[(*n)++] = devices[0];
	return r;
}

static bool is_known(const char *extension)
{
	const char *without = getenv("GP_CARD_WITHOUT");

	return strcmp(extension, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME) != 0 &&
	       strcmp(extension, VK_EXT_CALIBRATED_TIMESTAMPS_EXTENSION_NAME) != 0 &&
	       !(without && strstr(without, extension));
}

VKAPI_ATTR VkResult VKAPI_CALL vkEnumerateDeviceExtensionProperties(
	VkPhysicalDevice d, const char *layer, uint32_t *n, VkExtensionProperties *all)
{
	PFN_vkEnumerateDeviceExtensionProperties real = (PFN_vkEnumerateDeviceExtensionProperties)
		next("vkEnumerateDeviceExtensionProperties");
	const VkResult r = real(d, layer, n, all);
	uint32_t kept = 0;

	for (uint32_t i = 0; r >= 0 && all && i < *n; i++)
		if (is_known(all[i].extensionName))
			all[kept++] = all[i];
	if (all)
		*n = kept;
	return r;
}

VKAPI_ATTR void VKAPI_CALL vkGetPhysicalDeviceProperties(VkPhysicalDevice d,
                                                         VkPhysicalDeviceProperties *p)
{
	PFN_vkGetPhysicalDeviceProperties real = (PFN_vkGetPhysicalDeviceProperties)
		next("vkGetPhysicalDeviceProperties");

	real(d, p);
	p->deviceType = VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU;
}

VKAPI_ATTR void VKAPI_CALL vkGetPhysicalDeviceProperties2(VkPhysicalDevice d,
                                                          VkPhysicalDeviceProperties2 *p)
{
	PFN_vkGetPhysicalDeviceProperties2 real = (PFN_vkGetPhysicalDeviceProperties2)
		next("vkGetPhysicalDeviceProperties2");

	real(d, p);
	p->properties.deviceType = VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU;
}

VKAPI_ATTR void VKAPI_CALL vkGetPhysicalDeviceMemoryProperties(
	VkPhysicalDevice d, VkPhysicalDeviceMemoryProperties *m)
{
	(void)d;
	memset(m, 0, sizeof *m);
	m->memoryHeapCount = m->memoryTypeCount = CARD_HEAPS + 1;
	for (uint32_t i = 0; i < CARD_HEAPS; i++) {
		m->memoryHeaps[i] = (VkMemoryHeap){ heap_bytes(i), VK_MEMORY_HEAP_DEVICE_LOCAL_BIT };
		m->memoryTypes[i] = (VkMemoryType){ VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, i };
	}
	m->memoryHeaps[CARD_HEAPS] = (VkMemoryHeap){ (VkDeviceSize)1 << 30, 0 };
	m->memoryTypes[CARD_HEAPS] = (VkMemoryType){ VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
		VK_MEMORY_PROPERTY_HOST_COHERENT_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
		CARD_HEAPS };
}

VKAPI_ATTR void VKAPI_CALL vkGetPhysicalDeviceMemoryProperties2(
	VkPhysicalDevice d, VkPhysicalDeviceMemoryProperties2 *m)
{
	vkGetPhysicalDeviceMemoryProperties(d, &m->memoryProperties);
}

VKAPI_ATTR void VKAPI_CALL vkGetBufferMemoryRequirements(VkDevice d, VkBuffer buffer,
                                                         VkMemoryRequirements *need)
{
	PFN_vkGetBufferMemoryRequirements real = (PFN_vkGetBufferMemoryRequirements)
		next("vkGetBufferMemoryRequirements");

	real(d, buffer, need);
	need->memoryTypeBits = (1u << (CARD_HEAPS + 1)) - 1;
}

VKAPI_ATTR VkResult VKAPI_CALL vkAllocateMemory(VkDevice d, const VkMemoryAllocateInfo *info,
                                                const VkAllocationCallbacks *a, VkDeviceMemory *m)
{
	static _Atomic VkDeviceSize taken[CARD_HEAPS];
	PFN_vkAllocateMemory real = (PFN_vkAllocateMemory)next("vkAllocateMemory");
	VkMemoryAllocateInfo all = *info;
	const uint32_t heap = info->memoryTypeIndex;

	if (heap < CARD_HEAPS) {
		if (taken[heap] + info->allocationSize > heap_bytes(heap))
			return VK_ERROR_OUT_OF_DEVICE_MEMORY;
		taken[heap] += info->allocationSize;
	}
	all.memoryTypeIndex = 0;
	return real(d, &all, a, m);
}

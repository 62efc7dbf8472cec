/* Preloaded into workers, to have a device that fails. GP_FAULT names what and at which
 * call of the process: "lost:20" (vkQueueSubmit), "memory:3" (vkAllocateMemory, from
 * then on), "hang:20" (vkWaitSemaphores; vkDeviceWaitIdle never comes back from then on),
 * "stuck:20" (the same, and the process does not come to its end). Calls count from the
 * first dispatch on: uploads, which not all devices need, come before. It happens in one
 * process: the first to make the file GP_FAULT_ONCE. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vulkan/vulkan.h>

static bool hangs, is_stuck, dispatched;

/* Is this call the one? */
static bool fails_now(const char *what, unsigned *calls)
{
	const char *fault = getenv("GP_FAULT"), *once = getenv("GP_FAULT_ONCE");
	const size_t n = strlen(what);

	if (!fault || !once || strncmp(fault, what, n) != 0 || fault[n] != ':' ||
	    ++*calls != (unsigned)atoi(fault + n + 1))
		return false;
	const int fd = open(once, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

VKAPI_ATTR void VKAPI_CALL vkCmdDispatch(VkCommandBuffer c, uint32_t x, uint32_t y, uint32_t z)
{
	PFN_vkCmdDispatch real = (PFN_vkCmdDispatch)next("vkCmdDispatch");

	dispatched |= x * y * z > 1; /* one work group alone is a probe, before uploads */
	real(c, x, y, z);
}

VKAPI_ATTR VkResult VKAPI_CALL vkQueueSubmit(VkQueue queue, uint32_t n, const VkSubmitInfo *s,
                                             VkFence fence)
{
	static unsigned calls;
	PFN_vkQueueSubmit real = (PFN_vkQueueSubmit)next("vkQueueSubmit");

	return dispatched && fails_now("lost", &calls) ? VK_ERROR_DEVICE_LOST : real(queue, n, s, fence);
}

VKAPI_ATTR VkResult VKAPI_CALL vkAllocateMemory(VkDevice device, const VkMemoryAllocateInfo *info,
                                                const VkAllocationCallbacks *a, VkDeviceMemory *m)
{
	static unsigned calls;
	static bool full;
	PFN_vkAllocateMemory real = (PFN_vkAllocateMemory)next("vkAllocateMemory");

	full |= fails_now("memory", &calls);
	return full ? VK_ERROR_OUT_OF_DEVICE_MEMORY : real(device, info, a, m);
}

VKAPI_ATTR VkResult VKAPI_CALL vkWaitSemaphores(VkDevice device, const VkSemaphoreWaitInfo *info,
                                                uint64_t timeout)
{
	static unsigned calls, stuck_calls;
	PFN_vkWaitSemaphores real = (PFN_vkWaitSemaphores)next("vkWaitSemaphores");

	is_stuck |= dispatched && fails_now("stuck", &stuck_calls);
	hangs |= is_stuck || (dispatched && fails_now("hang", &calls));
	return hangs ? VK_TIMEOUT : real(device, info, timeout);
}

VKAPI_ATTR VkResult VKAPI_CALL vkDeviceWaitIdle(VkDevice device)
{
	PFN_vkDeviceWaitIdle real = (PFN_vkDeviceWaitIdle)next("vkDeviceWaitIdle");

	while (hangs)
		pause();
	return real(device);
}

__attribute__((destructor)) static void end(void)
{
	while (is_stuck)
		pause();
}

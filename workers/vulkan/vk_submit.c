/* Giving the device work, and waiting for it. Each submission raises the timeline
 * semaphore by one; they are done in the order in which they were submitted. */
#include "workers/vulkan/vulkan_device.h"

#include "base/base.h"

/* A step of the largest model takes an integrated GPU some 15 ms a row. */
#define TIMEOUT_S 60u
#define ROWS_A_SECOND 10u
#define SPIN_NS 20000000ull

int vk_submit(struct vulkan_device *d, VkCommandBuffer commands, const char *what)
{
	const uint64_t next = d->submitted + 1;
	const VkTimelineSemaphoreSubmitInfo value = {
		.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
		.signalSemaphoreValueCount = 1, .pSignalSemaphoreValues = &next };
	const VkSubmitInfo submit = { .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .pNext = &value,
	                              .commandBufferCount = 1, .pCommandBuffers = &commands,
	                              .signalSemaphoreCount = 1, .pSignalSemaphores = &d->timeline };
	const VkResult r = vkQueueSubmit(d->queue, 1, &submit, VK_NULL_HANDLE);

	d->is_lost |= r == VK_ERROR_DEVICE_LOST;
	if (r < 0)
		return vk_fail(r, what);
	d->submitted = next;
	return 0;
}

int vk_wait(struct vulkan_device *d, uint64_t submission, const char *what)
{
	const uint64_t seconds = TIMEOUT_S + d->shape.max_rows / ROWS_A_SECOND;
	const VkSemaphoreWaitInfo wait = { .sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
	                                   .semaphoreCount = 1, .pSemaphores = &d->timeline,
	                                   .pValues = &submission };
	const VkResult r = vkWaitSemaphores(d->device, &wait, seconds * 1000000000u);

	/* Whatever the reason: what the device still uses must be left alone. */
	d->is_lost |= r != VK_SUCCESS;
	if (r == VK_TIMEOUT)
		return gp_fail(ETIMEDOUT, "Vulkan: the device hangs: %s took over %llu s; "
		               "use a smaller --max-rows if it is only slow; --check-numerics "
		               "tells in which layer", what, (unsigned long long)seconds);
	return r < 0 ? vk_fail(r, what) : 0;
}

/* A thread that slept is woken 0.1 to 0.4 ms late, as long as a layer takes a card.
 * Where device and host share cores or power, a step is long, and sleep is right. */
static void spin(const struct vulkan_device *d)
{
	const uint64_t until = gp_now_ns() + SPIN_NS;
	uint64_t done = 0;

	while (!d->is_unified && vkGetSemaphoreCounterValue(d->device, d->timeline, &done) >= 0 &&
	       done < d->submitted && gp_now_ns() < until)
		;
}

int vk_begin_commands(struct vulkan_device *d)
{
	const VkCommandBufferBeginInfo info = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
		.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT };
	/* A step that was cancelled has left it half recorded. */
	VkResult r = vkResetCommandBuffer(d->once, 0);

	d->commands = d->once;
	if (r >= 0)
		r = vkBeginCommandBuffer(d->commands, &info);
	if (r < 0)
		return vk_fail(r, "recording");
	vk_trace_begin(d, d->commands);
	return 0;
}

int vk_end_commands(struct vulkan_device *d)
{
	const VkMemoryBarrier to_host = { .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
	                                  .srcAccessMask = VK_ACCESS_MEMORY_WRITE_BIT,
	                                  .dstAccessMask = VK_ACCESS_HOST_READ_BIT };

	vk_trace_end(d, d->commands);
	vkCmdPipelineBarrier(d->commands, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT,
	                     VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &to_host, 0, NULL, 0, NULL);
	const VkResult r = vkEndCommandBuffer(d->commands);
	return r < 0 ? vk_fail(r, "recording") : 0;
}

int vk_run(struct vulkan_device *d)
{
	const uint64_t began = gp_now_ns();
	int rc;

	if ((rc = vk_submit(d, d->commands, "a step")) < 0)
		return rc;
	spin(d);
	if ((rc = vk_wait(d, d->submitted, "a step")) < 0)
		return rc;
	vk_trace_report(d, began);
	return 0;
}

int vk_run_commands(struct vulkan_device *d)
{
	const int rc = vk_end_commands(d);

	return rc < 0 ? rc : vk_run(d);
}

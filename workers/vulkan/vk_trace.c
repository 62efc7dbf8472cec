/* --trace: when the device began and ended what it was given, on the host's clock. */
#include "workers/vulkan/vulkan_device.h"

#include "base/base.h"

/* Once; without timestamps, or without CLOCK_MONOTONIC among the device's clocks, less
 * is shown. */
static void open_clock(struct vulkan_device *d)
{
	const VkQueryPoolCreateInfo info = {
		.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
		.queryType = VK_QUERY_TYPE_TIMESTAMP, .queryCount = 2 };
	PFN_vkGetPhysicalDeviceCalibrateableTimeDomainsEXT domains_of;
	VkTimeDomainEXT domains[8];
	uint32_t n = GP_ARRAY_LEN(domains);

	d->has_clock = true;
	if (!d->timestamp_bits ||
	    vkCreateQueryPool(d->device, &info, NULL, &d->timestamps) < 0)
		d->timestamps = VK_NULL_HANDLE;
	domains_of = (PFN_vkGetPhysicalDeviceCalibrateableTimeDomainsEXT)vkGetInstanceProcAddr(
		d->instance, "vkGetPhysicalDeviceCalibrateableTimeDomainsEXT");
	if (!d->has_calibration || !domains_of || domains_of(d->physical, &n, domains) < 0)
		return;
	for (uint32_t i = 0; i < n; i++)
		if (domains[i] == VK_TIME_DOMAIN_CLOCK_MONOTONIC_EXT)
			d->calibrate = (PFN_vkGetCalibratedTimestampsEXT)vkGetDeviceProcAddr(
				d->device, "vkGetCalibratedTimestampsEXT");
}

void vk_trace_begin(struct vulkan_device *d, VkCommandBuffer c)
{
	if (!gp_trace_on())
		return;
	if (!d->has_clock)
		open_clock(d);
	if (!d->timestamps)
		return;
	vkCmdResetQueryPool(c, d->timestamps, 0, 2);
	vkCmdWriteTimestamp(c, VK_PIPELINE_STAGE_TOP_OF_PIPE_BIT, d->timestamps, 0);
}

void vk_trace_end(struct vulkan_device *d, VkCommandBuffer c)
{
	if (d->timestamps)
		vkCmdWriteTimestamp(c, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, d->timestamps, 1);
}

static uint64_t ns_between(const struct vulkan_device *d, uint64_t from, uint64_t to)
{
	const uint64_t mask = d->timestamp_bits < 64 ? (1ull << d->timestamp_bits) - 1 : UINT64_MAX;

	return (uint64_t)((double)((to - from) & mask) * d->timestamp_ns);
}

/* Where both clocks can be read at once, that is how far back the device's began; else
 * it began when it was told to. */
static uint64_t begin_of(const struct vulkan_device *d, uint64_t tick, uint64_t submitted_ns)
{
	const VkCalibratedTimestampInfoEXT clocks[] = {
		{ .sType = VK_STRUCTURE_TYPE_CALIBRATED_TIMESTAMP_INFO_EXT,
		  .timeDomain = VK_TIME_DOMAIN_DEVICE_EXT },
		{ .sType = VK_STRUCTURE_TYPE_CALIBRATED_TIMESTAMP_INFO_EXT,
		  .timeDomain = VK_TIME_DOMAIN_CLOCK_MONOTONIC_EXT } };
	uint64_t now[2], deviation;

	if (!d->calibrate || d->calibrate(d->device, 2, clocks, now, &deviation) < 0)
		return submitted_ns;
	return now[1] - ns_between(d, tick, now[0]);
}

void vk_trace_report(struct vulkan_device *d, uint64_t submitted_ns)
{
	uint64_t tick[2];

	if (!d->timestamps ||
	    vkGetQueryPoolResults(d->device, d->timestamps, 0, 2, sizeof tick, tick, sizeof tick[0],
	                          VK_QUERY_RESULT_64_BIT) != VK_SUCCESS)
		return;
	const uint64_t begin = begin_of(d, tick[0], submitted_ns);
	gp_trace_gpu_span("submission", begin, begin + ns_between(d, tick[0], tick[1]));
}

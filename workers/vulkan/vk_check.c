/* --check-numerics: what was recorded so far is run, and a buffer brought to the host. */
#include "workers/vulkan/vulkan_device.h"

#include "base/base.h"

int vk_take_checked(struct vulkan_device *d)
{
	uint64_t most = 0;

	d->checked = (struct vk_span){ 0 };
	if (!d->shape.check_numerics)
		return 0;
	for (uint32_t b = 0; b < GP_BUF_COUNT; b++)
		if (vk_buffer_bytes(d, b) > most)
			most = vk_buffer_bytes(d, b);
	return vk_take(d, &d->out_arena, most, "checks", &d->checked);
}

int vulkan_check(void *dev, enum gp_buffer b, uint32_t rows)
{
	struct vulkan_device *d = dev;
	const VkBufferCopy part = { d->buffer[b].offset, d->checked.offset,
	                            (VkDeviceSize)rows * d->width[b] * sizeof(float) };
	int rc;

	if (!part.size)
		return 0;
	vk_barrier_to_copy(d);
	vkCmdCopyBuffer(d->commands, d->buffer[b].buffer, d->checked.buffer, 1, &part);
	if ((rc = vk_run_commands(d)) < 0 || (rc = vk_begin_commands(d)) < 0)
		return rc;
	vk_barrier_of_begin(d);
	return gp_find_wrong((const float *)d->checked.host, rows, d->width[b]);
}

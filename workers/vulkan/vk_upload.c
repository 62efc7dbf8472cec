/* The way into memory that the host does not see: two buffers in turn, so that one is
 * filled while the device copies the other. */
#include "workers/vulkan/vulkan_device.h"

#include <string.h>

#include "base/base.h"

#define STAGE_BYTES ((size_t)4 << 20)

static int create_stage(struct vulkan_device *d, struct vk_stage *s)
{
	const VkCommandBufferAllocateInfo buffer = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO, .commandPool = d->pool,
		.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY, .commandBufferCount = 1 };
	VkResult r;

	if (!s->commands &&
	    (r = vkAllocateCommandBuffers(d->device, &buffer, &s->commands)) < 0) {
		s->commands = NULL;
		return vk_fail(r, "an upload");
	}
	return s->memory.host ? 0 :
	       vk_take(d, &d->stage_arena, STAGE_BYTES, "staging", &s->memory);
}

static int wait_for(struct vulkan_device *d, struct vk_stage *s)
{
	return s->submission ? vk_wait(d, s->submission, "an upload") : 0;
}

/* Whatever is submitted later sees it. */
static VkResult record_copy(struct vk_stage *s, const struct vk_span *to, VkDeviceSize at,
                            VkDeviceSize bytes)
{
	const VkCommandBufferBeginInfo info = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
		.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT };
	const VkMemoryBarrier all = { .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
	                              .srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT,
	                              .dstAccessMask = VK_ACCESS_MEMORY_READ_BIT |
	                                               VK_ACCESS_MEMORY_WRITE_BIT };
	const VkBufferCopy part = { s->memory.offset, to->offset + at, bytes };
	const VkResult r = vkBeginCommandBuffer(s->commands, &info);

	if (r < 0)
		return r;
	vkCmdCopyBuffer(s->commands, s->memory.buffer, to->buffer, 1, &part);
	vkCmdPipelineBarrier(s->commands, VK_PIPELINE_STAGE_TRANSFER_BIT,
	                     VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, 0, 1, &all, 0, NULL, 0, NULL);
	return vkEndCommandBuffer(s->commands);
}

static int upload_part(struct vulkan_device *d, const struct vk_span *to, size_t at,
                       const char *from, size_t bytes)
{
	struct vk_stage *s = &d->stages[d->next_stage++ % GP_ARRAY_LEN(d->stages)];
	VkResult r;
	int rc;

	if ((rc = create_stage(d, s)) < 0 || (rc = wait_for(d, s)) < 0)
		return rc;
	memcpy(s->memory.host, from, bytes);
	if ((r = record_copy(s, to, at, bytes)) < 0)
		return vk_fail(r, "an upload");
	if ((rc = vk_submit(d, s->commands, "an upload")) == 0)
		s->submission = d->submitted;
	return rc;
}

int vk_upload(struct vulkan_device *d, const struct vk_span *to, const void *from, size_t bytes)
{
	int rc = 0;

	if (to->host) {
		memcpy(to->host, from, bytes);
		return 0;
	}
	for (size_t at = 0; at < bytes && rc == 0; at += STAGE_BYTES)
		rc = upload_part(d, to, at, (const char *)from + at,
		                 bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES);
	return rc;
}

int vk_end_uploads(struct vulkan_device *d)
{
	int rc = 0;

	for (size_t i = 0; i < GP_ARRAY_LEN(d->stages) && rc == 0; i++) {
		rc = wait_for(d, &d->stages[i]);
		d->stages[i].memory = (struct vk_span){ 0 };
	}
	if (rc == 0)
		vk_give_all(d, &d->stage_arena);
	return rc;
}

int vulkan_finish_load(void *dev)
{
	struct vulkan_device *d = dev;
	const int rc = vk_end_uploads(d);

	if (rc == 0)
		vk_save_cache(d);
	return rc;
}

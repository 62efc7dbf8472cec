/* Memory in large blocks, and the way into it. */
#include "workers/vulkan/vulkan_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define BLOCK_BYTES ((VkDeviceSize)64 << 20)
#define ALIGN_BYTES 256u

static VkMemoryPropertyFlags wanted(enum vk_memory kind, bool more)
{
	const VkMemoryPropertyFlags host = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
	                                   VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;

	if (kind == VK_MEMORY_DEVICE)
		return VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | (more ? host : 0);
	if (kind == VK_MEMORY_TO_HOST)
		return host | (more ? VK_MEMORY_PROPERTY_HOST_CACHED_BIT : 0);
	return host;
}

/* Device memory that the host sees too is only taken where it is all of the
 * device's: of a card's, a part may be visible. */
static bool is_large_heap(const struct vulkan_device *d, uint32_t heap)
{
	VkDeviceSize most = 0;

	for (uint32_t i = 0; i < d->memory.memoryHeapCount; i++)
		if ((d->memory.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) &&
		    d->memory.memoryHeaps[i].size > most)
			most = d->memory.memoryHeaps[i].size;
	return d->memory.memoryHeaps[heap].size >= most;
}

static uint32_t find_type(const struct vulkan_device *d, uint32_t allowed, enum vk_memory kind)
{
	for (int more = 1; more >= 0; more--) {
		const VkMemoryPropertyFlags want = wanted(kind, more);

		for (uint32_t i = 0; i < d->memory.memoryTypeCount; i++) {
			const VkMemoryType *t = &d->memory.memoryTypes[i];

			if ((allowed & (1u << i)) && (t->propertyFlags & want) == want &&
			    (kind != VK_MEMORY_DEVICE || is_large_heap(d, t->heapIndex)))
				return i;
		}
	}
	return UINT32_MAX;
}

static void destroy_block(struct vulkan_device *d, struct vk_block *b)
{
	vkDestroyBuffer(d->device, b->buffer, NULL);
	vkFreeMemory(d->device, b->memory, NULL);
}

static VkResult bind_block(struct vulkan_device *d, struct vk_block *b, enum vk_memory kind)
{
	VkMemoryRequirements need;

	vkGetBufferMemoryRequirements(d->device, b->buffer, &need);
	const uint32_t type = find_type(d, need.memoryTypeBits, kind);
	if (type == UINT32_MAX)
		return VK_ERROR_OUT_OF_DEVICE_MEMORY;
	const VkMemoryAllocateFlagsInfo flags = {
		.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO,
		.flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT };
	const VkMemoryAllocateInfo info = {
		.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, .pNext = &flags,
		.allocationSize = need.size, .memoryTypeIndex = type };
	VkResult r = vkAllocateMemory(d->device, &info, NULL, &b->memory);

	if (r >= 0)
		r = vkBindBufferMemory(d->device, b->buffer, b->memory, 0);
	if (r >= 0 && (d->memory.memoryTypes[type].propertyFlags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT)) {
		void *at = NULL;

		r = vkMapMemory(d->device, b->memory, 0, VK_WHOLE_SIZE, 0, &at);
		b->host = at;
	}
	return r;
}

static int create_block(struct vulkan_device *d, struct vk_block *b, enum vk_memory kind,
                        VkDeviceSize bytes, const char *what)
{
	const VkBufferCreateInfo info = {
		.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = bytes,
		.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
		         VK_BUFFER_USAGE_TRANSFER_DST_BIT | VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT };
	VkResult r;

	*b = (struct vk_block){ .bytes = bytes };
	if ((r = vkCreateBuffer(d->device, &info, NULL, &b->buffer)) < 0 ||
	    (r = bind_block(d, b, kind)) < 0) {
		destroy_block(d, b);
		return vk_fail(r, what);
	}
	const VkBufferDeviceAddressInfo at = {
		.sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO, .buffer = b->buffer };
	b->address = vkGetBufferDeviceAddress(d->device, &at);
	return 0;
}

static int grow(struct vulkan_device *d, struct vk_arena *a, VkDeviceSize bytes, const char *what)
{
	if (a->n == a->room) {
		const uint32_t room = a->room ? a->room * 2 : 8;
		struct vk_block *grown = realloc(a->blocks, room * sizeof *grown);

		if (!grown)
			return gp_fail(ENOMEM, "no memory for %u blocks", room);
		a->blocks = grown;
		a->room = room;
	}
	const int rc = create_block(d, &a->blocks[a->n], a->kind, bytes, what);
	if (rc < 0)
		return rc;
	a->bytes += bytes;
	a->n++;
	return 0;
}

int vk_take(struct vulkan_device *d, struct vk_arena *a, size_t bytes, const char *what,
            struct vk_span *out)
{
	size_t n;
	int rc;

	if (!gp_size_round_up(bytes ? bytes : 1, ALIGN_BYTES, &n))
		return gp_fail(EOVERFLOW, "%s of %zu bytes are too large", what, bytes);
	if (!a->n || a->blocks[a->n - 1].bytes - a->blocks[a->n - 1].used < n) {
		const VkDeviceSize least = a->kind == VK_MEMORY_DEVICE ? BLOCK_BYTES : n;

		if ((rc = grow(d, a, n > least ? n : least, what)) < 0)
			return rc;
	}
	struct vk_block *b = &a->blocks[a->n - 1];
	*out = (struct vk_span){ .buffer = b->buffer, .offset = b->used,
	                         .address = b->address + b->used,
	                         .host = b->host ? b->host + b->used : NULL };
	b->used += n;
	return 0;
}

void vk_give_all(struct vulkan_device *d, struct vk_arena *a)
{
	for (uint32_t i = 0; i < a->n; i++)
		destroy_block(d, &a->blocks[i]);
	free(a->blocks);
	*a = (struct vk_arena){ .kind = a->kind };
}

static int upload_staged(struct vulkan_device *d, const struct vk_span *to, const void *from,
                         size_t bytes)
{
	struct vk_arena stage = { .kind = VK_MEMORY_TO_DEVICE };
	struct vk_span s;
	int rc;

	if ((rc = vk_take(d, &stage, bytes, "staging", &s)) < 0)
		return rc;
	memcpy(s.host, from, bytes);
	if ((rc = vk_begin_commands(d)) == 0) {
		const VkBufferCopy part = { s.offset, to->offset, bytes };

		vkCmdCopyBuffer(d->commands, s.buffer, to->buffer, 1, &part);
		rc = vk_run_commands(d);
	}
	vk_give_all(d, &stage);
	return rc;
}

int vk_upload(struct vulkan_device *d, const struct vk_span *to, const void *from, size_t bytes)
{
	const size_t most = (size_t)32 << 20;
	int rc = 0;

	if (to->host) {
		memcpy(to->host, from, bytes);
		return 0;
	}
	for (size_t at = 0; at < bytes && rc == 0; at += most) {
		struct vk_span part = *to;

		part.offset += at;
		rc = upload_staged(d, &part, (const char *)from + at,
		                   bytes - at < most ? bytes - at : most);
	}
	return rc;
}

/* Memory in large blocks, each one allocation with one buffer over it. Shaders reach
 * it by address, so maxStorageBufferRange does not matter; maxMemoryAllocationSize
 * does, and no span lies across two blocks. */
#include "workers/vulkan/vulkan_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define BLOCK_BYTES ((VkDeviceSize)64 << 20)
#define OWN_BLOCK_BYTES (BLOCK_BYTES / 4)   /* what is larger has a block of its own */

/* ---- which memory --------------------------------------------------------------- */
static const VkMemoryPropertyFlags host_flags = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                                VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;

/* What to look for first, second, third. Where device and host share one memory, it is
 * best filled in place, and the host's heap is as good as the device's once that is
 * full. A card's memory is filled faster by its own copies than through the bus's
 * window, even where that shows all of it. */
static bool suits(const struct vulkan_device *d, uint32_t type, enum vk_memory kind, uint32_t try)
{
	VkMemoryPropertyFlags want = host_flags;

	if (kind == VK_MEMORY_DEVICE && !d->is_unified && try != 1)
		return false;
	if (kind == VK_MEMORY_DEVICE && try < 2)
		want = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | (try == 0 ? host_flags : 0);
	if (kind == VK_MEMORY_STEP && try == 0)
		want |= VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
	if (kind == VK_MEMORY_TO_HOST && try == 0)
		want |= VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
	return (d->memory.memoryTypes[type].propertyFlags & want) == want;
}

static VkResult allocate_from(struct vulkan_device *d, struct vk_block *b, uint32_t type)
{
	const VkMemoryAllocateFlagsInfo flags = {
		.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO,
		.flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT };
	const VkMemoryAllocateInfo info = {
		.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, .pNext = &flags,
		.allocationSize = b->allocated, .memoryTypeIndex = type };
	const VkResult r = vkAllocateMemory(d->device, &info, NULL, &b->memory);

	if (r < 0)
		return r;
	b->type = type;
	d->heap_taken[d->memory.memoryTypes[type].heapIndex] += b->allocated;
	return r;
}

/* From the first memory that suits and has room. */
static VkResult allocate(struct vulkan_device *d, struct vk_block *b, enum vk_memory kind)
{
	VkMemoryRequirements need;

	vkGetBufferMemoryRequirements(d->device, b->buffer, &need);
	b->allocated = need.size;
	for (uint32_t try = 0; try < 3; try++)
		for (uint32_t i = 0; i < d->memory.memoryTypeCount; i++) {
			if (!(need.memoryTypeBits & (1u << i)) || !suits(d, i, kind, try))
				continue;
			const VkResult r = allocate_from(d, b, i);
			if (r >= 0 || (r != VK_ERROR_OUT_OF_DEVICE_MEMORY &&
			               r != VK_ERROR_OUT_OF_HOST_MEMORY))
				return r;
		}
	return VK_ERROR_OUT_OF_DEVICE_MEMORY;
}

bool vk_may_hold_weights(const struct vulkan_device *d, uint32_t heap)
{
	for (uint32_t i = 0; i < d->memory.memoryTypeCount; i++)
		for (uint32_t try = 0; try < 3; try++)
			if (d->memory.memoryTypes[i].heapIndex == heap &&
			    suits(d, i, VK_MEMORY_DEVICE, try))
				return true;
	return false;
}

/* ---- blocks --------------------------------------------------------------------- */
static void destroy_block(struct vulkan_device *d, struct vk_block *b)
{
	vkDestroyBuffer(d->device, b->buffer, NULL);
	if (b->memory)
		d->heap_taken[d->memory.memoryTypes[b->type].heapIndex] -= b->allocated;
	vkFreeMemory(d->device, b->memory, NULL);
}

static VkResult bind_block(struct vulkan_device *d, struct vk_block *b, enum vk_memory kind)
{
	VkResult r = allocate(d, b, kind);

	if (r >= 0)
		r = vkBindBufferMemory(d->device, b->buffer, b->memory, 0);
	if (r >= 0 && (d->memory.memoryTypes[b->type].propertyFlags & host_flags) == host_flags) {
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
		.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT |
		          VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
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
	char need[32], most[32];

	if (bytes > d->most_allocation)
		return gp_fail(E2BIG, "Vulkan: %s of %s in one piece; the device takes %s at most: "
		               "use %s", what, gp_size_text(need, bytes),
		               gp_size_text(most, d->most_allocation),
		               a == &d->weights_arena ? "cpu for them" : "a smaller --max-rows");
	if (a->n == a->room) {
		const uint32_t room = a->room ? a->room * 2 : 8;
		struct vk_block *grown = realloc(a->blocks, room * sizeof *grown);

		if (!grown)
			return gp_fail(ENOMEM, "Vulkan: the host has no memory for a list of %u "
			               "blocks; close other programs", room);
		a->blocks = grown;
		a->room = room;
	}
	const int rc = create_block(d, &a->blocks[a->n], a->kind, bytes, what);
	if (rc < 0)
		return rc;
	a->bytes += a->blocks[a->n].allocated;
	a->n++;
	return 0;
}

/* ---- arenas --------------------------------------------------------------------- */
/* The first block with so much room. */
static struct vk_block *find_room(const struct vk_arena *a, VkDeviceSize n)
{
	for (uint32_t i = a->first_open; i < a->n; i++)
		if (a->blocks[i].bytes - a->blocks[i].used >= n)
			return &a->blocks[i];
	return NULL;
}

/* Allocated and not taken: it may stay so. */
static VkDeviceSize unused(const struct vk_arena *a)
{
	VkDeviceSize sum = 0;

	for (uint32_t i = a->first_open; i < a->n; i++)
		sum += a->blocks[i].bytes - a->blocks[i].used;
	return sum;
}

static VkDeviceSize most_shared(const struct vulkan_device *d)
{
	return d->most_allocation < BLOCK_BYTES ? d->most_allocation : BLOCK_BYTES;
}

/* Small things share blocks. Of an arena whose size is known no more is taken than is
 * still expected, and no more may stay unused than the budget has room for. */
static VkDeviceSize block_for(const struct vulkan_device *d, const struct vk_arena *a,
                              VkDeviceSize n)
{
	VkDeviceSize share = most_shared(d);

	if (a->kind != VK_MEMORY_DEVICE || n >= OWN_BLOCK_BYTES)
		return n;
	if (a->expected) {
		const VkDeviceSize left = a->expected > a->bytes ? a->expected - a->bytes : 0;
		const VkDeviceSize ends = unused(a), spare = a->slack > ends ? a->slack - ends : 0;

		share = left < share ? left : share;
		share = share > n && share - n > spare ? n + spare : share;
	}
	return n > share ? n : share;
}

static void close_full_blocks(struct vk_arena *a)
{
	while (a->first_open < a->n &&
	       a->blocks[a->first_open].bytes - a->blocks[a->first_open].used < VK_ALIGN_BYTES)
		a->first_open++;
}

int vk_take(struct vulkan_device *d, struct vk_arena *a, size_t bytes, const char *what,
            struct vk_span *out)
{
	struct vk_block *b;
	size_t n;
	int rc;

	if (!gp_size_round_up(bytes ? bytes : 1, VK_ALIGN_BYTES, &n))
		return gp_fail(EOVERFLOW, "%s of %zu bytes are too large", what, bytes);
	if (!(b = find_room(a, n))) {
		const VkDeviceSize block = block_for(d, a, n);

		rc = grow(d, a, block, what);
		if (rc == -ENOMEM && block > n)
			rc = grow(d, a, n, what);
		if (rc < 0)
			return rc;
		b = &a->blocks[a->n - 1];
	}
	*out = (struct vk_span){ .buffer = b->buffer, .offset = b->used,
	                         .address = b->address + b->used,
	                         .host = b->host ? b->host + b->used : NULL };
	b->used += n;
	close_full_blocks(a);
	return 0;
}

int vk_reserve(struct vulkan_device *d, struct vk_arena *a, size_t bytes, uint32_t count,
               const char *what)
{
	const VkDeviceSize n = (bytes + VK_ALIGN_BYTES - 1) / VK_ALIGN_BYTES * VK_ALIGN_BYTES;
	const VkDeviceSize fit = n && n < most_shared(d) ? most_shared(d) / n : 1;
	int rc = 0;

	for (VkDeviceSize left = count, some; left && rc == 0; left -= some) {
		some = left < fit ? left : fit;
		rc = grow(d, a, some * n, what);
	}
	return rc;
}

void vk_give_all(struct vulkan_device *d, struct vk_arena *a)
{
	for (uint32_t i = 0; i < a->n; i++)
		destroy_block(d, &a->blocks[i]);
	free(a->blocks);
	*a = (struct vk_arena){ .kind = a->kind };
}

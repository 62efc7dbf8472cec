/* How much memory there is, and whether a stage fits into it. */
#include "workers/vulkan/vulkan_device.h"

#include "base/base.h"

/* What a heap has left for this process: by VK_EXT_memory_budget, or its size less what
 * was taken of it here. */
uint64_t vk_heap_room(const struct vulkan_device *d, uint32_t heap)
{
	VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT };
	VkPhysicalDeviceMemoryProperties2 memory = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2, .pNext = &budget };
	uint64_t have = d->memory.memoryHeaps[heap].size, used = d->heap_taken[heap];

	if (d->has_budget) {
		vkGetPhysicalDeviceMemoryProperties2(d->physical, &memory);
		have = budget.heapBudget[heap];
		used = budget.heapUsage[heap];
	}
	return have > used ? have - used : 0;
}

static uint64_t room_for_weights(const struct vulkan_device *d)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < d->memory.memoryHeapCount; i++)
		if (vk_may_hold_weights(d, i))
			sum += vk_heap_room(d, i);
	return sum;
}

uint64_t vulkan_weight_bytes(void *dev, const struct gp_tensor *t)
{
	size_t bytes;

	/* What cannot be counted is refused by name when it is loaded. */
	if (gp_type_bytes(vk_kept_type(dev, t), t->rows, t->cols, &bytes) < 0)
		return 0;
	return (uint64_t)bytes + VK_ALIGN_BYTES;
}

uint64_t vk_buffer_bytes(const struct vulkan_device *d, enum gp_buffer b)
{
	const uint32_t rows = b == GP_BUF_LOGITS ? d->shape.max_logit_rows : d->shape.max_rows;

	return (uint64_t)rows * d->width[b] * sizeof(float);
}

uint64_t vk_work_bytes(const struct vulkan_device *d)
{
	uint64_t sum = 0;

	for (uint32_t b = 0; b < GP_BUF_COUNT; b++)
		sum += vk_buffer_bytes(d, b) + VK_ALIGN_BYTES;
	return sum;
}

uint32_t vk_most_kv_blocks(const struct vulkan_device *d, enum gp_kv_kind kind)
{
	const struct gp_kv_limits limits = {
		.max_sequences = d->shape.max_sequences, .context = d->shape.context,
		.window = d->config.window, .kv_blocks = d->shape.kv_blocks,
		.has_kind = { d->n_layers[GP_KV_LOCAL] > 0, d->n_layers[GP_KV_GLOBAL] > 0 } };

	return gp_kv_most_blocks(&limits, d->shape.max_rows, kind);
}

static uint64_t kv_bytes(const struct vulkan_device *d)
{
	uint64_t sum = 0;

	for (uint32_t k = 0; k < GP_KV_KINDS; k++)
		sum += (uint64_t)vk_most_kv_blocks(d, k) * d->block_bytes[k];
	return sum;
}

int vk_check_fit(struct vulkan_device *d)
{
	const uint64_t weights = d->shape.weight_bytes, kv = kv_bytes(d);
	const uint64_t work = vulkan_memory_bytes(d), need = weights + kv + work;
	const uint64_t room = room_for_weights(d) + work;
	const bool limited = d->memory_limit && d->memory_limit < room;
	const uint64_t have = limited ? d->memory_limit : room;
	char text[5][32];

	d->weights_arena.expected = weights;
	d->weights_arena.slack = have > need ? have - need : 0;
	if (need <= have)
		return 0;
	return gp_fail(ENOMEM, "Vulkan: the stage needs %s (weights %s, KV cache %s, work %s), %s %s; "
	               "give it fewer layers, or use a smaller --ctx, --kv-tokens, --parallel or --max-sequences, "
	               "--prefixes, --max-rows or --kv-type",
	               gp_size_text(text[0], need), gp_size_text(text[1], weights),
	               gp_size_text(text[2], kv), gp_size_text(text[3], work),
	               gp_size_text(text[4], have),
	               limited ? "are its share of --device-memory" : "are free on the device");
}

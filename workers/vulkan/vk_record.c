/* Commands of steps, recorded once for each round number of rows and of logit rows, and
 * submitted again and again: what differs from step to step lies in buffers. */
#include "workers/vulkan/vulkan_device.h"

#include <stdlib.h>

#include "base/base.h"

#define FEW 32u                /* up to here powers of two; then multiples of MANY_STEP */
#define MANY_STEP 64u
#define MOST_AHEAD 1024u       /* rows of a prompt whose steps are recorded at load */

uint32_t vk_round_rows(uint32_t n)
{
	uint32_t up = 1;

	if (n > FEW)
		return (n + MANY_STEP - 1) / MANY_STEP * MANY_STEP;
	while (up < n)
		up *= 2;
	return n ? up : 0;
}

/* Round numbers below n: 0, 1, 2, 4, ..., FEW, MANY_STEP, 2 MANY_STEP, ... */
static uint32_t bucket_of(uint32_t n)
{
	uint32_t bucket = 0;

	if (n > FEW)
		return 6 + n / MANY_STEP;
	for (; n; n /= 2)
		bucket++;
	return bucket;
}

static uint32_t recordings_of(const struct vulkan_device *d)
{
	return 4 * d->row_buckets * d->logit_buckets;
}

int vk_take_recordings(struct vulkan_device *d)
{
	d->row_buckets = bucket_of(vk_round_rows(d->shape.max_rows)) + 1;
	d->logit_buckets = bucket_of(vk_round_rows(d->shape.max_logit_rows)) + 1;
	d->recordings = calloc(recordings_of(d), sizeof(VkCommandBuffer));
	d->prepared = 0;
	return d->recordings ? 0 : gp_fail(ENOMEM, "no memory for recordings");
}

void vk_give_recordings(struct vulkan_device *d)
{
	for (uint32_t i = 0; d->recordings && i < recordings_of(d); i++)
		if (d->recordings[i])
			vkFreeCommandBuffers(d->device, d->pool, 1, &d->recordings[i]);
	free(d->recordings);
	d->recordings = d->recording = NULL;
}

static VkCommandBuffer *recording_for(const struct vulkan_device *d)
{
	const uint32_t row = bucket_of(d->rows), logit_row = bucket_of(d->logit_rows);
	const uint32_t kind = d->picks * 2u + d->alone;

	return &d->recordings[(kind * d->row_buckets + row) * d->logit_buckets + logit_row];
}

/* A step that failed or was cancelled half way left its recording in hand. */
static void drop_unfinished(struct vulkan_device *d)
{
	if (d->recording && *d->recording)
		vkFreeCommandBuffers(d->device, d->pool, 1, d->recording);
	if (d->recording)
		*d->recording = NULL;
	d->recording = NULL;
}

static int start(struct vulkan_device *d)
{
	const VkCommandBufferAllocateInfo info = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO, .commandPool = d->pool,
		.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY, .commandBufferCount = 1 };
	const VkCommandBufferBeginInfo begin = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO };
	VkResult r = vkAllocateCommandBuffers(d->device, &info, d->recording);

	if (r < 0)
		*d->recording = NULL;
	else
		r = vkBeginCommandBuffer(*d->recording, &begin);
	d->commands = *d->recording;
	if (r < 0)
		return vk_fail(r, "recording");
	vk_trace_begin(d, d->commands);
	return 0;
}

int vk_begin_recording(struct vulkan_device *d)
{
	drop_unfinished(d);
	/* Each operation is looked at on its own: nothing is kept. */
	if (d->shape.check_numerics)
		return vk_begin_commands(d);
	VkCommandBuffer *found = recording_for(d);
	if (*found) {
		d->commands = *found;
		return 1;
	}
	d->recording = found;
	return start(d);
}

/* ---- ahead of the first step ---------------------------------------------------- */
/* Decode: a row of each of some sequences, all of which want logits where there is a
 * head. A prompt: rows of one sequence, of which the last may. Steps of other kinds
 * (scoring, prompts beside decode) are of too many kinds, and long enough to be recorded
 * when the first of them comes. */
static bool is_expected(const struct vulkan_device *d, uint32_t rows, uint32_t logit_rows)
{
	const bool has_head = d->shape.has_head;

	if (rows == 0 || (d->picks && logit_rows == 0))
		return false;
	if (!d->alone)
		return rows > 1 && rows <= MOST_AHEAD && logit_rows <= has_head;
	return rows <= vk_round_rows(d->shape.max_sequences) &&
	       (logit_rows == (has_head ? rows : 0) || (rows == 1 && logit_rows == 0));
}

static uint32_t rows_of(uint32_t bucket)
{
	return bucket <= 6 ? (1u << bucket) / 2 : (bucket - 6) * MANY_STEP;
}

int vulkan_prepare(void *dev, uint32_t *n_logit_rows)
{
	struct vulkan_device *d = dev;

	atomic_store_explicit(&d->cancelled, false, memory_order_relaxed);
	d->batch = NULL;
	if (d->shape.check_numerics)
		return 0;
	for (; d->prepared < recordings_of(d); d->prepared++) {
		const uint32_t i = d->prepared / d->logit_buckets;
		const uint32_t kind = i / d->row_buckets;

		d->logit_rows = rows_of(d->prepared % d->logit_buckets);
		d->rows = rows_of(i % d->row_buckets);
		d->alone = kind & 1;
		d->picks = kind & 2;
		if (!is_expected(d, d->rows, d->logit_rows) || d->recordings[d->prepared])
			continue;
		*n_logit_rows = d->logit_rows;
		const int rc = vk_record_begin(d);
		return rc < 0 ? rc : 1;
	}
	return 0;
}

/* ---- running --------------------------------------------------------------------- */
/* d->recording is NULL where the commands were recorded in an earlier step. */
int vk_run_recording(struct vulkan_device *d)
{
	int rc;

	if (d->shape.check_numerics)
		return vk_run_commands(d);
	if (d->recording && (rc = vk_end_commands(d)) < 0)
		return rc;
	d->recording = NULL;
	if (!d->batch)
		return 0;
	if (atomic_load_explicit(&d->cancelled, memory_order_relaxed))
		return gp_fail(ECANCELED, "the step was cancelled");
	return vk_run(d);
}

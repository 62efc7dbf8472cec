/* The best logits of a row. The device finds, and gives the host, as many chunks of 64
 * logits as candidates are wanted, which the candidates are among; whole rows are only
 * copied in steps of which a row wants all of its logits. */
#include "workers/vulkan/vulkan_device.h"

#include <string.h>

#include "base/base.h"

#define CHUNK 64u              /* as in chunk_maxima.comp and pick_chunks.comp */
#define ROW_WORDS (GP_MAX_CANDIDATES * (CHUNK + 1))

static uint32_t chunks_of(const struct vulkan_device *d)
{
	return (d->config.vocab + CHUNK - 1) / CHUNK;
}

/* Rows of logits begin at vectors, and a row has chunks enough. */
bool vk_picks_best(const struct vulkan_device *d, const struct gp_batch *b)
{
	bool picks = d->config.vocab % 4 == 0;

	for (uint32_t i = 0; i < b->n_logit_rows && picks; i++)
		picks = b->candidates[i] && b->candidates[i] <= chunks_of(d);
	return picks;
}

/* out_words: room for all of a row's words in the output. */
int vk_take_best(struct vulkan_device *d, uint32_t rows)
{
	const struct { struct vk_arena *arena; struct vk_span *span; size_t words; } all[] = {
		{ &d->work_arena, &d->maxima, chunks_of(d) }, { &d->in_arena, &d->wanted, 1 },
		{ &d->out_arena, &d->picked_chunks, ROW_WORDS } };
	size_t bytes;
	int rc = 0;

	for (size_t i = 0; i < GP_ARRAY_LEN(all) && rc == 0; i++) {
		if (!gp_size_mul(all[i].words * sizeof(float), rows, &bytes))
			return gp_fail(EOVERFLOW, "candidates of %u rows are too large", rows);
		rc = vk_take(d, all[i].arena, bytes, "candidates", all[i].span);
	}
	return rc;
}

int vk_record_best(struct vulkan_device *d)
{
	const struct { uint64_t logits, maxima; uint32_t n, chunks; } maxima = {
		d->buffer[GP_BUF_LOGITS].address, d->maxima.address, d->config.vocab, chunks_of(d) };
	const struct { uint64_t logits, maxima, wanted, to; uint32_t n, chunks; } pick = {
		maxima.logits, maxima.maxima, d->wanted.address, d->picked_chunks.address,
		maxima.n, maxima.chunks };
	int rc = vk_dispatch(d, VK_CHUNK_MAXIMA, 0, &maxima, sizeof maxima,
	                     (const uint32_t[]){ (maxima.chunks + 31) / 32, d->logit_rows, 1 });

	vk_barrier(d);
	return rc < 0 ? rc : vk_dispatch(d, VK_PICK_CHUNKS, 0, &pick, sizeof pick,
	                                 (const uint32_t[]){ d->logit_rows, 1, 1 });
}

static void best_of_chunks(const struct vulkan_device *d, uint32_t row, uint32_t k,
                           struct gp_candidate *out)
{
	const uint32_t *ids = (const uint32_t *)d->picked_chunks.host + (size_t)row * ROW_WORDS;
	const float *logits = (const float *)(ids + GP_MAX_CANDIDATES);
	struct gp_best best = { .c = out, .most = k };

	for (uint32_t i = 0; i < k; i++)
		for (uint32_t j = 0; j < CHUNK; j++) {
			const uint32_t id = ids[i] * CHUNK + j;

			if (id < d->config.vocab)
				gp_best_add(&best, (struct gp_candidate){ logits[i * CHUNK + j], id });
		}
	gp_best_sort(&best);
}

static void best_of_row(const struct vulkan_device *d, const float *row, uint32_t k,
                        struct gp_candidate *out)
{
	struct gp_best best = { .c = out, .most = k };

	gp_best_scan(&best, &d->k, row, 0, d->config.vocab);
	gp_best_sort(&best);
}

void vk_give_logits(const struct vulkan_device *d, float *out)
{
	const struct gp_batch *b = d->batch;

	for (uint32_t i = 0; i < b->n_logit_rows; i++) {
		const float *row = (const float *)d->out.host + (size_t)i * d->config.vocab;
		const uint32_t k = b->candidates[i];

		if (!k)
			memcpy(out, row, d->config.vocab * sizeof *out);
		else if (d->picks)
			best_of_chunks(d, i, k, (struct gp_candidate *)out);
		else
			best_of_row(d, row, k, (struct gp_candidate *)out);
		out += k ? k * sizeof(struct gp_candidate) / sizeof *out : d->config.vocab;
	}
}

/* The memory behind the blocks of the KV cache. A block is
 * [layer of the kind][KV head][K, V][64 positions][head_dim] in the KV type: what
 * one item of attention reads lies side by side. */
#include "workers/cpu/cpu_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

int cpu_kv_layout(struct cpu_device *d)
{
	const struct gp_type_info *t = gp_type_info(d->shape.kv_type);
	size_t heads = (size_t)d->config.n_kv_heads * 2 * GP_KV_BLOCK;
	uint32_t n_layers[GP_KV_KINDS];

	gp_kv_places(&d->shape, d->place, n_layers);
	for (uint32_t k = 0; k < GP_KV_KINDS; k++)
		d->kv[k].n_layers = n_layers[k];
	d->kv_row_bytes = d->config.head_dim / t->block_elems * t->block_bytes;
	for (uint32_t k = 0; k < GP_KV_KINDS; k++)
		if (!gp_size_mul(heads, (size_t)d->kv_row_bytes * d->kv[k].n_layers,
		                 &d->kv[k].block_bytes))
			return gp_fail(EOVERFLOW, "KV blocks of %u heads are too large",
			               d->config.n_kv_heads);
	return 0;
}

int cpu_kv_reserve(void *dev, enum gp_kv_kind kind, uint32_t id)
{
	struct cpu_device *d = dev;
	struct cpu_kv_pool *p = &d->kv[kind];
	int rc;

	if (id != p->n)
		return gp_fail(EINVAL, "KV block %u reserved where %u is next", id, p->n);
	if (p->n == p->room) {
		uint32_t room = p->room ? p->room * 2 : 64;
		struct cpu_pages *grown = realloc(p->blocks, room * sizeof(*grown));

		if (!grown)
			return gp_fail(ENOMEM, "no memory for %u KV blocks", room);
		p->blocks = grown;
		p->room = room;
	}
	if ((rc = cpu_pages_take(&p->blocks[id], p->block_bytes, "KV cache")) < 0)
		return rc;
	p->n++;
	return 0;
}

int cpu_kv_copy(void *dev, enum gp_kv_kind kind, uint32_t to, uint32_t from)
{
	struct cpu_device *d = dev;
	struct cpu_kv_pool *p = &d->kv[kind];

	memcpy(p->blocks[to].data, p->blocks[from].data, p->block_bytes);
	return 0;
}

void cpu_kv_release(struct cpu_device *d)
{
	for (uint32_t k = 0; k < GP_KV_KINDS; k++) {
		for (uint32_t id = 0; id < d->kv[k].n; id++)
			cpu_pages_give(&d->kv[k].blocks[id]);
		free(d->kv[k].blocks);
		d->kv[k] = (struct cpu_kv_pool){ 0 };
	}
}

void *cpu_kv_rows(const struct cpu_device *d, uint32_t layer, uint32_t block, uint32_t which,
                  uint32_t head)
{
	const struct gp_kv_place *at = &d->place[layer];
	size_t n = ((size_t)at->index * d->config.n_kv_heads + head) * 2 + which;

	return (char *)d->kv[at->kind].blocks[block].data + n * GP_KV_BLOCK * d->kv_row_bytes;
}

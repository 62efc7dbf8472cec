/* What the device keeps: weights, packed where the kernels have integer products
 * for their type, else as in the file; activations. */
#include "workers/cpu/cpu_device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/base.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define ALIGN_FLOATS 16u /* a cache line */
#define LOAD_BYTES ((size_t)256 << 10) /* read at a time by a thread: stays in its L2 cache */

/* ---- pages ----------------------------------------------------------------- */
/* Cuts a mapping of bytes + HUGE_PAGE down to bytes that begin at a huge page. */
static void *trim_to_huge(char *map, size_t bytes)
{
	size_t before = (HUGE_PAGE - ((uintptr_t)map & (HUGE_PAGE - 1))) & (HUGE_PAGE - 1);

	if (before)
		munmap(map, before);
	if (before < HUGE_PAGE)
		munmap(map + before + bytes, HUGE_PAGE - before);
	return map + before;
}

int cpu_pages_take(struct cpu_pages *p, size_t bytes, const char *what)
{
	char size[32];
	size_t rounded, mapped;
	bool huge = bytes >= HUGE_PAGE;
	void *map = MAP_FAILED;

	if (gp_size_round_up(bytes ? bytes : 1, 4096, &rounded) &&
	    gp_size_add(rounded, huge ? HUGE_PAGE : 0, &mapped))
		map = mmap(NULL, mapped, PROT_READ | PROT_WRITE,
		           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return gp_fail(ENOMEM, "no memory for %s of %s; use a smaller model or context",
		               gp_size_text(size, bytes), what);
	if (huge) {
		map = trim_to_huge(map, rounded);
		madvise(map, rounded, MADV_HUGEPAGE); /* a hint: may be off */
	}
	*p = (struct cpu_pages){ .data = map, .bytes = rounded };
	return 0;
}

void cpu_pages_give(struct cpu_pages *p)
{
	if (p->data)
		munmap(p->data, p->bytes);
	*p = (struct cpu_pages){ 0 };
}

/* ---- weights --------------------------------------------------------------- */
static int room_for_weight(struct cpu_device *d)
{
	size_t room = d->weights_room ? d->weights_room * 2 : 64;
	struct cpu_weight *grown;

	if (d->n_weights < d->weights_room)
		return 0;
	if (!(grown = realloc(d->weights, room * sizeof(*grown))))
		return gp_fail(ENOMEM, "no memory for %zu weights", room);
	d->weights = grown;
	d->weights_room = room;
	return 0;
}

struct loading {
	struct cpu_device *d;
	const struct cpu_weight *w;
	const struct gp_tensor *t;
	size_t row_bytes;
	_Atomic int rc;
};

/* Rows [first, end), which begin at a group; room: for them as in the file. */
static int place_rows(const struct loading *l, uint32_t first, uint32_t end, char *room)
{
	char *to = (char *)l->w->pages.data + first * l->row_bytes;
	const size_t bytes = (end - first) * l->row_bytes;
	const uint32_t lanes = l->d->k.lanes;
	int rc;

	if ((rc = gp_tensor_read(l->t, first * l->row_bytes, bytes, l->w->packed ? room : to)) < 0)
		return rc;
	for (uint32_t r = first; l->w->packed && r < end; r += lanes) {
		gp_pack(l->w->type, lanes, room, end - r < lanes ? end - r : lanes, l->w->cols, to);
		room += lanes * l->row_bytes;
		to += lanes * l->row_bytes;
	}
	return 0;
}

/* The rows that the thread will multiply with. Its scratch has 32 bytes for each
 * column of the widest matrix; a group of any packed type takes 17 of them. */
static void load_part(void *arg, uint32_t thread, uint32_t n_threads)
{
	struct loading *l = arg;
	const size_t scratch = l->d->scratch_floats * sizeof(float);
	const size_t fit = (scratch < LOAD_BYTES ? scratch : LOAD_BYTES) / l->row_bytes;
	const uint32_t step = fit > CPU_MATMUL_GRAIN ?
	                      (uint32_t)(fit / CPU_MATMUL_GRAIN) * CPU_MATMUL_GRAIN :
	                      CPU_MATMUL_GRAIN;
	char *room = (char *)(l->d->scratch + thread * l->d->scratch_floats);
	uint32_t first, end;
	int rc = 0;

	gp_threads_split(l->w->rows, CPU_MATMUL_GRAIN, thread, n_threads, &first, &end);
	for (uint32_t r = first, next; r < end && rc == 0; r = next) {
		next = end - r < step ? end : r + step;
		rc = place_rows(l, r, next, room);
	}
	if (rc < 0)
		atomic_store(&l->rc, rc);
}

static int too_wide(const struct gp_tensor *t)
{
	return gp_fail(EINVAL, "tensor '%s' has %llu columns, more than its model's config says",
	               t->name, (unsigned long long)t->cols);
}

static int load_matrix(struct cpu_device *d, const struct cpu_weight *w,
                       const struct gp_tensor *t)
{
	struct loading l = { .d = d, .w = w, .t = t, .row_bytes = t->bytes / t->rows };
	int rc;

	if (w->packed && CPU_MATMUL_GRAIN * l.row_bytes > d->scratch_floats * sizeof(float))
		return too_wide(t);
	gp_threads_run(d->threads, load_part, &l);
	/* The message of another thread does not reach this one. */
	if ((rc = atomic_load(&l.rc)) < 0)
		return gp_fail(-rc, "tensor '%s' can't be read: its file was cut short or its disk "
		               "fails; fetch it again", t->name);
	return 0;
}

static int load_vector(struct cpu_device *d, const struct cpu_weight *w,
                       const struct gp_tensor *t, float offset)
{
	float *v = w->pages.data;
	int rc;

	if (t->bytes > d->scratch_floats * sizeof(float))
		return too_wide(t);
	if ((rc = gp_tensor_read(t, 0, t->bytes, d->scratch)) < 0)
		return rc;
	d->k.dequantize(t->type, d->scratch, v, t->cols);
	for (uint32_t i = 0; i < w->cols; i++)
		v[i] += offset;
	return 0;
}

int cpu_load(void *dev, const struct gp_tensor *t, float norm_offset, gp_handle *out)
{
	struct cpu_device *d = dev;
	struct cpu_weight *w;
	const bool vector = t->rows == 1;
	size_t bytes = t->cols * sizeof(float);
	int rc;

	if ((rc = gp_tensor_check(t)) < 0 || (rc = room_for_weight(d)) < 0)
		return rc;
	w = &d->weights[d->n_weights];
	*w = (struct cpu_weight){ .type = vector ? GP_TYPE_F32 : t->type,
	                          .packed = !vector && d->k.lanes > 1 && gp_pack_has(t->type),
	                          .rows = (uint32_t)t->rows, .cols = (uint32_t)t->cols };
	if (!vector) /* whole groups */
		rc = gp_type_bytes(t->type, (t->rows + CPU_MATMUL_GRAIN - 1) / CPU_MATMUL_GRAIN *
		                   CPU_MATMUL_GRAIN, t->cols, &bytes);
	if (rc < 0 || (rc = cpu_pages_take(&w->pages, bytes, "weights")) < 0)
		return rc;
	d->n_weights++; /* released with the others, should reading fail */
	*out = d->n_weights;
	return vector ? load_vector(d, w, t, norm_offset) : load_matrix(d, w, t);
}

/* ---- activations ----------------------------------------------------------- */
static int check_shape(const struct gp_stage_shape *s)
{
	const struct gp_config *c = s->config;

	if (s->kv_type != GP_TYPE_F32 && s->kv_type != GP_TYPE_F16 && s->kv_type != GP_TYPE_Q8_0)
		return gp_fail(EINVAL, "KV type %d; the CPU takes f32, f16 and q8_0", (int)s->kv_type);
	if (c->head_dim % gp_type_info(s->kv_type)->block_elems)
		return gp_fail(EINVAL, "KV type %s needs a head_dim that divides by %u, not %u; "
		               "use f16", gp_type_info(s->kv_type)->name,
		               gp_type_info(s->kv_type)->block_elems, c->head_dim);
	if (!c->head_dim || c->head_dim % 8 || c->head_dim > 512)
		return gp_fail(EINVAL, "head_dim %u; the CPU takes multiples of 8 up to 512",
		               c->head_dim);
	if (s->end_layer > GP_MAX_LAYERS || !c->n_kv_heads || c->n_heads % c->n_kv_heads)
		return gp_fail(EINVAL, "the CPU cannot take %u layers of %u heads and %u KV heads",
		               s->end_layer, c->n_heads, c->n_kv_heads);
	if (c->n_heads / c->n_kv_heads > GP_ATTENTION_QUERIES)
		return gp_fail(EINVAL, "%u heads share a KV head; the CPU takes at most %u",
		               c->n_heads / c->n_kv_heads, GP_ATTENTION_QUERIES);
	return 0;
}

/* One mapping holds all activations. Called twice: with base NULL it only sums. */
struct layout {
	float *base;
	size_t floats;
	bool fits;
};

static float *place(struct layout *l, size_t rows, size_t width)
{
	float *at = l->base ? l->base + l->floats : NULL;
	size_t n, sum;

	if (!gp_size_mul(rows, width, &n) || !gp_size_round_up(n, ALIGN_FLOATS, &n) ||
	    !gp_size_add(l->floats, n, &sum) || sum > SIZE_MAX / sizeof(float))
		l->fits = false;
	else
		l->floats = sum;
	return at;
}

/* The widest input of a product. */
static uint32_t most_cols(const struct cpu_device *d)
{
	const struct gp_config *c = &d->config;
	uint32_t k = c->hidden > c->ffn ? c->hidden : c->ffn;

	return k > d->width[GP_BUF_Q] ? k : d->width[GP_BUF_Q];
}

static void place_all(struct cpu_device *d, struct layout *l)
{
	uint32_t n_threads = gp_threads_count(d->threads);
	const size_t q8_floats = most_cols(d) / 32 * (sizeof(struct gp_q8) / sizeof(float));

	for (uint32_t b = 0; b < GP_BUF_COUNT; b++)
		d->buffer[b] = place(l, b == GP_BUF_LOGITS ? d->shape.max_logit_rows :
		                     d->shape.max_rows, d->width[b]);
	for (uint32_t k = 0; k < GP_KV_KINDS; k++) {
		d->rope[k] = place(l, d->shape.max_rows, d->config.head_dim);
		d->inv_freq[k] = place(l, 1, d->config.head_dim / 2);
	}
	d->scratch = place(l, n_threads, d->scratch_floats);
	d->candidates = (void *)place(l, n_threads, d->shape.has_head ? GP_MAX_CANDIDATES *
	                              sizeof(struct gp_candidate) / sizeof(float) : 0);
	d->quantized = (void *)place(l, d->shape.max_rows, q8_floats);
	d->attn_scratch = place(l, n_threads, d->attn_scratch_floats);
	d->attn_states = place(l, d->attn_slots, gp_attention_state_floats(d->config.head_dim));
}

static int take_buffers(struct cpu_device *d)
{
	struct layout l = { .fits = true };
	int rc;

	d->scratch_floats = ((size_t)most_cols(d) + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS * 8;
	cpu_attention_layout(d);
	place_all(d, &l);
	if (!l.fits)
		return gp_fail(EOVERFLOW, "activations of %u rows are too large; use fewer",
		               d->shape.max_rows);
	if ((rc = cpu_pages_take(&d->buffers, l.floats * sizeof(float), "activations")) < 0)
		return rc;
	l = (struct layout){ .base = d->buffers.data, .fits = true };
	place_all(d, &l);
	d->table_blocks = d->shape.context / GP_KV_BLOCK + 1;
	d->pointers = calloc((size_t)d->table_blocks * 2 * gp_threads_count(d->threads),
	                     sizeof(*d->pointers));
	d->tiles = calloc(d->shape.max_rows, sizeof(*d->tiles));
	if (!d->pointers || !d->tiles)
		return gp_fail(ENOMEM, "no memory for block pointers");
	return 0;
}

int cpu_configure(void *dev, const struct gp_stage_shape *shape)
{
	struct cpu_device *d = dev;
	int rc;

	if ((rc = check_shape(shape)) < 0)
		return rc;
	cpu_release(d);
	d->config = *shape->config;
	d->shape = *shape;
	d->shape.config = &d->config;
	gp_stage_widths(&d->shape, d->width);
	if ((rc = cpu_kv_layout(d)) < 0 || (rc = take_buffers(d)) < 0) {
		cpu_release(d);
		return rc;
	}
	for (uint32_t k = 0; k < GP_KV_KINDS; k++)
		gp_rope_frequencies(&d->config, k, d->inv_freq[k]);
	return 0;
}

void cpu_release(struct cpu_device *d)
{
	for (size_t i = 0; i < d->n_weights; i++)
		cpu_pages_give(&d->weights[i].pages);
	free(d->weights);
	d->weights = NULL;
	d->n_weights = d->weights_room = 0;
	cpu_pages_give(&d->buffers);
	free(d->pointers);
	d->pointers = NULL;
	free(d->tiles);
	d->tiles = NULL;
	cpu_kv_release(d);
}

uint64_t cpu_memory_bytes(void *dev)
{
	const struct cpu_device *d = dev;
	uint64_t sum = d->buffers.bytes;

	for (size_t i = 0; i < d->n_weights; i++)
		sum += d->weights[i].pages.bytes;
	for (uint32_t k = 0; k < GP_KV_KINDS; k++)
		for (uint32_t id = 0; id < d->kv[k].n; id++)
			sum += d->kv[k].blocks[id].bytes;
	return sum;
}

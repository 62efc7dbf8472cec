/* Bookkeeping of the KV cache: which block of which kind holds which positions
 * of which sequence. Only ids live here; the bytes are the device's.
 *
 * Held by a sequence of length L: of the global kind the blocks [0, ceil(L/64)),
 * of the local kind [held_from, ceil(L/64)). Everything else in its tables is
 * NO_BLOCK. A block's count is the number of tables it stands in. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define NO_BLOCK UINT32_MAX

struct pool {
	uint32_t *refs;        /* by id; 0: on the free list */
	uint32_t *free;        /* a stack of ids */
	uint32_t n_free, n, room;
};

struct sequence {
	uint32_t length;
	uint32_t held_from;    /* first local block that is still held */
	uint32_t *table[GP_KV_KINDS];
};

struct gp_kv_cache {
	struct gp_kv_limits limits;
	struct gp_kv_storage storage;
	void *device;
	uint32_t table_blocks;
	struct pool pool[GP_KV_KINDS];
	struct sequence *sequences;
	uint32_t *fresh;       /* ids taken by the extend in hand, one table's worth a kind */
};

static uint32_t blocks_for(uint32_t positions)
{
	return positions / GP_KV_BLOCK + (positions % GP_KV_BLOCK != 0);
}

/* ---- blocks ---------------------------------------------------------------- */
static int pool_grow(struct pool *p)
{
	uint32_t room = p->room ? p->room * 2 : 16;
	uint32_t *refs, *stack;

	if (p->room > UINT32_MAX / 4)
		return gp_fail(ENOMEM, "KV cache: %u blocks; use fewer sequences", p->room);
	if (!(refs = realloc(p->refs, room * sizeof(*refs))))
		return gp_fail(ENOMEM, "KV cache: no memory for %u blocks", room);
	p->refs = refs;
	if (!(stack = realloc(p->free, room * sizeof(*stack))))
		return gp_fail(ENOMEM, "KV cache: no memory for %u blocks", room);
	p->free = stack;
	p->room = room;
	return 0;
}

static int block_take(struct gp_kv_cache *kv, enum gp_kv_kind kind, uint32_t *id)
{
	struct pool *p = &kv->pool[kind];
	int rc;

	if (p->n_free) {
		*id = p->free[--p->n_free];
		p->refs[*id] = 1;
		return 0;
	}
	if (p->n == p->room && (rc = pool_grow(p)) < 0)
		return rc;
	if ((rc = kv->storage.reserve(kv->device, kind, p->n)) < 0)
		return rc;
	*id = p->n++;
	p->refs[*id] = 1;
	return 0;
}

static void block_give(struct gp_kv_cache *kv, enum gp_kv_kind kind, uint32_t id)
{
	struct pool *p = &kv->pool[kind];

	if (--p->refs[id] == 0)
		p->free[p->n_free++] = id;
}

static void table_give(struct gp_kv_cache *kv, enum gp_kv_kind kind, uint32_t *table,
                       uint32_t first, uint32_t end)
{
	for (uint32_t b = first; b < end; b++) {
		if (table[b] == NO_BLOCK)
			continue;
		block_give(kv, kind, table[b]);
		table[b] = NO_BLOCK;
	}
}

/* ---- life ------------------------------------------------------------------ */
static int tables_create(struct gp_kv_cache *kv)
{
	size_t entries, bytes;
	uint32_t *table;

	if (!gp_size_mul(kv->limits.max_sequences, kv->table_blocks * (size_t)GP_KV_KINDS,
	                 &entries) ||
	    !gp_size_mul(entries, sizeof(*table), &bytes))
		return gp_fail(EOVERFLOW, "KV cache: %u sequences of %u positions are too many",
		               kv->limits.max_sequences, kv->limits.context);
	if (!(table = malloc(bytes)))
		return gp_fail(ENOMEM, "KV cache: no memory for tables of %zu bytes; "
		               "lower the context or the number of sequences", bytes);
	memset(table, 0xff, bytes);
	for (uint32_t s = 0; s < kv->limits.max_sequences; s++)
		for (uint32_t k = 0; k < GP_KV_KINDS; k++, table += kv->table_blocks)
			kv->sequences[s].table[k] = table;
	return 0;
}

int gp_kv_create(struct gp_kv_cache **out, const struct gp_kv_limits *l,
                 const struct gp_kv_storage *s, void *device)
{
	struct gp_kv_cache *kv;
	int rc;

	*out = NULL;
	if (!l->max_sequences || !l->context || !l->window)
		return gp_fail(EINVAL, "KV cache: sequences, context and window must be at least 1");
	if (!(kv = calloc(1, sizeof(*kv))))
		return gp_fail(ENOMEM, "KV cache: no memory");
	kv->limits = *l;
	kv->storage = *s;
	kv->device = device;
	kv->table_blocks = blocks_for(l->context);
	kv->sequences = calloc(l->max_sequences, sizeof(*kv->sequences));
	kv->fresh = malloc((size_t)kv->table_blocks * GP_KV_KINDS * sizeof(*kv->fresh));
	if (!kv->sequences || !kv->fresh)
		rc = gp_fail(ENOMEM, "KV cache: no memory for %u sequences", l->max_sequences);
	else
		rc = tables_create(kv);
	if (rc < 0) {
		gp_kv_destroy(kv);
		return rc;
	}
	*out = kv;
	return 0;
}

void gp_kv_destroy(struct gp_kv_cache *kv)
{
	if (!kv)
		return;
	if (kv->sequences)
		free(kv->sequences[0].table[0]);
	free(kv->sequences);
	free(kv->fresh);
	for (uint32_t k = 0; k < GP_KV_KINDS; k++) {
		free(kv->pool[k].refs);
		free(kv->pool[k].free);
	}
	free(kv);
}

/* ---- drop, truncate, copy -------------------------------------------------- */
static int check_sequence(const struct gp_kv_cache *kv, uint32_t seq)
{
	if (seq < kv->limits.max_sequences)
		return 0;
	return gp_fail(EINVAL, "KV cache: sequence slot %u; there are %u, from 0", seq,
	               kv->limits.max_sequences);
}

static uint32_t sees_from(const struct gp_kv_cache *kv, uint32_t pos)
{
	return pos >= kv->limits.window ? pos - kv->limits.window + 1 : 0;
}

static bool continues(const struct gp_kv_cache *kv, uint32_t seq, uint32_t pos)
{
	const struct sequence *s = &kv->sequences[seq];

	return pos <= s->length && !(pos && kv->limits.has_kind[GP_KV_LOCAL] &&
				     sees_from(kv, pos) < s->held_from * GP_KV_BLOCK);
}

/* Can seq go on at pos: does it hold the window before it? From 0 it always can. */
static int check_continues(const struct gp_kv_cache *kv, uint32_t seq, uint32_t pos)
{
	const struct sequence *s = &kv->sequences[seq];

	if (continues(kv, seq, pos))
		return 0;
	if (pos > s->length)
		return gp_fail(ERANGE, "KV cache: sequence %u ends at %u, before position %u; "
		               "replay it", seq, s->length, pos);
	return gp_fail(ERANGE, "KV cache: sequence %u holds local positions from %u on, "
		               "position %u needs %u; replay it", seq,
		       s->held_from * GP_KV_BLOCK, pos, sees_from(kv, pos));
}

bool gp_kv_check(const struct gp_kv_cache *kv, uint32_t seq, uint32_t pos)
{
	return seq < kv->limits.max_sequences && continues(kv, seq, pos);
}

static void cut(struct gp_kv_cache *kv, struct sequence *s, uint32_t pos)
{
	for (uint32_t k = 0; k < GP_KV_KINDS; k++)
		table_give(kv, k, s->table[k], blocks_for(pos), blocks_for(s->length));
	s->length = pos;
	if (!pos)
		s->held_from = 0;
}

int gp_kv_drop(struct gp_kv_cache *kv, uint32_t seq)
{
	int rc = check_sequence(kv, seq);

	if (rc < 0)
		return rc;
	cut(kv, &kv->sequences[seq], 0);
	return 0;
}

int gp_kv_truncate(struct gp_kv_cache *kv, uint32_t seq, uint32_t pos)
{
	int rc = check_sequence(kv, seq);

	if (rc < 0 || (rc = check_continues(kv, seq, pos)) < 0)
		return rc;
	cut(kv, &kv->sequences[seq], pos);
	return 0;
}

int gp_kv_copy(struct gp_kv_cache *kv, uint32_t seq, uint32_t src, uint32_t pos)
{
	struct sequence *to, *from;
	int rc;

	if ((rc = check_sequence(kv, seq)) < 0 || (rc = check_sequence(kv, src)) < 0 ||
	    (rc = check_continues(kv, src, pos)) < 0)
		return rc;
	to = &kv->sequences[seq];
	from = &kv->sequences[src];
	if (to == from) {
		cut(kv, to, pos);
		return 0;
	}
	cut(kv, to, 0);
	for (uint32_t k = 0; k < GP_KV_KINDS; k++) {
		for (uint32_t b = 0; b < blocks_for(pos); b++) {
			to->table[k][b] = from->table[k][b];
			if (to->table[k][b] != NO_BLOCK)
				kv->pool[k].refs[to->table[k][b]]++;
		}
	}
	to->length = pos;
	to->held_from = pos ? from->held_from : 0;
	return 0;
}

void gp_kv_clear(struct gp_kv_cache *kv)
{
	for (uint32_t s = 0; s < kv->limits.max_sequences; s++)
		cut(kv, &kv->sequences[s], 0);
}

/* ---- extend ---------------------------------------------------------------- */
/* The table entries an extend must fill: from first, which is the last block
 * in use when others share it and new positions would be written into it. */
static uint32_t first_to_fill(const struct gp_kv_cache *kv, enum gp_kv_kind kind,
                              const struct sequence *s)
{
	uint32_t end = blocks_for(s->length);

	if (s->length % GP_KV_BLOCK && kv->pool[kind].refs[s->table[kind][end - 1]] > 1)
		return end - 1;
	return end;
}

static void give_fresh(struct gp_kv_cache *kv, enum gp_kv_kind kind, uint32_t first,
                       uint32_t end)
{
	for (uint32_t b = first; b < end; b++)
		block_give(kv, kind, kv->fresh[(size_t)kind * kv->table_blocks + b]);
}

bool gp_kv_begins_block(const struct gp_kv_cache *kv, uint32_t seq)
{
	const struct sequence *s = &kv->sequences[seq];

	return s->length % GP_KV_BLOCK == 0 ||
	       first_to_fill(kv, GP_KV_GLOBAL, s) < blocks_for(s->length);
}

/* Ids for the blocks [first_to_fill, end) of one kind; all or none. */
static int take_fresh(struct gp_kv_cache *kv, enum gp_kv_kind kind, const struct sequence *s,
                      uint32_t end)
{
	uint32_t *fresh = kv->fresh + (size_t)kind * kv->table_blocks;
	uint32_t first, b;
	int rc = 0;

	if (!kv->limits.has_kind[kind])
		return 0;
	first = first_to_fill(kv, kind, s);
	for (b = first; b < end && rc == 0; b += rc == 0)
		rc = block_take(kv, kind, &fresh[b]);
	if (rc == 0 && first < blocks_for(s->length))
		rc = kv->storage.copy(kv->device, kind, fresh[first], s->table[kind][first]);
	if (rc < 0)
		give_fresh(kv, kind, first, b);
	return rc;
}

static void commit_fresh(struct gp_kv_cache *kv, enum gp_kv_kind kind, struct sequence *s,
                         uint32_t end)
{
	const uint32_t *fresh = kv->fresh + (size_t)kind * kv->table_blocks;

	if (!kv->limits.has_kind[kind])
		return;
	for (uint32_t b = first_to_fill(kv, kind, s); b < end; b++) {
		if (s->table[kind][b] != NO_BLOCK)
			block_give(kv, kind, s->table[kind][b]);
		s->table[kind][b] = fresh[b];
	}
}

/* The first new position is the one that looks back farthest, so the window is
 * measured from the length before the step. */
static void give_back_passed(struct gp_kv_cache *kv, struct sequence *s)
{
	uint64_t kept = (uint64_t)kv->limits.window - 1 + GP_KV_SLACK;
	uint32_t from = s->length > kept ? (uint32_t)(s->length - kept) / GP_KV_BLOCK : 0;

	if (!kv->limits.has_kind[GP_KV_LOCAL] || from <= s->held_from)
		return;
	table_give(kv, GP_KV_LOCAL, s->table[GP_KV_LOCAL], s->held_from, from);
	s->held_from = from;
}

int gp_kv_extend(struct gp_kv_cache *kv, uint32_t seq, uint32_t n)
{
	struct sequence *s;
	uint32_t end;
	int rc = check_sequence(kv, seq);

	if (rc < 0)
		return rc;
	s = &kv->sequences[seq];
	if (n > kv->limits.context - s->length)
		return gp_fail(ERANGE, "sequence %u: %u positions after %u exceed the context of %u; "
		               "shorten the text or raise the context", seq, n, s->length,
		               kv->limits.context);
	end = blocks_for(s->length + n);
	if (!n)
		return 0;
	if ((rc = take_fresh(kv, GP_KV_LOCAL, s, end)) < 0)
		return rc;
	if ((rc = take_fresh(kv, GP_KV_GLOBAL, s, end)) < 0) {
		if (kv->limits.has_kind[GP_KV_LOCAL])
			give_fresh(kv, GP_KV_LOCAL, first_to_fill(kv, GP_KV_LOCAL, s), end);
		return rc;
	}
	commit_fresh(kv, GP_KV_LOCAL, s, end);
	commit_fresh(kv, GP_KV_GLOBAL, s, end);
	give_back_passed(kv, s);
	s->length += n;
	return 0;
}

/* ---- look ------------------------------------------------------------------ */
uint32_t gp_kv_length(const struct gp_kv_cache *kv, uint32_t seq)
{
	return seq < kv->limits.max_sequences ? kv->sequences[seq].length : 0;
}

const uint32_t *gp_kv_table(const struct gp_kv_cache *kv, enum gp_kv_kind kind, uint32_t seq)
{
	return kv->sequences[seq].table[kind];
}

uint32_t gp_kv_blocks_used(const struct gp_kv_cache *kv, enum gp_kv_kind kind)
{
	return kv->pool[kind].n - kv->pool[kind].n_free;
}

/* A sequence's local blocks begin GP_KV_SLACK and a window before where its last
 * step began, and end where the next one does; a step's rows are shared out among
 * its sequences. One more is held while a shared block is made private. */
uint32_t gp_kv_most_blocks(const struct gp_kv_limits *l, uint32_t max_rows, enum gp_kv_kind kind)
{
	const uint64_t kept = (uint64_t)l->window + GP_KV_SLACK + max_rows;
	const uint64_t whole = blocks_for(l->context), part = kept / GP_KV_BLOCK + 2;
	const uint64_t step = (uint64_t)max_rows / GP_KV_BLOCK + 1;
	uint64_t n = l->max_sequences * whole;

	if (!l->has_kind[kind])
		return 0;
	if (kind == GP_KV_GLOBAL && l->kv_blocks && l->kv_blocks < n)
		n = l->kv_blocks;
	if (kind == GP_KV_LOCAL && l->max_sequences * part + step < n)
		n = l->max_sequences * part + step;
	return n + 1 < UINT32_MAX ? (uint32_t)n + 1 : UINT32_MAX;
}

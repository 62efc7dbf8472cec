/* shm: memory shared between processes: regions on huge pages, rings with one
 * producer and one consumer, and the layout of a slot (a step). */
#ifndef GP_SHM_H
#define GP_SHM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- region (shm/region.c) -----------------------------------------------
 * A sealed memfd (F_SEAL_SHRINK|GROW|SEAL): its size cannot change under us.
 * Huge pages where the kernel has free ones of its default size (asked, not
 * assumed); else ordinary pages with MADV_HUGEPAGE, said once in the log. */
struct gp_region {
	void *base;        /* NULL: nothing held */
	size_t bytes;      /* mapped, a multiple of page_bytes */
	size_t page_bytes;
	int fd;            /* -1: nothing held; owned */
	bool huge;
};
#define GP_REGION_NONE ((struct gp_region){ .fd = -1 })

/* -ENOMEM: neither kind of page to be had (message says how much was asked). */
int gp_region_create(struct gp_region *r, const char *name, size_t bytes);
/* Takes over fd on success only. Refuses what is not a sealed memfd. */
int gp_region_attach(struct gp_region *r, int fd);
void gp_region_finish(struct gp_region *r); /* legal on GP_REGION_NONE, and twice */

/* ---- ring (shm/ring.c) ---------------------------------------------------
 * Fixed-size slots, free-running 32-bit indices (used = head - tail), one
 * producer thread, one consumer thread. The geometry is copied out of shared
 * memory once, at attach, and checked against the mapping; afterwards only
 * head, tail and the wait flags are read from it, and an index that cannot be
 * (head - tail > n_slots) is -EPROTO: a bad peer never makes us read outside
 * the mapping. A wait spins for spin_ns, then sleeps on a futex whose word is
 * the awaited index itself (not private: it works across processes).
 * One struct gp_ring serves one end; a plain copy of it, never finished, may
 * serve the other end in another thread. The descriptor is close-on-exec. */
struct gp_ring_shared;

struct gp_ring {
	struct gp_region region;
	struct gp_ring_shared *shared; /* NULL: nothing held */
	uint8_t *slots;
	uint32_t n_slots;              /* power of two, 1..1024 */
	size_t slot_bytes;             /* multiple of 64 */
	uint64_t spin_ns;              /* default 20 us; 0: sleep at once */
	/* filled by the waits of this end, read by its owner */
	uint64_t waited_ns, sleeps;
	/* private to ring.c: this end's indices, the reset and interrupt counts seen */
	uint32_t head, tail, generation, interrupts;
};
#define GP_RING_NONE ((struct gp_ring){ .region = { .fd = -1 } })

int gp_ring_create(struct gp_ring *r, const char *name, uint32_t n_slots, size_t slot_bytes);
/* Takes over fd on success only. */
int gp_ring_attach(struct gp_ring *r, int fd);
void gp_ring_finish(struct gp_ring *r);

/* Producer. The next free slot, or NULL in *slot with -EAGAIN when none came
 * free before the deadline (timeout_ns 0: do not wait), -ECANCELED when woken
 * by gp_ring_interrupt, -EPROTO when the peer broke the indices. Only -EPROTO
 * is a failure: the other two leave gp_error() alone. */
int gp_ring_reserve(struct gp_ring *r, uint64_t timeout_ns, void **slot);
void gp_ring_publish(struct gp_ring *r);
/* Consumer. The oldest full slot; results as above. */
int gp_ring_wait(struct gp_ring *r, uint64_t timeout_ns, void **slot);
void gp_ring_release(struct gp_ring *r);

/* Any thread of either process: ends the present or the next wait of both ends
 * with -ECANCELED; each end sees one interrupt once. */
void gp_ring_interrupt(struct gp_ring *r);
uint32_t gp_ring_used(const struct gp_ring *r); /* a snapshot */
/* Empties the ring. Only while neither end is inside a call. Both ends notice
 * at their next call; a slot in hand is then dropped by publish or release. */
void gp_ring_reset(struct gp_ring *r);

/* ---- slot (shm/slot.c) ---------------------------------------------------
 * One step: header, KV operations, row descriptors, payload. */
#define GP_SLOT_MAGIC 0x50534d47u /* "GMSP" */
#define GP_SLOT_ABI 2u
#define GP_MAX_STAGES 64u

enum gp_payload {
	GP_PAYLOAD_NONE,   /* to the first stage: the tokens stand in the rows */
	GP_PAYLOAD_HIDDEN, /* n_rows x cols float32 */
	/* Of each row that wants logits, in row order and without gaps: cols float32, or
	 * its candidates. */
	GP_PAYLOAD_LOGITS,
};

enum gp_kv_op_kind {
	GP_KV_DROP = 1, /* forget sequence seq */
	GP_KV_TRUNCATE, /* keep positions 0..pos-1 of seq */
	GP_KV_COPY,     /* positions 0..pos-1 of src become seq's (which is dropped first) */
};

struct gp_kv_op {
	uint32_t kind, seq, src, pos; /* what a kind does not use is 0 */
};

enum { GP_ROW_WANTS_LOGITS = 1u };

/* The most that a row may ask for; nor may they take more room than the row. */
#define GP_SLOT_CANDIDATES 256u

struct gp_row {
	uint32_t seq;   /* sequence slot, < max_sequences */
	uint32_t pos;   /* absolute position */
	uint32_t token; /* id, < vocabulary */
	uint16_t flags; /* GP_ROW_* */
	/* Wanted of its logits: 0: all of them; k: the k best, best first, of equal
	 * ones the lower id. Logits that are not finite are better than any number. */
	uint16_t candidates;
};

struct gp_slot_candidate {
	float logit;
	uint32_t id; /* < the payload's cols */
};

struct gp_stage_times {
	uint64_t enqueue_ns, start_ns, end_ns; /* gp_now_ns; enqueue: slot published to the stage */
};

struct gp_slot_header {
	uint32_t magic, abi;
	uint32_t epoch;
	uint32_t n_ops, n_rows;
	uint32_t payload;          /* enum gp_payload */
	uint32_t payload_rows, payload_cols; /* cols: the geometry's; both 0 for GP_PAYLOAD_NONE */
	uint64_t step;
	struct gp_stage_times times[GP_MAX_STAGES];
};

/* What a ring's slots can hold; fixed by the plan, the same at both ends. */
struct gp_slot_geometry {
	uint32_t max_ops, max_rows;
	uint32_t payload;          /* enum gp_payload of this ring */
	uint32_t max_payload_rows, payload_cols;
	uint32_t vocab;            /* bound for gp_row.token */
	uint32_t max_sequences, context; /* bounds for seq and pos */
};

/* Bytes of one slot (multiple of 64), or -EOVERFLOW / -EINVAL. */
int gp_slot_bytes(const struct gp_slot_geometry *g, size_t *bytes);

/* What came back of a row that wanted logits: one of the two. */
struct gp_slot_logits {
	const float *row;      /* cols of them, in the slot; NULL: candidates */
	const struct gp_slot_candidate *best;
	uint32_t n_best;
};

/* A slot as its reader may use it: everything but floats in the payload is a
 * private copy, so a peer that rewrites it later changes nothing. */
struct gp_slot_view {
	struct gp_slot_header header;
	struct gp_kv_op *ops;  /* max_ops, owned */
	struct gp_row *rows;   /* max_rows, owned */
	const float *payload;  /* in the slot, 64-byte aligned; valid until release */
	/* GP_PAYLOAD_LOGITS: by payload row */
	struct gp_slot_logits *logits;        /* max_payload_rows, owned */
	struct gp_slot_candidate *candidates; /* the logits' best, owned */
};
int gp_slot_view_create(struct gp_slot_view *v, const struct gp_slot_geometry *g);
void gp_slot_view_finish(struct gp_slot_view *v);
/* Copies and checks: -EPROTO with a message that names the field. */
int gp_slot_read(struct gp_slot_view *v, const struct gp_slot_geometry *g, const void *slot);
/* The most candidates that a row of this ring may ask for. */
uint32_t gp_slot_most_candidates(const struct gp_slot_geometry *g);
/* Where the payload of a slot being written goes. */
float *gp_slot_payload(const struct gp_slot_geometry *g, void *slot);
/* Writes header, ops and rows (not the payload); magic and abi are set here.
 * -E2BIG when they do not fit g. */
int gp_slot_write(const struct gp_slot_geometry *g, void *slot, const struct gp_slot_header *h,
                  const struct gp_kv_op *ops, const struct gp_row *rows);

#endif

/* A ring of one producer and one consumer in shared memory.
 *
 * head and tail run freely through all 32 bits: used = head - tail, the slot of
 * index i is i % n_slots. They start just below 2^32, so that every run crosses
 * the wrap. Each end keeps its own index privately and stores it for the other
 * to read; what it reads back is only ever compared with the private copy.
 *
 * Who stores what:
 *   head, producer_asleep      the producer
 *   tail, consumer_asleep      the consumer
 *   generation (and indices)   gp_ring_reset, while both ends stay outside
 *   interrupts                 anybody, counted up
 *
 * How an end sleeps: FUTEX_WAITV on two words, the index that it awaits and the
 * interrupt counter, each with the value last seen. The kernel compares and
 * queues in one step, so neither a publish nor an interrupt can fall between
 * the check and the sleep. An interrupt does not change the index, so a plain
 * FUTEX_WAIT on the index alone would lose it there; on kernels that have only
 * that one the sleep is cut into slices, and an interrupt that fell into the
 * gap is seen at the end of the slice. */
#include "shm/shm.h"

#include <immintrin.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdalign.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

#define RING_MAGIC 0x474e5247u /* "GRNG" */
#define RING_ABI 1u
#define MAX_SLOTS 1024u
#define FIRST_INDEX (UINT32_MAX - 3u)
#define DEFAULT_SPIN_NS 20000u
#define SLICE_NS 50000000u
#define FOREVER UINT64_MAX

/* Two 64-byte lines: x86 prefetches them in pairs. */
#define LINE 128

struct gp_ring_shared {
	/* Fixed before anybody attaches. */
	uint32_t magic, abi;
	uint32_t n_slots, unused;
	uint64_t slot_bytes;
	/* Read by both ends at each call, stored almost never. */
	alignas(LINE) _Atomic uint32_t generation;
	_Atomic uint32_t interrupts;
	alignas(LINE) _Atomic uint32_t head;
	alignas(LINE) _Atomic uint32_t tail;
	alignas(LINE) _Atomic uint32_t consumer_asleep;
	alignas(LINE) _Atomic uint32_t producer_asleep;
};
_Static_assert(sizeof(struct gp_ring_shared) % 64 == 0, "slots are 64-byte aligned");
_Static_assert(sizeof(_Atomic uint32_t) == 4, "a futex word has 32 bits");

/* One end of the ring, for the code that both ends share. */
struct end {
	_Atomic uint32_t *own, *awaited, *asleep;
	uint32_t mine;       /* private copy of *own */
	bool produces;
};

static struct end producer_end(const struct gp_ring *r)
{
	return (struct end){ &r->shared->head, &r->shared->tail, &r->shared->producer_asleep,
			     r->head, true };
}

static struct end consumer_end(const struct gp_ring *r)
{
	return (struct end){ &r->shared->tail, &r->shared->head, &r->shared->consumer_asleep,
			     r->tail, false };
}

/* ---- setting up ----------------------------------------------------------- */

static uint64_t default_spin_ns(void)
{
	cpu_set_t cpus;

	/* With one CPU the other end cannot run while this one spins. */
	if (sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) == 1)
		return 0;
	return DEFAULT_SPIN_NS;
}

static bool valid_geometry(uint64_t n_slots, uint64_t slot_bytes)
{
	return n_slots >= 1 && n_slots <= MAX_SLOTS && (n_slots & (n_slots - 1)) == 0 &&
	       slot_bytes >= 64 && slot_bytes % 64 == 0;
}

static bool total_bytes(uint32_t n_slots, size_t slot_bytes, size_t *bytes)
{
	size_t n;

	return gp_size_mul(n_slots, slot_bytes, &n) &&
	       gp_size_add(n, sizeof(struct gp_ring_shared), bytes);
}

/* Acquire pairs with the release in gp_ring_reset: who sees the new generation
 * sees the indices that were stored before it. */
static void synchronise(struct gp_ring *r)
{
	r->generation = atomic_load_explicit(&r->shared->generation, memory_order_acquire);
	r->head = atomic_load_explicit(&r->shared->head, memory_order_relaxed);
	r->tail = atomic_load_explicit(&r->shared->tail, memory_order_relaxed);
}

static void take_up(struct gp_ring *r, uint32_t n_slots, size_t slot_bytes)
{
	r->shared = r->region.base;
	r->slots = (uint8_t *)r->region.base + sizeof *r->shared;
	r->n_slots = n_slots;
	r->slot_bytes = slot_bytes;
	r->spin_ns = default_spin_ns();
	/* An interrupt of the time before is nothing to this end. */
	r->interrupts = atomic_load_explicit(&r->shared->interrupts, memory_order_relaxed);
	synchronise(r);
}

int gp_ring_create(struct gp_ring *r, const char *name, uint32_t n_slots, size_t slot_bytes)
{
	size_t bytes;

	*r = GP_RING_NONE;
	if (!valid_geometry(n_slots, slot_bytes))
		return gp_fail(EINVAL, "%s: %u slots of %zu bytes; it takes a power of two up to %u "
			       "and a multiple of 64", name, n_slots, slot_bytes, MAX_SLOTS);
	if (!total_bytes(n_slots, slot_bytes, &bytes))
		return gp_fail(EOVERFLOW, "%s: %u slots of %zu bytes do not fit the address space",
			       name, n_slots, slot_bytes);
	const int rc = gp_region_create(&r->region, name, bytes);
	if (rc < 0)
		return rc;

	struct gp_ring_shared *s = r->region.base;
	s->magic = RING_MAGIC;
	s->abi = RING_ABI;
	s->n_slots = n_slots;
	s->slot_bytes = slot_bytes;
	/* Relaxed: nobody else has the descriptor yet. */
	atomic_store_explicit(&s->head, FIRST_INDEX, memory_order_relaxed);
	atomic_store_explicit(&s->tail, FIRST_INDEX, memory_order_relaxed);
	take_up(r, n_slots, slot_bytes);
	return 0;
}

/* Works on a copy: a peer that rewrites the geometry after the check changes
 * nothing. */
static int check_geometry(const struct gp_region *region, uint32_t *n_slots, size_t *slot_bytes)
{
	struct { uint32_t magic, abi, n_slots, unused; uint64_t slot_bytes; } g;
	size_t need;

	if (region->bytes < sizeof(struct gp_ring_shared))
		return gp_fail(EPROTO, "ring: %zu bytes are too few for its header", region->bytes);
	memcpy(&g, region->base, sizeof g);
	if (g.magic != RING_MAGIC)
		return gp_fail(EPROTO, "ring: magic is 0x%08x, not 0x%08x: no gempipe ring", g.magic,
			       RING_MAGIC);
	if (g.abi != RING_ABI)
		return gp_fail(EPROTO, "ring: the peer speaks ring version %u, this program %u; use "
			       "programs of one build", g.abi, RING_ABI);
	if (!valid_geometry(g.n_slots, g.slot_bytes))
		return gp_fail(EPROTO, "ring: %u slots of %llu bytes cannot be", g.n_slots,
			       (unsigned long long)g.slot_bytes);
	if (!total_bytes(g.n_slots, (size_t)g.slot_bytes, &need) || need > region->bytes)
		return gp_fail(EPROTO, "ring: %u slots of %llu bytes do not fit its %zu bytes",
			       g.n_slots, (unsigned long long)g.slot_bytes, region->bytes);
	*n_slots = g.n_slots;
	*slot_bytes = (size_t)g.slot_bytes;
	return 0;
}

int gp_ring_attach(struct gp_ring *r, int fd)
{
	uint32_t n_slots = 0;
	size_t slot_bytes = 0;

	*r = GP_RING_NONE;
	int rc = gp_region_attach(&r->region, fd);
	if (rc < 0)
		return rc;
	rc = check_geometry(&r->region, &n_slots, &slot_bytes);
	if (rc < 0) {
		r->region.fd = -1; /* the caller keeps it */
		gp_region_finish(&r->region);
		return rc;
	}
	take_up(r, n_slots, slot_bytes);
	return 0;
}

void gp_ring_finish(struct gp_ring *r)
{
	gp_region_finish(&r->region);
	*r = GP_RING_NONE;
}

/* ---- sleeping and waking ---------------------------------------------------- */

static void futex_wake_all(_Atomic uint32_t *word)
{
	/* Not FUTEX_PRIVATE_FLAG: the sleeper is in another process. */
	syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){ (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
}

/* Sleeps while *awaited == seen and no new interrupt has been counted. May
 * return early for any reason: the caller looks again, and at its deadline. */
static void futex_sleep(struct gp_ring *r, const struct end *e, uint32_t seen, uint64_t deadline)
{
	static atomic_bool no_waitv;
	struct futex_waitv words[] = {
		{ .val = seen, .uaddr = (uintptr_t)e->awaited, .flags = FUTEX_32 },
		{ .val = r->interrupts, .uaddr = (uintptr_t)&r->shared->interrupts,
		  .flags = FUTEX_32 },
	};
	const struct timespec at = timespec_of(deadline);

	r->sleeps++;
	/* Relaxed: a thread that does not see it yet only asks the kernel again. */
	if (!atomic_load_explicit(&no_waitv, memory_order_relaxed)) {
		if (syscall(SYS_futex_waitv, words, 2, 0, deadline == FOREVER ? NULL : &at,
			    CLOCK_MONOTONIC) >= 0 || (errno != ENOSYS && errno != EPERM))
			return;
		atomic_store_explicit(&no_waitv, true, memory_order_relaxed);
	}
	const uint64_t now = gp_now_ns();
	const uint64_t left = deadline > now ? deadline - now : 0;
	const struct timespec slice = timespec_of(left < SLICE_NS ? left : SLICE_NS);
	syscall(SYS_futex, (uint32_t *)e->awaited, FUTEX_WAIT, seen, &slice, NULL, 0);
}

/* Stores this end's index and wakes the other end if it sleeps on it.
 *
 * Sequentially consistent, both the store of the index and the load of the
 * flag, because the sleeper does the reverse (store the flag, load the index):
 * in one total order of the four, at least one side sees the other's store.
 * With release and acquire alone each side may read the old value, and the
 * wake-up is lost. Operations instead of a fence between weaker ones: on x86
 * either costs one locked instruction, and ThreadSanitizer knows no fences.
 * The store is a release, too: the slot's content (producer), or the end of
 * its use (consumer), is visible before the index. */
static void advance(const struct end *e, _Atomic uint32_t *peer_asleep)
{
	atomic_store_explicit(e->own, e->mine + 1, memory_order_seq_cst);
	if (atomic_load_explicit(peer_asleep, memory_order_seq_cst))
		futex_wake_all(e->own);
}

/* ---- waiting ---------------------------------------------------------------- */

enum { NOT_YET = 0, READY = 1 };

static int broken(const struct gp_ring *r, const struct end *e, uint32_t own, uint32_t awaited)
{
	return gp_fail(EPROTO,
		       "ring: %s is %u (this end stored %u), %s is %u, of %u slots: the indices are "
		       "broken; restart the peer",
		       e->produces ? "head" : "tail", own, e->mine,
		       e->produces ? "tail" : "head", awaited, r->n_slots);
}

/* READY, NOT_YET, -ECANCELED or -EPROTO. *seen: the awaited index. */
static int look(struct gp_ring *r, const struct end *e, uint32_t *seen)
{
	/* Acquire: what the interrupter did before is visible to who is told. */
	const uint32_t n = atomic_load_explicit(&r->shared->interrupts, memory_order_acquire);

	if (n != r->interrupts) {
		r->interrupts = n;
		return -ECANCELED;
	}
	/* Acquire pairs with the store in advance(): a consumer that sees the
	 * index sees the slot, a producer that sees it may overwrite the slot. */
	const uint32_t awaited = atomic_load_explicit(e->awaited, memory_order_acquire);
	/* Relaxed: only this end stores it; it is read to notice who else did. */
	const uint32_t own = atomic_load_explicit(e->own, memory_order_relaxed);
	const uint32_t used = e->produces ? e->mine - awaited : awaited - e->mine;

	*seen = awaited;
	if (used > r->n_slots || own != e->mine)
		return broken(r, e, own, awaited);
	return (e->produces ? used < r->n_slots : used > 0) ? READY : NOT_YET;
}

static int spin(struct gp_ring *r, const struct end *e, uint64_t until, uint32_t *seen)
{
	int rc = NOT_YET;

	while (rc == NOT_YET && gp_now_ns() < until) {
		/* The clock costs about as much as these together. */
		for (int i = 0; i < 8 && rc == NOT_YET; i++) {
			_mm_pause();
			rc = look(r, e, seen);
		}
	}
	return rc;
}

static int sleep_until(struct gp_ring *r, const struct end *e, uint64_t deadline, uint32_t seen)
{
	int rc = NOT_YET;

	/* The loop is on the deadline: a sleep may end early on a stale wake-up. */
	while (rc == NOT_YET && gp_now_ns() < deadline) {
		/* See advance(): flag first, then the index, both in the one total
		 * order. An index that moved before the flag was up is seen here;
		 * one that moves later finds the flag up. */
		atomic_store_explicit(e->asleep, 1, memory_order_seq_cst);
		if (atomic_load_explicit(e->awaited, memory_order_seq_cst) == seen)
			futex_sleep(r, e, seen, deadline);
		/* Relaxed: a peer that still sees 1 makes one system call too many. */
		atomic_store_explicit(e->asleep, 0, memory_order_relaxed);
		rc = look(r, e, &seen);
	}
	return rc;
}

static uint64_t later(uint64_t now, uint64_t ns)
{
	uint64_t t;

	return __builtin_add_overflow(now, ns, &t) ? FOREVER : t;
}

static int await(struct gp_ring *r, const struct end *e, uint64_t timeout_ns)
{
	uint32_t seen;
	int rc = look(r, e, &seen);

	if (rc == NOT_YET && timeout_ns > 0) {
		const uint64_t start = gp_now_ns();
		const uint64_t spin_ns = r->spin_ns < timeout_ns ? r->spin_ns : timeout_ns;

		rc = spin(r, e, later(start, spin_ns), &seen);
		if (rc == NOT_YET)
			rc = sleep_until(r, e, later(start, timeout_ns), seen);
		r->waited_ns += gp_now_ns() - start;
	}
	return rc == NOT_YET ? -EAGAIN : rc;
}

static void *slot_of(const struct gp_ring *r, uint32_t index)
{
	return r->slots + (size_t)(index & (r->n_slots - 1)) * r->slot_bytes;
}

static bool was_reset(const struct gp_ring *r)
{
	/* Acquire: see synchronise(). */
	return atomic_load_explicit(&r->shared->generation, memory_order_acquire) != r->generation;
}

int gp_ring_reserve(struct gp_ring *r, uint64_t timeout_ns, void **slot)
{
	*slot = NULL;
	if (was_reset(r))
		synchronise(r);
	const struct end e = producer_end(r);
	const int rc = await(r, &e, timeout_ns);
	if (rc < 0)
		return rc;
	*slot = slot_of(r, r->head);
	return 0;
}

void gp_ring_publish(struct gp_ring *r)
{
	/* A slot reserved before a reset belongs to a ring that is no more. */
	if (was_reset(r))
		return;
	const struct end e = producer_end(r);
	r->head++;
	advance(&e, &r->shared->consumer_asleep);
}

int gp_ring_wait(struct gp_ring *r, uint64_t timeout_ns, void **slot)
{
	*slot = NULL;
	if (was_reset(r))
		synchronise(r);
	const struct end e = consumer_end(r);
	const int rc = await(r, &e, timeout_ns);
	if (rc < 0)
		return rc;
	*slot = slot_of(r, r->tail);
	return 0;
}

void gp_ring_release(struct gp_ring *r)
{
	if (was_reset(r))
		return;
	const struct end e = consumer_end(r);
	r->tail++;
	advance(&e, &r->shared->producer_asleep);
}

void gp_ring_interrupt(struct gp_ring *r)
{
	struct gp_ring_shared *s = r->shared;

	/* Release: what the caller did before is visible to the end that is told.
	 * No flag to consult: interrupts are rare, and a wake-up for nobody is
	 * harmless. */
	atomic_fetch_add_explicit(&s->interrupts, 1, memory_order_release);
	futex_wake_all(&s->interrupts);
	/* For ends without FUTEX_WAITV, which sleep on their index alone. */
	futex_wake_all(&s->head);
	futex_wake_all(&s->tail);
}

uint32_t gp_ring_used(const struct gp_ring *r)
{
	/* tail first: tail never passes head, so this order cannot make the
	 * difference negative. Acquire keeps the two loads in that order. */
	const uint32_t tail = atomic_load_explicit(&r->shared->tail, memory_order_acquire);
	const uint32_t head = atomic_load_explicit(&r->shared->head, memory_order_relaxed);
	const uint32_t used = head - tail;

	return used < r->n_slots ? used : r->n_slots;
}

void gp_ring_reset(struct gp_ring *r)
{
	struct gp_ring_shared *s = r->shared;

	/* Relaxed: the release below publishes both. */
	atomic_store_explicit(&s->head, FIRST_INDEX, memory_order_relaxed);
	atomic_store_explicit(&s->tail, FIRST_INDEX, memory_order_relaxed);
	/* Release: an end that sees the new generation sees the new indices. */
	atomic_fetch_add_explicit(&s->generation, 1, memory_order_release);
}

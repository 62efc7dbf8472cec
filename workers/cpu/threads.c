/* Waiting is spinning for a short while, then sleeping on a futex: operations
 * follow each other within microseconds inside a step, and an idle worker must
 * cost nothing between steps. */
#include "workers/cpu/threads.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdalign.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"

#define SPIN_NS 30000u

struct member {
	struct gp_threads *pool;
	pthread_t thread;
	uint32_t index;
};

struct gp_threads {
	gp_threads_fn *fn;               /* of the run in hand; NULL: end */
	void *arg;
	uint32_t n, spin_ns;
	uint32_t n_started;
	struct member *members;          /* n - 1 */
	pthread_t caller;
	cpu_set_t caller_cpus;           /* before it was pinned */
	bool caller_pinned;
	alignas(64) _Atomic uint32_t run;       /* counts runs; members wait on it */
	alignas(64) _Atomic uint32_t pending;   /* members at work; the caller waits on it */
	alignas(64) _Atomic uint32_t asleep;    /* members in futex_wait, or about to be */
	_Atomic uint32_t caller_asleep;
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
	syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int most)
{
	syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE_PRIVATE, most, NULL, NULL, 0);
}

/* Spins while *word is seen; true: it changed. Acquire: what the writer did
 * before it changed the word is visible afterwards. */
static bool spin_while(const struct gp_threads *t, _Atomic uint32_t *word, uint32_t seen,
                       uint32_t *now)
{
	uint64_t until = 0;

	for (;;) {
		for (int i = 0; i < 64; i++) {
			*now = atomic_load_explicit(word, memory_order_acquire);
			if (*now != seen)
				return true;
			relax();
		}
		if (!until)
			until = gp_now_ns() + t->spin_ns;
		else if (gp_now_ns() >= until)
			return false;
	}
}

/* Sleeper: raise the flag, then look at the word. Waker: change the word, then
 * look at the flag. Sequentially consistent on both sides, so at least one of
 * them sees the other; the kernel looks at the word once more by itself. */
static uint32_t wait_while(const struct gp_threads *t, _Atomic uint32_t *word, uint32_t seen,
                           _Atomic uint32_t *sleepers)
{
	uint32_t now;

	if (spin_while(t, word, seen, &now))
		return now;
	atomic_fetch_add(sleepers, 1);
	while ((now = atomic_load(word)) == seen)
		futex_wait(word, seen);
	atomic_fetch_sub(sleepers, 1);
	return now;
}

static void *member_main(void *arg)
{
	struct member *m = arg;
	struct gp_threads *t = m->pool;
	uint32_t seen = 0;

	for (;;) {
		seen = wait_while(t, &t->run, seen, &t->asleep);
		if (!t->fn)
			return NULL;
		t->fn(t->arg, m->index, t->n);
		if (atomic_fetch_sub(&t->pending, 1) == 1 && atomic_load(&t->caller_asleep))
			futex_wake(&t->pending, 1);
	}
}

/* Publishes fn and arg; the increment releases them. */
static void start(struct gp_threads *t, gp_threads_fn *fn, void *arg)
{
	t->fn = fn;
	t->arg = arg;
	atomic_store_explicit(&t->pending, t->n_started, memory_order_relaxed);
	atomic_fetch_add(&t->run, 1);
	if (atomic_load(&t->asleep))
		futex_wake(&t->run, (int)t->n_started);
}

void gp_threads_run(struct gp_threads *t, gp_threads_fn *fn, void *arg)
{
	uint32_t left;

	if (t->n == 1) {
		fn(arg, 0, 1);
		return;
	}
	start(t, fn, arg);
	fn(arg, 0, t->n);
	left = atomic_load_explicit(&t->pending, memory_order_acquire);
	while (left)
		left = wait_while(t, &t->pending, left, &t->caller_asleep);
}

void gp_threads_split(uint32_t n, uint32_t grain, uint32_t thread, uint32_t n_threads,
                      uint32_t *begin, uint32_t *end)
{
	uint64_t grains = ((uint64_t)n + grain - 1) / grain;
	uint64_t b = grains * thread / n_threads * grain;
	uint64_t e = grains * (thread + 1) / n_threads * grain;

	*begin = (uint32_t)(b < n ? b : n);
	*end = (uint32_t)(e < n ? e : n);
}

/* ---- life ------------------------------------------------------------------ */
/* Only speed is lost where it fails. */
static void pin(pthread_t thread, uint32_t cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	pthread_setaffinity_np(thread, sizeof(one), &one);
}

static int start_member(struct gp_threads *t, uint32_t i)
{
	struct member *m = &t->members[i - 1];
	int err;

	m->pool = t;
	m->index = i;
	if ((err = pthread_create(&m->thread, NULL, member_main, m)))
		return gp_fail(err, "thread %u of %u cannot be started; use fewer --threads", i + 1,
		               t->n);
	t->n_started++;
	return 0;
}

static void pin_all(struct gp_threads *t, const uint32_t *cpus, uint32_t n_cpus, uint32_t first,
                    uint32_t n_nodes)
{
	for (uint32_t i = 1; i < t->n; i++)
		pin(t->members[i - 1].thread, cpus[(first + i) % n_cpus]);
	if (n_nodes < 2)
		return;
	t->caller = pthread_self();
	t->caller_pinned = pthread_getaffinity_np(t->caller, sizeof(t->caller_cpus),
	                                          &t->caller_cpus) == 0;
	if (t->caller_pinned)
		pin(t->caller, cpus[first % n_cpus]);
}

int gp_threads_create(struct gp_threads **out, uint32_t n, uint32_t first_cpu)
{
	uint32_t cpus[CPU_SETSIZE], n_cpus = gp_cpus_allowed(cpus, CPU_SETSIZE);
	const uint32_t n_nodes = gp_cpus_in_order(cpus, n_cpus, gp_node_of_cpu(),
	                                          gp_rank_in_core);
	struct gp_threads *t;
	int rc = 0;

	*out = NULL;
	if (!n)
		n = n_cpus ? n_cpus : 1;
	if (n > GP_MAX_THREADS)
		return gp_fail(EINVAL, "%u threads; at most %u", n, GP_MAX_THREADS);
	if (!(t = aligned_alloc(alignof(struct gp_threads), sizeof(*t))))
		return gp_fail(ENOMEM, "no memory for threads");
	*t = (struct gp_threads){ .n = n, .spin_ns = n <= n_cpus ? SPIN_NS : 0 };
	if (!(t->members = calloc(n, sizeof(*t->members))))
		rc = gp_fail(ENOMEM, "no memory for %u threads", n);
	for (uint32_t i = 1; i < n && rc == 0; i++)
		rc = start_member(t, i);
	if (rc < 0) {
		gp_threads_destroy(t);
		return rc;
	}
	if (n <= n_cpus)
		pin_all(t, cpus, n_cpus, first_cpu, n_nodes);
	*out = t;
	return 0;
}

void gp_threads_destroy(struct gp_threads *t)
{
	if (!t)
		return;
	start(t, NULL, NULL);
	for (uint32_t i = 0; i < t->n_started; i++)
		pthread_join(t->members[i].thread, NULL);
	/* Where another thread ends the pool, the caller may be gone. */
	if (t->caller_pinned && pthread_equal(pthread_self(), t->caller))
		pthread_setaffinity_np(t->caller, sizeof(t->caller_cpus), &t->caller_cpus);
	free(t->members);
	free(t);
}

uint32_t gp_threads_count(const struct gp_threads *t)
{
	return t->n;
}

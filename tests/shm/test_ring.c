/* Rings between two processes and between two threads over one mapping (which
 * is what ThreadSanitizer can see). A lost wake-up looks like a slow success,
 * so the waits are timed: a generous deadline, and no wait may come near it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "shm/shm.h"

#define WAIT_NS 10000000000u
#define STALL_NS 4000000000u
#define SLOT_BYTES 256u
#define WORDS (SLOT_BYTES / sizeof(uint32_t))

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define ROUNDS 20000u
#else
#define ROUNDS 100000u
#endif

/* Where ring.c keeps its words, for the tests that play a bad peer. */
enum { AT_N_SLOTS = 8, AT_SLOT_BYTES = 16, AT_HEAD = 256, AT_TAIL = 384 };

static uint32_t *word_at(const struct gp_ring *r, size_t offset)
{
	return (uint32_t *)(void *)((uint8_t *)r->region.base + offset);
}

/* ---- one thread -------------------------------------------------------------- */

static void test_finish_nothing(void **state)
{
	struct gp_ring r = GP_RING_NONE;

	(void)state;
	gp_ring_finish(&r);
	gp_ring_finish(&r);
}

static void test_bad_geometry(void **state)
{
	struct gp_ring r;

	(void)state;
	assert_int_equal(gp_ring_create(&r, "t", 0, 64), -EINVAL);
	assert_int_equal(gp_ring_create(&r, "t", 3, 64), -EINVAL);
	assert_int_equal(gp_ring_create(&r, "t", 2048, 64), -EINVAL);
	assert_int_equal(gp_ring_create(&r, "t", 4, 0), -EINVAL);
	assert_int_equal(gp_ring_create(&r, "t", 4, 100), -EINVAL);
	assert_int_equal(gp_ring_create(&r, "t", 4, SIZE_MAX & ~(size_t)63), -EOVERFLOW);
	assert_int_equal(r.region.fd, -1);
}

static void put(struct gp_ring *r, uint32_t value)
{
	void *slot;

	assert_int_equal(gp_ring_reserve(r, 0, &slot), 0);
	memcpy(slot, &value, sizeof value);
	gp_ring_publish(r);
}

static void expect(struct gp_ring *r, uint32_t value)
{
	void *slot;

	assert_int_equal(gp_ring_wait(r, 0, &slot), 0);
	assert_memory_equal(slot, &value, sizeof value);
	gp_ring_release(r);
}

static void test_full_empty_timeout(void **state)
{
	struct gp_ring r;
	void *slot = &r;

	(void)state;
	assert_int_equal(gp_ring_create(&r, "t", 4, 64), 0);
	assert_int_equal(*word_at(&r, AT_HEAD), UINT32_MAX - 3);
	/* Several times round, past 2^32. */
	for (uint32_t round = 0; round < 5; round++) {
		assert_int_equal(gp_ring_wait(&r, 0, &slot), -EAGAIN);
		assert_null(slot);
		for (uint32_t i = 0; i < 4; i++)
			put(&r, round * 4 + i);
		assert_int_equal(gp_ring_used(&r), 4);
		assert_int_equal(gp_ring_reserve(&r, 0, &slot), -EAGAIN);
		for (uint32_t i = 0; i < 4; i++)
			expect(&r, round * 4 + i);
		assert_int_equal(gp_ring_used(&r), 0);
	}
	const uint64_t start = gp_now_ns();
	assert_int_equal(gp_ring_wait(&r, 30000000, &slot), -EAGAIN);
	assert_true(gp_now_ns() - start >= 30000000);
	assert_true(r.waited_ns >= 30000000);
	assert_true(r.sleeps >= 1);
	gp_ring_finish(&r);
}

static void test_interrupt_is_seen_once(void **state)
{
	struct gp_ring r, other;
	void *slot;

	(void)state;
	assert_int_equal(gp_ring_create(&r, "t", 2, 64), 0);
	assert_int_equal(gp_ring_attach(&other, dup(r.region.fd)), 0);
	put(&r, 1);
	gp_ring_interrupt(&other);
	/* Even where there is something to read, or room. */
	assert_int_equal(gp_ring_wait(&other, 0, &slot), -ECANCELED);
	assert_int_equal(gp_ring_reserve(&r, 0, &slot), -ECANCELED);
	expect(&other, 1);
	put(&r, 2);
	expect(&other, 2);
	gp_ring_finish(&other);
	/* Who attaches later was not meant. */
	assert_int_equal(gp_ring_attach(&other, dup(r.region.fd)), 0);
	assert_int_equal(gp_ring_wait(&other, 0, &slot), -EAGAIN);
	gp_ring_finish(&other);
	gp_ring_finish(&r);
}

static void test_reset(void **state)
{
	struct gp_ring p, c;
	void *slot;

	(void)state;
	assert_int_equal(gp_ring_create(&p, "t", 4, 64), 0);
	assert_int_equal(gp_ring_attach(&c, dup(p.region.fd)), 0);
	for (uint32_t i = 0; i < 7; i++) {
		put(&p, i);
		expect(&c, i);
	}
	put(&p, 100);
	put(&p, 101);
	assert_int_equal(gp_ring_wait(&c, 0, &slot), 0);
	assert_int_equal(gp_ring_reserve(&p, 0, &slot), 0);
	gp_ring_reset(&p);
	/* Slots in hand belong to the time before. */
	gp_ring_publish(&p);
	gp_ring_release(&c);
	assert_int_equal(gp_ring_used(&p), 0);
	assert_int_equal(gp_ring_wait(&c, 0, &slot), -EAGAIN);
	for (uint32_t i = 0; i < 9; i++) {
		put(&p, i);
		expect(&c, i);
	}
	gp_ring_finish(&c);
	gp_ring_finish(&p);
}

/* ---- a bad peer ---------------------------------------------------------------- */

static void test_broken_indices(void **state)
{
	struct gp_ring r;
	void *slot;

	(void)state;
	assert_int_equal(gp_ring_create(&r, "t", 4, 64), 0);
	const uint32_t start = *word_at(&r, AT_HEAD);
	for (uint32_t i = 1; i < 64; i++) {
		const uint32_t wrong = start + (i < 32 ? 4 + i : 0u - i);

		*word_at(&r, AT_HEAD) = wrong;
		assert_int_equal(gp_ring_wait(&r, 0, &slot), -EPROTO);
		assert_null(slot);
		*word_at(&r, AT_HEAD) = start;
		*word_at(&r, AT_TAIL) = start + i;
		assert_int_equal(gp_ring_reserve(&r, 0, &slot), -EPROTO);
		/* Its own index, changed by somebody else. */
		assert_int_equal(gp_ring_wait(&r, 0, &slot), -EPROTO);
		*word_at(&r, AT_TAIL) = start;
		assert_true(gp_ring_used(&r) <= 4);
	}
	assert_non_null(strstr(gp_error(), "broken"));
	/* A reset mends it. */
	*word_at(&r, AT_HEAD) = 12345;
	gp_ring_reset(&r);
	put(&r, 5);
	expect(&r, 5);
	gp_ring_finish(&r);
}

static void refuse_attach(const struct gp_ring *r, size_t offset, uint32_t value, const char *why)
{
	const uint32_t good = *word_at(r, offset);
	const int fd = dup(r->region.fd);
	struct gp_ring other;

	*word_at(r, offset) = value;
	assert_int_equal(gp_ring_attach(&other, fd), -EPROTO);
	assert_non_null(strstr(gp_error(), why));
	assert_null(other.shared);
	assert_int_equal(close(fd), 0);
	*word_at(r, offset) = good;
}

static void test_broken_geometry(void **state)
{
	struct gp_ring r, other;
	struct gp_region tiny;
	void *slot;

	(void)state;
	assert_int_equal(gp_ring_create(&r, "t", 4, 64), 0);
	refuse_attach(&r, 0, 0, "magic");
	refuse_attach(&r, 4, 99, "version 99, this program 1");
	refuse_attach(&r, AT_N_SLOTS, 0, "0 slots");
	refuse_attach(&r, AT_N_SLOTS, 3, "3 slots");
	refuse_attach(&r, AT_N_SLOTS, 2048, "2048 slots");
	refuse_attach(&r, AT_SLOT_BYTES, 0, "0 bytes");
	refuse_attach(&r, AT_SLOT_BYTES, 65, "65 bytes");
	refuse_attach(&r, AT_SLOT_BYTES, 1u << 30, "do not fit");
	refuse_attach(&r, AT_SLOT_BYTES + 4, 1u << 30, "do not fit");

	/* Changed after attach: nobody looks there again. */
	assert_int_equal(gp_ring_attach(&other, dup(r.region.fd)), 0);
	*word_at(&r, AT_N_SLOTS) = 1024;
	*word_at(&r, AT_SLOT_BYTES) = 1u << 30;
	for (uint32_t i = 0; i < 9; i++) {
		assert_int_equal(gp_ring_reserve(&other, 0, &slot), 0);
		assert_true((uint8_t *)slot + 64 <= (uint8_t *)other.region.base + 4096);
		gp_ring_publish(&other);
		assert_int_equal(gp_ring_wait(&other, 0, &slot), 0);
		gp_ring_release(&other);
	}
	gp_ring_finish(&other);
	gp_ring_finish(&r);

	assert_int_equal(gp_region_create(&tiny, "no-ring", 1), 0);
	assert_int_equal(gp_ring_attach(&other, tiny.fd), -EPROTO);
	gp_region_finish(&tiny);
}

/* ---- two ends at once ---------------------------------------------------------- */

/* What a peer does with its end; returns what went wrong, or NULL. cmocka's
 * assertions belong to the test's own thread and process. */
typedef const char *peer_fn(struct gp_ring *in, struct gp_ring *out);

struct peer {
	peer_fn *run;
	struct gp_ring in, out; /* copies over one mapping */
	const char *wrong;
};

static void *peer_thread(void *arg)
{
	struct peer *p = arg;

	p->wrong = p->run(&p->in, &p->out);
	return NULL;
}

static int report(const char *wrong)
{
	if (wrong)
		fprintf(stderr, "peer: %s (%s)\n", wrong, gp_error());
	return wrong != NULL;
}

/* Runs `peer` beside `here`, as a thread or as a process, with two rings. */
static void run_pair(bool threads, uint32_t n_slots, uint64_t spin_ns, peer_fn *here, peer_fn *peer)
{
	struct gp_ring a, b;
	struct peer p = { .run = peer };
	pthread_t thread;
	pid_t pid = 0;

	assert_int_equal(gp_ring_create(&a, "a", n_slots, SLOT_BYTES), 0);
	assert_int_equal(gp_ring_create(&b, "b", n_slots, SLOT_BYTES), 0);
	a.spin_ns = b.spin_ns = spin_ns;
	p.in = a;
	p.out = b;
	if (threads) {
		assert_int_equal(pthread_create(&thread, NULL, peer_thread, &p), 0);
	} else if ((pid = fork()) == 0) {
		_exit(report(peer(&a, &b)));
	}
	const char *wrong = here(&b, &a);
	int status = 0;
	if (threads) {
		pthread_join(thread, NULL);
		status = report(p.wrong);
	} else {
		assert_int_equal(waitpid(pid, &status, 0), pid);
	}
	gp_ring_finish(&a);
	gp_ring_finish(&b);
	assert_int_equal(report(wrong), 0);
	assert_int_equal(status, 0);
}

static const char *send_one(struct gp_ring *r, uint32_t value)
{
	const uint64_t start = gp_now_ns();
	uint32_t *slot;

	if (gp_ring_reserve(r, WAIT_NS, (void **)&slot) < 0)
		return "no room";
	if (gp_now_ns() - start > STALL_NS)
		return "a stall while waiting for room: a lost wake-up";
	for (uint32_t i = 0; i < WORDS; i++)
		slot[i] = value * 2654435761u + i;
	gp_ring_publish(r);
	return NULL;
}

static const char *receive_one(struct gp_ring *r, uint32_t value)
{
	const uint64_t start = gp_now_ns();
	uint32_t *slot;

	if (gp_ring_wait(r, WAIT_NS, (void **)&slot) < 0)
		return "nothing came";
	if (gp_now_ns() - start > STALL_NS)
		return "a stall while waiting for a slot: a lost wake-up";
	for (uint32_t i = 0; i < WORDS; i++)
		if (slot[i] != value * 2654435761u + i)
			return "a slot's content is wrong";
	gp_ring_release(r);
	return NULL;
}

static const char *stream_out(struct gp_ring *in, struct gp_ring *out)
{
	const char *wrong = NULL;

	(void)in;
	for (uint32_t i = 0; i < ROUNDS && !wrong; i++)
		wrong = send_one(out, i);
	return wrong;
}

static const char *stream_in(struct gp_ring *in, struct gp_ring *out)
{
	const char *wrong = NULL;

	(void)out;
	for (uint32_t i = 0; i < ROUNDS && !wrong; i++)
		wrong = receive_one(in, i);
	return wrong;
}

static const char *ping(struct gp_ring *in, struct gp_ring *out)
{
	const char *wrong = NULL;

	for (uint32_t i = 0; i < ROUNDS && !wrong; i++) {
		wrong = send_one(out, i);
		if (!wrong)
			wrong = receive_one(in, ~i);
	}
	return wrong;
}

static const char *pong(struct gp_ring *in, struct gp_ring *out)
{
	const char *wrong = NULL;

	for (uint32_t i = 0; i < ROUNDS && !wrong; i++) {
		wrong = receive_one(in, i);
		if (!wrong)
			wrong = send_one(out, ~i);
	}
	return wrong;
}

static void test_stream(void **state)
{
	(void)state;
	for (int threads = 0; threads < 2; threads++) {
		run_pair(threads, 1, 0, stream_out, stream_in);
		run_pair(threads, 8, 0, stream_out, stream_in);
		run_pair(threads, 8, 2000, stream_in, stream_out);
	}
}

static void test_ping_pong(void **state)
{
	(void)state;
	for (int threads = 0; threads < 2; threads++) {
		run_pair(threads, 1, 0, ping, pong);
		run_pair(threads, 4, 3000, ping, pong);
	}
}

/* Each interrupt must end a wait: the peer answers each by a slot, so one that
 * is lost stalls the pair. */
static const char *interrupt_often(struct gp_ring *in, struct gp_ring *out)
{
	const char *wrong = NULL;

	for (uint32_t i = 0; i < ROUNDS / 10 && !wrong; i++) {
		gp_ring_interrupt(out);
		wrong = receive_one(in, i);
	}
	return wrong;
}

static const char *answer_interrupts(struct gp_ring *in, struct gp_ring *out)
{
	const char *wrong = NULL;
	void *slot;

	for (uint32_t i = 0; i < ROUNDS / 10 && !wrong; i++) {
		const uint64_t start = gp_now_ns();

		if (gp_ring_wait(in, WAIT_NS, &slot) != -ECANCELED)
			return "a wait did not end by the interrupt";
		if (gp_now_ns() - start > STALL_NS)
			return "a stall: a lost interrupt";
		wrong = send_one(out, i);
	}
	return wrong;
}

static void test_interrupts_in_flight(void **state)
{
	(void)state;
	for (int threads = 0; threads < 2; threads++)
		run_pair(threads, 2, threads ? 2000 : 0, interrupt_often, answer_interrupts);
}

/* ---- a kernel without futex_waitv ---------------------------------------------- */

static int forbid_waitv(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex_waitv, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { .len = GP_ARRAY_LEN(code), .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int without_waitv(void)
{
	if (forbid_waitv() < 0) {
		print_message("no seccomp here: the sleep without futex_waitv was not tried\n");
		return 0;
	}
	run_pair(false, 1, 0, ping, pong);
	run_pair(true, 1, 0, interrupt_often, answer_interrupts);
	return 0;
}

static void test_without_waitv(void **state)
{
	int status = 0;
	const pid_t pid = fork();

	(void)state;
	if (pid == 0)
		_exit(without_waitv());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_finish_nothing),
		cmocka_unit_test(test_bad_geometry),
		cmocka_unit_test(test_full_empty_timeout),
		cmocka_unit_test(test_interrupt_is_seen_once),
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_broken_indices),
		cmocka_unit_test(test_broken_geometry),
		cmocka_unit_test(test_stream),
		cmocka_unit_test(test_ping_pong),
		cmocka_unit_test(test_interrupts_in_flight),
		cmocka_unit_test(test_without_waitv),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

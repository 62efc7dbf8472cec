/* A coordinator against a worker that lies: the test plays an external worker. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "proto/proto.h"
#include "shm/shm.h"
#include "tests/common/process.h"

struct peer {
	struct process p;
	struct gp_channel *channel;
	struct gp_message load;
};

/* `gempipe run` whose last stage is us. */
static void start(struct peer *peer)
{
	const char *const argv[] = { program("run"), "-m", MINI, "-p", "x", "--stages",
				     "cpu:0-4,external:5", NULL };

	process_start(&peer->p, argv, 0);
	assert_true(process_says(peer->p.err_fd, "--stage 1\n", 60));
	char *text = process_output(peer->p.err_fd);
	const char *from = strstr(text, "ipc://");
	char endpoint[256];
	snprintf(endpoint, sizeof endpoint, "%.*s", (int)strcspn(from, " "), from);
	free(text);
	assert_int_equal(gp_channel_connect(&peer->channel, endpoint, 1), 0);
}

static void say_hello(struct peer *peer, uint32_t abi, uint32_t slot_abi)
{
	struct gp_message m = { .kind = GP_MSG_HELLO,
				.hello = { .abi = abi, .slot_abi = slot_abi, .stage = 1,
					   .pid = (uint32_t)getpid(), .device = "liar" } };

	assert_int_equal(gp_channel_send(peer->channel, NULL, &m), 0);
}

static void await_message(struct peer *peer, enum gp_message_kind kind, struct gp_message *m)
{
	for (int i = 0; i < 100; i++) {
		size_t which;
		const int event = gp_channel_wait(peer->channel, NULL, 0, 200, m, NULL, &which);

		if (event == GP_EVENT_MESSAGE && m->kind == kind)
			return;
		assert_int_not_equal(event, GP_EVENT_LOST);
	}
	fail_msg("message %d never came", (int)kind);
}

/* A lie ends the run with one line that holds what. */
static void finish(struct peer *peer, int status, const char *what)
{
	struct result r;

	process_finish(&peer->p, &r, 30);
	gp_channel_destroy(peer->channel);
	if (r.status != status || !strstr(r.err, what))
		fail_msg("status %d, no '%s' in: %s", r.status, what, r.err);
	result_free(&r);
}

static void test_other_abi(void **state)
{
	struct gp_message m;
	struct peer peer;

	(void)state;
	start(&peer);
	say_hello(&peer, GP_PROTO_ABI + 1, GP_SLOT_ABI);
	await_message(&peer, GP_MSG_REFUSED, &m);
	assert_non_null(strstr(m.error.text, "build both from one tree"));
	/* The pipeline goes on waiting for a better one. */
	say_hello(&peer, GP_PROTO_ABI, GP_SLOT_ABI + 7);
	await_message(&peer, GP_MSG_REFUSED, &m);
	kill(peer.p.pid, SIGINT);
	finish(&peer, 130, "refused a worker");
}

static void send_kind(struct peer *peer, enum gp_message_kind kind)
{
	const struct gp_message m = { .kind = kind };

	assert_int_equal(gp_channel_send(peer->channel, NULL, &m), 0);
}

static void open_ring(struct gp_ring *r, const char *path)
{
	const int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	*r = GP_RING_NONE;
	assert_int_equal(gp_ring_attach(r, fd), 0);
}

/* Joins as a worker should, up to the first slot. */
static void join(struct peer *peer, struct gp_ring *in, struct gp_ring *out, void **slot)
{
	struct gp_message resume;

	say_hello(peer, GP_PROTO_ABI, GP_SLOT_ABI);
	await_message(peer, GP_MSG_LOAD, &peer->load);
	assert_int_equal(peer->load.load.first_layer, 5);
	open_ring(in, peer->load.load.in.path);
	open_ring(out, peer->load.load.out.path);
	send_kind(peer, GP_MSG_READY);
	await_message(peer, GP_MSG_RESUME, &resume);
	assert_int_equal(gp_ring_wait(in, 20000000000u, slot), 0);
}

/* Answers the first slot with one that damage has changed. */
static void answer_with(void (*damage)(struct gp_slot_header *), const char *what)
{
	struct gp_ring in, out;
	struct peer peer;
	void *from, *to;

	start(&peer);
	join(&peer, &in, &out, &from);
	assert_int_equal(gp_ring_reserve(&out, 1000000000u, &to), 0);
	memcpy(to, from, sizeof(struct gp_slot_header));
	damage(to);
	gp_ring_publish(&out);
	finish(&peer, 1, what);
	gp_ring_finish(&in);
	gp_ring_finish(&out);
}

static void bad_magic(struct gp_slot_header *h)
{
	h->magic ^= 1;
}

static void bad_abi(struct gp_slot_header *h)
{
	h->abi++;
}

static void bad_count(struct gp_slot_header *h)
{
	h->n_rows = UINT32_MAX;
}

static void bad_payload(struct gp_slot_header *h)
{
	h->payload = GP_PAYLOAD_HIDDEN;
}

static void test_corrupt_slot(void **state)
{
	(void)state;
	answer_with(bad_magic, "slot from the last stage");
	answer_with(bad_abi, "slot from the last stage");
	answer_with(bad_count, "slot from the last stage");
	answer_with(bad_payload, "slot from the last stage");
}

static struct gp_slot_geometry geometry_of(const struct gp_msg_load *l, const struct gp_msg_ring *r)
{
	return (struct gp_slot_geometry){
		.max_ops = r->max_ops, .max_rows = r->max_rows, .payload = r->payload,
		.max_payload_rows = r->max_payload_rows, .payload_cols = r->payload_cols,
		.vocab = l->vocab, .max_sequences = l->max_sequences, .context = l->context,
	};
}

/* A greedy run asks for one candidate of the prompt's last row: answers it. */
static void answer_candidate(struct gp_slot_candidate c, const char *what)
{
	struct gp_slot_view v;
	struct gp_ring in, out;
	struct peer peer;
	void *from, *to;

	start(&peer);
	join(&peer, &in, &out, &from);
	const struct gp_slot_geometry g_in = geometry_of(&peer.load.load, &peer.load.load.in);
	const struct gp_slot_geometry g_out = geometry_of(&peer.load.load, &peer.load.load.out);
	assert_int_equal(gp_slot_view_create(&v, &g_in), 0);
	assert_int_equal(gp_slot_read(&v, &g_in, from), 0);
	assert_int_equal(v.rows[v.header.n_rows - 1].candidates, 1);
	v.header.payload = GP_PAYLOAD_LOGITS;
	v.header.payload_rows = 1;
	v.header.payload_cols = g_out.payload_cols;
	assert_int_equal(gp_ring_reserve(&out, 1000000000u, &to), 0);
	assert_int_equal(gp_slot_write(&g_out, to, &v.header, v.ops, v.rows), 0);
	memcpy(gp_slot_payload(&g_out, to), &c, sizeof c);
	gp_ring_publish(&out);
	finish(&peer, 1, what);
	gp_slot_view_finish(&v);
	gp_ring_finish(&in);
	gp_ring_finish(&out);
}

static void test_corrupt_candidate(void **state)
{
	(void)state;
	answer_candidate((struct gp_slot_candidate){ 1, UINT32_MAX }, "candidate 0 is token");
	answer_candidate((struct gp_slot_candidate){ NAN, 3 }, "token 3 is not finite");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_other_abi), cmocka_unit_test(test_corrupt_slot),
		cmocka_unit_test(test_corrupt_candidate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

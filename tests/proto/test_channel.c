/* The coordinator's end in this process, workers' ends in forked ones (ZeroMQ
 * does not survive a fork, so each test forks before it opens its channel). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include "base/base.h"
#include "proto/proto.h"

/* Longer than any of this takes; only a hang gets near it. */
#define LONG_MS 20000
#define LONG_S 60

struct fixture {
	char dir[GP_PROTO_TEXT], endpoint[GP_PROTO_TEXT + 32];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	*state = f;
	if (!f || gp_runtime_dir_create(f->dir) < 0)
		return -1;
	snprintf(f->endpoint, sizeof f->endpoint, "ipc://%s/control", f->dir);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	gp_runtime_dir_remove(f->dir);
	const int left = access(f->dir, F_OK);
	free(f);
	return left == 0; /* it must be gone */
}

/* ---- workers --------------------------------------------------------------------- */

/* Runs in the child; the result is its exit status. */
typedef int worker_fn(struct gp_channel *c);

static int run_worker(const struct fixture *f, worker_fn *fn)
{
	char socket_path[GP_PROTO_TEXT + 16];
	struct gp_channel *c;

	/* The coordinator binds after the fork. */
	snprintf(socket_path, sizeof socket_path, "%s/control", f->dir);
	for (int i = 0; i < 2000 && access(socket_path, F_OK) < 0; i++)
		usleep(1000);
	if (gp_channel_connect(&c, f->endpoint, 3) < 0)
		return 100;
	const int rc = fn(c);
	gp_channel_destroy(c);
	return rc;
}

static pid_t start_worker(const struct fixture *f, worker_fn *fn)
{
	const pid_t pid = fork();

	if (pid == 0) {
		alarm(LONG_S); /* a hang is a failure */
		_exit(run_worker(f, fn));
	}
	assert_true(pid > 0);
	return pid;
}

static void expect_exit(pid_t pid, int code)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), code);
}

static int say(struct gp_channel *c, enum gp_message_kind kind)
{
	return gp_channel_send(c, NULL, &(struct gp_message){ .kind = kind });
}

/* Without a timeout, at which a loss would be noticed by chance. */
static int hear(struct gp_channel *c, struct gp_message *m)
{
	size_t which;

	return gp_channel_wait(c, NULL, 0, -1, m, NULL, &which);
}

static int say_hello(struct gp_channel *c)
{
	const struct gp_message m = { .kind = GP_MSG_HELLO, .hello = {
		.abi = GP_PROTO_ABI, .stage = 3, .pid = (uint32_t)getpid(), .device = "cpu" } };

	return gp_channel_send(c, NULL, &m);
}

static int polite_worker(struct gp_channel *c)
{
	struct gp_message m;

	if (say_hello(c) < 0)
		return 1;
	if (hear(c, &m) != GP_EVENT_MESSAGE || m.kind != GP_MSG_LOAD || m.load.end_layer != 9)
		return 2;
	for (int i = 0; i < 50; i++)
		if (say(c, GP_MSG_HEARTBEAT) < 0)
			return 3;
	if (hear(c, &m) != GP_EVENT_MESSAGE || m.kind != GP_MSG_STOP)
		return 4;
	/* The last words, right before the end, still arrive. */
	return say(c, GP_MSG_GOODBYE) < 0 ? 5 : 0;
}

static int loses_the_coordinator(struct gp_channel *c)
{
	struct gp_message m;

	if (say_hello(c) < 0)
		return 1;
	/* What was sent before the end comes before the news of the end. */
	usleep(50000); /* so that both are there at once */
	if (hear(c, &m) != GP_EVENT_MESSAGE || m.kind != GP_MSG_REFUSED)
		return 2;
	if (hear(c, &m) != GP_EVENT_LOST || !strstr(gp_error(), "is gone"))
		return 3;
	if (hear(c, &m) != GP_EVENT_LOST)
		return 4;
	return say(c, GP_MSG_HEARTBEAT) == -EHOSTUNREACH ? 0 : 5;
}

/* Ends only when it was heard: what is unsent is lost after the linger time. */
static int hello_then_end(struct gp_channel *c)
{
	struct gp_message m;

	return say_hello(c) < 0 || hear(c, &m) != GP_EVENT_MESSAGE;
}

/* ---- the coordinator --------------------------------------------------------------- */

static void expect_kind(struct gp_channel *c, enum gp_message_kind kind, struct gp_peer *peer)
{
	struct gp_message m;
	size_t which;

	assert_int_equal(gp_channel_wait(c, NULL, 0, LONG_MS, &m, peer, &which), GP_EVENT_MESSAGE);
	assert_int_equal(m.kind, kind);
}

static void test_conversation(void **state)
{
	const struct fixture *f = *state;
	const struct gp_message load = { .kind = GP_MSG_LOAD,
					 .load = { .model = "m", .n_stages = 1, .end_layer = 9 } };
	const pid_t pid = start_worker(f, polite_worker);
	struct gp_channel *c;
	struct gp_peer peer, again;
	char id[GP_PEER_BYTES];

	assert_int_equal(gp_channel_bind(&c, f->dir), 0);
	assert_string_equal(gp_channel_endpoint(c), f->endpoint);
	expect_kind(c, GP_MSG_HELLO, &peer);
	snprintf(id, sizeof id, "stage-3-%d", (int)pid);
	assert_int_equal(peer.bytes, strlen(id));
	assert_memory_equal(peer.id, id, strlen(id));
	assert_int_equal(gp_channel_send(c, &peer, &load), 0);
	for (int i = 0; i < 50; i++) {
		expect_kind(c, GP_MSG_HEARTBEAT, &again);
		assert_memory_equal(&again, &peer, sizeof peer);
	}
	assert_int_equal(gp_channel_send(c, &peer, &(struct gp_message){ .kind = GP_MSG_STOP }), 0);
	expect_kind(c, GP_MSG_GOODBYE, &again);
	expect_exit(pid, 0);
	gp_channel_destroy(c);
}

static void test_coordinator_gone(void **state)
{
	const struct fixture *f = *state;
	const struct gp_message refused = { .kind = GP_MSG_REFUSED };
	const pid_t pid = start_worker(f, loses_the_coordinator);
	struct gp_channel *c;
	struct gp_peer peer;

	assert_int_equal(gp_channel_bind(&c, f->dir), 0);
	expect_kind(c, GP_MSG_HELLO, &peer);
	assert_int_equal(gp_channel_send(c, &peer, &refused), 0);
	gp_channel_destroy(c);
	expect_exit(pid, 0);
}

static void test_peer_gone(void **state)
{
	const struct fixture *f = *state;
	const struct gp_message stop = { .kind = GP_MSG_STOP };
	const pid_t pid = start_worker(f, hello_then_end);
	struct gp_peer peer;
	struct gp_channel *c;
	int rc = 0;

	assert_int_equal(gp_channel_bind(&c, f->dir), 0);
	expect_kind(c, GP_MSG_HELLO, &peer);
	assert_int_equal(gp_channel_send(c, &peer, &stop), 0);
	expect_exit(pid, 0);
	/* The kernel tells libzmq's thread, that one tells us. */
	for (int i = 0; i < LONG_MS && (rc = gp_channel_send(c, &peer, &stop)) == 0; i++)
		usleep(1000);
	assert_int_equal(rc, -EHOSTUNREACH);
	peer.bytes = 0;
	assert_int_equal(gp_channel_send(c, &peer, &stop), -EINVAL);
	peer = (struct gp_peer){ .id = "nobody", .bytes = 6 };
	assert_int_equal(gp_channel_send(c, &peer, &stop), -EHOSTUNREACH);
	gp_channel_destroy(c);
}

/* Not through gp_channel: a peer that speaks ZeroMQ and nothing else of ours. */
static void *raw_peer(void *context, const struct fixture *f)
{
	void *s = zmq_socket(context, ZMQ_DEALER);

	assert_non_null(s);
	assert_int_equal(zmq_connect(s, f->endpoint), 0);
	return s;
}

static void expect_event(struct gp_channel *c, int event)
{
	struct gp_message m;
	struct gp_peer peer;
	size_t which;

	assert_int_equal(gp_channel_wait(c, NULL, 0, LONG_MS, &m, &peer, &which), event);
}

static void test_bad_bytes(void **state)
{
	const struct fixture *f = *state;
	void *context = zmq_ctx_new();
	struct gp_message m;
	struct gp_channel *c;
	struct gp_peer peer;
	uint8_t *good;
	size_t bytes, which;

	assert_int_equal(gp_message_encode(&(struct gp_message){ .kind = GP_MSG_STOP }, &good,
					   &bytes), 0);
	assert_int_equal(gp_channel_bind(&c, f->dir), 0);
	void *s = raw_peer(context, f);
	assert_true(zmq_send(s, "rubbish", 7, 0) == 7);
	assert_int_equal(gp_channel_wait(c, NULL, 0, LONG_MS, &m, &peer, &which), GP_EVENT_BAD);
	assert_true(peer.bytes > 0);
	/* One message of three frames, an empty one, then a good one. */
	zmq_send(s, good, bytes, ZMQ_SNDMORE);
	zmq_send(s, good, bytes, ZMQ_SNDMORE);
	zmq_send(s, good, bytes, 0);
	zmq_send(s, "", 0, 0);
	zmq_send(s, good, bytes, 0);
	expect_event(c, GP_EVENT_BAD);
	assert_non_null(strstr(gp_error(), "more frames"));
	expect_event(c, GP_EVENT_BAD);
	expect_event(c, GP_EVENT_MESSAGE);
	free(good);
	zmq_close(s);

	/* A name that does not fit gp_peer. */
	s = zmq_socket(context, ZMQ_DEALER);
	zmq_setsockopt(s, ZMQ_ROUTING_ID, "0123456789012345678901234567890123456789", 40);
	assert_int_equal(zmq_connect(s, f->endpoint), 0);
	zmq_send(s, "x", 1, 0);
	expect_event(c, GP_EVENT_BAD);
	assert_non_null(strstr(gp_error(), "name of 40 bytes"));
	zmq_close(s);
	gp_channel_destroy(c);
	zmq_ctx_term(context);
}

static void test_descriptors_and_timeouts(void **state)
{
	const struct fixture *f = *state;
	const int fds[2] = { eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC) };
	struct gp_message m;
	struct gp_channel *c;
	struct gp_peer peer;
	size_t which = 99;

	assert_int_equal(gp_channel_bind(&c, f->dir), 0);
	assert_int_equal(gp_channel_wait(c, fds, 2, 0, &m, &peer, &which), GP_EVENT_TIMEOUT);
	assert_int_equal(gp_channel_wait(c, fds, 2, 10, &m, &peer, &which), GP_EVENT_TIMEOUT);
	assert_int_equal(eventfd_write(fds[1], 1), 0);
	assert_int_equal(gp_channel_wait(c, fds, 2, -1, &m, &peer, &which), GP_EVENT_FD);
	assert_int_equal(which, 1);
	assert_int_equal(gp_channel_wait(c, fds, 1000, 0, &m, &peer, &which), -EINVAL);
	gp_channel_destroy(c);
	close(fds[0]);
	close(fds[1]);
}

static void test_nobody_there(void **state)
{
	const struct fixture *f = *state;
	struct gp_message m;
	struct gp_channel *c;
	size_t which;

	assert_int_equal(gp_channel_connect(&c, f->endpoint, 0), 0);
	assert_int_equal(gp_channel_wait(c, NULL, 0, LONG_MS, &m, NULL, &which), GP_EVENT_LOST);
	assert_non_null(strstr(gp_error(), "no coordinator answers"));
	gp_channel_destroy(c);
	gp_channel_destroy(NULL);
}

/* A socket that accepts and then says nothing must not hold a worker for ever. */
static void test_silent_listener(void **state)
{
	const struct fixture *f = *state;
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	const int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct gp_message m;
	struct gp_channel *c;
	size_t which;

	snprintf(a.sun_path, sizeof a.sun_path, "%.90s/control", f->dir);
	assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(s, 5), 0);
	assert_int_equal(gp_channel_connect(&c, f->endpoint, 0), 0);
	assert_int_equal(gp_channel_wait(c, NULL, 0, -1, &m, NULL, &which), GP_EVENT_LOST);
	gp_channel_destroy(c);
	close(s);
}

static void test_endpoints(void **state)
{
	struct gp_channel *c;
	char name[300];

	(void)state;
	assert_int_equal(gp_channel_connect(&c, "tcp://127.0.0.1:1", 0), -EINVAL);
	assert_int_equal(gp_channel_connect(&c, "ipc://relative", 0), -EINVAL);
	memset(name, 'x', sizeof name);
	memcpy(name, "ipc:///", 7);
	name[sizeof name - 1] = '\0';
	assert_int_equal(gp_channel_connect(&c, name, 0), -ENAMETOOLONG);
	assert_int_equal(gp_channel_bind(&c, name + 6), -ENAMETOOLONG);
	assert_int_equal(gp_channel_bind(&c, "/no/such/folder"), -ENOENT);
	assert_null(c);
}

/* ---- runtime folder ------------------------------------------------------------------ */

/* The tests below need both variables for themselves. */
struct variables {
	char *xdg, *tmp;
	char dir[64];
};

static void put_back(const char *name, char *value)
{
	if (value)
		setenv(name, value, 1);
	else
		unsetenv(name);
	free(value);
}

static int setup_dir(void **state)
{
	struct variables *v = calloc(1, sizeof *v);
	const char *xdg = getenv("XDG_RUNTIME_DIR"), *tmp = getenv("TMPDIR");

	*state = v;
	if (!v)
		return -1;
	v->xdg = xdg ? strdup(xdg) : NULL;
	v->tmp = tmp ? strdup(tmp) : NULL;
	strcpy(v->dir, "/tmp/gp-test-XXXXXX");
	if (!mkdtemp(v->dir))
		return -1;
	return setenv("XDG_RUNTIME_DIR", v->dir, 1);
}

static int teardown_dir(void **state)
{
	struct variables *v = *state;

	put_back("XDG_RUNTIME_DIR", v->xdg);
	put_back("TMPDIR", v->tmp);
	const int rc = rmdir(v->dir); /* fails where a test left something */
	free(v);
	return rc;
}

static void touch(const char *dir, const char *name)
{
	char path[GP_PROTO_TEXT + 64];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	const int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
}

static void test_dir_mode_and_removal(void **state)
{
	const struct variables *v = *state;
	char path[GP_PROTO_TEXT], expected[GP_PROTO_TEXT];
	struct stat st;

	assert_int_equal(gp_runtime_dir_create(path), 0);
	snprintf(expected, sizeof expected, "%s/gempipe-%d-", v->dir, (int)getpid());
	assert_memory_equal(path, expected, strlen(expected));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	touch(path, "trace");
	gp_runtime_dir_remove(path);
	assert_int_equal(access(path, F_OK), -1);
	gp_runtime_dir_remove(path);
	gp_runtime_dir_remove("");
	gp_runtime_dir_remove(NULL);
}

/* Never anything that create did not make. */
static void test_removes_only_its_own(void **state)
{
	const struct variables *v = *state;
	char other[128];

	touch(v->dir, "precious");
	gp_runtime_dir_remove(v->dir);
	snprintf(other, sizeof other, "%s/precious", v->dir);
	assert_int_equal(access(other, F_OK), 0);
	assert_int_equal(unlink(other), 0);
}

static void test_stale_sweep(void **state)
{
	const struct variables *v = *state;
	char stale[128], living[128], odd[128], path[GP_PROTO_TEXT];
	const pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	snprintf(stale, sizeof stale, "%s/gempipe-%d-aB3dEf", v->dir, (int)pid);
	snprintf(living, sizeof living, "%s/gempipe-%d-aaaaaa", v->dir, (int)getppid());
	snprintf(odd, sizeof odd, "%s/gempipe-%d-notes", v->dir, (int)pid);
	assert_int_equal(mkdir(stale, 0700) | mkdir(living, 0700) | mkdir(odd, 0700), 0);
	touch(stale, "control");
	assert_int_equal(gp_runtime_dir_create(path), 0);
	assert_int_equal(access(stale, F_OK), -1);
	assert_int_equal(access(living, F_OK), 0);
	assert_int_equal(access(odd, F_OK), 0);
	gp_runtime_dir_remove(path);
	assert_int_equal(rmdir(living) | rmdir(odd), 0);
}

static void test_which_parent(void **state)
{
	const struct variables *v = *state;
	char path[GP_PROTO_TEXT];

	setenv("TMPDIR", v->dir, 1);
	setenv("XDG_RUNTIME_DIR", "/no/such/folder", 1);
	assert_int_equal(gp_runtime_dir_create(path), 0);
	assert_memory_equal(path, v->dir, strlen(v->dir));
	gp_runtime_dir_remove(path);
	unsetenv("TMPDIR");
	assert_int_equal(gp_runtime_dir_create(path), 0);
	assert_memory_equal(path, "/tmp/gempipe-", 13);
	gp_runtime_dir_remove(path);
}

static void test_path_too_long(void **state)
{
	const struct variables *v = *state;
	char deep[256], path[GP_PROTO_TEXT];

	snprintf(deep, sizeof deep, "%s/%0100d", v->dir, 0);
	assert_int_equal(mkdir(deep, 0700), 0);
	setenv("XDG_RUNTIME_DIR", deep, 1);
	assert_int_equal(gp_runtime_dir_create(path), -ENAMETOOLONG);
	assert_non_null(strstr(gp_error(), "set XDG_RUNTIME_DIR or TMPDIR"));
	assert_int_equal(rmdir(deep), 0); /* and nothing was left in it */
}

#define WITH_CHANNEL(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
#define WITH_FOLDER(t) cmocka_unit_test_setup_teardown(t, setup_dir, teardown_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_CHANNEL(test_conversation),
		WITH_CHANNEL(test_coordinator_gone),
		WITH_CHANNEL(test_peer_gone),
		WITH_CHANNEL(test_bad_bytes),
		WITH_CHANNEL(test_descriptors_and_timeouts),
		WITH_CHANNEL(test_nobody_there),
		WITH_CHANNEL(test_silent_listener),
		cmocka_unit_test(test_endpoints),
		WITH_FOLDER(test_dir_mode_and_removal),
		WITH_FOLDER(test_removes_only_its_own),
		WITH_FOLDER(test_stale_sweep),
		WITH_FOLDER(test_which_parent),
		WITH_FOLDER(test_path_too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* ROUTER and DEALER sockets over ipc://.
 *
 * One ZeroMQ context a channel, so that destroying a channel ends all that
 * belongs to it. A DEALER that lost its peer would reconnect for ever and say
 * nothing; so the socket's monitor, a PAIR on which libzmq reports events, tells
 * when the connection is lost or never came, and the channel ends there. */
#include "proto/proto.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "base/base.h"
#include "proto/internal.h"

#define SCHEME "ipc://"
#define MAX_FDS 128u
#define CONNECT_NS 5000000000u
/* At the end the last words (ERROR, REFUSED) get this long to leave. A peer
 * that reads needs microseconds, a stopped one cannot hold us longer. */
#define LINGER_MS 200
/* Not in the life of a channel. Not -1 (never) either: libzmq then drops what
 * the peer said last and has not been read yet, together with the connection. */
#define RECONNECT_MS (24 * 3600 * 1000)
#define MONITOR_NAME "inproc://monitor"
#define MONITOR_EVENTS                                                                   \
	(ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |     \
	 ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |    \
	 ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)

struct gp_channel {
	void *context, *socket;
	void *monitor;           /* NULL: a bound channel */
	bool connected, lost;
	uint64_t connect_by;     /* gp_now_ns */
	char endpoint[sizeof SCHEME + GP_SOCKET_PATH_MAX];
};

static int fail_zmq(const struct gp_channel *c, const char *what)
{
	const int errnum = errno;

	return gp_fail(errnum < ZMQ_HAUSNUMERO ? errnum : EIO, "%s: %s: %s", c->endpoint, what,
		       zmq_strerror(errnum));
}

/* ---- making and ending ------------------------------------------------------------ */

static int set_number(struct gp_channel *c, int option, int value)
{
	return zmq_setsockopt(c->socket, option, &value, sizeof value);
}

static int open_socket(struct gp_channel *c, int type)
{
	const int64_t most = GP_MESSAGE_BYTES;

	c->context = zmq_ctx_new();
	if (!c->context)
		return fail_zmq(c, "no ZeroMQ context");
	c->socket = zmq_socket(c->context, type);
	if (!c->socket)
		return fail_zmq(c, "no socket");
	if (set_number(c, ZMQ_LINGER, LINGER_MS) < 0 ||
	    zmq_setsockopt(c->socket, ZMQ_MAXMSGSIZE, &most, sizeof most) < 0)
		return fail_zmq(c, "socket options");
	return 0;
}

static int check_endpoint(const char *endpoint)
{
	const size_t scheme = strlen(SCHEME);

	if (strncmp(endpoint, SCHEME, scheme) != 0 || endpoint[scheme] != '/')
		return gp_fail(EINVAL, "%.200s: no control endpoint; it looks like "
			       SCHEME "/DIR/" GP_CONTROL_NAME, endpoint);
	if (strlen(endpoint + scheme) > GP_SOCKET_PATH_MAX)
		return gp_fail(ENAMETOOLONG, "%.200s: the socket's path is over %zu bytes; set "
			       "XDG_RUNTIME_DIR or TMPDIR to a folder with a shorter path",
			       endpoint, GP_SOCKET_PATH_MAX);
	return 0;
}

static int new_channel(struct gp_channel **c, const char *endpoint)
{
	const int rc = check_endpoint(endpoint);

	if (rc < 0)
		return rc;
	*c = calloc(1, sizeof **c);
	if (!*c)
		return gp_fail(ENOMEM, "%s: no memory for a channel", endpoint);
	memcpy((*c)->endpoint, endpoint, strlen(endpoint) + 1); /* fits: checked */
	return 0;
}

static int finish_open(struct gp_channel **out, struct gp_channel *c, int rc)
{
	if (rc < 0)
		gp_channel_destroy(c);
	else
		*out = c;
	return rc;
}

static int bind_socket(struct gp_channel *c)
{
	int rc = open_socket(c, ZMQ_ROUTER);

	if (rc < 0)
		return rc;
	/* Without it a message to a peer that is gone vanishes in silence. */
	if (set_number(c, ZMQ_ROUTER_MANDATORY, 1) < 0)
		return fail_zmq(c, "socket options");
	if (zmq_bind(c->socket, c->endpoint) < 0)
		return fail_zmq(c, "cannot bind");
	return 0;
}

int gp_channel_bind(struct gp_channel **out, const char *dir)
{
	char endpoint[GP_PROTO_TEXT + 32];
	struct gp_channel *c;

	*out = NULL;
	const int n = snprintf(endpoint, sizeof endpoint, SCHEME "%s/" GP_CONTROL_NAME, dir);
	if (n < 0 || (size_t)n >= sizeof endpoint)
		return gp_fail(ENAMETOOLONG, "%.200s: too long a path for a control socket", dir);
	const int rc = new_channel(&c, endpoint);
	return rc < 0 ? rc : finish_open(out, c, bind_socket(c));
}

static int watch_connection(struct gp_channel *c)
{
	if (zmq_socket_monitor(c->socket, MONITOR_NAME, MONITOR_EVENTS) < 0)
		return fail_zmq(c, "cannot be watched");
	c->monitor = zmq_socket(c->context, ZMQ_PAIR);
	if (!c->monitor || zmq_connect(c->monitor, MONITOR_NAME) < 0)
		return fail_zmq(c, "cannot be watched");
	return 0;
}

static int connect_socket(struct gp_channel *c, uint32_t stage)
{
	char id[GP_PEER_BYTES];
	int rc = open_socket(c, ZMQ_DEALER);

	if (rc < 0)
		return rc;
	const int n = snprintf(id, sizeof id, "stage-%u-%ld", stage, (long)getpid());
	if (zmq_setsockopt(c->socket, ZMQ_ROUTING_ID, id, (size_t)n) < 0 ||
	    set_number(c, ZMQ_RECONNECT_IVL, RECONNECT_MS) < 0)
		return fail_zmq(c, "socket options");
	rc = watch_connection(c);
	if (rc < 0)
		return rc;
	c->connect_by = gp_now_ns() + CONNECT_NS;
	if (zmq_connect(c->socket, c->endpoint) < 0)
		return fail_zmq(c, "cannot connect");
	return 0;
}

int gp_channel_connect(struct gp_channel **out, const char *endpoint, uint32_t stage)
{
	struct gp_channel *c;
	const int rc = new_channel(&c, endpoint);

	*out = NULL;
	return rc < 0 ? rc : finish_open(out, c, connect_socket(c, stage));
}

const char *gp_channel_endpoint(const struct gp_channel *c)
{
	return c->endpoint;
}

void gp_channel_destroy(struct gp_channel *c)
{
	if (!c)
		return;
	if (c->monitor) {
		/* First: an event with nobody at the other end of the PAIR would
		 * block libzmq's thread for ever. */
		zmq_socket_monitor(c->socket, NULL, 0);
		zmq_close(c->monitor);
	}
	/* Unlinks what was bound. */
	if (c->socket)
		zmq_close(c->socket);
	/* Interrupted by a signal it has ended nothing. */
	while (c->context && zmq_ctx_term(c->context) < 0 && errno == EINTR)
		;
	free(c);
}

/* ---- watching the connection ------------------------------------------------------------ */

/* An event is two frames: number and value, then the endpoint. */
static void read_monitor(struct gp_channel *c)
{
	uint8_t frame[6];
	uint16_t event;

	while (zmq_recv(c->monitor, frame, sizeof frame, ZMQ_DONTWAIT) >= 0) {
		memcpy(&event, frame, sizeof event);
		if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED)
			c->connected = true;
		else
			c->lost = true;
		zmq_recv(c->monitor, NULL, 0, ZMQ_DONTWAIT);
	}
}

/* ---- sending ------------------------------------------------------------------------ */

static int fail_send(struct gp_channel *c)
{
	const int errnum = errno;

	/* A DEALER without a connection says EAGAIN, too. */
	if (c->monitor)
		read_monitor(c);
	if (c->lost || errnum == EHOSTUNREACH)
		return gp_fail(EHOSTUNREACH, "%s: the peer is gone", c->endpoint);
	if (errnum == EAGAIN)
		return gp_fail(EAGAIN, "%s: the peer does not read its messages", c->endpoint);
	errno = errnum;
	return fail_zmq(c, "cannot send");
}

static int send_bytes(struct gp_channel *c, const struct gp_peer *peer, const uint8_t *data,
		      size_t bytes)
{
	if (!c->monitor && zmq_send(c->socket, peer->id, peer->bytes,
				    ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
		return fail_send(c);
	if (zmq_send(c->socket, data, bytes, ZMQ_DONTWAIT) < 0)
		return fail_send(c);
	return 0;
}

int gp_channel_send(struct gp_channel *c, const struct gp_peer *peer, const struct gp_message *m)
{
	uint8_t *data;
	size_t bytes;

	if (c->lost)
		return gp_fail(EHOSTUNREACH, "%s: the peer is gone", c->endpoint);
	if (!c->monitor && (!peer || peer->bytes == 0 || peer->bytes > GP_PEER_BYTES))
		return gp_fail(EINVAL, "%s: a message to nobody", c->endpoint);
	int rc = gp_message_encode(m, &data, &bytes);
	if (rc < 0)
		return rc;
	rc = send_bytes(c, peer, data, bytes);
	free(data);
	return rc;
}

/* ---- receiving ----------------------------------------------------------------------- */

static bool has_more(struct gp_channel *c)
{
	int more = 0;
	size_t bytes = sizeof more;

	return zmq_getsockopt(c->socket, ZMQ_RCVMORE, &more, &bytes) == 0 && more;
}

/* The frames of one message arrive together: none of this waits. */
static void drop_frames(struct gp_channel *c)
{
	while (has_more(c) && zmq_recv(c->socket, NULL, 0, ZMQ_DONTWAIT) >= 0)
		;
}

static int bad(struct gp_channel *c)
{
	drop_frames(c);
	return GP_EVENT_BAD;
}

static int take_frame(struct gp_channel *c, struct gp_message *m)
{
	zmq_msg_t frame;
	int event = GP_EVENT_MESSAGE;

	zmq_msg_init(&frame);
	if (zmq_msg_recv(&frame, c->socket, ZMQ_DONTWAIT) < 0)
		event = errno == EAGAIN ? GP_EVENT_TIMEOUT : fail_zmq(c, "cannot receive");
	else if (gp_message_decode(m, zmq_msg_data(&frame), zmq_msg_size(&frame)) < 0)
		event = bad(c);
	zmq_msg_close(&frame);
	if (event == GP_EVENT_MESSAGE && has_more(c)) {
		gp_fail(EPROTO, "control message: more frames than one");
		event = bad(c);
	}
	return event;
}

/* GP_EVENT_MESSAGE, _BAD, _TIMEOUT (there is none), or negative. */
static int receive(struct gp_channel *c, struct gp_message *m, struct gp_peer *peer)
{
	uint8_t id[256]; /* ZeroMQ's own limit is 255 */

	if (c->monitor)
		return take_frame(c, m);
	*peer = (struct gp_peer){ 0 };
	const int n = zmq_recv(c->socket, id, sizeof id, ZMQ_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN ? GP_EVENT_TIMEOUT : fail_zmq(c, "cannot receive");
	if (n == 0 || n > GP_PEER_BYTES || !has_more(c)) {
		gp_fail(EPROTO, "control message: from a peer with a name of %d bytes", n);
		return bad(c);
	}
	memcpy(peer->id, id, (size_t)n);
	peer->bytes = (uint8_t)n;
	return take_frame(c, m);
}

static int lost(const struct gp_channel *c)
{
	gp_fail(EHOSTUNREACH, c->connected ? "%s: the coordinator is gone"
		: "%s: no coordinator answers there; is it still running?", c->endpoint);
	return GP_EVENT_LOST;
}

/* Milliseconds until the deadline, rounded up; -1: for ever. */
static long poll_ms(const struct gp_channel *c, uint64_t deadline)
{
	const uint64_t now = gp_now_ns();

	/* The loss was read together with the last message: no event follows. */
	if (c->lost)
		return 0;
	if (c->monitor && !c->connected && c->connect_by < deadline)
		deadline = c->connect_by;
	if (deadline == UINT64_MAX)
		return -1;
	return deadline > now ? (long)((deadline - now + 999999) / 1000000) : 0;
}

/* What is there at this moment, in order: a message (a worker's last words come
 * before its end), a descriptor, the loss of the peer. */
static int look(struct gp_channel *c, const zmq_pollitem_t *fds, size_t n_fds,
		struct gp_message *m, struct gp_peer *peer, size_t *fd_index)
{
	if (c->monitor)
		read_monitor(c);
	/* After the monitor: what came before the loss has arrived by now. */
	const int event = receive(c, m, peer);
	if (event != GP_EVENT_TIMEOUT)
		return event;
	for (size_t i = 0; i < n_fds; i++)
		if (fds[i].revents) {
			*fd_index = i;
			return GP_EVENT_FD;
		}
	if (c->monitor && !c->connected && gp_now_ns() >= c->connect_by)
		c->lost = true;
	return c->lost ? lost(c) : GP_EVENT_TIMEOUT;
}

int gp_channel_wait(struct gp_channel *c, const int *fds, size_t n_fds, int timeout_ms,
		    struct gp_message *m, struct gp_peer *peer, size_t *fd_index)
{
	zmq_pollitem_t items[2 + MAX_FDS] = { { .socket = c->socket, .events = ZMQ_POLLIN } };
	const uint64_t deadline =
		timeout_ms < 0 ? UINT64_MAX : gp_now_ns() + (uint64_t)timeout_ms * 1000000u;
	const size_t first_fd = c->monitor ? 2 : 1;

	if (n_fds > MAX_FDS || (!c->monitor && !peer))
		return gp_fail(EINVAL, "%s: waits on at most %u descriptors, and needs a peer to fill",
			       c->endpoint, MAX_FDS);
	if (c->monitor)
		items[1] = (zmq_pollitem_t){ .socket = c->monitor, .events = ZMQ_POLLIN };
	for (size_t i = 0; i < n_fds; i++)
		items[first_fd + i] =
			(zmq_pollitem_t){ .fd = fds[i], .events = ZMQ_POLLIN | ZMQ_POLLERR };
	for (;;) {
		const int rc = zmq_poll(items, (int)(first_fd + n_fds), poll_ms(c, deadline));
		/* A signal: its handler may have left the caller something to do. */
		if (rc < 0 && errno == EINTR)
			return GP_EVENT_TIMEOUT;
		if (rc < 0)
			return fail_zmq(c, "cannot wait");
		const int event = look(c, items + first_fd, n_fds, m, peer, fd_index);
		if (event != GP_EVENT_TIMEOUT || gp_now_ns() >= deadline)
			return event;
	}
}

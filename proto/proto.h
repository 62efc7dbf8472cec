/* proto: control messages between the coordinator and its workers, and the
 * only code that knows ZeroMQ and protobuf-c. Wire format: control.proto.
 * Sockets: ROUTER in the coordinator, DEALER in each worker, over ipc:// in a
 * private runtime directory. A channel belongs to one thread at a time. */
#ifndef GP_PROTO_H
#define GP_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GP_PROTO_ABI 2u
#define GP_PROTO_TEXT 1024 /* bytes of any text field, NUL included */
#define GP_PEER_BYTES 32

enum gp_message_kind {
	GP_MSG_HELLO = 1,  /* worker -> coordinator, first */
	GP_MSG_LOAD,       /* coordinator -> worker: your stage */
	GP_MSG_PROGRESS,   /* worker: bytes loaded so far */
	GP_MSG_READY,      /* worker: loaded; serves its rings from now on */
	GP_MSG_PARK,       /* coordinator: leave the rings alone, drop all KV */
	GP_MSG_PARKED,     /* worker: done so, for this epoch */
	GP_MSG_RESUME,     /* coordinator: rings are reset, go on in this epoch */
	GP_MSG_HEARTBEAT,  /* worker, every 200 ms */
	GP_MSG_ERROR,      /* worker: what went wrong; it ends after this */
	GP_MSG_STOP,       /* coordinator: end; a step in hand is dropped */
	GP_MSG_GOODBYE,    /* worker: ends by its user's wish (Ctrl-C) */
	GP_MSG_REFUSED,    /* coordinator -> worker: not wanted; text says why */
};

struct gp_msg_hello {
	uint32_t abi;          /* GP_PROTO_ABI */
	uint32_t slot_abi;     /* GP_SLOT_ABI */
	uint32_t stage;
	uint32_t pid;
	char device[32];       /* "cpu" */
	char description[256]; /* "2 cores, AVX-512 VNNI" */
};
struct gp_msg_ring {       /* geometry of the slots travels apart from the mapping */
	char path[64];         /* "/proc/PID/fd/N"; "" : inherited, use fd */
	int32_t fd;
	uint32_t max_ops, max_rows, payload, max_payload_rows, payload_cols;
};
struct gp_msg_load {
	char model[GP_PROTO_TEXT];
	uint32_t stage, n_stages, first_layer, end_layer; /* [first, end) */
	bool embeds, has_head;
	uint32_t threads, first_cpu; /* threads 0: all; pinned from first_cpu on */
	uint32_t kv_type;            /* enum gp_type */
	uint32_t context, max_sequences, vocab;
	uint32_t coordinator_pid;
	struct gp_msg_ring in, out;
	char trace_part[GP_PROTO_TEXT]; /* "" : no trace */
	uint32_t log_level;
	uint64_t memory_bytes;       /* at most, on the device; 0: what is free there */
	uint32_t kv_blocks;          /* of global layers' KV, all sequences together; 0: no limit */
	bool check_numerics;         /* search each operation's output for NaN and infinity */
};
struct gp_msg_progress { uint64_t done_bytes, total_bytes; };
struct gp_msg_ready { uint64_t memory_bytes, load_ns; };
struct gp_msg_epoch { uint32_t epoch; };
struct gp_msg_heartbeat { uint64_t step, step_age_ns; }; /* age 0: idle */
struct gp_msg_error { int32_t code; char text[GP_PROTO_TEXT]; };

struct gp_message {
	enum gp_message_kind kind;
	union {
		struct gp_msg_hello hello;
		struct gp_msg_load load;
		struct gp_msg_progress progress;
		struct gp_msg_ready ready;
		struct gp_msg_epoch epoch;         /* PARK, PARKED, RESUME */
		struct gp_msg_heartbeat heartbeat;
		struct gp_msg_error error;         /* ERROR, REFUSED */
	};
};

/* Who sent a message; opaque bytes, compared whole. */
struct gp_peer { uint8_t id[GP_PEER_BYTES]; uint8_t bytes; };

/* ---- codec (proto/codec.c): pure, for tests and fuzzing too --------------- */
/* malloc'ed bytes in *data, owned by the caller. */
int gp_message_encode(const struct gp_message *m, uint8_t **data, size_t *bytes);
/* -EPROTO with a message on anything that is not a whole known message, on a
 * text that does not fit its field, on a number outside its range. */
int gp_message_decode(struct gp_message *m, const uint8_t *data, size_t bytes);

/* ---- runtime directory (proto/runtime_dir.c) -------------------------------
 * DIR/gempipe-PID-XXXXXX, mode 0700; DIR is $XDG_RUNTIME_DIR, else $TMPDIR,
 * else /tmp. Creating one also removes those of this user whose PID is gone. */
int gp_runtime_dir_create(char path[GP_PROTO_TEXT]); /* -ENAMETOOLONG: no socket path fits */
void gp_runtime_dir_remove(const char *path); /* files of ours inside it, then itself */

/* ---- channel (proto/channel.c) -------------------------------------------- */
struct gp_channel;
/* Coordinator: binds ipc://DIR/control. */
int gp_channel_bind(struct gp_channel **c, const char *dir);
/* Worker: connects; identity is made of the stage and the pid. */
int gp_channel_connect(struct gp_channel **c, const char *endpoint, uint32_t stage);
const char *gp_channel_endpoint(const struct gp_channel *c);
/* NULL is fine; unbinds, removes the socket. Messages still to be sent get 200 ms. */
void gp_channel_destroy(struct gp_channel *c);

/* peer: required on a bound channel, ignored on a connected one.
 * -EHOSTUNREACH: that peer is gone; -EAGAIN: it does not read. Never blocks. */
int gp_channel_send(struct gp_channel *c, const struct gp_peer *peer, const struct gp_message *m);

/* Waits for a message, for one of the n_fds descriptors (pidfd, eventfd) to
 * become readable, or for the peer of a connected channel to go away.
 * Returns what happened first; GP_EVENT_BAD is a message that did not decode
 * (gp_error() says why; peer is set); after GP_EVENT_LOST gp_error() says what
 * was lost, and every later wait says so again. Of several things at once the
 * message comes first. timeout_ms < 0: for ever; a signal ends the wait early,
 * as GP_EVENT_TIMEOUT. At most 128 descriptors. Negative errno: the socket. */
enum gp_event { GP_EVENT_TIMEOUT, GP_EVENT_MESSAGE, GP_EVENT_FD, GP_EVENT_LOST, GP_EVENT_BAD };
int gp_channel_wait(struct gp_channel *c, const int *fds, size_t n_fds, int timeout_ms,
                    struct gp_message *m, struct gp_peer *peer, size_t *fd_index);

#endif

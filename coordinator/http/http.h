/* The parts of the HTTP server. Threads: libmicrohttpd's, which call handlers and read
 * streams; the engine's, which makes tokens; the watcher's, which sees clients go. An
 * exchange (a request and its answer) has a lock, under which the engine may be called. */
#ifndef GP_HTTP_H
#define GP_HTTP_H

#include <jansson.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/base.h"
#include "coordinator/coordinator.h"

#define HTTP_MAX_BODY (8u << 20)     /* less where the context is small */
#define HTTP_LEAST_BODY (1u << 20)
#define HTTP_MAX_BODIES (64u << 20)  /* of all requests that are coming in */
#define HTTP_SMALL_BODY (64u << 10)  /* is no part of that: whoever asks little gets in */
/* So much of a body is read and forgotten, so that its client reads why it is refused:
 * closing on one that still sends would take the answer from it. */
#define HTTP_MAX_REFUSED (16u << 20)
#define HTTP_MAX_UNREAD (4u << 20)   /* of a stream; who leaves more lying is gone */
#define HTTP_MAX_N 16u               /* answers to a prompt */
#define HTTP_MAX_CHOICES 128u        /* of all prompts of a request */
#define HTTP_MAX_STOPS 16u
#define HTTP_MAX_STOP_BYTES 256u
#define HTTP_MAX_TOP 20u

/* ---- parse.c: what a client asks for ------------------------------------------ */
struct ask {
	bool chat, stream, usage;       /* usage: at the end of a stream too */
	bool ignore_eos;                /* the model's end of text is none */
	uint32_t n, max_new;
	struct gp_sampling sampling;    /* bias is owned */
	char *stops[HTTP_MAX_STOPS];    /* owned */
	size_t n_stops;
	bool logprobs;
	uint32_t n_top;
	uint64_t user;                  /* a hash of the user's name; 0: none */
	const char *tier;               /* as it was asked for; NULL: it was not */
	int32_t priority;
	struct prompt {
		uint32_t *ids;          /* owned */
		size_t n;
	} *prompts;                     /* owned; of a chat one */
	size_t n_prompts;
	char param[64];                 /* the field that is wrong; "": none in particular */
};
/* -EINVAL and the like: the client's mistake, gp_error() and param name the field; -ENOENT:
 * another model; -E2BIG: a prompt that the context cannot hold. ask_free in any case. */
struct server;
int ask_parse(struct ask *a, bool chat, const char *body, size_t bytes, const struct server *s);
void ask_free(struct ask *a);

/* ---- keys.c: who may ask -------------------------------------------------------- */
struct keys {
	struct key {
		char *text;
		bool may_hurry;         /* may ask for service_tier "priority" */
	} *of;
	size_t n;
};
int keys_read(struct keys *k, const char *path);
void keys_free(struct keys *k);
/* Which one an Authorization header names, from 1 on; 0: none. */
size_t keys_find(const struct keys *k, const char *authorization);

/* ---- visitors.c: connections, and whose turn it is -------------------------------- */
struct visitor;
struct visitors {
	pthread_mutex_t lock;
	uint64_t patience_ns;
	struct visitor *list;
};
void visitors_init(struct visitors *v, uint32_t patience_s);
/* A connection begins, and it is its turn; NULL: no memory, it is not watched. */
struct visitor *visitor_come(struct visitors *v, int fd);
void visitor_leave(struct visitors *v, struct visitor *one); /* before fd is closed; NULL is fine */
void visitor_turn(struct visitors *v, struct visitor *one, bool theirs); /* NULL is fine */
void visitors_sweep(struct visitors *v); /* ends those whose turn takes too long, or who left */

/* ---- metrics.c ----------------------------------------------------------------- */
#define HTTP_BUCKETS 18u
struct histogram {
	_Atomic uint64_t count[HTTP_BUCKETS + 1], sum_ns;
};
void histogram_add(struct histogram *h, uint64_t ns);
struct metrics {
	_Atomic uint64_t answers[6];    /* by status / 100 */
	_Atomic uint64_t prompt_tokens, generated_tokens, cancelled;
	_Atomic uint32_t connections;
	struct histogram first, between, whole;
};
char *metrics_text(struct server *s);   /* malloc'ed; NULL: no memory */

/* ---- stats.c ------------------------------------------------------------------- */
json_t *stats_json(struct server *s);   /* NULL: no memory */

/* ---- page.c -------------------------------------------------------------------- */
struct MHD_Response *page_response(void); /* NULL: no memory */

/* ---- listen.c ------------------------------------------------------------------- */
/* host: as a Host header names it; url: with the port that it got. */
int listen_open(const struct gp_serve_options *o, int *fd, char host[72], char url[128]);

/* ---- server.c ------------------------------------------------------------------- */
struct server {
	struct gp_engine *engine;
	const struct gp_tokenizer *tokenizer;
	const struct gp_serve_options *options;
	struct MHD_Daemon *daemon;
	struct keys keys;
	time_t began;
	uint32_t context;
	size_t max_body;
	struct metrics metrics;
	_Atomic size_t body_bytes;
	_Atomic uint64_t next_id;
	_Atomic uint32_t exchanges;     /* that are not over */
	char host[72];                  /* where it listens, as a Host says it, without the port */
	struct watch *watch;
	struct visitors visitors;
};

/* ---- exchange.c ----------------------------------------------------------------- */
struct buffer {
	char *data;
	size_t n, room;
};
int buffer_add(struct buffer *b, const char *data, size_t bytes); /* -ENOMEM */
int buffer_add_text(struct buffer *b, const char *text);

struct exchange;
struct logprob;
struct choice {
	struct exchange *exchange;
	uint32_t index, id;             /* id: the engine's */
	struct gp_text *text;
	struct buffer all;              /* where the answer is whole */
	struct logprobs {
		struct logprob *first, *last;
	} logprobs;                     /* of tokens that the client has not heard of */
	bool done, stopped;
	enum gp_finish why;
	uint32_t n_tokens;
	uint64_t last_ns;
};

/* Lives while the connection has it, and each request of the engine. */
struct exchange {
	struct server *server;
	_Atomic uint32_t refs;
	pthread_mutex_t lock;
	struct MHD_Connection *connection;
	struct visitor *visitor;        /* NULL: the connection has left it */
	uint64_t id, key;               /* key: which of the server's, from 1 on; 0: none */
	const char *path, *allow;       /* the connection's; which methods this address has */
	struct buffer body;
	size_t body_counted;            /* in the server's body_bytes */
	unsigned refusal;               /* the status, once the body is over; 0: none */
	const char *refusal_text;
	size_t refused_bytes;
	bool begun, suspended, gone, watched;
	bool closes;                    /* the connection, with the answer */
	int rc;                         /* what went wrong in the making */
	struct ask ask;
	struct choice *choices;         /* n for each prompt, of the first prompt first */
	uint32_t n_choices, n_done;
	uint64_t begin_ns;              /* the request was whole */
	time_t created;
	struct buffer out;              /* a stream's, from sent on */
	size_t sent, complete;          /* complete: the end of its last whole event */
};
struct exchange *exchange_create(struct server *s, struct MHD_Connection *c);
void exchange_drop(struct exchange *x);
/* A part of the body; -ENOBUFS: all bodies together are too many, -EFBIG: this one is. */
int exchange_take_body(struct exchange *x, const char *data, size_t bytes);
void exchange_drop_body(struct exchange *x);
/* Hands the choices to the engine. < 0: none goes on. */
int exchange_submit(struct exchange *x);
/* The client is gone: the choices are cancelled. Any thread. */
void exchange_gone(struct exchange *x);
/* With the lock held, by the thread that serves the connection. */
void exchange_suspend(struct exchange *x);

/* ---- answer.c: with the exchange's lock held -------------------------------------- */
/* A piece of a choice's text for a stream; finish: its last, and why. */
int answer_piece(struct exchange *x, struct choice *c, const char *text, size_t bytes,
		 bool finish);
int answer_begin(struct exchange *x);   /* a stream's first pieces */
int answer_end(struct exchange *x);     /* a stream's last ones */
int answer_failure(struct exchange *x, const char *why); /* of a stream that has begun */
int answer_whole(struct exchange *x, struct buffer *b);
/* code NULL: the status's; param: the field, "" or NULL: none. */
json_t *answer_error(int status, const char *code, const char *param, const char *text);

/* ---- logprobs.c: with the exchange's lock held ------------------------------------- */
/* Before the token's text is made. */
int logprobs_add(struct choice *c, uint32_t token, float logprob,
		 const struct gp_slot_candidate *top, uint32_t n_top);
/* Is there one whose text was handed out? all: the text is over, so that any is. */
bool logprobs_ready(const struct choice *c, bool all);
/* The value of "logprobs" for those, which are forgotten; null: there are none. */
int logprobs_take(struct choice *c, bool all, struct buffer *b);
void logprobs_free(struct logprobs *list);

/* ---- watch.c: suspended connections are not polled by the library ------------------ */
struct watch;
int watch_create(struct watch **w, struct visitors *v); /* v is swept now and then */
void watch_destroy(struct watch *w);
/* Calls exchange_gone when the other end of fd has closed. */
void watch_add(struct watch *w, struct exchange *x, int fd);
void watch_remove(struct watch *w, struct exchange *x, int fd);

#endif

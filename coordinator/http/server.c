/* The server: connections, who may ask, which address does what. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "coordinator/http/http.h"

#define PATIENCE_S 60u           /* with clients, unless the options say otherwise */
#define HEADER_BYTES (16u << 10)
#define THREADS 2u
#define BACKLOG 512
/* Of each connection, in the kernel, which on loopback would give megabytes to each that does
 * not read; what is more waits in the exchange. */
#define SEND_BYTES (64 << 10)

/* ---- answers ------------------------------------------------------------------- */

static enum MHD_Result queue(struct exchange *x, unsigned status, struct MHD_Response *r)
{
	if (!r)
		return MHD_NO;
	if (status == MHD_HTTP_UNAUTHORIZED)
		MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
	if (status == MHD_HTTP_TOO_MANY_REQUESTS)
		MHD_add_response_header(r, "Retry-After", "1");
	MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
	if (!x->ask.stream)
		visitor_turn(&x->server->visitors, x->visitor, true);
	atomic_fetch_add(&x->server->metrics.answers[status / 100], 1);
	const enum MHD_Result ok = MHD_queue_response(x->connection, status, r);
	MHD_destroy_response(r);
	return ok;
}

/* text: malloc'ed, taken over. */
static enum MHD_Result answer_text(struct exchange *x, unsigned status, const char *type, char *text)
{
	struct MHD_Response *r = text ? MHD_create_response_from_buffer(strlen(text), text,
									 MHD_RESPMEM_MUST_FREE) : NULL;

	if (r)
		MHD_add_response_header(r, "Content-Type", type);
	else
		free(text);
	return queue(x, status, r);
}

static enum MHD_Result answer_json(struct exchange *x, unsigned status, json_t *o)
{
	char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(8)) : NULL;

	json_decref(o);
	return answer_text(x, status, "application/json", text);
}

static enum MHD_Result refuse(struct exchange *x, unsigned status, const char *why)
{
	return answer_json(x, status, answer_error((int)status, why));
}

/* From gp_error(). */
static enum MHD_Result refuse_for(struct exchange *x, int rc)
{
	switch (rc) {
	case -ENOENT:
		return refuse(x, MHD_HTTP_NOT_FOUND, gp_error());
	case -EAGAIN:
		return refuse(x, MHD_HTTP_TOO_MANY_REQUESTS, gp_error());
	case -ENOMEM:
	case -ESHUTDOWN:
		return refuse(x, MHD_HTTP_SERVICE_UNAVAILABLE, gp_error());
	default:
		return refuse(x, MHD_HTTP_BAD_REQUEST, gp_error());
	}
}

/* ---- completions ------------------------------------------------------------------ */

/* libmicrohttpd asks for a stream's next bytes. */
static ssize_t read_stream(void *arg, uint64_t pos, char *to, size_t room)
{
	struct exchange *x = arg;
	ssize_t n;

	(void)pos;
	pthread_mutex_lock(&x->lock);
	const size_t left = x->out.n - x->sent;
	if (x->gone || x->rc < 0) {
		n = MHD_CONTENT_READER_END_WITH_ERROR;
	} else if (left) {
		n = (ssize_t)(left < room ? left : room);
		memcpy(to, x->out.data + x->sent, (size_t)n);
		x->sent += (size_t)n;
		if (x->sent == x->out.n)
			x->sent = x->out.n = 0;
	} else if (x->n_done == x->n_choices) {
		n = MHD_CONTENT_READER_END_OF_STREAM;
	} else {
		n = 0;
		exchange_suspend(x);
	}
	pthread_mutex_unlock(&x->lock);
	return n;
}

static enum MHD_Result begin_stream(struct exchange *x)
{
	struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096,
								   read_stream, x, NULL);

	if (!r)
		return MHD_NO;
	MHD_add_response_header(r, "Content-Type", "text/event-stream");
	MHD_add_response_header(r, "Cache-Control", "no-store");
	return queue(x, MHD_HTTP_OK, r);
}

/* Called again whenever the connection was resumed. */
static enum MHD_Result go_on(struct exchange *x)
{
	json_t *whole = NULL;

	if (x->ask.stream)
		return begin_stream(x);
	pthread_mutex_lock(&x->lock);
	const bool gone = x->gone, failed = x->rc < 0, done = x->n_done == x->n_choices;
	if (done && !failed)
		whole = answer_whole(x);
	else if (!gone && !failed)
		exchange_suspend(x);
	pthread_mutex_unlock(&x->lock);
	if (gone)
		return MHD_NO;
	if (failed)
		return refuse(x, MHD_HTTP_INTERNAL_SERVER_ERROR, "the answer could not be finished");
	return done ? answer_json(x, MHD_HTTP_OK, whole) : MHD_YES;
}

static int socket_of(struct MHD_Connection *c)
{
	const union MHD_ConnectionInfo *i =
		MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);

	return i ? i->connect_fd : -1;
}

static enum MHD_Result complete(struct exchange *x, bool chat)
{
	struct server *s = x->server;
	int rc = ask_parse(&x->ask, chat, x->body.data ? x->body.data : "", x->body.n, s->tokenizer,
			   s->options->model_name);

	/* It takes its part of what all may take together only until here. */
	atomic_fetch_sub(&s->body_bytes, x->body.n);
	free(x->body.data);
	x->body = (struct buffer){ 0 };
	if (rc == 0 && x->ask.priority > 0 && s->keys.n && !s->keys.of[x->key - 1].may_hurry)
		return refuse(x, MHD_HTTP_FORBIDDEN, "'service_tier': this key may not ask for 'priority'; "
			      "whoever runs the server can allow it in the key file");
	if (rc == 0)
		rc = exchange_submit(x);
	if (rc < 0)
		return refuse_for(x, rc);
	watch_add(s->watch, x, socket_of(x->connection));
	return go_on(x);
}

static enum MHD_Result complete_chat(struct exchange *x)
{
	return complete(x, true);
}

static enum MHD_Result complete_text(struct exchange *x)
{
	return complete(x, false);
}

/* ---- the small ones ------------------------------------------------------------------ */

static enum MHD_Result list_models(struct exchange *x)
{
	const struct server *s = x->server;

	return answer_json(x, MHD_HTTP_OK, json_pack("{s:s, s:[{s:s, s:s, s:I, s:s, s:I}]}", "object",
		"list", "data", "id", s->options->model_name, "object", "model", "created",
		(json_int_t)s->began, "owned_by", "gempipe", "context_length",
		(json_int_t)gp_engine_plan(s->engine)->context));
}

static enum MHD_Result health(struct exchange *x)
{
	return answer_json(x, MHD_HTTP_OK, json_pack("{s:s}", "status", "ok"));
}

static enum MHD_Result show_metrics(struct exchange *x)
{
	return answer_text(x, MHD_HTTP_OK, "text/plain; version=0.0.4", metrics_text(x->server));
}

static enum MHD_Result show_stats(struct exchange *x)
{
	return answer_json(x, MHD_HTTP_OK, stats_json(x->server));
}

static enum MHD_Result show_page(struct exchange *x)
{
	return queue(x, MHD_HTTP_OK, page_response());
}

/* {"content": TEXT} -> {"tokens": [...]}; add_special: <bos> in front. */
static int tokenize_body(struct exchange *x, json_t **out)
{
	json_t *content, *list = json_array(), *in;
	int special = 0, rc;
	uint32_t *ids = NULL;
	size_t n = 0;

	*out = NULL;
	in = json_loadb(x->body.data ? x->body.data : "", x->body.n, 0, NULL);
	if (!list || json_unpack(in, "{s:o, s?b !}", "content", &content, "add_special", &special) < 0 ||
	    !json_is_string(content))
		rc = gp_fail(EINVAL, "the body must be {\"content\": TEXT, \"add_special\": true or false}");
	else
		rc = gp_tokenizer_encode(x->server->tokenizer, json_string_value(content),
					 json_string_length(content), special ? GP_ENCODE_BOS : 0, &ids,
					 &n);
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, json_integer(ids[i]));
	if (rc == 0)
		*out = json_pack("{s:O}", "tokens", list);
	free(ids);
	json_decref(list);
	json_decref(in);
	return rc;
}

static enum MHD_Result tokenize(struct exchange *x)
{
	json_t *o;
	const int rc = tokenize_body(x, &o);

	return rc < 0 ? refuse_for(x, rc) : answer_json(x, MHD_HTTP_OK, o);
}

/* ---- who may ask for what ---------------------------------------------------------- */

struct route {
	const char *method, *path;
	enum MHD_Result (*answer)(struct exchange *x);
};

static const struct route routes[] = {
	{ "GET", "/", show_page },
	{ "GET", "/health", health },
	{ "GET", "/metrics", show_metrics },
	{ "GET", "/stats", show_stats },
	{ "GET", "/v1/models", list_models },
	{ "POST", "/v1/chat/completions", complete_chat },
	{ "POST", "/v1/completions", complete_text },
	{ "POST", "/tokenize", tokenize },
};

static const char *header(struct exchange *x, const char *name)
{
	const char *v = MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);

	return v ? v : "";
}

static bool knows_key(struct exchange *x)
{
	x->key = keys_find(&x->server->keys, header(x, "Authorization"));
	return x->key != 0;
}

/* Without keys whoever reaches the machine may ask, but no page in its browser: that names
 * another host (DNS rebinding), or cannot send JSON without being allowed to. */
static bool is_local_host(const char *host)
{
	static const char *const names[] = { "localhost", "127.0.0.1", "[::1]" };

	for (size_t i = 0; i < GP_ARRAY_LEN(names); i++) {
		const size_t n = strlen(names[i]);

		if (strncasecmp(host, names[i], n) == 0 && (!host[n] || host[n] == ':'))
			return true;
	}
	return false;
}

/* 0: go on; else the status. A browser asks for the page without a key, and it asks its user
 * for one. */
static unsigned admit(struct exchange *x, const char *method, const char *path, const char **why)
{
	const struct server *s = x->server;

	if (s->keys.n && !knows_key(x) && strcmp(path, "/") != 0) {
		*why = "a key is needed: Authorization: Bearer KEY";
		return MHD_HTTP_UNAUTHORIZED;
	}
	if (!s->keys.n && !is_local_host(header(x, "Host"))) {
		*why = "the Host is not this machine; give it a key file to serve others";
		return MHD_HTTP_FORBIDDEN;
	}
	if (strcmp(method, "POST") == 0 &&
	    strncasecmp(header(x, "Content-Type"), "application/json", 16) != 0) {
		*why = "the body must be JSON, with Content-Type: application/json";
		return MHD_HTTP_UNSUPPORTED_MEDIA_TYPE;
	}
	if (strtoull(header(x, "Content-Length"), NULL, 10) > HTTP_MAX_BODY) {
		*why = "the body is too large";
		return MHD_HTTP_CONTENT_TOO_LARGE;
	}
	return 0;
}

static const struct route *find_route(const char *method, const char *path, bool *other_method)
{
	*other_method = false;
	for (size_t i = 0; i < GP_ARRAY_LEN(routes); i++) {
		if (strcmp(routes[i].path, path) != 0)
			continue;
		if (strcmp(routes[i].method, method) == 0)
			return &routes[i];
		*other_method = true;
	}
	return NULL;
}

static enum MHD_Result dispatch(struct exchange *x, const char *method, const char *path)
{
	bool other_method;
	const struct route *r = find_route(method, path, &other_method);

	if (r)
		return r->answer(x);
	return other_method ? refuse(x, MHD_HTTP_METHOD_NOT_ALLOWED, "this address has another method")
			    : refuse(x, MHD_HTTP_NOT_FOUND, "there is nothing at this address");
}

/* A body that grows too long, or for which there is no room, ends the connection: no
 * answer may be given before it is read. */
static enum MHD_Result take_body(struct exchange *x, const char *data, size_t bytes)
{
	struct server *s = x->server;

	if (x->body.n + bytes > HTTP_MAX_BODY)
		return MHD_NO;
	if (atomic_fetch_add(&s->body_bytes, bytes) + bytes > HTTP_MAX_BODIES ||
	    buffer_add(&x->body, data, bytes) < 0) {
		atomic_fetch_sub(&s->body_bytes, bytes);
		return MHD_NO;
	}
	return MHD_YES;
}

static struct visitor *visitor_of(struct MHD_Connection *c)
{
	const union MHD_ConnectionInfo *i =
		MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return i ? i->socket_context : NULL;
}

static enum MHD_Result handle(void *arg, struct MHD_Connection *c, const char *path,
			      const char *method, const char *version, const char *data,
			      size_t *bytes, void **con_cls)
{
	struct exchange *x = *con_cls;
	const char *why;

	(void)version;
	if (!x) {
		if (!(x = *con_cls = exchange_create(arg, c)))
			return MHD_NO;
		x->visitor = visitor_of(c);
		const unsigned status = admit(x, method, path, &why);
		return status ? refuse(x, status, why) : MHD_YES;
	}
	if (*bytes) {
		const enum MHD_Result ok = take_body(x, data, *bytes);

		*bytes = 0;
		return ok;
	}
	if (x->begun)
		return go_on(x);
	x->begun = true;
	visitor_turn(&x->server->visitors, x->visitor, false);
	return dispatch(x, method, path);
}

/* ---- life ------------------------------------------------------------------------------ */

static void on_completed(void *arg, struct MHD_Connection *c, void **con_cls,
			 enum MHD_RequestTerminationCode why)
{
	struct exchange *x = *con_cls;

	(void)arg, (void)c;
	*con_cls = NULL;
	if (!x)
		return;
	watch_remove(x->server->watch, x, socket_of(x->connection));
	visitor_turn(&x->server->visitors, x->visitor, true);
	pthread_mutex_lock(&x->lock);
	x->visitor = NULL;
	pthread_mutex_unlock(&x->lock);
	if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK)
		exchange_gone(x);
	exchange_drop(x);
}

static void on_connection(void *arg, struct MHD_Connection *c, void **context,
			  enum MHD_ConnectionNotificationCode what)
{
	struct server *s = arg;

	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		atomic_fetch_add(&s->metrics.connections, 1);
		*context = visitor_come(&s->visitors, socket_of(c));
	} else {
		atomic_fetch_sub(&s->metrics.connections, 1);
		visitor_leave(&s->visitors, *context);
	}
}

static bool is_loopback(const struct sockaddr_storage *a)
{
	if (a->ss_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
	return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
}

static int parse_address(const struct gp_serve_options *o, struct sockaddr_storage *a, socklen_t *n)
{
	const char *text = o->address ? o->address : "127.0.0.1";
	struct sockaddr_in *v4 = (struct sockaddr_in *)a;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)a;

	memset(a, 0, sizeof *a);
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(o->port);
		*n = sizeof *v4;
	} else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(o->port);
		*n = sizeof *v6;
	} else {
		return gp_fail(EINVAL, "--host %s: not a numeric address such as 127.0.0.1 or ::1", text);
	}
	if (!is_loopback(a) && !o->key_file)
		return gp_fail(EACCES, "--host %s: others can reach it, so that a key is needed; give "
			       "--api-key-file", text);
	return 0;
}

static int open_socket(const struct gp_serve_options *o, int *fd, char url[128])
{
	struct sockaddr_storage a;
	char text[64];
	const int yes = 1, send_bytes = SEND_BYTES;
	socklen_t n;
	int rc = parse_address(o, &a, &n);

	if (rc < 0)
		return rc;
	*fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* Connections inherit the latter. */
	if (*fd >= 0 && setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0)
		setsockopt(*fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes);
	if (*fd < 0 || bind(*fd, (struct sockaddr *)&a, n) < 0 || listen(*fd, BACKLOG) < 0 ||
	    getsockname(*fd, (struct sockaddr *)&a, &n) < 0) {
		rc = gp_fail(errno, "port %u of %s: %s", o->port, o->address ? o->address : "127.0.0.1",
			     strerror(errno));
		if (*fd >= 0)
			close(*fd);
		return rc;
	}
	const bool six = a.ss_family == AF_INET6;
	inet_ntop(a.ss_family, six ? (void *)&((struct sockaddr_in6 *)&a)->sin6_addr
				   : (void *)&((struct sockaddr_in *)&a)->sin_addr, text, sizeof text);
	/* The port stands at the same place in both. */
	snprintf(url, 128, six ? "http://[%s]:%u" : "http://%s:%u", text,
		 ntohs(((struct sockaddr_in *)&a)->sin_port));
	return 0;
}

/* A socket for each connection, and some files of our own. */
static void allow_files(uint32_t connections)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) != 0 || l.rlim_cur >= connections + 256u)
		return;
	l.rlim_cur = l.rlim_max < connections + 256u ? l.rlim_max : connections + 256u;
	if (setrlimit(RLIMIT_NOFILE, &l) != 0 || l.rlim_cur < connections + 256u)
		gp_log(GP_LOG_WARNING, "only %llu files may be open (ulimit -n): fewer connections than "
		       "%u are taken", (unsigned long long)l.rlim_cur, connections);
}

static unsigned patience(const struct server *s)
{
	return s->options->client_timeout_s ? s->options->client_timeout_s : PATIENCE_S;
}

/* Signals are the main thread's. */
static int start_daemon(struct server *s, int fd)
{
	const uint32_t most = s->options->max_connections;
	sigset_t all, before;

	allow_files(most);
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	int rc = watch_create(&s->watch, &s->visitors);
	if (rc == 0)
		s->daemon = MHD_start_daemon(
			MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle, s,
			MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_THREAD_POOL_SIZE, THREADS,
			MHD_OPTION_CONNECTION_LIMIT, most, MHD_OPTION_CONNECTION_TIMEOUT, patience(s),
			MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADER_BYTES,
			MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
			MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_END);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc == 0 && !s->daemon)
		rc = gp_fail(EIO, "libmicrohttpd does not start: %s", strerror(errno));
	return rc;
}

static int serve(struct server *s)
{
	char url[128];
	int fd, rc = open_socket(s->options, &fd, url);

	if (rc < 0)
		return rc;
	if ((rc = start_daemon(s, fd)) < 0) {
		close(fd);
		return rc;
	}
	if (s->options->ready)
		s->options->ready(s->options->user, url);
	return gp_engine_serve(s->engine);
}

int gp_http_serve(struct gp_engine *e, const struct gp_tokenizer *t,
		  const struct gp_serve_options *o)
{
	struct server *s = calloc(1, sizeof *s);
	int rc;

	if (!s)
		return gp_fail(ENOMEM, "no memory for a server");
	s->engine = e;
	s->tokenizer = t;
	s->options = o;
	s->began = time(NULL);
	visitors_init(&s->visitors, patience(s));
	rc = o->key_file ? keys_read(&s->keys, o->key_file) : 0;
	if (rc == 0)
		rc = serve(s);
	/* The engine has ended all requests: nothing is suspended, and it will say no more. */
	if (s->daemon)
		MHD_stop_daemon(s->daemon);
	watch_destroy(s->watch);
	keys_free(&s->keys);
	free(s);
	return rc;
}

/* The server: connections, who may ask, which address does what. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "coordinator/http/http.h"

#define PATIENCE_S 60u           /* with clients, unless the options say otherwise */
#define HEADER_BYTES (16u << 10)
#define THREADS 2u

/* ---- answers ------------------------------------------------------------------- */

static enum MHD_Result queue(struct exchange *x, unsigned status, struct MHD_Response *r)
{
	if (!r)
		return MHD_NO;
	if (status == MHD_HTTP_UNAUTHORIZED)
		MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
	if (status == MHD_HTTP_TOO_MANY_REQUESTS || status == MHD_HTTP_SERVICE_UNAVAILABLE)
		MHD_add_response_header(r, "Retry-After", "1");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(r, "Allow", x->allow);
	if (x->closes)
		MHD_add_response_header(r, "Connection", "close");
	MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
	/* The end of a stream is seen where it is made. */
	if (!x->ask.stream || status != MHD_HTTP_OK)
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

static enum MHD_Result refuse_as(struct exchange *x, unsigned status, const char *code, const char *why)
{
	return answer_json(x, status, answer_error((int)status, code, x->ask.param, why));
}

static enum MHD_Result refuse(struct exchange *x, unsigned status, const char *why)
{
	return refuse_as(x, status, NULL, why);
}

/* From gp_error(). */
static enum MHD_Result refuse_for(struct exchange *x, int rc)
{
	switch (rc) {
	case -ENOENT:
		return refuse_as(x, MHD_HTTP_NOT_FOUND, "model_not_found", gp_error());
	case -E2BIG:
		return refuse_as(x, MHD_HTTP_BAD_REQUEST, "context_length_exceeded", gp_error());
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
	if (x->gone) {
		n = MHD_CONTENT_READER_END_WITH_ERROR;
	} else if (left) {
		n = (ssize_t)(left < room ? left : room);
		memcpy(to, x->out.data + x->sent, (size_t)n);
		x->sent += (size_t)n;
		if (x->sent == x->out.n)
			x->sent = x->out.n = x->complete = 0;
	} else if (x->n_done == x->n_choices || x->rc < 0) {
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
	struct buffer whole = { 0 };
	int rc = 0;

	if (x->ask.stream)
		return begin_stream(x);
	pthread_mutex_lock(&x->lock);
	const bool gone = x->gone, failed = x->rc < 0, done = x->n_done == x->n_choices,
		   ended = x->rc == -ECANCELED;
	if (done && !failed && (rc = answer_whole(x, &whole)) == 0)
		rc = buffer_add(&whole, "", 1);
	else if (!gone && !failed)
		exchange_suspend(x);
	pthread_mutex_unlock(&x->lock);
	if (rc < 0)
		free(whole.data);
	if (gone)
		return MHD_NO;
	if (failed && ended)
		return refuse(x, MHD_HTTP_SERVICE_UNAVAILABLE, "the server is shutting down");
	if (failed || rc < 0)
		return refuse(x, MHD_HTTP_INTERNAL_SERVER_ERROR, "the answer could not be finished");
	return done ? answer_text(x, MHD_HTTP_OK, "application/json", whole.data) : MHD_YES;
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
	int rc = ask_parse(&x->ask, chat, x->body.data ? x->body.data : "", x->body.n, s);

	/* It takes its part of what all may take together only until here. */
	exchange_drop_body(x);
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

static json_t *describe_model(const struct server *s)
{
	return json_pack("{s:s, s:s, s:I, s:s, s:I}", "id", s->options->model_name, "object", "model",
			 "created", (json_int_t)s->began, "owned_by", "gempipe", "context_length",
			 (json_int_t)s->context);
}

static enum MHD_Result list_models(struct exchange *x)
{
	return answer_json(x, MHD_HTTP_OK, json_pack("{s:s, s:[o]}", "object", "list", "data",
						     describe_model(x->server)));
}

#define MODELS "/v1/models/"

static enum MHD_Result show_model(struct exchange *x)
{
	const struct server *s = x->server;
	const char *name = x->path + strlen(MODELS);

	if (strcmp(name, s->options->model_name) == 0)
		return answer_json(x, MHD_HTTP_OK, describe_model(s));
	return refuse_for(x, gp_fail(ENOENT, "there is no model '%.100s' here; this server has '%s'", name,
				     s->options->model_name));
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
		rc = gp_tokenizer_encode_most(x->server->tokenizer, json_string_value(content),
					      json_string_length(content), special ? GP_ENCODE_BOS : 0,
					      x->server->context, &ids, &n);
	if (rc == -E2BIG)
		gp_fail(E2BIG, "'content' has more tokens than the context, which is %u", x->server->context);
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
	{ "GET", MODELS "*", show_model },
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
static bool is_local_host(const struct server *s, const char *host)
{
	const char *const names[] = { "localhost", "127.0.0.1", "[::1]", s->host };

	for (size_t i = 0; i < GP_ARRAY_LEN(names); i++) {
		const size_t n = strlen(names[i]);

		if (strncasecmp(host, names[i], n) == 0 && (!host[n] || host[n] == ':'))
			return true;
	}
	return false;
}

static enum MHD_Result count_ends(void *arg, enum MHD_ValueKind kind, const char *name,
				  const char *value)
{
	unsigned *n = arg;

	(void)kind, (void)value;
	*n += strcasecmp(name, "Content-Length") == 0 || strcasecmp(name, "Transfer-Encoding") == 0;
	return MHD_YES;
}

/* Does it say twice where its body ends? A proxy in front may have believed the other. */
static bool is_ambiguous(struct exchange *x)
{
	unsigned n = 0;

	MHD_get_connection_values(x->connection, MHD_HEADER_KIND, count_ends, &n);
	return n > 1;
}

#define TOO_LARGE "the body is too large for the context; send less, or raise --ctx"
#define NO_ROOM "many large requests are coming in; try again later"

/* 0: go on; else the status. A browser asks for the page without a key, and it asks its user
 * for one. */
static unsigned admit(struct exchange *x, const char *method, const char *path, const char **why)
{
	const struct server *s = x->server;

	const bool is_page = strcmp(path, "/") == 0 &&
			     (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0);

	if (is_ambiguous(x)) {
		x->closes = true;
		*why = "the end of the body must be said once: by a Content-Length or a Transfer-Encoding";
		return MHD_HTTP_BAD_REQUEST;
	}
	if (s->keys.n && !knows_key(x) && !is_page) {
		*why = "a key is needed: Authorization: Bearer KEY";
		return MHD_HTTP_UNAUTHORIZED;
	}
	if (!s->keys.n && !is_local_host(s, header(x, "Host"))) {
		*why = "the Host is not this machine; give it a key file to serve others";
		return MHD_HTTP_FORBIDDEN;
	}
	if (strcmp(method, "POST") == 0 &&
	    strncasecmp(header(x, "Content-Type"), "application/json", 16) != 0) {
		*why = "the body must be JSON, with Content-Type: application/json";
		return MHD_HTTP_UNSUPPORTED_MEDIA_TYPE;
	}
	const unsigned long long bytes = strtoull(header(x, "Content-Length"), NULL, 10);
	if (bytes > s->max_body) {
		*why = TOO_LARGE;
		return MHD_HTTP_CONTENT_TOO_LARGE;
	}
	if (bytes > HTTP_SMALL_BODY && bytes + atomic_load(&s->body_bytes) > HTTP_MAX_BODIES) {
		*why = NO_ROOM;
		return MHD_HTTP_SERVICE_UNAVAILABLE;
	}
	return 0;
}

/* A star at the end stands for anything. */
static bool is_path(const char *pattern, const char *path)
{
	const size_t n = strlen(pattern) - 1;

	return pattern[n] == '*' ? strncmp(pattern, path, n) == 0 : strcmp(pattern, path) == 0;
}

/* HEAD is GET; the library leaves the body out. */
static const struct route *find_route(struct exchange *x, const char *method)
{
	const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;

	for (size_t i = 0; i < GP_ARRAY_LEN(routes); i++) {
		if (!is_path(routes[i].path, x->path))
			continue;
		if (strcmp(routes[i].method, wanted) == 0)
			return &routes[i];
		x->allow = strcmp(routes[i].method, "GET") == 0 ? "GET, HEAD" : routes[i].method;
	}
	return NULL;
}

static enum MHD_Result dispatch(struct exchange *x, const char *method)
{
	const struct route *r = find_route(x, method);

	if (r)
		return r->answer(x);
	return x->allow ? refuse(x, MHD_HTTP_METHOD_NOT_ALLOWED, "this address has another method")
			: refuse(x, MHD_HTTP_NOT_FOUND, "there is nothing at this address");
}

/* At once where the client waits for it before it sends the body, or where the body is too
 * long to be read for that; else when the body is over. */
static enum MHD_Result refuse_early(struct exchange *x, unsigned status, const char *why)
{
	x->refusal = status;
	x->refusal_text = why;
	exchange_drop_body(x);
	if (x->closes || *header(x, "Expect") || strtoull(header(x, "Content-Length"), NULL, 10) > HTTP_MAX_REFUSED)
		return refuse(x, status, why);
	return MHD_YES;
}

/* While it comes in no answer may be given. */
static enum MHD_Result take_body(struct exchange *x, const char *data, size_t bytes)
{
	const int rc = x->refusal ? 0 : exchange_take_body(x, data, bytes);

	if (rc < 0) {
		x->refusal = rc == -EFBIG ? MHD_HTTP_CONTENT_TOO_LARGE : MHD_HTTP_SERVICE_UNAVAILABLE;
		x->refusal_text = rc == -EFBIG ? TOO_LARGE : NO_ROOM;
		x->refused_bytes = x->body.n;
		exchange_drop_body(x);
	}
	x->refused_bytes += x->refusal ? bytes : 0;
	return x->refused_bytes > HTTP_MAX_REFUSED ? MHD_NO : MHD_YES;
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
		x->path = path;
		const unsigned status = admit(x, method, path, &why);
		return status ? refuse_early(x, status, why) : MHD_YES;
	}
	if (*bytes) {
		const enum MHD_Result ok = take_body(x, data, *bytes);

		*bytes = 0;
		return ok;
	}
	if (x->begun)
		return go_on(x);
	x->begun = true;
	x->begin_ns = gp_now_ns();
	visitor_turn(&x->server->visitors, x->visitor, false);
	return x->refusal ? refuse(x, x->refusal, x->refusal_text) : dispatch(x, method);
}

/* ---- life ------------------------------------------------------------------------------ */

static unsigned patience(const struct server *s)
{
	return s->options->client_timeout_s ? s->options->client_timeout_s : PATIENCE_S;
}

/* Of connections with the daemon's own time limit the library looks at those that are over
 * from the oldest on, as far as they are: behind one that is idle they stay until that one's
 * time is over. Those with another limit it looks at each time. */
static void let_go(const struct server *s, struct MHD_Connection *c)
{
	MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, patience(s) + 1);
}

static void on_completed(void *arg, struct MHD_Connection *c, void **con_cls,
			 enum MHD_RequestTerminationCode why)
{
	struct exchange *x = *con_cls;

	*con_cls = NULL;
	if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK && why != MHD_REQUEST_TERMINATED_DAEMON_SHUTDOWN)
		let_go(arg, c);
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
			MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
			MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_END);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc == 0 && !s->daemon)
		rc = gp_fail(EIO, "libmicrohttpd does not start: %s", strerror(errno));
	return rc;
}

static int serve(struct server *s)
{
	char url[128];
	int fd, rc = listen_open(s->options, &fd, s->host, url);

	if (rc < 0)
		return rc;
	if ((rc = start_daemon(s, fd)) < 0) {
		close(fd);
		return rc;
	}
	if (s->options->ready)
		s->options->ready(s->options->user, url);
	rc = gp_engine_serve(s->engine);
	/* What became of them is still told to those who listen. */
	for (int i = 0; i < 50 && atomic_load(&s->exchanges); i++)
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	return rc;
}

/* A text that fills the context, each byte of it an escape of six; lists of prompts and the
 * rest need some more where that is little. */
static size_t largest_body(const struct server *s)
{
	const struct gp_vocab *v = gp_tokenizer_vocab(s->tokenizer);
	uint64_t longest = 1, most;

	for (size_t i = 0; i < v->n; i++)
		longest = v->text_bytes[i] > longest ? v->text_bytes[i] : longest;
	most = longest < HTTP_MAX_BODY ? longest * 6 * s->context : HTTP_MAX_BODY;
	most = most > HTTP_LEAST_BODY ? most : HTTP_LEAST_BODY;
	return most < HTTP_MAX_BODY ? (size_t)most : HTTP_MAX_BODY;
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
	s->context = gp_engine_plan(e)->context;
	s->max_body = largest_body(s);
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

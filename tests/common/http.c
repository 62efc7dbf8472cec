#include "tests/common/http.h"

#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_S 120

void http_start(struct http_server *s, const char *const *options, size_t n)
{
	const char *argv[32] = { program("serve"), "--port", "0" };

	assert_true(n < 28);
	memcpy(argv + 3, options, n * sizeof *argv);
	process_start(&s->process, argv, 0);
	assert_true(process_says(s->process.err_fd, "/v1\n", 60));
	char *text = process_output(s->process.err_fd);
	const char *at = strstr(text, "http://");
	assert_non_null(at);
	s->port = (unsigned)strtoul(strrchr(at, ':') + 1, NULL, 10);
	s->address = INADDR_LOOPBACK;
	free(text);
}

int http_stop(struct http_server *s, struct result *r)
{
	struct result own;

	kill(s->process.pid, SIGINT);
	process_finish(&s->process, &own, 60);
	const int status = own.status;
	if (r)
		*r = own;
	else
		result_free(&own);
	return status;
}

int http_connect(const struct http_server *s)
{
	return http_connect_small(s, 0);
}

int http_connect_small(const struct http_server *s, int receive_bytes)
{
	const struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)s->port),
				       .sin_addr = { htonl(s->address) } };
	const struct timeval patience = { .tv_sec = PATIENCE_S };
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	if (receive_bytes)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	if (connect(fd, (const struct sockaddr *)&a, sizeof a) < 0)
		fail_msg("no connection to port %u", s->port);
	return fd;
}

/* One that closes while it is sent to is the test's own business. */
void http_send(int fd, const char *data, size_t bytes)
{
	while (bytes) {
		const ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		data += n;
		bytes -= (size_t)n;
	}
}

char *http_read(int fd)
{
	size_t n = 0, room = 4096;
	char *text = malloc(room);
	ssize_t got = 1;

	while (text && got > 0) {
		if (room - n < 2048)
			text = realloc(text, room *= 2);
		got = text ? recv(fd, text + n, room - n - 1, 0) : 0;
		n += got > 0 ? (size_t)got : 0;
	}
	assert_non_null(text);
	text[n] = '\0';
	close(fd);
	return text;
}

static void undo_chunks(char *body)
{
	char *to = body, *from = body;

	for (;;) {
		const size_t n = strtoul(from, &from, 16);

		if (!n || strncmp(from, "\r\n", 2) != 0 || strlen(from + 2) < n)
			break;
		memmove(to, from + 2, n);
		to += n;
		from += 2 + n;
	}
	*to = '\0';
}

char *http_body(char *raw, int *status)
{
	char *at = strstr(raw, "\r\n\r\n");

	*status = 0;
	if (!at || sscanf(raw, "HTTP/1.1 %d", status) != 1) {
		raw[0] = '\0';
		return raw;
	}
	*at = '\0';
	const bool chunked = strcasestr(raw, "\r\ntransfer-encoding: chunked") != NULL;
	memmove(raw, at + 4, strlen(at + 4) + 1);
	if (chunked)
		undo_chunks(raw);
	return raw;
}

char *http_ask(const struct http_server *s, const char *method, const char *path,
	       const char *headers, const char *body, int *status)
{
	const int fd = http_connect(s);
	char *request;
	const int n = asprintf(&request, "%s %s HTTP/1.1\r\nConnection: close\r\n%sContent-Length: %zu"
			       "\r\n\r\n%s", method, path, headers, strlen(body), body);

	assert_true(n > 0);
	http_send(fd, request, (size_t)n);
	free(request);
	return http_body(http_read(fd), status);
}

#define JSON_HEADERS "Host: localhost\r\nContent-Type: application/json\r\n"

json_t *http_post(const struct http_server *s, const char *path, const char *body, int *status)
{
	char *text = http_ask(s, "POST", path, JSON_HEADERS, body, status);
	json_error_t e;
	json_t *o = json_loads(text, 0, &e);

	if (!o)
		fail_msg("%s: status %d: %s: %.300s", path, *status, e.text, text);
	free(text);
	return o;
}

int http_begin(const struct http_server *s, const char *path, const char *body)
{
	const int fd = http_connect(s);

	http_send_post(fd, path, body);
	return fd;
}

void http_send_post(int fd, const char *path, const char *body)
{
	char *request;
	const int n = asprintf(&request, "POST %s HTTP/1.1\r\nConnection: close\r\n" JSON_HEADERS
			       "Content-Length: %zu\r\n\r\n%s", path, strlen(body), body);

	assert_true(n > 0);
	http_send(fd, request, (size_t)n);
	free(request);
}

static size_t add_piece(const char *event, char *to)
{
	json_error_t e;
	json_t *o = json_loads(event, 0, &e);
	const char *text = "";
	int index = 0;

	if (!o)
		fail_msg("%s: %.300s", e.text, event);
	json_t *choice = json_array_get(json_object_get(o, "choices"), 0);
	json_unpack(choice, "{s:i}", "index", &index);
	if (choice && json_unpack(choice, "{s:s}", "text", &text) < 0)
		json_unpack(choice, "{s:{s:s}}", "delta", "content", &text);
	const size_t n = index == 0 ? strlen(text) : 0;
	memcpy(to, text, n);
	json_decref(o);
	return n;
}

char *http_stream_text(char *raw)
{
	int status;
	char *body = http_body(raw, &status), *text = calloc(1, strlen(body) + 1), *rest = body;
	size_t n = 0;
	bool ended = false;

	assert_int_equal(status, 200);
	assert_non_null(text);
	while (*rest) {
		char *end = strstr(rest, "\n\n");

		assert_non_null(end);
		*end = '\0';
		assert_false(ended);
		assert_memory_equal(rest, "data: ", 6);
		ended = strcmp(rest + 6, "[DONE]") == 0;
		n += ended ? 0 : add_piece(rest + 6, text + n);
		rest = end + 2;
	}
	assert_true(ended);
	free(body);
	return text;
}

double http_metric(const struct http_server *s, const char *name)
{
	char line[128];
	int status;
	char *text = http_ask(s, "GET", "/metrics", "Host: localhost\r\n", "", &status);

	snprintf(line, sizeof line, "\ngempipe_%s ", name);
	const char *at = strstr(text, line);
	assert_non_null(at);
	const double v = strtod(at + strlen(line), NULL);
	free(text);
	return v;
}

void http_await_metric(const struct http_server *s, const char *name, double least, double most)
{
	double v = http_metric(s, name);

	for (int i = 0; i < 1000 && !(v >= least && v <= most); i++) {
		sleep_ms(20);
		v = http_metric(s, name);
	}
	if (!(v >= least && v <= most))
		fail_msg("%s is still %g", name, v);
}

json_t *http_must_post(const struct http_server *s, const char *path, const char *body)
{
	int status;
	json_t *o = http_post(s, path, body, &status);

	if (status != 200)
		fail_msg("%d for %s: %s", status, body, json_dumps(o, 0));
	return o;
}

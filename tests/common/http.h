/* A client that sends what it is told, byte by byte. */
#ifndef GP_TEST_HTTP_H
#define GP_TEST_HTTP_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/common/process.h"

struct http_server {
	struct process process;
	unsigned port;
	uint32_t address;       /* IPv4, 127.0.0.1 once started */
};
/* gempipe serve with these options besides --port 0; waits until it listens. */
void http_start(struct http_server *s, const char *const *options, size_t n);
/* Ctrl-C; its exit status. r: as process_finish, NULL: of no interest. */
int http_stop(struct http_server *s, struct result *r);

/* A connected socket; the test fails where there is none. */
int http_connect(const struct http_server *s);
/* Its buffer for what comes has about so many bytes. */
int http_connect_small(const struct http_server *s, int receive_bytes);
void http_send(int fd, const char *data, size_t bytes);
/* All that comes until the other end closes; malloc'ed, NUL-terminated. Closes fd. */
char *http_read(int fd);
/* The body of a raw answer; *status: its status, 0: it is none. Undoes chunks. malloc'ed;
 * frees raw. */
char *http_body(char *raw, int *status);
/* A whole request on its own connection; headers: more lines, each with \r\n. */
char *http_ask(const struct http_server *s, const char *method, const char *path,
               const char *headers, const char *body, int *status);
/* POST of JSON, JSON back. */
json_t *http_post(const struct http_server *s, const char *path, const char *body, int *status);
/* The same; the test fails where the answer is not 200. */
json_t *http_must_post(const struct http_server *s, const char *path, const char *body);
/* Sends such a POST and leaves the answer to be read. */
int http_begin(const struct http_server *s, const char *path, const char *body);
void http_send_post(int fd, const char *path, const char *body);
/* The text of all pieces of a stream, choice 0; fails the test where one is broken or the
 * end is missing. malloc'ed; frees raw. */
char *http_stream_text(char *raw);
/* Value of a line of /metrics. */
double http_metric(const struct http_server *s, const char *name);
/* Waits until it lies between these; the test fails where it does not come to that. */
void http_await_metric(const struct http_server *s, const char *name, double least, double most);

#endif

/* The socket that clients come to. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "coordinator/http/http.h"

#define BACKLOG 512
/* Of each connection, in the kernel, which on loopback would give megabytes to each that does
 * not read; what is more waits in the exchange. */
#define SEND_BYTES (64 << 10)

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

int listen_open(const struct gp_serve_options *o, int *fd, char host[72], char url[128])
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
	snprintf(host, 72, six ? "[%s]" : "%s", text);
	/* The port stands at the same place in both. */
	snprintf(url, 128, "http://%s:%u", host, ntohs(((struct sockaddr_in *)&a)->sin_port));
	return 0;
}

/* Connections that take too long: for a request to come in, from the connection's beginning or
 * the last answer's end on, and to take what there is of an answer when all of it is made. The
 * library's own limit is for connections on which nothing moves; a byte now and then holds
 * those for ever. And those that are left while it is their turn. */
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "coordinator/http/http.h"

struct visitor {
	int fd;
	uint64_t due_ns;        /* 0: what comes next is ours */
	struct visitor *next, **at;
};

void visitors_init(struct visitors *v, uint32_t patience_s)
{
	pthread_mutex_init(&v->lock, NULL);
	v->patience_ns = patience_s * (uint64_t)1000000000;
	v->list = NULL;
}

struct visitor *visitor_come(struct visitors *v, int fd)
{
	struct visitor *one = calloc(1, sizeof *one);

	if (!one)
		return NULL;
	pthread_mutex_lock(&v->lock);
	*one = (struct visitor){ .fd = fd, .due_ns = gp_now_ns() + v->patience_ns, .next = v->list,
				 .at = &v->list };
	if (one->next)
		one->next->at = &one->next;
	v->list = one;
	pthread_mutex_unlock(&v->lock);
	return one;
}

void visitor_leave(struct visitors *v, struct visitor *one)
{
	if (!one)
		return;
	pthread_mutex_lock(&v->lock);
	*one->at = one->next;
	if (one->next)
		one->next->at = one->at;
	pthread_mutex_unlock(&v->lock);
	free(one);
}

void visitor_turn(struct visitors *v, struct visitor *one, bool theirs)
{
	if (!one)
		return;
	pthread_mutex_lock(&v->lock);
	one->due_ns = theirs ? gp_now_ns() + v->patience_ns : 0;
	pthread_mutex_unlock(&v->lock);
}

/* The library, which is told of each change of a socket once, does not see an end that comes
 * with data. */
static bool has_left(int fd)
{
	struct pollfd f = { .fd = fd, .events = POLLRDHUP };

	return poll(&f, 1, 0) > 0;
}

/* The library sees the end of the connection, and closes it. Its socket is not closed while
 * it is in the list. */
void visitors_sweep(struct visitors *v)
{
	const uint64_t now = gp_now_ns();

	pthread_mutex_lock(&v->lock);
	for (struct visitor *one = v->list; one; one = one->next) {
		if (!one->due_ns || (one->due_ns > now && !has_left(one->fd)))
			continue;
		shutdown(one->fd, SHUT_RDWR);
		one->due_ns = 0;
	}
	pthread_mutex_unlock(&v->lock);
}

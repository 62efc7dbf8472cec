/* Sees clients go whose connections are suspended. */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "coordinator/http/http.h"

#define SWEEP_MS 500u

/* Found by its id: an event may come late, for one that is no more. */
struct watched {
	struct exchange *exchange;
	struct watched *next;
};

struct watch {
	int epoll_fd, stop_fd;
	struct visitors *visitors;
	pthread_t thread;
	pthread_mutex_t lock;
	struct watched *list;
};

static struct exchange *find(struct watch *w, uint64_t id)
{
	struct exchange *found = NULL;

	pthread_mutex_lock(&w->lock);
	for (struct watched *i = w->list; i && !found; i = i->next)
		if (i->exchange->id == id)
			found = i->exchange;
	if (found)
		atomic_fetch_add(&found->refs, 1);
	pthread_mutex_unlock(&w->lock);
	return found;
}

static void *watch_thread(void *arg)
{
	struct watch *w = arg;
	struct epoll_event e;

	for (uint64_t swept = 0;;) {
		const int n = epoll_wait(w->epoll_fd, &e, 1, SWEEP_MS);

		if (gp_now_ns() - swept >= SWEEP_MS * 1000000u) {
			visitors_sweep(w->visitors);
			swept = gp_now_ns();
		}
		if (n != 1)
			continue;
		if (e.data.u64 == 0)
			return NULL;
		struct exchange *x = find(w, e.data.u64);
		if (!x)
			continue;
		exchange_gone(x);
		exchange_drop(x);
	}
}

int watch_create(struct watch **out, struct visitors *v)
{
	struct epoll_event stop = { .events = EPOLLIN };
	struct watch *w = calloc(1, sizeof *w);
	int rc;

	if (!w)
		return gp_fail(ENOMEM, "no memory to watch connections");
	pthread_mutex_init(&w->lock, NULL);
	w->visitors = v;
	w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	w->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (w->epoll_fd < 0 || w->stop_fd < 0 ||
	    epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->stop_fd, &stop) < 0)
		rc = -errno;
	else
		rc = -pthread_create(&w->thread, NULL, watch_thread, w);
	if (rc == 0) {
		*out = w;
		return 0;
	}
	if (w->epoll_fd >= 0)
		close(w->epoll_fd);
	if (w->stop_fd >= 0)
		close(w->stop_fd);
	free(w);
	return gp_fail(-rc, "connections cannot be watched: %s", strerror(-rc));
}

void watch_destroy(struct watch *w)
{
	const uint64_t one = 1;

	if (!w)
		return;
	if (write(w->stop_fd, &one, sizeof one) == sizeof one)
		pthread_join(w->thread, NULL);
	close(w->epoll_fd);
	close(w->stop_fd);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

void watch_add(struct watch *w, struct exchange *x, int fd)
{
	/* Reported once: it stays gone. */
	struct epoll_event e = { .events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = x->id };
	struct watched *i = calloc(1, sizeof *i);

	if (!i) {
		gp_log(GP_LOG_DEBUG, "a connection is not watched: no memory");
		return;
	}
	/* In the list first: it may be gone already, and that is reported once. */
	i->exchange = x;
	x->watched = true;
	pthread_mutex_lock(&w->lock);
	i->next = w->list;
	w->list = i;
	pthread_mutex_unlock(&w->lock);
	if (epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
		gp_log(GP_LOG_WARNING, "a connection is not watched: %s", strerror(errno));
}

void watch_remove(struct watch *w, struct exchange *x, int fd)
{
	struct watched **at = &w->list, *gone;

	if (!x->watched)
		return;
	epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	pthread_mutex_lock(&w->lock);
	while (*at && (*at)->exchange != x)
		at = &(*at)->next;
	gone = *at;
	if (gone)
		*at = gone->next;
	pthread_mutex_unlock(&w->lock);
	free(gone);
}

#include <pthread.h>
#include <stdatomic.h>

#include "base/base.h"
#include "quantize/quantize.h"

#define MOST_THREADS 256u

struct crew {
	size_t n;
	gp_parallel_fn *fn;
	void *user;
	atomic_size_t next;
	atomic_int rc;
	pthread_mutex_t lock;       /* of message */
	char message[GP_ERROR_BYTES];
};

/* The message is the failing thread's; the caller's thread must have it. */
static void keep_failure(struct crew *c, int rc)
{
	int none = 0;

	pthread_mutex_lock(&c->lock);
	if (atomic_compare_exchange_strong(&c->rc, &none, rc))
		snprintf(c->message, sizeof c->message, "%s", gp_error());
	pthread_mutex_unlock(&c->lock);
}

static void *work(void *arg)
{
	struct crew *c = arg;

	while (atomic_load(&c->rc) == 0) {
		const size_t i = atomic_fetch_add(&c->next, 1);
		int rc;

		if (i >= c->n)
			break;
		if ((rc = c->fn(c->user, i)) < 0)
			keep_failure(c, rc);
	}
	return NULL;
}

int gp_parallel(size_t n, uint32_t n_threads, gp_parallel_fn *fn, void *user)
{
	struct crew c = { .n = n, .fn = fn, .user = user, .lock = PTHREAD_MUTEX_INITIALIZER };
	pthread_t thread[MOST_THREADS];
	uint32_t started = 0;

	n_threads = n_threads < MOST_THREADS ? n_threads : MOST_THREADS;
	n_threads = n_threads < n ? n_threads : (uint32_t)n;
	/* Fewer than wanted, and this one: the work is done all the same. */
	while (started + 1 < n_threads && pthread_create(&thread[started], NULL, work, &c) == 0)
		started++;
	work(&c);
	for (uint32_t i = 0; i < started; i++)
		pthread_join(thread[i], NULL);
	return c.rc < 0 ? gp_fail(-c.rc, "%s", c.message) : 0;
}

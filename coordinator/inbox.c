/* What any thread may ask of the engine; taken up between two steps. */
#include <stdlib.h>

#include "coordinator/engine_internal.h"

#define SHOW_NS 500000000u

int gp_inbox_create(struct gp_engine *e)
{
	e->inbox_end = &e->inbox;
	return -pthread_mutex_init(&e->lock, NULL);
}

void gp_inbox_destroy(struct gp_engine *e)
{
	for (struct job *j = e->inbox, *next; j; j = next) {
		next = j->next;
		gp_job_destroy(j);
	}
	free(e->cancels);
	pthread_mutex_destroy(&e->lock);
}

/* While the engine waits for a step or for work. Its last worker, which may be told
 * instead, looks again. */
static void wake(struct gp_engine *e)
{
	if (atomic_load(&e->serving))
		gp_ring_interrupt(&e->pool->rings[e->plan.n_stages]);
}

static int push(struct gp_engine *e, struct job *j, uint32_t *id)
{
	int rc = 0;

	pthread_mutex_lock(&e->lock);
	if (e->closed)
		rc = -ESHUTDOWN;
	else if (e->options.max_queue && e->n_waiting >= e->options.max_queue)
		rc = -EAGAIN;
	if (rc == 0) {
		*id = j->id = ++e->next_id;
		*e->inbox_end = j;
		e->inbox_end = &j->next;
		e->n_waiting++;
	}
	pthread_mutex_unlock(&e->lock);
	return rc;
}

int gp_engine_submit(struct gp_engine *e, const struct gp_request *r, uint32_t *id)
{
	struct job *j;
	int rc = gp_job_create(e, r, &j);

	if (rc < 0)
		return rc;
	if ((rc = push(e, j, id)) == 0) {
		wake(e);
		return 0;
	}
	gp_job_destroy(j);
	return rc == -ESHUTDOWN ? gp_fail(ESHUTDOWN, "the engine has ended") :
	       gp_fail(EAGAIN, "%u requests are waiting already; try again later",
		       e->options.max_queue);
}

void gp_engine_cancel(struct gp_engine *e, uint32_t id)
{
	pthread_mutex_lock(&e->lock);
	if (e->n_cancels == e->cancels_room) {
		const size_t room = 2 * e->cancels_room + 16;
		uint32_t *more = realloc(e->cancels, room * sizeof *more);

		/* Without memory for it the request runs to its end. */
		if (more) {
			e->cancels = more;
			e->cancels_room = room;
		}
	}
	if (e->n_cancels < e->cancels_room)
		e->cancels[e->n_cancels++] = id;
	pthread_mutex_unlock(&e->lock);
	wake(e);
}

static struct job *find_live(const struct gp_engine *e, uint32_t id)
{
	for (uint32_t i = 0; i < e->plan.max_sequences; i++)
		if (e->slots[i] && e->slots[i]->state == JOB_LIVE && e->slots[i]->id == id)
			return e->slots[i];
	return NULL;
}

static void cancel(struct gp_engine *e, uint32_t id)
{
	struct job *j = find_live(e, id);

	if (j)
		gp_job_finish(e, j, GP_FINISH_CANCELLED);
	else if ((j = gp_queue_find(e, id)))
		gp_queue_cancel(e, j);
}

void gp_inbox_count(struct gp_engine *e, int waiting)
{
	pthread_mutex_lock(&e->lock);
	e->n_waiting += (uint32_t)waiting;
	pthread_mutex_unlock(&e->lock);
}

void gp_inbox_close(struct gp_engine *e)
{
	pthread_mutex_lock(&e->lock);
	e->closed = true;
	pthread_mutex_unlock(&e->lock);
	gp_inbox_take(e);
}

void gp_inbox_show(struct gp_engine *e)
{
	const uint64_t now = gp_now_ns();
	struct gp_engine_stats s;

	if (now - e->shown_ns < SHOW_NS)
		return;
	e->shown_ns = now;
	gp_engine_stats(e, &s);
	pthread_mutex_lock(&e->lock);
	e->shown = s;
	pthread_mutex_unlock(&e->lock);
}

void gp_engine_snapshot(struct gp_engine *e, struct gp_engine_stats *s)
{
	pthread_mutex_lock(&e->lock);
	*s = e->shown;
	pthread_mutex_unlock(&e->lock);
}

/* Callbacks may call in again: the lock is not held meanwhile. Both lists are taken at
 * once: a request that is cancelled is in a queue by then. */
void gp_inbox_take(struct gp_engine *e)
{
	pthread_mutex_lock(&e->lock);
	struct job *j = e->inbox;
	uint32_t *cancels = e->cancels;
	const size_t n = e->n_cancels;
	e->inbox = NULL;
	e->inbox_end = &e->inbox;
	e->cancels = NULL;
	e->n_cancels = e->cancels_room = 0;
	pthread_mutex_unlock(&e->lock);
	for (struct job *next; j; j = next) {
		next = j->next;
		gp_queue_admit(e, j);
	}
	for (size_t i = 0; i < n; i++)
		cancel(e, cancels[i]);
	free(cancels);
}

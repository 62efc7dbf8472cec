/* Who waits, and whose turn it is: the higher priority, then the owner that has been
 * served least, then who came first. */
#include <stdlib.h>

#include "coordinator/engine_internal.h"

bool gp_goes_first(const struct job *a, const struct job *b)
{
	if (a->request.priority != b->request.priority)
		return a->request.priority > b->request.priority;
	if (a->owner->served != b->owner->served)
		return a->owner->served < b->owner->served;
	return a->id < b->id;
}

/* One that comes, or comes back, begins where the least served of the others is: what
 * it did not ask for in the past it is not owed now. */
static struct owner *find_owner(struct gp_engine *e, uint64_t key)
{
	uint64_t least = UINT64_MAX;

	for (struct owner *o = e->owners; o; o = o->next) {
		if (o->key == key)
			return o;
		least = o->served < least ? o->served : least;
	}
	struct owner *o = calloc(1, sizeof *o);
	if (!o)
		return NULL;
	*o = (struct owner){ .key = key, .served = e->owners ? least : 0, .next = e->owners };
	e->owners = o;
	return o;
}

void gp_owner_leave(struct gp_engine *e, struct job *j)
{
	struct owner *o = j->owner, **at = &e->owners;

	j->owner = NULL;
	if (!o || --o->n_jobs)
		return;
	while (*at != o)
		at = &(*at)->next;
	*at = o->next;
	free(o);
}

static bool stands_before(const struct job *a, const struct job *b)
{
	return a->request.priority != b->request.priority
		       ? a->request.priority > b->request.priority : a->id < b->id;
}

void gp_queue_put(struct gp_engine *e, struct job *j)
{
	struct job **at = &j->owner->queue;

	/* Most come last. */
	if (j->owner->last && stands_before(j->owner->last, j))
		at = &j->owner->last->next;
	while (*at && stands_before(*at, j))
		at = &(*at)->next;
	j->state = JOB_QUEUED;
	j->next = *at;
	*at = j;
	if (!j->next)
		j->owner->last = j;
	e->n_queued++;
}

void gp_queue_admit(struct gp_engine *e, struct job *j)
{
	j->owner = find_owner(e, j->request.owner);
	if (j->owner) {
		j->owner->n_jobs++;
		gp_queue_put(e, j);
		return;
	}
	gp_inbox_count(e, -1);
	gp_fail(ENOMEM, "no memory to queue a request");
	if (j->request.on_done)
		j->request.on_done(j->request.user, GP_FINISH_FAILED);
	gp_job_destroy(j);
}

struct job *gp_queue_best(const struct gp_engine *e)
{
	struct job *best = NULL;

	for (struct owner *o = e->owners; o; o = o->next)
		if (o->queue && (!best || gp_goes_first(o->queue, best)))
			best = o->queue;
	return best;
}

struct job *gp_queue_find(const struct gp_engine *e, uint32_t id)
{
	for (struct owner *o = e->owners; o; o = o->next)
		for (struct job *j = o->queue; j; j = j->next)
			if (j->id == id)
				return j;
	return NULL;
}

void gp_queue_take(struct gp_engine *e, struct job *j)
{
	struct job **at = &j->owner->queue, *before = NULL;

	while (*at != j) {
		before = *at;
		at = &before->next;
	}
	*at = j->next;
	if (j->owner->last == j)
		j->owner->last = before;
	j->next = NULL;
	e->n_queued--;
	gp_inbox_count(e, -1);
}

void gp_queue_cancel(struct gp_engine *e, struct job *j)
{
	gp_queue_take(e, j);
	gp_owner_leave(e, j);
	if (j->request.on_done)
		j->request.on_done(j->request.user, GP_FINISH_CANCELLED);
	gp_job_destroy(j);
}

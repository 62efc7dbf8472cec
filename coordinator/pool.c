/* The pool as the engine thread sees it: creation, waiting, statistics. */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "coordinator/pool.h"

static int create_rings(struct gp_pool *p)
{
	const struct gp_config *c = gp_model_config(p->model);
	char name[32];
	int rc = 0;

	for (uint32_t i = 0; i <= p->plan->n_stages && rc == 0; i++) {
		struct gp_slot_geometry g;
		size_t bytes;

		gp_plan_geometry(p->plan, c, i, &g);
		snprintf(name, sizeof name, "ring-%u", i);
		if ((rc = gp_slot_bytes(&g, &bytes)) == 0)
			rc = gp_ring_create(&p->rings[i], name, p->plan->ring_slots, bytes);
	}
	return rc;
}

static int start_control(struct gp_pool *p)
{
	int rc;

	p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->wake_fd < 0)
		return gp_fail(errno, "eventfd: %s", strerror(errno));
	rc = -pthread_create(&p->thread, NULL, gp_pool_control_thread, p);
	if (rc < 0)
		return gp_fail(-rc, "no thread: %s", strerror(-rc));
	p->thread_runs = true;
	return 0;
}

static int check_workers(const struct gp_pool *p)
{
	char path[GP_WORKER_PATH];
	int rc = 0;

	for (uint32_t i = 0; i < p->plan->n_stages && rc == 0; i++)
		if (!p->plan->stage[i].external)
			rc = gp_worker_path(p->options->worker_dir, p->plan->stage[i].device, path);
	return rc;
}

int gp_pool_create(struct gp_pool **out, const struct gp_engine_options *o,
		   const struct gp_plan *plan, const struct gp_model *model)
{
	struct gp_pool *p = calloc(1, sizeof *p);
	int rc;

	if (!p)
		return gp_fail(ENOMEM, "no memory for the workers' pool");
	p->options = o;
	p->plan = plan;
	p->model = model;
	p->wake_fd = -1;
	p->epoch = 1;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->changed, NULL);
	for (uint32_t i = 0; i <= GP_MAX_STAGES; i++)
		p->rings[i] = GP_RING_NONE;
	for (uint32_t i = 0; i < GP_MAX_STAGES; i++)
		p->members[i].pid_fd = -1;
	if ((rc = check_workers(p)) < 0 || (rc = create_rings(p)) < 0 ||
	    (rc = gp_runtime_dir_create(p->dir)) < 0 ||
	    (rc = gp_channel_bind(&p->channel, p->dir)) < 0 || (rc = start_control(p)) < 0) {
		gp_pool_destroy(p);
		return rc;
	}
	*out = p;
	return 0;
}

static void wake_control(struct gp_pool *p)
{
	const uint64_t one = 1;

	/* Fails only when it is readable anyway. */
	if (write(p->wake_fd, &one, sizeof one) < 0)
		gp_log(GP_LOG_DEBUG, "eventfd: %s", strerror(errno));
}

static void stop_control(struct gp_pool *p)
{
	if (!p->thread_runs)
		return;
	pthread_mutex_lock(&p->lock);
	p->stopping = true;
	pthread_mutex_unlock(&p->lock);
	wake_control(p);
	pthread_join(p->thread, NULL);
}

/* Workers have written their last: the parts can be joined. */
static int join_trace(struct gp_pool *p)
{
	char paths[GP_MAX_STAGES + 1][GP_PROTO_TEXT];
	const char *list[GP_MAX_STAGES + 1];

	if (!p->options->trace || !p->thread_runs)
		return 0;
	gp_trace_close();
	for (uint32_t i = 0; i <= p->plan->n_stages; i++) {
		gp_pool_trace_part(p, i, paths[i]);
		list[i] = paths[i];
	}
	return gp_trace_join(p->options->trace, list, p->plan->n_stages + 1);
}

int gp_pool_destroy(struct gp_pool *p)
{
	if (!p)
		return 0;
	stop_control(p);
	const int rc = join_trace(p);
	gp_channel_destroy(p->channel);
	if (p->dir[0])
		gp_runtime_dir_remove(p->dir);
	for (uint32_t i = 0; i <= GP_MAX_STAGES; i++)
		gp_ring_finish(&p->rings[i]);
	if (p->wake_fd >= 0)
		close(p->wake_fd);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->lock);
	free(p);
	return rc;
}

/* Slices, so that an interrupt from a signal handler is seen. */
static void wait_slice(struct gp_pool *p)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += 100000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_cond_timedwait(&p->changed, &p->lock, &until);
}

int gp_pool_sync(struct gp_pool *p, const _Atomic bool *interrupted, uint32_t *epoch)
{
	int rc = 0;

	pthread_mutex_lock(&p->lock);
	p->engine_parked = true;
	if (p->state == POOL_WAITING)
		wake_control(p);
	while (p->state == POOL_WAITING && !atomic_load(interrupted))
		wait_slice(p);
	p->engine_parked = false;
	if (p->state == POOL_FAILED)
		rc = gp_fail(-p->rc, "%s", p->error);
	else if (p->state == POOL_WAITING)
		rc = gp_fail(EINTR, "interrupted");
	else
		*epoch = p->epoch;
	pthread_mutex_unlock(&p->lock);
	return rc;
}

void gp_pool_stage_stats(struct gp_pool *p, uint32_t stage, struct gp_stage_stats *s)
{
	const struct gp_member *m = &p->members[stage];

	pthread_mutex_lock(&p->lock);
	snprintf(s->device, sizeof s->device, "%.15s",
		 strncmp(m->hello.description, "SIMULATED", 9) == 0 ? "simulated npu" :
		 m->without_npu ? "host for npu" : m->hello.device);
	snprintf(s->description, sizeof s->description, "%s", m->hello.description);
	s->restarts = m->restarts;
	s->pid = m->hello.pid;
	s->memory_bytes = m->memory_bytes;
	s->load_ns = m->load_ns;
	pthread_mutex_unlock(&p->lock);
	s->first_layer = p->plan->stage[stage].first_layer;
	s->end_layer = p->plan->stage[stage].end_layer;
}

void gp_pool_trace_part(const struct gp_pool *p, uint32_t k, char path[GP_PROTO_TEXT])
{
	if (snprintf(path, GP_PROTO_TEXT, "%s/trace-%u", p->dir, k) >= GP_PROTO_TEXT)
		path[0] = '\0';
}

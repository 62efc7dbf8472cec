/* What the two threads of a worker share. The control thread owns the channel
 * and never touches a ring; the stage thread owns rings, device and stage and
 * never touches a socket. */
#ifndef GP_WORKER_H
#define GP_WORKER_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/base.h"
#include "proto/proto.h"
#include "shm/shm.h"
#include "workers/workers.h"

/*
 *   LOADING --loaded--> PARKED --RESUME--> RUNNING --PARK--> PARKED
 *      |                  |                   |
 *      +---- any failure or STOP -------------+----> ENDED
 *
 * The stage thread makes every transition; the control thread only asks for
 * one (want, want_epoch) under the lock.
 */
enum worker_state { WORKER_LOADING, WORKER_PARKED, WORKER_RUNNING, WORKER_ENDED };
enum worker_want { WANT_NOTHING, WANT_PARK, WANT_RESUME, WANT_STOP };

struct worker {
	const struct gp_worker_device *device;
	struct gp_device_options options; /* what is known of them before the load message */
	struct gp_msg_load load;

	/* the stage thread's own */
	void *dev;
	struct gp_model *model;
	struct gp_stage *stage;
	struct gp_ring in, out;
	struct gp_slot_geometry in_geometry, out_geometry;
	struct gp_slot_view view;
	struct gp_stage_row *rows;
	uint32_t epoch;

	/* shared */
	pthread_mutex_t lock;
	pthread_cond_t wanted;
	enum worker_state state;
	enum worker_want want;
	uint32_t want_epoch, parked_epoch;
	int rc;                       /* once ENDED: 0 or what went wrong */
	char error[GP_ERROR_BYTES];
	int notify_fd;                /* eventfd: the state changed */

	/* counters: the stage thread stores, the control thread loads */
	_Atomic uint64_t loaded_bytes, total_bytes, memory_bytes, load_ns;
	_Atomic uint64_t step, step_start_ns;
};

/* workers/stage_thread.c: thread function; arg is the worker. */
void *gp_worker_stage_thread(void *arg);
/* workers/stage_load.c: model, device, rings; undone by unload. */
int gp_worker_load(struct worker *w);
void gp_worker_unload(struct worker *w);

#endif

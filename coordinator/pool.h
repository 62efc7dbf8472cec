/* The workers' lives. A control thread owns the channel and makes every
 * transition; the engine thread owns ring 0 and the last ring, and comes here
 * only when a ring call was interrupted.
 *
 * One worker:   ABSENT -> STARTING -> LOADING -> PARKED <-> RUNNING
 *                  ^________ dies, from anywhere ___|__________|
 *
 * A death raises the epoch: the others are asked to park (leave the rings
 * alone, drop their KV), the dead one is started again, and once everybody,
 * the engine thread too, is parked in the same epoch, the rings are emptied and
 * all go on. The engine then replays its sequences. */
#ifndef GP_POOL_H
#define GP_POOL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "base/base.h"
#include "coordinator/coordinator.h"
#include "proto/proto.h"

#define GP_POOL_TRIES 3u

enum gp_pool_state { POOL_WAITING, POOL_RUNNING, POOL_FAILED };
enum gp_member_state { MEMBER_ABSENT, MEMBER_STARTING, MEMBER_LOADING, MEMBER_PARKING,
		       MEMBER_PARKED, MEMBER_RUNNING };

struct gp_member {              /* a stage's worker */
	enum gp_member_state state;
	pid_t pid;              /* 0: none */
	int pid_fd;             /* -1: none */
	bool has_peer, was_ready, said_goodbye, announced;
	bool warned, silent;    /* said so in the log */
	struct gp_peer peer;
	uint32_t epoch;         /* parked in */
	uint32_t failures;      /* in a row, without new tokens in between */
	int error_code;         /* what error was sent with; 0: none */
	uint32_t npu_failures;  /* of failures, those of its NPU, in a row */
	bool without_npu;       /* its next ones compute on the host */
	uint64_t heard_ns;      /* spawned, or last message */
	uint64_t done_bytes, total_bytes;
	char error[GP_PROTO_TEXT];
	/* for the statistics; under the lock */
	struct gp_msg_hello hello;
	uint32_t restarts;
	uint64_t memory_bytes, load_ns;
};

struct gp_pool {
	const struct gp_engine_options *options;
	const struct gp_plan *plan;
	const struct gp_model *model;
	struct gp_ring rings[GP_MAX_STAGES + 1];
	char dir[GP_PROTO_TEXT];

	/* the control thread's own */
	struct gp_channel *channel;
	pthread_t thread;
	bool thread_runs;
	int wake_fd;            /* eventfd: the engine thread did something */
	struct gp_member members[GP_MAX_STAGES];
	uint64_t checked_ns;    /* last look for silent ones */

	/* shared */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum gp_pool_state state;
	uint32_t epoch;
	bool engine_parked, stopping;
	int rc;
	char error[GP_ERROR_BYTES];
	_Atomic bool progressed; /* new tokens since the last death */
};

/* Options, plan and model must outlive the pool. Does not wait for the workers. */
int gp_pool_create(struct gp_pool **p, const struct gp_engine_options *o,
		   const struct gp_plan *plan, const struct gp_model *model);
int gp_pool_destroy(struct gp_pool *p); /* NULL is fine; < 0: no trace was written */
/* Engine thread: waits until the pipeline runs; its epoch. -EINTR when
 * *interrupted becomes true; else the failure the pool gave up with. */
int gp_pool_sync(struct gp_pool *p, const _Atomic bool *interrupted, uint32_t *epoch);
void gp_pool_stage_stats(struct gp_pool *p, uint32_t stage, struct gp_stage_stats *s);
/* Where stage k's part of the trace goes; k == n_stages: the coordinator's. */
void gp_pool_trace_part(const struct gp_pool *p, uint32_t k, char path[GP_PROTO_TEXT]);

/* coordinator/control.c: thread function; arg is the pool. */
void *gp_pool_control_thread(void *arg);

/* coordinator/spawn.c */
int gp_spawn_worker(const struct gp_pool *p, uint32_t stage, struct gp_member *m);
/* Reaps a child; why it ended in words. */
void gp_spawn_reap(struct gp_member *m, char why[128]);

#endif

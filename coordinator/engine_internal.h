/* What engine.c, scheduler.c, job.c and stats.c share. One thread: the caller's. */
#ifndef GP_ENGINE_INTERNAL_H
#define GP_ENGINE_INTERNAL_H

#include "coordinator/pool.h"

#define HOP_SAMPLES 4096u

/*
 *   QUEUED --gets a slot--> LIVE --finish--> KEPT   (keep: the slot stays)
 *                            |
 *                            +----finish--> LEAVING (rows still in flight) --> freed
 */
enum job_state { JOB_QUEUED, JOB_LIVE, JOB_LEAVING, JOB_KEPT };

/* A request on its way. Its token list is the only durable state: after a
 * worker's death sent falls to 0 and the list is fed again. */
struct job {
	struct gp_request request;  /* prompt and stops are owned copies */
	uint32_t id, slot;
	enum job_state state;
	uint32_t *tokens;           /* prompt, then generated; context of them fit */
	uint32_t n_tokens;
	uint32_t sent;              /* positions given to the pipeline in this epoch */
	uint32_t back;              /* positions that came back in this epoch */
	uint32_t scored;            /* logits were delivered for positions below */
	uint32_t generated;
	struct gp_sampler *sampler;
	struct job *next;
};

struct stage_meter {
	uint64_t steps, rows, busy_ns, last_end_ns;
	uint64_t hop_sum_ns, n_hops;
	uint32_t hop[HOP_SAMPLES];  /* the last ones, ns */
};

struct gp_engine {
	struct gp_engine_options options;
	char *model_path, *trace_path;
	struct gp_model *model;
	struct gp_plan plan;
	struct gp_pool *pool;
	struct gp_slot_geometry in_geometry, out_geometry;
	struct gp_slot_view view;   /* of the last ring */
	_Atomic bool interrupted;

	uint32_t epoch, in_flight, max_in_flight;
	uint64_t next_step;
	struct job **slots;         /* by sequence slot; NULL: free */
	struct job *queue, **queue_end;
	uint32_t next_id, turn;     /* turn: whose slot is served first */
	struct gp_kv_op *ops;       /* to go with the next step */
	uint32_t n_ops;
	struct gp_row *rows;        /* scratch for composing a step */

	struct stage_meter *meters;
	uint64_t load_ns, account_ns, prompt_ns, generate_ns, prompt_tokens, generated_tokens, decoded_tokens;
};

/* job.c */
int gp_job_create(struct gp_engine *e, const struct gp_request *r, struct job **j);
void gp_job_destroy(struct job *j);
bool gp_job_wants_logits(const struct job *j, uint32_t pos);
/* Of a position that wants logits: 0: all of them, else how many of the best. */
uint32_t gp_job_candidates(const struct job *j, uint32_t pos);
/* Gives a queued job a slot; takes over a kept sequence's where it can. */
bool gp_job_seat(struct gp_engine *e, struct job *j);
/* A row of the job came back; logits: NULL when it wanted none. */
int gp_job_row_back(struct gp_engine *e, struct job *j, uint32_t pos,
		    const struct gp_slot_logits *logits);
void gp_job_finish(struct gp_engine *e, struct job *j, enum gp_finish why);
void gp_job_leave_when_idle(struct gp_engine *e, struct job *j);

/* scheduler.c: fills e->rows for one step; the number of rows. */
uint32_t gp_schedule(struct gp_engine *e);

/* stats.c */
void gp_meter_step(struct gp_engine *e, const struct gp_slot_header *h);
/* Attributes the time since the last call to prefill and decode. */
void gp_meter_time(struct gp_engine *e);

#endif

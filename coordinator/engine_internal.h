/* What engine.c, scheduler.c, job.c and stats.c share. One thread: the caller's. */
#ifndef GP_ENGINE_INTERNAL_H
#define GP_ENGINE_INTERNAL_H

#include "coordinator/deal.h"
#include "coordinator/lookup.h"
#include "coordinator/odds.h"
#include "coordinator/pace.h"
#include "coordinator/pool.h"

#define HOP_SAMPLES 4096u

/*
 *   QUEUED --gets a slot--> LIVE --finish--> KEPT (keep: the slot stays) or gone
 *      ^_____preempted_______|
 */
enum job_state { JOB_QUEUED, JOB_LIVE, JOB_KEPT };

struct owner;
struct prefix;

/* A request on its way. Its token list is the only durable state: after a
 * worker's death, and when it was preempted, sent falls to 0 and the list is fed
 * again. */
struct job {
	struct gp_request request;  /* stops are an owned copy */
	uint32_t id, slot;
	enum job_state state;
	struct owner *owner;        /* NULL: KEPT */
	uint32_t *tokens;           /* prompt, then generated, then n_guessed guesses */
	uint32_t n_tokens, room;    /* room: the most that there will be */
	uint32_t sent;              /* positions given to the pipeline; those of guesses, too */
	uint32_t back;              /* positions that came back */
	uint32_t saved;             /* positions of it that were kept as a prefix */
	uint32_t seen;              /* positions of the prompt that were counted once */
	uint32_t charged;           /* positions that its owner was charged for */
	uint32_t scored;            /* logits were delivered for positions below */
	uint32_t generated;
	struct gp_sampler *sampler;
	uint32_t n_guessed;         /* to go with the next row, or on their way */
	enum gp_guess guess;        /* how they were come by */
	struct gp_odds odds;
	struct gp_place place;      /* whose tokens it repeats, as it seems */
	uint32_t draft_id;          /* its last request to the draft model's engine; 0: none */
	struct job *next;           /* in its owner's queue, or the inbox */
};

/* Whose requests share a queue; there while it has any that are not finished. */
struct owner {
	uint64_t key, served;       /* served: rows, since the pipeline's beginning as it were */
	uint32_t n_jobs;
	struct job *queue, *last;   /* by priority, then by id; last: where queue is not NULL */
	struct owner *next;
};

/* A step in the pipeline. Its rows count only while their slots have not changed
 * hands since. */
struct flight {
	uint32_t n_rows, n_prefill;
	uint32_t n_guesses;         /* rows in decode for tokens that are only guessed */
	uint32_t *tenures;          /* of the rows' slots; max_rows of them */
};

/* What a step may still carry. */
struct budget {
	uint32_t rows, logit_rows, blocks;
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

	uint32_t epoch, in_flight;
	uint64_t next_step;
	struct flight *flights;     /* n_stages + 1, by step */
	struct job **slots;         /* by sequence slot; NULL: free */
	uint32_t *tenures;          /* by sequence slot: how often it changed hands */
	uint32_t n_live, n_queued, turn; /* turn: whose slot is served first */
	struct gp_pace pace;
	struct gp_deal deal;
	uint32_t decode_in_flight;  /* steps with rows in decode */
	struct owner *owners;
	struct job **order;         /* scratch: live jobs */
	uint64_t preempted;

	/* What other threads ask for, taken up between steps. */
	pthread_mutex_t lock;
	struct job *inbox, **inbox_end;
	uint32_t *cancels;
	size_t n_cancels, cancels_room;
	uint32_t next_id, n_waiting; /* n_waiting: inbox and queues */
	_Atomic bool serving;
	bool closed;
	struct gp_engine_stats shown; /* for other threads */
	uint64_t shown_ns;

	/* What the workers' caches hold once the steps sent so far are through: the same
	 * bookkeeping, with nothing behind it. */
	struct gp_kv_cache *kv;
	struct prefix *prefixes;    /* of the plan's number */
	uint64_t prefix_clock, prefix_tokens; /* prefix_tokens: not computed again */
	struct gp_kv_op *ops;       /* to go with the next step */
	uint32_t n_ops;
	int kv_rc;                  /* an operation could not be */
	struct gp_row *rows;        /* scratch for composing a step */

	struct gp_step_costs costs;
	struct gp_draft *draft;     /* NULL: none */
	struct gp_bet *bets;        /* scratch, by sequence slot, as order */
	struct gp_guess_stats looked_up, drafted;

	struct stage_meter *meters;
	uint64_t load_ns, account_ns, prompt_ns, generate_ns, prompt_tokens, generated_tokens, decoded_tokens;
};

/* job.c */
int gp_job_create(struct gp_engine *e, const struct gp_request *r, struct job **j);
void gp_job_destroy(struct job *j);
bool gp_job_wants_logits(const struct job *j, uint32_t pos);
/* Of a position that wants logits: 0: all of them, else how many of the best. */
uint32_t gp_job_candidates(const struct job *j, uint32_t pos);
/* The first n positions of it are computed. How many of the prompt that is for the first time:
 * whoever made room computes again. */
uint32_t gp_job_see(struct job *j, uint32_t n);
/* A row of the job came back; logits: NULL when it wanted none. May free it. */
int gp_job_row_back(struct gp_engine *e, struct job *j, uint32_t pos,
		    const struct gp_slot_logits *logits);
/* Takes back what was sent of it from a position on; it comes back as nobody's. */
void gp_job_take_back(struct gp_engine *e, struct job *j, uint32_t pos);
/* Of a live one; may free it. */
void gp_job_finish(struct gp_engine *e, struct job *j, enum gp_finish why);

/* logprobs.c: tells the request of them; row: vocab logits. */
int gp_logprobs(const struct gp_request *r, const float *row, uint32_t vocab, uint32_t token);

/* inbox.c */
int gp_inbox_create(struct gp_engine *e);
void gp_inbox_destroy(struct gp_engine *e);
void gp_inbox_take(struct gp_engine *e); /* submissions to the queues, then cancellations */
void gp_inbox_close(struct gp_engine *e); /* and takes what is in it */
void gp_inbox_show(struct gp_engine *e); /* refreshes what gp_engine_snapshot gives */
void gp_inbox_count(struct gp_engine *e, int waiting); /* so many more, or fewer */

/* queue.c: a queued job stands in its owner's queue. */
void gp_queue_admit(struct gp_engine *e, struct job *j); /* a new one */
void gp_queue_put(struct gp_engine *e, struct job *j);
struct job *gp_queue_best(const struct gp_engine *e);   /* whose turn it is; NULL: none */
struct job *gp_queue_find(const struct gp_engine *e, uint32_t id);
void gp_queue_take(struct gp_engine *e, struct job *j);
void gp_queue_cancel(struct gp_engine *e, struct job *j); /* frees it */
void gp_owner_leave(struct gp_engine *e, struct job *j);  /* a job is finished */
/* Has a the right of way before b? */
bool gp_goes_first(const struct job *a, const struct job *b);

/* kv.c: operations for the next step, and their effect on e->kv. */
int gp_kv_ops_create(struct gp_engine *e);
void gp_kv_ops_destroy(struct gp_engine *e);
void gp_kv_op_push(struct gp_engine *e, struct gp_kv_op op);
void gp_kv_ops_forget(struct gp_engine *e); /* the workers hold nothing any more */

/* prefix.c */
#define GP_PREFIX_EVERY 512u    /* positions of a prompt at which its beginning is kept */
int gp_prefix_create(struct gp_engine *e);
/* With how many of at most so many tokens both begin. */
uint32_t gp_same_tokens(const uint32_t *a, const uint32_t *b, uint32_t most);
void gp_prefix_destroy(struct gp_engine *e);
void gp_prefix_forget(struct gp_engine *e); /* the workers hold nothing any more */
/* Begins j, of which nothing was sent, with what is there of it. */
void gp_prefix_use(struct gp_engine *e, struct job *j);
/* All that was sent of it. is_end: its answer ends there. */
void gp_prefix_save(struct gp_engine *e, const struct job *j, bool is_end);
/* Is another one computing what j, of which nothing was sent, could begin with? */
bool gp_prefix_comes(const struct gp_engine *e, const struct job *j);
bool gp_prefix_evict(struct gp_engine *e); /* false: there is none */

/* seats.c: who holds which slot. What leaves is dropped by the next step, before
 * that step's rows, so that the slot is free at once. */
bool gp_seat_take(struct gp_engine *e, struct job *j); /* false: no room now */
/* Would it get a seat if all of lower priority left theirs? */
bool gp_seat_possible(const struct gp_engine *e, const struct job *j);
void gp_seat_leave(struct gp_engine *e, struct job *j);
void gp_seat_preempt(struct gp_engine *e, struct job *j); /* back into its queue */
/* Blocks that sequences have in the global layers' cache. */
uint32_t gp_seats_held(const struct gp_engine *e);
/* Does the next row of a job need a block of its own? */
bool gp_begins_block(const struct gp_engine *e, const struct job *j);
/* Blocks that the next rows of all live sequences begin. */
uint32_t gp_seats_needed(const struct gp_engine *e);
/* So that each live sequence can go on by a row; the blocks that are free then. */
uint32_t gp_seats_make_room(struct gp_engine *e);
/* The live one that matters least; NULL: there is none. */
struct job *gp_seat_least(const struct gp_engine *e);

/* scheduler.c */
bool gp_is_live(const struct job *j); /* NULL is fine, here and below */
/* Generates, and nothing but the token sampled last is left to be sent, or it is on its
 * way. */
bool gp_in_decode(const struct job *j);
/* How many are. */
uint32_t gp_count_decode(const struct gp_engine *e);
/* Fills e->rows for one step, and f; the number of rows, or < 0. */
int gp_schedule(struct gp_engine *e, struct flight *f);

/* speculation.c: tokens that are guessed, and go with a sequence's row to be verified. */
/* For the sequences of the next step, at most so many, in the order of their turns. */
void gp_speculate(struct gp_engine *e, uint32_t sequences, const struct budget *left);
/* So many of the guesses went with the row; again how many. */
uint32_t gp_guess_sent(struct gp_engine *e, struct job *j, uint32_t n);
/* A token was chosen where a guess may have been made; takes back the rows of a wrong one
 * and all after it. */
void gp_guess_verify(struct gp_engine *e, struct job *j, uint32_t token);

/* draft.c: a smaller model that guesses, in an engine of its own. */
/* Before anything is loaded: is there such a model, of the same vocabulary? Its context. */
int gp_draft_check(const struct gp_engine *e, uint32_t *context);
int gp_draft_create(struct gp_draft **d, const struct gp_engine *e, uint32_t context);
void gp_draft_destroy(struct gp_draft *d); /* NULL is fine */
/* Has it room for so many guesses after j's tokens, and does it run? */
bool gp_draft_takes(const struct gp_draft *d, const struct job *j, uint32_t guesses);
/* What one token for all of a step's sequences takes; 0: unknown. */
double gp_draft_token_ns(const struct gp_draft *d);
/* Guesses bets[i].offered tokens for each, at most depth, behind its own, and leaves how
 * many there are there and in n_guessed. Those it has not seen enough of get on with that. */
void gp_draft_guess(struct gp_draft *d, struct job **jobs, struct gp_bet *bets, uint32_t n,
		    uint32_t depth);
void gp_draft_interrupt(struct gp_draft *d); /* any thread; NULL is fine */

/* stats.c */
void gp_meter_step(struct gp_engine *e, const struct gp_slot_header *h);
/* Attributes the time since the last call to prefill and decode. */
void gp_meter_time(struct gp_engine *e);

#endif

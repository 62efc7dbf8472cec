/* coordinator: the plan, the workers' lives, the scheduler, sampling. Does no
 * model math; knows workers only by control.proto and the slot ABI. */
#ifndef GP_COORDINATOR_H
#define GP_COORDINATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/model.h"
#include "shm/shm.h"

/* ==== plan (coordinator/plan.c) ============================================== */
struct gp_plan_stage {
	char device[16];            /* "cpu", "vulkan", "npu", "external" */
	uint32_t device_index;      /* vulkan[1] */
	uint32_t first_layer, end_layer; /* [first, end) */
	bool external;              /* started by hand */
	uint32_t threads, first_cpu;
	uint64_t memory_bytes;      /* at most, on its device; 0: what is free there */
	bool simulated;             /* an NPU: --npu sim */
};
struct gp_plan {
	uint32_t n_stages;
	struct gp_plan_stage stage[GP_MAX_STAGES];
	uint32_t context, max_sequences, max_rows, max_logit_rows, ring_slots;
	uint32_t prefixes;          /* sequence slots for beginnings of prompts, behind the others */
	uint32_t kv_blocks;         /* global layers', of all sequences together */
	enum gp_type kv_type;
	bool check_numerics;
};
struct gp_plan_request {        /* zero: the default */
	const char *stages;         /* "cpu:0-2,external:3-5"; NULL or "auto": one CPU worker */
	uint32_t threads;           /* of each CPU worker; 0: cores / CPU workers */
	const char *device_memory;  /* "vulkan=16G,vulkan[1]=8G": all stages of it together */
	const char *npu;            /* "sim": npu stages run on a simulated one; NULL: a real one */
	uint32_t npu_layers;        /* with "auto": so many of the last layers on the NPU */
	bool check_numerics;        /* search each operation's output for NaN and infinity */
	uint32_t context;           /* 0: the smaller of the trained one and 8192 */
	uint32_t max_sequences;     /* 0: 1 */
	uint32_t prefixes;          /* beginnings of prompts to keep for others; 0: none */
#define GP_PREFIXES_AUTO UINT32_MAX /* 16, or as many as keep 3 GiB of local layers, at least 2 */
	uint32_t max_rows;          /* rows a step; 0: 512 */
	uint64_t kv_tokens;         /* positions kept of all sequences together; 0: as many as
	                               they can have */
	uint32_t n_cpus;            /* 0: asked of the system */
	int kv_type;                /* enum gp_type; -1: by the weights */
};
/* Layers must be covered once, in order; -EINVAL names the gap or overlap. */
int gp_plan_make(struct gp_plan *p, const struct gp_plan_request *r, const struct gp_model *m);
/* Geometry of ring i, 0..n_stages (ring i feeds stage i; the last holds logits). */
void gp_plan_geometry(const struct gp_plan *p, const struct gp_config *c, uint32_t ring,
                      struct gp_slot_geometry *g);

/* ==== sampler (coordinator/sampler.c) ========================================= */
struct gp_sampling {            /* all zero: greedy */
	float temperature;          /* 0: greedy */
	uint32_t top_k;             /* 0: off */
	float top_p;                /* 0 or 1: off */
	float min_p;                /* 0: off */
	float repeat_penalty;       /* 0 or 1: off; over the last 64 tokens */
	/* Off the logits of each token that this sampler has picked: once, and for each time.
	 * Below 0 they make repetition likelier. */
	float presence_penalty, frequency_penalty;
	const struct gp_logit_bias { uint32_t token; float bias; } *bias; /* added to logits; copied */
	size_t n_bias;
	uint64_t seed;
};
struct gp_sampler;
int gp_sampler_create(struct gp_sampler **s, const struct gp_sampling *how, uint32_t vocab);
void gp_sampler_destroy(struct gp_sampler *s);
/* How many of a row's best logits pick needs for the same token as from all of
 * them; 0: it needs all. */
uint32_t gp_sampler_needs(const struct gp_sampler *s);
/* The settings, with the seed by which a new sampler draws what this one will draw next. */
void gp_sampler_settings(const struct gp_sampler *s, struct gp_sampling *how);
/* logits: a row of vocab, or at least as many of its best as the sampler needs
 * (else -EPROTO). Greedy: the lowest id of the largest logit. recent: tokens so
 * far. Non-finite logits: -EDOM. Deterministic for a seed and the same calls. */
int gp_sampler_pick(struct gp_sampler *s, const struct gp_slot_logits *logits,
                    const uint32_t *recent, size_t n_recent, uint32_t *token);

/* ==== text (coordinator/text.c): tokens to text that ends where a stop string begins == */
struct gp_text;
/* Stop strings: UTF-8, not empty; copied. */
int gp_text_create(struct gp_text **t, const struct gp_tokenizer *tokenizer,
                   const char *const *stops, size_t n_stops);
void gp_text_destroy(struct gp_text *t); /* NULL is fine */
/* Text that is certain now: valid UTF-8, never the beginning of a stop string. It is t's,
 * until the next call. 1: a stop string has come; what follows is of no interest. */
int gp_text_push(struct gp_text *t, uint32_t token, const char **text, size_t *bytes);
/* What was held back; there is no more. */
int gp_text_flush(struct gp_text *t, const char **text, size_t *bytes);
/* Characters of all tokens so far, where the next one's begin, and of what was handed out.
 * A token that begins there or later is not in the text. */
uint64_t gp_text_made(const struct gp_text *t);
uint64_t gp_text_given(const struct gp_text *t);

/* ==== engine (coordinator/engine.c, scheduler.c; pool.c keeps the workers) ===== */
struct gp_engine_options {
	const char *model;
	struct gp_plan_request plan;
	uint32_t max_queue;         /* requests that wait; 0: no limit */
	float max_step_ms;          /* of steps that carry a prompt beside tokens of others;
	                               0: twice what they take without, at least 40 */
	uint32_t lookup;            /* tokens guessed at most from what the text holds; 0: none;
	                               GP_LOOKUP_AUTO */
	const char *draft;          /* a smaller model of the same vocabulary, which guesses; NULL: none */
	const char *draft_stages;   /* as the plan's stages, of it */
	bool all_guesses;           /* whether they pay or not; for tests */
	const char *trace;          /* NULL: none */
	const char *worker_dir;     /* folder of the gempipe-worker-* binaries; NULL: this program's */
	/* Bytes of weights loaded so far, over all stages. From the control thread. */
	void (*progress)(void *user, uint64_t done, uint64_t total);
	/* A worker is to be started by hand: the text to show. From the control thread. */
	void (*announce)(void *user, const char *text);
	void *user;
};

/* FAILED: gp_error() says why; only of an engine that serves, any other ends. */
enum gp_finish { GP_FINISH_STOP, GP_FINISH_LENGTH, GP_FINISH_CONTEXT, GP_FINISH_CANCELLED,
		 GP_FINISH_FAILED };

struct gp_request {             /* copied by submit, prompt and stops included */
	const uint32_t *prompt;
	size_t n_prompt;            /* >= 1 */
	uint32_t max_new;           /* 0: only scores the prompt */
	struct gp_sampling sampling;
	const uint32_t *stops;
	size_t n_stops;
	/* Id of a finished request whose sequence was kept: its common prefix with
	 * prompt is not computed again. 0: none. */
	uint32_t reuse;
	bool keep;                  /* keep this request's sequence after it finished */
	int32_t priority;           /* higher ones first, and in place of lower ones */
	uint64_t owner;             /* owners that wait share the pipeline evenly */
	uint64_t tenant;            /* beginnings of prompts are shared within it alone: how fast
	                               an answer comes tells nothing of what others asked */
	void *user;
	/* Each generated token, stop tokens included (is_stop). Non-zero: finish. */
	int (*on_token)(void *user, uint32_t token, bool is_stop);
	/* Before on_token: the logarithms of the model's own probabilities, of the token and
	 * of the n_top <= GP_SLOT_CANDIDATES likeliest (as logit), best first. */
	uint32_t n_top;
	void (*on_logprobs)(void *user, uint32_t token, float logprob,
	                     const struct gp_slot_candidate *top);
	/* Logits of every prompt position (teacher-forced), in order, once each. */
	void (*on_logits)(void *user, uint32_t pos, const float *row);
	void (*on_done)(void *user, enum gp_finish why);
	bool no_guesses;            /* none are made for it */
	/* To measure: these are generated, whatever the logits say, but GP_UNFORCED. The
	 * caller's, until it is done. */
	const uint32_t *forced;
	size_t n_forced;
#define GP_UNFORCED UINT32_MAX
};

struct gp_stage_stats {
	char device[16], description[256]; /* device: "simulated npu" where it is, "host for npu" after it failed */
	uint32_t first_layer, end_layer, restarts, pid;
	uint64_t memory_bytes, load_ns;
	uint64_t steps, rows, busy_ns;
	uint64_t hop_mean_ns, hop_p99_ns; /* slot published until taken up, the stage being idle */
};
/* Tokens that went to be verified before they were known. */
struct gp_guess_stats {
	uint64_t proposed, accepted;
};
struct gp_engine_stats {
	uint64_t taken_ns;                       /* when all this was so */
	uint32_t n_stages;
	struct gp_stage_stats stage[GP_MAX_STAGES];
	uint64_t prompt_tokens, prompt_ns;       /* first rows sent until first token, summed */
	uint64_t generated_tokens;
	uint64_t decoded_tokens, generate_ns;    /* those after a request's first, and the wall
	                                            time with a request in decode */
	uint64_t load_ns;
	uint32_t epoch;
	uint32_t live, queued;                   /* requests, now */
	uint32_t kv_blocks, kv_blocks_held;      /* GP_KV_BLOCK positions each */
	uint64_t prefix_tokens;                  /* of prompts, that others had had computed */
	uint64_t preempted;                      /* sequences that made room and began again */
	struct gp_guess_stats looked_up, drafted;
	bool huge_pages;                         /* all rings on huge pages */
};

#define GP_MAX_LOOKUP 31u       /* guesses a step of each sequence */
/* A good number where all stages are on the CPU, whose logits are the same however many rows
 * a step has; else none. */
#define GP_LOOKUP_AUTO UINT32_MAX
#define GP_WORKER_PATH 4096
/* gempipe-NAME, which need not be there; folder NULL: beside this program. */
int gp_program_path(const char *folder, const char *name, char path[GP_WORKER_PATH]);
/* The program of a kind of worker, which is there. */
int gp_worker_path(const char *folder, const char *device, char path[GP_WORKER_PATH]);

struct gp_engine;
/* Spawns the workers and waits until all are loaded. */
int gp_engine_create(struct gp_engine **e, const struct gp_engine_options *o);
/* Stops the workers, joins the trace, leaves nothing behind. NULL is fine. < 0:
 * the trace could not be written; everything is released all the same. */
int gp_engine_destroy(struct gp_engine *e);
const struct gp_config *gp_engine_config(const struct gp_engine *e);
const struct gp_model *gp_engine_model(const struct gp_engine *e);
const struct gp_plan *gp_engine_plan(const struct gp_engine *e);
uint32_t gp_engine_max_queue(const struct gp_engine *e); /* 0: no limit */
/* Any thread. *id > 0; callbacks may come before it is stored. More requests than
 * sequences wait their turn. -E2BIG: longer than the context; -EAGAIN: max_queue
 * are waiting. */
int gp_engine_submit(struct gp_engine *e, const struct gp_request *r, uint32_t *id);
/* Any thread. Ends a request with GP_FINISH_CANCELLED before the next step; its
 * sequence is free from there on. One that has finished is left alone. */
void gp_engine_cancel(struct gp_engine *e, uint32_t id);
/* Runs until every request is finished. Callbacks come from this thread; they
 * may submit and cancel. -EINTR after gp_engine_interrupt: all requests are
 * cancelled. */
int gp_engine_run(struct gp_engine *e);
/* The same, and waits for more, until gp_engine_interrupt: 0. Afterwards all requests
 * have ended, and no more are taken (-ESHUTDOWN). */
int gp_engine_serve(struct gp_engine *e);
/* As it was less than a second ago; any thread, while gp_engine_serve runs. */
void gp_engine_snapshot(struct gp_engine *e, struct gp_engine_stats *s);
/* From a signal handler or any thread. */
void gp_engine_interrupt(struct gp_engine *e);
void gp_engine_stats(struct gp_engine *e, struct gp_engine_stats *s);
/* Forgets counters so far (the hop histogram, tokens, times). */
void gp_engine_stats_reset(struct gp_engine *e);

/* ==== HTTP (coordinator/http/; needs libmicrohttpd) ============================ */
struct gp_serve_options {
	const char *address;        /* numeric; NULL: 127.0.0.1 */
	uint16_t port;              /* 0: any free one */
	const char *key_file;       /* a key a line; NULL: none is asked for, on loopback only */
	const char *model_name;     /* as clients name it */
	uint32_t max_connections;
	uint32_t client_timeout_s;  /* for a request to come, and to take the rest of an answer
	                               that is made; 0: 60 */
	/* Once it listens, with its address. */
	void (*ready)(void *user, const char *url);
	void *user;
};
/* Answers requests (OpenAI's API) until gp_engine_interrupt: 0. The engine is this
 * thread's meanwhile. */
int gp_http_serve(struct gp_engine *e, const struct gp_tokenizer *t,
                  const struct gp_serve_options *o);

#endif

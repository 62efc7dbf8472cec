/* One request from submission to its end. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/engine_internal.h"

static int check_request(const struct gp_engine *e, const struct gp_request *r)
{
	const uint32_t vocab = gp_engine_config(e)->vocab;

	if (!r->n_prompt)
		return gp_fail(EINVAL, "the prompt has no tokens; give at least one");
	if (r->n_prompt > e->plan.context)
		return gp_fail(E2BIG, "the prompt has %zu tokens, the context %u; shorten it or "
			       "raise --ctx", r->n_prompt, e->plan.context);
	if (r->n_top > GP_SLOT_CANDIDATES)
		return gp_fail(EINVAL, "%u likeliest tokens are too many; %u are the most", r->n_top,
			       GP_SLOT_CANDIDATES);
	for (size_t i = 0; i < r->n_prompt; i++)
		if (r->prompt[i] >= vocab)
			return gp_fail(EINVAL, "token id %u at position %zu is not in the "
				       "vocabulary of %u", r->prompt[i], i, vocab);
	for (size_t i = 0; i < r->n_forced; i++)
		if (r->forced[i] != GP_UNFORCED && r->forced[i] >= vocab)
			return gp_fail(EINVAL, "forced token %u at %zu is not in the vocabulary of %u",
				       r->forced[i], i, vocab);
	return 0;
}

static int copy_lists(const struct gp_engine *e, const struct gp_request *r, struct job *j)
{
	uint32_t *stops = calloc(r->n_stops ? r->n_stops : 1, sizeof *stops);

	j->room = (uint32_t)r->n_prompt;
	j->room += r->max_new < e->plan.context - j->room ? r->max_new : e->plan.context - j->room;
	j->tokens = calloc(j->room, sizeof *j->tokens);
	j->request.stops = stops;
	if (!j->tokens || !stops)
		return gp_fail(ENOMEM, "no memory for a request of %u tokens", j->room);
	memcpy(j->tokens, r->prompt, r->n_prompt * sizeof *j->tokens);
	if (r->n_stops)
		memcpy(stops, r->stops, r->n_stops * sizeof *stops);
	j->n_tokens = (uint32_t)r->n_prompt;
	return 0;
}

int gp_job_create(struct gp_engine *e, const struct gp_request *r, struct job **out)
{
	int rc = check_request(e, r);

	if (rc < 0)
		return rc;
	struct job *j = calloc(1, sizeof *j);
	if (!j)
		return gp_fail(ENOMEM, "no memory for a request");
	j->request = *r;
	gp_odds_init(&j->odds);
	if ((rc = copy_lists(e, r, j)) < 0 ||
	    (rc = gp_sampler_create(&j->sampler, &r->sampling, gp_engine_config(e)->vocab)) < 0) {
		gp_job_destroy(j);
		return rc;
	}
	j->request.prompt = NULL; /* the caller's; tokens holds it */
	*out = j;
	return 0;
}

void gp_job_destroy(struct job *j)
{
	if (!j)
		return;
	gp_sampler_destroy(j->sampler);
	free((void *)(uintptr_t)j->request.stops);
	free(j->tokens);
	free(j);
}

/* Nothing else of it is on its way: the row after a guess waits for the guess. */
void gp_job_take_back(struct gp_engine *e, struct job *j, uint32_t pos)
{
	j->n_guessed = 0;
	if (j->sent <= pos)
		return;
	gp_kv_op_push(e, (struct gp_kv_op){ .kind = GP_KV_TRUNCATE, .seq = j->slot, .pos = pos });
	j->sent = pos;
	e->tenures[j->slot]++;
}

void gp_job_finish(struct gp_engine *e, struct job *j, enum gp_finish why)
{
	gp_meter_time(e);
	gp_job_take_back(e, j, j->n_tokens);
	gp_owner_leave(e, j);
	e->n_live--;
	if (j->request.on_done)
		j->request.on_done(j->request.user, why);
	if (j->request.keep) {
		j->state = JOB_KEPT;
		return;
	}
	if (!j->request.on_logits && why < GP_FINISH_CANCELLED)
		gp_prefix_save(e, j, true);
	gp_seat_leave(e, j);
	gp_job_destroy(j);
}

/* ---- rows coming back ---------------------------------------------------------- */

static bool is_scored(const struct job *j, uint32_t pos)
{
	return j->request.on_logits && pos < j->request.n_prompt && pos >= j->scored;
}

bool gp_job_wants_logits(const struct job *j, uint32_t pos)
{
	return is_scored(j, pos) ||
	       (j->request.max_new > j->generated && pos + 1 >= j->n_tokens);
}

uint32_t gp_job_candidates(const struct job *j, uint32_t pos)
{
	return is_scored(j, pos) || j->request.on_logprobs ? 0 : gp_sampler_needs(j->sampler);
}

static bool is_stop(const struct job *j, uint32_t token)
{
	for (size_t i = 0; i < j->request.n_stops; i++)
		if (j->request.stops[i] == token)
			return true;
	return false;
}

/* < 0, or why it is finished now, or GOES_ON. */
enum { GOES_ON = GP_FINISH_FAILED + 1 };

static int generate(struct gp_engine *e, struct job *j, const struct gp_slot_logits *logits)
{
	uint32_t token;
	int rc = gp_sampler_pick(j->sampler, logits, j->tokens, j->n_tokens, &token);

	if (j->generated < j->request.n_forced && j->request.forced[j->generated] != GP_UNFORCED)
		token = j->request.forced[j->generated];
	if (rc == 0 && j->request.on_logprobs)
		rc = gp_logprobs(&j->request, logits->row, gp_engine_config(e)->vocab, token);
	if (rc < 0)
		return rc;
	gp_meter_time(e);
	gp_guess_verify(e, j, token);
	e->generated_tokens++;
	e->decoded_tokens += j->generated++ > 0;
	atomic_store(&e->pool->progressed, true);
	const bool stop = is_stop(j, token);
	const bool enough = j->request.on_token && j->request.on_token(j->request.user, token, stop);
	if (stop || enough)
		return GP_FINISH_STOP;
	if (j->n_tokens == e->plan.context)
		return GP_FINISH_CONTEXT;
	j->tokens[j->n_tokens++] = token;
	return j->generated >= j->request.max_new ? GP_FINISH_LENGTH : GOES_ON;
}

static int score(struct gp_engine *e, struct job *j, uint32_t pos, const float *row)
{
	if (!row)
		return gp_fail(EPROTO, "position %u came back without its whole row of logits; a "
			       "worker changed what was asked", pos);
	j->scored = pos + 1;
	atomic_store(&e->pool->progressed, true);
	j->request.on_logits(j->request.user, pos, row);
	return 0;
}

uint32_t gp_job_see(struct job *j, uint32_t n)
{
	const uint32_t most = n < j->request.n_prompt ? n : (uint32_t)j->request.n_prompt;
	const uint32_t more = most > j->seen ? most - j->seen : 0;

	j->seen += more;
	return more;
}

int gp_job_row_back(struct gp_engine *e, struct job *j, uint32_t pos,
		    const struct gp_slot_logits *logits)
{
	int rc = 0;

	if (pos != j->back || pos >= j->sent)
		return gp_fail(EPROTO, "position %u came back, %u was due; a worker reordered rows",
			       pos, j->back);
	j->back++;
	e->prompt_tokens += gp_job_see(j, j->back);
	if (logits && is_scored(j, pos) && (rc = score(e, j, pos, logits->row)) < 0)
		return rc;
	if (j->back < j->n_tokens)
		return 0;
	if (j->request.max_new <= j->generated)
		rc = GP_FINISH_LENGTH;
	else
		rc = logits ? generate(e, j, logits) : GOES_ON;
	/* While serving, what fails one request is not to fail the others. */
	if (rc < 0 && atomic_load(&e->serving))
		rc = GP_FINISH_FAILED;
	if (rc < 0 || rc == GOES_ON)
		return rc < 0 ? rc : 0;
	gp_job_finish(e, j, (enum gp_finish)rc);
	return 0;
}

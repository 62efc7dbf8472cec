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
	for (size_t i = 0; i < r->n_prompt; i++)
		if (r->prompt[i] >= vocab)
			return gp_fail(EINVAL, "token id %u at position %zu is not in the "
				       "vocabulary of %u", r->prompt[i], i, vocab);
	return 0;
}

static int copy_lists(const struct gp_engine *e, const struct gp_request *r, struct job *j)
{
	uint32_t *stops = calloc(r->n_stops ? r->n_stops : 1, sizeof *stops);

	j->tokens = calloc(e->plan.context, sizeof *j->tokens);
	j->request.stops = stops;
	if (!j->tokens || !stops)
		return gp_fail(ENOMEM, "no memory for a request of %u tokens", e->plan.context);
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
	if ((rc = copy_lists(e, r, j)) < 0 ||
	    (rc = gp_sampler_create(&j->sampler, &r->sampling, gp_engine_config(e)->vocab)) < 0) {
		gp_job_destroy(j);
		return rc;
	}
	j->request.prompt = NULL; /* the caller's; tokens holds it */
	j->id = ++e->next_id;
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

/* ---- slots ------------------------------------------------------------------ */

/* Room for every slot's drop and truncate was made when the engine was. */
static void push_op(struct gp_engine *e, enum gp_kv_op_kind kind, uint32_t seq, uint32_t pos)
{
	e->ops[e->n_ops++] = (struct gp_kv_op){ .kind = kind, .seq = seq, .pos = pos };
}

static uint32_t common_prefix(const struct job *a, const struct job *b, uint32_t most)
{
	uint32_t n = 0;

	while (n < most && a->tokens[n] == b->tokens[n])
		n++;
	return n;
}

/* The kept sequence's tokens stay in the workers' caches as far as they agree
 * with the new prompt; the prompt's last token always runs, for its logits. */
static void take_over(struct gp_engine *e, struct job *j, struct job *kept)
{
	const uint32_t most = kept->sent < j->n_tokens - 1 ? kept->sent : j->n_tokens - 1;
	uint32_t same = j->request.on_logits ? 0 : common_prefix(j, kept, most);

	if (kept->sent - same > GP_KV_SLACK)
		same = 0; /* local layers have forgotten the window before it */
	if (kept->sent && !same)
		push_op(e, GP_KV_DROP, kept->slot, 0);
	else if (same < kept->sent)
		push_op(e, GP_KV_TRUNCATE, kept->slot, same);
	j->slot = kept->slot;
	j->sent = j->back = same;
	gp_job_destroy(kept);
}

static struct job *find_kept(const struct gp_engine *e, uint32_t id)
{
	for (uint32_t i = 0; id && i < e->plan.max_sequences; i++)
		if (e->slots[i] && e->slots[i]->state == JOB_KEPT && e->slots[i]->id == id)
			return e->slots[i];
	return NULL;
}

static struct job *oldest_kept(const struct gp_engine *e)
{
	struct job *oldest = NULL;

	for (uint32_t i = 0; i < e->plan.max_sequences; i++) {
		struct job *j = e->slots[i];

		if (j && j->state == JOB_KEPT && (!oldest || j->id < oldest->id))
			oldest = j;
	}
	return oldest;
}

static bool find_free(const struct gp_engine *e, uint32_t *slot)
{
	for (uint32_t i = 0; i < e->plan.max_sequences; i++) {
		if (!e->slots[i]) {
			*slot = i;
			return true;
		}
	}
	return false;
}

bool gp_job_seat(struct gp_engine *e, struct job *j)
{
	struct job *kept = find_kept(e, j->request.reuse);
	const bool is_free = !kept && find_free(e, &j->slot);

	if (!kept && !is_free)
		kept = oldest_kept(e);
	if (!kept && !is_free)
		return false;
	gp_meter_time(e);
	if (kept)
		take_over(e, j, kept); /* frees it; its slot is j's from here on */
	e->slots[j->slot] = j;
	j->state = JOB_LIVE;
	return true;
}

void gp_job_leave_when_idle(struct gp_engine *e, struct job *j)
{
	if (j->state != JOB_LEAVING || j->back != j->sent)
		return;
	if (j->sent)
		push_op(e, GP_KV_DROP, j->slot, 0);
	e->slots[j->slot] = NULL;
	gp_job_destroy(j);
}

void gp_job_finish(struct gp_engine *e, struct job *j, enum gp_finish why)
{
	gp_meter_time(e);
	j->state = j->request.keep && j->back == j->sent ? JOB_KEPT : JOB_LEAVING;
	if (j->request.on_done)
		j->request.on_done(j->request.user, why);
}

/* ---- rows coming back ---------------------------------------------------------- */

static bool is_scored(const struct job *j, uint32_t pos)
{
	return j->request.on_logits && pos < j->request.n_prompt && pos >= j->scored;
}

bool gp_job_wants_logits(const struct job *j, uint32_t pos)
{
	return is_scored(j, pos) ||
	       (j->request.max_new > j->generated && pos + 1 == j->n_tokens);
}

uint32_t gp_job_candidates(const struct job *j, uint32_t pos)
{
	return is_scored(j, pos) ? 0 : gp_sampler_needs(j->sampler);
}

static bool is_stop(const struct job *j, uint32_t token)
{
	for (size_t i = 0; i < j->request.n_stops; i++)
		if (j->request.stops[i] == token)
			return true;
	return false;
}

static int generate(struct gp_engine *e, struct job *j, const struct gp_slot_logits *logits)
{
	uint32_t token;
	const int rc = gp_sampler_pick(j->sampler, logits, j->tokens, j->n_tokens, &token);

	if (rc < 0)
		return rc;
	gp_meter_time(e);
	e->generated_tokens++;
	e->decoded_tokens += j->generated++ > 0;
	atomic_store(&e->pool->progressed, true);
	const bool stop = is_stop(j, token);
	const bool enough = j->request.on_token && j->request.on_token(j->request.user, token, stop);
	if (stop || enough) {
		gp_job_finish(e, j, GP_FINISH_STOP);
	} else if (j->n_tokens == e->plan.context) {
		gp_job_finish(e, j, GP_FINISH_CONTEXT);
	} else {
		j->tokens[j->n_tokens++] = token;
		if (j->generated >= j->request.max_new)
			gp_job_finish(e, j, GP_FINISH_LENGTH);
	}
	return 0;
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

int gp_job_row_back(struct gp_engine *e, struct job *j, uint32_t pos,
		    const struct gp_slot_logits *logits)
{
	int rc = 0;

	if (pos != j->back || pos >= j->sent)
		return gp_fail(EPROTO, "position %u came back, %u was due; a worker reordered rows",
			       pos, j->back);
	j->back++;
	e->prompt_tokens += pos < j->request.n_prompt && j->generated == 0;
	if (j->state == JOB_LIVE && logits && is_scored(j, pos))
		rc = score(e, j, pos, logits->row);
	if (rc < 0)
		return rc;
	if (j->state == JOB_LIVE && j->back == j->n_tokens) {
		if (j->request.max_new <= j->generated)
			gp_job_finish(e, j, GP_FINISH_LENGTH);
		else if (logits)
			rc = generate(e, j, logits);
	}
	gp_job_leave_when_idle(e, j);
	return rc;
}

/* Who holds which sequence slot. */
#include "coordinator/engine_internal.h"

/* Between two steps a slot is taken once and left once at most, for what has not been sent
 * needs no drop, its last owner's wrong guesses are taken back once, and what it has may be kept as a prefix before either. The plan has room
 * for that, and for each prefix to go and to come. */
static void push_op(struct gp_engine *e, enum gp_kv_op_kind kind, uint32_t seq, uint32_t pos)
{
	gp_kv_op_push(e, (struct gp_kv_op){ .kind = kind, .seq = seq, .pos = pos });
}

/* The kept sequence's tokens stay in the workers' caches as far as they agree
 * with the new prompt; the prompt's last token always runs, for its logits. */
static void take_over(struct gp_engine *e, struct job *j, struct job *kept)
{
	const uint32_t most = kept->sent < j->n_tokens - 1 ? kept->sent : j->n_tokens - 1;
	uint32_t same = j->request.on_logits ? 0 : gp_same_tokens(j->tokens, kept->tokens, most);

	if (!gp_kv_check(e->kv, kept->slot, same))
		same = 0; /* local layers have forgotten the window before it */
	if (kept->sent && !same)
		push_op(e, GP_KV_DROP, kept->slot, 0);
	else if (same < kept->sent)
		push_op(e, GP_KV_TRUNCATE, kept->slot, same);
	j->slot = kept->slot;
	j->sent = j->back = same;
	gp_job_see(j, same);
	j->draft_id = kept->draft_id;
	gp_job_destroy(kept);
}

static struct job *find_kept(const struct gp_engine *e, uint32_t id)
{
	for (uint32_t i = 0; id && i < e->plan.max_sequences; i++)
		if (e->slots[i] && e->slots[i]->state == JOB_KEPT && e->slots[i]->id == id)
			return e->slots[i];
	return NULL;
}

static struct job *oldest_kept(const struct gp_engine *e, uint32_t except)
{
	struct job *oldest = NULL;

	for (uint32_t i = 0; i < e->plan.max_sequences; i++) {
		struct job *j = e->slots[i];

		if (j && j->state == JOB_KEPT && j->id != except && (!oldest || j->id < oldest->id))
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

/* ---- room in the KV cache ---------------------------------------------------- */

static uint32_t blocks_for(uint32_t positions)
{
	return positions / GP_KV_BLOCK + (positions % GP_KV_BLOCK != 0);
}

uint32_t gp_seats_held(const struct gp_engine *e)
{
	return gp_kv_blocks_used(e->kv, GP_KV_GLOBAL);
}

bool gp_begins_block(const struct gp_engine *e, const struct job *j)
{
	/* Rows of the step in the making are not in the books yet; they make the last block its own. */
	if (j->sent != gp_kv_length(e->kv, j->slot))
		return j->sent % GP_KV_BLOCK == 0;
	return gp_kv_begins_block(e->kv, j->slot);
}

/* What it holds or soon will, with some room to go on. */
static uint32_t claim(const struct job *j)
{
	const uint32_t soon = blocks_for(j->n_tokens) + 1, most = blocks_for(j->room);

	if (j->state == JOB_KEPT)
		return blocks_for(j->sent);
	return soon < most ? soon : most;
}

static bool fits(const struct gp_engine *e, const struct job *j)
{
	uint64_t n = claim(j);

	for (uint32_t i = 0; i < e->plan.max_sequences; i++)
		n += e->slots[i] && (!j->request.reuse || e->slots[i]->id != j->request.reuse)
			     ? claim(e->slots[i]) : 0;
	return n <= e->plan.kv_blocks;
}

bool gp_seat_possible(const struct gp_engine *e, const struct job *j)
{
	uint64_t n = claim(j);
	uint32_t sequences = 1;

	for (uint32_t i = 0; i < e->plan.max_sequences; i++) {
		if (!gp_is_live(e->slots[i]) || e->slots[i]->request.priority < j->request.priority)
			continue;
		n += claim(e->slots[i]);
		sequences++;
	}
	return n <= e->plan.kv_blocks && sequences <= e->plan.max_sequences;
}

static bool evict_kept(struct gp_engine *e, uint32_t except)
{
	struct job *kept = oldest_kept(e, except);

	if (!kept)
		return false;
	gp_seat_leave(e, kept);
	gp_job_destroy(kept);
	return true;
}

uint32_t gp_seats_needed(const struct gp_engine *e)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < e->plan.max_sequences; i++) {
		const struct job *j = e->slots[i];

		n += gp_is_live(j) && j->sent < j->n_tokens && gp_begins_block(e, j);
	}
	return n;
}

uint32_t gp_seats_make_room(struct gp_engine *e)
{
	while (gp_seats_held(e) + gp_seats_needed(e) > e->plan.kv_blocks) {
		if (gp_prefix_evict(e) || evict_kept(e, 0))
			continue;
		if (e->n_live <= 1)
			break;
		gp_seat_preempt(e, gp_seat_least(e));
	}
	return e->plan.kv_blocks - gp_seats_held(e);
}

/* ---- coming and going -------------------------------------------------------- */

bool gp_seat_take(struct gp_engine *e, struct job *j)
{
	struct job *kept = find_kept(e, j->request.reuse);

	while (!fits(e, j))
		if (!evict_kept(e, kept ? kept->id : 0))
			return false;
	const bool is_free = !kept && find_free(e, &j->slot);

	if (!kept && !is_free)
		kept = oldest_kept(e, 0);
	if (!kept && !is_free)
		return false;
	gp_meter_time(e);
	if (kept)
		take_over(e, j, kept); /* frees it; its slot is j's from here on */
	e->slots[j->slot] = j;
	e->tenures[j->slot]++;
	e->n_live++;
	j->state = JOB_LIVE;
	return true;
}

void gp_seat_leave(struct gp_engine *e, struct job *j)
{
	if (j->sent)
		push_op(e, GP_KV_DROP, j->slot, 0);
	e->slots[j->slot] = NULL;
	e->tenures[j->slot]++;
	j->sent = j->back = j->saved = j->n_guessed = 0;
}

void gp_seat_preempt(struct gp_engine *e, struct job *j)
{
	gp_meter_time(e);
	e->n_live--;
	e->preempted++;
	gp_seat_leave(e, j);
	gp_inbox_count(e, 1);
	gp_queue_put(e, j);
}

struct job *gp_seat_least(const struct gp_engine *e)
{
	struct job *least = NULL;

	for (uint32_t i = 0; i < e->plan.max_sequences; i++) {
		struct job *j = e->slots[i];

		if (!gp_is_live(j))
			continue;
		if (!least || j->request.priority < least->request.priority ||
		    (j->request.priority == least->request.priority && j->id > least->id))
			least = j;
	}
	return least;
}

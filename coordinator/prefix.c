/* Beginnings of sequences that are kept in the KV caches, for those that begin alike. Each
 * has a sequence slot behind those of the live ones; its blocks are shared with whoever
 * began with it or left it. It can be gone on from where it ends, and from a little before
 * that: local layers hold only a window.
 *
 * What goes first for a new one: pieces of prompts that nobody began with yet, and ends of
 * turns of conversations that have gone on; the oldest of them. So one long prompt does not
 * push out the ends from which others will go on. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/engine_internal.h"

#define LEAST 64u               /* tokens; fewer are computed as fast */

struct prefix {
	uint32_t *tokens, n;    /* n 0: free */
	uint64_t used, tenant;
	uint32_t begun;         /* so many began with it */
	bool is_end, is_cheap;  /* an answer ended there; goes before all that are not cheap */
};

int gp_prefix_create(struct gp_engine *e)
{
	e->prefixes = calloc(e->plan.prefixes + 1u, sizeof *e->prefixes);
	return e->prefixes ? 0 : gp_fail(ENOMEM, "no memory for %u prefixes", e->plan.prefixes);
}

void gp_prefix_forget(struct gp_engine *e)
{
	for (uint32_t i = 0; e->prefixes && i < e->plan.prefixes; i++) {
		free(e->prefixes[i].tokens);
		e->prefixes[i] = (struct prefix){ 0 };
	}
}

void gp_prefix_destroy(struct gp_engine *e)
{
	gp_prefix_forget(e);
	free(e->prefixes);
}

static uint32_t slot_of(const struct gp_engine *e, uint32_t i)
{
	return e->plan.max_sequences + i;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

uint32_t gp_same_tokens(const uint32_t *a, const uint32_t *b, uint32_t most)
{
	uint32_t n = 0;

	/* Most differ early or not at all. */
	if (most && memcmp(a, b, most * sizeof *a) == 0)
		return most;
	while (n < most && a[n] == b[n])
		n++;
	return n;
}

/* How much of it the job can begin with; the last token always runs, for its logits. */
static uint32_t usable(const struct gp_engine *e, uint32_t i, const struct job *j)
{
	const struct prefix *p = &e->prefixes[i];
	uint32_t n = 0;

	if (p->tenant == j->request.tenant)
		n = gp_same_tokens(p->tokens, j->tokens, smaller(p->n, j->n_tokens - 1));
	return n >= LEAST && gp_kv_check(e->kv, slot_of(e, i), n) ? n : 0;
}

void gp_prefix_use(struct gp_engine *e, struct job *j)
{
	uint32_t best = 0, best_n = 0;

	for (uint32_t i = 0; i < e->plan.prefixes && !j->request.on_logits; i++) {
		const uint32_t n = e->prefixes[i].n > best_n ? usable(e, i, j) : 0;

		if (n > best_n) {
			best = i;
			best_n = n;
		}
	}
	if (!best_n)
		return;
	e->prefixes[best].used = ++e->prefix_clock;
	e->prefixes[best].is_cheap = false;
	e->prefixes[best].begun++;
	e->prefix_tokens += gp_job_see(j, best_n);
	gp_kv_op_push(e, (struct gp_kv_op){ .kind = GP_KV_COPY, .seq = j->slot,
					    .src = slot_of(e, best), .pos = best_n });
	j->sent = j->back = j->saved = best_n;
}

/* Is a worth less than b? */
static bool goes_before(const struct prefix *a, const struct prefix *b)
{
	return a->is_cheap != b->is_cheap ? a->is_cheap : a->used < b->used;
}

static struct prefix *find_free(const struct gp_engine *e)
{
	for (uint32_t i = 0; i < e->plan.prefixes; i++)
		if (!e->prefixes[i].n)
			return &e->prefixes[i];
	return NULL;
}

/* NULL: there is none. */
static struct prefix *least_worth(const struct gp_engine *e)
{
	struct prefix *least = NULL;

	for (uint32_t i = 0; i < e->plan.prefixes; i++)
		if (e->prefixes[i].n && (!least || goes_before(&e->prefixes[i], least)))
			least = &e->prefixes[i];
	return least;
}

static bool begins_with(const struct job *j, const struct prefix *p)
{
	return p->n < j->sent && p->tenant == j->request.tenant &&
	       memcmp(p->tokens, j->tokens, p->n * sizeof *p->tokens) == 0;
}

/* The conversation goes on from its new end. Where several began it is no one's own. */
static void supersede(struct gp_engine *e, const struct job *j)
{
	for (uint32_t i = 0; i < e->plan.prefixes; i++)
		e->prefixes[i].is_cheap |= e->prefixes[i].is_end && e->prefixes[i].begun <= 1 &&
					   begins_with(j, &e->prefixes[i]);
}

static struct prefix *find_same(const struct gp_engine *e, const struct job *j)
{
	for (uint32_t i = 0; i < e->plan.prefixes; i++) {
		struct prefix *p = &e->prefixes[i];

		if (p->n == j->sent && p->tenant == j->request.tenant &&
		    memcmp(p->tokens, j->tokens, p->n * sizeof *p->tokens) == 0)
			return p;
	}
	return NULL;
}

void gp_prefix_save(struct gp_engine *e, const struct job *j, bool is_end)
{
	if (!e->plan.prefixes || j->sent < LEAST)
		return;
	struct prefix *p = find_same(e, j);
	/* Without memory for it this one is not kept. */
	uint32_t *tokens = p ? NULL : malloc(j->sent * sizeof *tokens);

	if (p)
		p->used = ++e->prefix_clock;
	if (!tokens)
		return;
	if (is_end)
		supersede(e, j);
	if (!(p = find_free(e)))
		p = least_worth(e);
	free(p->tokens);
	memcpy(tokens, j->tokens, j->sent * sizeof *tokens);
	*p = (struct prefix){ .tokens = tokens, .n = j->sent, .used = ++e->prefix_clock,
			      .tenant = j->request.tenant, .is_end = is_end, .is_cheap = !is_end };
	gp_kv_op_push(e, (struct gp_kv_op){ .kind = GP_KV_COPY, .src = j->slot, .pos = j->sent,
					    .seq = slot_of(e, (uint32_t)(p - e->prefixes)) });
}

bool gp_prefix_evict(struct gp_engine *e)
{
	struct prefix *p = least_worth(e);

	if (!p)
		return false;
	gp_kv_op_push(e, (struct gp_kv_op){ .kind = GP_KV_DROP,
					    .seq = slot_of(e, (uint32_t)(p - e->prefixes)) });
	free(p->tokens);
	*p = (struct prefix){ 0 };
	return true;
}

bool gp_prefix_comes(const struct gp_engine *e, const struct job *j)
{
	for (uint32_t i = 0; i < e->plan.max_sequences && e->plan.prefixes && !j->request.on_logits; i++) {
		const struct job *o = e->slots[i];

		if (!gp_is_live(o) || o == j || gp_in_decode(o) || o->request.on_logits ||
		    o->request.tenant != j->request.tenant ||
		    o->request.priority < j->request.priority || !(o->sent || gp_goes_first(o, j)))
			continue;
		/* Of j's last token the logits are wanted, so it is computed in any case. */
		const uint32_t same = gp_same_tokens(o->tokens, j->tokens,
						     smaller(o->n_tokens, j->n_tokens - 1));
		if (o->sent / GP_PREFIX_EVERY < same / GP_PREFIX_EVERY)
			return true;
	}
	return false;
}

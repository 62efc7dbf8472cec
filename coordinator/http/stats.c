/* What the page's live view reads: counters as they stand. Whoever asks twice has rates. */
#include "coordinator/http/http.h"

static json_t *describe_stage(const struct server *s, const struct gp_engine_stats *e, uint32_t k)
{
	const struct gp_stage_stats *g = &e->stage[k];
	const uint64_t weights = gp_model_bytes(gp_engine_model(s->engine), g->first_layer, g->end_layer,
						k + 1 == e->n_stages);

	return json_pack("{s:s, s:s, s:[I,I], s:I, s:I, s:I, s:I, s:I, s:I}", "device", g->device,
			 "description", g->description, "layers", (json_int_t)g->first_layer,
			 (json_int_t)g->end_layer - 1, "memory_bytes", (json_int_t)g->memory_bytes,
			 "weight_bytes", (json_int_t)weights, "steps", (json_int_t)g->steps, "rows",
			 (json_int_t)g->rows, "busy_us", (json_int_t)(g->busy_ns / 1000), "restarts",
			 (json_int_t)g->restarts);
}

json_t *stats_json(struct server *s)
{
	const struct gp_plan *p = gp_engine_plan(s->engine);
	struct gp_engine_stats e;
	json_t *stages = json_array();

	gp_engine_snapshot(s->engine, &e);
	for (uint32_t k = 0; k < e.n_stages; k++)
		json_array_append_new(stages, describe_stage(s, &e, k));
	return json_pack(
		"{s:I, s:I, s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I}, s:{s:I, s:I}, s:{s:I, s:I, s:I}, s:I, s:o}",
		"at_us", (json_int_t)(e.taken_ns / 1000),
		"connections", (json_int_t)atomic_load(&s->metrics.connections),
		"sequences", "live", (json_int_t)e.live, "most", (json_int_t)p->max_sequences,
		"queued", (json_int_t)e.queued,
		"tokens", "prompt", (json_int_t)e.prompt_tokens, "prefix", (json_int_t)e.prefix_tokens,
		"generated", (json_int_t)e.generated_tokens,
		"guesses", "proposed", (json_int_t)(e.looked_up.proposed + e.drafted.proposed),
		"accepted", (json_int_t)(e.looked_up.accepted + e.drafted.accepted),
		"kv", "blocks", (json_int_t)e.kv_blocks, "held", (json_int_t)e.kv_blocks_held,
		"block_positions", (json_int_t)GP_KV_BLOCK,
		"preempted", (json_int_t)e.preempted,
		"stages", stages);
}

/* Which layers run where, and how large a step may be. */
#include <ctype.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "coordinator/coordinator.h"

#define DEFAULT_CONTEXT 8192u
#define DEFAULT_ROWS 512u
#define LEAST_LOGIT_ROWS 32u
#define LOGIT_BYTES (8u << 20) /* a step's logits, where more than LEAST_LOGIT_ROWS fit */
#define MOST_PREFIXES 16u
#define LEAST_PREFIXES 2u
#define PREFIX_BYTES ((uint64_t)3 << 30)

static uint32_t count_cpus(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof set, &set) != 0)
		return 1;
	return (uint32_t)CPU_COUNT(&set);
}

/* A number at *p; moves past it. */
static int parse_number(const char **p, uint32_t *out)
{
	char *end;

	if (!isdigit((unsigned char)**p))
		return -EINVAL;
	errno = 0;
	const unsigned long v = strtoul(*p, &end, 10);
	if (errno || v > UINT32_MAX - 1)
		return -EINVAL;
	*p = end;
	*out = (uint32_t)v;
	return 0;
}

static int parse_device(const char **p, struct gp_plan_stage *s)
{
	const size_t n = strcspn(*p, "[:,=");

	if (!n || n >= sizeof s->device)
		return -EINVAL;
	memcpy(s->device, *p, n);
	s->device[n] = '\0';
	*p += n;
	if (**p == '[') {
		++*p;
		if (parse_number(p, &s->device_index) < 0 || **p != ']')
			return -EINVAL;
		++*p;
	}
	s->external = strcmp(s->device, "external") == 0;
	return 0;
}

/* "cpu:0-20" or "cpu:5" at *p; moves past it. */
static int parse_stage(const char **p, struct gp_plan_stage *s)
{
	uint32_t last;

	*s = (struct gp_plan_stage){ 0 };
	if (parse_device(p, s) < 0 || **p != ':')
		return -EINVAL;
	++*p;
	if (parse_number(p, &s->first_layer) < 0)
		return -EINVAL;
	last = s->first_layer;
	if (**p == '-') {
		++*p;
		if (parse_number(p, &last) < 0)
			return -EINVAL;
	}
	s->end_layer = last + 1;
	return **p == '\0' || **p == ',' ? 0 : -EINVAL;
}

static int parse_stages(struct gp_plan *plan, const char *text)
{
	const char *p = text;

	for (;;) {
		if (plan->n_stages == GP_MAX_STAGES)
			return gp_fail(EINVAL, "--stages: more than %u stages", GP_MAX_STAGES);
		if (parse_stage(&p, &plan->stage[plan->n_stages]) < 0)
			return gp_fail(EINVAL, "--stages '%s': stage %u is not DEVICE:FIRST-LAST, "
				       "such as cpu:0-5,external:6-11", text, plan->n_stages + 1);
		plan->n_stages++;
		if (!*p)
			return 0;
		p++;
	}
}

static int check_device(const struct gp_plan_stage *s)
{
	if (strcmp(s->device, "vulkan") == 0)
		return 0;
	if (s->device_index)
		return gp_fail(ENODEV, "--stages: %s[%u]: only vulkan devices are numbered; leave out "
			       "the number", s->device, s->device_index);
	if (s->external || strcmp(s->device, "cpu") == 0 || strcmp(s->device, "npu") == 0)
		return 0;
	return gp_fail(EINVAL, "--stages: device '%s' is unknown; there are cpu, vulkan, npu and "
		       "external", s->device);
}

static int check_layers(const struct gp_plan *plan, uint32_t n_layers)
{
	uint32_t next = 0;
	int rc;

	for (uint32_t i = 0; i < plan->n_stages; i++) {
		const struct gp_plan_stage *s = &plan->stage[i];
		const uint32_t last = s->end_layer - 1;

		if ((rc = check_device(s)) < 0)
			return rc;
		if (last < s->first_layer)
			return gp_fail(EINVAL, "--stages: layers %u-%u run backwards",
				       s->first_layer, last);
		if (s->first_layer < next)
			return gp_fail(EINVAL, "--stages: layer %u stands in two stages; stage %u "
				       "must begin with layer %u", s->first_layer, i, next);
		if (s->first_layer > next)
			return gp_fail(EINVAL, "--stages: layer %u stands in no stage; stage %u "
				       "must begin with it", next, i);
		if (s->end_layer > n_layers)
			return gp_fail(EINVAL, "--stages: layer %u does not exist; the model has "
				       "layers 0-%u", last, n_layers - 1);
		next = s->end_layer;
	}
	if (next < n_layers)
		return gp_fail(EINVAL, "--stages: layers %u-%u stand in no stage", next,
			       n_layers - 1);
	return 0;
}

/* CPU workers share the cores evenly, side by side. External ones stand
 * on this machine too. */
static void share_cpus(struct gp_plan *plan, uint32_t threads, uint32_t n_cpus)
{
	const uint32_t each = n_cpus / plan->n_stages ? n_cpus / plan->n_stages : 1;
	uint32_t next = 0;

	for (uint32_t i = 0; i < plan->n_stages; i++) {
		plan->stage[i].threads = threads ? threads : each;
		plan->stage[i].first_cpu = next % n_cpus;
		next += plan->stage[i].threads;
	}
}

/* ---- memory ---------------------------------------------------------------- */

static bool is_on(const struct gp_plan_stage *s, const struct gp_plan_stage *device)
{
	return strcmp(s->device, device->device) == 0 && s->device_index == device->device_index;
}

static uint64_t weights_of(const struct gp_plan *plan, uint32_t i, const struct gp_model *m)
{
	const struct gp_stage_shape s = {
		.first_layer = plan->stage[i].first_layer, .end_layer = plan->stage[i].end_layer,
		.embeds = i == 0, .has_head = i + 1 == plan->n_stages,
	};

	return gp_stage_weights(m, &s, NULL, NULL);
}

/* A device's limit is shared among its stages by the bytes of their weights. */
static int share_memory(struct gp_plan *plan, const struct gp_plan_stage *limit,
			 const struct gp_model *m)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < plan->n_stages; i++)
		if (is_on(&plan->stage[i], limit))
			sum += plan->stage[i].memory_bytes ? 0 : weights_of(plan, i, m);
	if (!sum)
		return gp_fail(EINVAL, "--device-memory: no stage is on %s[%u], or it is there "
			       "twice; see --stages",
			       limit->device, limit->device_index);
	for (uint32_t i = 0; i < plan->n_stages; i++)
		if (is_on(&plan->stage[i], limit))
			plan->stage[i].memory_bytes = (uint64_t)((double)limit->memory_bytes *
				(double)weights_of(plan, i, m) / (double)sum) + 1;
	return 0;
}

/* "vulkan[1]=8G" at *p; moves past it. */
static int parse_limit(const char **p, struct gp_plan_stage *s)
{
	*s = (struct gp_plan_stage){ 0 };
	if (parse_device(p, s) < 0 || **p != '=')
		return -EINVAL;
	++*p;
	if (gp_scan_size(p, &s->memory_bytes) < 0 || !s->memory_bytes)
		return -EINVAL;
	return **p == '\0' || **p == ',' ? 0 : -EINVAL;
}

static int limit_memory(struct gp_plan *plan, const char *text, const struct gp_model *m)
{
	struct gp_plan_stage limit;
	int rc = 0;

	for (const char *p = text; p && *p && rc == 0; p += *p == ',') {
		if (parse_limit(&p, &limit) < 0 || strcmp(p, ",") == 0)
			return gp_fail(EINVAL, "--device-memory '%s': is not DEVICE=SIZE,... such as "
				       "vulkan=16G,vulkan[1]=512M", text);
		if (strcmp(limit.device, "vulkan") != 0 && strcmp(limit.device, "npu") != 0)
			return gp_fail(EINVAL, "--device-memory: %s: only vulkan and npu devices have a "
				       "limit; use ulimit -v for the others", limit.device);
		rc = share_memory(plan, &limit, m);
	}
	return rc;
}

static int choose_context(struct gp_plan *plan, uint32_t asked, uint32_t trained)
{
	if (asked > trained)
		return gp_fail(EINVAL, "--ctx %u: the model was trained for %u positions", asked,
			       trained);
	plan->context = asked ? asked : trained < DEFAULT_CONTEXT ? trained : DEFAULT_CONTEXT;
	return 0;
}

static enum gp_type default_kv_type(const struct gp_model *m)
{
	const enum gp_type t = gp_model_main_type(m);

	return t == GP_TYPE_F32 || t == GP_TYPE_BF16 ? GP_TYPE_F32 : GP_TYPE_F16;
}

static uint32_t logit_rows(uint32_t max_rows, uint32_t vocab)
{
	const uint32_t fit = LOGIT_BYTES / ((uint32_t)sizeof(float) * vocab);
	const uint32_t rows = fit > LEAST_LOGIT_ROWS ? fit : LEAST_LOGIT_ROWS;

	return rows < max_rows ? rows : max_rows;
}

/* One slot more than there are stages keeps every stage busy; rings hold that. */
static uint32_t slots_for(uint32_t n_stages)
{
	uint32_t n = 2;

	while (n < n_stages + 1)
		n *= 2;
	return n;
}

static uint32_t blocks_for(uint64_t positions)
{
	const uint64_t n = (positions + GP_KV_BLOCK - 1) / GP_KV_BLOCK;

	return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

/* One sequence of the whole context always fits, so that all get on. */
static int choose_kv(struct gp_plan *p, uint64_t tokens)
{
	const uint64_t all = (uint64_t)p->max_sequences * blocks_for(p->context);

	if (tokens && tokens < p->context)
		return gp_fail(EINVAL, "--kv-tokens %llu: less than the context of %u; raise it or "
			       "lower --ctx", (unsigned long long)tokens, p->context);
	p->kv_blocks = blocks_for(tokens && tokens < all * GP_KV_BLOCK ? tokens : all * GP_KV_BLOCK);
	return 0;
}

static uint32_t local_blocks(const struct gp_plan *p, const struct gp_config *c, uint32_t sequences)
{
	const struct gp_kv_limits l = { .max_sequences = sequences, .context = p->context,
					.window = c->window, .has_kind = { true, true } };

	return gp_kv_most_blocks(&l, p->max_rows, GP_KV_LOCAL);
}

/* What the local layers keep of one more sequence. What global ones keep of a prefix, others
 * that begin with it need too. */
static uint64_t window_bytes(const struct gp_plan *p, const struct gp_config *c)
{
	const uint64_t blocks = local_blocks(p, c, 2) - local_blocks(p, c, 1);
	uint32_t n_local = 0;
	size_t bytes;

	if (gp_type_bytes(p->kv_type, GP_KV_BLOCK, (uint64_t)c->n_kv_heads * c->head_dim, &bytes) < 0)
		return UINT64_MAX;
	for (uint32_t l = 0; l < c->n_layers; l++)
		n_local += !c->is_global[l];
	return blocks * n_local * 2 * bytes; /* keys and values */
}

static uint32_t choose_prefixes(const struct gp_plan *p, const struct gp_config *c, uint32_t wanted)
{
	if (wanted != GP_PREFIXES_AUTO)
		return wanted;
	const uint64_t each = window_bytes(p, c), fit = each ? PREFIX_BYTES / each : MOST_PREFIXES;

	return fit < LEAST_PREFIXES ? LEAST_PREFIXES : fit > MOST_PREFIXES ? MOST_PREFIXES :
	       (uint32_t)fit;
}

/* Without --stages: one CPU stage, whose last layers can be an NPU stage. */
static int choose_stages(struct gp_plan *p, uint32_t n_layers, uint32_t npu_layers)
{
	if (npu_layers > n_layers)
		return gp_fail(EINVAL, "--npu-layers %u: the model has only %u", npu_layers, n_layers);
	if (npu_layers < n_layers)
		p->stage[p->n_stages++] = (struct gp_plan_stage){
			.device = "cpu", .end_layer = n_layers - npu_layers };
	if (npu_layers)
		p->stage[p->n_stages++] = (struct gp_plan_stage){
			.device = "npu", .first_layer = n_layers - npu_layers, .end_layer = n_layers };
	return 0;
}

/* --npu says which device all npu stages have. */
static int choose_npu(struct gp_plan *p, const char *npu)
{
	uint32_t n = 0;

	if (!npu)
		return 0;
	if (strcmp(npu, "sim") != 0)
		return gp_fail(EINVAL, "--npu '%s': must be sim, or left out for the real one", npu);
	for (uint32_t i = 0; i < p->n_stages; i++)
		if (strcmp(p->stage[i].device, "npu") == 0)
			p->stage[i].simulated = true, n++;
	return n ? 0 : gp_fail(EINVAL, "--npu sim: no stage is on an npu; see --stages and "
			       "--npu-layers");
}

int gp_plan_make(struct gp_plan *p, const struct gp_plan_request *r, const struct gp_model *m)
{
	const struct gp_config *c = gp_model_config(m);
	int rc;

	*p = (struct gp_plan){ 0 };
	if (!r->stages || strcmp(r->stages, "auto") == 0)
		rc = choose_stages(p, c->n_layers, r->npu_layers);
	else if (r->npu_layers)
		rc = gp_fail(EINVAL, "--npu-layers is for --stages auto; name them in --stages: npu:A-B");
	else
		rc = parse_stages(p, r->stages);
	if (rc < 0)
		return rc;
	if (p->n_stages > c->n_layers)
		return gp_fail(EINVAL, "--stages: %u stages, but the model has only %u layers",
			       p->n_stages, c->n_layers);
	if ((rc = check_layers(p, c->n_layers)) < 0 ||
	    (rc = choose_npu(p, r->npu)) < 0 ||
	    (rc = choose_context(p, r->context, c->context)) < 0 ||
	    (rc = limit_memory(p, r->device_memory, m)) < 0)
		return rc;
	share_cpus(p, r->threads, r->n_cpus ? r->n_cpus : count_cpus());
	p->max_sequences = r->max_sequences ? r->max_sequences : 1;
	p->max_rows = r->max_rows ? r->max_rows : DEFAULT_ROWS;
	if (p->max_rows < p->max_sequences)
		p->max_rows = p->max_sequences;
	if ((rc = choose_kv(p, r->kv_tokens)) < 0)
		return rc;
	p->max_logit_rows = logit_rows(p->max_rows, c->vocab);
	p->ring_slots = slots_for(p->n_stages);
	p->check_numerics = r->check_numerics;
	p->kv_type = r->kv_type >= 0 ? (enum gp_type)r->kv_type : default_kv_type(m);
	p->prefixes = choose_prefixes(p, c, r->prefixes);
	return 0;
}

void gp_plan_geometry(const struct gp_plan *p, const struct gp_config *c, uint32_t ring,
		      struct gp_slot_geometry *g)
{
	*g = (struct gp_slot_geometry){
		.max_ops = 5 * p->max_sequences + 2 * p->prefixes, .max_rows = p->max_rows,
		.payload = GP_PAYLOAD_HIDDEN, .max_payload_rows = p->max_rows,
		.payload_cols = c->hidden,
		.vocab = c->vocab, .max_sequences = p->max_sequences + p->prefixes, .context = p->context,
	};
	if (ring == 0) {
		g->payload = GP_PAYLOAD_NONE;
		g->max_payload_rows = g->payload_cols = 0;
	} else if (ring == p->n_stages) {
		g->payload = GP_PAYLOAD_LOGITS;
		g->max_payload_rows = p->max_logit_rows;
		g->payload_cols = c->vocab;
	}
}

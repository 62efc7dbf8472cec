#include "tools/common/serving.h"

int serving_option(struct cli *c, int option)
{
	uint64_t v = 0;
	int rc;

	switch (option) {
	case SERVING_SEQUENCES:
		rc = gp_parse_u64("--max-sequences", optarg, 1, 256, &v);
		c->plan.max_sequences = (uint32_t)v;
		return rc;
	case SERVING_QUEUE:
		rc = gp_parse_u64("--max-queue", optarg, 1, 1u << 20, &v);
		c->max_queue = (uint32_t)v;
		return rc;
	case SERVING_PREFIXES:
		rc = gp_parse_u64("--prefixes", optarg, 0, 1024, &v);
		c->plan.prefixes = (uint32_t)v;
		return rc;
	case SERVING_STEP:
		rc = gp_parse_u64("--max-step-ms", optarg, 1, 1u << 20, &v);
		c->max_step_ms = (float)v;
		return rc;
	case SERVING_KV:
		return gp_parse_u64("--kv-tokens", optarg, 1, (uint64_t)1 << 32, &c->plan.kv_tokens);
	default:
		return 1;
	}
}

#include "coordinator/lookup.h"

/* Tokens that end at a and at b, backwards. */
static uint32_t alike_before(const uint32_t *tokens, uint32_t a, uint32_t b)
{
	uint32_t n = 0;

	while (n < GP_LOOKUP_LONGEST && n < a && tokens[a - n - 1] == tokens[b - n - 1])
		n++;
	return n;
}

/* A scan needs no memory and no upkeep, and takes microseconds where a step takes
 * milliseconds: most places fall at the first comparison. */
uint32_t gp_lookup(uint32_t *tokens, uint32_t n, uint32_t most, uint32_t *alike)
{
	uint32_t at = 0, best = GP_LOOKUP_LEAST - 1;

	*alike = 0;
	for (uint32_t i = n ? n - 1 : 0; i && best < GP_LOOKUP_LONGEST; i--) {
		if (tokens[i - 1] != tokens[n - 1])
			continue;
		const uint32_t same = alike_before(tokens, i, n);

		at = same > best ? i : at;
		best = same > best ? same : best;
	}
	if (!at || !most)
		return 0;
	for (uint32_t i = 0; i < most; i++)
		tokens[n + i] = tokens[at + i];
	*alike = best;
	return most;
}

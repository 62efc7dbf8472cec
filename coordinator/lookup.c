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
static void find(const uint32_t *tokens, uint32_t n, struct gp_place *place)
{
	uint32_t best = place->alike >= GP_LOOKUP_LEAST ? place->alike : GP_LOOKUP_LEAST - 1;

	for (uint32_t i = n ? n - 1 : 0; i && best < GP_LOOKUP_LONGEST; i--) {
		if (tokens[i - 1] != tokens[n - 1])
			continue;
		const uint32_t same = alike_before(tokens, i, n);

		if (same <= best)
			continue;
		best = same;
		*place = (struct gp_place){ i, same };
	}
}

uint32_t gp_lookup(uint32_t *tokens, uint32_t n, uint32_t most, struct gp_place *place)
{
	place->at = place->at < n ? place->at : 0;
	place->alike = place->at ? alike_before(tokens, place->at, n) : 0;
	find(tokens, n, place);
	if (!place->at)
		return 0;
	for (uint32_t i = 0; i < most; i++)
		tokens[n + i] = tokens[place->at + i];
	return most;
}

/* A text's continuation, guessed from what followed its last tokens where they stood before:
 * code that is edited, a document that is quoted. */
#ifndef GP_LOOKUP_H
#define GP_LOOKUP_H

#include <stdint.h>

#define GP_LOOKUP_LEAST 2u      /* tokens alike, for a guess */
#define GP_LOOKUP_LONGEST 16u   /* more tell no more */

struct gp_place {
	uint32_t at;            /* of a text: the token that it is thought to go on with; 0: none */
	uint32_t alike;         /* tokens before it that are the text's last */
};

/* Of the places before its end where the text's last tokens stand too, takes the one with
 * most of them alike, of equals the given one, then the latest; where there is none with at
 * least GP_LOOKUP_LEAST, the given one, for a token may have been replaced. What stands
 * there is written behind the text, which has room for most more; what reaches the text's
 * end goes on periodically. How many; *place: where they are from, or none. */
uint32_t gp_lookup(uint32_t *tokens, uint32_t n, uint32_t most, struct gp_place *place);

#endif

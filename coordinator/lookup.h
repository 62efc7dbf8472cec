/* A text's continuation, guessed from what followed its last tokens where they stood before:
 * code that is edited, a document that is quoted. */
#ifndef GP_LOOKUP_H
#define GP_LOOKUP_H

#include <stdint.h>

#define GP_LOOKUP_LEAST 2u      /* tokens alike, for a guess */
#define GP_LOOKUP_LONGEST 16u   /* more tell no more */

/* Of the places before its end where the text's last tokens stand too, takes the one with
 * most of them alike, the latest of equals. What followed there is written behind the
 * text, which has room for most more; what reaches the text's end goes on periodically.
 * How many; *alike: 0, or GP_LOOKUP_LEAST..GP_LOOKUP_LONGEST. */
uint32_t gp_lookup(uint32_t *tokens, uint32_t n, uint32_t most, uint32_t *alike);

#endif

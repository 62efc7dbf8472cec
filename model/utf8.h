/* UTF-8 as text from outside needs it: validation, code points, white space. */
#ifndef GP_UTF8_H
#define GP_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GP_UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* Bytes of the longest valid prefix: n when all of it is valid. Overlong
 * forms, surrogates and code points past U+10FFFF are invalid. */
size_t gp_utf8_valid(const char *s, size_t n);

/* The code point at s and its length; s is valid UTF-8 and not at its end. */
uint32_t gp_utf8_next(const char *s, size_t *length);

/* Drops white space at both ends as Python's str.strip does. Valid UTF-8. */
void gp_utf8_strip(const char **s, size_t *n);

#endif

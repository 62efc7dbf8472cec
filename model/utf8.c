#include "model/utf8.h"

/* Length of the sequence at s, 0 when it is invalid. Ranges of the second byte:
 * The Unicode Standard, table 3-7. */
static size_t sequence_length(const uint8_t *s, size_t n)
{
	size_t length = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
	uint8_t low = 0x80, high = 0xBF;

	if (s[0] < 0x80)
		return 1;
	if (s[0] < 0xC2 || s[0] > 0xF4 || n < length)
		return 0;
	if (s[0] == 0xE0)
		low = 0xA0;
	else if (s[0] == 0xED)
		high = 0x9F;
	else if (s[0] == 0xF0)
		low = 0x90;
	else if (s[0] == 0xF4)
		high = 0x8F;
	if (s[1] < low || s[1] > high)
		return 0;
	for (size_t i = 2; i < length; i++)
		if ((s[i] & 0xC0) != 0x80)
			return 0;
	return length;
}

size_t gp_utf8_valid(const char *s, size_t n)
{
	size_t at = 0;

	while (at < n) {
		size_t length = sequence_length((const uint8_t *)s + at, n - at);

		if (!length)
			break;
		at += length;
	}
	return at;
}

uint32_t gp_utf8_next(const char *s, size_t *length)
{
	const uint8_t *b = (const uint8_t *)s;
	uint32_t code;

	if (b[0] < 0x80) {
		*length = 1;
		return b[0];
	}
	*length = b[0] < 0xE0 ? 2 : b[0] < 0xF0 ? 3 : 4;
	code = b[0] & (0x7Fu >> *length);
	for (size_t i = 1; i < *length; i++)
		code = code << 6 | (b[i] & 0x3Fu);
	return code;
}

/* Python's str.isspace: bidirectional type WS, B or S, or category Zs. */
static bool is_space(uint32_t c)
{
	return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 ||
	       c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
	       c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

void gp_utf8_strip(const char **s, size_t *n)
{
	const char *begin = *s, *end = *s + *n;
	size_t length;

	while (begin < end && is_space(gp_utf8_next(begin, &length)))
		begin += length;
	while (end > begin) {
		const char *last = end - 1;

		while (last > begin && ((uint8_t)*last & 0xC0) == 0x80)
			last--;
		if (!is_space(gp_utf8_next(last, &length)))
			break;
		end = last;
	}
	*s = begin;
	*n = (size_t)(end - begin);
}

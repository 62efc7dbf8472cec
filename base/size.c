#include "base/base.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

bool gp_size_mul(size_t a, size_t b, size_t *out)
{
	size_t r;

	if (__builtin_mul_overflow(a, b, &r))
		return false;
	*out = r;
	return true;
}

bool gp_size_add(size_t a, size_t b, size_t *out)
{
	size_t r;

	if (__builtin_add_overflow(a, b, &r))
		return false;
	*out = r;
	return true;
}

bool gp_size_round_up(size_t n, size_t align, size_t *out)
{
	size_t r;

	if (!gp_size_add(n, align - 1, &r))
		return false;
	*out = r & ~(align - 1);
	return true;
}

const char *gp_size_text(char buf[32], uint64_t bytes)
{
	static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double v = (double)bytes;
	size_t i = 0;

	for (; v >= 1024 && i + 1 < GP_ARRAY_LEN(unit); i++)
		v /= 1024;
	snprintf(buf, 32, i ? "%.1f %s" : "%.0f %s", v, unit[i]);
	return buf;
}

const char *gp_duration_text(char buf[32], double seconds)
{
	/* What no one waits for, and NaN, are no time at all. */
	const unsigned long s = seconds > 0 && seconds < 1e15 ? (unsigned long)seconds : 0;
	const unsigned long h = s / 3600;

	if (h)
		snprintf(buf, 32, "%lu:%02lu:%02lu", h, s / 60 % 60, s % 60);
	else
		snprintf(buf, 32, "%lu:%02lu", s / 60, s % 60);
	return buf;
}

int gp_parse_u64(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	unsigned long long v = 0;
	char *end = NULL;

	errno = 0;
	/* strtoull takes signs and blanks; a digit first rules them out. */
	if (text[0] >= '0' && text[0] <= '9')
		v = strtoull(text, &end, 10);
	if (!end || *end || errno || v < min || v > max)
		return gp_fail(EINVAL, "%s: '%s' is no number from %llu to %llu", what, text,
			       (unsigned long long)min, (unsigned long long)max);
	*out = v;
	return 0;
}

int gp_scan_size(const char **text, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	char *end;

	if (!isdigit((unsigned char)**text))
		return -EINVAL;
	errno = 0;
	const unsigned long long n = strtoull(*text, &end, 10);
	const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
	const unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;

	if (errno || n > UINT64_MAX >> shift)
		return -EINVAL;
	*bytes = (uint64_t)n << shift;
	*text = end + (unit != NULL);
	return 0;
}

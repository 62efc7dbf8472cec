#include "kernels/isa.h"

#include <string.h>

GP_UNCHECKED uint64_t gp_read_scalar(const void *data, size_t bytes, unsigned pattern)
{
	const char *p = data;
	uint64_t sum[8] = { 0 }, v;

	(void)pattern;
	for (size_t i = 0; i + 64 <= bytes; i += 64) {
		for (size_t k = 0; k < 8; k++) {
			memcpy(&v, p + i + 8 * k, sizeof v);
			sum[k] += v;
		}
	}
	for (size_t k = 1; k < 8; k++)
		sum[0] += sum[k];
	return sum[0];
}

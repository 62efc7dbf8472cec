#include "kernels/isa.h"

#define SUMS 12u

/* Four lanes of SUMS sums: what a compiler without flags can do with them. */
GP_UNCHECKED uint64_t gp_float_ops_scalar(uint64_t iterations)
{
	float sum[4 * SUMS], all = 0;

	for (uint32_t s = 0; s < 4 * SUMS; s++)
		sum[s] = (float)s;
	for (uint64_t i = 0; i < 4 * iterations; i++)
		for (uint32_t s = 0; s < 4 * SUMS; s++)
			sum[s] = sum[s] * 0.875f + 0.125f;
	for (uint32_t s = 0; s < 4 * SUMS; s++)
		all += sum[s];
	return gp_float_bits(all);
}

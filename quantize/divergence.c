#include <math.h>

#include "quantize/quantize.h"

double gp_log_sum_exp(const float *x, uint32_t n)
{
	double max = (double)x[0], sum = 0;

	/* A NaN goes through into the sum, and from there into the result. */
	for (uint32_t i = 1; i < n; i++)
		max = (double)x[i] > max ? (double)x[i] : max;
	for (uint32_t i = 0; i < n; i++)
		sum += exp((double)x[i] - max);
	return max + log(sum);
}

double gp_kl_divergence(const float *p, double p_log_sum, const float *q, double q_log_sum,
                        uint32_t n)
{
	double kl = 0;

	for (uint32_t i = 0; i < n; i++) {
		const double log_p = (double)p[i] - p_log_sum, weight = exp(log_p);

		/* What P never says counts nothing, though its logarithm be infinite. */
		if (weight > 0 || isnan(weight))
			kl += weight * (log_p - ((double)q[i] - q_log_sum));
	}
	/* It is never negative; rounding may make it so. */
	return kl < 0 ? 0 : kl;
}

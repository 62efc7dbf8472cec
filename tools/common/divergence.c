#include "tools/common/divergence.h"

#include <math.h>

double log_sum_exp(const float *x, uint32_t n)
{
	double max = (double)x[0], sum = 0;

	/* A NaN goes through into the sum, and from there into the result. */
	for (uint32_t i = 1; i < n; i++)
		max = (double)x[i] > max ? (double)x[i] : max;
	for (uint32_t i = 0; i < n; i++)
		sum += exp((double)x[i] - max);
	return max + log(sum);
}

double kl_divergence(const float *p, double p_log_sum, const float *q, double q_log_sum, uint32_t n)
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

uint32_t largest_of(const float *x, uint32_t n)
{
	float most = x[0];
	uint32_t i = 0;

	for (uint32_t k = 1; k < n; k++)
		most = x[k] > most ? x[k] : most;
	while (i + 1 < n && x[i] < most)
		i++;
	return i;
}

struct estimate mean_of(const double *x, size_t n)
{
	double sum = 0, squares = 0;

	for (size_t i = 0; i < n; i++)
		sum += x[i];
	const double mean = sum / (double)n;
	for (size_t i = 0; i < n; i++)
		squares += (x[i] - mean) * (x[i] - mean);
	return (struct estimate){ mean, sqrt(squares / (double)(n - 1) / (double)n) };
}

double quantile_of(const double *x, size_t n, double at)
{
	const double place = at * (double)(n - 1);
	const size_t below = (size_t)place;

	if (below + 1 >= n)
		return x[n - 1];
	return x[below] + (place - (double)below) * (x[below + 1] - x[below]);
}

#include "tools/common/divergence.h"

#include <math.h>

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

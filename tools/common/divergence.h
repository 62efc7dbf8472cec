/* Figures over many comparisons of distributions.
 * All sums are in double. A NaN anywhere makes the result one. */
#ifndef GP_DIVERGENCE_H
#define GP_DIVERGENCE_H

#include <stddef.h>
#include <stdint.h>

/* The lowest index of the largest. */
uint32_t largest_of(const float *x, uint32_t n);

struct estimate {
	double value;
	double error;   /* standard error, as if the samples were independent */
};
/* Of one sample the error is NaN. */
struct estimate mean_of(const double *x, size_t n);
/* Of x in ascending order, linear between its entries; 0 <= at <= 1. */
double quantile_of(const double *x, size_t n, double at);

#endif

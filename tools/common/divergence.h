/* Distributions over a vocabulary compared, and figures over many such comparisons.
 * All sums are in double. A NaN anywhere makes the result one. */
#ifndef GP_DIVERGENCE_H
#define GP_DIVERGENCE_H

#include <stddef.h>
#include <stdint.h>

/* log of the sum of exp(x[i]). */
double log_sum_exp(const float *x, uint32_t n);
/* KL(P || Q) in nats of the softmax of p and of q, whose log sums are given. Equal
 * logits: exactly 0. */
double kl_divergence(const float *p, double p_log_sum, const float *q, double q_log_sum,
		     uint32_t n);
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

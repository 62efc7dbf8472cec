/* What this machine can do at most, measured: the rulers that speeds are held
 * against. With the instruction set that the workers use (GP_CPU). */
#ifndef GP_RULERS_H
#define GP_RULERS_H

#include <stdint.h>

#include "kernels/kernels.h"

struct rulers {
	uint32_t threads;        /* at most 256 */
	double read_gb_per_s;    /* 10^9 bytes; 0: no memory to measure with */
	double int8_gop_per_s;   /* 0: the instruction set has no such products */
	double float_gflop_per_s;
};
/* n threads together, the best of some passes: a memory of four times the
 * last-level cache is read, at least 1 GiB; then arithmetic on registers.
 * Takes a second. -EINVAL: GP_CPU is wrong. */
int rulers_measure(struct rulers *r, uint32_t n_threads);
/* Of two measurements on as many threads the longer: the machine can do it. */
void rulers_keep_longest(struct rulers *r, const struct rulers *other);
uint64_t rulers_cache_bytes(void); /* last-level cache; 0: unknown */

/* Integer products for quantised weights, float32 for others. */
double rulers_arithmetic(const struct rulers *r, enum gp_type weights);
const char *rulers_arithmetic_name(enum gp_type weights); /* "int8", "float32" */

struct speed {
	enum gp_type weights;
	uint64_t model_bytes;    /* all weights */
	double gb_per_s, gop_per_s;
};
/* What is to be said of a speed: "", "cache-resident" (a model of less than four
 * caches need not come from memory), or, where a ruler is exceeded by more than
 * 5%, its own error, "error: above the memory bandwidth" or "error: above the
 * arithmetic peak". A ruler of 0 was not measured and is not exceeded. A speed
 * that is no number is an error too. */
const char *rulers_verdict(const struct rulers *r, const struct speed *s, uint64_t cache_bytes);

#endif

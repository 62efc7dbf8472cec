/* A pool of threads that run one function side by side, for the CPU device's
 * operations of some microseconds each. */
#ifndef GP_THREADS_H
#define GP_THREADS_H

#include <stdint.h>

#define GP_MAX_THREADS 256u

struct gp_threads;

/* Thread 0 is the caller of gp_threads_run; n - 1 more are started, the i-th
 * pinned to the (first_cpu + i)-th of the cores this process may use. More
 * threads than cores: none is pinned and none spins. n 0: one a core. */
int gp_threads_create(struct gp_threads **t, uint32_t n, uint32_t first_cpu);
void gp_threads_destroy(struct gp_threads *t); /* NULL is fine */
uint32_t gp_threads_count(const struct gp_threads *t);

typedef void gp_threads_fn(void *arg, uint32_t thread, uint32_t n_threads);
/* fn on all threads; returns when all are done. One caller at a time. */
void gp_threads_run(struct gp_threads *t, gp_threads_fn *fn, void *arg);

/* The part [*begin, *end) of [0, n) of one thread, in multiples of grain. */
void gp_threads_split(uint32_t n, uint32_t grain, uint32_t thread, uint32_t n_threads,
                      uint32_t *begin, uint32_t *end);

#endif

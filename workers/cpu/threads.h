/* A pool of threads that run one function side by side, for the CPU device's
 * operations of some microseconds each. */
#ifndef GP_THREADS_H
#define GP_THREADS_H

#include <stdint.h>

#define GP_MAX_THREADS 256u

struct gp_threads;

/* Thread 0 is the caller of gp_threads_run; n - 1 more are started, the i-th
 * pinned to the (first_cpu + i)-th of the cores this process may use, in the order
 * of gp_cpus_in_order: pages that a thread touches first are its node's. Where there are several nodes the calling thread
 * is pinned, too, until it calls destroy. More threads than cores: none is pinned and
 * none spins. n 0: one a core. */
int gp_threads_create(struct gp_threads **t, uint32_t n, uint32_t first_cpu);
void gp_threads_destroy(struct gp_threads *t); /* NULL is fine */
uint32_t gp_threads_count(const struct gp_threads *t);

typedef void gp_threads_fn(void *arg, uint32_t thread, uint32_t n_threads);
/* fn on all threads; returns when all are done. One caller at a time. */
void gp_threads_run(struct gp_threads *t, gp_threads_fn *fn, void *arg);

/* The part [*begin, *end) of [0, n) of one thread, in multiples of grain. */
void gp_threads_split(uint32_t n, uint32_t grain, uint32_t thread, uint32_t n_threads,
                      uint32_t *begin, uint32_t *end);

/* ---- cores (workers/cpu/cpus.c) ---- */
typedef int gp_node_fn(uint32_t cpu);
/* The NUMA node of a core; where there is one node, of every core the same. */
gp_node_fn *gp_node_of_cpu(void);
typedef uint32_t gp_rank_fn(uint32_t cpu, const uint32_t *allowed, uint32_t n);
/* How many of the allowed that are threads of the same core have a smaller number;
 * 0 where that cannot be found out. list: as the kernel gives it, "0,8\n". */
uint32_t gp_rank_in_core(uint32_t cpu, const uint32_t *allowed, uint32_t n);
uint32_t gp_rank_in_list(const char *list, uint32_t cpu, const uint32_t *allowed, uint32_t n);
/* The cores the calling thread may use, ascending; returns how many. */
uint32_t gp_cpus_allowed(uint32_t *cpus, uint32_t room);
/* The order in which threads are put on cores: one on each core before a second
 * one on any, and cores of one node together; returns how many nodes. */
uint32_t gp_cpus_in_order(uint32_t *cpus, uint32_t n, gp_node_fn *node_of, gp_rank_fn *rank_of);

#endif

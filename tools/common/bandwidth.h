/* How fast this machine reads memory: the ruler that speeds are held against. */
#ifndef GP_BANDWIDTH_H
#define GP_BANDWIDTH_H

#include <stdint.h>

/* GB/s (10^9) that n threads read together, the best of three passes over
 * memory four times the last-level cache, at least 1 GiB; 0: no memory for it. */
double bandwidth_read_gbs(uint32_t n_threads);
uint64_t bandwidth_cache_bytes(void); /* last-level cache; 0: unknown */

#endif

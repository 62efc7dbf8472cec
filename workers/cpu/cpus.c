#include "workers/cpu/threads.h"

#include <numa.h>
#include <sched.h>
#include <stdlib.h>

static int node_by_numa(uint32_t cpu)
{
	/* -1 for a core it does not know. */
	return numa_node_of_cpu((int)cpu);
}

static int no_node(uint32_t cpu)
{
	(void)cpu;
	return 0;
}

gp_node_fn *gp_node_of_cpu(void)
{
	return numa_available() >= 0 && numa_max_node() > 0 ? node_by_numa : no_node;
}

uint32_t gp_cpus_allowed(uint32_t *cpus, uint32_t room)
{
	cpu_set_t set;
	uint32_t n = 0;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 0;
	for (uint32_t c = 0; c < CPU_SETSIZE && n < room; c++)
		if (CPU_ISSET(c, &set))
			cpus[n++] = c;
	return n;
}

/* An insertion: the order within a node stays. */
uint32_t gp_cpus_by_node(uint32_t *cpus, uint32_t n, gp_node_fn *node_of)
{
	uint32_t nodes = n > 0;

	for (uint32_t i = 1; i < n; i++) {
		const uint32_t cpu = cpus[i];
		uint32_t at = i;

		for (; at > 0 && node_of(cpus[at - 1]) > node_of(cpu); at--)
			cpus[at] = cpus[at - 1];
		cpus[at] = cpu;
	}
	for (uint32_t i = 1; i < n; i++)
		nodes += node_of(cpus[i]) != node_of(cpus[i - 1]);
	return nodes;
}

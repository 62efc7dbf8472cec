#include "workers/cpu/threads.h"

#include <numa.h>
#include <sched.h>
#include <stdio.h>
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

uint32_t gp_rank_in_core(uint32_t cpu)
{
	char path[96], list[256] = "";
	uint32_t rank = 0;

	snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list",
	         cpu);
	FILE *f = fopen(path, "re");
	if (!f)
		return 0;
	struct bitmask *siblings = fgets(list, sizeof list, f) ? numa_parse_cpustring_all(list) : NULL;
	fclose(f);
	if (!siblings)
		return 0;
	for (uint32_t c = 0; c < cpu; c++)
		rank += numa_bitmask_isbitset(siblings, c) != 0;
	numa_bitmask_free(siblings);
	return rank;
}

struct place {
	uint32_t rank, cpu;
	int node;
};

static int compare_places(const void *a, const void *b)
{
	const struct place *x = a, *y = b;

	if (x->rank != y->rank)
		return x->rank < y->rank ? -1 : 1;
	if (x->node != y->node)
		return x->node < y->node ? -1 : 1;
	return x->cpu < y->cpu ? -1 : x->cpu > y->cpu;
}

uint32_t gp_cpus_in_order(uint32_t *cpus, uint32_t n, gp_node_fn *node_of, gp_rank_fn *rank_of)
{
	struct place places[CPU_SETSIZE];
	uint32_t nodes = 0;

	for (uint32_t i = 0; i < n; i++)
		places[i] = (struct place){ rank_of(cpus[i]), cpus[i], node_of(cpus[i]) };
	qsort(places, n, sizeof places[0], compare_places);
	/* Every node has a first thread of a core. */
	for (uint32_t i = 0; i < n; i++) {
		cpus[i] = places[i].cpu;
		nodes += i == 0 || (places[i].rank == places[0].rank &&
		                    places[i].node != places[i - 1].node);
	}
	return nodes;
}

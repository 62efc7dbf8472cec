#include "workers/cpu/threads.h"

#include <numa.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

uint32_t gp_rank_in_list(const char *list, uint32_t cpu, const uint32_t *allowed, uint32_t n)
{
	char text[256];
	uint32_t rank = 0;

	snprintf(text, sizeof text, "%.*s", (int)strcspn(list, "\n"), list);
	struct bitmask *siblings = numa_parse_cpustring_all(text);
	if (!siblings)
		return 0;
	for (uint32_t i = 0; i < n; i++)
		rank += allowed[i] < cpu && numa_bitmask_isbitset(siblings, allowed[i]);
	numa_bitmask_free(siblings);
	return rank;
}

uint32_t gp_rank_in_core(uint32_t cpu, const uint32_t *allowed, uint32_t n)
{
	char path[96], list[256];
	uint32_t rank = 0;

	snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list",
	         cpu);
	FILE *f = fopen(path, "re");
	if (!f)
		return 0;
	if (fgets(list, sizeof list, f))
		rank = gp_rank_in_list(list, cpu, allowed, n);
	fclose(f);
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

static uint32_t count_nodes(const struct place *places, uint32_t n)
{
	uint32_t nodes = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t before = 0;

		while (before < i && places[before].node != places[i].node)
			before++;
		nodes += before == i;
	}
	return nodes;
}

uint32_t gp_cpus_in_order(uint32_t *cpus, uint32_t n, gp_node_fn *node_of, gp_rank_fn *rank_of)
{
	struct place places[CPU_SETSIZE];

	for (uint32_t i = 0; i < n; i++)
		places[i] = (struct place){ rank_of(cpus[i], cpus, n), cpus[i], node_of(cpus[i]) };
	qsort(places, n, sizeof places[0], compare_places);
	for (uint32_t i = 0; i < n; i++)
		cpus[i] = places[i].cpu;
	return count_nodes(places, n);
}

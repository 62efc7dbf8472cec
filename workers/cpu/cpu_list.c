/* What gempipe devices shows of the CPU. */
#include <cpuid.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "workers/cpu/cpu_device.h"

#define BRAND_LEAF 0x80000002u   /* and the two after it: 16 characters each */

/* Without the blanks that some put around it. */
static const char *read_brand(char text[49])
{
	unsigned r[4];

	memset(text, 0, 49);
	for (unsigned i = 0; i < 3; i++) {
		if (!__get_cpuid(BRAND_LEAF + i, &r[0], &r[1], &r[2], &r[3]))
			return "unknown";
		memcpy(text + sizeof r * i, r, sizeof r);
	}
	for (size_t n = strlen(text); n && text[n - 1] == ' '; n--)
		text[n - 1] = '\0';
	return text + strspn(text, " ");
}

json_t *cpu_list(void)
{
	static const unsigned all[] = { GP_CPU_AVX2, GP_CPU_AVX512, GP_CPU_AVX512VNNI,
	                                GP_CPU_AVX512BF16 };
	const char *wanted = getenv("GP_CPU");
	const unsigned flags = gp_cpu_flags();
	cpu_set_t cpus;
	unsigned mask, upto = 0;
	char brand[49];

	/* As a worker would. */
	if (gp_cpu_mask_wanted(&mask) < 0)
		return json_array();
	json_t *sets = json_array();
	for (size_t i = 0; i < GP_ARRAY_LEN(all); i++) {
		upto |= all[i];
		if (flags & all[i])
			json_array_append_new(sets, json_string(gp_cpu_text(upto)));
	}
	json_t *cpu = json_pack("{s:s, s:s, s:i, s:o, s:s, s:s?}", "device", "cpu", "name",
		read_brand(brand), "cores",
		sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1,
		"instruction_sets", sets, "uses", gp_cpu_text(flags & mask), "gp_cpu",
		wanted && *wanted ? wanted : NULL);
	return json_pack("[o]", cpu);
}

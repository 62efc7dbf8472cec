// Sums and maxima over a work group, of any subgroup size.
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require

shared float reduced[SIZE / 4];

#define REDUCE(NAME, OF_SUBGROUP, COMBINE, NONE)                                           \
	float NAME(float x)                                                                \
	{                                                                                  \
		const float s = OF_SUBGROUP(x);                                            \
		float all = NONE;                                                          \
                                                                                           \
		barrier();                                                                 \
		if (subgroupElect())                                                       \
			reduced[gl_SubgroupID] = s;                                        \
		barrier();                                                                 \
		for (uint i = gl_SubgroupInvocationID; i < gl_NumSubgroups; i += gl_SubgroupSize) \
			all = COMBINE(all, reduced[i]);                                    \
		return OF_SUBGROUP(all);                                                   \
	}

float plus(float a, float b)
{
	return a + b;
}

REDUCE(group_sum, subgroupAdd, plus, 0.0)
REDUCE(group_max, subgroupMax, max, -3.0e38)

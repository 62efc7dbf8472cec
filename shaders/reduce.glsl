// Sums and maxima over a work group of SIZE invocations, of any subgroup size.
shared float reduced[SIZE];

#define REDUCE(NAME, COMBINE)                                                    \
	float NAME(float x)                                                      \
	{                                                                        \
		const uint me = gl_LocalInvocationIndex;                         \
                                                                                 \
		barrier();                                                       \
		reduced[me] = x;                                                 \
		for (uint n = SIZE / 2; n > 0; n /= 2) {                         \
			barrier();                                               \
			if (me < n)                                              \
				reduced[me] = COMBINE(reduced[me], reduced[me + n]); \
		}                                                                \
		barrier();                                                       \
		return reduced[0];                                               \
	}

float plus(float a, float b)
{
	return a + b;
}

REDUCE(group_sum, plus)
REDUCE(group_max, max)

// Sums and maxima over a work group of SIZE invocations, of any subgroup size.
shared float reduced[SIZE];

float group_sum(float x)
{
	const uint me = gl_LocalInvocationIndex;

	barrier();
	reduced[me] = x;
	for (uint n = SIZE / 2; n > 0; n /= 2) {
		barrier();
		if (me < n)
			reduced[me] += reduced[me + n];
	}
	barrier();
	return reduced[0];
}

float group_max(float x)
{
	const uint me = gl_LocalInvocationIndex;

	barrier();
	reduced[me] = x;
	for (uint n = SIZE / 2; n > 0; n /= 2) {
		barrier();
		if (me < n)
			reduced[me] = max(reduced[me], reduced[me + n]);
	}
	barrier();
	return reduced[0];
}

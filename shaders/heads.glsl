// The norm and the rotation of heads of Q and K. All heads of a work group go through
// each step together: what takes time is waiting, not work.
shared float raw[HEAD_ROWS_IN][DIM], squares[HEAD_ROWS_IN][SIZE / 4];

// A head as it is, and what its invocations know of its length.
void read_head(uint which, uint64_t from)
{
	float sum = 0;

	for (uint i = gl_LocalInvocationIndex; i < DIM; i += SIZE) {
		const float x = Floats(from).v[i];

		raw[which][i] = x;
		sum += x * x;
	}
	sum = subgroupAdd(sum);
	if (subgroupElect())
		squares[which][gl_SubgroupID] = sum;
}

// After a barrier.
float head_scale(uint which, float eps)
{
	float sum = 0;

	for (uint i = 0; i < gl_NumSubgroups; i++)
		sum += squares[which][i];
	return inversesqrt(sum / float(DIM) + eps);
}

// Elements i and i + DIM / 2 of a head, normed and rotated.
vec2 rotated(uint which, uint i, float scale, uint64_t norm, uint64_t angles)
{
	Floats cs = Floats(angles), w = Floats(norm);
	const float c = cs.v[i], s = cs.v[DIM / 2 + i];
	const float a = raw[which][i] * scale * w.v[i];
	const float b = raw[which][i + DIM / 2] * scale * w.v[i + DIM / 2];

	return vec2(a * c - b * s, b * c + a * s);
}

// The norm and the rotation of a head of Q or K, in head_floats.
void norm_and_rotate(uint64_t norm, uint64_t angles, float eps)
{
	const uint me = gl_LocalInvocationIndex, half_dim = DIM / 2;
	Floats cs = Floats(angles), w = Floats(norm);
	float sum = 0;

	for (uint i = me; i < DIM; i += SIZE)
		sum += head_floats[i] * head_floats[i];
	const float scale = inversesqrt(group_sum(sum) / float(DIM) + eps);
	for (uint i = me; i < half_dim; i += SIZE) {
		const float a = head_floats[i] * scale * w.v[i];
		const float b = head_floats[i + half_dim] * scale * w.v[i + half_dim];

		head_floats[i] = a * cs.v[i] - b * cs.v[half_dim + i];
		head_floats[i + half_dim] = b * cs.v[i] + a * cs.v[half_dim + i];
	}
	barrier();
}

void read_head(uint64_t from)
{
	barrier();
	for (uint i = gl_LocalInvocationIndex; i < DIM; i += SIZE)
		head_floats[i] = Floats(from).v[i];
	barrier();
}

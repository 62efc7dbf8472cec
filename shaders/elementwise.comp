#version 460
// OP 0: to += from. OP 1: to = gelu_tanh(to) * from.
#include "common.glsl"

layout(constant_id = 0) const uint OP = 0;
layout(local_size_x = 256) in;
layout(push_constant, scalar) uniform P {
	uint64_t to, from;
	uint n;
} p;

// tanh of large arguments is 1; the exponential in it would overflow.
float gelu(float x)
{
	const float y = 0.7978845608028654 * (x + 0.044715 * x * x * x);

	return 0.5 * x * (1.0 + tanh(clamp(y, -15.0, 15.0)));
}

void main()
{
	Floats to = Floats(p.to), from = Floats(p.from);

	for (uint i = gl_GlobalInvocationID.x; i < p.n; i += gl_NumWorkGroups.x * 256)
		to.v[i] = OP == 0 ? to.v[i] + from.v[i] : gelu(to.v[i]) * from.v[i];
}

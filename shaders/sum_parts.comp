#version 460
// to[i] = the sum over parts of from[part][i].
#include "common.glsl"

layout(local_size_x = 256) in;
layout(push_constant, scalar) uniform P {
	uint64_t to, from;
	uint n, parts;
} p;

void main()
{
	for (uint i = gl_GlobalInvocationID.x; i < p.n; i += gl_NumWorkGroups.x * 256) {
		float sum = 0;

		for (uint part = 0; part < p.parts; part++)
			sum += Floats(p.from).v[part * p.n + i];
		Floats(p.to).v[i] = sum;
	}
}

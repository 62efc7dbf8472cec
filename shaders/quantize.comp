#version 460
// Rows of floats to 8 bits, four floats a lane. OP 1: of gelu(from) * up, which from becomes.
#include "common.glsl"
#include "quantize8.glsl"
#include "gelu.glsl"

layout(constant_id = 0) const uint OP = 0;
layout(local_size_x = 256) in;
layout(push_constant, scalar) uniform P {
	uint64_t from, up, quants, blocks;
	uint n, vectors;         // floats / 4, and of a row; 32 divides a row's floats
} p;

void main()
{
	const uint step = gl_NumWorkGroups.x * 256;

	for (uint i = gl_WorkGroupID.x * 256 + lane_index(); i < p.n; i += step) {
		vec4 x = Vectors(p.from).v[i];

		if (OP == 1) {
			const vec4 up = Vectors(p.up).v[i];

			[[unroll]] for (uint j = 0; j < 4; j++)
				x[j] = gelu(x[j]) * up[j];
			Vectors(p.from).v[i] = x;
		}
		write8(p.quants, p.blocks, i / p.vectors, i % p.vectors, p.vectors, x);
	}
}

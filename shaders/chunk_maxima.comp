#version 460
// Of rows of logits the largest of each chunk of 64; one that is not finite makes it
// infinite, so that what is broken comes first. Eight lanes a chunk.
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"

layout(local_size_x = 256) in;
layout(push_constant, scalar) uniform P {
	uint64_t logits, maxima;
	uint n, chunks;          // logits of a row, a multiple of 4; chunks of a row
} p;

const float LOWEST = -3.4e38;

void main()
{
	const uint lane = gl_SubgroupID * gl_SubgroupSize + gl_SubgroupInvocationID;
	const uint chunk = gl_WorkGroupID.x * 32 + lane / 8, row = gl_WorkGroupID.y;
	const float infinite = uintBitsToFloat(0x7f800000u);
	float most = LOWEST;

	[[unroll]] for (uint i = 0; i < 2; i++) {
		const uint at = chunk * 16 + i * 8 + lane % 8;

		if (at * 4 >= p.n)
			continue;
		const vec4 x = Vectors(p.logits + uint64_t(row) * p.n * 4).v[at];
		[[unroll]] for (uint e = 0; e < 4; e++)
			most = max(most, isnan(x[e]) || isinf(x[e]) ? infinite : x[e]);
	}
	[[unroll]] for (uint i = 1; i < 8; i *= 2)
		most = max(most, subgroupShuffleXor(most, i));
	if (lane % 8 == 0 && chunk < p.chunks)
		Floats(p.maxima).v[row * p.chunks + chunk] = most;
}

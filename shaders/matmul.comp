#version 460
// to[m][n] = from[m] . w[n]: a work group computes OUTPUTS n for up to TILE rows m,
// its invocations share k by parts of 32.
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "common.glsl"
#include "types.glsl"

layout(constant_id = 1) const uint TILE = 1;
const uint SIZE = 32, OUTPUTS = 4, MOST_SUMS = OUTPUTS * 8, MOST_SUBGROUPS = 32;
layout(local_size_x = SIZE) in;
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer Vectors { vec4 v[]; };
layout(push_constant, scalar) uniform P {
	uint64_t to, from, w;
	uint64_t picked;      // rows of from, or 0: all in turn
	uint rows, cols, n;   // cols: k
} p;

shared float sums[MOST_SUMS][MOST_SUBGROUPS];

// What is past the end of a row is multiplied by weights of zero, but may be NaN.
float part_product(float w[32], uint64_t x, uint count)
{
	float sum = 0;

	if (count == 32) {
		[[unroll]] for (uint i = 0; i < 8; i++)
			sum += dot(Vectors(x).v[i], vec4(w[4 * i], w[4 * i + 1], w[4 * i + 2],
			                                 w[4 * i + 3]));
		return sum;
	}
	for (uint i = 0; i < count; i++)
		sum += w[i] * Floats(x).v[i];
	return sum;
}

void main()
{
	const uint n0 = (gl_WorkGroupID.x + gl_WorkGroupID.z * 32768) * OUTPUTS;
	const uint m0 = gl_WorkGroupID.y * TILE, me = gl_LocalInvocationIndex;
	uint64_t x[TILE];
	float acc[OUTPUTS][TILE], w[32];

	if (n0 >= p.n)
		return;
	[[unroll]] for (uint m = 0; m < TILE; m++) {
		const uint at = min(m0 + m, p.rows - 1);
		const uint row = p.picked == 0 ? at : Uints(p.picked).v[at];

		x[m] = p.from + uint64_t(row) * p.cols * 4;
		[[unroll]] for (uint o = 0; o < OUTPUTS; o++)
			acc[o][m] = 0;
	}
	for (uint part = me; part * 32 < p.cols; part += SIZE)
		[[unroll]] for (uint o = 0; o < OUTPUTS; o++) {
			weights(p.w, p.n, min(n0 + o, p.n - 1), part, p.cols, w);
			[[unroll]] for (uint m = 0; m < TILE; m++)
				acc[o][m] += part_product(w, x[m] + part * 128,
				                          min(32, p.cols - part * 32));
		}
	[[unroll]] for (uint o = 0; o < OUTPUTS; o++)
		[[unroll]] for (uint m = 0; m < TILE; m++) {
			const float sum = subgroupAdd(acc[o][m]);

			if (subgroupElect())
				sums[o * TILE + m][gl_SubgroupID] = sum;
		}
	barrier();
	for (uint i = me; i < OUTPUTS * TILE; i += SIZE) {
		const uint n = n0 + i / TILE, m = m0 + i % TILE;
		float sum = 0;

		for (uint s = 0; s < gl_NumSubgroups; s++)
			sum += sums[i][s];
		if (n < p.n && m < p.rows)
			Floats(p.to + (uint64_t(m) * p.n + n) * 4).v[0] = sum;
	}
}

#version 460
// to[m][n] = from[m] . w[n]: a work group computes one n for up to TILE rows m, its
// invocations share k.
#include "common.glsl"
#include "types.glsl"
#define SIZE 32
#include "reduce.glsl"

const uint TILE = 8;
layout(local_size_x = SIZE) in;
layout(push_constant, scalar) uniform P {
	uint64_t to, from, w;
	uint64_t picked;      // rows of from, or 0: all in turn
	uint rows, cols, n;   // cols: k
} p;

void main()
{
	const uint n = gl_WorkGroupID.x + gl_WorkGroupID.z * 32768, m0 = gl_WorkGroupID.y * TILE;
	const uint rows = min(TILE, p.rows - m0);
	uint64_t x[TILE];
	float acc[TILE], w[32];

	if (n >= p.n)
		return;
	[[unroll]] for (uint m = 0; m < TILE; m++) {
		const uint at = m0 + min(m, rows - 1);
		const uint row = p.picked == 0 ? at : Uints(p.picked).v[at];

		x[m] = p.from + uint64_t(row) * p.cols * 4;
		acc[m] = 0;
	}
	for (uint part = gl_LocalInvocationIndex; part * 32 < p.cols; part += SIZE) {
		const uint count = min(32, p.cols - part * 32);

		weights(p.w, n, part, p.cols, w);
		for (uint m = 0; m < rows; m++) {
			Floats f = Floats(x[m] + part * 128);

			for (uint i = 0; i < count; i++)
				acc[m] += w[i] * f.v[i];
		}
	}
	for (uint m = 0; m < rows; m++) {
		const float sum = group_sum(acc[m]);

		if (gl_LocalInvocationIndex == 0)
			Floats(p.to + (uint64_t(m0 + m) * p.n + n) * 4).v[0] = sum;
	}
}

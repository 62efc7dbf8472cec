#version 460
// Rows as halves in the order of skinny.glsl, a work group a row. Rows past the last are
// left as they are, since what comes of them is never stored.
#include "common.glsl"

layout(constant_id = 1) const uint EACH = 1;     // vectors of an invocation, the last may be none
layout(constant_id = 3) const uint SIZE = 256;
layout(local_size_x_id = 3) in;
#include "reduce.glsl"
#include "skinny_rows.glsl"

layout(push_constant, scalar) uniform P {
	uint64_t to, scales, from;
	uint64_t picked;       // rows of from, or 0: all in turn
	uint vectors;          // of a row
} p;

void main()
{
	const uint m = gl_WorkGroupID.x, me = gl_LocalInvocationIndex;
	const uint row = p.picked == 0 ? m : Uints(p.picked).v[m];
	Vectors from = Vectors(p.from + uint64_t(row) * p.vectors * 16);
	vec4 x[EACH];

	[[unroll]] for (uint i = 0; i < EACH; i++) {
		const uint at = me + i * SIZE;

		x[i] = at < p.vectors ? from.v[at] : vec4(0);
	}
	write_halves(p.to, p.scales, m, me, p.vectors, x);
}

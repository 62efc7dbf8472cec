#version 460
// x / sqrt(mean(x^2) + eps) * w, a work group a row, in floats and in 8 bits or halves,
// as the next product wants them.
// OP 0: to = norm(from). OP 1: hidden += norm(from). OP 2: then to = norm(hidden) by the
// weights next.
#include "common.glsl"
#include "quantize8.glsl"

layout(constant_id = 0) const uint OP = 0;
layout(constant_id = 1) const uint EACH = 1;     // vectors of a lane, the last may be none
layout(constant_id = 3) const uint SIZE = 128;
layout(constant_id = 4) const uint HALVES = 0;   // besides floats, instead of 8 bits
layout(local_size_x_id = 3) in;
#include "reduce.glsl"
#include "skinny_rows.glsl"

layout(push_constant, scalar) uniform P {
	uint64_t from, w, hidden, next, to;
	uint64_t quants, blocks;         // or 0; HALVES: as skinny_rows.glsl makes them, and scales
	uint vectors;                    // of a row
	float eps;
} p;

float length_scale(vec4 x[EACH])
{
	float sum = 0;

	[[unroll]] for (uint i = 0; i < EACH; i++)
		sum += dot(x[i], x[i]);
	return inversesqrt(group_sum(sum) / float(p.vectors * 4) + p.eps);
}

void main()
{
	const uint me = lane_index();
	const uint64_t row = uint64_t(gl_WorkGroupID.x) * p.vectors * 16;
	const uint n = p.vectors > me ? (p.vectors - me + SIZE - 1) / SIZE : 0; // of mine
	vec4 x[EACH], w[EACH], h[EACH], next[EACH];

	[[unroll]] for (uint i = 0; i < EACH; i++) {
		const uint at = min(me + i * SIZE, p.vectors - 1);

		x[i] = i < n ? Vectors(p.from + row).v[at] : vec4(0);
		w[i] = Vectors(p.w).v[at];
		if (OP != 0) {
			h[i] = i < n ? Vectors(p.hidden + row).v[at] : vec4(0);
			if (OP == 2)
				next[i] = Vectors(p.next).v[at];
		}
	}
	float scale = length_scale(x);
	if (OP != 0) {
		[[unroll]] for (uint i = 0; i < EACH; i++) {
			h[i] += x[i] * scale * w[i];
			if (i < n)
				Vectors(p.hidden + row).v[me + i * SIZE] = h[i];
			x[i] = i < n ? h[i] : vec4(0);
			w[i] = next[i];
		}
		if (OP == 1)
			return;
		scale = length_scale(x);
	}
	[[unroll]] for (uint i = 0; i < EACH; i++) {
		const uint at = gl_WorkGroupID.x * p.vectors + me + i * SIZE;

		if (i >= n)
			break;
		x[i] *= scale * w[i];
		Vectors(p.to).v[at] = x[i];
		if (HALVES == 0 && p.quants != 0)
			write8(p.quants, p.blocks, gl_WorkGroupID.x, me + i * SIZE, p.vectors, x[i]);
	}
	if (HALVES != 0)
		write_halves(p.quants, p.blocks, gl_WorkGroupID.x, me, p.vectors, x);
}

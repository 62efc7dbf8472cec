#version 460
// Rows as halves for the matrix units, each scaled by a power of two of its own so that
// its largest element is near the top of what a half holds (the residual stream exceeds
// 65504, and what is small beside the largest must not vanish). Rows past the last, and
// elements past cols, are zeros.
#include "common.glsl"
#define SIZE 256
#include "reduce.glsl"
#include "tile_rows.glsl"

layout(local_size_x = SIZE) in;
layout(push_constant, scalar) uniform P {
	uint64_t to, scales, from;
	uint64_t picked;       // rows of from, or 0: all in turn
	uint rows, cols;
	uint stride;           // of a row of to
} p;

const int TOP = 15;            // elements are below 2 ^ TOP

void main()
{
	const uint m = gl_WorkGroupID.x, me = gl_LocalInvocationIndex;
	const uint row = m >= p.rows ? 0 : p.picked == 0 ? m : Uints(p.picked).v[m];
	const uint cols = m < p.rows ? p.cols : 0;
	Floats x = Floats(p.from + uint64_t(row) * p.cols * 4);
	Halves y = Halves(p.to + uint64_t(m) * p.stride * 2);
	float most = 0;
	int exponent;

	for (uint i = me; i < cols; i += SIZE)
		most = max(most, abs(x.v[i]));
	frexp(clamp(group_max(most), 1e-30, 3e38), exponent);
	const float scale = ldexp(1.0, TOP - exponent);
	for (uint i = me; i < p.stride; i += SIZE)
		y.v[tile_order(i)] = i < cols ? float16_t(x.v[i] * scale) : float16_t(0);
	if (me < SCALES)
		Floats(p.scales).v[m * SCALES + me] = ldexp(1.0, exponent - TOP);
}

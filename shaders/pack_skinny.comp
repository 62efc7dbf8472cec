#version 460
// Rows as halves in the order of skinny.glsl, a work group a row. Each is scaled by a
// power of two of its own, as in pack_rows.comp. Elements past cols are zeros; rows past
// the last are left as they are, since what comes of them is never stored.
#include "common.glsl"
#include "skinny.glsl"

layout(constant_id = 3) const uint SIZE = 256;
layout(local_size_x_id = 3) in;
#include "reduce.glsl"

layout(push_constant, scalar) uniform P {
	uint64_t to, scales, from;
	uint64_t picked;       // rows of from, or 0: all in turn
	uint cols;             // a multiple of 8
} p;

layout(buffer_reference, scalar, buffer_reference_align = 16) writeonly buffer Fragments { uvec4 v[]; };

float largest(uint64_t from)
{
	vec4 most = vec4(0);

	for (uint u = gl_LocalInvocationIndex; u < p.cols / 8; u += SIZE) {
		Vectors x = Vectors(from + u * 32);

		most = max(most, max(abs(x.v[0]), abs(x.v[1])));
	}
	return group_max(max(max(most.x, most.y), max(most.z, most.w)));
}

void main()
{
	const uint m = gl_WorkGroupID.x, chunks = (p.cols + CHUNK - 1) / CHUNK;
	const uint row = p.picked == 0 ? m : Uints(p.picked).v[m];
	const uint64_t from = p.from + uint64_t(row) * p.cols * 4;
	const int exponent = fragment_exponent(largest(from));
	const float scale = ldexp(1.0, exponent);

	for (uint u = gl_LocalInvocationIndex; u < chunks * (CHUNK / 8); u += SIZE) {
		const bool inside = u * 8 < p.cols;
		Vectors x = Vectors(from + (inside ? u * 32 : 0));

		Fragments(p.to).v[fragment_at(chunks, m / 8, u / 32, u % 8, m % 8 * 4 + u / 8 % 4)] =
			inside ? uvec4(fragment_half(x.v[0] * scale), fragment_half(x.v[1] * scale)) :
			         uvec4(0);
	}
	if (gl_LocalInvocationIndex == 0)
		Floats(p.scales).v[m] = ldexp(1.0, -exponent);
}

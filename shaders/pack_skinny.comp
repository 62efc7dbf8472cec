#version 460
// Rows as halves in the order of skinny.glsl, a work group a row. Each is scaled by a
// power of two of its own, as in pack_rows.comp. OP 1: of gelu(from) * up, which from
// becomes. Elements past cols are zeros; rows past the last are left as they are, since
// what comes of them is never stored.
#include "common.glsl"
#include "gelu.glsl"
#include "skinny.glsl"

layout(constant_id = 0) const uint OP = 0;
layout(constant_id = 3) const uint SIZE = 256;
layout(local_size_x_id = 3) in;
#include "reduce.glsl"

layout(push_constant, scalar) uniform P {
	uint64_t to, scales, from, up;
	uint64_t picked;       // rows of from, or 0: all in turn
	uint cols;             // a multiple of 8
} p;

layout(buffer_reference, scalar, buffer_reference_align = 16) writeonly buffer Fragments { uvec4 v[]; };
const int TOP = 15;            // elements are below 2 ^ TOP

// Eight floats, of which OP makes what is packed.
void operate(uint64_t from, uint64_t up)
{
	[[unroll]] for (uint i = 0; i < 2; i++) {
		vec4 x = Vectors(from).v[i];
		const vec4 y = Vectors(up).v[i];

		[[unroll]] for (uint j = 0; j < 4; j++)
			x[j] = gelu(x[j]) * y[j];
		Vectors(from).v[i] = x;
	}
}

float largest(uint64_t offset)
{
	vec4 most = vec4(0);

	for (uint u = gl_LocalInvocationIndex; u < p.cols / 8; u += SIZE) {
		Vectors x = Vectors(p.from + offset + u * 32);

		if (OP == 1)
			operate(p.from + offset + u * 32, p.up + offset + u * 32);
		most = max(most, max(abs(x.v[0]), abs(x.v[1])));
	}
	return group_max(max(max(most.x, most.y), max(most.z, most.w)));
}

void main()
{
	const uint m = gl_WorkGroupID.x, chunks = (p.cols + CHUNK - 1) / CHUNK;
	const uint row = p.picked == 0 ? m : Uints(p.picked).v[m];
	const uint64_t offset = uint64_t(row) * p.cols * 4;
	int exponent;

	frexp(clamp(largest(offset), 1e-30, 3e38), exponent);
	const float scale = ldexp(1.0, TOP - exponent);
	for (uint u = gl_LocalInvocationIndex; u < chunks * (CHUNK / 8); u += SIZE) {
		const bool inside = u * 8 < p.cols;
		Vectors x = Vectors(p.from + offset + (inside ? u * 32 : 0));
		const vec4 a = inside ? x.v[0] * scale : vec4(0);
		const vec4 b = inside ? x.v[1] * scale : vec4(0);

		Fragments(p.to).v[fragment_at(chunks, m / 8, u / 32, u % 8, m % 8 * 4 + u / 8 % 4)] =
			uvec4(packFloat2x16(f16vec2(a.xz)), packFloat2x16(f16vec2(a.yw)),
			      packFloat2x16(f16vec2(b.xz)), packFloat2x16(f16vec2(b.yw)));
	}
	if (gl_LocalInvocationIndex == 0)
		Floats(p.scales).v[m] = ldexp(1.0, exponent - TOP);
}

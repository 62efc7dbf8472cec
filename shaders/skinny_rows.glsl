// A row as halves in the order of skinny.glsl, by a work group that holds it. It is scaled
// by a power of two of its own, as in pack_rows.comp. Needs SIZE, EACH and reduce.glsl.
#include "skinny.glsl"

layout(buffer_reference, scalar, buffer_reference_align = 8) writeonly buffer HalfFragments { uvec2 v[]; };

// Elements [4 i, 4 i + 4): half of what a lane wants at once, whose pairs are of every
// other element.
void put_halves(uint64_t to, uint chunks, uint row, uint i, vec4 x)
{
	const uint u = i / 2, lane = row % 8 * 4 + u / 8 % 4;

	HalfFragments(to).v[fragment_at(chunks, row / 8, u / 32, u % 8, lane) * 2 + i % 2] =
		uvec2(packFloat2x16(f16vec2(x.xz)), packFloat2x16(f16vec2(x.yw)));
}

// An invocation me holds vectors me, me + SIZE, ... of those of the row; zeros past the
// last. All of a chunk are written.
void write_halves(uint64_t to, uint64_t scales, uint row, uint me, uint vectors, vec4 x[EACH])
{
	const uint chunks = (vectors * 4 + CHUNK - 1) / CHUNK;
	vec4 most = vec4(0);
	int exponent;

	[[unroll]] for (uint i = 0; i < EACH; i++)
		most = max(most, abs(x[i]));
	frexp(clamp(group_max(max(max(most.x, most.y), max(most.z, most.w))), 1e-30, 3e38), exponent);
	const float scale = ldexp(1.0, 15 - exponent);
	[[unroll]] for (uint i = 0; i < EACH; i++)
		if (me + i * SIZE < vectors)
			put_halves(to, chunks, row, me + i * SIZE, x[i] * scale);
	for (uint i = vectors + me; i < chunks * (CHUNK / 4); i += SIZE)
		put_halves(to, chunks, row, i, vec4(0));
	if (me == 0)
		Floats(scales).v[row] = ldexp(1.0, exponent - 15);
}

// to[m][n] = from[m] . w[n] of F32, F16 and BF16 weights and float32 inputs, for TILE
// rows m.
#include "common.glsl"
#include "types.glsl"
#include "quantize8.glsl"
#include "gelu.glsl"
#include "products.glsl"

const uint UNIT = 8;             // elements that a lane reads of a row at once
const uint ELEMENT = TYPE == F32 ? 4 : 2;

// Rows of other lengths do not begin at multiples of 16 bytes.
bool is_aligned()
{
	return p.cols % UNIT == 0;
}

void load_unit(uint64_t w, uint row, uint u, out uvec4 q[2])
{
	[[unroll]] for (uint i = 0; i < (TYPE == F32 ? 2 : 1); i++)
		q[i] = Quads(w + uint64_t(row) * p.cols * ELEMENT).v[u * (TYPE == F32 ? 2 : 1) + i];
}

void unpack(uvec4 q[2], out vec4 w[2])
{
	if (TYPE == F32) {
		[[unroll]] for (uint i = 0; i < 2; i++)
			w[i] = uintBitsToFloat(q[i]);
	} else if (TYPE == F16) {
		w[0] = vec4(unpackHalf2x16(q[0].x), unpackHalf2x16(q[0].y));
		w[1] = vec4(unpackHalf2x16(q[0].z), unpackHalf2x16(q[0].w));
	} else {
		[[unroll]] for (uint i = 0; i < 2; i++) {
			const uint a = q[0][2 * i], b = q[0][2 * i + 1];

			w[i] = uintBitsToFloat(uvec4(a << 16, a & 0xffff0000u, b << 16,
			                             b & 0xffff0000u));
		}
	}
}

void multiply_aligned(Part t, uint at, uint u, uint rows[TILE], inout float acc[OUTPUTS][TILE])
{
	uvec4 q[OUTPUTS][2];

	[[unroll]] for (uint o = 0; o < OUTPUTS; o++)
		load_unit(t.w[2 * o / OUTPUTS], row_of_output(t, at, o), u, q[o]);
	vec4 w[OUTPUTS][2];
	[[unroll]] for (uint o = 0; o < OUTPUTS; o++)
		unpack(q[o], w[o]);
	[[unroll]] for (uint m = 0; m < TILE; m++) {
		Vectors x = Vectors(p.from + (uint64_t(rows[m]) * p.cols + u * UNIT) * 4);
		const vec4 a = x.v[0], b = x.v[1];

		[[unroll]] for (uint o = 0; o < OUTPUTS; o++)
			acc[o][m] += dot(w[o][0], a) + dot(w[o][1], b);
	}
}

void multiply_elements(Part t, uint at, uint u, uint rows[TILE], inout float acc[OUTPUTS][TILE])
{
	for (uint k = u * UNIT; k < min(u * UNIT + UNIT, p.cols); k++)
		[[unroll]] for (uint o = 0; o < OUTPUTS; o++) {
			const uint64_t n = row_of_output(t, at, o);
			const float w = plain_at(t.w[2 * o / OUTPUTS], n * p.cols + k);

			[[unroll]] for (uint m = 0; m < TILE; m++)
				acc[o][m] += w * Floats(p.from).v[rows[m] * p.cols + k];
		}
}

void main()
{
	const Part t = part_of_group();
	const Team team = my_team();
	const uint lane = team.lane, step = team.lanes, units = (p.cols + UNIT - 1) / UNIT;
	uint rows[TILE];

	if (t.none)
		return;
	find_rows(t, rows);
	for (uint at = team.first; at < GROUP; at += team.step) {
		float acc[OUTPUTS][TILE];

		[[unroll]] for (uint o = 0; o < OUTPUTS; o++)
			[[unroll]] for (uint m = 0; m < TILE; m++)
				acc[o][m] = 0;
		for (uint u = lane; u < units; u += step)
			if (is_aligned())
				multiply_aligned(t, at, u, rows, acc);
			else
				multiply_elements(t, at, u, rows, acc);
		keep_sums(acc, at, team.member);
	}
	write_outputs(t);
}

// to[m][n] = from[m] . w[n] of quantised weights and inputs in 8 bits, for TILE rows m.
#include "common.glsl"
#include "types.glsl"
#include "quantize8.glsl"
#include "gelu.glsl"
#include "products.glsl"
#include "units8.glsl"

void multiply_part(Unit x[OUTPUTS], uint u, uint s, uint rows[TILE],
                   inout float acc[OUTPUTS][TILE])
{
	const uint e = element_of(u, s);
	uvec4 q[OUTPUTS][2];
	vec2 scale[OUTPUTS];

	[[unroll]] for (uint o = 0; o < OUTPUTS; o++)
		scale[o] = unpack(x[o], u, s, q[o]);
	[[unroll]] for (uint m = 0; m < TILE; m++) {
		const uvec2 block = Blocks8(p.blocks).v[rows[m] * (p.cols / 32) + e / 32];
		const int offset = offset_of(block, e);
		const float d = block8_scale(block);
		const uvec4 a = Quads(p.from).v[quad_of(rows[m], e / 16)];
		const uvec4 b = WIDTH == 2 ? Quads(p.from).v[quad_of(rows[m], e / 16 + 1)] : uvec4(0);

		[[unroll]] for (uint o = 0; o < OUTPUTS; o++) {
			int sum = dot16(q[o][0], a) - offset;

			if (WIDTH == 2)
				sum += dot16(q[o][1], b);
			acc[o][m] += scale[o].x * d * float(sum);
			if (HAS_MINIMUM)
				acc[o][m] -= scale[o].y * d * float(block8_sum(block, e / 16 % 2));
		}
	}
}

void multiply(Unit x[OUTPUTS], uint u, uint rows[TILE], inout float acc[OUTPUTS][TILE])
{
	[[unroll]] for (uint s = 0; s < 4; s++)
		if (s < SUBS)
			multiply_part(x, u, s, rows, acc);
}

void main()
{
	const Part t = part_of_group();
	const Team team = my_team();
	const uint lane = team.lane, step = team.lanes, units = p.cols / UNIT;
	uint rows[TILE];

	begin_types();
	if (t.none)
		return;
	find_rows(t, rows);
	for (uint at = team.first; at < GROUP; at += team.step) {
		float acc[OUTPUTS][TILE];
		Unit now[OUTPUTS], next[OUTPUTS];

		[[unroll]] for (uint o = 0; o < OUTPUTS; o++) {
			[[unroll]] for (uint m = 0; m < TILE; m++)
				acc[o][m] = 0;
			next[o] = load_unit(t.w[2 * o / OUTPUTS], t.n, row_of_output(t, at, o),
			                    min(lane, units - 1));
		}
		// The next unit is on its way while this one is multiplied.
		for (uint u = lane; u < units; u += step) {
			[[unroll]] for (uint o = 0; o < OUTPUTS; o++) {
				now[o] = next[o];
				next[o] = load_unit(t.w[2 * o / OUTPUTS], t.n,
				                    row_of_output(t, at, o), min(u + step, units - 1));
			}
			multiply(now, u, rows, acc);
		}
		keep_sums(acc, at, team.member);
	}
	write_outputs(t);
}

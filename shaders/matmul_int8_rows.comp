#version 460
// As matmul_int8.comp, for more than one row.
#include "common.glsl"
#include "types.glsl"
#include "quantize8.glsl"
#include "gelu.glsl"
#include "products.glsl"
#include "units8.glsl"

// The input is read a chunk at a time into shared memory, the next one while this one is
// multiplied.
const uint BLOCKS = TILE > 8 ? 32 : 64;  // of 32 elements of a row, in a chunk
const uint ALL = TILE * BLOCKS;
shared uvec4 staged[2][2][ALL];          // [chunk][half of a block]
shared uvec2 staged_blocks[2][ALL];
shared uint input_rows[TILE];

void stage(uint chunk)
{
	const uint first = chunk * BLOCKS, n = min(BLOCKS, p.cols / 32 - first);

	for (uint i = gl_LocalInvocationIndex; i < ALL; i += SIZE) {
		const uint row = input_rows[i / BLOCKS], b = first + i % BLOCKS;

		if (i % BLOCKS >= n)
			continue;
		staged[chunk % 2][0][i] = Quads(p.from).v[quad_of(row, b * 2)];
		staged[chunk % 2][1][i] = Quads(p.from).v[quad_of(row, b * 2 + 1)];
		staged_blocks[chunk % 2][i] = Blocks8(p.blocks).v[row * (p.cols / 32) + b];
	}
}

// What a part of row m of the input is multiplied by: its block, and its quants.
uvec2 read_input(uint m, uint e, out uvec4 a[2])
{
	const uint b = e / 32, chunk = b / BLOCKS % 2, i = m * BLOCKS + b % BLOCKS;

	[[unroll]] for (uint j = 0; j < WIDTH; j++)
		a[j] = staged[chunk][(e / 16 + j) % 2][i];
	return staged_blocks[chunk][i];
}

void multiply(Unit x[OUTPUTS], uint u, inout float acc[OUTPUTS][TILE])
{
	[[unroll]] for (uint s = 0; s < SUBS; s++) {
		const uint e = element_of(u, s);
		uvec4 q[OUTPUTS][2];
		vec2 scale[OUTPUTS];

		[[unroll]] for (uint o = 0; o < OUTPUTS; o++)
			scale[o] = unpack(x[o], u, s, q[o]);
		[[unroll]] for (uint m = 0; m < TILE; m++) {
			uvec4 a[2];
			const uvec2 block = read_input(m, e, a);
			const int offset = offset_of(block, e);
			const float d = block8_scale(block);

			[[unroll]] for (uint o = 0; o < OUTPUTS; o++) {
				int sum = -offset;

				[[unroll]] for (uint i = 0; i < WIDTH; i++)
					sum += dot16(q[o][i], a[i]);
				acc[o][m] += scale[o].x * d * float(sum);
				if (TYPE == Q4_K)
					acc[o][m] -= scale[o].y * d *
					             float(block8_sum(block, e / 16 % 2));
			}
		}
	}
}

// A team's outputs, by its lanes: units [lane, lane + step, ...) of each chunk. The next
// unit is on its way while this one is multiplied. All of the work group come here: it
// waits for each other at chunks.
void multiply_row(Part t, uint at, uint lane, uint step, bool idle, inout float acc[OUTPUTS][TILE])
{
	const uint units = p.cols / UNIT, of_chunk = BLOCKS * 32 / UNIT;
	const uint chunks = (units + of_chunk - 1) / of_chunk;
	Unit now[OUTPUTS], next[OUTPUTS];

	[[unroll]] for (uint o = 0; o < OUTPUTS; o++)
		next[o] = load_unit(t.w[2 * o / OUTPUTS], t.n, row_of_output(t, at, o),
		                    min(lane, units - 1));
	stage(0);
	for (uint c = 0; c < chunks; c++) {
		const uint end = min((c + 1) * of_chunk, units);

		barrier();
		if (c + 1 < chunks)
			stage(c + 1);
		for (uint u = c * of_chunk + lane; u < end && !idle; u += step) {
			const uint then = u + step < end ? u + step : end + lane;

			[[unroll]] for (uint o = 0; o < OUTPUTS; o++) {
				now[o] = next[o];
				next[o] = load_unit(t.w[2 * o / OUTPUTS], t.n,
				                    row_of_output(t, at, o), min(then, units - 1));
			}
			multiply(now, u, acc);
		}
	}
}

void main()
{
	const Part t = part_of_group();
	const uint split = min(SPLIT, gl_NumSubgroups), teams = gl_NumSubgroups / split;
	const uint team = gl_SubgroupID / split, member = gl_SubgroupID % split;
	const uint lane = member * gl_SubgroupSize + gl_SubgroupInvocationID;

	if (t.none)
		return;
	if (gl_LocalInvocationIndex < TILE)
		input_rows[gl_LocalInvocationIndex] = row_of_input(t.m0 + gl_LocalInvocationIndex);
	barrier();
	for (uint first = 0; first < GROUP; first += teams * OUTPUTS) {
		const uint at = first + team * OUTPUTS;
		float acc[OUTPUTS][TILE];

		[[unroll]] for (uint o = 0; o < OUTPUTS; o++)
			[[unroll]] for (uint m = 0; m < TILE; m++)
				acc[o][m] = 0;
		if (first > 0)
			barrier();
		multiply_row(t, min(at, GROUP - OUTPUTS), lane, split * gl_SubgroupSize, at >= GROUP,
		             acc);
		if (at < GROUP)
			keep_sums(acc, at, member);
	}
	write_outputs(t, split);
}

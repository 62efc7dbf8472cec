// What products of few rows share, whatever the weights: which outputs are whose, and
// how partial sums become outputs.
//
// A work group computes GROUP outputs n of TILE rows m. A team of SPLIT subgroups takes
// OUTPUTS of them at a time: its lanes share k, each lane reads a piece of each of the
// OUTPUTS rows of weights, and multiplies it with the TILE rows of the input.
#extension GL_KHR_shader_subgroup_arithmetic : require

// TILE and OUTPUTS are no specialisation constants: drivers have left loops over these
// rolled up, and so their arrays in memory.
layout(constant_id = 3) const uint SIZE = 128;   // invocations
layout(constant_id = 4) const uint SPLIT = 1;    // divides SIZE / 32
layout(constant_id = 5) const uint PASSES = 1;   // of a team, if subgroups have 32 lanes
layout(constant_id = 6) const uint GATED = 0;    // w[0], w[1] are gate and up
layout(local_size_x_id = 3) in;

const uint GROUP = SIZE / 32 / SPLIT * PASSES * OUTPUTS;
const uint EACH = GATED != 0 ? GROUP / 2 : GROUP; // outputs written

layout(push_constant, scalar) uniform P {
	uint64_t from, blocks;   // quants and blocks of quants8.glsl; or floats
	uint64_t picked;         // rows of from, or 0: all in turn
	uint64_t w[3], to[3];
	uint n[3];               // 0: no such matrix
	uint cols, tiles;        // k; tiles of rows
	uint64_t quants_out, blocks_out; // of gated products, or 0: to in 8 bits
} p;

shared float sums[SPLIT][GROUP * TILE], gated[GATED != 0 ? EACH * TILE : 1];

struct Part {                    // of an output: what the work group computes
	uint64_t w[2], to;       // w[1]: of the second half of a team's OUTPUTS
	uint n, first, m0;
	bool none;               // past the last output
};

struct Team {
	uint first, step;        // outputs: the first, and from those to the next
	uint lane, lanes;        // that share k
	uint member;             // which of its subgroups this is
};

uint members()
{
	return min(SPLIT, gl_NumSubgroups);
}

Team my_team()
{
	const uint member = gl_SubgroupID % members();

	return Team(gl_SubgroupID / members() * OUTPUTS, gl_NumSubgroups / members() * OUTPUTS,
	            member * gl_SubgroupSize + gl_SubgroupInvocationID,
	            members() * gl_SubgroupSize, member);
}

// Tiles of rows that share weights follow each other.
Part part_of_group()
{
	const uint id = gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x;
	uint g = id / p.tiles, i = 0;
	Part t;

	if (GATED == 0)
		for (; i < 2 && g >= (p.n[i] + GROUP - 1) / GROUP; i++)
			g -= (p.n[i] + GROUP - 1) / GROUP;
	t.w[0] = p.w[i];
	t.w[1] = GATED != 0 ? p.w[1] : p.w[i];
	t.to = p.to[i];
	t.n = p.n[i];
	t.first = g * EACH;
	t.m0 = id % p.tiles * TILE;
	t.none = t.first >= t.n;
	return t;
}

void find_rows(Part t, out uint rows[TILE])
{
	[[unroll]] for (uint m = 0; m < TILE; m++)
		rows[m] = p.picked == 0 ? t.m0 + m : Uints(p.picked).v[t.m0 + m];
}

// Row of weights of a team's output o, its outputs beginning at `at` of the group.
uint row_of_output(Part t, uint at, uint o)
{
	const uint n = GATED != 0 ? at / 2 + o % (OUTPUTS / 2) : at + o;

	return min(t.first + n, t.n - 1);
}

void keep_sums(float acc[OUTPUTS][TILE], uint at, uint member)
{
	[[unroll]] for (uint o = 0; o < OUTPUTS; o++)
		[[unroll]] for (uint m = 0; m < TILE; m++) {
			const float sum = subgroupAdd(acc[o][m]);

			if (subgroupElect())
				sums[member][(at + o) * TILE + m] = sum;
		}
}

float output_of(uint n, uint m)
{
	float sum = sums[0][n * TILE + m];

	for (uint i = 1; i < members(); i++)
		sum += sums[i][n * TILE + m];
	return sum;
}

float gated_output(uint n, uint m)
{
	const uint at = n / (OUTPUTS / 2) * OUTPUTS + n % (OUTPUTS / 2);

	return gelu(output_of(at, m)) * output_of(at + OUTPUTS / 2, m);
}

// Of what a work group has gated, whole blocks of 32.
void write_gated8(Part t)
{
	barrier();
	for (uint i = lane_index(); i < EACH * TILE / 4; i += SIZE) {
		const uint at = t.first / 4 + i % (EACH / 4);

		if (at < t.n / 4)
			write8(p.quants_out, p.blocks_out, t.m0 + i / (EACH / 4), at, t.n / 4,
			       vec4(gated[4 * i], gated[4 * i + 1], gated[4 * i + 2],
			            gated[4 * i + 3]));
	}
}

void write_outputs(Part t)
{
	barrier();
	for (uint i = gl_LocalInvocationIndex; i < EACH * TILE; i += SIZE) {
		const uint n = i % EACH, m = i / EACH;

		if (t.first + n >= t.n)
			continue;
		const float x = GATED != 0 ? gated_output(n, m) : output_of(n, m);

		if (GATED != 0)
			gated[i] = x;
		Floats(t.to + (uint64_t(t.m0 + m) * t.n + t.first + n) * 4).v[0] = x;
	}
	if (GATED != 0 && p.quants_out != 0)
		write_gated8(t);
}

#version 460
// softmax(q k^T scale) v. A work group takes the query heads of a KV head of a row, and
// of the row's positions a part: some blocks of 64. K and V are read once for all of
// these heads. The work group that is last to end its part of a row merges the parts.
// OP 1: no two rows are of the same sequence; Q and K are still to be normed and rotated,
// and K and V to be stored, which the work group of the last part does.
#include "common.glsl"
#include "quantize8.glsl"
const uint SIZE = 256;
layout(local_size_x = 256) in;
layout(constant_id = 1) const uint HEADS = 1;    // query heads of a KV head
const uint HEAD_ROWS = 2, HEAD_ROWS_IN = HEADS + 2; // K, V; queries, K, V
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "kv.glsl"
#include "heads.glsl"
#include "skinny.glsl"

layout(constant_id = 4) const uint OP = 0;
layout(constant_id = 5) const uint HALVES = 0;   // outputs are for products in registers
layout(push_constant, scalar) uniform P {
	uint64_t q, k, v, q_norm, k_norm, to;
	uint64_t quants, blocks; // HALVES: halves, and their scales by chunk
	uint64_t step, angles, parts, ended;
	uint kv_heads, kind, layer;
	float scale, eps;
} p;

const float LOWEST = -3.0e38;
const uint OCTETS = DIM / 8, TEAMS = SIZE / OCTETS;     // a team: the octets of a position
const uint MOST_PARTS = 64;              // of a row, as in vulkan_device.h
const uint EACH = (KV_BLOCK + TEAMS - 1) / TEAMS;       // positions of a team in a block
shared float q[HEADS][DIM], score[2][HEADS][KV_BLOCK], merged[SIZE * 8];
shared float highest_of[HEADS], sum_of[HEADS];
shared float team_sum[SIZE / OCTETS + 1], share[HEADS][MOST_PARTS];
shared uint before;
layout(buffer_reference, scalar, buffer_reference_align = 4) coherent buffer Parts { float v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) coherent buffer Counts { uint v[]; };

// The queries, scaled, to q. With `at` below KV_BLOCK K and V too, normed, rotated and
// stored as that position of the block.
void read_heads(uint row, uint kv_head_, uint64_t block, uint at)
{
	const uint64_t n = uint64_t(row) * p.kv_heads + kv_head_, angles = p.angles + row * DIM * 4;
	const bool append = at < KV_BLOCK;
	const uint heads = append ? HEADS + 1 : HEADS, me = gl_LocalInvocationIndex;

	for (uint h = 0; h < HEADS; h++)
		read_head(h, p.q + (n * HEADS + h) * DIM * 4);
	if (append) {
		read_head(HEADS, p.k + n * DIM * 4);
		read_head(HEADS + 1, p.v + n * DIM * 4);
	}
	barrier();
	for (uint j = me; j < heads * (DIM / 2); j += SIZE) {
		const uint h = j / (DIM / 2), i = j % (DIM / 2);
		const bool is_k = h == HEADS;
		vec2 x = vec2(raw[h][i], raw[h][i + DIM / 2]);

		if (OP == 1)
			x = rotated(h, i, head_scale(h, p.eps), is_k ? p.k_norm : p.q_norm, angles);
		if (is_k) {
			head_floats[0][i] = x.x;
			head_floats[0][i + DIM / 2] = x.y;
		} else {
			q[h][i] = x.x * p.scale;
			q[h][i + DIM / 2] = x.y * p.scale;
		}
	}
	for (uint i = me; append && i < DIM; i += SIZE)
		head_floats[1][i] = raw[HEADS + 1][i];
	barrier();
	if (append) {
		kv_store(kv_head(block, p.layer, 0, kv_head_, p.kv_heads), at, 0, me, SIZE);
		kv_store(kv_head(block, p.layer, 1, kv_head_, p.kv_heads), at, 1, me, SIZE);
		memoryBarrierBuffer();
		barrier();
	}
}

// Four lanes a position.
void find_scores(uint64_t keys, uint which, bool seen)
{
	const uint at = lane_index() / 4, j = lane_index() % 4;
	float sum[HEADS];

	[[unroll]] for (uint h = 0; h < HEADS; h++)
		sum[h] = 0;
	[[unroll]] for (uint i = 0; i < OCTETS; i += 4) {
		vec4 x[2];

		if (i + j >= OCTETS)
			break;
		kv_floats(kv_load(keys, at, i + j), x);
		[[unroll]] for (uint h = 0; h < HEADS; h++)
			[[unroll]] for (uint e = 0; e < 8; e++)
				sum[h] += q[h][(i + j) * 8 + e] * x[e / 4][e % 4];
	}
	[[unroll]] for (uint h = 0; h < HEADS; h++) {
		float s = sum[h];

		s += subgroupShuffleXor(s, 1);
		s += subgroupShuffleXor(s, 2);
		if (j == 0)
			score[which][h][at] = seen ? s : LOWEST;
	}
}

float highest_score(uint which, uint h)
{
	float most = LOWEST;

	for (uint i = gl_SubgroupInvocationID; i < KV_BLOCK; i += gl_SubgroupSize)
		most = max(most, score[which][h][i]);
	return subgroupMax(most);
}

// acc and sum of head h over all teams: to q[h] and sum_of[h].
void merge_teams(vec4 acc[2], float sum, uint h)
{
	const uint me = gl_LocalInvocationIndex;

	barrier();
	[[unroll]] for (uint e = 0; e < 8; e++)
		merged[me * 8 + e] = acc[e / 4][e % 4];
	if (me % OCTETS == 0)
		team_sum[me / OCTETS] = sum;
	barrier();
	for (uint i = me; i < DIM; i += SIZE) {
		float x = 0;

		[[unroll]] for (uint t = 0; t < TEAMS; t++)
			x += merged[t * DIM + i];
		q[h][i] = x;
	}
	if (me == 0) {
		float all = 0;

		[[unroll]] for (uint t = 0; t < TEAMS; t++)
			all += team_sum[t];
		sum_of[h] = all;
	}
}

layout(buffer_reference, scalar, buffer_reference_align = 16) writeonly buffer Fragments { uvec4 v[]; };

// The heads are whole chunks of a row. A subgroup, of 32 lanes, makes one of them halves,
// in the order and with a power of two of its own as skinny_rows.glsl does for a row.
void write_halves(uint row, uint kv_head_)
{
	const uint chunks = p.kv_heads * HEADS * DIM / CHUNK, u = gl_SubgroupInvocationID;

	for (uint c = gl_SubgroupID; c < HEADS * DIM / CHUNK; c += gl_NumSubgroups) {
		const uint at = c * CHUNK + u * 8, h = at / DIM, chunk = kv_head_ * HEADS * DIM / CHUNK + c;
		vec4 x[2];
		float most = 0;
		int exponent;

		[[unroll]] for (uint i = 0; i < 8; i++) {
			x[i / 4][i % 4] = q[h][at % DIM + i] / sum_of[h];
			most = max(most, abs(x[i / 4][i % 4]));
		}
		frexp(clamp(subgroupMax(most), 1e-30, 3e38), exponent);
		const float scale = ldexp(1.0, 15 - exponent);
		Fragments(p.quants).v[fragment_at(chunks, row / 8, chunk, u % 8, row % 8 * 4 + u / 8)] =
			uvec4(packFloat2x16(f16vec2(x[0].xz * scale)), packFloat2x16(f16vec2(x[0].yw * scale)),
			      packFloat2x16(f16vec2(x[1].xz * scale)), packFloat2x16(f16vec2(x[1].yw * scale)));
		if (subgroupElect())
			Floats(p.blocks).v[row * chunks + chunk] = ldexp(1.0, exponent - 15);
	}
}

// q holds the heads' sums of values, not yet divided.
void write_heads(uint row, uint kv_head_)
{
	const uint first = (row * p.kv_heads + kv_head_) * HEADS * (DIM / 4);

	barrier();
	for (uint i = lane_index(); i < HEADS * DIM / 4; i += SIZE) {
		const uint h = i / (DIM / 4), d = i % (DIM / 4) * 4;
		const vec4 x = vec4(q[h][d], q[h][d + 1], q[h][d + 2], q[h][d + 3]) / sum_of[h];

		Vectors(p.to).v[first + i] = x;
		if (DIM % 32 == 0 && HALVES == 0 && p.quants != 0)
			write8(p.quants, p.blocks, row, kv_head_ * HEADS * (DIM / 4) + i,
			       p.kv_heads * HEADS * (DIM / 4), x);
	}
	if (HALVES != 0)
		write_halves(row, kv_head_);
}

// Keeps the part for who merges; true: that is us.
bool keep_part(uint64_t at, uint part, uint n_parts, uint64_t count)
{
	Parts out_ = Parts(at + uint64_t(part) * HEADS * (DIM + 2) * 4);

	barrier();
	for (uint i = gl_LocalInvocationIndex; i < HEADS * DIM; i += SIZE)
		out_.v[i] = q[i / DIM][i % DIM];
	if (gl_LocalInvocationIndex < HEADS) {
		out_.v[HEADS * DIM + gl_LocalInvocationIndex] = highest_of[gl_LocalInvocationIndex];
		out_.v[HEADS * (DIM + 1) + gl_LocalInvocationIndex] = sum_of[gl_LocalInvocationIndex];
	}
	memoryBarrierBuffer();
	barrier();
	if (gl_LocalInvocationIndex == 0)
		before = atomicAdd(Counts(count).v[0], 1);
	barrier();
	if (before + 1 != n_parts)
		return false;
	memoryBarrierBuffer();
	if (gl_LocalInvocationIndex == 0)
		Counts(count).v[0] = 0;
	return true;
}

// share holds the parts' maxima, merged their sums: to what each part counts for, and sum_of.
void weigh_parts(uint n_parts)
{
	for (uint h = gl_SubgroupID; h < HEADS; h += gl_NumSubgroups) {
		float most = LOWEST, sum = 0;

		for (uint i = gl_SubgroupInvocationID; i < n_parts; i += gl_SubgroupSize)
			most = max(most, share[h][i]);
		most = subgroupMax(most);
		for (uint i = gl_SubgroupInvocationID; i < n_parts; i += gl_SubgroupSize) {
			share[h][i] = exp(share[h][i] - most);
			sum += merged[i * HEADS + h] * share[h][i];
		}
		sum = subgroupAdd(sum);
		if (subgroupElect())
			sum_of[h] = sum;
	}
	barrier();
}

void merge_parts(uint64_t at, uint n_parts)
{
	const uint stride = HEADS * (DIM + 2), me = gl_LocalInvocationIndex;
	Parts in_ = Parts(at);

	for (uint i = me; i < HEADS * n_parts; i += SIZE) {
		const uint h = i % HEADS, part = i / HEADS;

		share[h][part] = in_.v[part * stride + HEADS * DIM + h];
		merged[i] = in_.v[part * stride + HEADS * (DIM + 1) + h];
	}
	barrier();
	weigh_parts(n_parts);
	for (uint j = me; j < HEADS * DIM; j += SIZE) {
		const uint h = j / DIM;
		float x = 0;

		// Many at once: the loads wait together.
		for (uint i = 0; i < n_parts; i += 16) {
			float v[16];

			[[unroll]] for (uint e = 0; e < 16; e++)
				v[e] = in_.v[min(i + e, n_parts - 1) * stride + j];
			[[unroll]] for (uint e = 0; e < 16; e++)
				if (i + e < n_parts)
					x += v[e] * share[h][i + e];
		}
		q[h][j % DIM] = x;
	}
}

void main()
{
	const uint kv_head_ = gl_WorkGroupID.x, part = gl_WorkGroupID.y, row = gl_WorkGroupID.z;
	const uint me = gl_LocalInvocationIndex, octet = me % OCTETS, team = me / OCTETS;
	Step s = Step(p.step);
	const Row r = s.row[row];
	const uint first = r.first[p.kind], first_block = first / KV_BLOCK;
	const uint blocks = r.pos / KV_BLOCK + 1 - first_block, each = s.part_blocks[p.kind];
	const uint n_parts = (blocks + each - 1) / each;

	if (row >= s.rows || part >= n_parts || r.tiled != 0)
		return;
	const uint begin = first_block + part * each, end = min(begin + each, first_block + blocks);
	Addresses table = Addresses(s.tables + r.table[p.kind] * 8);
	float most[HEADS], sum[HEADS];
	vec4 acc[HEADS][2];

	const bool append = OP == 1 && part == n_parts - 1;
	read_heads(row, kv_head_, table.v[end - 1], append ? r.pos % KV_BLOCK : KV_BLOCK);
	[[unroll]] for (uint h = 0; h < HEADS; h++) {
		most[h] = LOWEST;
		sum[h] = 0;
		acc[h][0] = acc[h][1] = vec4(0);
	}
	for (uint b = begin; b < end; b++) {
		const uint64_t block = table.v[b];
		const uint64_t values = kv_head(block, p.layer, 1, kv_head_, p.kv_heads);
		const uint pos = b * KV_BLOCK + lane_index() / 4;
		Octet v[EACH];

		[[unroll]] for (uint i = 0; i < EACH; i++)
			v[i] = kv_load(values, min(team + i * TEAMS, KV_BLOCK - 1), octet);
		find_scores(kv_head(block, p.layer, 0, kv_head_, p.kv_heads), b % 2,
		            pos >= first && pos <= r.pos);
		barrier();
		float shrink[HEADS];
		[[unroll]] for (uint h = 0; h < HEADS; h++) {
			const float now = max(most[h], highest_score(b % 2, h));

			shrink[h] = exp(most[h] - now);
			most[h] = now;
			sum[h] *= shrink[h];
			acc[h][0] *= shrink[h];
			acc[h][1] *= shrink[h];
		}
		[[unroll]] for (uint i = 0; i < EACH; i++) {
			const uint at = team + i * TEAMS, j = b * KV_BLOCK + at;
			vec4 x[2];

			// What is not seen may be NaN.
			if (team >= TEAMS || at >= KV_BLOCK || j < first || j > r.pos)
				continue;
			kv_floats(v[i], x);
			[[unroll]] for (uint h = 0; h < HEADS; h++) {
				const float w = exp(score[b % 2][h][at] - most[h]);

				sum[h] += w;
				acc[h][0] += w * x[0];
				acc[h][1] += w * x[1];
			}
		}
	}
	[[unroll]] for (uint h = 0; h < HEADS; h++) {
		merge_teams(acc[h], sum[h], h);
		if (me == 0)
			highest_of[h] = most[h];
	}
	if (n_parts > 1) {
		const uint64_t at = row * p.kv_heads + kv_head_;
		const uint64_t parts = p.parts + at * gl_NumWorkGroups.y * HEADS * (DIM + 2) * 4;

		if (!keep_part(parts, part, n_parts, p.ended + at * 4))
			return;
		merge_parts(parts, n_parts);
	}
	write_heads(row, kv_head_);
}

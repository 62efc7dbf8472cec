#version 460
// softmax(q k^T scale) v on matrix units, for tiles of rows that are of one sequence and
// follow each other in it: K and V are read once for all heads of all of them. A work
// group takes the query heads of a KV head, 64 queries of a tile; a subgroup of 32 lanes
// 16 of these. K and V are stored already.
#pragma use_vulkan_memory_model
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_KHR_shader_subgroup_vote : require
#include "common.glsl"
const uint SIZE = 128;
layout(local_size_x = 128) in;
layout(constant_id = 1) const uint HEADS = 1;    // query heads of a KV head
const uint HEAD_ROWS = 1;
#include "kv.glsl"

layout(push_constant, scalar) uniform P {
	uint64_t q, to, step;
	uint64_t q_norm, angles; // q_norm 0: Q is normed and rotated already
	uint kv_heads, kind, layer;
	float scale, eps;
} p;

const uint STEP = 32;                    // positions at a time; a block's are a multiple
const uint OCTETS = DIM / 8, ROW = OCTETS + 1;   // of a staged row: they begin in different banks
const uint LOADS = (STEP * OCTETS + SIZE - 1) / SIZE;
const bool AHEAD = DIM <= 128;           // the next step is fetched while this one is at work
const uint LANES = 2, EACH = STEP / LANES;       // of a query: lanes, and scores of one
const uint SCORES = STEP / 4 + 1;        // of a query's scores, in uvec4s
const uint AT_ONCE = 4;                  // queries that are loaded
const float LOWEST = -3.0e38;
const int TOP = 15;                      // queries as halves are below 2 ^ TOP
// Values of Q8_0 may exceed what halves hold.
const float SHRINK = KV_TYPE == KV_Q8_0 ? 1.0 / 128 : 1.0;

shared uvec4 staged[2 * STEP * ROW];     // halves: keys, values; before all the queries
shared uvec4 scores[4 * 16 * SCORES];    // floats; then weights as halves, and the rescaling
shared float unit[4 * 16];               // of a query's scores

Octet keys[LOADS], values[LOADS];
coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> q[DIM / 16];
coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> sums[DIM / 16];

struct Seen {
	uint first, last;                // positions; first > last: none
};

struct Query {                           // a lane's
	Seen seen;
	float most, sum;                 // sum: of the lane's own weights
};

uint query_of_lane()
{
	return gl_SubgroupID * 16 + gl_SubgroupInvocationID / LANES;
}

uint head_of(uint row, uint m)
{
	return ((row + m / HEADS) * p.kv_heads + gl_WorkGroupID.x) * HEADS + m % HEADS;
}

// A lane's elements of a head, [4 i, 4 i + 4) of each half of it, normed and rotated.
void norm_and_rotate(uint row, uint i, inout vec4 a, inout vec4 b)
{
	const float sum = subgroupAdd(dot(a, a) + dot(b, b));
	const float scale = inversesqrt(sum / float(DIM) + p.eps);
	Vectors angles = Vectors(p.angles + uint64_t(row) * DIM * 4), w = Vectors(p.q_norm);
	const vec4 c = angles.v[i], s = angles.v[i + DIM / 8];
	const vec4 x = a * scale * w.v[i], y = b * scale * w.v[i + DIM / 8];

	a = x * c - y * s;
	b = y * c + x * s;
}

void put_query(uint m, uint i, vec4 x)
{
	staged[m * ROW + i / 2][i % 2 * 2] = packFloat2x16(f16vec2(x.xy));
	staged[m * ROW + i / 2][i % 2 * 2 + 1] = packFloat2x16(f16vec2(x.zw));
}

float largest_of(vec4 x)
{
	const vec4 v = abs(x);

	return max(max(v.x, v.y), max(v.z, v.w));
}

// Some queries of the tile's rows, n in all, by a subgroup: halves, each query scaled by a
// power of two of its own.
void load_some(uint row, uint n, uint first)
{
	const uint lane = gl_SubgroupInvocationID, i = min(lane, DIM / 8 - 1);
	const bool mine = lane < DIM / 8;
	vec4 a[AT_ONCE], b[AT_ONCE];

	[[unroll]] for (uint e = 0; e < AT_ONCE; e++) {
		const uint m = min(first + e, n - 1);
		Vectors x = Vectors(p.q + uint64_t(head_of(row, m)) * DIM * 4);

		a[e] = mine ? x.v[i] : vec4(0);
		b[e] = mine ? x.v[i + DIM / 8] : vec4(0);
	}
	[[unroll]] for (uint e = 0; e < AT_ONCE; e++) {
		int exponent;

		if (p.q_norm != 0)
			norm_and_rotate(row + min(first + e, n - 1) / HEADS, i, a[e], b[e]);
		const float most = subgroupMax(max(largest_of(a[e]), largest_of(b[e])));
		frexp(clamp(most, 1e-30, 3e38), exponent);
		if (mine) {
			put_query(first + e, i, a[e] * ldexp(1.0, TOP - exponent));
			put_query(first + e, i + DIM / 8, b[e] * ldexp(1.0, TOP - exponent));
		}
		if (subgroupElect())
			unit[first + e] = p.scale * ldexp(1.0, exponent - TOP);
	}
}

void load_queries(uint row, uint n)
{
	for (uint m = 0; m < 16; m += AT_ONCE)
		load_some(row, n, gl_SubgroupID * 16 + m);
	barrier();
	[[unroll]] for (uint k = 0; k < DIM / 16; k++)
		coopMatLoad(q[k], staged, gl_SubgroupID * 16 * ROW + k * 2, ROW,
		            gl_CooperativeMatrixLayoutRowMajor);
	barrier();
}

uvec4 halves(Octet o, float scale)
{
	vec4 x[2];

	if (KV_TYPE == KV_F16)
		return o.a;
	kv_floats(o, x);
	return uvec4(packFloat2x16(f16vec2(x[0].xy * scale)), packFloat2x16(f16vec2(x[0].zw * scale)),
	             packFloat2x16(f16vec2(x[1].xy * scale)), packFloat2x16(f16vec2(x[1].zw * scale)));
}

void fetch(uint64_t block, uint at)
{
	const uint64_t k = kv_head(block, p.layer, 0, gl_WorkGroupID.x, p.kv_heads);
	const uint64_t v = kv_head(block, p.layer, 1, gl_WorkGroupID.x, p.kv_heads);

	[[unroll]] for (uint i = 0; i < LOADS; i++) {
		const uint me = min(gl_LocalInvocationIndex + i * SIZE, STEP * OCTETS - 1);

		keys[i] = kv_load(k, at + me / OCTETS, me % OCTETS);
		values[i] = kv_load(v, at + me / OCTETS, me % OCTETS);
	}
}

// What no row sees may be NaN.
void stage(uint first, Seen seen)
{
	[[unroll]] for (uint i = 0; i < LOADS; i++) {
		const uint me = gl_LocalInvocationIndex + i * SIZE, j = first + me / OCTETS;
		const uint to = me / OCTETS * ROW + me % OCTETS;
		const bool inside = j >= seen.first && j <= seen.last;

		if (STEP * OCTETS % SIZE != 0 && me >= STEP * OCTETS)
			break;
		staged[to] = inside ? halves(keys[i], 1.0) : uvec4(0);
		staged[STEP * ROW + to] = inside ? halves(values[i], SHRINK) : uvec4(0);
	}
	barrier();
}

void find_scores()
{
	coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> k;

	[[unroll]] for (uint j = 0; j < STEP / 16; j++) {
		coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> s =
			coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);

		[[unroll]] for (uint i = 0; i < DIM / 16; i++) {
			coopMatLoad(k, staged, j * 16 * ROW + i * 2, ROW,
			            gl_CooperativeMatrixLayoutColumnMajor);
			s = coopMatMulAdd(q[i], k, s);
		}
		coopMatStore(s, scores, gl_SubgroupID * 16 * SCORES + j * 4, SCORES,
		             gl_CooperativeMatrixLayoutRowMajor);
	}
	subgroupBarrier();
}

// Scores of positions from first on become weights as halves; behind them stands, for
// each column of an operation, what the query's sums so far are to be multiplied with.
// False: with 1, all of the subgroup.
bool weigh(uint first, inout Query query)
{
	const uint m = query_of_lane(), part = gl_SubgroupInvocationID % LANES;
	const float u = unit[m];
	float x[EACH], most = query.most;

	[[unroll]] for (uint i = 0; i < EACH / 4; i++) {
		const vec4 s = uintBitsToFloat(scores[m * SCORES + part * (EACH / 4) + i]);

		[[unroll]] for (uint e = 0; e < 4; e++) {
			const uint j = first + part * EACH + i * 4 + e;

			x[i * 4 + e] = j >= query.seen.first && j <= query.seen.last ? s[e] * u : LOWEST;
			most = max(most, x[i * 4 + e]);
		}
	}
	most = max(most, subgroupShuffleXor(most, 1));
	const float shrink = exp(query.most - most);
	query.sum *= shrink;
	query.most = most;
	[[unroll]] for (uint i = 0; i < EACH; i++) {
		x[i] = x[i] == LOWEST ? 0.0 : exp(x[i] - most);
		query.sum += x[i];
	}
	subgroupBarrier();
	[[unroll]] for (uint i = 0; i < EACH / 8; i++) {
		uvec4 w;

		[[unroll]] for (uint e = 0; e < 4; e++)
			w[e] = packFloat2x16(f16vec2(x[i * 8 + e * 2], x[i * 8 + e * 2 + 1]));
		scores[m * SCORES + part * (EACH / 8) + i] = w;
	}
	[[unroll]] for (uint i = 0; i < 4 / LANES; i++)
		scores[m * SCORES + 4 + part * (4 / LANES) + i] = uvec4(floatBitsToUint(shrink));
	subgroupBarrier();
	return !subgroupAll(shrink == 1.0);
}

void rescale()
{
	coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> shrink;

	coopMatLoad(shrink, scores, gl_SubgroupID * 16 * SCORES + 4, SCORES,
	            gl_CooperativeMatrixLayoutRowMajor);
	[[unroll]] for (uint i = 0; i < DIM / 16; i++)
		sums[i] = sums[i] * shrink;
}

void add_values()
{
	coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> w[STEP / 16];
	coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> v;

	[[unroll]] for (uint j = 0; j < STEP / 16; j++)
		coopMatLoad(w[j], scores, gl_SubgroupID * 16 * SCORES + j * 2, SCORES,
		            gl_CooperativeMatrixLayoutRowMajor);
	[[unroll]] for (uint i = 0; i < DIM / 16; i++)
		[[unroll]] for (uint j = 0; j < STEP / 16; j++) {
			coopMatLoad(v, staged, (STEP + j * 16) * ROW + i * 2, ROW,
			            gl_CooperativeMatrixLayoutRowMajor);
			sums[i] = coopMatMulAdd(w[j], v, sums[i]);
		}
	barrier();
}

void put_sums(uint row, uint n, Query query)
{
	const uint m = query_of_lane(), part = gl_SubgroupInvocationID % LANES;
	const float sum = (query.sum + subgroupShuffleXor(query.sum, 1)) * SHRINK;
	Vectors to = Vectors(p.to + uint64_t(m < n ? head_of(row, m) : 0) * DIM * 4);

	[[unroll]] for (uint i = 0; i < DIM / STEP; i++) {
		[[unroll]] for (uint j = 0; j < STEP / 16; j++)
			coopMatStore(sums[i * (STEP / 16) + j], scores,
			             gl_SubgroupID * 16 * SCORES + j * 4, SCORES,
			             gl_CooperativeMatrixLayoutRowMajor);
		subgroupBarrier();
		for (uint e = 0; e < EACH / 4 && m < n; e++)
			to.v[i * (STEP / 4) + part * (EACH / 4) + e] =
				uintBitsToFloat(scores[m * SCORES + part * (EACH / 4) + e]) / sum;
		subgroupBarrier();
	}
}

void main()
{
	Step s = Step(p.step);
	const Tile t = Tiles(s.tiles).v[gl_WorkGroupID.y];
	const uint n = t.rows * HEADS, row_of_query = t.first + min(query_of_lane() / HEADS, t.rows - 1);
	const Row first_row = s.row[t.first];
	const Seen seen = Seen(first_row.first[p.kind], first_row.pos + t.rows - 1);
	Addresses table = Addresses(s.tables + uint64_t(first_row.table[p.kind]) * 8);
	Query query = Query(Seen(s.row[row_of_query].first[p.kind], s.row[row_of_query].pos), LOWEST, 0);

	load_queries(t.first, n);
	[[unroll]] for (uint i = 0; i < DIM / 16; i++)
		sums[i] = coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);
	const uint begin = seen.first / STEP, end = seen.last / STEP;
	if (AHEAD)
		fetch(table.v[begin * STEP / KV_BLOCK], begin * STEP % KV_BLOCK);
	for (uint i = begin; i <= end; i++) {
		const uint next = AHEAD ? min(i + 1, end) : i;

		if (!AHEAD)
			fetch(table.v[next * STEP / KV_BLOCK], next * STEP % KV_BLOCK);
		stage(i * STEP, seen);
		if (AHEAD)
			fetch(table.v[next * STEP / KV_BLOCK], next * STEP % KV_BLOCK);
		find_scores();
		if (weigh(i * STEP, query))
			rescale();
		add_values();
	}
	put_sums(t.first, n, query);
}

#version 460
// A work group takes a head of a row: Q and K are normed and rotated in place, K and V
// stored. Heads of K and V come first. OP 1: Q of rows in tiles stays as it is; where all
// rows are, the heads of Q are not dispatched.
#include "common.glsl"
const uint SIZE = 64;
layout(local_size_x = 64) in;
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
const uint HEAD_ROWS = 1, HEAD_ROWS_IN = 1;
#include "kv.glsl"
#include "heads.glsl"

layout(constant_id = 4) const uint OP = 0;
layout(push_constant, scalar) uniform P {
	uint64_t q, k, v, q_norm, k_norm, step, angles;
	uint heads, kv_heads, kind, layer;
	float eps;
} p;

void main()
{
	const uint me = gl_LocalInvocationIndex, row = gl_WorkGroupID.y;
	const uint h = gl_WorkGroupID.x;
	const bool is_k = h < p.kv_heads, is_q = h >= 2 * p.kv_heads;
	const uint head = is_q ? h - 2 * p.kv_heads : h % p.kv_heads;
	const uint64_t base = is_q ? p.q : is_k ? p.k : p.v;
	const uint heads = is_q ? p.heads : p.kv_heads;
	const uint64_t from = base + (uint64_t(row) * heads + head) * DIM * 4;
	Step s = Step(p.step);

	if (row >= s.rows || (OP == 1 && is_q && s.row[row].tiled != 0))
		return;
	read_head(0, from);
	barrier();
	const float scale = head_scale(0, p.eps);
	const uint64_t norm = is_q ? p.q_norm : p.k_norm;
	for (uint i = me; i < DIM / 2; i += SIZE) {
		const vec2 x = is_q || is_k ?
		               rotated(0, i, scale, norm, p.angles + uint64_t(row) * DIM * 4) :
		               vec2(raw[0][i], raw[0][i + DIM / 2]);

		head_floats[0][i] = x.x;
		head_floats[0][i + DIM / 2] = x.y;
	}
	barrier();
	for (uint i = me; i < DIM && (is_q || is_k); i += SIZE)
		Floats(from).v[i] = head_floats[0][i];
	if (is_q)
		return;
	const Row r = s.row[row];
	const uint64_t block = Addresses(s.tables).v[r.table[p.kind] + r.pos / KV_BLOCK];

	kv_store(kv_head(block, p.layer, is_k ? 0 : 1, head, p.kv_heads), r.pos % KV_BLOCK, 0,
	         me, SIZE);
}

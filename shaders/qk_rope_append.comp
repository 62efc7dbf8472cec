#version 460
// A work group takes a head of a row: Q is normed and rotated in place, K too, and
// stored, V stored.
#include "common.glsl"
#define SIZE 64
#include "reduce.glsl"
#include "kv.glsl"

layout(local_size_x = SIZE) in;
layout(push_constant, scalar) uniform P {
	uint64_t q, k, v, q_norm, k_norm, rows, blocks, angles;
	uint heads, kv_heads, dim, kind, layer;
	float eps;
} p;

shared float x[512];

void norm_and_rotate(uint64_t norm, uint row)
{
	const uint me = gl_LocalInvocationIndex, half_dim = p.dim / 2;
	Floats cs = Floats(p.angles + uint64_t(row) * p.dim * 4);
	float sum = 0;

	for (uint i = me; i < p.dim; i += SIZE)
		sum += x[i] * x[i];
	const float scale = inversesqrt(group_sum(sum) / float(p.dim) + p.eps);
	for (uint i = me; i < half_dim; i += SIZE) {
		const float a = x[i] * scale * Floats(norm).v[i];
		const float b = x[i + half_dim] * scale * Floats(norm).v[i + half_dim];

		x[i] = a * cs.v[i] - b * cs.v[half_dim + i];
		x[i + half_dim] = b * cs.v[i] + a * cs.v[half_dim + i];
	}
	barrier();
}

void main()
{
	const uint me = gl_LocalInvocationIndex, row = gl_WorkGroupID.y;
	const uint h = gl_WorkGroupID.x;
	const bool is_q = h < p.heads, is_k = !is_q && h < p.heads + p.kv_heads;
	const uint head = is_q ? h : (h - p.heads) % p.kv_heads;
	const uint64_t base = is_q ? p.q : is_k ? p.k : p.v;
	const uint heads = is_q ? p.heads : p.kv_heads;
	Floats from = Floats(base + (uint64_t(row) * heads + head) * p.dim * 4);

	for (uint i = me; i < p.dim; i += SIZE)
		x[i] = from.v[i];
	barrier();
	if (is_q || is_k)
		norm_and_rotate(is_q ? p.q_norm : p.k_norm, row);
	if (is_q) {
		for (uint i = me; i < p.dim; i += SIZE)
			from.v[i] = x[i];
		return;
	}
	const Row r = Rows(p.rows).v[row];
	const uint64_t block = Addresses(p.blocks).v[r.table[p.kind] + r.pos / KV_BLOCK];
	const uint64_t to = kv_row(block, p.layer, is_k ? 0 : 1, head, p.kv_heads,
	                           r.pos % KV_BLOCK, p.dim);

	for (uint i = me; i < p.dim; i += SIZE)
		kv_store(to, i, x[i]);
}

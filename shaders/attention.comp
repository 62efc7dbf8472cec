#version 460
// softmax(q k^T scale) v of a head of a row by a work group, 64 positions at a time
// (a block), with a running maximum and sum.
#include "common.glsl"
#define SIZE 64
#include "reduce.glsl"
#include "kv.glsl"

layout(local_size_x = SIZE) in;
layout(push_constant, scalar) uniform P {
	uint64_t q, to, rows, blocks;
	uint heads, kv_heads, dim, kind, layer;
	float scale;
} p;

const float LOWEST = -3.0e38;
shared float q[512], weight[SIZE];

float score(uint64_t block, uint head, uint at)
{
	const uint64_t k = kv_row(block, p.layer, 0, head, p.kv_heads, at, p.dim);
	float sum = 0;

	for (uint i = 0; i < p.dim; i++)
		sum += q[i] * kv_load(k, i);
	return sum * p.scale;
}

void main()
{
	const uint me = gl_LocalInvocationIndex, h = gl_WorkGroupID.x, row = gl_WorkGroupID.y;
	const uint head = h / (p.heads / p.kv_heads);
	const Row r = Rows(p.rows).v[row];
	const uint64_t at = (uint64_t(row) * p.heads + h) * p.dim * 4;
	float acc[8], most = LOWEST, sum = 0;

	for (uint i = me; i < p.dim; i += SIZE)
		q[i] = Floats(p.q + at).v[i];
	[[unroll]] for (uint i = 0; i < 8; i++)
		acc[i] = 0;
	barrier();
	for (uint b = r.first[p.kind] / KV_BLOCK; b <= r.pos / KV_BLOCK; b++) {
		const uint64_t block = Addresses(p.blocks).v[r.table[p.kind] + b];
		const uint pos = b * KV_BLOCK + me;
		const bool seen = pos >= r.first[p.kind] && pos <= r.pos;
		const float s = seen ? score(block, head, me) : LOWEST;
		const float highest = max(most, group_max(s)), shrink = exp(most - highest);
		const float w = seen ? exp(s - highest) : 0.0;

		sum = sum * shrink + group_sum(w);
		most = highest;
		weight[me] = w;
		barrier();
		[[unroll]] for (uint i = 0; i < 8; i++) {
			const uint d = me + i * SIZE;

			if (d >= p.dim)
				break;
			acc[i] *= shrink;
			for (uint j = 0; j < KV_BLOCK; j++)
				if (weight[j] != 0)
					acc[i] += weight[j] * kv_load(kv_row(block, p.layer, 1, head,
					                                     p.kv_heads, j, p.dim), d);
		}
	}
	[[unroll]] for (uint i = 0; i < 8; i++)
		if (me + i * SIZE < p.dim)
			Floats(p.to + at).v[me + i * SIZE] = acc[i] / sum;
}

#version 460
// to[m][n] = from[m] . w[n] for many rows m, in float32 on any device: a work group
// computes BM rows by BN outputs, an invocation 8 by 8 of these, from tiles of BK
// elements in shared memory.
#include "common.glsl"
#include "types.glsl"

const uint BM = 64, BN = 128, BK = 32, SIZE = BM / 8 * BN / 8;
layout(local_size_x = SIZE) in;
layout(push_constant, scalar) uniform P {
	uint64_t to, from;
	uint64_t picked;       // rows of from, or 0: all in turn
	uint64_t w;
	uint rows, cols, n;    // cols: elements of a row
	uint stride, steps;    // as in matmul_many_coopmat.comp; not used here
} p;

// By element, then row: what lies side by side is multiplied by one invocation.
shared vec4 xs[BK * BM / 4], ws[BK * BN / 4];

uint64_t row_at(uint m)
{
	const uint at = min(m, p.rows - 1);

	return p.from + uint64_t(p.picked == 0 ? at : Uints(p.picked).v[at]) * p.cols * 4;
}

// What is past the end of a row is multiplied by weights of zero, but may be NaN.
void load_rows(uint k0)
{
	const uint me = gl_LocalInvocationIndex, row = me % BM;
	const uint64_t at = row_at(gl_WorkGroupID.x * BM + row);

	[[unroll]] for (uint k = me / BM * 4; k < BK; k += SIZE / BM * 4)
		[[unroll]] for (uint i = 0; i < 4; i++)
			xs[(k + i) * (BM / 4) + row / 4][row % 4] =
				k0 + k + i < p.cols ? Floats(at).v[k0 + k + i] : 0;
}

void load_weights(uint k0)
{
	const uint me = gl_LocalInvocationIndex;
	float w[32];

	weights(p.w, p.n, min(gl_WorkGroupID.y * BN + me, p.n - 1), k0 / 32, p.cols, w);
	[[unroll]] for (uint k = 0; k < 32; k++)
		ws[k * (BN / 4) + me / 4][me % 4] = w[k];
}

void put(uint m, uint n, vec4 v)
{
	const uint64_t at = p.to + (uint64_t(m) * p.n + n) * 4;

	if (m < p.rows)
		for (uint i = 0; i < 4 && n + i < p.n; i++)
			Floats(at).v[i] = v[i];
}

void main()
{
	const uint me = gl_LocalInvocationIndex, m0 = me / (BN / 8), n0 = me % (BN / 8);
	vec4 sums[8][2];

	begin_types();
	[[unroll]] for (uint i = 0; i < 8; i++)
		sums[i][0] = sums[i][1] = vec4(0);
	for (uint k0 = 0; k0 < p.cols; k0 += BK) {
		load_rows(k0);
		load_weights(k0);
		barrier();
		for (uint k = 0; k < BK; k++)
			[[unroll]] for (uint i = 0; i < 8; i++) {
				const float x = xs[k * (BM / 4) + m0 + i / 4 * (BM / 8)][i % 4];

				sums[i][0] += x * ws[k * (BN / 4) + n0];
				sums[i][1] += x * ws[k * (BN / 4) + n0 + BN / 8];
			}
		barrier();
	}
	[[unroll]] for (uint i = 0; i < 8; i++)
		[[unroll]] for (uint j = 0; j < 2; j++)
			put(gl_WorkGroupID.x * BM + m0 * 4 + i / 4 * (BM / 2) + i % 4,
			    gl_WorkGroupID.y * BN + n0 * 4 + j * (BN / 2), sums[i][j]);
}

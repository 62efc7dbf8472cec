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

// A row is one float longer than the tile: rows begin in different banks.
const uint STRIDE = BK + 1;
shared float xs[BM * STRIDE], ws[BN * STRIDE];

uint64_t row_at(uint m)
{
	const uint at = min(m, p.rows - 1);

	return p.from + uint64_t(p.picked == 0 ? at : Uints(p.picked).v[at]) * p.cols * 4;
}

// What is past the end of a row is multiplied by weights of zero, but may be NaN.
void load_rows(uint k0)
{
	const uint me = gl_LocalInvocationIndex, k = me % BK;

	[[unroll]] for (uint row = me / BK; row < BM; row += SIZE / BK)
		xs[row * STRIDE + k] = k0 + k < p.cols ?
			Floats(row_at(gl_WorkGroupID.x * BM + row)).v[k0 + k] : 0;
}

void load_weights(uint k0)
{
	const uint me = gl_LocalInvocationIndex;
	float w[32];

	weights(p.w, p.n, min(gl_WorkGroupID.y * BN + me, p.n - 1), k0 / 32, p.cols, w);
	[[unroll]] for (uint i = 0; i < 32; i++)
		ws[me * STRIDE + i] = w[i];
}

void main()
{
	const uint me = gl_LocalInvocationIndex, m0 = me / (BN / 8), n0 = me % (BN / 8);
	float sums[8][8], x[8], w[8];

	[[unroll]] for (uint i = 0; i < 8; i++)
		[[unroll]] for (uint j = 0; j < 8; j++)
			sums[i][j] = 0;
	for (uint k0 = 0; k0 < p.cols; k0 += BK) {
		load_rows(k0);
		load_weights(k0);
		barrier();
		for (uint k = 0; k < BK; k++) {
			[[unroll]] for (uint i = 0; i < 8; i++) {
				x[i] = xs[(m0 + i * (BM / 8)) * STRIDE + k];
				w[i] = ws[(n0 + i * (BN / 8)) * STRIDE + k];
			}
			[[unroll]] for (uint i = 0; i < 8; i++)
				[[unroll]] for (uint j = 0; j < 8; j++)
					sums[i][j] += x[i] * w[j];
		}
		barrier();
	}
	[[unroll]] for (uint i = 0; i < 8; i++)
		[[unroll]] for (uint j = 0; j < 8; j++) {
			const uint m = gl_WorkGroupID.x * BM + m0 + i * (BM / 8);
			const uint n = gl_WorkGroupID.y * BN + n0 + j * (BN / 8);

			if (m < p.rows && n < p.n)
				Floats(p.to + (uint64_t(m) * p.n + n) * 4).v[0] = sums[i][j];
		}
}

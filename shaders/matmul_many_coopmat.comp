#version 460
// to[m][n] = scale[m] * (from[m] . w[n]) on matrix units, for rows m that pack_rows.comp
// made halves: a work group computes BM rows by BN outputs, a subgroup WM by WN of
// these, from tiles of BK elements in shared memory. While it multiplies one tile, it
// fetches the next. One tile is kept, not two in turn: with twice the shared memory an
// H200 was slower by a third, second barrier or not. Along z, work groups share the elements: each part has its own sums.
#pragma use_vulkan_memory_model
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#include "common.glsl"
#include "types.glsl"
#include "tile_types.glsl"
#include "tile_rows.glsl"

layout(constant_id = 1) const uint SIZE = 128;
layout(constant_id = 2) const uint BM = 128;
layout(constant_id = 3) const uint BN = 128;
layout(constant_id = 4) const uint BK = 32;
layout(constant_id = 5) const uint WM = 64;
layout(constant_id = 6) const uint WN = 64;
// what the device multiplies in one operation
layout(constant_id = 7) const uint TM = 16;
layout(constant_id = 8) const uint TN = 16;
layout(constant_id = 9) const uint TK = 16;
layout(local_size_x_id = 1) in;
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer Aligned { float v[]; };
layout(push_constant, scalar) uniform P {
	uint64_t to, from, scales, w;
	uint rows, cols, n;    // cols: elements of a row
	uint stride;           // of a row of from, a multiple of BK
	uint steps;            // of BK elements, of a part
} p;

// A row of a tile is 16 bytes longer than BK halves: rows begin in different banks.
const uint STRIDE = BK / 8 + 1;
const uint X_LOADS = BM * BK / 8 / SIZE;
const uint W_ITEMS = BN * BK / ITEM, W_LOADS = (W_ITEMS + SIZE - 1) / SIZE;
shared uvec4 xs[BM * STRIDE], ws[BN * STRIDE];

uvec4 x_next[X_LOADS];
Raw w_next[W_LOADS];
coopmat<float16_t, gl_ScopeSubgroup, TM, TK, gl_MatrixUseA> x[BK / TK][WM / TM];
coopmat<float16_t, gl_ScopeSubgroup, TK, TN, gl_MatrixUseB> w[BK / TK][WN / TN];
coopmat<float, gl_ScopeSubgroup, TM, TN, gl_MatrixUseAccumulator> sums[WM / TM][WN / TN];

// Row and item of a load: invocations read a row's plain items side by side, and quants,
// which are larger, so that their stores go to different banks.
uvec2 w_place(uint at)
{
	return ITEM == 8 ? uvec2(at / (BK / ITEM), at % (BK / ITEM)) : uvec2(at % BN, at / BN);
}

void fetch_tile(uint step)
{
	const uint me = gl_LocalInvocationIndex, m0 = gl_WorkGroupID.x * BM;
	const uint n0 = gl_WorkGroupID.y * BN;

	[[unroll]] for (uint i = 0; i < X_LOADS; i++) {
		const uint at = me + i * SIZE, row = at / (BK / 8), part = at % (BK / 8);

		x_next[i] = Quads(p.from + (uint64_t(m0 + row) * p.stride + step * BK) * 2).v[part];
	}
	[[unroll]] for (uint i = 0; i < W_LOADS; i++) {
		const uvec2 at = w_place(me + i * SIZE);

		if (me + i * SIZE < W_ITEMS)
			fetch(p.w, min(n0 + at.x, p.n - 1), step * (BK / ITEM) + at.y, p.cols, p.n,
			      w_next[i]);
	}
}

void store_tile(uint step)
{
	const uint me = gl_LocalInvocationIndex;

	[[unroll]] for (uint i = 0; i < X_LOADS; i++) {
		const uint at = me + i * SIZE, row = at / (BK / 8), part = at % (BK / 8);

		xs[row * STRIDE + part] = x_next[i];
	}
	[[unroll]] for (uint i = 0; i < W_LOADS; i++) {
		const uvec2 at = w_place(me + i * SIZE);
		const uint j = (step * (BK / ITEM) + at.y) % 8;

		if (me + i * SIZE < W_ITEMS)
			[[unroll]] for (uint q = 0; q < ITEM / 8; q++) {
				uvec4 v;

				[[unroll]] for (uint e = 0; e < 4; e++)
					v[e] = packFloat2x16(unpack(w_next[i], j, q * 4 + e));
				ws[at.x * STRIDE + at.y * (ITEM / 8) + q] = v;
			}
	}
}

void load_tile(uint wm, uint wn)
{
	[[unroll]] for (uint k = 0; k < BK / TK; k++) {
		[[unroll]] for (uint i = 0; i < WM / TM; i++)
			coopMatLoad(x[k][i], xs, (wm + i * TM) * STRIDE + k * (TK / 8),
			            STRIDE, gl_CooperativeMatrixLayoutRowMajor);
		[[unroll]] for (uint j = 0; j < WN / TN; j++)
			coopMatLoad(w[k][j], ws, (wn + j * TN) * STRIDE + k * (TK / 8),
			            STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
	}
}

void multiply_tile()
{
	[[unroll]] for (uint k = 0; k < BK / TK; k++)
		[[unroll]] for (uint j = 0; j < WN / TN; j++)
			[[unroll]] for (uint i = 0; i < WM / TM; i++)
				sums[i][j] = coopMatMulAdd(x[k][i], w[k][j], sums[i][j]);
}

// Whole operations at a time: to has room for whole ones, and n is a multiple of TN.
void put_sums(uint wm, uint wn)
{
	const uint m0 = gl_WorkGroupID.x * BM + wm, n0 = gl_WorkGroupID.y * BN + wn;
	const uint64_t to = p.to + uint64_t(gl_WorkGroupID.z) * p.rows * p.n * 4;
	coopmat<float, gl_ScopeSubgroup, TM, TN, gl_MatrixUseAccumulator> scale;

	[[unroll]] for (uint i = 0; i < WM / TM; i++) {
		const uint m = m0 + i * TM;

		coopMatLoad(scale, Aligned(p.scales).v, m * SCALES, SCALES,
		            gl_CooperativeMatrixLayoutRowMajor);
		[[unroll]] for (uint j = 0; j < WN / TN; j++) {
			const uint n = n0 + j * TN;

			if (m < p.rows && n < p.n)
				coopMatStore(sums[i][j] * scale,
				             Aligned(to + (uint64_t(m) * p.n + n) * 4).v, 0, p.n,
				             gl_CooperativeMatrixLayoutRowMajor);
		}
	}
}

void main()
{
	const uint wm = gl_SubgroupID % (BM / WM) * WM, wn = gl_SubgroupID / (BM / WM) * WN;
	const uint first = gl_WorkGroupID.z * p.steps;
	const uint end = min(first + p.steps, p.stride / BK);

	[[unroll]] for (uint i = 0; i < WM / TM; i++)
		[[unroll]] for (uint j = 0; j < WN / TN; j++)
			sums[i][j] = coopmat<float, gl_ScopeSubgroup, TM, TN, gl_MatrixUseAccumulator>(0.0);
	begin_tile_types();
	fetch_tile(first);
	store_tile(first);
	barrier();
	for (uint step = first; step < end; step++) {
		fetch_tile(min(step + 1, end - 1));
		load_tile(wm, wn);
		multiply_tile();
		barrier();
		store_tile(step + 1);
		barrier();
	}
	put_sums(wm, wn);
}

#version 460
// to[m][n] = scale[m] * (from[m] . w[n]) on matrix units: a work group takes 8 * ROW_TILES
// rows m, a subgroup of it 16 * OUT_TILES outputs n. SPLIT subgroups share outputs, and
// take chunks of 256 elements in turn; so do work groups along z. Weights pass through no
// shared memory: they are unpacked into the very registers in which a matrix operation
// wants them. skinny.glsl tells where these are, and how pack_skinny.comp lays out rows.
// GATED: to[m][n] = gelu(gate) * up of two such products: of each 16 weight rows of an
// operation 8 are gate's, 8 the same of up, so that a lane has both of an output.
#pragma use_vulkan_memory_model
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#include "common.glsl"
#include "types.glsl"
#include "tile_types.glsl"
#include "skinny.glsl"
#include "gelu.glsl"

layout(constant_id = 1) const uint SIZE = 256;
layout(constant_id = 2) const uint SPLIT = 2;
layout(constant_id = 3) const uint ROW_TILES = 1;
layout(constant_id = 4) const uint OUT_TILES = 2;
layout(constant_id = 5) const uint STAGED = 1;   // rows go through shared memory
layout(constant_id = 6) const uint STEPS = 4;    // always; but loops over it are the driver's to unroll
layout(constant_id = 7) const uint GATED = 0;    // w[0], w[1] are gate and up
layout(constant_id = 8) const uint CHUNKED = 0;  // scales are of a row's chunks, not of rows
layout(local_size_x_id = 1) in;
layout(push_constant, scalar) uniform P {
	uint64_t from, scales;
	uint64_t w[3], to[3];
	uint64_t parts, ended; // of work groups along z: their sums; how many have ended
	uint n[3];             // 0: no such matrix
	uint rows, cols;
	uint steps;            // of SPLIT chunks, of a part
	float factor[3];       // a power of two that weights' scales are multiplied with
} p;

const uint OUTS = 16 * OUT_TILES, ROWS = 8 * ROW_TILES;
const uint GROUP = OUTS * (SIZE / 32 / SPLIT);   // weight rows of a work group
const uint EACH = GROUP >> GATED;                // its outputs
const uint ITEMS = 32 / ITEM;
const uint X_STEP = SPLIT * ROW_TILES * 128;     // uvec4s of rows, of half a step
const uint X_LOADS = (X_STEP + SIZE - 1) / SIZE;
const bool IS_LARGE = ROW_TILES > 4;             // sums have no room in shared memory
const uint SUMS = IS_LARGE ? 1 : SPLIT * ROWS * GROUP / 4;
const uint X_ROOM = STAGED * 2 * X_STEP;
shared uvec4 xs[X_ROOM > SUMS ? X_ROOM : SUMS];
shared uint before;

// Of members: said of a block that is reached by its address, glslang 15 forgets it.
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer Parts {
	queuefamilycoherent float v[];
};
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer Counts {
	queuefamilycoherent uint v[];
};

uvec4 x_next[X_LOADS];
Raw weights_of[OUT_TILES][2][2 * ITEMS];
f16vec2 q4_scales[OUT_TILES][2][2];      // of Q4_0: what its bits are multiplied with; its -8
coopmat<float, gl_ScopeSubgroup, 16, 8, gl_MatrixUseAccumulator> sums[OUT_TILES][ROW_TILES];
coopmat<float, gl_ScopeSubgroup, 16, 8, gl_MatrixUseAccumulator> scaled[OUT_TILES][ROW_TILES];

struct Matrix {
	uint64_t w[2], to;     // w[1]: of the second 8 of each 16 weight rows
	uint n, first;         // outputs; the work group's first
	float factor[2];
};

Matrix matrix_of_group()
{
	uint g = gl_WorkGroupID.y, i = 0;

	for (; GATED == 0 && i < 2 && g >= (p.n[i] + GROUP - 1) / GROUP; i++)
		g -= (p.n[i] + GROUP - 1) / GROUP;
	const uint other = GATED != 0 ? 1 : i;
	return Matrix(uint64_t[](p.w[i], p.w[other]), p.to[i], p.n[i], g * EACH,
	              float[](p.factor[i], p.factor[other]));
}

// Bits 0 to 3 of a half are a subnormal number, q / 2 ^ 24: one operation makes a weight
// of it, where the largest scale is brought near the top of what a half holds before. So
// weights are less by 2 ^ 24 / factor until their sums are put.
const float Q4_UNIT = 16777216.0;

void prepare_q4(Matrix m)
{
	[[unroll]] for (uint o = 0; o < OUT_TILES; o++)
		[[unroll]] for (uint r = 0; r < 2; r++)
			[[unroll]] for (uint i = 0; i < 2; i++) {
				const float d = float(weights_of[o][r][i].scales.x) * m.factor[r];

				q4_scales[o][r][i] = f16vec2(d, d * (-8 / Q4_UNIT));
			}
}

f16vec2 q4_pair(uvec4 q, f16vec2 scales, uint i)
{
	const uint x = q[i % 8 / 2] >> i % 2 * 8;

	return i < 8 ?
	       fma(unpackFloat2x16(x & 0x000f000f), f16vec2(scales.x), f16vec2(scales.y)) :
	       fma(unpackFloat2x16(x & 0x00f000f0), f16vec2(scales.x * float16_t(1.0 / 16)),
	           f16vec2(scales.y));
}

void fetch_weights(Matrix m, uint step)
{
	const uint lane = gl_SubgroupInvocationID, chunk = step * SPLIT + gl_SubgroupID % SPLIT;
	const uint first = m.first + gl_SubgroupID / SPLIT * (OUTS >> GATED) + lane_row(lane);

	[[unroll]] for (uint o = 0; o < OUT_TILES; o++)
		[[unroll]] for (uint r = 0; r < 2; r++) {
			const uint n = min(first + (GATED != 0 ? o * 8 : o * 16 + r * 8), m.n - 1);

			[[unroll]] for (uint i = 0; i < ITEMS; i++)
				fetch_two(m.w[r], n, (chunk * 8 + lane_part(lane) * 2) * ITEMS + i * 2,
				          p.cols, m.n, weights_of[o][r][i * 2],
				          weights_of[o][r][i * 2 + 1]);
		}
}

// Of half a step; chunks past the last are zeros.
void fetch_rows(uint at)
{
	const uint chunks = (p.cols + CHUNK - 1) / CHUNK;

	[[unroll]] for (uint i = 0; i < X_LOADS; i++) {
		const uint me = gl_LocalInvocationIndex + i * SIZE, tile = me / (SPLIT * 128);
		const uint chunk = at / 2 * SPLIT + me / 128 % SPLIT;

		x_next[i] = chunk < chunks && me < X_STEP ?
			Quads(p.from).v[fragment_at(chunks, gl_WorkGroupID.x * ROW_TILES + tile,
			                            chunk, at % 2 * 4 + me / 32 % 4, me % 32)] :
			uvec4(0);
	}
}

void store_rows(uint at)
{
	[[unroll]] for (uint i = 0; i < X_LOADS; i++)
		if (X_STEP % SIZE == 0 || gl_LocalInvocationIndex + i * SIZE < X_STEP)
			xs[at % 2 * X_STEP + gl_LocalInvocationIndex + i * SIZE] = x_next[i];
}

uvec4 row_fragment(uint step, uint m, uint s)
{
	const uint lane = gl_SubgroupInvocationID, sub = gl_SubgroupID % SPLIT;
	const uint chunks = (p.cols + CHUNK - 1) / CHUNK, chunk = step * SPLIT + sub;

	if (STAGED != 0)
		return xs[s / 4 * X_STEP + (m * SPLIT + sub) * 128 + s % 4 * 32 + lane];
	if (chunk >= chunks)
		return uvec4(0);
	return Quads(p.from).v[fragment_at(chunks, gl_WorkGroupID.x * ROW_TILES + m, chunk, s, lane)];
}

// Of 32 elements, the half-th of a chunk, in pairs.
f16vec2 weight_pair(uint o, uint r, uint half_, uint j, uint pair)
{
	if (ITEM == 8)
		return unpack(weights_of[o][r][half_ * ITEMS + pair / 4 % ITEMS], j, pair % 4);
	if (TYPE == Q4_0)
		return q4_pair(weights_of[o][r][half_].q[0], q4_scales[o][r][half_], pair);
	return unpack(weights_of[o][r][half_], j, pair);
}

void multiply_step(uint half_, uint s, uvec2 x[ROW_TILES])
{
	coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a;
	coopmat<float16_t, gl_ScopeSubgroup, 16, 8, gl_MatrixUseB> b[ROW_TILES];
	const uint j = lane_part(gl_SubgroupInvocationID) * 2 + half_;

	[[unroll]] for (uint m = 0; m < ROW_TILES; m++)
		[[unroll]] for (uint i = 0; i < 2; i++) {
			const f16vec2 v = unpackFloat2x16(x[m][i]);

			b[m][i * 2] = v.x;
			b[m][i * 2 + 1] = v.y;
		}
	[[unroll]] for (uint o = 0; o < OUT_TILES; o++) {
		[[unroll]] for (uint i = 0; i < 4; i++) {
			const f16vec2 w = weight_pair(o, i / 2, half_, j, s * 2 + i % 2);

			a[i * 2] = w.x;
			a[i * 2 + 1] = w.y;
		}
		[[unroll]] for (uint m = 0; m < ROW_TILES; m++)
			sums[o][m] = coopMatMulAdd(a, b[m], sums[o][m]);
	}
}

void multiply(uint step, uint half_)
{
	[[unroll]] for (uint s = 0; s < STEPS; s++) {
		uvec4 x[ROW_TILES];
		uvec2 part[ROW_TILES];

		[[unroll]] for (uint m = 0; m < ROW_TILES; m++)
			x[m] = row_fragment(step, m, half_ * 4 + s);
		[[unroll]] for (uint h = 0; h < 2; h++) {
			[[unroll]] for (uint m = 0; m < ROW_TILES; m++)
				part[m] = h == 0 ? x[m].xy : x[m].zw;
			multiply_step(half_, s * 2 + h, part);
		}
	}
}

// A chunk's sums join those that are scaled.
void scale_chunk(uint step)
{
	const uint chunks = (p.cols + CHUNK - 1) / CHUNK, lane = gl_SubgroupInvocationID;
	const uint chunk = min(step * SPLIT + gl_SubgroupID % SPLIT, chunks - 1);

	[[unroll]] for (uint m = 0; m < ROW_TILES; m++) {
		const uint row = gl_WorkGroupID.x * ROWS + m * 8 + lane_part(lane) * 2;
		const vec2 scale = vec2(Floats(p.scales).v[row * chunks + chunk],
		                        Floats(p.scales).v[(row + 1) * chunks + chunk]);

		[[unroll]] for (uint o = 0; o < OUT_TILES; o++)
			[[unroll]] for (uint i = 0; i < 4; i++) {
				scaled[o][m][i] += sums[o][m][i] * scale[i % 2];
				sums[o][m][i] = 0;
			}
	}
}

// Of a work group's outputs, all rows of them: the place of their sums, where up's are 8 on.
uint place_of(uint output_)
{
	return GATED != 0 ? output_ / 8 * 16 + output_ % 8 : output_;
}

vec2 unit_of(Matrix t)
{
	return TYPE == Q4_0 ? Q4_UNIT / vec2(t.factor[0], t.factor[1]) : vec2(1);
}

void put(Matrix t, uint place, float sum, float up)
{
	const uint at = place % GROUP, m = gl_WorkGroupID.x * ROWS + place / GROUP;
	const uint n = t.first + (GATED != 0 ? at / 16 * 8 + at % 8 : at);

	if (m >= p.rows || n >= t.n)
		return;
	const float row = CHUNKED != 0 ? 1 : Floats(p.scales).v[m];
	const vec2 x = vec2(sum, up) * row * unit_of(t);

	Floats(t.to + (uint64_t(m) * t.n + n) * 4).v[0] = GATED != 0 ? gelu(x.x) * x.y : x.x;
}

void keep_sums()
{
	const uint mine = gl_SubgroupID % SPLIT * ROWS * GROUP + gl_SubgroupID / SPLIT * OUTS;

	[[unroll]] for (uint o = 0; o < OUT_TILES; o++)
		[[unroll]] for (uint m = 0; m < ROW_TILES; m++)
			coopMatStore(sums[o][m], xs, (mine + m * 8 * GROUP + o * 16) / 4, GROUP / 4,
			             gl_CooperativeMatrixLayoutColumnMajor);
	barrier();
}

float sum_of(uint i)
{
	float sum = 0;

	[[unroll]] for (uint s = 0; s < SPLIT; s++)
		sum += uintBitsToFloat(xs[(s * ROWS * GROUP + i) / 4][i % 4]);
	return sum;
}

// Whether all parts of these outputs have ended with this one.
bool is_last(uint group)
{
	controlBarrier(gl_ScopeWorkgroup, gl_ScopeQueueFamily, gl_StorageSemanticsBuffer,
	               gl_SemanticsAcquireRelease);
	if (gl_LocalInvocationIndex == 0)
		before = atomicAdd(Counts(p.ended).v[group], 1, gl_ScopeQueueFamily,
		                   gl_StorageSemanticsBuffer, gl_SemanticsAcquireRelease);
	barrier();
	if (before + 1 != gl_NumWorkGroups.z)
		return false;
	if (gl_LocalInvocationIndex == 0)
		Counts(p.ended).v[group] = 0;
	controlBarrier(gl_ScopeWorkgroup, gl_ScopeQueueFamily, gl_StorageSemanticsBuffer,
	               gl_SemanticsAcquireRelease);
	return true;
}

// Of a subgroup that has its outputs to itself, from where an operation leaves them: row
// of A, two columns of B.
void put_own(Matrix t, Parts mine)
{
	const uint lane = gl_SubgroupInvocationID, n = gl_SubgroupID * OUTS + lane_row(lane);

	[[unroll]] for (uint m = 0; m < ROW_TILES; m++)
		[[unroll]] for (uint o = 0; o < OUT_TILES; o++)
			[[unroll]] for (uint i = 0; i < 4; i++) {
				const uint at = (m * 8 + lane_part(lane) * 2 + i % 2) * GROUP + n +
				                o * 16 + i / 2 * 8;

				if (gl_NumWorkGroups.z > 1)
					mine.v[at] = sums[o][m][i];
				else if (GATED == 0 || i < 2)
					put(t, at, sums[o][m][i], sums[o][m][i | 2]);
			}
}

void put_shared(Matrix t, Parts mine)
{
	keep_sums();
	if (gl_NumWorkGroups.z > 1) {
		for (uint i = gl_LocalInvocationIndex; i < ROWS * GROUP; i += SIZE)
			mine.v[i] = sum_of(i);
		return;
	}
	for (uint i = gl_LocalInvocationIndex; i < ROWS * EACH; i += SIZE) {
		const uint at = place_of(i);

		put(t, at, sum_of(at), GATED != 0 ? sum_of(at + 8) : 0);
	}
}

float sum_of_parts(Parts parts, uint place)
{
	float sum = 0;

	for (uint z = 0; z < gl_NumWorkGroups.z; z++)
		sum += parts.v[z * ROWS * GROUP + place];
	return sum;
}

void put_sums(Matrix t)
{
	const uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
	const uint64_t parts = p.parts + uint64_t(group) * gl_NumWorkGroups.z * ROWS * GROUP * 4;
	Parts mine = Parts(parts + gl_WorkGroupID.z * ROWS * GROUP * 4);

	if (IS_LARGE)
		put_own(t, mine);
	else
		put_shared(t, mine);
	if (gl_NumWorkGroups.z == 1 || !is_last(group))
		return;
	for (uint i = gl_LocalInvocationIndex; i < ROWS * EACH; i += SIZE) {
		const uint at = place_of(i);

		put(t, at, sum_of_parts(Parts(parts), at),
		    GATED != 0 ? sum_of_parts(Parts(parts), at + 8) : 0);
	}
}

void main()
{
	const Matrix t = matrix_of_group();
	const uint all = (p.cols + SPLIT * CHUNK - 1) / (SPLIT * CHUNK);
	const uint begin = gl_WorkGroupID.z * p.steps, end = min(begin + p.steps, all);

	[[unroll]] for (uint o = 0; o < OUT_TILES; o++)
		[[unroll]] for (uint m = 0; m < ROW_TILES; m++)
			sums[o][m] = scaled[o][m] = coopmat<float, gl_ScopeSubgroup, 16, 8,
			                                    gl_MatrixUseAccumulator>(0.0);
	begin_tile_types();
	fetch_weights(t, min(begin, all - 1));
	if (STAGED != 0) {
		fetch_rows(begin * 2);
		store_rows(begin * 2);
		barrier();
	}
	for (uint step = begin; step < end; step++)
		[[unroll]] for (uint h = 0; h < 2; h++) {
			if (STAGED != 0)
				fetch_rows(step * 2 + h + 1);
			if (TYPE == Q4_0 && h == 0)
				prepare_q4(t);
			multiply(step, h);
			if (CHUNKED != 0 && h == 1)
				scale_chunk(step);
			if (h == 1)
				fetch_weights(t, min(step + 1, all - 1));
			if (STAGED != 0) {
				store_rows(step * 2 + h + 1);
				barrier();
			}
		}
	[[unroll]] for (uint o = 0; o < OUT_TILES; o++)
		[[unroll]] for (uint m = 0; m < ROW_TILES; m++)
			if (CHUNKED != 0)
				sums[o][m] = scaled[o][m];
	put_sums(t);
}

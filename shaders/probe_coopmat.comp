#version 460
// Whether the registers of matrix operations are where skinny.glsl has them: each lane
// loads matrices whose elements tell their places, and writes 1 if all of its own are
// where they should be. And whether subnormal halves are numbers as all others.
#pragma use_vulkan_memory_model
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#include "common.glsl"
#include "skinny.glsl"

layout(local_size_x = 32) in;
layout(push_constant, scalar) uniform P { uint64_t to; } p;
shared float16_t places[256];
shared float wide_places[128];

bool a_fits(uint lane)
{
	coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a;
	bool fits = a.length() == 8;

	coopMatLoad(a, places, 0, 16, gl_CooperativeMatrixLayoutRowMajor);
	for (uint e = 0; e < a.length(); e++) {
		const uint row = lane_row(lane) + e / 4 * 8;
		const uint k = e / 2 % 2 * 8 + lane_part(lane) * 2 + e % 2;

		fits = fits && a[e] == float16_t(row * 16 + k);
	}
	return fits;
}

bool b_fits(uint lane)
{
	coopmat<float16_t, gl_ScopeSubgroup, 16, 8, gl_MatrixUseB> b;
	bool fits = b.length() == 4;

	coopMatLoad(b, places, 0, 8, gl_CooperativeMatrixLayoutRowMajor);
	for (uint e = 0; e < b.length(); e++) {
		const uint k = e / 2 * 8 + lane_part(lane) * 2 + e % 2;

		fits = fits && b[e] == float16_t(k * 8 + lane_row(lane));
	}
	return fits;
}

bool sums_fit(uint lane)
{
	coopmat<float, gl_ScopeSubgroup, 16, 8, gl_MatrixUseAccumulator> c;
	bool fits = c.length() == 4;

	coopMatLoad(c, wide_places, 0, 8, gl_CooperativeMatrixLayoutRowMajor);
	for (uint e = 0; e < c.length(); e++) {
		const uint row = lane_row(lane) + e / 2 * 8, column = lane_part(lane) * 2 + e % 2;

		fits = fits && c[e] == float(row * 8 + column);
	}
	return fits;
}

bool subnormals_count(uint lane)
{
	const f16vec2 x = unpackFloat2x16(lane % 16 | (lane / 2) << 16);
	const f16vec2 y = fma(x, f16vec2(32768), f16vec2(float16_t(1)));
	coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a =
		coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>(
			unpackFloat2x16(wide_places[1] == 1.0 ? 3 : 0).x);
	coopmat<float16_t, gl_ScopeSubgroup, 16, 8, gl_MatrixUseB> b =
		coopmat<float16_t, gl_ScopeSubgroup, 16, 8, gl_MatrixUseB>(float16_t(1024));
	coopmat<float, gl_ScopeSubgroup, 16, 8, gl_MatrixUseAccumulator> c =
		coopmat<float, gl_ScopeSubgroup, 16, 8, gl_MatrixUseAccumulator>(0.0);

	c = coopMatMulAdd(a, b, c);
	return vec2(y) == 1 + vec2(lane % 16, lane / 2) / 512 && c[0] == 3.0 / 1024;
}

void main()
{
	const uint lane = gl_SubgroupInvocationID;

	for (uint i = lane; i < 256; i += 32)
		places[i] = float16_t(i);
	for (uint i = lane; i < 128; i += 32)
		wide_places[i] = float(i);
	barrier();
	const bool a = a_fits(lane), b = b_fits(lane), sums = sums_fit(lane);
	Words(p.to).v[lane] = uint(a && b && sums && subnormals_count(lane));
}

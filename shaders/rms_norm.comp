#version 460
// to = x / sqrt(mean(x^2) + eps) * w, a work group a row; ADD: added to what to holds.
#include "common.glsl"
#define SIZE 256
#include "reduce.glsl"

layout(local_size_x = SIZE) in;
layout(push_constant, scalar) uniform P {
	uint64_t to, from, w;
	uint cols;
	float eps;
} p;

void main()
{
	Floats x = Floats(p.from + uint64_t(gl_WorkGroupID.x) * p.cols * 4);
	Floats y = Floats(p.to + uint64_t(gl_WorkGroupID.x) * p.cols * 4);
	float sum = 0;

	for (uint i = gl_LocalInvocationIndex; i < p.cols; i += SIZE)
		sum += x.v[i] * x.v[i];
	const float scale = inversesqrt(group_sum(sum) / float(p.cols) + p.eps);
	for (uint i = gl_LocalInvocationIndex; i < p.cols; i += SIZE)
		y.v[i] = x.v[i] * scale * Floats(p.w).v[i];
}

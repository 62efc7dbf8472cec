#version 460
// to[row][i] = table[token of row][i] * scale, of tokens that this part of the table has.
// Rows are whole vectors.
#include "common.glsl"
#include "types.glsl"

layout(local_size_x = 64) in;
layout(push_constant, scalar) uniform P {
	uint64_t table, to, step;
	uint cols, first, rows;  // of the table: its first token, how many
	float scale;
} p;

void main()
{
	const uint part = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
	float w[32];

	begin_types();
	if (part * 32 >= p.cols || row >= Step(p.step).rows)
		return;
	const uint token = Step(p.step).row[row].token - p.first;
	if (token >= p.rows)
		return;
	weights(p.table, p.rows, token, part, p.cols, w);
	[[unroll]] for (uint i = 0; i < 32; i += 4)
		if (part * 32 + i < p.cols)
			Vectors(p.to).v[(row * p.cols + part * 32 + i) / 4] =
				vec4(w[i], w[i + 1], w[i + 2], w[i + 3]) * p.scale;
}

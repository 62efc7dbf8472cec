// Writing what quants8.glsl reads: 8 lanes that follow each other hold a block's floats,
// four each. All lanes of the 8 must come here.
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "quants8.glsl"

// The index of an invocation by which lanes of a subgroup follow each other.
uint lane_index()
{
	return gl_SubgroupID * gl_SubgroupSize + gl_SubgroupInvocationID;
}

// x: floats [4 i, 4 i + 4) of a row of `vectors` of these. A block with a NaN or infinity gets the scale
// NaN, so that what is broken is seen; the bits of those are above all numbers'.
void write8(uint64_t quants, uint64_t blocks, uint row, uint i, uint vectors, vec4 x)
{
	const uvec4 bits = floatBitsToUint(x) & 0x7fffffffu;
	uint most = max(max(bits.x, bits.y), max(bits.z, bits.w));

	[[unroll]] for (uint j = 1; j < 8; j *= 2)
		most = max(most, subgroupShuffleXor(most, j));
	const float largest = uintBitsToFloat(most);
	const bool broken = most >= 0x7f800000u, tiny = largest < 1e-30;
	const float inverse = broken || tiny ? 0.0 : 127 / largest;
	const float scale = broken ? uintBitsToFloat(0x7fc00000u) : tiny ? 0.0 : largest / 127;
	const ivec4 q = broken ? ivec4(0) : ivec4(roundEven(x * inverse));
	int sum = q.x + q.y + q.z + q.w;

	sum += subgroupShuffleXor(sum, 1);
	sum += subgroupShuffleXor(sum, 2);
	const int second = subgroupShuffleXor(sum, 4);

	Words(quants).v[row * vectors + i / 4 % 2 * (vectors / 2) + i / 8 * 4 + i % 4] = pack4(q);
	if (i % 8 == 0)
		Blocks8(blocks).v[(row * vectors + i) / 8] = block8(scale, sum, second);
}

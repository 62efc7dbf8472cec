// Activations in 8 bits, beside their floats: what products with quantised weights read.
// Of a buffer of rows of K floats, where 32 divides K:
//   quants   [row][2][K/32][16] int8: of each block of 32 elements the first half, then
//            of each the second; x = scale * quant, scale = largest |x| of the 32 / 127
//   blocks   [row][K/32] of the scale, and the sums of the quants of its two halves
// Whoever writes the floats of a product's input writes these too.
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer Blocks8 { uvec2 v[]; };

uvec2 block8(float scale, int low_sum, int high_sum)
{
	return uvec2(floatBitsToUint(scale), uint(low_sum & 0xffff) | uint(high_sum) << 16);
}

float block8_scale(uvec2 b)
{
	return uintBitsToFloat(b.x);
}

// half 0, half 1
int block8_sum(uvec2 b, uint which)
{
	return bitfieldExtract(int(b.y), int(which * 16), 16);
}

uint pack4(ivec4 q)
{
	const uvec4 b = uvec4(q) & 255u;

	return b.x | b.y << 8 | b.z << 16 | b.w << 24;
}

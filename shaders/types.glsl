// Weights by type. TYPE is the number of the type in GGUF.
//
// How a matrix of N rows and K columns lies in memory (workers/vulkan/vk_weights.c
// packs it so). It begins at a multiple of 256 bytes and takes exactly the bytes of the
// file; quants stand apart from scales that would misalign them, so that they can be
// read 16 bytes at a time. Planes follow each other without gaps, each in the order of rows:
//   F32, F16, BF16   as in GGUF    [N][K]
//   Q4_0             quants        [N][K/32][16]: byte i has element i low, i + 16 high
//                    scales        [N][K/32] f16
//   Q8_0             quants        [N][K/32][32]
//                    scales        [N][K/32] f16
//   IQ4_NL           as Q4_0
//   Q3_K             quants        [N][K/256][96]: third bits 32, low bits 64
//                    scales        [N][K/256][12]
//                    d             [N][K/256] f16
//   Q4_K, Q5_K       as in GGUF    [N][K/256][144], [176]: d and dmin f16, 12 bytes of
//                                  scales; Q5_K: 32 of fifth bits; 128 of quants
//   IQ4_XS           quants        [N][K/32][16] as Q4_0's
//                    scales        [N][K/256][8]: d f16, high bits 2, low bits 4
//   Q6_K             quants        [N][K/256][208]: low bits 128, high bits 64, 16 scales
//                    scales        [N][K/256] f16
layout(constant_id = 0) const uint TYPE = 0;

const uint F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14;
const uint IQ4_NL = 20, IQ4_XS = 23, BF16 = 30;
const bool HAS_MINIMUM = TYPE == Q4_K || TYPE == Q5_K;
const bool IS_CODED = TYPE == IQ4_NL || TYPE == IQ4_XS;

layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer Quads { uvec4 v[]; };

float half_at(uint64_t at)
{
	return float(Halves(at).v[0]);
}

int byte_of(uint x, uint i)
{
	return bitfieldExtract(int(x), int(i * 8), 8);
}

uint nibble_of(uint x, uint i)
{
	return bitfieldExtract(x, int(i * 4), 4);
}

// What the codes of IQ4_NL and IQ4_XS mean, as bytes. Every shader's main() begins so, with
// all invocations of a work group.
shared uint iq4_bytes[16];

int iq4_value(uint code)
{
	const uvec4 values = uvec4(0xbfad9881, 0xf6eaddcf, 0x26190d01, 0x71594535);

	return byte_of(values[code / 4], code % 4);
}

void begin_types()
{
	if (!IS_CODED)
		return;
	if (gl_LocalInvocationIndex < 16)
		iq4_bytes[gl_LocalInvocationIndex] = uint(iq4_value(gl_LocalInvocationIndex)) & 255;
	barrier();
}

// The values of four codes, one a byte.
uint iq4_values(uint x)
{
	return iq4_bytes[x & 15] | iq4_bytes[x >> 8 & 15] << 8 | iq4_bytes[x >> 16 & 15] << 16 |
	       iq4_bytes[x >> 24 & 15] << 24;
}

// Of part j of an IQ4_XS block.
float iq4_xs_scale(uvec2 head, uint j)
{
	const uint low = nibble_of(head.y, j), high = bitfieldExtract(head.x, int(16 + 2 * j), 2);

	return unpackHalf2x16(head.x).x * float(int(low | high << 4) - 32);
}

// Of the 16 elements from 16 g on of a Q3_K block, without d.
int q3_k_scale(uvec3 scales, uint g)
{
	const uint low = nibble_of(scales[g % 8 / 4], g % 4 * 2 + g / 8);
	const uint high = bitfieldExtract(scales[2], int(g % 4 * 8 + g / 4 * 2), 2);

	return int(low | high << 4) - 32;
}

// Scale and minimum of part j of a Q4_K or Q5_K block, whose first 16 bytes are head.
vec2 q4_k_scales(uvec4 head, uint j)
{
	const uint low = j % 4 * 8;
	const uint s = bitfieldExtract(head[1], int(low), 8), m = bitfieldExtract(head[2], int(low), 8);
	const uint both = bitfieldExtract(head[3], int(low), 8);
	const uint scale = j < 4 ? s & 63 : (both & 15) | s >> 6 << 4;
	const uint minimum = j < 4 ? m & 63 : both >> 4 | m >> 6 << 4;

	return unpackHalf2x16(head[0]) * vec2(scale, minimum);
}

// ---- 32 elements as floats: for embeddings, and products of many rows ------------
void q4_0(uint64_t at, float d, out float w[32])
{
	const uvec4 q = Quads(at).v[0];

	[[unroll]] for (uint i = 0; i < 16; i++) {
		w[i] = d * float(int(nibble_of(q[i / 4], i % 4 * 2)) - 8);
		w[i + 16] = d * float(int(nibble_of(q[i / 4], i % 4 * 2 + 1)) - 8);
	}
}

void iq4(uint64_t at, float d, out float w[32])
{
	const uvec4 q = Quads(at).v[0];

	[[unroll]] for (uint i = 0; i < 4; i++) {
		const uint low = iq4_values(q[i]), high = iq4_values(q[i] >> 4);

		[[unroll]] for (uint b = 0; b < 4; b++) {
			w[i * 4 + b] = d * float(byte_of(low, b));
			w[i * 4 + b + 16] = d * float(byte_of(high, b));
		}
	}
}

void q8_0(uint64_t at, float d, out float w[32])
{
	[[unroll]] for (uint h = 0; h < 2; h++) {
		const uvec4 q = Quads(at).v[h];

		[[unroll]] for (uint i = 0; i < 16; i++)
			w[h * 16 + i] = d * float(byte_of(q[i / 4], i % 4));
	}
}

// Part j of a block of 256.
void q4_k(uint64_t at, uint j, out float w[32])
{
	const vec2 s = q4_k_scales(Quads(at).v[0], j);

	[[unroll]] for (uint h = 0; h < 2; h++) {
		const uvec4 q = Quads(at).v[1 + j / 2 * 2 + h] >> j % 2 * 4;

		[[unroll]] for (uint i = 0; i < 16; i++)
			w[h * 16 + i] = s.x * float(nibble_of(q[i / 4], i % 4 * 2)) - s.y;
	}
}

void q5_k(uint64_t at, uint j, out float w[32])
{
	const vec2 s = q4_k_scales(Quads(at).v[0], j);

	[[unroll]] for (uint h = 0; h < 2; h++) {
		const uvec4 low = Quads(at).v[3 + j / 2 * 2 + h] >> j % 2 * 4;
		const uvec4 high = Quads(at).v[1 + h] >> j;

		[[unroll]] for (uint i = 0; i < 16; i++)
			w[h * 16 + i] = s.x * float(nibble_of(low[i / 4], i % 4 * 2) |
			                            (high[i / 4] >> i % 4 * 8 & 1) << 4) - s.y;
	}
}

void q3_k(uint64_t at, uvec3 scales, float d, uint j, out float w[32])
{
	[[unroll]] for (uint h = 0; h < 2; h++) {
		const uvec4 low = Quads(at).v[2 + j / 4 * 2 + h] >> j % 4 * 2;
		const uvec4 high = Quads(at).v[h] >> j;
		const float scale = d * float(q3_k_scale(scales, j * 2 + h));

		[[unroll]] for (uint i = 0; i < 16; i++) {
			const uint b = low[i / 4] >> i % 4 * 8 & 3, c = high[i / 4] >> i % 4 * 8 & 1;

			w[h * 16 + i] = scale * float(int(b | c << 2) - 4);
		}
	}
}

void q6_k(uint64_t at, float d, uint j, out float w[32])
{
	const uint part = j % 4;
	Quads q = Quads(at);

	[[unroll]] for (uint h = 0; h < 2; h++) {
		const uvec4 low = q.v[j / 4 * 4 + part % 2 * 2 + h] >> part / 2 * 4;
		const uvec4 high = q.v[8 + j / 4 * 2 + h] >> part * 2;
		const uint s = j * 2 + h;
		const float scale = d * float(byte_of(q.v[12][s / 4], s % 4));

		[[unroll]] for (uint i = 0; i < 16; i++) {
			const uint b = nibble_of(low[i / 4], i % 4 * 2);
			const uint c = bitfieldExtract(high[i / 4], int(i % 4 * 8), 2);

			w[h * 16 + i] = scale * float(int(b | c << 4) - 32);
		}
	}
}

uvec3 three_at(uint64_t at)
{
	return uvec3(Uints(at).v[0], Uints(at).v[1], Uints(at).v[2]);
}

uvec2 two_at(uint64_t at)
{
	return uvec2(Uints(at).v[0], Uints(at).v[1]);
}

float plain_at(uint64_t table, uint64_t i)
{
	return TYPE == F32 ? Floats(table + i * 4).v[0] : TYPE == F16 ? half_at(table + i * 2) :
	       uintBitsToFloat(uint(Shorts(table + i * 2).v[0]) << 16);
}

// Elements [32 part, 32 part + 32) of a row of a matrix of `rows` rows; past cols: zero.
void weights(uint64_t table, uint rows, uint row, uint part, uint cols, out float w[32])
{
	const uint64_t all = uint64_t(rows) * cols, n = uint64_t(row) * cols;

	if (TYPE == Q4_0) {
		q4_0(table + (n / 32 + part) * 16, half_at(table + all / 2 + (n / 32 + part) * 2), w);
	} else if (TYPE == IQ4_NL) {
		iq4(table + (n / 32 + part) * 16, half_at(table + all / 2 + (n / 32 + part) * 2), w);
	} else if (TYPE == IQ4_XS) {
		const uvec2 head = two_at(table + all / 2 + (n / 256 + part / 8) * 8);

		iq4(table + (n / 32 + part) * 16, iq4_xs_scale(head, part % 8), w);
	} else if (TYPE == Q8_0) {
		q8_0(table + (n / 32 + part) * 32, half_at(table + all + (n / 32 + part) * 2), w);
	} else if (TYPE == Q4_K) {
		q4_k(table + (n / 256 + part / 8) * 144, part % 8, w);
	} else if (TYPE == Q5_K) {
		q5_k(table + (n / 256 + part / 8) * 176, part % 8, w);
	} else if (TYPE == Q3_K) {
		const uint64_t block = n / 256 + part / 8, blocks = all / 256;

		q3_k(table + block * 96, three_at(table + blocks * 96 + block * 12),
		     half_at(table + blocks * 108 + block * 2), part % 8, w);
	} else if (TYPE == Q6_K) {
		const uint64_t block = n / 256 + part / 8;

		q6_k(table + block * 208, half_at(table + all / 256 * 208 + block * 2), part % 8, w);
	} else {
		[[unroll]] for (uint i = 0; i < 32; i++)
			w[i] = part * 32 + i >= cols ? 0.0 : plain_at(table, n + part * 32 + i);
	}
}

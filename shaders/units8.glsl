// Quantised weights as products in 8 bits read them: a unit is what a lane reads of a row
// at once. Needs the push constants of products.glsl.
#extension GL_EXT_spirv_intrinsics : require

// OpSDot of four packed pairs; GLSL has no name for it before glslang 15.
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6018, 6019],
                  id = 4450)
int dot_packed(int a, int b, spirv_literal int format);

// What a lane reads of a row at once: UNIT elements in up to three times 16 bytes, in SUBS
// parts of one scale each, which are WIDTH x 16 elements that follow each other.
const bool IS_SIXTEENTHS = TYPE == Q3_K || TYPE == Q6_K;   // a scale for each 16
const uint UNIT = TYPE == Q8_0 ? 16 : IS_SIXTEENTHS ? 64 : 32;
const uint SUBS = IS_SIXTEENTHS ? 4 : HAS_MINIMUM ? 2 : 1;
const uint WIDTH = TYPE == Q4_0 || IS_CODED ? 2 : 1;
const uint LOW = 0x0f0f0f0f, HIGH = 0x30303030;

struct Unit {
	uvec4 low, low1, high;   // low1: Q6_K; high: Q3_K, Q5_K, Q6_K
	uvec4 head;      // Q4_K, Q5_K, IQ4_XS: the block's; Q3_K, Q6_K: its scales
	float d;
};

Unit load_unit(uint64_t w, uint rows, uint row, uint u)
{
	const uint64_t all = uint64_t(rows) * p.cols, k = uint64_t(row) * p.cols;
	Unit x;

	if (TYPE == Q4_0 || TYPE == IQ4_NL) {
		x.low = Quads(w + (k / 32 + u) * 16).v[0];
		x.d = half_at(w + all / 2 + (k / 32 + u) * 2);
	} else if (TYPE == IQ4_XS) {
		x.low = Quads(w + (k / 32 + u) * 16).v[0];
		x.head.xy = two_at(w + all / 2 + (k / 256 + u / 8) * 8);
	} else if (TYPE == Q8_0) {
		x.low = Quads(w + k + u * 16).v[0];
		x.d = half_at(w + all + (k / 32 + u / 2) * 2);
	} else if (TYPE == Q4_K) {
		Quads block = Quads(w + (k / 256 + u / 8) * 144);

		x.head = block.v[0];
		x.low = block.v[1 + u % 8];
	} else if (TYPE == Q5_K) {
		Quads block = Quads(w + (k / 256 + u / 8) * 176);

		x.head = block.v[0];
		x.high = block.v[1 + u % 2];
		x.low = block.v[3 + u % 8];
	} else if (TYPE == Q3_K) {
		const uint64_t at = k / 256 + u / 4, blocks = all / 256;
		Quads block = Quads(w + at * 96);

		x.high = block.v[u % 2];
		x.low = block.v[2 + u % 4];
		x.head.xyz = three_at(w + blocks * 96 + at * 12);
		x.d = half_at(w + blocks * 108 + at * 2);
	} else {
		const uint64_t at = k / 256 + u / 4;
		const uint h = u % 4 / 2, i = u % 2;
		Quads block = Quads(w + at * 208);

		x.low = block.v[h * 4 + i];
		x.low1 = block.v[h * 4 + 2 + i];
		x.high = block.v[8 + h * 2 + i];
		x.head = block.v[12];
		x.d = half_at(w + all / 256 * 208 + at * 2);
	}
	return x;
}

// The first element of a part.
uint element_of(uint u, uint sub)
{
	return HAS_MINIMUM ? u / 2 * 64 + sub * 32 + u % 2 * 16 :
	       IS_SIXTEENTHS ? u / 2 * 128 + sub * 32 + u % 2 * 16 : u * UNIT;
}

// The part's quants; scale, and what is to be taken off for each unit of the input.
vec2 unpack(Unit x, uint u, uint sub, out uvec4 q[2])
{
	if (TYPE == Q4_0) {
		q[0] = x.low & LOW;
		q[1] = x.low >> 4 & LOW;
		return vec2(x.d, 0);
	}
	if (IS_CODED) {
		[[unroll]] for (uint i = 0; i < 4; i++) {
			q[0][i] = iq4_values(x.low[i]);
			q[1][i] = iq4_values(x.low[i] >> 4);
		}
		return vec2(TYPE == IQ4_XS ? iq4_xs_scale(x.head.xy, u % 8) : x.d, 0);
	}
	if (TYPE == Q8_0) {
		q[0] = x.low;
		return vec2(x.d, 0);
	}
	if (TYPE == Q4_K) {
		q[0] = x.low >> sub * 4 & LOW;
		return q4_k_scales(x.head, u % 8 / 2 * 2 + sub);
	}
	if (TYPE == Q5_K) {
		const uint j = u % 8 / 2 * 2 + sub;

		q[0] = (x.low >> sub * 4 & LOW) | (x.high >> j & 0x01010101) << 4;
		return q4_k_scales(x.head, j);
	}
	const uint s = u % 4 / 2 * 8 + sub * 2 + u % 2;

	if (TYPE == Q3_K) {
		q[0] = (x.low >> sub * 2 & 0x03030303) |
		       (x.high >> u % 4 / 2 * 4 + sub & 0x01010101) << 2;
		return vec2(x.d * float(q3_k_scale(x.head.xyz, s)), 0);
	}

	q[0] = ((sub % 2 == 0 ? x.low : x.low1) >> sub / 2 * 4 & LOW) |
	       ((sub < 2 ? x.high << 4 - sub * 2 : x.high >> sub * 2 - 4) & HIGH);
	return vec2(x.d * float(byte_of(x.head[s / 4], s % 4)), 0);
}

int dot16(uvec4 a, uvec4 b)
{
	return dot_packed(int(a.x), int(b.x), 0) + dot_packed(int(a.y), int(b.y), 0) +
	       dot_packed(int(a.z), int(b.z), 0) + dot_packed(int(a.w), int(b.w), 0);
}

// Weights are stored without their sign: what that adds to the product.
int offset_of(uvec2 block, uint e)
{
	return TYPE == Q4_0 ? 8 * (block8_sum(block, 0) + block8_sum(block, 1)) :
	       IS_SIXTEENTHS ? (TYPE == Q3_K ? 4 : 32) * block8_sum(block, e / 16 % 2) : 0;
}

// Of a row of the input, elements [16 i, 16 i + 16).
uint quad_of(uint row, uint i)
{
	return row * (p.cols / 16) + i % 2 * (p.cols / 32) + i / 2;
}

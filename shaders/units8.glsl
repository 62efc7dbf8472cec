// Quantised weights as products in 8 bits read them: a unit is what a lane reads of a row
// at once. Needs the push constants of products.glsl.
#extension GL_EXT_spirv_intrinsics : require

// OpSDot of four packed pairs; GLSL has no name for it before glslang 15.
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6018, 6019],
                  id = 4450)
int dot_packed(int a, int b, spirv_literal int format);

// What a lane reads of a row at once: UNIT elements in up to three times 16 bytes, in SUBS
// parts of one scale each, which are WIDTH x 16 elements that follow each other.
const uint UNIT = TYPE == Q8_0 ? 16 : TYPE == Q6_K ? 64 : 32;
const uint SUBS = TYPE == Q6_K ? 4 : TYPE == Q4_K ? 2 : 1;
const uint WIDTH = TYPE == Q4_0 ? 2 : 1;
const uint LOW = 0x0f0f0f0f, HIGH = 0x30303030;

struct Unit {
	uvec4 low, low1, high;   // low1, high: Q6_K
	uvec4 head;      // Q4_K: the block's; Q6_K: its scales
	float d;
};

Unit load_unit(uint64_t w, uint rows, uint row, uint u)
{
	const uint64_t all = uint64_t(rows) * p.cols, k = uint64_t(row) * p.cols;
	Unit x;

	if (TYPE == Q4_0) {
		x.low = Quads(w + (k / 32 + u) * 16).v[0];
		x.d = half_at(w + all / 2 + (k / 32 + u) * 2);
	} else if (TYPE == Q8_0) {
		x.low = Quads(w + k + u * 16).v[0];
		x.d = half_at(w + all + (k / 32 + u / 2) * 2);
	} else if (TYPE == Q4_K) {
		Quads block = Quads(w + (k / 256 + u / 8) * 144);

		x.head = block.v[0];
		x.low = block.v[1 + u % 8];
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
	return TYPE == Q4_K ? u / 2 * 64 + sub * 32 + u % 2 * 16 :
	       TYPE == Q6_K ? u / 2 * 128 + sub * 32 + u % 2 * 16 : u * UNIT;
}

// The part's quants; scale, and what is to be taken off for each unit of the input.
vec2 unpack(Unit x, uint u, uint sub, out uvec4 q[2])
{
	if (TYPE == Q4_0) {
		q[0] = x.low & LOW;
		q[1] = x.low >> 4 & LOW;
		return vec2(x.d, 0);
	}
	if (TYPE == Q8_0) {
		q[0] = x.low;
		return vec2(x.d, 0);
	}
	if (TYPE == Q4_K) {
		q[0] = x.low >> sub * 4 & LOW;
		return q4_k_scales(x.head, u % 8 / 2 * 2 + sub);
	}
	const uint s = u % 4 / 2 * 8 + sub * 2 + u % 2;

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
	       TYPE == Q6_K ? 32 * block8_sum(block, e / 16 % 2) : 0;
}

// Of a row of the input, elements [16 i, 16 i + 16).
uint quad_of(uint row, uint i)
{
	return row * (p.cols / 16) + i % 2 * (p.cols / 32) + i / 2;
}

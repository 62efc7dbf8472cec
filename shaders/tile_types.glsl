// Weights by type for tiles of halves: fetch() reads what ITEM elements of a row are made
// of, a step before unpack() turns it into pairs of halves. Needs types.glsl, whose
// layouts these are, and tile_rows.glsl. Rows of F16 and BF16 are multiples of ITEM long.
const uint ITEM = TYPE == F16 || TYPE == BF16 ? 8 : 32;
// uvec4s of a fetched item, besides its scales
const bool HAS_HIGH = TYPE == Q3_K || TYPE == Q5_K || TYPE == Q6_K;
const uint RAW = TYPE == Q8_0 || TYPE == Q4_K ? 2 : HAS_HIGH ? 4 : 1;

// begin_types(), and the values of codes as halves. Ends with all invocations together.
shared uint iq4_halves[16];

void begin_tile_types()
{
	if (!IS_CODED)
		return;
	if (gl_LocalInvocationIndex < 16)
		iq4_halves[gl_LocalInvocationIndex] =
			packHalf2x16(vec2(iq4_value(gl_LocalInvocationIndex), 0));
	barrier();
}

struct Raw {
	uvec4 q[RAW];
	f16vec2 scales;
};

// Item of a row of a matrix of n rows. Past the end of the row: zeros, or some other
// item of it, which the zeros of the activations there hide.
void fetch(uint64_t table, uint row, uint item, uint cols, uint n, out Raw raw)
{
	const bool inside = item * ITEM < cols;
	const uint at = inside ? item : 0, j = at % 8;
	const uint b = row * (cols / ITEM) + at, b256 = row * (cols / 256) + at / 8;
	const uint64_t elements = uint64_t(n) * cols;

	raw.scales = f16vec2(0);
	if (TYPE == Q4_0 || TYPE == IQ4_NL) {
		raw.q[0] = Quads(table + uint64_t(b) * 16).v[0];
		raw.scales.x = Halves(table + elements / 2 + uint64_t(b) * 2).v[0];
	} else if (TYPE == IQ4_XS) {
		raw.q[0] = Quads(table + uint64_t(b) * 16).v[0];
		raw.scales.x = float16_t(iq4_xs_scale(two_at(table + elements / 2 + uint64_t(b256) * 8), j));
	} else if (TYPE == Q8_0) {
		[[unroll]] for (uint i = 0; i < RAW; i++)
			raw.q[i] = Quads(table + uint64_t(b) * 32).v[i];
		raw.scales.x = Halves(table + elements + uint64_t(b) * 2).v[0];
	} else if (TYPE == Q4_K) {
		Quads block = Quads(table + uint64_t(b256) * 144);

		[[unroll]] for (uint i = 0; i < RAW; i++)
			raw.q[i] = block.v[1 + j / 2 * 2 + i];
		raw.scales = f16vec2(q4_k_scales(block.v[0], j));
	} else if (TYPE == Q5_K) {
		Quads block = Quads(table + uint64_t(b256) * 176);

		[[unroll]] for (uint i = 0; i < RAW; i++)
			raw.q[i] = block.v[i < 2 ? 3 + j / 2 * 2 + i : i - 1];
		raw.scales = f16vec2(q4_k_scales(block.v[0], j));
	} else if (TYPE == Q3_K) {
		const uint64_t blocks = table + elements / 256 * 96;
		const uvec3 scales = three_at(blocks + uint64_t(b256) * 12);
		const float d = half_at(blocks + elements / 256 * 12 + uint64_t(b256) * 2);
		Quads block = Quads(table + uint64_t(b256) * 96);

		[[unroll]] for (uint i = 0; i < RAW; i++)
			raw.q[i] = block.v[i < 2 ? 2 + j / 4 * 2 + i : i - 2];
		raw.scales = f16vec2(d * vec2(q3_k_scale(scales, j * 2), q3_k_scale(scales, j * 2 + 1)));
	} else if (TYPE == Q6_K) {
		const uint64_t block = table + uint64_t(b256) * 208;
		const uint scales = Shorts(block + 192 + j * 2).v[0];
		const float d = half_at(table + elements / 256 * 208 + uint64_t(b256) * 2);

		[[unroll]] for (uint i = 0; i < RAW; i++)
			raw.q[i] = Quads(block + (i < 2 ? j / 4 * 64 + j % 2 * 32 + i * 16 :
			                                  128 + j / 4 * 32 + i % 2 * 16)).v[0];
		raw.scales = f16vec2(d * vec2(byte_of(scales, 0), byte_of(scales, 1)));
	} else {
		raw.q[0] = Quads(table + uint64_t(b) * 16).v[0] * uint(inside);
	}
}

// Items `item` and the next, of rows that are a multiple of 64 elements long: an even item.
void fetch_two(uint64_t table, uint row, uint item, uint cols, uint n, out Raw a, out Raw b)
{
	if (TYPE == Q4_0 || TYPE == Q8_0 || TYPE == IQ4_NL) {
		const uint at = row * (cols / 32) + (item * 32 < cols ? item : 0);
		const uint64_t scales = table + uint64_t(n) * cols / (TYPE == Q8_0 ? 1 : 2);
		const f16vec2 d = unpackFloat2x16(Uints(scales + uint64_t(at) * 2).v[0]);
		Quads quants = Quads(table + uint64_t(at) * (16 * RAW));

		[[unroll]] for (uint i = 0; i < RAW; i++) {
			a.q[i] = quants.v[i];
			b.q[i] = quants.v[RAW + i];
		}
		a.scales = f16vec2(d.x, 0);
		b.scales = f16vec2(d.y, 0);
	} else {
		fetch(table, row, item, cols, n, a);
		fetch(table, row, item + 1, cols, n, b);
	}
}

// Bytes 0 and 2 of x, 0 to 255, as halves less bias: 0x6400 + b is 1024 + b.
f16vec2 byte_pair(uint x, float bias)
{
	return unpackFloat2x16(x | 0x64006400) - f16vec2(float16_t(1024.0 + bias));
}

// The same of four bits each, 4 to 7 and 20 to 23 of x: 1024 + 16 b, with no shift.
f16vec2 high_pair(uint x, float bias)
{
	return fma(unpackFloat2x16(x | 0x64006400), f16vec2(float16_t(1.0 / 16)),
	           f16vec2(float16_t(-64 - bias)));
}

// Pair i of item j, in the order of tile_rows.glsl.
f16vec2 unpack(Raw raw, uint j, uint i)
{
	const uint shift = i % 2 * 8, of = i % 8 / 2;
	const f16vec2 d = f16vec2(raw.scales.x);

	if (TYPE == Q4_0) {
		const uint x = raw.q[0][of] >> shift;

		return (i < 8 ? byte_pair(x & 0x000f000f, 8) : high_pair(x & 0x00f000f0, 8)) * d;
	}
	if (TYPE == Q8_0)
		return byte_pair((raw.q[i / 8 % RAW][of] ^ 0x80808080) >> shift & 0x00ff00ff, 128) * d;
	if (TYPE == Q4_K) {
		const uint x = raw.q[i / 8 % RAW][of] >> (shift + j % 2 * 4) & 0x000f000f;

		return fma(byte_pair(x, 0), d, f16vec2(-raw.scales.y));
	}
	if (IS_CODED) {
		const uint x = raw.q[0][of] >> (shift + i / 8 * 4);

		return unpackFloat2x16(iq4_halves[x & 15] | iq4_halves[x >> 16 & 15] << 16) * d;
	}
	if (TYPE == Q5_K) {
		const uint low = raw.q[i / 8 % RAW][of] >> (shift + j % 2 * 4) & 0x000f000f;
		const uint high = raw.q[(2 + i / 8) % RAW][of] >> shift >> j & 0x00010001;

		return fma(byte_pair(low | high << 4, 0), d, f16vec2(-raw.scales.y));
	}
	if (TYPE == Q3_K) {
		const uint low = raw.q[i / 8 % RAW][of] >> (shift + j % 4 * 2) & 0x00030003;
		const uint high = raw.q[(2 + i / 8) % RAW][of] >> shift >> j & 0x00010001;

		return byte_pair(low | high << 2, 4) *
		       f16vec2(i < 8 ? raw.scales.x : raw.scales.y);
	}
	if (TYPE == Q6_K) {
		const uint low = raw.q[i / 8 % RAW][of] >> (shift + j % 4 / 2 * 4) & 0x000f000f;
		const uint high = raw.q[(2 + i / 8) % RAW][of] >> (shift + j % 4 * 2) & 0x00030003;

		return byte_pair(low | high << 4, 32) *
		       f16vec2(i < 8 ? raw.scales.x : raw.scales.y);
	}
	const uint a = raw.q[0][i / 2 * 2 % 4], b = raw.q[0][(i / 2 * 2 + 1) % 4];
	const uint even = (a & 0xffff) | b << 16, odd = a >> 16 | (b & 0xffff0000);
	const uint x = i % 2 == 0 ? even : odd;

	return TYPE == F16 ? unpackFloat2x16(x) :
	       f16vec2(uintBitsToFloat(x << 16), uintBitsToFloat(x & 0xffff0000));
}

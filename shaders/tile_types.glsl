// Weights by type for tiles of halves: fetch() reads what 32 elements of a row are made
// of, a step before unpack() turns it into pairs of halves. Needs types.glsl, whose
// layouts these are.

// uvec4s of a fetched part, besides its scales
const uint RAW = TYPE == Q4_0 ? 1 : TYPE == Q8_0 ? 2 : TYPE == Q4_K ? 2 : 4;

struct Raw {
	uvec4 q[RAW];
	vec2 scales;
};

// Of rows that are no multiple of 8 long, or end within the part: past cols zeros.
void fetch_halves(uint64_t at, uint count, out Raw raw)
{
	[[unroll]] for (uint i = 0; i < 4 && i < RAW; i++)
		[[unroll]] for (uint j = 0; j < 4; j++) {
			const uint e = i * 8 + j * 2;

			raw.q[i][j] = (e < count ? uint(Shorts(at).v[e]) : 0) |
			              (e + 1 < count ? uint(Shorts(at).v[e + 1]) << 16 : 0);
		}
}

void fetch_quads(uint64_t at, out Raw raw)
{
	[[unroll]] for (uint i = 0; i < RAW; i++)
		raw.q[i] = Quads(at).v[i];
}

// Elements [32 part, 32 part + 32) of the row; n: rows of the whole matrix.
void fetch(uint64_t table, uint row, uint part, uint cols, uint n, out Raw raw)
{
	const uint64_t elements = uint64_t(n) * cols, first = uint64_t(row) * cols + part * 32;
	const uint64_t b32 = first / 32, b256 = first / 256;
	const uint j = part % 8;

	raw.scales = vec2(0);
	if (TYPE == Q4_0) {
		fetch_quads(table + b32 * 16, raw);
		raw.scales.x = half_at(table + elements / 2 + b32 * 2);
	} else if (TYPE == Q8_0) {
		fetch_quads(table + b32 * 32, raw);
		raw.scales.x = half_at(table + elements + b32 * 2);
	} else if (TYPE == Q4_K) {
		fetch_quads(table + b256 * 144 + 16 + j / 2 * 32, raw);
		raw.scales = q4_k_scales(Quads(table + b256 * 144).v[0], j);
	} else if (TYPE == Q6_K) {
		const uint64_t at = table + b256 * 208;
		const uint scales = Shorts(at + 192 + j * 2).v[0];
		const float d = half_at(table + elements / 256 * 208 + b256 * 2);

		raw.q[0] = Quads(at + j / 4 * 64 + j % 2 * 32).v[0];
		raw.q[1 % RAW] = Quads(at + j / 4 * 64 + j % 2 * 32).v[1];
		raw.q[2 % RAW] = Quads(at + 128 + j / 4 * 32).v[0];
		raw.q[3 % RAW] = Quads(at + 128 + j / 4 * 32).v[1];
		raw.scales = d * vec2(byte_of(scales, 0), byte_of(scales, 1));
	} else if (cols % 8 == 0 && part * 32 + 32 <= cols) {
		fetch_quads(table + first * 2, raw);
	} else {
		fetch_halves(table + first * 2, part * 32 < cols ? min(32, cols - part * 32) : 0, raw);
	}
}

// Bytes 0 and 1 of x, 0 to 255, as halves less bias: 0x6400 + b is 1024 + b.
f16vec2 byte_pair(uint x, float bias)
{
	return unpackFloat2x16((x & 0xff) | (x & 0xff00) << 8 | 0x64006400) -
	       f16vec2(float16_t(1024.0 + bias));
}

// Elements 2 i and 2 i + 1 of the part; j: part % 8.
f16vec2 unpack(Raw raw, uint j, uint i)
{
	const uint shift = i % 2 * 16;

	if (TYPE == Q4_0) {
		const uint x = raw.q[0][i % 8 / 2] >> (shift + i / 8 * 4);

		return byte_pair(x & 0x0f0f, 8) * f16vec2(float16_t(raw.scales.x));
	}
	if (TYPE == Q8_0)
		return byte_pair((raw.q[i / 8 % RAW][i % 8 / 2] ^ 0x80808080) >> shift, 128) *
		       f16vec2(float16_t(raw.scales.x));
	if (TYPE == Q4_K) {
		const uint x = raw.q[i / 8 % RAW][i % 8 / 2] >> (shift + j % 2 * 4);

		return fma(byte_pair(x & 0x0f0f, 0), f16vec2(float16_t(raw.scales.x)),
		           f16vec2(float16_t(-raw.scales.y)));
	}
	if (TYPE == Q6_K) {
		const uint low = raw.q[i / 8 % RAW][i % 8 / 2] >> (shift + j % 4 / 2 * 4);
		const uint high = raw.q[(2 + i / 8) % RAW][i % 8 / 2] >> (shift + j % 4 * 2);

		return byte_pair((low & 0x0f0f) | (high & 0x0303) << 4, 32) *
		       f16vec2(float16_t(i < 8 ? raw.scales.x : raw.scales.y));
	}
	const uint x = raw.q[i / 4 % RAW][i % 4];

	return TYPE == F16 ? unpackFloat2x16(x) :
	       f16vec2(uintBitsToFloat(x << 16), uintBitsToFloat(x & 0xffff0000));
}

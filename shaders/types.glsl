// Weights by type: 32 elements of a row as floats. TYPE is the number of the type in
// GGUF; the layouts of blocks are those of the GGUF specification, unchanged.
layout(constant_id = 0) const uint TYPE = 0;

const uint F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, Q4_K = 12, Q6_K = 14, BF16 = 30;

float half_at(uint64_t at)
{
	return float(Halves(at).v[0]);
}

void q4_0(uint64_t at, out float w[32])
{
	const float d = half_at(at);
	Shorts q = Shorts(at + 2);

	[[unroll]] for (uint i = 0; i < 8; i++) {
		const uint b = q.v[i];

		w[2 * i] = d * float(int(b & 15) - 8);
		w[2 * i + 1] = d * float(int(b >> 8 & 15) - 8);
		w[2 * i + 16] = d * float(int(b >> 4 & 15) - 8);
		w[2 * i + 17] = d * float(int(b >> 12) - 8);
	}
}

void q8_0(uint64_t at, out float w[32])
{
	const float d = half_at(at);
	Shorts q = Shorts(at + 2);

	[[unroll]] for (uint i = 0; i < 16; i++) {
		const int b = int(int16_t(q.v[i]));

		w[2 * i] = d * float(bitfieldExtract(b, 0, 8));
		w[2 * i + 1] = d * float(b >> 8);
	}
}

// Part j of a block of 256.
void q4_k(uint64_t at, uint j, out float w[32])
{
	Bytes s = Bytes(at + 4);
	Uints q = Uints(at + 16 + j / 2 * 32);
	const uint scale = j < 4 ? s.v[j] & 63 : (s.v[j + 4] & 15) | (s.v[j - 4] >> 6) << 4;
	const uint minimum = j < 4 ? s.v[j + 4] & 63 : (s.v[j + 4] >> 4) | (s.v[j] >> 6) << 4;
	const float d = half_at(at) * float(scale), m = half_at(at + 2) * float(minimum);

	[[unroll]] for (uint i = 0; i < 32; i++)
		w[i] = d * float(bitfieldExtract(q.v[i / 4], int(i % 4 * 8 + j % 2 * 4), 4)) - m;
}

void q6_k(uint64_t at, uint j, out float w[32])
{
	const uint part = j % 4;
	Shorts low = Shorts(at + j / 4 * 64 + part % 2 * 32), high = Shorts(at + 128 + j / 4 * 32);
	const int scales = int(int16_t(Shorts(at + 192 + j * 2).v[0]));
	const float d = half_at(at + 208);
	const float d0 = d * float(bitfieldExtract(scales, 0, 8)), d1 = d * float(scales >> 8);

	[[unroll]] for (uint i = 0; i < 32; i++) {
		const uint l = uint(low.v[i / 2]) >> (i % 2 * 8 + part / 2 * 4);
		const uint h = uint(high.v[i / 2]) >> (i % 2 * 8 + part * 2);

		w[i] = (i < 16 ? d0 : d1) * float(int((l & 15) | (h & 3) << 4) - 32);
	}
}

// Elements [32 part, 32 part + 32) of the row; past cols: zero.
void weights(uint64_t table, uint row, uint part, uint cols, out float w[32])
{
	const uint64_t n = uint64_t(row) * cols;

	if (TYPE == Q4_0) {
		q4_0(table + (n / 32 + part) * 18, w);
	} else if (TYPE == Q8_0) {
		q8_0(table + (n / 32 + part) * 34, w);
	} else if (TYPE == Q4_K) {
		q4_k(table + (n / 256 + part / 8) * 144, part % 8, w);
	} else if (TYPE == Q6_K) {
		q6_k(table + (n / 256 + part / 8) * 210, part % 8, w);
	} else {
		[[unroll]] for (uint i = 0; i < 32; i++) {
			const uint64_t at = n + part * 32 + i;

			w[i] = part * 32 + i >= cols ? 0.0 :
			       TYPE == F32 ? Floats(table + at * 4).v[0] :
			       TYPE == F16 ? half_at(table + at * 2) :
			       uintBitsToFloat(uint(Shorts(table + at * 2).v[0]) << 16);
		}
	}
}

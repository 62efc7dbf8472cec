// Keys and values as they are kept. A block is [layer of the kind][K, V][KV head] of 64
// positions: F32, F16: [64][head_dim]; Q8_0: quants [64][head_dim], scales
// [64][head_dim / 32] f16. Eight elements are read at once.
layout(constant_id = 0) const uint KV_TYPE = 0;  // GGUF's numbers: F32, F16, Q8_0
layout(constant_id = 2) const uint DIM = 128;    // a multiple of 8; of 32 for Q8_0
const uint KV_BLOCK = 64, KV_F32 = 0, KV_F16 = 1, KV_Q8_0 = 8;

layout(buffer_reference, scalar, buffer_reference_align = 16) buffer Octets { uvec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer Pairs { uvec2 v[]; };

struct Octet {
	uvec4 a, b;              // F32: both; F16: a; Q8_0: of a the first two
	float d;
};

// Of a KV head: its 64 positions in a block.
uint64_t kv_head(uint64_t block, uint layer, uint which, uint head, uint heads)
{
	const uint64_t bytes = KV_TYPE == KV_F32 ? KV_BLOCK * DIM * 4 :
	                       KV_TYPE == KV_F16 ? KV_BLOCK * DIM * 2 : KV_BLOCK * DIM / 32 * 34;

	return block + ((uint64_t(layer) * 2 + which) * heads + head) * bytes;
}

// Elements [8 i, 8 i + 8) of a position.
Octet kv_load(uint64_t head, uint at, uint i)
{
	const uint n = at * (DIM / 8) + i;
	Octet o;

	if (KV_TYPE == KV_F32) {
		o.a = Octets(head).v[n * 2];
		o.b = Octets(head).v[n * 2 + 1];
	} else if (KV_TYPE == KV_F16) {
		o.a = Octets(head).v[n];
	} else {
		o.a.xy = Pairs(head).v[n];
		o.d = float(Halves(head + KV_BLOCK * DIM).v[n / 4]);
	}
	return o;
}

void kv_floats(Octet o, out vec4 x[2])
{
	if (KV_TYPE == KV_F32) {
		x[0] = uintBitsToFloat(o.a);
		x[1] = uintBitsToFloat(o.b);
	} else if (KV_TYPE == KV_F16) {
		x[0] = vec4(unpackHalf2x16(o.a.x), unpackHalf2x16(o.a.y));
		x[1] = vec4(unpackHalf2x16(o.a.z), unpackHalf2x16(o.a.w));
	} else {
		[[unroll]] for (uint i = 0; i < 2; i++)
			[[unroll]] for (uint j = 0; j < 4; j++)
				x[i][j] = o.d * float(bitfieldExtract(int(o.a[i]), int(j * 8), 8));
	}
}

// Heads to be stored; HEAD_ROWS is defined by who includes this.
shared float head_floats[HEAD_ROWS][DIM];

void store_q8_0(uint64_t head, uint at, uint which, uint block)
{
	float most = 0;

	for (uint i = 0; i < 32; i++)
		most = max(most, abs(head_floats[which][block * 32 + i]));
	const float d = most / 127, inverse = most > 0 ? 127 / most : 0.0;
	Halves(head + KV_BLOCK * DIM).v[at * (DIM / 32) + block] = float16_t(d);
	for (uint i = 0; i < 8; i++) {
		uint packed = 0;

		for (uint j = 0; j < 4; j++) {
			const float x = head_floats[which][block * 32 + i * 4 + j];

			packed |= (uint(int(roundEven(x * inverse))) & 255) << j * 8;
		}
		Words(head).v[at * (DIM / 4) + block * 8 + i] = packed;
	}
}

// head_floats[which] as a position of a head, by the lanes [me, me + step, ...).
void kv_store(uint64_t head, uint at, uint which, uint me, uint step)
{
	if (KV_TYPE == KV_Q8_0) {
		for (uint b = me; b < DIM / 32; b += step)
			store_q8_0(head, at, which, b);
		return;
	}
	for (uint i = me; i < DIM; i += step)
		if (KV_TYPE == KV_F32)
			Floats(head).v[at * DIM + i] = head_floats[which][i];
		else
			Halves(head).v[at * DIM + i] = float16_t(head_floats[which][i]);
}

// Keys and values as they are kept. A block is [layer of the kind][K, V][KV head]
// [64 positions][head_dim].
layout(constant_id = 0) const uint KV_TYPE = 0; // GGUF's numbers: F32, F16
const uint KV_BLOCK = 64;

uint64_t kv_row(uint64_t block, uint layer, uint which, uint head, uint heads, uint at, uint dim)
{
	const uint64_t n = ((uint64_t(layer) * 2 + which) * heads + head) * KV_BLOCK + at;

	return block + n * dim * (KV_TYPE == 0 ? 4 : 2);
}

float kv_load(uint64_t row, uint i)
{
	return KV_TYPE == 0 ? Floats(row).v[i] : float(Halves(row).v[i]);
}

void kv_store(uint64_t row, uint i, float x)
{
	if (KV_TYPE == 0)
		Floats(row).v[i] = x;
	else
		Halves(row).v[i] = float16_t(x);
}

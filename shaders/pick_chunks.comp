#version 460
// Of each row of logits as many chunks of 64 as candidates are wanted: those of the
// largest maxima, of equal ones the first. The candidates are among them. They go to the
// host's memory, in any order.
#include "common.glsl"
const uint SIZE = 256;
layout(local_size_x = 256) in;
#include "reduce.glsl"

const uint MOST = 256, CHUNK = 64;
layout(push_constant, scalar) uniform P {
	uint64_t logits, maxima, wanted; // wanted: of each row
	uint64_t to;                     // [row] of MOST numbers of chunks, MOST chunks
	uint n, chunks;
} p;

shared uint picked[MOST], n_picked;

// Larger for larger floats.
uint key_of(float x)
{
	const uint bits = floatBitsToUint(x);

	return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

uint key_at(uint row, uint chunk)
{
	return key_of(Floats(p.maxima).v[row * p.chunks + chunk]);
}

// Chunks whose key is at least that.
uint count(uint row, uint least)
{
	uint n = 0;

	for (uint c = gl_LocalInvocationIndex; c < p.chunks; c += SIZE)
		n += uint(key_at(row, c) >= least);
	return uint(group_sum(float(n)));
}

uint largest_key(uint row)
{
	float most = -3.4e38;

	for (uint c = gl_LocalInvocationIndex; c < p.chunks; c += SIZE)
		most = max(most, Floats(p.maxima).v[row * p.chunks + c]);
	return key_of(group_max(most));
}

// The largest key that so many chunks reach.
uint find_threshold(uint row, uint wanted)
{
	uint t = 0;

	if (wanted == 1)
		return largest_key(row);
	for (uint bit = 0x80000000u; bit != 0; bit >>= 1)
		if (count(row, t | bit) >= wanted)
			t |= bit;
	return t;
}

// Where more chunks than are left to pick are equal, an invocation takes the first ones.
void pick(uint row, uint least, uint wanted)
{
	const uint me = gl_LocalInvocationIndex;
	const bool all = count(row, least) == wanted;

	for (uint c = me; c < p.chunks; c += SIZE) {
		const uint key = key_at(row, c);

		if (key > least || (all && key == least))
			picked[atomicAdd(n_picked, 1)] = c;
	}
	barrier();
	for (uint c = 0; me == 0 && c < p.chunks && n_picked < wanted; c++)
		if (key_at(row, c) == least)
			picked[n_picked++] = c;
	barrier();
}

void main()
{
	const uint row = gl_WorkGroupID.x, me = gl_LocalInvocationIndex;
	const uint wanted = min(Uints(p.wanted).v[row], min(MOST, p.chunks));
	const uint64_t to = p.to + uint64_t(row) * MOST * (CHUNK + 1) * 4;

	if (me == 0)
		n_picked = 0;
	if (wanted == 0)
		return;
	pick(row, find_threshold(row, wanted), wanted);
	for (uint i = me; i < wanted * CHUNK; i += SIZE) {
		const uint at = picked[i / CHUNK] * CHUNK + i % CHUNK;

		if (i % CHUNK == 0)
			Words(to).v[i / CHUNK] = picked[i / CHUNK];
		if (at < p.n)
			Floats(to + MOST * 4).v[i] = Floats(p.logits + uint64_t(row) * p.n * 4).v[at];
	}
}

/* The order of the quants of Q3_K to Q6_K in packed groups. In files a part of 32
 * elements shares its bytes with up to seven others; here each has its own 4 B words, B
 * being its bits, and most of its quants need but a mask: as many as there are words (of
 * three bits twice as many) stand whole in one, the others in the bits that these leave. */
#include "kernels/isa.h"

#define INLINE static inline __attribute__((always_inline))

enum { PARTS = 8, PART_WORDS = 8 };

typedef gp_four four;

/* Where the quants of part j are: bits [low_shift, low_shift + low_bits) of 8 words from
 * low on, upper bits likewise from high on. */
struct source {
	unsigned low, low_shift, low_bits, high, high_shift, high_bits;
};

INLINE struct source source_of(enum gp_type t, unsigned j)
{
	const unsigned half = j / 4, s = j % 4;

	switch (t) {
	case GP_TYPE_Q3_K: return (struct source){ 8 + 8 * half, 2 * s, 2, 0, j, 1 };
	case GP_TYPE_Q4_K: return (struct source){ j / 2 * 8, j % 2 * 4, 4, 0, 0, 0 };
	case GP_TYPE_Q5_K: return (struct source){ 8 + j / 2 * 8, j % 2 * 4, 4, 0, j, 1 };
	default:
		return (struct source){ 16 * half + s % 2 * 8, s / 2 * 4, 4, 32 + 8 * half, 2 * s, 2 };
	}
}

INLINE uint32_t bytes(unsigned bits)
{
	return 0x01010101u * bits;
}

/* Upper bits of a quant, which stand from bit high_shift on, belong to bit low_bits. */
INLINE four upper(four w, struct source s)
{
	return (s.high_shift > s.low_bits ? w >> (s.high_shift - s.low_bits) :
	                                    w << (s.low_bits - s.high_shift)) &
	       bytes(((1u << s.high_bits) - 1) << s.low_bits);
}

INLINE void take_quants(four q[PART_WORDS], const four *w, struct source s)
{
	const uint32_t low = bytes((1u << s.low_bits) - 1);

#pragma GCC unroll 8
	for (unsigned v = 0; v < PART_WORDS; v++) {
		q[v] = w[s.low + v] >> s.low_shift & low;
		if (s.high_bits)
			q[v] |= upper(w[s.high + v], s);
	}
}

/* The words begin as zeros. */
INLINE void put_quants(four *w, const four q[PART_WORDS], struct source s)
{
	const uint32_t low = bytes((1u << s.low_bits) - 1), high = bytes((1u << s.high_bits) - 1);

#pragma GCC unroll 8
	for (unsigned v = 0; v < PART_WORDS; v++) {
		w[s.low + v] |= (q[v] & low) << s.low_shift;
		if (s.high_bits)
			w[s.high + v] |= (q[v] >> s.low_bits & high) << s.high_shift;
	}
}

/* ---- the quants of a part in as many words as they have bits ---------------------- */
INLINE void join_3(four w[3], const four q[PART_WORDS])
{
	const four left = q[6] | q[7] << 4;

#pragma GCC unroll 3
	for (unsigned i = 0; i < 3; i++)
		w[i] = q[2 * i] << 1 | q[2 * i + 1] << 5 | (left >> i & bytes(0x11));
}

INLINE void split_3(four q[PART_WORDS], const four w[3])
{
	four left = { 0 };

	for (unsigned i = 0; i < 3; i++) {
		q[2 * i] = w[i] >> 1 & bytes(7);
		q[2 * i + 1] = w[i] >> 5 & bytes(7);
		left |= (w[i] & bytes(0x11)) << i;
	}
	q[6] = left & bytes(7);
	q[7] = left >> 4 & bytes(7);
}

INLINE void join_4(four w[4], const four q[PART_WORDS])
{
#pragma GCC unroll 4
	for (unsigned i = 0; i < 4; i++)
		w[i] = q[i] | q[4 + i] << 4;
}

INLINE void split_4(four q[PART_WORDS], const four w[4])
{
	for (unsigned i = 0; i < 4; i++) {
		q[i] = w[i] & bytes(15);
		q[4 + i] = w[i] >> 4 & bytes(15);
	}
}

INLINE void join_5(four w[5], const four q[PART_WORDS])
{
	w[0] = q[0] | (q[5] & bytes(7)) << 5;
	w[1] = q[1] | (q[6] & bytes(7)) << 5;
	w[2] = q[2] | (q[7] & bytes(7)) << 5;
	w[3] = q[3] | (q[5] & bytes(24)) << 2 | (q[7] & bytes(8)) << 4;
	w[4] = q[4] | (q[6] & bytes(24)) << 2 | (q[7] & bytes(16)) << 3;
}

INLINE void split_5(four q[PART_WORDS], const four w[5])
{
	for (unsigned i = 0; i < 5; i++)
		q[i] = w[i] & bytes(31);
	q[5] = (w[0] >> 5 & bytes(7)) | (w[3] >> 2 & bytes(24));
	q[6] = (w[1] >> 5 & bytes(7)) | (w[4] >> 2 & bytes(24));
	q[7] = (w[2] >> 5 & bytes(7)) | (w[3] >> 4 & bytes(8)) | (w[4] >> 3 & bytes(16));
}

INLINE void join_6(four w[6], const four q[PART_WORDS])
{
#pragma GCC unroll 2
	for (unsigned i = 0; i < 2; i++) {
		w[3 * i] = q[3 * i] | (q[6 + i] & bytes(3)) << 6;
		w[3 * i + 1] = q[3 * i + 1] | (q[6 + i] & bytes(12)) << 4;
		w[3 * i + 2] = q[3 * i + 2] | (q[6 + i] & bytes(48)) << 2;
	}
}

INLINE void split_6(four q[PART_WORDS], const four w[6])
{
	for (unsigned i = 0; i < 2; i++, w += 3) {
		for (unsigned v = 0; v < 3; v++)
			q[3 * i + v] = w[v] & bytes(63);
		q[6 + i] = (w[0] >> 6 & bytes(3)) | (w[1] >> 4 & bytes(12)) |
		           (w[2] >> 2 & bytes(48));
	}
}

/* All but the words are constants: loading a model waits for this. */
INLINE void order(four *w, const enum gp_type t, void (*join)(four *, const four *))
{
	four out[GP_MOST_WORDS], q[PART_WORDS], *to = out;

#pragma GCC unroll 8
	for (unsigned j = 0; j < PARTS; j++) {
		const struct source s = source_of(t, j);

		take_quants(q, w, s);
		join(to, q);
		to += s.low_bits + s.high_bits;
	}
	memcpy(w, out, (size_t)(to - out) * sizeof(four));
}

INLINE void restore(four *w, const enum gp_type t, void (*split)(four *, const four *))
{
	four out[GP_MOST_WORDS] = { 0 }, q[PART_WORDS];
	const four *from = w;

#pragma GCC unroll 8
	for (unsigned j = 0; j < PARTS; j++) {
		const struct source s = source_of(t, j);

		split(q, from);
		put_quants(out, q, s);
		from += s.low_bits + s.high_bits;
	}
	memcpy(w, out, (size_t)(from - w) * sizeof(four));
}

void gp_order_quants(enum gp_type t, four *w)
{
	switch (t) {
	case GP_TYPE_Q3_K: order(w, GP_TYPE_Q3_K, join_3); return;
	case GP_TYPE_Q4_K: order(w, GP_TYPE_Q4_K, join_4); return;
	case GP_TYPE_Q5_K: order(w, GP_TYPE_Q5_K, join_5); return;
	default: order(w, GP_TYPE_Q6_K, join_6);
	}
}

void gp_restore_quants(enum gp_type t, four *w)
{
	switch (t) {
	case GP_TYPE_Q3_K: restore(w, GP_TYPE_Q3_K, split_3); return;
	case GP_TYPE_Q4_K: restore(w, GP_TYPE_Q4_K, split_4); return;
	case GP_TYPE_Q5_K: restore(w, GP_TYPE_Q5_K, split_5); return;
	default: restore(w, GP_TYPE_Q6_K, split_6);
	}
}

/* ---- scales of Q3_K -------------------------------------------------------------- */
/* The two scales of a part stand in the halves of a word, their sign at the top: two parts
 * of each word so, two more by what is left: four bits of one in word 0, of the other in
 * word 2, the lowest two of both in word 1. */
enum { PAIR = 0x003f003f, LOWEST = 0x00030003, UPPER = 0x000f000f };

void gp_order_q3_scales(four w[3])
{
	four pair[PARTS];

	for (unsigned p = 0; p < PARTS; p++) {
		const four low = w[p / 2 % 2] >> p / 4 * 4 & 0x0f0f0f0f;
		const four scales = (low | (w[2] >> p / 2 * 2 & 0x03030303) << 4) ^ 0x20202020;
		const four two = scales >> p % 2 * 16;

		pair[p] = (two & 0x3f) | (two & 0x3f00) << 8;
	}
	for (unsigned i = 0; i < 3; i++)
		w[i] = pair[i] << 10 | pair[3 + i] << 4;
	w[0] |= pair[6] >> 2 & UPPER;
	w[1] |= (pair[6] & LOWEST) | (pair[7] & LOWEST) << 2;
	w[2] |= pair[7] >> 2 & UPPER;
}

void gp_restore_q3_scales(four w[3])
{
	four pair[PARTS], out[3] = { 0 };

	for (unsigned i = 0; i < 3; i++) {
		pair[i] = w[i] >> 10 & PAIR;
		pair[3 + i] = w[i] >> 4 & PAIR;
	}
	pair[6] = (w[0] & UPPER) << 2 | (w[1] & LOWEST);
	pair[7] = (w[2] & UPPER) << 2 | (w[1] >> 2 & LOWEST);
	for (unsigned p = 0; p < PARTS; p++) {
		const four two = ((pair[p] & 0x3f) | (pair[p] >> 8 & 0x3f00)) ^ 0x2020;
		const unsigned at = p % 2 * 16;

		out[p / 2 % 2] |= (two & 0x0f0f) << at << p / 4 * 4;
		out[2] |= (two >> 4 & 0x0303) << at << p / 2 * 2;
	}
	memcpy(w, out, sizeof(out));
}

/* dot() for packed_tiles.h without VNNI: unsigned by signed bytes, two products
 * to 16 bits, which saturate. |x| <= 127, so a pair is at most 2 x 127 x most, and
 *   most 15: 3810, eight of them 30480;   most 31: 7874, four 31496;
 *   most 63: 16002, two 32004: all below 32768.
 * So many are added up in 16 bits before they are widened. Bytes with a sign
 * (most 255) go by magnitude, at most 128, with the sign moved to x: 32512.
 * The file that includes this defines pairs(), signed_pairs() (two products to 16
 * bits), add_pairs() and widen_add() (pairs of 16 bits added to 32). */
#ifndef GP_PACKED_DOT16_H
#define GP_PACKED_DOT16_H

enum { SIGNED_QUANTS = 1, DOT_STEP = 8 };

INLINE vi dot(vi acc, const vi *q, const unsigned n, const int8_t *x, const unsigned most)
{
	const unsigned safe = most == 15 ? 8 : most == 31 ? 4 : most == 63 ? 2 : 1;
	vi sum = v_word(0);

#pragma GCC unroll 8
	for (unsigned v = 0; v < n; v++) {
		const vi b = v_broadcast(x + 4 * v);
		const vi two = safe == 1 ? signed_pairs(q[v], b) : pairs(q[v], b);

		sum = v % safe ? add_pairs(sum, two) : two;
		if (v % safe == safe - 1 || v == n - 1)
			acc = widen_add(acc, sum);
	}
	return acc;
}

#endif

/* The integer products over packed weights, written once for all vector
 * instruction sets. The file that includes this defines the vectors and what is
 * done with them:
 *   LANES, TILE_ROWS (rows whose sums stay in registers), vi and vf (LANES 32-bit
 *   numbers), v_* on them
 *   dot(acc, q, n, x, most): acc + q[0..n) x x[0..4n): 4 bytes a lane and vector
 *   SIGNED_QUANTS: 1: dot takes bytes of -127..127 where most is 255.
 *
 * For each block of 32 elements the quants of LANES matrix rows are unpacked to
 * bytes once, in registers, and used by up to TILE_ROWS activation rows. Each
 * output has one float accumulator that walks k upwards, whatever tile it is
 * in: that is row invariance. */
#ifndef GP_PACKED_TILES_H
#define GP_PACKED_TILES_H

#include "kernels/isa.h"

enum {
	X_BLOCK_ROWS = 8 * GP_Q8_TILE,     /* rows that meet the weights in the L1 cache */
	X_BLOCK_BYTES = 512 << 10,         /* and, of these, what stays in the L2 cache */
	SUPER = 8,                         /* 32-element parts of the largest block */
	/* The processor does not look far enough ahead by itself, least of all with several
	 * rows, whose loads are further apart. */
	PREFETCH_BYTES = 4096,             /* half of it where several groups add up */
	/* For up to three rows memory sets the pace, and gives more to several streams.
	 * Not for blocks of 256, whose code would no longer fit its cache. */
	GROUPS = 4,
};

/* 32 elements of LANES matrix rows. */
struct part {
	vi q[8];       /* q[v]: elements 4v .. 4v + 3 of each row */
	vf scale[2];   /* of elements 0..31, or of 0..15 and 16..31 */
	vf min;        /* what (-8 sum of x) is multiplied by */
	vi pair;       /* 16-bit scales of elements 0..15 and 16..31 */
};

/* Scales of all parts of a block of 256. */
struct scales {
	vf scale[2 * SUPER], min[SUPER];
	vi pair[SUPER];
};

/* How sums become products. PAIRS: integers times integers over a block, then its scale. */
enum shape { OFFSET, MINIMUM, HALVES, PAIRS };

INLINE enum shape shape_of(const enum gp_type t)
{
	return t == GP_TYPE_Q6_K ? HALVES : t == GP_TYPE_Q3_K ? PAIRS :
	       t == GP_TYPE_Q4_1 || t == GP_TYPE_Q5_1 || t == GP_TYPE_Q4_K || t == GP_TYPE_Q5_K ?
	       MINIMUM : OFFSET;
}

INLINE bool is_super(const enum gp_type t)
{
	return t == GP_TYPE_Q3_K || t == GP_TYPE_Q4_K || t == GP_TYPE_Q5_K || t == GP_TYPE_Q6_K ||
	       t == GP_TYPE_IQ4_XS;
}

/* Bytes of a block and matrix row, as in the tables of types and of packed.c,
 * here for the compiler to know: the scales, and the quants. */
INLINE size_t head_bytes(const enum gp_type t)
{
	return t == GP_TYPE_Q4_K || t == GP_TYPE_Q5_K ? 16 : t == GP_TYPE_Q6_K ? 18 :
	       t == GP_TYPE_Q3_K ? 14 : t == GP_TYPE_IQ4_XS ? 8 : t == GP_TYPE_Q4_1 || t == GP_TYPE_Q5_1 ? 4 : 2;
}

INLINE size_t body_bytes(const enum gp_type t)
{
	return t == GP_TYPE_Q8_0 ? 32 : t == GP_TYPE_Q5_0 || t == GP_TYPE_Q5_1 ? 20 :
	       t == GP_TYPE_Q5_K ? 160 : t == GP_TYPE_Q6_K ? 192 : t == GP_TYPE_Q3_K ? 96 :
	       is_super(t) ? 128 : 16;
}

INLINE bool is_wide(const enum gp_type t)
{
	return t == GP_TYPE_Q8_0 || t == GP_TYPE_IQ4_NL || t == GP_TYPE_IQ4_XS;
}

/* The largest quant as a byte, of which dot's 16-bit sums must know (Q3_K: twice 7). */
INLINE unsigned most_of(const enum gp_type t)
{
	return is_wide(t) ? 255 : t == GP_TYPE_Q6_K ? 63 :
	       t == GP_TYPE_Q5_0 || t == GP_TYPE_Q5_1 || t == GP_TYPE_Q5_K ? 31 : 15;
}

/* Offset of the quants, as a power of two times the 8 that sum8 holds. */
INLINE unsigned offset_shift(const enum gp_type t)
{
	return is_wide(t) ? 4 : t == GP_TYPE_Q6_K ? 2 : t == GP_TYPE_Q5_0 ? 1 : 0;
}

/* ---- unpacking ---------------------------------------------------------------- */
INLINE vi nibbles(const uint8_t *w, const unsigned high)
{
	const vi v = v_load(w);

	return v_and(high ? v_srl(v, 4) : v, v_byte(15));
}

/* Four vectors hold the elements 0..15 in the low nibbles, 16..31 in the high. */
INLINE void unpack_nibbles(vi q[8], const uint8_t *w)
{
#pragma GCC unroll 8
	for (unsigned v = 0; v < 8; v++)
		q[v] = nibbles(w + v % 4 * LANES * 4, v / 4);
}

/* The fifth bits: bit v of each byte of bits belongs to vector v. */
INLINE void add_fifth(vi q[8], const uint8_t *w)
{
	const vi bits = v_load(w);

#pragma GCC unroll 8
	for (unsigned v = 0; v < 8; v++)
		q[v] = v_or(q[v], v_and(v < 4 ? v_sll(bits, 4 - v) : v_srl(bits, v - 4),
		                        v_byte(16)));
}

/* Bytes of -128..127 as dot wants them. */
INLINE vi wide(vi v)
{
	return SIGNED_QUANTS ? v : v_xor(v, v_byte(-128));
}

INLINE void look_up(vi q[8])
{
	const vi values = wide(v_table(gp_iq4_values));

#pragma GCC unroll 8
	for (unsigned v = 0; v < 8; v++)
		q[v] = v_lookup(values, q[v]);
}

INLINE void unpack_small(struct part *p, const uint8_t *head, const uint8_t *body,
                         const enum gp_type t)
{
	const bool fifth = t == GP_TYPE_Q5_0 || t == GP_TYPE_Q5_1;
	const uint8_t *quants = body + (fifth ? 4 * LANES : 0);

	p->scale[0] = v_half(head);
	if (shape_of(t) == MINIMUM)
		p->min = v_mul(v_half(head + 2 * LANES), v_set(-0.125f));
	if (t == GP_TYPE_Q8_0) {
#pragma GCC unroll 8
		for (unsigned v = 0; v < 8; v++)
			p->q[v] = wide(v_load(quants + v * LANES * 4));
		return;
	}
	unpack_nibbles(p->q, quants);
	if (fifth)
		add_fifth(p->q, body);
	if (t == GP_TYPE_IQ4_NL)
		look_up(p->q);
}

/* ---- blocks of 256 ------------------------------------------------------------ */
/* The scales of 12 bytes a row are put together as bytes, those of a sub-block side by
 * side, four at once: a vector has 4 LANES of them. */

/* 6-bit scales and minima, see gp_scale_min_k4. */
INLINE void k4_scales(struct scales *s, const uint8_t *w)
{
	const vf d = v_half(w), min = v_mul(v_half(w + 2 * LANES), v_set(0.125f));
	const vi a = v_load(w + 4 * LANES), b = v_load(w + 8 * LANES), c = v_load(w + 12 * LANES);
	const vi low = v_byte(15), high = v_byte(48), low6 = v_byte(63);
	uint8_t scale[SUPER * LANES], below[SUPER * LANES];

	v_store(scale, v_and(a, low6));
	v_store(scale + 4 * LANES, v_or(v_and(c, low), v_and(v_srl(a, 2), high)));
	v_store(below, v_and(b, low6));
	v_store(below + 4 * LANES, v_or(v_and(v_srl(c, 4), low), v_and(v_srl(b, 2), high)));
#pragma GCC unroll 8
	for (unsigned j = 0; j < SUPER; j++) {
		s->scale[2 * j] = v_mul(d, v_float(v_bytes(scale + j * LANES)));
		s->min[j] = v_mul(min, v_float(v_bytes(below + j * LANES)));
	}
}

INLINE void q6_scales(struct scales *s, const uint8_t *w)
{
	const vf d = v_half(w);

	for (unsigned j = 0; j < 2 * SUPER; j++)
		s->scale[j] = v_mul(d, v_float(v_bytes_signed(w + 2 * LANES + j * LANES)));
}

/* Where gp_order_q3_scales has put them: in the upper six bits of 16, which makes them
 * signed, and 1024 times what they are. */
INLINE void q3_scales(struct scales *s, const uint8_t *w)
{
	const vi upper = v_word(-0x03ff0400), most = v_word(-0x0fff1000);
	const vi left = v_load(w + 6 * LANES);

#pragma GCC unroll 3
	for (unsigned i = 0; i < 3; i++) {
		const vi two = v_load(w + (2 + 4 * i) * LANES);

		s->pair[i] = v_and(two, upper);
		s->pair[3 + i] = v_and(v_sll(two, 6), upper);
		if (i != 1)
			s->pair[6 + i / 2] = v_and(v_pick(most, v_sll(two, 12), v_sll(left, 10 - i)),
			                           upper);
	}
}

/* 6-bit scales less 32: low nibbles of two parts share a byte, the upper two
 * bits are in 16 bits for all. */
INLINE void iq4_scales(struct scales *s, const uint8_t *w)
{
	const vf d = v_half(w);
	const vi high = v_halves(w + 2 * LANES);

	for (unsigned j = 0; j < SUPER; j++) {
		const vi low = v_srl(v_bytes(w + 4 * LANES + j / 2 * LANES), 4 * (j % 2));
		const vi both = v_or(v_and(low, v_word(15)),
		                     v_sll(v_and(v_srl(high, 2 * j), v_word(3)), 4));

		s->scale[2 * j] = v_mul(d, v_sub(v_float(both), v_set(32.0f)));
	}
}

INLINE void take_scales(struct scales *s, const uint8_t *w, const enum gp_type t)
{
	if (t == GP_TYPE_Q6_K)
		q6_scales(s, w);
	else if (t == GP_TYPE_Q3_K)
		q3_scales(s, w);
	else if (t == GP_TYPE_IQ4_XS)
		iq4_scales(s, w);
	else
		k4_scales(s, w);
}

/* Quants of Q3_K to Q6_K, in the order of gp_order_quants. */

/* Twice the quants, 0..14, which have an offset of 8, as sum8 wants it. */
INLINE void unpack_3_bits(vi q[8], const uint8_t *w)
{
	const vi field = v_byte(14);
	vi left = v_word(0);

#pragma GCC unroll 3
	for (unsigned i = 0; i < 3; i++) {
		const vi two = v_load(w + i * 4 * LANES);

		q[2 * i] = v_and(two, field);
		q[2 * i + 1] = v_and(v_srl(two, 4), field);
		left = i ? v_pick(v_byte(0x22 << i), v_sll(two, i + 1), left) : v_sll(two, 1);
	}
	q[6] = v_and(left, field);
	q[7] = v_and(v_srl(left, 4), field);
}

INLINE void unpack_5_bits(vi q[8], const uint8_t *w)
{
	const vi field = v_byte(31), low = v_byte(7);
	vi v[5];

#pragma GCC unroll 5
	for (unsigned i = 0; i < 5; i++) {
		v[i] = v_load(w + i * 4 * LANES);
		q[i] = v_and(v[i], field);
	}
	q[5] = v_and(v_pick(low, v_srl(v[0], 5), v_srl(v[3], 2)), field);
	q[6] = v_and(v_pick(low, v_srl(v[1], 5), v_srl(v[4], 2)), field);
	q[7] = v_pick(low, v_srl(v[2], 5), v_srl(v[3], 4));
	q[7] = v_and(v_pick(v_byte(15), q[7], v_srl(v[4], 3)), field);
}

INLINE void unpack_6_bits(vi q[8], const uint8_t *w)
{
	const vi field = v_byte(63);

#pragma GCC unroll 2
	for (unsigned i = 0; i < 2; i++, w += 12 * LANES) {
		const vi a = v_load(w), b = v_load(w + 4 * LANES), c = v_load(w + 8 * LANES);
		const vi left = v_pick(v_byte(3), v_srl(a, 6), v_srl(b, 4));

		q[3 * i] = v_and(a, field);
		q[3 * i + 1] = v_and(b, field);
		q[3 * i + 2] = v_and(c, field);
		q[6 + i] = v_and(v_pick(v_byte(15), left, v_srl(c, 2)), field);
	}
}

/* Part j of a block, whose quants are at w. */
INLINE void unpack_part(struct part *p, const struct scales *s, const uint8_t *w,
                        unsigned j, const enum gp_type t)
{
	p->scale[0] = s->scale[2 * j];
	p->scale[1] = s->scale[2 * j + 1];
	p->min = s->min[j];
	p->pair = s->pair[j];
	if (t == GP_TYPE_Q3_K)
		unpack_3_bits(p->q, w);
	else if (t == GP_TYPE_Q5_K)
		unpack_5_bits(p->q, w);
	else if (t == GP_TYPE_Q6_K)
		unpack_6_bits(p->q, w);
	else
		unpack_nibbles(p->q, w);
	if (t == GP_TYPE_IQ4_XS)
		look_up(p->q);
}

/* ---- products ----------------------------------------------------------------- */
enum { TOGETHER = 4 }; /* rows whose products are independent and in flight */

/* What the sum of n products from element 4 from on begins with. PAIRS add it at their end. */
INLINE vi offset_start(const struct gp_q8 *x, const unsigned from, const unsigned n,
                       const enum gp_type t)
{
	if (shape_of(t) == MINIMUM || shape_of(t) == PAIRS || (is_wide(t) && SIGNED_QUANTS))
		return v_word(0);
	if (n == 8)
		return v_sll(v_broadcast(&x->sum8), offset_shift(t));
	const vi both = v_broadcast(x->half8);

	return from ? v_sll(v_sra(both, 16), offset_shift(t)) :
	              v_sra(v_sll(both, 16), 16 - offset_shift(t));
}

/* Integer sums of elements [4 from, 4 from + 4 n) of the part, by row. */
INLINE void integer_sums(vi sum[TOGETHER], const struct part *p, const unsigned from,
                         const unsigned n, const struct gp_q8 *x, const unsigned rows,
                         const enum gp_type t)
{
#pragma GCC unroll 4
	for (unsigned r = 0; r < TOGETHER; r++)
		if (r < rows)
			sum[r] = offset_start(x + r, from, n, t);
#pragma GCC unroll 8
	for (unsigned v = 0; v < n; v += DOT_STEP)
#pragma GCC unroll 4
		for (unsigned r = 0; r < TOGETHER; r++)
			if (r < rows)
				sum[r] = dot(sum[r], p->q + from + v, DOT_STEP < n ? DOT_STEP : n,
				             x[r].q + 4 * (from + v), most_of(t));
}

/* What the sums of a row are worth, before its own scale. */
INLINE vf weigh(const struct part *p, vi sum, vi high, const struct gp_q8 *x, const enum gp_type t)
{
	if (shape_of(t) == HALVES)
		return v_fma(v_float(high), p->scale[1], v_mul(v_float(sum), p->scale[0]));
	return v_fma(v_float(v_broadcast(&x->sum8)), p->min, v_mul(v_float(sum), p->scale[0]));
}

INLINE void some_products(vf acc[TOGETHER], const struct part *p, const struct gp_q8 *x,
                          const unsigned rows, const enum gp_type t)
{
	const bool halves = shape_of(t) == HALVES || shape_of(t) == PAIRS;
	vi sum[TOGETHER], high[TOGETHER];

	integer_sums(sum, p, 0, halves ? 4 : 8, x, rows, t);
	if (halves)
		integer_sums(high, p, 4, 4, x, rows, t);
#pragma GCC unroll 4
	for (unsigned r = 0; r < TOGETHER; r++) {
		if (r >= rows)
			continue;
		if (shape_of(t) == OFFSET)
			acc[r] = v_fma(v_float(sum[r]), v_mul(p->scale[0], v_set(x[r].d)), acc[r]);
		else if (shape_of(t) == PAIRS)
			acc[r] = v_fma(v_float(v_pairs(sum[r], high[r], v_broadcast(x[r].half8),
			                               p->pair)), v_set(x[r].d), acc[r]);
		else
			acc[r] = v_fma(weigh(p, sum[r], halves ? high[r] : sum[r], x + r, t),
			               v_set(x[r].d), acc[r]);
	}
}

INLINE void all_rows(vf acc[TILE_ROWS], const struct part *p, const struct gp_q8 *x,
                     const unsigned rows, const enum gp_type t)
{
#pragma GCC unroll 4
	for (unsigned r = 0; r < TILE_ROWS; r += TOGETHER)
		if (r < rows)
			some_products(acc + r, p, x + r, rows - r < TOGETHER ? rows - r : TOGETHER,
			              t);
}

struct span {
	float *y;
	size_t y_stride;
	const struct gp_q8 *x;
	size_t x_stride;       /* between blocks of a row */
	const uint8_t *head, *body;
	size_t group_bytes;
	uint32_t n_blocks;     /* of the type */
	uint32_t groups;       /* 1, or groups_for(rows) */
	uint32_t cols;         /* of a group: outputs to be stored, at most LANES */
	bool add;              /* to what y holds, from the blocks before */
};

/* From what is multiplied to what will be wanted soon: quants PREFETCH_BYTES on,
 * past the end of a group those of the next; scales of the next group. They may
 * be past the last group, harmlessly. */
struct ahead {
	size_t head, body;
};

INLINE void prefetch(const uint8_t *p, const size_t bytes)
{
#pragma GCC unroll 64
	for (size_t i = 0; i < bytes; i += 64)
		__builtin_prefetch(p + i);
}

INLINE void multiply_small(vf acc[TILE_ROWS], const uint8_t *head, const uint8_t *body,
                           const struct gp_q8 *x, const unsigned rows, struct ahead ahead,
                           const enum gp_type t)
{
	struct part p;

	prefetch(head + ahead.head, head_bytes(t) * LANES);
	prefetch(body + ahead.body, body_bytes(t) * LANES);
	unpack_small(&p, head, body, t);
	all_rows(acc, &p, x, rows, t);
}

INLINE void multiply_super(vf acc[TILE_ROWS], const uint8_t *head, const uint8_t *body,
                           const struct gp_q8 *x, size_t x_stride, const unsigned rows,
                           struct ahead ahead, const enum gp_type t)
{
	const size_t part_bytes = body_bytes(t) * LANES / SUPER;
	struct part p;
	struct scales scales;
	vf sum[TILE_ROWS];

	prefetch(head + ahead.head, head_bytes(t) * LANES);
	take_scales(&scales, head, t);
#pragma GCC unroll 16
	for (unsigned r = 0; r < rows; r++)
		sum[r] = shape_of(t) == PAIRS ? v_set(0.0f) : acc[r];
#pragma GCC unroll 1
	for (unsigned j = 0; j < SUPER; j++, x += x_stride, body += part_bytes) {
		prefetch(body + ahead.body, part_bytes);
		unpack_part(&p, &scales, body, j, t);
		all_rows(sum, &p, x, rows, t);
	}
	/* Of Q3_K quants are twice, scales 1024 times what they are. */
	const vf d = v_mul(v_half(head), v_set(0x1p-11f));
#pragma GCC unroll 16
	for (unsigned r = 0; r < rows; r++)
		acc[r] = shape_of(t) == PAIRS ? v_fma(sum[r], d, acc[r]) : sum[r];
}

/* rows x groups outputs of LANES each. Returns rows. */
INLINE uint32_t tile(const struct span *s, const unsigned rows, const unsigned groups,
                 const enum gp_type t)
{
	const size_t x_step = s->x_stride * (is_super(t) ? SUPER : 1);
	const size_t block = body_bytes(t) * LANES;
	const size_t n_ahead = (PREFETCH_BYTES / (groups > 1 ? 2u : 1u) + block - 1) / block;
	const size_t next = groups * s->group_bytes;
	const uint8_t *head = s->head, *body = s->body;
	const struct gp_q8 *x = s->x;
	struct ahead ahead = { .head = next, .body = n_ahead * block };
	vf acc[GROUPS][TILE_ROWS];

#pragma GCC unroll 4
	for (unsigned g = 0; g < groups; g++)
#pragma GCC unroll 16
		for (unsigned r = 0; r < rows; r++)
			acc[g][r] = s->add ? v_loadf(s->y + r * s->y_stride + g * LANES, s->cols) :
			                     v_set(0.0f);
	/* From here on what will be wanted is of the next group. */
	const size_t turn = n_ahead < s->n_blocks ? s->n_blocks - n_ahead : 0;

	for (uint32_t b = 0; b < s->n_blocks; b++, x += x_step) {
		if (b == turn)
			ahead.body += next - s->n_blocks * block;
#pragma GCC unroll 4
		for (unsigned g = 0; g < groups; g++)
			if (is_super(t))
				multiply_super(acc[g], head + g * s->group_bytes,
				               body + g * s->group_bytes, x, s->x_stride, rows,
				               ahead, t);
			else
				multiply_small(acc[g], head + g * s->group_bytes,
				               body + g * s->group_bytes, x, rows, ahead, t);
		head += head_bytes(t) * LANES;
		body += body_bytes(t) * LANES;
	}
#pragma GCC unroll 4
	for (unsigned g = 0; g < groups; g++)
#pragma GCC unroll 16
		for (unsigned r = 0; r < rows; r++)
			v_storef(s->y + r * s->y_stride + g * LANES, s->cols, acc[g][r]);
	return rows;
}

/* As many rows at once as there are registers for; returns how many. Each number of rows has
 * code of its own: one more pass reads and unpacks the weights once more. */
INLINE uint32_t some_rows(const struct span *s, uint32_t rows, const enum gp_type t)
{
#if TILE_ROWS >= 16
	if (rows >= 16)
		return tile(s, 16, 1, t);
	if (rows >= 8)
		return tile(s, 8, 1, t);
	if (rows == 7)
		return tile(s, 7, 1, t);
	if (rows == 6)
		return tile(s, 6, 1, t);
	if (rows == 5)
		return tile(s, 5, 1, t);
#endif
	if (rows >= 4)
		return tile(s, 4, 1, t);
	if (rows == 3)
		return tile(s, 3, 1, t);
	if (rows == 2)
		return tile(s, 2, 1, t);
	return tile(s, 1, 1, t);
}

/* How many groups side by side there are registers for. */
INLINE uint32_t groups_for(uint32_t rows)
{
	return rows <= 2 ? GROUPS : rows == 3 && TILE_ROWS >= 16 ? 2 : 1;
}

INLINE void some_groups(const struct span *s, uint32_t rows, const enum gp_type t)
{
	if (rows == 1)
		tile(s, 1, GROUPS, t);
	else if (rows == 2)
		tile(s, 2, GROUPS, t);
#if TILE_ROWS >= 16
	else
		tile(s, 3, 2, t);
#endif
}

INLINE void tile_rows(struct span s, uint32_t rows, const enum gp_type t)
{
	if (!is_super(t) && s.groups > 1) {
		some_groups(&s, rows, t);
		return;
	}
	while (rows) {
		const uint32_t n = some_rows(&s, rows, t);

		rows -= n;
		s.x += n;
		s.y += n * s.y_stride;
	}
}

#define ROWS_OF(type) \
	static GP_UNCHECKED void rows_##type(const struct span *s, uint32_t rows) \
	{ \
		tile_rows(*s, rows, GP_TYPE_##type); \
	}
ROWS_OF(Q4_0) ROWS_OF(Q4_1) ROWS_OF(Q5_0) ROWS_OF(Q5_1) ROWS_OF(Q8_0) ROWS_OF(IQ4_NL)
ROWS_OF(Q3_K) ROWS_OF(Q4_K) ROWS_OF(Q5_K) ROWS_OF(Q6_K) ROWS_OF(IQ4_XS)

typedef void rows_fn(const struct span *s, uint32_t rows);

static rows_fn *rows_of(enum gp_type t)
{
	switch (t) {
	case GP_TYPE_Q4_0: return rows_Q4_0;
	case GP_TYPE_Q4_1: return rows_Q4_1;
	case GP_TYPE_Q5_0: return rows_Q5_0;
	case GP_TYPE_Q5_1: return rows_Q5_1;
	case GP_TYPE_Q8_0: return rows_Q8_0;
	case GP_TYPE_IQ4_NL: return rows_IQ4_NL;
	case GP_TYPE_Q3_K: return rows_Q3_K;
	case GP_TYPE_Q4_K: return rows_Q4_K;
	case GP_TYPE_Q5_K: return rows_Q5_K;
	case GP_TYPE_Q6_K: return rows_Q6_K;
	default: return rows_IQ4_XS;
	}
}

/* ---- which tile, when ------------------------------------------------------------ */
struct product {
	float *y;
	size_t y_stride;
	const struct gp_q8 *x;
	const uint8_t *w;
	uint32_t rows, n0, n1;
	uint32_t n_parts;      /* of 32 elements, in a row */
	uint32_t block_parts;  /* of these in a block of the type */
	size_t head_bytes, body_bytes; /* of a group's block */
	rows_fn *rows_fn;
};

/* Rows [m0, m1) by parts [b0, b1): one after the other, all outputs. */
static void panel(const struct product *p, uint32_t m0, uint32_t m1, uint32_t b0, uint32_t b1)
{
	const size_t n_blocks = p->n_parts / p->block_parts, first = b0 / p->block_parts;
	struct span s = { .y_stride = p->y_stride, .n_blocks = (b1 - b0) / p->block_parts,
	                  .add = b0 > 0,
	                  .group_bytes = n_blocks * (p->head_bytes + p->body_bytes) };

	for (uint32_t n = p->n0; n < p->n1; n += s.groups * LANES) {
		s.groups = p->block_parts == 1 ? groups_for(p->rows) : 1;
		if (p->n1 - n < s.groups * LANES)
			s.groups = 1;
		s.cols = p->n1 - n < LANES ? p->n1 - n : LANES;
		s.head = p->w + n / LANES * s.group_bytes + first * p->head_bytes;
		s.body = p->w + n / LANES * s.group_bytes + n_blocks * p->head_bytes +
		         first * p->body_bytes;
		for (uint32_t m = m0; m < m1; m += (uint32_t)s.x_stride) {
			s.x_stride = gp_q8_stride(m, p->rows);
			s.x = p->x + gp_q8_at(m, p->n_parts) + b0 * s.x_stride;
			s.y = p->y + m * p->y_stride + n;
			p->rows_fn(&s, (uint32_t)s.x_stride);
		}
	}
}

/* Many rows would not stay in the cache over all of k: they meet the weights in
 * panels of it. One tile of rows reads each weight once anyway. */
static uint32_t panel_parts(const struct product *p)
{
	const uint32_t rows = p->rows < X_BLOCK_ROWS ? p->rows : X_BLOCK_ROWS;
	const uint32_t fit = X_BLOCK_BYTES / (uint32_t)sizeof(struct gp_q8) / rows / SUPER * SUPER;

	if (p->rows <= GP_Q8_TILE || fit >= p->n_parts)
		return p->n_parts;
	return fit;
}

static void matmul_packed(float *y, size_t y_stride, const struct gp_q8 *x, uint32_t rows,
                          const void *w, enum gp_type type, uint32_t k, uint32_t n0, uint32_t n1)
{
	const struct gp_type_info *info = gp_type_info(type);
	const struct product p = {
		.y = y, .y_stride = y_stride, .x = x, .w = w, .rows = rows, .n0 = n0, .n1 = n1,
		.n_parts = k / 32, .block_parts = info->block_elems / 32,
		.head_bytes = head_bytes(type) * LANES,
		.body_bytes = body_bytes(type) * LANES, .rows_fn = rows_of(type),
	};
	const uint32_t parts = panel_parts(&p);

	for (uint32_t m = 0, m1; m < rows; m = m1) {
		m1 = rows - m < X_BLOCK_ROWS ? rows : m + X_BLOCK_ROWS;
		for (uint32_t b = 0, b1; b < p.n_parts; b = b1) {
			b1 = p.n_parts - b < parts ? p.n_parts : b + parts;
			panel(&p, m, m1, b, b1);
		}
	}
}

#endif

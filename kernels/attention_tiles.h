/* Attention of all instruction sets. The file that includes this has defined the
 * vectors: vec, LANES, and what works on them.
 *
 * Whatever tile a query is in, its operations are the same in the same order:
 * - a score is one accumulator that walks head_dim upwards, and one reduction tree;
 * - weights, maximum and rescaling are the query's own, block by block;
 * - an output adds the positions that its query sees, and no others, upwards.
 * Tiles hold 4, 2 or 1 queries; what is in registers and what is in memory in
 * between makes no difference to float32. */
#ifndef GP_ATTENTION_TILES_H
#define GP_ATTENTION_TILES_H

#include "kernels/isa.h"

enum {
	GROUP = 16,             /* positions of K that are converted together */
	STRIP = LANES / 4,      /* vectors of V that are converted together */
	DIRECT = 32,            /* queries up to which converting in registers pays */
	AHEAD = 16,             /* rows: how far before their use a small tile asks for them */
	SIDE = 2,               /* rows of K that are read side by side */
};

struct work {
	const struct gp_attention *a;
	float *q, *part;        /* [query][stride] */
	float *p;               /* [query][64]: scores, then weights, of one block */
	float *rows;            /* of K or V, converted */
	size_t stride;          /* floats of a state */
	uint32_t n;             /* queries */
	uint32_t q0, q1;        /* those that see something of the block: */
	uint32_t from[GP_ATTENTION_QUERIES], to[GP_ATTENTION_QUERIES]; /* this, within it */
	bool direct;
	const uint8_t *then[2]; /* direct: what is read after this block's K, V; or NULL */
};

/* The compiler would read or convert the value again wherever it is used. */
INLINE vec in_register(vec v)
{
	__asm__("" : "+v"(v));
	return v;
}

/* A small tile waits for memory. The prefetchers serve it at full speed where it
 * reads row by row or nearly so, and where the memory was asked for in order, AHEAD
 * rows before the row in hand. */
static inline const uint8_t *ahead(const uint8_t *rows, const uint8_t *then, uint32_t row,
                                   size_t stride)
{
	if (row + AHEAD < GP_KV_BLOCK)
		return rows + (row + AHEAD) * stride;
	return then ? then + (row + AHEAD - GP_KV_BLOCK) * stride : NULL;
}

/* NULL: nothing. */
INLINE void ask_for(const uint8_t *p, size_t bytes)
{
	if (!p)
		return;
	for (size_t i = 0; i < bytes; i += 64)
		_mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* Once for all queries. */
static inline bool asks(const struct work *w, uint32_t qi)
{
	return w->direct && qi == w->q0;
}

INLINE size_t bytes_of(size_t n, const enum gp_type t)
{
	return n * (t == GP_TYPE_F32 ? 128 : t == GP_TYPE_F16 ? 64 : 34) / 32;
}

/* ---- scores ---------------------------------------------------------------- */
/* nq queries x LANES / nq rows of K from k on. The loops have constant bounds so
 * that they unroll and acc stays in registers. */
INLINE void score_tile(const struct work *w, uint32_t qi, const uint8_t *k, size_t k_stride,
                       uint32_t at, const uint8_t *later, const unsigned nq,
                       const enum gp_type t)
{
	const unsigned np = LANES / nq;
	const size_t step = bytes_of(SIDE * LANES, t);
	const float *q = w->q + qi * w->stride;
	_Alignas(64) float result[LANES];
	vec acc[LANES], x[4];

#pragma GCC unroll 16
	for (unsigned i = 0; i < LANES; i++)
		acc[i] = zero();
#pragma GCC unroll 16
	for (unsigned side = 0; side < np; side += SIDE)
		for (uint32_t i = 0; i < w->a->head_dim; i += LANES) {
			ask_for(later, step);
			later = later ? later + step : NULL;
#pragma GCC unroll 4
			for (unsigned r = 0; r < 4; r++)
				if (r < nq)
					x[r] = in_register(load(q + r * w->stride + i));
#pragma GCC unroll 16
			for (unsigned c = side; c < side + SIDE; c++) {
				const vec y = in_register(load_kv(k + c * k_stride, i, t));

#pragma GCC unroll 4
				for (unsigned r = 0; r < 4; r++)
					if (r < nq)
						acc[r * np + c] = multiply_add(x[r], y, acc[r * np + c]);
			}
		}
	store(result, mul(reduce(acc), set1(w->a->scale)));
#pragma GCC unroll 4
	for (unsigned r = 0; r < 4; r++)
		if (r < nq)
			memcpy(w->p + (qi + r) * GP_KV_BLOCK + at, result + r * np,
			       np * sizeof(float));
}

/* Scores of the positions [begin, end) of the block, whose first row is at k.
 * Tiles begin at multiples of their width: some positions are computed that a
 * query does not see, and dropped by weigh. */
INLINE void score_tiles(const struct work *w, uint32_t qi, const uint8_t *k, size_t k_stride,
                        uint32_t begin, uint32_t end, const unsigned nq, const enum gp_type t)
{
	const unsigned np = LANES / nq;
	const uint32_t from = w->from[qi] / np * np, to = w->to[qi + nq - 1];

	for (uint32_t p = from > begin ? from : begin; p < to && p < end; p += np)
		score_tile(w, qi, k + (p - begin) * k_stride, k_stride, p,
		           asks(w, qi) ? ahead(k, w->then[0], p, k_stride) : NULL, nq, t);
}

INLINE void all_scores(const struct work *w, const uint8_t *k, size_t k_stride, uint32_t begin,
                       uint32_t end, const enum gp_type t)
{
	uint32_t qi = w->q0;

	for (; qi + 4 <= w->q1; qi += 4)
		score_tiles(w, qi, k, k_stride, begin, end, 4, t);
	if (qi + 2 <= w->q1) {
		score_tiles(w, qi, k, k_stride, begin, end, 2, t);
		qi += 2;
	}
	if (qi < w->q1)
		score_tiles(w, qi, k, k_stride, begin, end, 1, t);
}

static GP_UNCHECKED void scores_f32(const struct work *w, const void *k, size_t k_stride,
                                    uint32_t begin, uint32_t end)
{
	all_scores(w, k, k_stride, begin, end, GP_TYPE_F32);
}

static GP_UNCHECKED void scores_f16(const struct work *w, const void *k)
{
	all_scores(w, k, w->a->row_bytes, 0, GP_KV_BLOCK, GP_TYPE_F16);
}

static GP_UNCHECKED void scores_q8_0(const struct work *w, const void *k)
{
	all_scores(w, k, w->a->row_bytes, 0, GP_KV_BLOCK, GP_TYPE_Q8_0);
}

/* ---- conversion ------------------------------------------------------------ */
/* Elements [i, i + n) of n_rows rows as float32, n in whole vectors; past head_dim
 * zeros. */
INLINE void convert_rows(const struct gp_attention *a, const uint8_t *src, uint32_t n_rows,
                         uint32_t i, uint32_t n, float *dst, size_t stride, const enum gp_type t)
{
	for (uint32_t r = 0; r < n_rows; r++, src += a->row_bytes, dst += stride)
		for (uint32_t c = 0; c < n; c += LANES)
			store(dst + c, i + c + LANES <= a->head_dim ? load_kv(src, i + c, t) :
			      load_kv_half(src, i + c, t));
}

static GP_UNCHECKED void convert(const struct gp_attention *a, const void *src, uint32_t n_rows,
                                 uint32_t i, uint32_t n, float *dst, size_t stride)
{
	switch (a->kv_type) {
	case GP_TYPE_F16: convert_rows(a, src, n_rows, i, n, dst, stride, GP_TYPE_F16); break;
	case GP_TYPE_Q8_0: convert_rows(a, src, n_rows, i, n, dst, stride, GP_TYPE_Q8_0); break;
	default: convert_rows(a, src, n_rows, i, n, dst, stride, GP_TYPE_F32);
	}
}

static uint32_t padded(uint32_t head_dim)
{
	return (head_dim + LANES - 1) / LANES * LANES;
}

static void scores(const struct work *w, const uint8_t *k)
{
	const struct gp_attention *a = w->a;
	const uint32_t from = w->from[w->q0], to = w->to[w->q1 - 1];

	if (w->direct) {
		switch (a->kv_type) {
		case GP_TYPE_F16: scores_f16(w, k); break;
		case GP_TYPE_Q8_0: scores_q8_0(w, k); break;
		default: scores_f32(w, k, a->row_bytes, 0, GP_KV_BLOCK);
		}
		return;
	}
	for (uint32_t at = from / GROUP * GROUP; at < to; at += GROUP) {
		convert(a, k + (size_t)at * a->row_bytes, GROUP, 0, padded(a->head_dim), w->rows,
		        w->stride);
		scores_f32(w, w->rows, w->stride * sizeof(float), at, at + GROUP);
	}
}

/* ---- weights --------------------------------------------------------------- */
/* What was summed before is scaled to the new maximum. Scaling by 1 changes
 * nothing. */
static GP_UNCHECKED void rescale(float *state, size_t max_at, float new_max)
{
	const float old = state[max_at];

	if (new_max == old)
		return;
	const vec keep = exponential(set1(old - new_max));
	for (size_t i = 0; i < max_at; i += LANES)
		store(state + i, mul(keep, load(state + i)));
	state[max_at] = new_max;
	state[max_at + 1] *= first_lane(keep);
}

/* Scores to weights, for what the query sees; 0 elsewhere. */
static GP_UNCHECKED void weigh(const struct work *w, uint32_t qi)
{
	const size_t max_at = gp_attention_max_at(w->a->head_dim);
	float *p = w->p + qi * GP_KV_BLOCK, *state = w->part + qi * w->stride;
	vec top = set1(state[max_at]), sum = zero();

	for (uint32_t i = 0; i < w->from[qi]; i++)
		p[i] = -INFINITY;
	for (uint32_t i = w->to[qi]; i < GP_KV_BLOCK; i++)
		p[i] = -INFINITY;
	for (uint32_t i = 0; i < GP_KV_BLOCK; i += LANES)
		top = max(top, load(p + i));
	const float new_max = highest(top);
	for (uint32_t i = 0; i < GP_KV_BLOCK; i += LANES) {
		const vec s = load(p + i);
		const vec e = zero_where_minus_infinity(s, exponential(sub(s, set1(new_max))));

		store(p + i, e);
		sum = add(sum, e);
	}
	rescale(state, max_at, new_max);
	state[max_at + 1] += total(sum);
}

/* ---- values ---------------------------------------------------------------- */
/* Rows [from, to) of V, times their weights, into nv vectors of nq queries from
 * element i on; v: where element i of the block's first row is counted from. */
INLINE void value_tile(const struct work *w, uint32_t qi, const uint8_t *v, size_t v_stride,
                       uint32_t vi, uint32_t i, uint32_t from, uint32_t to,
                       const uint8_t *later, const unsigned nq, const unsigned nv,
                       const enum gp_type t)
{
	const size_t share = bytes_of(nv * LANES, t);
	float *state = w->part + qi * w->stride + i;
	const float *p = w->p + qi * GP_KV_BLOCK;
	vec acc[4][8], y[8];

#pragma GCC unroll 4
	for (unsigned r = 0; r < 4; r++)
#pragma GCC unroll 8
		for (unsigned c = 0; c < 8; c++)
			if (r < nq && c < nv)
				acc[r][c] = load(state + r * w->stride + c * LANES);
	for (uint32_t at = from; at < to; at++) {
		ask_for(later ? later + (at - from) * share : NULL, share);
#pragma GCC unroll 8
		for (unsigned c = 0; c < 8; c++)
			if (c < nv)
				y[c] = in_register(load_kv(v + at * v_stride, vi + c * LANES, t));
#pragma GCC unroll 4
		for (unsigned r = 0; r < 4; r++)
			if (r < nq) {
				const vec e = set1(p[r * GP_KV_BLOCK + at]);

#pragma GCC unroll 8
				for (unsigned c = 0; c < 8; c++)
					if (c < nv)
						acc[r][c] = multiply_add(e, y[c], acc[r][c]);
			}
	}
#pragma GCC unroll 4
	for (unsigned r = 0; r < 4; r++)
#pragma GCC unroll 8
		for (unsigned c = 0; c < 8; c++)
			if (r < nq && c < nv)
				store(state + r * w->stride + c * LANES, acc[r][c]);
}

/* n vectors in tiles as wide as the registers hold. */
INLINE void value_run(const struct work *w, uint32_t qi, const uint8_t *v, size_t v_stride,
                      uint32_t vi, uint32_t i, uint32_t n, uint32_t from, uint32_t to,
                      const uint8_t *later, const unsigned nq, const enum gp_type t)
{
	const unsigned most = nq == 4 ? STRIP : nq == 2 ? 2 * STRIP : 8;

	for (; from < to && n >= most; n -= most, vi += most * LANES, i += most * LANES) {
		value_tile(w, qi, v, v_stride, vi, i, from, to, later, nq, most, t);
		if (later)
			later += (to - from) * bytes_of(most * LANES, t);
	}
	for (; from < to && n; n--, vi += LANES, i += LANES)
		value_tile(w, qi, v, v_stride, vi, i, from, to, NULL, nq, 1, t);
}

/* A small tile goes by GROUP rows, each of which it reads whole. */
INLINE void value_groups(const struct work *w, uint32_t qi, const uint8_t *v, size_t v_stride,
                         uint32_t vi, uint32_t i, uint32_t n, uint32_t from, uint32_t to,
                         const unsigned nq, const enum gp_type t)
{
	uint32_t end;

	if (!w->direct) {
		value_run(w, qi, v, v_stride, vi, i, n, from, to, NULL, nq, t);
		return;
	}
	for (; from < to; from = end) {
		end = (from / GROUP + 1) * GROUP < to ? (from / GROUP + 1) * GROUP : to;
		value_run(w, qi, v, v_stride, vi, i, n, from, end,
		          asks(w, qi) ? ahead(v, w->then[1], from, v_stride) : NULL, nq, t);
	}
}

/* The positions that all of the tile's queries see go through the registers
 * together. Those that only some see must not touch the others: not even with a
 * weight of 0, which turns infinity to NaN and -0 to 0. */
INLINE void value_queries(const struct work *w, uint32_t qi, const uint8_t *v, size_t v_stride,
                          uint32_t vi, uint32_t i, uint32_t n, const unsigned nq,
                          const enum gp_type t)
{
	const uint32_t from = w->from[qi + nq - 1];
	const uint32_t to = w->to[qi] > from ? w->to[qi] : from;

	for (unsigned r = 0; nq > 1 && r < nq; r++)
		value_run(w, qi + r, v, v_stride, vi, i, n, w->from[qi + r],
		          w->to[qi + r] < from ? w->to[qi + r] : from, NULL, 1, t);
	value_groups(w, qi, v, v_stride, vi, i, n, from, to, nq, t);
	for (unsigned r = 0; nq > 1 && r < nq; r++)
		value_run(w, qi + r, v, v_stride, vi, i, n, to, w->to[qi + r], NULL, 1, t);
}

INLINE void all_values(const struct work *w, const uint8_t *v, size_t v_stride, uint32_t vi,
                       uint32_t i, uint32_t n, const enum gp_type t)
{
	uint32_t qi = w->q0;

	for (; qi + 4 <= w->q1; qi += 4)
		value_queries(w, qi, v, v_stride, vi, i, n, 4, t);
	if (qi + 2 <= w->q1) {
		value_queries(w, qi, v, v_stride, vi, i, n, 2, t);
		qi += 2;
	}
	if (qi < w->q1)
		value_queries(w, qi, v, v_stride, vi, i, n, 1, t);
}

static GP_UNCHECKED void values_f32(const struct work *w, const void *v, size_t v_stride,
                                    uint32_t i, uint32_t n)
{
	all_values(w, v, v_stride, 0, i, n, GP_TYPE_F32);
}

static GP_UNCHECKED void values_f16(const struct work *w, const void *v, uint32_t n)
{
	all_values(w, v, w->a->row_bytes, 0, 0, n, GP_TYPE_F16);
}

static GP_UNCHECKED void values_q8_0(const struct work *w, const void *v, uint32_t n)
{
	all_values(w, v, w->a->row_bytes, 0, 0, n, GP_TYPE_Q8_0);
}

static void values(const struct work *w, const uint8_t *v)
{
	const struct gp_attention *a = w->a;
	const uint32_t vectors = padded(a->head_dim) / LANES;

	if (w->direct) {
		switch (a->kv_type) {
		case GP_TYPE_F16: values_f16(w, v, vectors); break;
		case GP_TYPE_Q8_0: values_q8_0(w, v, vectors); break;
		default: values_f32(w, v, a->row_bytes, 0, vectors);
		}
		return;
	}
	/* F32 too: rows of a power of two bytes share few sets of the L1 cache. */
	for (uint32_t c = 0, n; c < vectors; c += n) {
		n = vectors - c < STRIP ? vectors - c : STRIP;
		convert(a, v, GP_KV_BLOCK, c * LANES, n * LANES, w->rows, STRIP * LANES);
		values_f32(w, w->rows, STRIP * LANES * sizeof(float), c * LANES, n);
	}
}

/* ---- states ---------------------------------------------------------------- */
static GP_UNCHECKED void merge_state(float *state, const float *next, size_t max_at)
{
	const float top = highest(max(set1(state[max_at]), set1(next[max_at])));
	const vec f0 = exponential(set1(state[max_at] - top));
	const vec f1 = exponential(set1(next[max_at] - top));

	for (size_t i = 0; i < max_at; i += LANES)
		store(state + i, multiply_add(f1, load(next + i), mul(f0, load(state + i))));
	state[max_at + 1] = first_lane(f0) * state[max_at + 1] + first_lane(f1) * next[max_at + 1];
	state[max_at] = top;
}

static void merge(float *states, const float *next, uint32_t n, uint32_t head_dim)
{
	const size_t stride = gp_attention_state_floats(head_dim);
	const size_t max_at = gp_attention_max_at(head_dim);

	for (uint32_t i = 0; i < n; i++, states += stride, next += stride) {
		if (next[max_at + 1] == 0.0f)
			continue;
		if (states[max_at + 1] == 0.0f)
			memcpy(states, next, stride * sizeof(float));
		else
			merge_state(states, next, max_at);
	}
}

static GP_UNCHECKED void put_out(const struct gp_attention *a, const float *states)
{
	const size_t stride = gp_attention_state_floats(a->head_dim);

	for (uint32_t i = 0; i < a->rows * a->heads; i++, states += stride) {
		float *out = a->out + i / a->heads * a->row_stride +
		             (size_t)(i % a->heads) * a->head_dim;
		const float sum = states[gp_attention_max_at(a->head_dim) + 1];
		uint32_t d = 0;

		for (; d + LANES <= a->head_dim; d += LANES)
			store(out + d, divide(load(states + d), set1(sum)));
		for (; d < a->head_dim; d++)
			out[d] = states[d] / sum;
	}
}

/* ---- blocks and parts ------------------------------------------------------ */
/* What of block b is seen, by whom: rows see ascending ranges, so the queries
 * that see anything stand side by side. */
static bool find_ranges(struct work *w, uint32_t b)
{
	const struct gp_attention *a = w->a;
	const uint32_t at = b * GP_KV_BLOCK;

	w->q0 = w->q1 = 0;
	for (uint32_t r = 0, from, to; r < a->rows; r++) {
		if (!gp_attention_seen(a, r, at, at + GP_KV_BLOCK, &from, &to))
			continue;
		if (w->q0 == w->q1)
			w->q0 = w->q1 = r * a->heads;
		for (uint32_t h = 0; h < a->heads; h++, w->q1++) {
			w->from[w->q1] = from - at;
			w->to[w->q1] = to - at;
		}
	}
	return w->q0 < w->q1;
}

static void take_queries(struct work *w)
{
	const struct gp_attention *a = w->a;

	for (uint32_t i = 0; i < w->n; i++) {
		float *q = w->q + i * w->stride;

		memcpy(q, a->q + i / a->heads * a->row_stride + (size_t)(i % a->heads) * a->head_dim,
		       a->head_dim * sizeof(float));
		memset(q + a->head_dim, 0, (w->stride - a->head_dim) * sizeof(float));
	}
}

static void clear_part(struct work *w)
{
	const size_t max_at = gp_attention_max_at(w->a->head_dim);

	memset(w->part, 0, w->n * w->stride * sizeof(float));
	for (uint32_t i = 0; i < w->n; i++)
		w->part[i * w->stride + max_at] = -INFINITY;
}

static void attention(const struct gp_attention *a, uint32_t begin, uint32_t end, float *states,
                      float *scratch)
{
	struct work w = { .a = a, .n = a->rows * a->heads, .q = scratch,
	                  .stride = gp_attention_state_floats(a->head_dim) };
	uint32_t first, last, unused;

	w.part = w.q + GP_ATTENTION_QUERIES * w.stride;
	w.p = w.part + GP_ATTENTION_QUERIES * w.stride;
	w.rows = w.p + GP_ATTENTION_QUERIES * GP_KV_BLOCK;
	w.direct = w.n <= DIRECT && a->head_dim % LANES == 0;
	take_queries(&w);
	end = end < a->pos + a->rows ? end : a->pos + a->rows;
	(void)gp_attention_seen(a, 0, begin, end, &first, &unused);
	for (uint32_t p = first / GP_KV_PART * GP_KV_PART; p < end; p += GP_KV_PART) {
		clear_part(&w);
		last = p + GP_KV_PART < end ? p + GP_KV_PART : end;
		for (uint32_t b = p / GP_KV_BLOCK; b * GP_KV_BLOCK < last; b++) {
			if (!find_ranges(&w, b))
				continue;
			w.then[0] = a->v[b];
			w.then[1] = (b + 1) * GP_KV_BLOCK < end ? a->k[b + 1] : a->next;
			scores(&w, a->k[b]);
			for (uint32_t i = w.q0; i < w.q1; i++)
				weigh(&w, i);
			values(&w, a->v[b]);
		}
		merge(states, w.part, w.n, a->head_dim);
	}
}

#endif

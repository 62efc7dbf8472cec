/* Packed weights, and the reference of the integer products. */
#include <math.h>

#include "base/base.h"
#include "kernels/isa.h"

enum { MAX_PARTS = 5 };

/* PLAIN: as in the file.
 * GATHER: the units hold one bit of each of 32 elements; packed, bit v of byte j
 * is element 4v + j's, so that all bits of a vector of quants sit alike.
 * QUANTS, Q3_SCALES: the words of all units in an order of their own, see pack_k.c. */
enum how { PLAIN, GATHER, QUANTS, Q3_SCALES };

/* A run of equal units of a block, in the order in which a group has them. */
struct unit_run {
	uint8_t at, bytes, n;
	enum how how;
};

static const struct format {
	enum gp_type type;
	struct unit_run run[MAX_PARTS];
} formats[] = {
	{ GP_TYPE_Q4_0, { { 0, 2, 1, PLAIN }, { 2, 4, 4, PLAIN } } },
	{ GP_TYPE_IQ4_NL, { { 0, 2, 1, PLAIN }, { 2, 4, 4, PLAIN } } },
	{ GP_TYPE_Q4_1, { { 0, 2, 2, PLAIN }, { 4, 4, 4, PLAIN } } },
	{ GP_TYPE_Q5_0, { { 0, 2, 1, PLAIN }, { 2, 4, 1, GATHER }, { 6, 4, 4, PLAIN } } },
	{ GP_TYPE_Q5_1, { { 0, 2, 2, PLAIN }, { 4, 4, 1, GATHER }, { 8, 4, 4, PLAIN } } },
	{ GP_TYPE_Q8_0, { { 0, 2, 1, PLAIN }, { 2, 4, 8, PLAIN } } },
	{ GP_TYPE_Q3_K, { { 108, 2, 1, PLAIN }, { 96, 4, 3, Q3_SCALES }, { 0, 4, 24, QUANTS } } },
	{ GP_TYPE_Q4_K, { { 0, 2, 2, PLAIN }, { 4, 1, 12, PLAIN }, { 16, 4, 32, QUANTS } } },
	{ GP_TYPE_Q5_K, { { 0, 2, 2, PLAIN }, { 4, 1, 12, PLAIN }, { 16, 4, 40, QUANTS } } },
	{ GP_TYPE_Q6_K, { { 208, 2, 1, PLAIN }, { 192, 1, 16, PLAIN }, { 0, 4, 48, QUANTS } } },
	{ GP_TYPE_IQ4_XS, { { 0, 2, 2, PLAIN }, { 4, 1, 4, PLAIN }, { 8, 4, 32, PLAIN } } },
};

static const struct format *format_of(enum gp_type t)
{
	for (size_t i = 0; i < GP_ARRAY_LEN(formats); i++)
		if (formats[i].type == t)
			return &formats[i];
	return NULL;
}

bool gp_pack_has(enum gp_type t)
{
	return format_of(t) != NULL;
}

/* Bit v of byte j from bit 4v + j. */
static uint32_t gather_bits(uint32_t bits)
{
	uint32_t out = 0;

	for (unsigned i = 0; i < 32; i++)
		out |= (bits >> i & 1) << (8 * (i % 4) + i / 4);
	return out;
}

static uint32_t scatter_bits(uint32_t bits)
{
	uint32_t out = 0;

	for (unsigned i = 0; i < 32; i++)
		out |= (bits >> (8 * (i % 4) + i / 4) & 1) << i;
	return out;
}

/* n units of one row, of so many bytes: unit u from from + u * from_step to
 * to + u * to_step. The number of bytes is a constant where this is called. */
static inline void move_units(uint8_t *to, size_t to_step, const uint8_t *from,
                              size_t from_step, unsigned n, size_t bytes)
{
	for (unsigned u = 0; u < n; u++, to += to_step, from += from_step)
		memcpy(to, from, bytes);
}

static void gather_units(uint8_t *to, size_t to_step, const uint8_t *from, size_t from_step,
                         unsigned n, uint32_t (*bits)(uint32_t))
{
	for (unsigned u = 0; u < n; u++, to += to_step, from += from_step) {
		uint32_t word;

		memcpy(&word, from, sizeof(word));
		word = bits(word);
		memcpy(to, &word, sizeof(word));
	}
}

static void move_run(uint8_t *to, size_t to_step, const uint8_t *from, size_t from_step,
                     const struct unit_run *r, uint32_t (*bits)(uint32_t))
{
	if (r->how == GATHER)
		gather_units(to, to_step, from, from_step, r->n, bits);
	else if (r->bytes == 4)
		move_units(to, to_step, from, from_step, r->n, 4);
	else if (r->bytes == 2)
		move_units(to, to_step, from, from_step, r->n, 2);
	else
		move_units(to, to_step, from, from_step, r->n, 1);
}

static bool is_ordered(const struct unit_run *r)
{
	return r->how == QUANTS || r->how == Q3_SCALES;
}

static bool in_head(const struct unit_run *r)
{
	return r->bytes < 4 || r->how == Q3_SCALES;
}

/* Bytes of a block and row in front of its quants. */
static uint32_t head_bytes(const struct format *f)
{
	uint32_t sum = 0;

	for (const struct unit_run *r = f->run; r < f->run + MAX_PARTS && r->n; r++)
		sum += in_head(r) ? (uint32_t)r->bytes * r->n : 0;
	return sum;
}

/* Where a group's block is: its scales, and its quants. */
struct place {
	uint8_t *head, *body;
};

static struct place place_of(const struct format *f, uint32_t lanes, void *group, size_t n,
                             size_t block)
{
	const size_t head = (size_t)head_bytes(f) * lanes;
	const size_t body = (size_t)gp_type_info(f->type)->block_bytes * lanes - head;

	return (struct place){ .head = (uint8_t *)group + block * head,
	                       .body = (uint8_t *)group + n * head + block * body };
}

/* A scale of 16 bits of each row, which every block of 32 has. */
static void pack_scales(uint8_t *to, const uint8_t *from, size_t row_bytes, uint32_t rows)
{
	for (uint32_t i = 0; i < rows; i++)
		memcpy(to + 2 * i, from + i * row_bytes, 2);
}

/* The words of n (up to four) rows side by side. */
static void take_rows(gp_four *w, const struct unit_run *r, const uint8_t *src,
                      size_t row_bytes, uint32_t n)
{
	if (n == 4 && r->n % 4 == 0) {
		gp_pack_words((uint8_t *)w, 4, src, row_bytes, r->n);
		return;
	}
	memset(w, 0, r->n * sizeof(*w));
	for (uint32_t i = 0; i < n; i++)
		move_units((uint8_t *)w + 4 * i, sizeof(*w), src + i * row_bytes, 4, r->n, 4);
}

static void pack_ordered(const struct format *f, const struct unit_run *r, uint32_t lanes,
                         const uint8_t *src, size_t row_bytes, uint32_t rows, uint8_t *to)
{
	const size_t step = 4 * (size_t)lanes;

	for (uint32_t i = 0; i < rows; i += 4, src += 4 * row_bytes, to += 16) {
		const uint32_t n = rows - i < 4 ? rows - i : 4;
		gp_four w[GP_MOST_WORDS];

		take_rows(w, r, src, row_bytes, n);
		if (r->how == QUANTS)
			gp_order_quants(f->type, w);
		else
			gp_order_q3_scales(w);
		if (n == 4)
			move_units(to, step, (const uint8_t *)w, 16, r->n, 16);
		else
			move_units(to, step, (const uint8_t *)w, 16, r->n, 4 * n);
	}
}

/* Moves to on behind the block. */
static void pack_block(const struct format *f, uint32_t lanes, const uint8_t *src,
                       size_t row_bytes, uint32_t rows, struct place *to)
{
	for (const struct unit_run *r = f->run; r < f->run + MAX_PARTS && r->n; r++) {
		const size_t step = (size_t)r->bytes * lanes;
		uint8_t **dst = in_head(r) ? &to->head : &to->body;

		if (is_ordered(r))
			pack_ordered(f, r, lanes, src + r->at, row_bytes, rows, *dst);
		else if (rows == lanes && lanes % 4 == 0 && r->bytes == 4 && r->how == PLAIN)
			gp_pack_words(*dst, lanes, src + r->at, row_bytes, r->n);
		else if (r->bytes == 2 && r->n == 1)
			pack_scales(*dst, src + r->at, row_bytes, rows);
		else
			for (uint32_t i = 0; i < rows; i++)
				move_run(*dst + i * r->bytes, step, src + i * row_bytes + r->at,
				         r->bytes, r, gather_bits);
		*dst += step * r->n;
	}
}

void gp_pack(enum gp_type t, uint32_t lanes, const void *src, uint32_t rows, uint32_t k,
             void *group)
{
	const struct gp_type_info *info = gp_type_info(t);
	const struct format *f = format_of(t);
	const size_t n = k / info->block_elems, block = info->block_bytes;
	struct place to = place_of(f, lanes, group, n, 0);

	if (rows < lanes)
		memset(group, 0, n * block * lanes);
	for (size_t b = 0; b < n; b++)
		pack_block(f, lanes, (const uint8_t *)src + b * block, n * block, rows, &to);
}

/* from: the row's first unit. */
static void unpack_ordered(const struct format *f, const struct unit_run *r, uint8_t *to,
                           const uint8_t *from, size_t from_step)
{
	gp_four w[GP_MOST_WORDS] = { 0 };

	move_units((uint8_t *)w, sizeof(*w), from, from_step, r->n, 4);
	if (r->how == QUANTS)
		gp_restore_quants(f->type, w);
	else
		gp_restore_q3_scales(w);
	move_units(to, 4, (const uint8_t *)w, sizeof(*w), r->n, 4);
}

static void unpack_block(const struct format *f, uint32_t lanes, uint32_t lane,
                         struct place from, uint8_t *to)
{
	for (const struct unit_run *r = f->run; r < f->run + MAX_PARTS && r->n; r++) {
		const size_t step = (size_t)r->bytes * lanes;
		uint8_t **src = in_head(r) ? &from.head : &from.body;
		const uint8_t *row = *src + lane * r->bytes;

		if (is_ordered(r))
			unpack_ordered(f, r, to + r->at, row, step);
		else
			move_run(to + r->at, r->bytes, row, step, r, scatter_bits);
		*src += step * r->n;
	}
}

void gp_unpack_row(enum gp_type t, uint32_t lanes, const void *group, uint32_t lane, uint32_t k,
                   void *dst)
{
	const struct gp_type_info *info = gp_type_info(t);
	const struct format *f = format_of(t);
	const size_t n = k / info->block_elems;

	for (size_t b = 0; b < n; b++)
		unpack_block(f, lanes, lane, place_of(f, lanes, (void *)group, n, b),
		             (uint8_t *)dst + b * info->block_bytes);
}

/* ---- reference --------------------------------------------------------------- */
/* NaN is larger than all: a block that holds one gets it as its scale. */
static float largest(const float x[32])
{
	float most = 0.0f;

	for (unsigned i = 0; i < 32; i++)
		if (most == most && !(fabsf(x[i]) <= most))
			most = fabsf(x[i]);
	return most;
}

void gp_quantize_q8_scalar(struct gp_q8 *dst, size_t stride, const float *x, uint32_t k)
{
	for (; k; k -= 32, x += 32, dst += stride) {
		const float most = largest(x);
		const float inverse = gp_q8_inverse(most);
		int32_t sum[2] = { 0 };

		for (unsigned i = 0; i < 32; i++) {
			dst->q[i] = inverse == 0.0f ? 0 : (int8_t)lrintf(x[i] * inverse);
			sum[i / 16] += dst->q[i];
		}
		gp_q8_finish(dst, most, sum[0], sum[1]);
	}
}

/* Element i of a row, which is a group of one lane. */
static float weight_at(const struct format *f, const uint8_t *row, uint32_t k, uint32_t i,
                       float values[256])
{
	const uint32_t block = gp_type_info(f->type)->block_elems;
	uint8_t one[256];

	if (i % block == 0) {
		unpack_block(f, 1, 0, place_of(f, 1, (void *)row, k / block, i / block), one);
		gp_dequantize(f->type, one, values, block);
	}
	return values[i % block];
}

void gp_matmul_packed_scalar(float *y, size_t y_stride, const struct gp_q8 *x, uint32_t rows,
                             const void *w, enum gp_type type, uint32_t k, uint32_t n0,
                             uint32_t n1)
{
	const struct gp_type_info *info = gp_type_info(type);
	const size_t row_bytes = (size_t)(k / info->block_elems) * info->block_bytes;
	const struct format *f = format_of(type);
	float values[256];

	for (uint32_t m = 0; m < rows; m++)
		for (uint32_t n = n0; n < n1; n++) {
			const struct gp_q8 *q = x + gp_q8_at(m, k / 32);
			double sum = 0.0;

			for (uint32_t i = 0; i < k; i++) {
				const float v = weight_at(f, (const uint8_t *)w + n * row_bytes, k, i,
				                          values);

				sum += (double)v * (double)q->q[i % 32] * (double)q->d;
				if (i % 32 == 31)
					q += gp_q8_stride(m, rows);
			}
			y[m * y_stride + n] = (float)sum;
		}
}

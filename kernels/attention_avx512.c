#include "kernels/math_avx512.h"

enum { GROUP = 8 }; /* positions that go through the registers together */

struct softmax {
	_Alignas(64) float acc[GP_MAX_HEAD_DIM];
	_Alignas(64) float p[GP_KV_BLOCK]; /* scores, then weights, of one block */
	_Alignas(64) float rows[GROUP][GP_MAX_HEAD_DIM];
	float max, sum;
};

/* Rows [at, at + n) of a block as floats; the last one stands in for what is
 * missing to GROUP. */
static void fetch(const struct gp_attention *a, const uint8_t *block, uint32_t at, uint32_t n,
                  struct softmax *s, const float *rows[GROUP])
{
	for (uint32_t g = 0; g < GROUP; g++) {
		const void *src = block + (size_t)(at + g) * a->row_bytes;

		if (g >= n) {
			rows[g] = rows[n - 1];
		} else if (a->kv_type == GP_TYPE_F32) {
			rows[g] = src;
		} else {
			gp_dequantize_avx2(a->kv_type, src, s->rows[g], a->head_dim);
			rows[g] = s->rows[g];
		}
	}
}

static GP_UNCHECKED __m256 dot8(const float *q, const float *const rows[GROUP], uint32_t n)
{
	__m512 acc[GROUP];

#pragma GCC unroll 8
	for (unsigned g = 0; g < GROUP; g++)
		acc[g] = _mm512_setzero_ps();
	for (uint32_t i = 0; i < n; i += 16) {
		const __m512 v = load_upto16(q + i, n - i);

#pragma GCC unroll 8
		for (unsigned g = 0; g < GROUP; g++)
			acc[g] = _mm512_fmadd_ps(v, load_upto16(rows[g] + i, n - i), acc[g]);
	}
	return reduce8x16(acc);
}

/* Scores of [from, to) of block b; -infinity elsewhere. */
static void scores(const struct gp_attention *a, uint32_t b, uint32_t from, uint32_t to,
                   struct softmax *s)
{
	const __m256 scale = _mm256_set1_ps(a->scale);
	const float *rows[GROUP];

	for (uint32_t i = 0; i < GP_KV_BLOCK; i++)
		s->p[i] = -INFINITY;
	for (uint32_t at = from, n; at < to; at += n) {
		n = to - at < GROUP ? to - at : GROUP;
		fetch(a, a->k[b], at, n, s, rows);
		_mm256_mask_storeu_ps(s->p + at, (__mmask8)((1u << n) - 1u),
		                      _mm256_mul_ps(dot8(a->q, rows, a->head_dim), scale));
	}
}

/* Scores to weights; what was summed before is scaled to the new maximum. */
static void weigh(struct softmax *s, uint32_t head_dim)
{
	const __m512 none = _mm512_set1_ps(-INFINITY);
	__m512 top = _mm512_set1_ps(s->max), sum = _mm512_setzero_ps();

	for (uint32_t i = 0; i < GP_KV_BLOCK; i += 16)
		top = _mm512_max_ps(top, _mm512_load_ps(s->p + i));
	const float max = _mm512_reduce_max_ps(top);
	for (uint32_t i = 0; i < GP_KV_BLOCK; i += 16) {
		const __m512 v = _mm512_load_ps(s->p + i);
		const __mmask16 valid = _mm512_cmp_ps_mask(v, none, _CMP_NEQ_UQ);
		const __m512 w = _mm512_maskz_mov_ps(
			valid, exp16(_mm512_sub_ps(v, _mm512_set1_ps(max))));

		_mm512_store_ps(s->p + i, w);
		sum = _mm512_add_ps(sum, w);
	}
	const __m512 keep = exp16(_mm512_set1_ps(s->max - max));
	for (uint32_t i = 0; i < head_dim; i += 16)
		_mm512_store_ps(s->acc + i, _mm512_mul_ps(keep, _mm512_load_ps(s->acc + i)));
	s->sum = s->sum * _mm512_cvtss_f32(keep) + _mm512_reduce_add_ps(sum);
	s->max = max;
}

static GP_UNCHECKED void accumulate(const struct gp_attention *a, uint32_t b, uint32_t from, uint32_t to,
                       struct softmax *s)
{
	const float *rows[GROUP];

	for (uint32_t at = from, n; at < to; at += n) {
		n = to - at < GROUP ? to - at : GROUP;
		fetch(a, a->v[b], at, n, s, rows);
		for (uint32_t i = 0; i < a->head_dim; i += 16) {
			__m512 acc = _mm512_load_ps(s->acc + i);

			for (uint32_t g = 0; g < n; g++)
				acc = _mm512_fmadd_ps(_mm512_set1_ps(s->p[at + g]),
				                      load_upto16(rows[g] + i, a->head_dim - i), acc);
			_mm512_store_ps(s->acc + i, acc);
		}
	}
}

void gp_attention_avx512(const struct gp_attention *a)
{
	struct softmax s;

	s.max = -INFINITY;
	s.sum = 0.0f;
	for (uint32_t i = 0; i < a->head_dim; i += 16)
		_mm512_store_ps(s.acc + i, _mm512_setzero_ps());
	for (uint32_t p = a->first, n; p < a->end; p += n) {
		const uint32_t b = p / GP_KV_BLOCK, from = p % GP_KV_BLOCK;

		n = GP_KV_BLOCK - from < a->end - p ? GP_KV_BLOCK - from : a->end - p;
		scores(a, b, from, from + n, &s);
		weigh(&s, a->head_dim);
		accumulate(a, b, from, from + n, &s);
	}
	const __m512 sum = _mm512_set1_ps(s.sum);
	for (uint32_t i = 0; i < a->head_dim; i += 16)
		store_upto16(a->out + i, a->head_dim - i,
		             _mm512_div_ps(_mm512_load_ps(s.acc + i), sum));
}

#include "kernels/math_avx2.h"

enum { GROUP = 8 }; /* positions that go through the registers together */

struct softmax {
	_Alignas(32) float acc[GP_MAX_HEAD_DIM];
	_Alignas(32) float p[GP_KV_BLOCK]; /* scores, then weights, of one block */
	_Alignas(32) float rows[GROUP][GP_MAX_HEAD_DIM];
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
	__m256 acc[GROUP];

#pragma GCC unroll 8
	for (unsigned g = 0; g < GROUP; g++)
		acc[g] = _mm256_setzero_ps();
	for (uint32_t i = 0; i < n; i += 8) {
		const __m256 v = _mm256_loadu_ps(q + i);

#pragma GCC unroll 8
		for (unsigned g = 0; g < GROUP; g++)
			acc[g] = _mm256_fmadd_ps(v, _mm256_loadu_ps(rows[g] + i), acc[g]);
	}
	return _mm256_set_m128(reduce4x8(acc + 4), reduce4x8(acc));
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
		store_upto8(s->p + at, n, _mm256_mul_ps(dot8(a->q, rows, a->head_dim), scale));
	}
}

/* Scores to weights; what was summed before is scaled to the new maximum. */
static void weigh(struct softmax *s, uint32_t head_dim)
{
	const __m256 none = _mm256_set1_ps(-INFINITY);
	__m256 top = _mm256_set1_ps(s->max), sum = _mm256_setzero_ps();

	for (uint32_t i = 0; i < GP_KV_BLOCK; i += 8)
		top = _mm256_max_ps(top, _mm256_load_ps(s->p + i));
	const float max = max8(top);
	for (uint32_t i = 0; i < GP_KV_BLOCK; i += 8) {
		const __m256 v = _mm256_load_ps(s->p + i);
		const __m256 valid = _mm256_cmp_ps(v, none, _CMP_NEQ_UQ);
		const __m256 w = _mm256_and_ps(valid, exp8(_mm256_sub_ps(v, _mm256_set1_ps(max))));

		_mm256_store_ps(s->p + i, w);
		sum = _mm256_add_ps(sum, w);
	}
	const __m256 keep = exp8(_mm256_set1_ps(s->max - max));
	for (uint32_t i = 0; i < head_dim; i += 8)
		_mm256_store_ps(s->acc + i, _mm256_mul_ps(keep, _mm256_load_ps(s->acc + i)));
	s->sum = s->sum * _mm256_cvtss_f32(keep) + sum8(sum);
	s->max = max;
}

static GP_UNCHECKED void accumulate(const struct gp_attention *a, uint32_t b, uint32_t from, uint32_t to,
                       struct softmax *s)
{
	const float *rows[GROUP];

	for (uint32_t at = from, n; at < to; at += n) {
		n = to - at < GROUP ? to - at : GROUP;
		fetch(a, a->v[b], at, n, s, rows);
		for (uint32_t i = 0; i < a->head_dim; i += 8) {
			__m256 acc = _mm256_load_ps(s->acc + i);

			for (uint32_t g = 0; g < n; g++)
				acc = _mm256_fmadd_ps(_mm256_set1_ps(s->p[at + g]),
				                      _mm256_loadu_ps(rows[g] + i), acc);
			_mm256_store_ps(s->acc + i, acc);
		}
	}
}

void gp_attention_avx2(const struct gp_attention *a)
{
	struct softmax s;

	s.max = -INFINITY;
	s.sum = 0.0f;
	for (uint32_t i = 0; i < a->head_dim; i += 8)
		_mm256_store_ps(s.acc + i, _mm256_setzero_ps());
	for (uint32_t p = a->first, n; p < a->end; p += n) {
		const uint32_t b = p / GP_KV_BLOCK, from = p % GP_KV_BLOCK;

		n = GP_KV_BLOCK - from < a->end - p ? GP_KV_BLOCK - from : a->end - p;
		scores(a, b, from, from + n, &s);
		weigh(&s, a->head_dim);
		accumulate(a, b, from, from + n, &s);
	}
	const __m256 sum = _mm256_set1_ps(s.sum);
	for (uint32_t i = 0; i < a->head_dim; i += 8)
		_mm256_storeu_ps(a->out + i, _mm256_div_ps(_mm256_load_ps(s.acc + i), sum));
}

/* Tensors from the source's file to encoded bytes, a batch of pieces at a time: the pieces are
 * worked on side by side, and leave in order. */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "quantize/quantize.h"

enum { PIECE_ELEMENTS = 1 << 19, PIECES_A_THREAD = 4 };

struct stream {
	const struct gp_tensor *t;
	const struct gp_encoding *e;
	float norm_offset;
	uint64_t first, rows;          /* of the batch */
	uint32_t piece_rows;
	size_t row_in, row_out;        /* bytes */
	uint8_t *out;                  /* the batch, encoded */
	double *error;                 /* by piece */
};

static int read_rows(const struct stream *s, uint64_t first, uint32_t n, float *w)
{
	const size_t bytes = n * s->row_in, elements = (size_t)n * (size_t)s->t->cols;
	uint8_t *raw = malloc(bytes);
	int rc = raw ? gp_tensor_read(s->t, first * s->row_in, bytes, raw) :
	               gp_fail(ENOMEM, "no memory for %u rows of tensor '%s'", n, s->t->name);

	if (rc == 0)
		gp_dequantize(s->t->type, raw, w, elements);
	for (size_t i = 0; i < elements && rc == 0; i++)
		if (!isfinite(w[i]))
			rc = gp_fail(EDOM, "row %llu holds %g; the source is damaged, fetch it again",
			             (unsigned long long)(first + i / s->t->cols), (double)w[i]);
	for (size_t i = 0; i < elements && s->t->rows == 1 && rc == 0; i++)
		w[i] += s->norm_offset;
	free(raw);
	return rc;
}

static int encode_piece(void *user, size_t i)
{
	struct stream *s = user;
	const uint64_t at = i * s->piece_rows, left = s->rows - at;
	const uint32_t n = left < s->piece_rows ? (uint32_t)left : s->piece_rows;
	float *w = malloc((size_t)n * (size_t)s->t->cols * sizeof *w);
	int rc = w ? read_rows(s, s->first + at, n, w) :
	             gp_fail(ENOMEM, "no memory for %u rows of tensor '%s'", n, s->t->name);

	if (rc == 0)
		rc = gp_encode(s->e, w, n, s->out + at * s->row_out, &s->error[i]);
	free(w);
	return rc;
}

static int encode_batch(struct stream *s, uint64_t rows, uint32_t n_threads, gp_encoded_sink *sink,
                        void *user, double *error)
{
	const size_t pieces = (size_t)((rows + s->piece_rows - 1) / s->piece_rows);
	int rc;

	s->rows = rows;
	memset(s->error, 0, pieces * sizeof *s->error);
	rc = gp_parallel(pieces, n_threads, encode_piece, s);
	for (size_t i = 0; i < pieces; i++)
		*error += s->error[i];
	s->first += rows;
	return rc < 0 ? rc : sink(user, s->out, (size_t)rows * s->row_out);
}

int gp_encode_tensor(const struct gp_tensor *t, const struct gp_encoding *e, float norm_offset,
                     uint32_t n_threads, gp_encoded_sink *sink, void *user, double *error)
{
	struct stream s = { .t = t, .e = e, .norm_offset = norm_offset };
	const uint64_t fit = PIECE_ELEMENTS / t->cols;
	uint64_t batch;
	int rc = gp_type_bytes(e->type, 1, t->cols, &s.row_out);

	*error = 0;
	if (rc < 0)
		return gp_fail_in(rc, "tensor '%s'", t->name);
	s.row_in = t->bytes / (size_t)t->rows;
	s.piece_rows = fit < 1 ? 1 : (uint32_t)fit;
	n_threads = n_threads ? n_threads : 1;
	batch = (uint64_t)s.piece_rows * n_threads * PIECES_A_THREAD;
	batch = batch < t->rows ? batch : t->rows;
	s.out = malloc((size_t)batch * s.row_out);
	s.error = calloc((size_t)n_threads * PIECES_A_THREAD, sizeof *s.error);
	if (e->factor)
		openblas_set_num_threads(1); /* the pieces are what runs side by side */
	if (!s.out || !s.error)
		rc = gp_fail(ENOMEM, "no memory for a batch of tensor '%s'", t->name);
	while (rc == 0 && s.first < t->rows)
		rc = encode_batch(&s, t->rows - s.first < batch ? t->rows - s.first : batch,
		                  n_threads, sink, user, error);
	free(s.out);
	free(s.error);
	return rc < 0 ? gp_fail_in(rc, "tensor '%s'", t->name) : 0;
}

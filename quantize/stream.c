/* Tensors from the source's file to encoded bytes: pieces are worked on side by side, and leave
 * in order, each taken along by the thread that made it. */
#include <cblas.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "quantize/quantize.h"

/* Of a piece, about: its floats fit a core's cache; where sums over all columns are needed for
 * each piece, there are fewer. */
enum { ELEMENTS = 1 << 17, ELEMENTS_WITH_FACTOR = 1 << 19 };
enum { AHEAD = 16 << 20 };             /* bytes that are asked of the disk before they are needed */

/* What a thread works with. */
struct desk {
	float *w;
	uint8_t *raw, *out;
	struct desk *next;             /* of those that are free */
};

struct stream {
	const struct gp_tensor *t;
	const struct gp_encoding *e;
	struct gp_kernels kernels;
	float norm_offset;
	uint32_t piece_rows;
	size_t pieces, row_in, row_out; /* rows: bytes */
	gp_encoded_sink *sink;
	void *user;
	struct desk *desks;
	pthread_mutex_t lock;          /* of what follows; the sink is called with it */
	pthread_cond_t turn;
	struct desk *free;
	size_t left;                   /* pieces that the sink has */
	bool failed;
	double error;
};

/* The exponent of infinity and NaN. */
static bool is_finite(const float *w, size_t n)
{
	unsigned odd = 0;

	for (size_t i = 0; i < n; i++) {
		uint32_t bits;

		memcpy(&bits, &w[i], sizeof bits);
		odd |= (bits & 0x7f800000u) == 0x7f800000u;
	}
	return !odd;
}

static int not_finite(const struct stream *s, uint64_t first, const float *w)
{
	size_t i = 0;

	while (isfinite(w[i]))
		i++;
	return gp_fail(EDOM, "tensor '%s': row %llu holds %g; the source is damaged, fetch it "
	               "again", s->t->name, (unsigned long long)(first + i / s->t->cols), (double)w[i]);
}

static int read_rows(const struct stream *s, const struct desk *d, uint64_t first, uint32_t n)
{
	const size_t bytes = n * s->row_in, elements = (size_t)n * (size_t)s->t->cols;
	int rc = gp_tensor_read(s->t, first * s->row_in, bytes, d->raw);

	if (rc < 0)
		return rc;
	s->kernels.dequantize(s->t->type, d->raw, d->w, elements);
	if (!is_finite(d->w, elements))
		return not_finite(s, first, d->w);
	for (size_t i = 0; i < elements && s->t->rows == 1; i++)
		d->w[i] += s->norm_offset;
	return 0;
}

/* What would become infinite. */
static int check_halves(const struct stream *s, uint64_t first, const float *w, size_t n)
{
	size_t i = 0;

	while (i < n && fabsf(w[i]) < 65520)
		i++;
	return i == n ? 0 :
	       gp_fail(ERANGE, "tensor '%s': row %llu holds %g, F16 up to 65504; take bf16 or f32",
	               s->t->name, (unsigned long long)(first + i / s->t->cols), (double)w[i]);
}

static int encode_rows(const struct stream *s, const struct desk *d, uint64_t first, uint32_t n,
                       double *error)
{
	int rc = read_rows(s, d, first, n);

	*error = 0;
	if (rc == 0 && s->e->type == GP_TYPE_F16)
		rc = check_halves(s, first, d->w, (size_t)n * s->e->cols);
	if (rc < 0)
		return rc;
	return s->e->nearest ?
	       s->kernels.quantize(s->e->type, d->w, d->out, (size_t)n * s->e->cols) :
	       gp_encode(s->e, d->w, n, d->out, error);
}

static struct desk *take_desk(struct stream *s)
{
	struct desk *d;

	pthread_mutex_lock(&s->lock);
	d = s->free;               /* there are as many as threads */
	s->free = d->next;
	pthread_mutex_unlock(&s->lock);
	return d;
}

/* Piece i on d, n rows, rc: how it went. Those before it come first; pieces are handed out in
 * order, so the next one is always in some thread's hands. */
static int hand_over(struct stream *s, struct desk *d, size_t i, uint32_t n, double error, int rc)
{
	pthread_mutex_lock(&s->lock);
	while (rc == 0 && s->left != i && !s->failed)
		pthread_cond_wait(&s->turn, &s->lock);
	if (rc == 0 && !s->failed) {
		rc = s->sink(s->user, d->out, n * s->row_out);
		s->error += error;
		s->left++;
	}
	s->failed |= rc < 0;
	d->next = s->free;
	s->free = d;
	pthread_cond_broadcast(&s->turn);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* Pieces are handed out in order, each asks for one further on; the first for all up to there. */
static void read_ahead(const struct stream *s, size_t i)
{
	const size_t piece = s->piece_rows * s->row_in;
	const size_t from = i ? i * piece + AHEAD : 0, n = i ? piece : AHEAD + piece;

	if (from < s->t->bytes)
		gp_tensor_expect(s->t, from, n < s->t->bytes - from ? n : s->t->bytes - from);
}

static int encode_piece(void *user, size_t i)
{
	struct stream *s = user;
	const uint64_t first = (uint64_t)i * s->piece_rows, left = s->t->rows - first;
	const uint32_t n = left < s->piece_rows ? (uint32_t)left : s->piece_rows;
	struct desk *d = take_desk(s);
	double error;
	int rc;

	read_ahead(s, i);
	rc = encode_rows(s, d, first, n, &error);

	return hand_over(s, d, i, n, error, rc);
}

static int set_desks(struct stream *s, uint32_t n)
{
	s->desks = calloc(n, sizeof *s->desks);
	for (uint32_t i = 0; i < n && s->desks; i++) {
		struct desk *d = &s->desks[i];

		d->w = malloc((size_t)s->piece_rows * (size_t)s->t->cols * sizeof *d->w);
		d->raw = malloc(s->piece_rows * s->row_in);
		d->out = malloc(s->piece_rows * s->row_out);
		d->next = s->free;
		s->free = d;
		if (!d->w || !d->raw || !d->out)
			break;
		if (i + 1 == n)
			return 0;
	}
	return gp_fail(ENOMEM, "no memory for pieces of tensor '%s'", s->t->name);
}

static void clear_desks(struct stream *s, uint32_t n)
{
	for (uint32_t i = 0; i < n && s->desks; i++) {
		free(s->desks[i].w);
		free(s->desks[i].raw);
		free(s->desks[i].out);
	}
	free(s->desks);
}

int gp_encode_tensor(const struct gp_tensor *t, const struct gp_encoding *e, float norm_offset,
                     uint32_t n_threads, gp_encoded_sink *sink, void *user, double *error)
{
	struct stream s = { .t = t, .e = e, .norm_offset = norm_offset, .sink = sink, .user = user,
	                    .lock = PTHREAD_MUTEX_INITIALIZER, .turn = PTHREAD_COND_INITIALIZER };
	const uint64_t fit = (e->factor ? ELEMENTS_WITH_FACTOR : ELEMENTS) / t->cols;
	int rc = gp_type_bytes(e->type, 1, t->cols, &s.row_out);

	*error = 0;
	if (rc < 0)
		return gp_fail_in(rc, "tensor '%s'", t->name);
	gp_kernels_init(&s.kernels, GP_CPU_ALL);
	s.row_in = t->bytes / (size_t)t->rows;
	s.piece_rows = fit < 1 ? 1 : fit < t->rows ? (uint32_t)fit : (uint32_t)t->rows;
	s.pieces = (size_t)((t->rows + s.piece_rows - 1) / s.piece_rows);
	n_threads = n_threads < 1 ? 1 : n_threads < s.pieces ? n_threads : (uint32_t)s.pieces;
	if (e->factor)
		openblas_set_num_threads(1); /* the pieces are what runs side by side */
	rc = set_desks(&s, n_threads);
	if (rc == 0)
		rc = gp_parallel(s.pieces, n_threads, encode_piece, &s);
	clear_desks(&s, n_threads);
	*error = s.error;
	return rc;
}

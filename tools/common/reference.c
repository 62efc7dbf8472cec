/* The file: a header, then of each scored id -log p (8 bytes), a check sum of the row
 * (8 bytes) and a number for each entry of the vocabulary. All little-endian, as x86-64
 * is. float16 deltas keep what a comparison needs: near the row's largest logit they
 * are exact to 6e-8, and at the distance d to d / 2048, where p is exp(-d). */
#include "tools/common/reference.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/common/divergence.h"
#include "tools/common/on_signal.h"

static const char magic[16] = "gempipe logits\n";

struct header {
	char magic[16];
	uint32_t version, type;         /* 1; GP_TYPE_F16 or GP_TYPE_F32 */
	uint32_t vocab, n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn;
	int32_t bos;
	uint64_t ctx, skip, n_chunks, ids; /* ids: their check sum */
	char model[256];
	uint64_t check;                 /* of what is before it */
};
static_assert(sizeof(struct header) == 352, "the file's header has no gaps");

struct row_header {
	double nll;
	uint64_t check;                 /* of nll and numbers */
};

struct reference {
	struct header header;
	int fd;
	char *path, *part;              /* part: not yet finished */
	size_t n_rows, n_written, row_bytes, number_bytes;
	uint8_t *row;
};

/* FNV-1a (Fowler, Noll, Vo) over words of eight bytes: each step is a bijection, so no
 * single changed word goes unseen. */
static uint64_t check_sum(uint64_t sum, const void *data, size_t bytes)
{
	const uint8_t *p = data;

	for (size_t n; bytes; p += n, bytes -= n) {
		uint64_t word = 0;

		n = bytes < sizeof word ? bytes : sizeof word;
		memcpy(&word, p, n);
		sum = (sum ^ word) * 0x100000001b3u;
	}
	return sum;
}
#define CHECK_BEGIN 0xcbf29ce484222325u

static uint64_t row_check(const struct reference *r, const struct row_header *h)
{
	return check_sum(check_sum(CHECK_BEGIN, &h->nll, sizeof h->nll), r->row + sizeof *h,
			 r->number_bytes);
}

static uint64_t header_check(const struct header *h)
{
	return check_sum(CHECK_BEGIN, h, offsetof(struct header, check));
}

/* ---- a header -------------------------------------------------------------------- */
/* The last part of a path, without slashes behind it. */
static void name_of(char *name, size_t room, const char *path)
{
	size_t end = strlen(path), begin;

	while (end > 1 && path[end - 1] == '/')
		end--;
	for (begin = end; begin > 0 && path[begin - 1] != '/'; begin--)
		;
	snprintf(name, room, "%.*s", (int)(end - begin), path + begin);
}

static void describe(struct header *h, const char *model, const struct gp_config *c,
		     const struct score_text *t, enum gp_type type)
{
	*h = (struct header){
		.version = 1, .type = type, .vocab = c->vocab, .n_layers = c->n_layers,
		.hidden = c->hidden, .n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads,
		.head_dim = c->head_dim, .ffn = c->ffn, .bos = c->bos, .ctx = t->ctx,
		.skip = t->skip, .n_chunks = t->n_chunks,
		.ids = check_sum(CHECK_BEGIN, t->ids, t->n_chunks * (size_t)t->ctx * sizeof *t->ids),
	};
	memcpy(h->magic, magic, sizeof magic);
	name_of(h->model, sizeof h->model, model);
	h->check = header_check(h);
}

static int check_shape(const struct header *h, const struct header *wanted)
{
	/* From vocab to bos. */
	if (memcmp(&h->vocab, &wanted->vocab,
		   offsetof(struct header, ctx) - offsetof(struct header, vocab)) == 0)
		return 0;
	return gp_fail(EINVAL, "the reference, %s, is a model of another shape (%u layers of %u, "
		       "vocabulary %u) than this one (%u of %u, %u)", h->model, h->n_layers, h->hidden,
		       h->vocab, wanted->n_layers, wanted->hidden, wanted->vocab);
}

/* Sizes of everything from a header that is true. */
static int lay_out(struct reference *r, const struct score_text *t, size_t *total)
{
	const size_t each = gp_type_info(r->header.type)->block_bytes;

	r->n_rows = t->n;
	if (!gp_size_mul(r->header.vocab, each, &r->number_bytes) ||
	    !gp_size_add(sizeof(struct row_header), r->number_bytes, &r->row_bytes) ||
	    !gp_size_mul(r->row_bytes, r->n_rows, total) ||
	    !gp_size_add(*total, sizeof r->header, total) || *total > INT64_MAX)
		return gp_fail(EOVERFLOW, "%s: %zu rows of %u logits are too many for a file", r->path,
			       r->n_rows, r->header.vocab);
	r->row = malloc(r->row_bytes);
	return r->row ? 0 : gp_fail(ENOMEM, "%s: no memory for a row", r->path);
}

static off_t row_at(const struct reference *r, size_t i)
{
	return (off_t)(sizeof r->header + i * r->row_bytes);
}

/* ---- bytes to and from the file ---------------------------------------------------- */
static int write_all(const struct reference *r, const void *data, size_t bytes, off_t at)
{
	for (const uint8_t *p = data; bytes; ) {
		const ssize_t n = pwrite(r->fd, p, bytes, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return gp_fail(n ? errno : EIO, "%s: not written: %s", r->path,
				       strerror(n ? errno : EIO));
		p += n;
		bytes -= (size_t)n;
		at += n;
	}
	return 0;
}

static int read_all(const struct reference *r, void *data, size_t bytes, off_t at)
{
	for (uint8_t *p = data; bytes; ) {
		const ssize_t n = pread(r->fd, p, bytes, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return gp_fail(errno, "%s: not read: %s", r->path, strerror(errno));
		if (n == 0)
			return gp_fail(EIO, "%s: was cut short while it was read", r->path);
		p += n;
		bytes -= (size_t)n;
		at += n;
	}
	return 0;
}

/* ---- writing ------------------------------------------------------------------------ */
/* The file is gone from its folder as soon as it is there. */
static int open_nameless(struct reference *r)
{
	const char *folder = getenv("TMPDIR");
	char path[4096];

	/* /tmp may lie in memory. */
	if (!folder || !*folder)
		folder = "/var/tmp";
	if ((r->path = strdup(folder)) == NULL)
		return gp_fail(ENOMEM, "no memory for the reference");
	if (snprintf(path, sizeof path, "%s/gempipe-reference-XXXXXX", folder) >= (int)sizeof path)
		return gp_fail(ENAMETOOLONG, "TMPDIR is too long a path");
	r->fd = mkostemp(path, O_CLOEXEC);
	if (r->fd < 0)
		return gp_fail(errno, "%s: no file for the reference's logits: %s; set TMPDIR", folder,
			       strerror(errno));
	unlink(path);
	return 0;
}

static int open_part(struct reference *r, const char *path)
{
	struct stat st;

	/* A slip of the hand would put it in the place of a model. */
	if (stat(path, &st) == 0 && !(S_ISREG(st.st_mode) && st.st_size == 0) &&
	    !reference_is_file(path))
		return gp_fail(EEXIST, "%s: is there, and no saved reference; give another name", path);
	r->path = strdup(path);
	char *part = malloc(strlen(path) + sizeof ".part");
	if (!r->path || !part) {
		free(part);
		return gp_fail(ENOMEM, "%s: no memory to write it", path);
	}
	sprintf(part, "%s.part", path);
	r->fd = open(part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (r->fd < 0) {
		const int e = errno;

		free(part);
		return gp_fail(e, "%s: not written: %s", path, strerror(e));
	}
	r->part = part;
	cli_unlink_part_on_signal(path);
	return 0;
}

/* Not every file system can; then a full disk shows later. */
static int take_room(const struct reference *r, size_t total)
{
	char text[32];

	if (fallocate(r->fd, 0, 0, (off_t)total) == 0 || errno == EOPNOTSUPP || errno == ENOSYS ||
	    errno == EINTR)
		return 0;
	return gp_fail(errno, "%s: no room for %s of the reference's logits: %s; free some, or take "
		       "fewer --chunks", r->path, gp_size_text(text, total), strerror(errno));
}

int reference_create(struct reference **out, const char *path, const struct gp_model *source,
		     const struct gp_config *config, const struct score_text *text)
{
	const enum gp_type type = path ? GP_TYPE_F16 : GP_TYPE_F32;
	struct reference *r = calloc(1, sizeof *r);
	struct header wanted;
	size_t total;
	int rc;

	if (!r)
		return gp_fail(ENOMEM, "no memory for the reference");
	r->fd = -1;
	describe(&r->header, gp_model_path(source), gp_model_config(source), text, type);
	describe(&wanted, "", config, text, type);
	if ((rc = check_shape(&r->header, &wanted)) < 0 ||
	    (rc = path ? open_part(r, path) : open_nameless(r)) < 0 ||
	    (rc = lay_out(r, text, &total)) < 0 || (rc = take_room(r, total)) < 0 ||
	    (rc = write_all(r, &r->header, sizeof r->header, 0)) < 0) {
		reference_close(r);
		return rc;
	}
	*out = r;
	return 0;
}

static void encode(const struct reference *r, const float *logits, uint8_t *to)
{
	const float largest = logits[largest_of(logits, r->header.vocab)];

	if (r->header.type == GP_TYPE_F32) {
		memcpy(to, logits, r->number_bytes);
		return;
	}
	for (uint32_t i = 0; i < r->header.vocab; i++) {
		const uint16_t h = gp_f32_to_f16(logits[i] - largest);

		memcpy(to + 2 * (size_t)i, &h, sizeof h);
	}
}

int reference_write(struct reference *r, const struct score_row *row)
{
	struct row_header h = { .nll = row->nll };

	encode(r, row->logits, r->row + sizeof h);
	h.check = row_check(r, &h);
	memcpy(r->row, &h, sizeof h);
	r->n_written++;
	return write_all(r, r->row, r->row_bytes, row_at(r, row->i));
}

int reference_finish(struct reference *r)
{
	if (r->n_written != r->n_rows)
		return gp_fail(EIO, "%s: %zu of %zu rows were computed", r->path, r->n_written,
			       r->n_rows);
	if (!r->part)
		return 0;
	if (fsync(r->fd) != 0 || rename(r->part, r->path) != 0)
		return gp_fail(errno, "%s: not written: %s", r->path, strerror(errno));
	free(r->part);
	r->part = NULL;
	return 0;
}

/* ---- reading ------------------------------------------------------------------------- */
bool reference_is_file(const char *path)
{
	const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char begin[sizeof magic];

	if (fd < 0)
		return false;
	const bool yes = pread(fd, begin, sizeof begin, 0) == (ssize_t)sizeof begin &&
			 memcmp(begin, magic, sizeof magic) == 0;
	close(fd);
	return yes;
}

static int check_header(const struct reference *r)
{
	const struct header *h = &r->header;

	if (memcmp(h->magic, magic, sizeof magic) != 0)
		return gp_fail(EINVAL, "%s: is no file that --save-reference wrote", r->path);
	if (h->version != 1)
		return gp_fail(EINVAL, "%s: has version %u, which this gempipe does not know", r->path,
			       h->version);
	if (h->check != header_check(h) || (h->type != GP_TYPE_F16 && h->type != GP_TYPE_F32))
		return gp_fail(EINVAL, "%s: its header is damaged; save the reference again", r->path);
	return 0;
}

/* wanted: the header it would have, saved for this run. */
static int check_purpose(const struct reference *r, const struct header *wanted)
{
	const struct header *h = &r->header;
	const int rc = check_shape(h, wanted);

	if (rc < 0)
		return gp_fail_in(rc, "%s", r->path);
	if (h->ctx != wanted->ctx || h->n_chunks != wanted->n_chunks || h->skip != wanted->skip)
		return gp_fail(EINVAL, "%s: was saved with --ctx %llu --chunks %llu --skip %llu; this "
			       "is --ctx %llu --chunks %llu --skip %llu", r->path,
			       (unsigned long long)h->ctx, (unsigned long long)h->n_chunks,
			       (unsigned long long)h->skip, (unsigned long long)wanted->ctx,
			       (unsigned long long)wanted->n_chunks, (unsigned long long)wanted->skip);
	if (h->ids != wanted->ids)
		return gp_fail(EINVAL, "%s: was saved for another text (its token ids differ)", r->path);
	return 0;
}

static int load_header(struct reference *r, const struct gp_config *config,
		       const struct score_text *text)
{
	struct header wanted;
	struct stat st;
	size_t total;
	int rc;

	if (fstat(r->fd, &st) != 0)
		return gp_fail(errno, "%s: %s", r->path, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof r->header)
		return gp_fail(EINVAL, "%s: is no file that --save-reference wrote, or cut short",
			       r->path);
	if ((rc = read_all(r, &r->header, sizeof r->header, 0)) < 0 || (rc = check_header(r)) < 0)
		return rc;
	r->header.model[sizeof r->header.model - 1] = '\0';
	describe(&wanted, "", config, text, (enum gp_type)r->header.type);
	if ((rc = check_purpose(r, &wanted)) < 0 || (rc = lay_out(r, text, &total)) < 0)
		return rc;
	if ((uint64_t)st.st_size != total)
		return gp_fail(EINVAL, "%s: has %lld bytes instead of %zu; save the reference again",
			       r->path, (long long)st.st_size, total);
	return 0;
}

int reference_open(struct reference **out, const char *path, const struct gp_config *config,
		   const struct score_text *text)
{
	struct reference *r = calloc(1, sizeof *r);
	int rc;

	if (!r || !(r->path = strdup(path))) {
		free(r);
		return gp_fail(ENOMEM, "no memory for the reference");
	}
	r->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	rc = r->fd < 0 ? gp_fail(errno, "%s: %s", path, strerror(errno))
		       : load_header(r, config, text);
	if (rc < 0) {
		reference_close(r);
		return rc;
	}
	*out = r;
	return 0;
}

int reference_read(const struct reference *r, size_t i, double *nll, float *logits)
{
	struct row_header h;
	const int rc = read_all(r, r->row, r->row_bytes, row_at(r, i));

	if (rc < 0)
		return rc;
	memcpy(&h, r->row, sizeof h);
	if (h.check != row_check(r, &h))
		return gp_fail(EINVAL, "%s: row %zu is damaged; save the reference again", r->path, i);
	gp_dequantize((enum gp_type)r->header.type, r->row + sizeof h, logits, r->header.vocab);
	*nll = h.nll;
	return 0;
}

const char *reference_model(const struct reference *r)
{
	return r->header.model;
}

void reference_close(struct reference *r)
{
	if (!r)
		return;
	if (r->fd >= 0)
		close(r->fd);
	if (r->part)
		unlink(r->part);
	free(r->part);
	free(r->path);
	free(r->row);
	free(r);
}

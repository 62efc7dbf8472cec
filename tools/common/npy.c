#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/common/cli.h"

struct npy_writer {
	FILE *f;
	char *path, *part;
	size_t rows, cols, written;
};

static int write_header(struct npy_writer *w)
{
	char dict[118];
	static const unsigned char magic[] = { 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, 118, 0 };

	const int n = snprintf(dict, sizeof dict,
			       "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }",
			       w->rows, w->cols);
	/* Magic and dictionary fill 128 bytes; the dictionary ends with a newline. */
	memset(dict + n, ' ', sizeof dict - (size_t)n);
	dict[sizeof dict - 1] = '\n';
	if (fwrite(magic, sizeof magic, 1, w->f) != 1 || fwrite(dict, sizeof dict, 1, w->f) != 1)
		return gp_fail(EIO, "%s: not written; is the disk full?", w->path);
	return 0;
}

static void free_writer(struct npy_writer *w)
{
	if (w->f)
		fclose(w->f);
	free(w->path);
	free(w->part);
	free(w);
}

/* A device, a pipe or a link (/dev/null, /dev/stdout) is written to as it is; only
 * a file can be put in place of another. */
static bool is_file_or_new(const char *path)
{
	struct stat st;

	return lstat(path, &st) != 0 || S_ISREG(st.st_mode);
}

static int open_part(struct npy_writer *w, const char *path)
{
	const bool replaces = is_file_or_new(path);

	w->path = strdup(path);
	w->part = replaces ? malloc(strlen(path) + sizeof ".part") : NULL;
	if (!w->path || (replaces && !w->part))
		return gp_fail(ENOMEM, "%s: no memory to write it", path);
	if (w->part)
		sprintf(w->part, "%s.part", path);
	w->f = fopen(w->part ? w->part : path, "we");
	if (!w->f)
		return gp_fail(errno, "%s: not written: %s", path, strerror(errno));
	return 0;
}

int npy_create(struct npy_writer **out, const char *path, size_t rows, size_t cols)
{
	struct npy_writer *w = calloc(1, sizeof *w);
	int rc;

	if (!w)
		return gp_fail(ENOMEM, "%s: no memory to write it", path);
	w->rows = rows;
	w->cols = cols;
	if ((rc = open_part(w, path)) < 0 || (rc = write_header(w)) < 0) {
		npy_abandon(w);
		return rc;
	}
	*out = w;
	return 0;
}

int npy_write_row(struct npy_writer *w, const float *row)
{
	if (fwrite(row, sizeof *row, w->cols, w->f) != w->cols)
		return gp_fail(EIO, "%s: not written; is the disk full?", w->path);
	w->written++;
	return 0;
}

int npy_finish(struct npy_writer *w)
{
	int rc = 0;

	if (w->written != w->rows)
		rc = gp_fail(EIO, "%s: %zu of %zu rows were computed", w->path, w->written, w->rows);
	else if (fflush(w->f) != 0)
		rc = gp_fail(errno, "%s: not written: %s", w->path, strerror(errno));
	else if (w->part && rename(w->part, w->path) != 0)
		rc = gp_fail(errno, "%s: not written: %s", w->path, strerror(errno));
	if (rc < 0 && w->part)
		unlink(w->part);
	free_writer(w);
	return rc;
}

void npy_abandon(struct npy_writer *w)
{
	if (!w)
		return;
	if (w->f && w->part)
		unlink(w->part);
	free_writer(w);
}

/* ---- reading ---------------------------------------------------------------- */

/* What follows 'key': in the header, or "". */
static const char *field(const char *header, const char *key)
{
	char quoted[32];

	snprintf(quoted, sizeof quoted, "'%s':", key);
	const char *p = strstr(header, quoted);
	if (!p)
		return "";
	p += strlen(quoted);
	return p + strspn(p, " ");
}

/* Bytes of an element, or 0: not integers that ids come in. */
static size_t element_bytes(const char *header)
{
	const char *descr = field(header, "descr");

	if (strncmp(descr, "'<i4'", 5) == 0 || strncmp(descr, "'<u4'", 5) == 0)
		return 4;
	return strncmp(descr, "'<i8'", 5) == 0 || strncmp(descr, "'<u8'", 5) == 0 ? 8 : 0;
}

/* Product of "(4, 512)" times each; false: no shape, or it does not fit. */
static bool shape_bytes(const char *header, size_t each, size_t *bytes)
{
	const char *p = field(header, "shape");

	if (*p++ != '(')
		return false;
	for (*bytes = each; *p != ')'; p += strspn(p, ", ")) {
		char *end;

		if (*p < '0' || *p > '9')
			return false;
		errno = 0;
		const unsigned long long n = strtoull(p, &end, 10);
		if (errno || !gp_size_mul(*bytes, (size_t)n, bytes))
			return false;
		p = end;
	}
	return true;
}

static int convert(const char *path, const uint8_t *data, size_t bytes, size_t each,
		   uint32_t **out, size_t *n)
{
	*n = bytes / each;
	uint32_t *ids = calloc(*n ? *n : 1, sizeof *ids);

	if (!ids)
		return gp_fail(ENOMEM, "%s: no memory for %zu ids", path, *n);
	for (size_t i = 0; i < *n; i++) {
		uint64_t v = 0;

		memcpy(&v, data + i * each, each); /* little-endian, as x86-64 is */
		if (v > UINT32_MAX) {
			free(ids);
			return gp_fail(EINVAL, "%s: id %zu is negative or too large", path, i);
		}
		ids[i] = (uint32_t)v;
	}
	*out = ids;
	return 0;
}

static int parse_npy(const char *path, const char *text, size_t bytes, uint32_t **ids, size_t *n)
{
	const uint8_t *u = (const uint8_t *)text;
	char header[1024];

	if (bytes < 10 || memcmp(text, "\x93NUMPY", 6) != 0 || u[6] != 1)
		return gp_fail(EINVAL, "%s: no .npy file of version 1; save ids with numpy.save",
			       path);
	const size_t length = (size_t)u[8] | (size_t)u[9] << 8;
	if (length >= sizeof header || length > bytes - 10)
		return gp_fail(EINVAL, "%s: header is cut short or too long", path);
	memcpy(header, text + 10, length);
	header[length] = '\0';
	const size_t each = element_bytes(header), have = bytes - 10 - length;
	size_t need;
	if (!each || strncmp(field(header, "fortran_order"), "False", 5) != 0)
		return gp_fail(EINVAL, "%s: holds no 32- or 64-bit integers in C order; save ids with "
			       "numpy.save", path);
	if (!shape_bytes(header, each, &need) || need != have)
		return gp_fail(EINVAL, "%s: has %zu bytes of ids, not what its shape says; is it cut "
			       "short?", path, have);
	return convert(path, u + 10 + length, bytes - 10 - length, each, ids, n);
}

int npy_read_ids(const char *path, uint32_t **ids, size_t *n)
{
	char *text;
	size_t bytes;
	int rc = cli_read_file(path, &text, &bytes);

	if (rc < 0)
		return rc;
	rc = parse_npy(path, text, bytes, ids, n);
	free(text);
	return rc;
}

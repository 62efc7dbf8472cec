/* Writes GGUF version 3. The header is gathered in memory and goes out with the
 * first tensor bytes; those stream through. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "model/gguf.h"
#include "model/model.h"

enum { ALIGNMENT = 32 };

struct bytes {
	uint8_t *data;
	size_t n, room;
};

struct out_tensor {
	char name[64];
	enum gp_type type;
	uint64_t rows, cols;
	size_t bytes, offset;
};

struct gp_gguf_writer {
	char *path, *part;
	FILE *file;
	struct bytes values;
	char **keys;
	size_t n_keys, keys_room;
	struct out_tensor *tensors;
	size_t n_tensors, tensors_room;
	size_t data_bytes;              /* of all tensors with their padding */
	size_t header_bytes;            /* likewise, once it is written */
	bool header_written;
	bool resumable;                 /* what is written stays, and done tells how much of it */
	bool created;                   /* the part is this run's, not an earlier one's */
	uint64_t key;                   /* of what the data is made from: resumable only */
	char *done;                     /* path of a file with the number of whole tensors */
	size_t current, in_current;     /* tensor being written, bytes it has */
};

static int no_memory(const struct gp_gguf_writer *w)
{
	return gp_fail(ENOMEM, "%s: out of memory", w->path);
}

static int append(const struct gp_gguf_writer *w, struct bytes *b, const void *p, size_t n)
{
	size_t need;

	if (n == 0)
		return 0;
	if (!gp_size_add(b->n, n, &need))
		return no_memory(w);
	if (need > b->room) {
		size_t room = need + need / 2 + 4096;
		uint8_t *data = room > need ? realloc(b->data, room) : NULL;

		if (!data)
			return no_memory(w);
		b->data = data;
		b->room = room;
	}
	memcpy(b->data + b->n, p, n);
	b->n = need;
	return 0;
}

static int append_u32(const struct gp_gguf_writer *w, struct bytes *b, uint32_t v)
{
	return append(w, b, &v, sizeof v);
}

static int append_u64(const struct gp_gguf_writer *w, struct bytes *b, uint64_t v)
{
	return append(w, b, &v, sizeof v);
}

static int append_string(const struct gp_gguf_writer *w, struct bytes *b, const char *s, size_t n)
{
	int rc = append_u64(w, b, n);

	return rc < 0 ? rc : append(w, b, s, n);
}

/* A part of an earlier run is opened as it is. */
static FILE *open_part(struct gp_gguf_writer *w)
{
	FILE *f = w->resumable ? fopen(w->part, "r+be") : NULL;

	w->created = !f;
	return f ? f : fopen(w->part, "w+be");
}

/* Two runs must not write one part, nor one the file that the other has just renamed. */
static int lock_part(struct gp_gguf_writer *w)
{
	struct stat mine, there;

	if (flock(fileno(w->file), LOCK_EX | LOCK_NB) == 0 && fstat(fileno(w->file), &mine) == 0 &&
	    stat(w->part, &there) == 0 && mine.st_ino == there.st_ino && mine.st_dev == there.st_dev)
		return 0;
	w->created = false;             /* not ours to remove */
	return gp_fail(EBUSY, "%s: another run writes it; wait, or name another output", w->part);
}

static int open_files(struct gp_gguf_writer *w, const char *path)
{
	struct stat st;

	/* The rename at the end would put a file in place of a device or a FIFO. */
	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return gp_fail(EINVAL, "%s: is there and no regular file; give another name", path);
	w->path = strdup(path);
	if (!w->path || asprintf(&w->part, "%s.part", path) < 0) {
		w->part = NULL;
		return gp_fail(ENOMEM, "%s: out of memory", path);
	}
	if (asprintf(&w->done, "%s.done", w->part) < 0) {
		w->done = NULL;
		return gp_fail(ENOMEM, "%s: out of memory", path);
	}
	w->file = open_part(w);
	if (!w->file)
		return gp_fail(errno, "%s: can't be written: %s", w->part, strerror(errno));
	return w->resumable ? lock_part(w) : 0;
}

static int create(struct gp_gguf_writer **out, const char *path, bool resumable)
{
	struct gp_gguf_writer *w = calloc(1, sizeof *w);
	int rc;

	*out = NULL;
	if (!w)
		return gp_fail(ENOMEM, "%s: out of memory", path ? path : "header");
	w->resumable = resumable;
	rc = path ? open_files(w, path) :
	     (w->path = strdup("header")) ? 0 : gp_fail(ENOMEM, "header: out of memory");
	if (rc < 0) {
		gp_gguf_writer_destroy(w);
		return rc;
	}
	*out = w;
	return 0;
}

int gp_gguf_writer_create(struct gp_gguf_writer **out, const char *path)
{
	return create(out, path, false);
}

int gp_gguf_writer_create_resumable(struct gp_gguf_writer **out, const char *path)
{
	return create(out, path, true);
}

void gp_gguf_writer_destroy(struct gp_gguf_writer *w)
{
	if (!w)
		return;
	if (w->file) {
		fclose(w->file);
		if (w->created && (!w->resumable || !w->header_written))
			unlink(w->part);
	}
	for (size_t i = 0; i < w->n_keys; i++)
		free(w->keys[i]);
	free(w->keys);
	free(w->tensors);
	free(w->values.data);
	free(w->done);
	free(w->part);
	free(w->path);
	free(w);
}

static int remember_key(struct gp_gguf_writer *w, const char *key)
{
	if (w->header_written)
		return gp_fail(EINVAL, "%s: key '%s' comes after the tensors' data", w->path, key);
	for (size_t i = 0; i < w->n_keys; i++)
		if (strcmp(w->keys[i], key) == 0)
			return gp_fail(EINVAL, "%s: key '%s' is added twice", w->path, key);
	if (w->n_keys == w->keys_room) {
		size_t room = w->keys_room * 2 + 32;
		char **keys = realloc(w->keys, room * sizeof *keys);

		if (!keys)
			return no_memory(w);
		w->keys = keys;
		w->keys_room = room;
	}
	w->keys[w->n_keys] = strdup(key);
	if (!w->keys[w->n_keys])
		return no_memory(w);
	w->n_keys++;
	return 0;
}

static int begin_value(struct gp_gguf_writer *w, const char *key, enum gp_gguf_kind kind)
{
	int rc = remember_key(w, key);

	if (rc < 0 || (rc = append_string(w, &w->values, key, strlen(key))) < 0)
		return rc;
	return append_u32(w, &w->values, kind);
}

static int begin_array(struct gp_gguf_writer *w, const char *key, enum gp_gguf_kind item, size_t n)
{
	int rc = begin_value(w, key, GP_GGUF_ARRAY);

	if (rc < 0 || (rc = append_u32(w, &w->values, item)) < 0)
		return rc;
	return append_u64(w, &w->values, n);
}

int gp_gguf_add_u32(struct gp_gguf_writer *w, const char *key, uint32_t v)
{
	int rc = begin_value(w, key, GP_GGUF_U32);

	return rc < 0 ? rc : append_u32(w, &w->values, v);
}

int gp_gguf_add_f32(struct gp_gguf_writer *w, const char *key, float v)
{
	int rc = begin_value(w, key, GP_GGUF_F32);

	return rc < 0 ? rc : append(w, &w->values, &v, sizeof v);
}

int gp_gguf_add_bool(struct gp_gguf_writer *w, const char *key, bool v)
{
	uint8_t byte = v;
	int rc = begin_value(w, key, GP_GGUF_BOOL);

	return rc < 0 ? rc : append(w, &w->values, &byte, 1);
}

int gp_gguf_add_string(struct gp_gguf_writer *w, const char *key, const char *s, size_t bytes)
{
	int rc = begin_value(w, key, GP_GGUF_STRING);

	return rc < 0 ? rc : append_string(w, &w->values, s, bytes);
}

int gp_gguf_add_f32_array(struct gp_gguf_writer *w, const char *key, const float *v, size_t n)
{
	int rc = begin_array(w, key, GP_GGUF_F32, n);

	return rc < 0 ? rc : append(w, &w->values, v, n * sizeof *v);
}

int gp_gguf_add_i32_array(struct gp_gguf_writer *w, const char *key, const int32_t *v, size_t n)
{
	int rc = begin_array(w, key, GP_GGUF_I32, n);

	return rc < 0 ? rc : append(w, &w->values, v, n * sizeof *v);
}

int gp_gguf_add_string_array(struct gp_gguf_writer *w, const char *key, const char *const *s,
			     const size_t *bytes, size_t n)
{
	int rc = begin_array(w, key, GP_GGUF_STRING, n);

	for (size_t i = 0; i < n && rc >= 0; i++)
		rc = append_string(w, &w->values, s[i], bytes[i]);
	return rc;
}

static int check_tensor(const struct gp_gguf_writer *w, const char *name)
{
	if (w->header_written)
		return gp_fail(EINVAL, "%s: tensor '%s' is declared after data", w->path, name);
	if (strlen(name) >= sizeof w->tensors->name)
		return gp_fail(EINVAL, "%s: tensor name '%s' is longer than 63 bytes", w->path, name);
	for (size_t i = 0; i < w->n_tensors; i++)
		if (strcmp(w->tensors[i].name, name) == 0)
			return gp_fail(EINVAL, "%s: tensor '%s' is declared twice", w->path, name);
	return 0;
}

static struct out_tensor *next_tensor(struct gp_gguf_writer *w)
{
	if (w->n_tensors == w->tensors_room) {
		size_t room = w->tensors_room * 2 + 64;
		struct out_tensor *t = realloc(w->tensors, room * sizeof *t);

		if (!t)
			return NULL;
		w->tensors = t;
		w->tensors_room = room;
	}
	return &w->tensors[w->n_tensors];
}

int gp_gguf_add_tensor(struct gp_gguf_writer *w, const char *name, enum gp_type type,
		       uint64_t rows, uint64_t cols)
{
	struct out_tensor *t;
	size_t end;
	int rc = check_tensor(w, name);

	if (rc < 0)
		return rc;
	t = next_tensor(w);
	if (!t)
		return no_memory(w);
	*t = (struct out_tensor){ .type = type, .rows = rows, .cols = cols,
				  .offset = w->data_bytes };
	memcpy(t->name, name, strlen(name) + 1);
	rc = gp_type_bytes(type, rows ? rows : 1, cols, &t->bytes);
	if (rc < 0)
		return gp_fail_in(rc, "%s: tensor '%s'", w->path, name);
	if (!gp_size_add(w->data_bytes, t->bytes, &end) ||
	    !gp_size_round_up(end, ALIGNMENT, &end))
		return gp_fail(EOVERFLOW, "%s: the tensors are too large for a file", w->path);
	w->data_bytes = end;
	w->n_tensors++;
	return 0;
}

static int put(struct gp_gguf_writer *w, const void *p, size_t n)
{
	if (n && fwrite(p, 1, n, w->file) != n)
		return gp_fail(errno, "%s: writing failed: %s", w->part, strerror(errno));
	return 0;
}

/* Zeros up to the alignment, after n bytes. */
static int pad(struct gp_gguf_writer *w, size_t n)
{
	static const uint8_t zero[ALIGNMENT];

	return put(w, zero, (ALIGNMENT - n % ALIGNMENT) % ALIGNMENT);
}

static int tensor_header(const struct gp_gguf_writer *w, struct bytes *b,
			 const struct out_tensor *t)
{
	int rc = append_string(w, b, t->name, strlen(t->name));

	if (rc < 0 || (rc = append_u32(w, b, t->rows ? 2 : 1)) < 0 ||
	    (rc = append_u64(w, b, t->cols)) < 0)
		return rc;
	if (t->rows && (rc = append_u64(w, b, t->rows)) < 0)
		return rc;
	if ((rc = append_u32(w, b, t->type)) < 0)
		return rc;
	return append_u64(w, b, t->offset);
}

static int fill_header(const struct gp_gguf_writer *w, struct bytes *b)
{
	int rc = append(w, b, "GGUF", 4);

	if (rc < 0 || (rc = append_u32(w, b, 3)) < 0 ||
	    (rc = append_u64(w, b, w->n_tensors)) < 0 ||
	    (rc = append_u64(w, b, w->n_keys)) < 0 ||
	    (rc = append(w, b, w->values.data, w->values.n)) < 0)
		return rc;
	for (size_t i = 0; i < w->n_tensors && rc >= 0; i++)
		rc = tensor_header(w, b, &w->tensors[i]);
	return rc;
}

static int write_header(struct gp_gguf_writer *w)
{
	struct bytes b = { 0 };
	int rc = fill_header(w, &b);

	if (rc >= 0)
		rc = put(w, b.data, b.n);
	if (rc >= 0 && w->n_tensors)
		rc = pad(w, b.n);
	free(b.data);
	gp_size_round_up(b.n, ALIGNMENT, &w->header_bytes);
	w->header_written = true;
	return rc;
}

int gp_gguf_write(struct gp_gguf_writer *w, const void *data, size_t bytes)
{
	const uint8_t *p = data;
	int rc = w->header_written ? 0 : write_header(w);

	while (bytes && rc >= 0) {
		const struct out_tensor *t = &w->tensors[w->current];
		size_t n;

		if (w->current == w->n_tensors)
			return gp_fail(EINVAL, "%s: more data than the tensors hold", w->path);
		n = t->bytes - w->in_current;
		n = n < bytes ? n : bytes;
		rc = put(w, p, n);
		p += n;
		bytes -= n;
		w->in_current += n;
		if (rc >= 0 && w->in_current == t->bytes) {
			rc = pad(w, t->bytes);
			w->in_current = 0;
			w->current++;
		}
	}
	return rc;
}

int gp_gguf_written(struct gp_gguf_writer *w, size_t i, struct gp_tensor *t)
{
	const struct out_tensor *o = &w->tensors[i];

	if (i >= w->current)
		return gp_fail(EINVAL, "%s: tensor %zu is not written yet", w->path, i);
	if (fflush(w->file) != 0)
		return gp_fail(errno, "%s: writing failed: %s", w->part, strerror(errno));
	*t = (struct gp_tensor){
		.name = o->name, .type = o->type, .rows = o->rows ? o->rows : 1, .cols = o->cols,
		.bytes = o->bytes, .offset = w->header_bytes + o->offset, .mapped = true,
		.fd = fileno(w->file),
	};
	return 0;
}

/* ---- going on where an earlier run was ended ------------------------------------- */
static int count_done(const struct gp_gguf_writer *w, size_t *n)
{
	FILE *f = fopen(w->done, "re");
	unsigned long long v = 0;
	unsigned long long key = 0;
	const bool read = f && fscanf(f, "%20llu %16llx", &v, &key) == 2 && v <= w->n_tensors &&
	                  key == w->key;

	if (f)
		fclose(f);
	*n = read ? (size_t)v : 0;
	return read ? 0 : -ENOENT;
}

/* Does the part begin with this header and hold all of n tensors? */
static bool part_fits(const struct gp_gguf_writer *w, const struct bytes *header, size_t data_end)
{
	uint8_t *there = malloc(header->n);
	struct stat st;
	bool fits;

	rewind(w->file);
	fits = there && fstat(fileno(w->file), &st) == 0 &&
	       (uint64_t)st.st_size >= data_end &&
	       fread(there, 1, header->n, w->file) == header->n &&
	       memcmp(there, header->data, header->n) == 0;
	free(there);
	return fits;
}

/* Cuts the part off behind what counts, and writes on from there. */
static int go_on_at(struct gp_gguf_writer *w, size_t at)
{
	if (ftruncate(fileno(w->file), (off_t)at) < 0 || fseeko(w->file, (off_t)at, SEEK_SET) < 0)
		return gp_fail(errno, "%s: can't be written: %s", w->part, strerror(errno));
	return 0;
}

int gp_gguf_writer_resume(struct gp_gguf_writer *w, uint64_t key, size_t *done)
{
	struct bytes header = { 0 };
	size_t begin, end = 0;
	int rc = fill_header(w, &header);

	*done = 0;
	w->key = key;
	if (rc < 0 || !gp_size_round_up(header.n, ALIGNMENT, &begin)) {
		free(header.data);
		return rc < 0 ? rc : no_memory(w);
	}
	if (count_done(w, done) == 0 && *done) {
		const struct out_tensor *last = &w->tensors[*done - 1];

		gp_size_round_up(begin + last->offset + last->bytes, ALIGNMENT, &end);
		if (!part_fits(w, &header, end))
			*done = 0;
	}
	free(header.data);
	w->header_written = *done != 0;
	w->header_bytes = begin;
	w->current = *done;
	if (!*done)
		unlink(w->done);
	return go_on_at(w, *done ? end : 0);
}

/* The count may only get ahead of nothing that a power cut could take. */
int gp_gguf_writer_checkpoint(struct gp_gguf_writer *w)
{
	char text[48];
	bool kept;
	int fd, n, why;

	if (fflush(w->file) != 0 || fdatasync(fileno(w->file)) < 0)
		return gp_fail(errno, "%s: writing failed: %s", w->part, strerror(errno));
	/* In place and of one width: killed at any moment, it says the last count or this. */
	n = snprintf(text, sizeof text, "%20zu %016llx\n", w->current, (unsigned long long)w->key);
	fd = open(w->done, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	kept = fd >= 0 && pwrite(fd, text, (size_t)n, 0) == n && fdatasync(fd) == 0;
	why = errno;
	if (fd >= 0)
		close(fd);
	return kept ? 0 : gp_fail(why, "%s: writing failed: %s", w->done, strerror(why));
}

size_t gp_gguf_writer_bytes(const struct gp_gguf_writer *w, size_t *data)
{
	struct bytes header = { 0 };
	size_t n = fill_header(w, &header) < 0 ? 0 : header.n;

	free(header.data);
	*data = w->data_bytes;
	gp_size_round_up(n, ALIGNMENT, &n);
	return n;
}

/* The name must survive a power cut too, once it is there. */
static void sync_folder(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (fd >= 0) {
		fsync(fd);
		close(fd);
	}
	free(folder);
}

static int commit(struct gp_gguf_writer *w)
{
	FILE *f = w->file;
	int rc = 0;

	if (fflush(f) != 0 || fsync(fileno(f)) < 0)
		return gp_fail(errno, "%s: writing failed: %s", w->part, strerror(errno));
	w->file = NULL;
	if (fclose(f) != 0 || rename(w->part, w->path) < 0) {
		rc = gp_fail(errno, "%s: writing failed: %s", w->path, strerror(errno));
		if (!w->resumable)
			unlink(w->part);
		return rc;
	}
	if (w->resumable)
		unlink(w->done);
	sync_folder(w->path);
	return 0;
}

int gp_gguf_writer_finish(struct gp_gguf_writer *w)
{
	int rc = w->header_written ? 0 : write_header(w);

	if (rc < 0)
		return rc;
	if (!w->file)
		return gp_fail(EINVAL, "%s: is finished already", w->path);
	if (w->current < w->n_tensors)
		return gp_fail(EINVAL, "%s: tensor '%s' lacks %zu of its bytes", w->path,
			       w->tensors[w->current].name,
			       w->tensors[w->current].bytes - w->in_current);
	return commit(w);
}

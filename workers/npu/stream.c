/* AMD's transaction format, version 0.1: operations and their bounds. */
#include "workers/npu/stream.h"

#include <string.h>

#include "base/base.h"

/* Words of an operation, the first and those of a block included. Sizes in the format are
 * in bytes and stand in a word of their own, at another place for each operation. */
enum {
	WRITE_WORDS = 6, MASK_WORDS = 7, BLOCK_WORDS = 4, SYNC_WORDS = 4, PATCH_WORDS = 12,
	ROWS_AND_COLUMNS = 0x0105,      /* second word: 1 row of memory tiles, 5 columns */
};

void gp_stream_begin(struct gp_stream *s, uint32_t *words, size_t room)
{
	*s = (struct gp_stream){ .words = words, .room = room, .n_words = GP_STREAM_HEADER_WORDS };
	if (room < GP_STREAM_HEADER_WORDS)
		s->error = gp_fail(ENOSPC, "instruction stream: no room for its header");
}

static size_t words_of(const struct gp_stream_op *op)
{
	switch (op->code) {
	case GP_STREAM_WRITE:
		return WRITE_WORDS;
	case GP_STREAM_BLOCK_WRITE:
		return BLOCK_WORDS + (size_t)op->n_words;
	case GP_STREAM_MASK_WRITE:
	case GP_STREAM_MASK_POLL:
		return MASK_WORDS;
	case GP_STREAM_SYNC:
		return SYNC_WORDS;
	case GP_STREAM_PATCH:
		return PATCH_WORDS;
	}
	return 0;
}

static void put_sync(uint32_t *w, const struct gp_stream_op *op)
{
	w[2] = (uint32_t)op->to_array | (uint32_t)op->row << 8 | (uint32_t)op->column << 16;
	w[3] = (uint32_t)op->rows << 8 | (uint32_t)op->columns << 16 | (uint32_t)op->channel << 24;
}

static void put_words(uint32_t *w, const struct gp_stream_op *op, uint32_t bytes)
{
	w[0] = op->code;
	switch (op->code) {
	case GP_STREAM_WRITE:
		w[2] = op->address;
		w[4] = op->value;
		w[5] = bytes;
		break;
	case GP_STREAM_BLOCK_WRITE:
		w[2] = op->address;
		w[3] = bytes;
		memcpy(w + BLOCK_WORDS, op->words, op->n_words * sizeof *w);
		break;
	case GP_STREAM_MASK_WRITE:
	case GP_STREAM_MASK_POLL:
		w[2] = op->address;
		w[4] = op->value;
		w[5] = op->mask;
		w[6] = bytes;
		break;
	case GP_STREAM_SYNC:
		w[1] = bytes;
		put_sync(w, op);
		break;
	case GP_STREAM_PATCH:
		w[1] = bytes;
		w[6] = op->address;
		w[8] = op->arg;
		w[10] = (uint32_t)op->arg_offset;
		w[11] = (uint32_t)(op->arg_offset >> 32);
		break;
	}
}

void gp_stream_put(struct gp_stream *s, const struct gp_stream_op *op)
{
	const size_t n = words_of(op);

	if (s->error)
		return;
	if (n == 0 || (op->code == GP_STREAM_BLOCK_WRITE && op->n_words == 0)) {
		s->error = gp_fail(EINVAL, "instruction stream: operation %d cannot be written", op->code);
		return;
	}
	if (n > s->room - s->n_words || n > UINT32_MAX / 4 - s->n_words) {
		s->error = gp_fail(ENOSPC, "instruction stream: over %zu words; split the product", s->room);
		return;
	}
	memset(s->words + s->n_words, 0, n * sizeof *s->words);
	put_words(s->words + s->n_words, op, (uint32_t)(n * 4));
	s->n_words += n;
	s->n_ops++;
}

int gp_stream_end(struct gp_stream *s, size_t *n_words)
{
	if (s->error)
		return s->error;
	s->words[0] = GP_STREAM_HEADER;
	s->words[1] = ROWS_AND_COLUMNS;
	s->words[2] = s->n_ops;
	s->words[3] = (uint32_t)(s->n_words * 4);
	*n_words = s->n_words;
	return 0;
}

/* ---- reading -------------------------------------------------------------- */
int gp_stream_open(struct gp_stream_reader *r, const uint32_t *words, size_t n_words)
{
	if (n_words < GP_STREAM_HEADER_WORDS)
		return gp_fail(EINVAL, "instruction stream: %zu words are no header", n_words);
	if (words[0] != GP_STREAM_HEADER || words[1] != ROWS_AND_COLUMNS)
		return gp_fail(EINVAL, "instruction stream: header %08x %08x is not that of Phoenix, version 0.1",
		               words[0], words[1]);
	if (words[3] % 4 != 0 || words[3] / 4 != n_words)
		return gp_fail(EINVAL, "instruction stream: its header says %u bytes, it has %zu",
		               words[3], n_words * 4);
	*r = (struct gp_stream_reader){ .words = words, .n_words = n_words, .left = words[2],
	                                .at = GP_STREAM_HEADER_WORDS };
	return 0;
}

/* Where an operation's size stands, and its least words; false: no such operation. */
static bool shape_of(uint32_t code, size_t *size_at, size_t *least)
{
	switch (code) {
	case GP_STREAM_WRITE:
		return *size_at = 5, *least = WRITE_WORDS, true;
	case GP_STREAM_BLOCK_WRITE:
		return *size_at = 3, *least = BLOCK_WORDS + 1, true;
	case GP_STREAM_MASK_WRITE:
	case GP_STREAM_MASK_POLL:
		return *size_at = 6, *least = MASK_WORDS, true;
	case GP_STREAM_SYNC:
		return *size_at = 1, *least = SYNC_WORDS, true;
	case GP_STREAM_PATCH:
		return *size_at = 1, *least = PATCH_WORDS, true;
	}
	return false;
}

static void read_sync(struct gp_stream_op *op, const uint32_t *w)
{
	op->to_array = w[2] & 1;
	op->row = (uint8_t)(w[2] >> 8);
	op->column = (uint8_t)(w[2] >> 16);
	op->rows = (uint8_t)(w[3] >> 8);
	op->columns = (uint8_t)(w[3] >> 16);
	op->channel = (uint8_t)(w[3] >> 24);
}

static void read_words(struct gp_stream_op *op, const uint32_t *w, size_t n)
{
	*op = (struct gp_stream_op){ .code = (enum gp_stream_code)(w[0] & 0xff) };
	switch (op->code) {
	case GP_STREAM_WRITE:
		op->address = w[2];
		op->value = w[4];
		break;
	case GP_STREAM_BLOCK_WRITE:
		op->address = w[2];
		op->words = w + BLOCK_WORDS;
		op->n_words = (uint32_t)(n - BLOCK_WORDS);
		break;
	case GP_STREAM_MASK_WRITE:
	case GP_STREAM_MASK_POLL:
		op->address = w[2];
		op->value = w[4];
		op->mask = w[5];
		break;
	case GP_STREAM_SYNC:
		read_sync(op, w);
		break;
	case GP_STREAM_PATCH:
		op->address = w[6];
		op->arg = w[8];
		op->arg_offset = (uint64_t)w[11] << 32 | w[10];
		break;
	}
}

int gp_stream_next(struct gp_stream_reader *r, struct gp_stream_op *op)
{
	const size_t rest = r->n_words - r->at;
	const uint32_t *w = r->words + r->at;
	size_t size_at, least;

	if (r->left == 0)
		return rest == 0 ? 0 : gp_fail(EINVAL, "instruction stream: %zu words after its last operation", rest);
	if (rest == 0)
		return gp_fail(EINVAL, "instruction stream: ends %u operations early", r->left);
	if (!shape_of(w[0], &size_at, &least))
		return gp_fail(EINVAL, "instruction stream: word %zu: no operation %08x", r->at, w[0]);
	if (rest < least)
		return gp_fail(EINVAL, "instruction stream: word %zu: operation %u is cut off", r->at, w[0]);

	const size_t n = w[size_at] / 4;
	/* Only a block's size is free. */
	if (w[size_at] % 4 != 0 || n < least || n > rest || (w[0] != GP_STREAM_BLOCK_WRITE && n != least))
		return gp_fail(EINVAL, "instruction stream: word %zu: operation %u of %u bytes", r->at,
		               w[0], w[size_at]);
	read_words(op, w, n);
	r->at += n;
	r->left--;
	return 1;
}

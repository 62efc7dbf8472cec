/* Which two pieces become which, in what order: from the file's merges, or,
 * where it has none, from the scores. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"
#include "model/utf8.h"

/* ---- merges made from the scores --------------------------------------------- */
struct candidate {
	uint32_t id, left, right;
	uint16_t n, n_left;             /* code points of the whole and of the left part */
	bool is_run;
	float score;
};

struct candidates {
	struct candidate *item;
	size_t n, room;
};

/* Code points of text; *is_run: all of them one of those that come in runs. */
static size_t count_points(const char *text, size_t bytes, bool *is_run)
{
	size_t n = 0, length;
	uint32_t first = bytes ? gp_utf8_next(text, &length) : 0;

	*is_run = first == '\n' || first == '\t' || first == 0x2581;
	for (size_t at = 0; at < bytes; at += length, n++)
		*is_run &= gp_utf8_next(text + at, &length) == first;
	return n;
}

/* Control, unused and byte tokens and the added words (HTML tags) are matched
 * or emitted as a whole, never merged; white-space runs are both. */
static bool may_merge(const struct gp_tokenizer *t, uint32_t id)
{
	const int32_t kind = t->vocab.kind[id];
	bool is_run;

	if (kind == GP_TOKEN_NORMAL)
		return true;
	if (kind != GP_TOKEN_USER_DEFINED)
		return false;
	count_points(t->vocab.text[id], t->vocab.text_bytes[id], &is_run);
	return is_run;
}

static int add_candidate(struct candidates *c, const struct candidate *new)
{
	if (c->n == c->room) {
		size_t room = c->room ? c->room * 2 : 1024;
		struct candidate *grown = reallocarray(c->item, room, sizeof(*grown));

		if (!grown)
			return gp_fail(ENOMEM, "no memory for the tokenizer's merges");
		c->item = grown;
		c->room = room;
	}
	c->item[c->n++] = *new;
	return 0;
}

/* Every way to cut piece id into two pieces. */
static int add_splits(const struct gp_tokenizer *t, uint32_t id, struct candidates *c)
{
	const char *text = t->vocab.text[id];
	const size_t bytes = t->vocab.text_bytes[id];
	struct candidate new = { .id = id, .score = t->vocab.score[id] };
	size_t length;
	int rc;

	new.n = (uint16_t)count_points(text, bytes, &new.is_run);
	for (size_t at = 0; at < bytes; at += length, new.n_left++) {
		gp_utf8_next(text + at, &length);
		if (at == 0)
			continue;
		new.left = gp_vocab_find(t, text, at);
		new.right = gp_vocab_find(t, text + at, bytes - at);
		if (new.left == GP_NONE || new.right == GP_NONE ||
		    !may_merge(t, new.left) || !may_merge(t, new.right))
			continue;
		if ((rc = add_candidate(c, &new)) < 0)
			return rc;
	}
	return 0;
}

/* The order that Gemma's own merges have: runs by their left part, the longest
 * first; then by score, lower id, longer left part. */
static int compare_candidates(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->is_run != y->is_run)
		return x->is_run ? -1 : 1;
	if (x->is_run && x->n_left != y->n_left)
		return x->n_left > y->n_left ? -1 : 1;
	if (x->is_run && x->n != y->n)
		return x->n > y->n ? -1 : 1;
	if (!x->is_run && x->score != y->score)
		return x->score > y->score ? -1 : 1;
	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return x->n_left > y->n_left ? -1 : x->n_left < y->n_left;
}

static int find_candidates(const struct gp_tokenizer *t, struct candidates *c)
{
	const struct gp_vocab *v = &t->vocab;
	int rc;

	for (uint32_t id = 0; id < v->n; id++) {
		if (!v->text_bytes[id] || !may_merge(t, id) ||
		    gp_vocab_find(t, v->text[id], v->text_bytes[id]) != id)
			continue;
		if (!isfinite(v->score[id]))
			return gp_fail(EINVAL, "token %u's score is not a number", id);
		if ((rc = add_splits(t, id, c)) < 0)
			return rc;
	}
	if (c->n)
		qsort(c->item, c->n, sizeof(*c->item), compare_candidates);
	return 0;
}

/* ---- tables -------------------------------------------------------------------- */
/* The id that the code point at the beginning or the end of piece id has. */
static uint32_t edge_symbol(const struct gp_tokenizer *t, uint32_t id, bool at_end)
{
	const char *text = t->vocab.text[id];
	size_t at = at_end ? t->vocab.text_bytes[id] - 1 : 0, length;

	while (at > 0 && ((uint8_t)text[at] & 0xC0) == 0x80)
		at--;
	gp_utf8_next(text + at, &length);
	return gp_vocab_find(t, text + at, length);
}

static int add_merge(struct gp_tokenizer *t, uint32_t rank, uint32_t left, uint32_t right,
                     uint32_t merged)
{
	const uint32_t last = edge_symbol(t, left, true);
	const uint32_t first = edge_symbol(t, right, false);
	int rc;

	t->merged[rank] = merged;
	/* Plain text must never grow into a control token. */
	if (gp_vocab_is_special(t, merged))
		return 0;
	/* A piece with a code point that is no piece itself can not arise. */
	if (last == GP_NONE || first == GP_NONE)
		return 0;
	rc = gp_map_put(&t->rank, gp_pair(left, right), rank);
	return rc < 0 ? rc : gp_map_put(&t->joint, gp_pair(last, first), 1);
}

static int merge_result(const struct gp_tokenizer *t, size_t rank, uint32_t *merged)
{
	const struct gp_vocab *v = &t->vocab;
	const uint32_t left = v->merge[rank][0], right = v->merge[rank][1];
	const size_t n_left = v->text_bytes[left], n_right = v->text_bytes[right];
	char both[2 * GP_MAX_PIECE_BYTES];

	if (v->kind[left] == GP_TOKEN_BYTE || v->kind[right] == GP_TOKEN_BYTE)
		return gp_fail(EINVAL, "merge %zu joins byte tokens, which Gemma's never do", rank);
	memcpy(both, v->text[left], n_left);
	memcpy(both + n_left, v->text[right], n_right);
	*merged = gp_vocab_find(t, both, n_left + n_right);
	if (*merged == GP_NONE)
		return gp_fail(EINVAL, "merge %zu makes a token that is not in the vocabulary", rank);
	return 0;
}

static int alloc_merged(struct gp_tokenizer *t, size_t n)
{
	if (n >= GP_NONE)
		return gp_fail(EINVAL, "%zu merges; fewer than %u are supported", n, GP_NONE);
	t->merged = calloc(n ? n : 1, sizeof(*t->merged));
	return t->merged ? 0 : gp_fail(ENOMEM, "no memory for %zu merges", n);
}

static int build_from_file(struct gp_tokenizer *t)
{
	const struct gp_vocab *v = &t->vocab;
	uint32_t merged;
	int rc = alloc_merged(t, v->n_merges);

	for (size_t rank = 0; rc == 0 && rank < v->n_merges; rank++) {
		rc = merge_result(t, rank, &merged);
		if (rc == 0)
			rc = add_merge(t, (uint32_t)rank, v->merge[rank][0], v->merge[rank][1],
			               merged);
	}
	return rc;
}

static int build_from_scores(struct gp_tokenizer *t)
{
	struct candidates c = { 0 };
	int rc = find_candidates(t, &c);

	if (rc == 0)
		rc = alloc_merged(t, c.n);
	for (size_t rank = 0; rc == 0 && rank < c.n; rank++)
		rc = add_merge(t, (uint32_t)rank, c.item[rank].left, c.item[rank].right,
		               c.item[rank].id);
	free(c.item);
	return rc;
}

int gp_vocab_build_merges(struct gp_tokenizer *t)
{
	return t->vocab.n_merges ? build_from_file(t) : build_from_scores(t);
}

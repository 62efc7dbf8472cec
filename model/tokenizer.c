/* Text to ids: added tokens are cut out of the raw text first; what lies
 * between them is split into code points, and neighbours are merged, lowest
 * rank first, until nothing merges (byte-pair encoding, no word boundaries).
 * Source of the format: Hugging Face's tokenizers library, BPE with byte
 * fallback, as Gemma 3's tokenizer.json configures it. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "model/mapped_file.h"
#include "model/tokenizer_internal.h"
#include "model/utf8.h"

/* A node of the list of what a piece consists of at present. */
struct gp_symbol {
	uint32_t id;
	uint32_t previous, next;        /* GP_NONE at the ends */
	uint32_t rank;                  /* of merging with next; GP_NONE: not possible, or gone */
};

/* ---- growing arrays ------------------------------------------------------------ */
static int make_room(void **items, size_t *room, size_t want, size_t item_bytes)
{
	size_t bigger = *room ? *room : 64;
	void *grown;

	if (want <= *room)
		return 0;
	while (bigger < want)
		bigger *= 2;
	grown = reallocarray(*items, bigger, item_bytes);
	if (!grown)
		return gp_fail(ENOMEM, "no memory to tokenize");
	*items = grown;
	*room = bigger;
	return 0;
}

static int too_many(const struct gp_encoder *e)
{
	return gp_fail(E2BIG, "the text has more than %zu tokens; shorten it", e->most);
}

int gp_encoder_id(struct gp_encoder *e, uint32_t id)
{
	if (e->most && e->n == e->most)
		return too_many(e);
	if (e->n == e->room) {
		void *ids = e->ids;
		int rc = make_room(&ids, &e->room, e->n + 1, sizeof(*e->ids));

		e->ids = ids;
		if (rc < 0)
			return rc;
	}
	e->ids[e->n++] = id;
	return 0;
}

void gp_encoder_free(struct gp_encoder *e)
{
	free(e->ids);
	free(e->symbols);
	free(e->heap);
	*e = (struct gp_encoder){ .t = e->t, .most = e->most };
}

/* ---- heap ------------------------------------------------------------------------ */
static void heap_push(struct gp_encoder *e, uint64_t key)
{
	size_t at = e->n_heap++;

	for (; at > 0 && e->heap[(at - 1) / 2] > key; at = (at - 1) / 2)
		e->heap[at] = e->heap[(at - 1) / 2];
	e->heap[at] = key;
}

static uint64_t heap_pop(struct gp_encoder *e)
{
	const uint64_t top = e->heap[0], key = e->heap[--e->n_heap];
	size_t at = 0, child;

	while ((child = 2 * at + 1) < e->n_heap) {
		if (child + 1 < e->n_heap && e->heap[child + 1] < e->heap[child])
			child++;
		if (e->heap[child] >= key)
			break;
		e->heap[at] = e->heap[child];
		at = child;
	}
	e->heap[at] = key;
	return top;
}

/* ---- merging --------------------------------------------------------------------- */
static void rate(struct gp_encoder *e, uint32_t at)
{
	struct gp_symbol *s = &e->symbols[at];

	if (s->next == GP_NONE) {
		s->rank = GP_NONE;
		return;
	}
	s->rank = gp_map_get(&e->t->rank, gp_pair(s->id, e->symbols[s->next].id));
	if (s->rank != GP_NONE)
		heap_push(e, gp_pair(s->rank, at));
}

static void merge_with_next(struct gp_encoder *e, uint32_t at)
{
	struct gp_symbol *s = &e->symbols[at], *gone = &e->symbols[s->next];

	s->id = e->t->merged[s->rank];
	s->next = gone->next;
	gone->rank = GP_NONE;
	if (s->next != GP_NONE)
		e->symbols[s->next].previous = at;
	rate(e, at);
	if (s->previous != GP_NONE)
		rate(e, s->previous);
}

/* Merges the symbols collected, appends their ids, and empties the list. */
static int finish_symbols(struct gp_encoder *e)
{
	const size_t n = e->n_symbols;
	void *heap = e->heap;
	/* Each symbol is rated once, and again at most twice for each merge. */
	int rc = make_room(&heap, &e->heap_room, 3 * n, sizeof(*e->heap));

	e->heap = heap;
	e->n_heap = 0;
	e->n_symbols = 0;
	if (rc < 0 || n == 0)
		return rc;
	for (uint32_t at = 0; at < n; at++)
		rate(e, at);
	while (e->n_heap) {
		uint64_t top = heap_pop(e);
		uint32_t at = (uint32_t)top;

		/* A rank names a pair: another one means that the entry is stale. */
		if (e->symbols[at].rank == top >> 32)
			merge_with_next(e, at);
	}
	for (uint32_t at = 0; at != GP_NONE; at = e->symbols[at].next)
		if ((rc = gp_encoder_id(e, e->symbols[at].id)) < 0)
			return rc;
	return 0;
}

/* Symbols that no merge can reach across are finished on their own: short
 * lists, with the same result. */
static int add_symbol(struct gp_encoder *e, uint32_t id)
{
	void *symbols = e->symbols;
	uint32_t n;
	int rc;

	if (e->n_symbols &&
	    gp_map_get(&e->t->joint, gp_pair(e->symbols[e->n_symbols - 1].id, id)) == GP_NONE)
		if ((rc = finish_symbols(e)) < 0)
			return rc;
	rc = make_room(&symbols, &e->symbols_room, e->n_symbols + 1, sizeof(*e->symbols));
	e->symbols = symbols;
	if (rc < 0)
		return rc;
	n = (uint32_t)e->n_symbols++;
	e->symbols[n] = (struct gp_symbol){ id, n ? n - 1 : GP_NONE, GP_NONE, GP_NONE };
	if (n)
		e->symbols[n - 1].next = n;
	return 0;
}

/* ---- pieces ------------------------------------------------------------------------ */
static int add_bytes(struct gp_encoder *e, const char *s, size_t n)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = add_symbol(e, e->t->byte_id[(uint8_t)s[i]]);
	return rc;
}

static uint32_t first_symbol(const struct gp_tokenizer *t, const char *s, size_t *length)
{
	uint32_t id;

	*length = 1;
	if ((uint8_t)*s < 128)
		return t->ascii[(uint8_t)*s];
	gp_utf8_next(s, length);
	id = gp_vocab_find(t, s, *length);
	return id != GP_NONE && gp_vocab_is_special(t, id) ? GP_NONE : id;
}

/* A stretch of text without added tokens. */
static int encode_piece(struct gp_encoder *e, const char *text, size_t bytes)
{
	size_t length;
	int rc = 0;

	for (size_t at = 0; rc == 0 && at < bytes; at += length) {
		uint32_t id = first_symbol(e->t, text + at, &length);

		if (id != GP_NONE)
			rc = add_symbol(e, id);
		else if (text[at] == ' ')
			rc = add_bytes(e, GP_SPACE_MARK, 3);
		else
			rc = add_bytes(e, text + at, length);
	}
	return rc < 0 ? rc : finish_symbols(e);
}

/* The longest added token that text begins with; GP_NONE: none. */
static uint32_t match_added(const struct gp_tokenizer *t, const char *text, size_t bytes,
                            bool special, size_t *length)
{
	uint32_t found = GP_NONE, node = t->trie_root[(uint8_t)text[0]];

	for (size_t at = 1; node != GP_NONE; at++) {
		uint32_t id = t->trie_id[node];

		if (id != GP_NONE && (special || !gp_vocab_is_special(t, id))) {
			found = id;
			*length = at;
		}
		if (at == bytes)
			break;
		node = gp_map_get(&t->trie_edge, (uint64_t)node << 8 | (uint8_t)text[at]);
	}
	return found;
}

static int check_text(const char *text, size_t bytes)
{
	size_t valid;

	if (bytes > GP_MAX_TOKENIZER_TEXT)
		return gp_fail(EFBIG, "the text has %zu bytes; at most 1 GiB can be tokenized "
		               "at once, split it", bytes);
	valid = gp_utf8_valid(text, bytes);
	if (valid != bytes)
		return gp_fail(EILSEQ, "the text is not valid UTF-8 at byte %zu; convert it to "
		               "UTF-8 first", valid);
	return 0;
}

int gp_encoder_text(struct gp_encoder *e, const char *text, size_t bytes, unsigned flags)
{
	const bool special = flags & GP_ENCODE_SPECIAL;
	size_t begin = 0, length = 0;
	int rc = check_text(text, bytes);

	/* Known without looking at it. */
	if (rc == 0 && e->most && bytes / e->t->longest > e->most - e->n)
		return too_many(e);
	for (size_t at = 0; rc == 0 && at < bytes;) {
		uint32_t id = match_added(e->t, text + at, bytes - at, special, &length);

		if (id == GP_NONE) {
			at++;
			continue;
		}
		rc = encode_piece(e, text + begin, at - begin);
		if (rc == 0)
			rc = gp_encoder_id(e, id);
		at += length;
		begin = at;
	}
	return rc < 0 ? rc : encode_piece(e, text + begin, bytes - begin);
}

int gp_tokenizer_encode(const struct gp_tokenizer *t, const char *text, size_t bytes,
                        unsigned flags, uint32_t **ids, size_t *n)
{
	return gp_tokenizer_encode_most(t, text, bytes, flags, 0, ids, n);
}

int gp_tokenizer_encode_most(const struct gp_tokenizer *t, const char *text, size_t bytes,
                             unsigned flags, size_t most, uint32_t **ids, size_t *n)
{
	struct gp_encoder e = { .t = t, .most = most };
	int rc = 0;

	if (flags & GP_ENCODE_BOS) {
		if (t->vocab.bos < 0)
			return gp_fail(EINVAL, "the vocabulary has no <bos>; encode without it");
		rc = gp_encoder_id(&e, (uint32_t)t->vocab.bos);
	}
	if (rc == 0)
		rc = gp_encoder_text(&e, text, bytes, flags);
	if (rc == 0 && !e.ids) /* an empty result is still something to free */
		rc = (e.ids = malloc(sizeof(*e.ids))) ? 0 : gp_fail(ENOMEM, "no memory to tokenize");
	if (rc == 0) {
		*ids = e.ids;
		*n = e.n;
		e.ids = NULL;
	}
	gp_encoder_free(&e);
	return rc;
}

bool gp_tokenizer_is_stop(const struct gp_tokenizer *t, uint32_t id)
{
	return id < t->vocab.n && (id == (uint32_t)t->vocab.eos || id == t->eos_by_text ||
	                           id == (uint32_t)t->vocab.end_of_turn);
}

/* ---- opening ------------------------------------------------------------------------- */
static int is_gguf(const char *path)
{
	struct gp_mapped_file f;
	int rc = gp_mapped_file_open(&f, path);

	if (rc < 0)
		return rc;
	rc = f.bytes >= 4 && memcmp(f.data, "GGUF", 4) == 0;
	gp_mapped_file_close(&f);
	return rc;
}

static int read_folder(struct gp_tokenizer *t, const char *path)
{
	char file[4096];
	struct stat st;

	if (snprintf(file, sizeof(file), "%s/tokenizer.json", path) >= (int)sizeof(file))
		return gp_fail(ENAMETOOLONG, "%.80s...: the path is too long", path);
	if (stat(file, &st) < 0)
		return gp_fail(ENOENT, "%s: no tokenizer.json in this folder; download it with "
		               "the model", path);
	return gp_tokenizer_read_json(t, file);
}

static int read_any(struct gp_tokenizer *t, const char *path)
{
	struct stat st;
	int rc;

	if (stat(path, &st) < 0)
		return gp_fail(errno, "%s: %s", path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return read_folder(t, path);
	rc = is_gguf(path);
	if (rc < 0)
		return rc;
	return rc ? gp_tokenizer_read_gguf(t, path) : gp_tokenizer_read_json(t, path);
}

int gp_tokenizer_open(struct gp_tokenizer **out, const char *path)
{
	struct gp_tokenizer *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return gp_fail(ENOMEM, "no memory for a tokenizer");
	t->vocab.bos = t->vocab.eos = t->vocab.end_of_turn = -1;
	rc = read_any(t, path);
	if (rc < 0) {
		gp_tokenizer_close(t);
		return rc;
	}
	*out = t;
	return 0;
}

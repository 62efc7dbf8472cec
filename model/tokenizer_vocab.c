/* The vocabulary: its texts, look-up by text, the trie of tokens that are
 * matched in raw text. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"
#include "model/utf8.h"

/* ---- map ------------------------------------------------------------------- */
static int map_grow(struct gp_map *m)
{
	struct gp_map bigger = { .n = m->n, .bits = m->slot ? m->bits + 1 : 8 };
	size_t mask = ((size_t)1 << bigger.bits) - 1;

	bigger.slot = malloc((mask + 1) * sizeof(*bigger.slot));
	if (!bigger.slot)
		return gp_fail(ENOMEM, "no memory for the tokenizer's tables");
	for (size_t i = 0; i <= mask; i++)
		bigger.slot[i] = (struct gp_map_slot){ .value = GP_NONE };
	for (size_t i = 0; m->slot && i < (size_t)1 << m->bits; i++) {
		size_t at = gp_map_hash(m->slot[i].key, bigger.bits);

		if (m->slot[i].value == GP_NONE)
			continue;
		while (bigger.slot[at].value != GP_NONE)
			at = (at + 1) & mask;
		bigger.slot[at] = m->slot[i];
	}
	free(m->slot);
	*m = bigger;
	return 0;
}

int gp_map_put(struct gp_map *m, uint64_t key, uint32_t value)
{
	size_t at, mask;
	int rc;

	if (!m->slot || m->n * 2 >= (size_t)1 << m->bits)
		if ((rc = map_grow(m)) < 0)
			return rc;
	mask = ((size_t)1 << m->bits) - 1;
	for (at = gp_map_hash(key, m->bits); m->slot[at].value != GP_NONE; at = (at + 1) & mask)
		if (m->slot[at].key == key)
			return 0;
	m->slot[at] = (struct gp_map_slot){ key, value };
	m->n++;
	return 0;
}

void gp_map_free(struct gp_map *m)
{
	free(m->slot);
	*m = (struct gp_map){ 0 };
}

/* ---- texts ----------------------------------------------------------------- */
struct gp_text_block {
	struct gp_text_block *next;
	size_t used;
	char bytes[(1u << 20) - 2 * sizeof(size_t)];
};

/* A copy of text with a NUL behind it; it stays where it is. */
static const char *keep_text(struct gp_tokenizer *t, const char *text, size_t bytes)
{
	struct gp_text_block *b = t->texts;
	char *copy;

	if (!b || sizeof(b->bytes) - b->used < bytes + 1) {
		b = malloc(sizeof(*b));
		if (!b)
			return NULL;
		b->next = t->texts;
		b->used = 0;
		t->texts = b;
	}
	copy = b->bytes + b->used;
	memcpy(copy, text, bytes);
	copy[bytes] = '\0';
	b->used += bytes + 1;
	return copy;
}

/* ---- pieces ---------------------------------------------------------------- */
int gp_vocab_init(struct gp_tokenizer *t, size_t n)
{
	struct gp_vocab *v = &t->vocab;

	if (n == 0 || n > GP_MAX_PIECES)
		return gp_fail(EINVAL, "a vocabulary of %zu tokens; between 1 and %u are supported",
		               n, GP_MAX_PIECES);
	v->text = calloc(n, sizeof(*v->text));
	v->text_bytes = calloc(n, sizeof(*v->text_bytes));
	v->score = calloc(n, sizeof(*v->score));
	v->kind = calloc(n, sizeof(*v->kind));
	if (!v->text || !v->text_bytes || !v->score || !v->kind)
		return gp_fail(ENOMEM, "no memory for a vocabulary of %zu tokens", n);
	for (size_t i = 0; i < n; i++) {
		v->text[i] = "";
		v->kind[i] = GP_TOKEN_UNUSED;
	}
	v->n = n;
	return 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte of "<0xE2>", or -1. */
static int byte_of(const char *text, size_t bytes)
{
	int high, low;

	if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
		return -1;
	high = hex_digit(text[3]);
	low = hex_digit(text[4]);
	return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static bool is_mark(const char *text, size_t bytes)
{
	static const char *const marks[] = { "<bos>", "<eos>", "<start_of_turn>",
	                                     "<end_of_turn>", "<start_of_image>",
	                                     "<end_of_image>" };

	for (size_t i = 0; i < GP_ARRAY_LEN(marks); i++)
		if (bytes == strlen(marks[i]) && !memcmp(text, marks[i], bytes))
			return true;
	return false;
}

int gp_vocab_set(struct gp_tokenizer *t, uint32_t id, const char *text, size_t bytes,
                 int32_t kind, float score)
{
	struct gp_vocab *v = &t->vocab;
	const bool is_byte = byte_of(text, bytes) >= 0;

	if (bytes > GP_MAX_PIECE_BYTES)
		return gp_fail(EINVAL, "token %u has %zu bytes; at most %u are supported", id,
		               bytes, GP_MAX_PIECE_BYTES);
	if (gp_utf8_valid(text, bytes) != bytes)
		return gp_fail(EINVAL, "token %u is not valid UTF-8", id);
	if (kind < GP_TOKEN_NORMAL || kind > GP_TOKEN_BYTE ||
	    (kind == GP_TOKEN_BYTE && !is_byte))
		return gp_fail(EINVAL, "token %u has type %d, which does not fit it", id, kind);
	v->text[id] = keep_text(t, text, bytes);
	if (!v->text[id])
		return gp_fail(ENOMEM, "no memory for the vocabulary's texts");
	v->text_bytes[id] = bytes;
	v->score[id] = score;
	v->kind[id] = is_byte ? GP_TOKEN_BYTE : is_mark(text, bytes) ? GP_TOKEN_CONTROL : kind;
	return 0;
}

static size_t text_hash(const char *text, size_t bytes, unsigned bits)
{
	return gp_map_hash(gp_hash(GP_HASH_BEGIN, text, bytes), bits);
}

uint32_t gp_vocab_find(const struct gp_tokenizer *t, const char *text, size_t bytes)
{
	const size_t mask = ((size_t)1 << t->by_text_bits) - 1;
	const struct gp_vocab *v = &t->vocab;

	for (size_t at = text_hash(text, bytes, t->by_text_bits);; at = (at + 1) & mask) {
		uint32_t id = t->by_text[at];

		if (id == GP_NONE)
			return GP_NONE;
		if (v->text_bytes[id] == bytes && !memcmp(v->text[id], text, bytes))
			return id;
	}
}

static int index_texts(struct gp_tokenizer *t)
{
	const struct gp_vocab *v = &t->vocab;
	size_t mask;

	t->by_text_bits = 8;
	while ((size_t)1 << t->by_text_bits < v->n * 2)
		t->by_text_bits++;
	mask = ((size_t)1 << t->by_text_bits) - 1;
	t->by_text = malloc((mask + 1) * sizeof(*t->by_text));
	if (!t->by_text)
		return gp_fail(ENOMEM, "no memory for the tokenizer's tables");
	memset(t->by_text, 0xFF, (mask + 1) * sizeof(*t->by_text));
	for (uint32_t id = 0; id < v->n; id++) {
		size_t at = text_hash(v->text[id], v->text_bytes[id], t->by_text_bits);

		if (!v->text_bytes[id] ||
		    gp_vocab_find(t, v->text[id], v->text_bytes[id]) != GP_NONE)
			continue;
		while (t->by_text[at] != GP_NONE)
			at = (at + 1) & mask;
		t->by_text[at] = id;
	}
	return 0;
}

int gp_vocab_index(struct gp_tokenizer *t)
{
	const struct gp_vocab *v = &t->vocab;
	int rc = index_texts(t);

	if (rc < 0)
		return rc;
	memset(t->byte_id, 0xFF, sizeof(t->byte_id));
	for (uint32_t id = 0; id < v->n; id++) {
		int byte = v->kind[id] == GP_TOKEN_BYTE ? byte_of(v->text[id], v->text_bytes[id]) : -1;

		if (byte >= 0 && t->byte_id[byte] == GP_NONE)
			t->byte_id[byte] = id;
	}
	for (unsigned byte = 0; byte < 256; byte++)
		if (t->byte_id[byte] == GP_NONE)
			return gp_fail(EINVAL, "the vocabulary lacks the byte token <0x%02X>; "
			               "it is not a Gemma tokenizer", byte);
	return 0;
}

/* ---- merges as the file has them ------------------------------------------- */
int gp_vocab_reserve_merges(struct gp_tokenizer *t, size_t n)
{
	if (n == 0)
		return 0;
	if (n >= GP_NONE)
		return gp_fail(EINVAL, "%zu merges; fewer than %u are supported", n, GP_NONE);
	t->vocab.merge = calloc(n, sizeof(*t->vocab.merge));
	return t->vocab.merge ? 0 : gp_fail(ENOMEM, "no memory for %zu merges", n);
}

int gp_vocab_add_merge(struct gp_tokenizer *t, const char *left, size_t left_bytes,
                       const char *right, size_t right_bytes)
{
	struct gp_vocab *v = &t->vocab;
	uint32_t l = gp_vocab_find(t, left, left_bytes);
	uint32_t r = gp_vocab_find(t, right, right_bytes);

	if (l == GP_NONE || r == GP_NONE)
		return gp_fail(EINVAL, "merge %zu names a token that is not in the vocabulary",
		               v->n_merges);
	v->merge[v->n_merges][0] = l;
	v->merge[v->n_merges][1] = r;
	v->n_merges++;
	return 0;
}

/* ---- tokens matched in raw text --------------------------------------------- */
/* Padding that a converter appended is typed unused too, but is no added token. */
static bool is_matched(const struct gp_tokenizer *t, uint32_t id)
{
	const struct gp_vocab *v = &t->vocab;

	if (!v->text_bytes[id])
		return false;
	if (v->kind[id] == GP_TOKEN_UNUSED)
		return v->text_bytes[id] > 7 && !memcmp(v->text[id], "<unused", 7);
	return v->kind[id] == GP_TOKEN_USER_DEFINED || gp_vocab_is_special(t, id);
}

/* The node that byte leads to from node, made when there is none. */
static int trie_step(struct gp_tokenizer *t, uint32_t *node, uint8_t byte)
{
	const uint64_t edge = (uint64_t)*node << 8 | byte;
	uint32_t to = *node ? gp_map_get(&t->trie_edge, edge) : t->trie_root[byte];
	int rc = 0;

	if (to == GP_NONE) {
		to = (uint32_t)t->trie_nodes++;
		if (*node)
			rc = gp_map_put(&t->trie_edge, edge, to);
		else
			t->trie_root[byte] = to;
	}
	*node = to;
	return rc;
}

static int build_trie(struct gp_tokenizer *t)
{
	const struct gp_vocab *v = &t->vocab;
	size_t most = 1;
	int rc;

	for (uint32_t id = 0; id < v->n; id++)
		most += is_matched(t, id) ? v->text_bytes[id] : 0;
	if (most >= GP_NONE)
		return gp_fail(EINVAL, "the added tokens' texts are longer than 4 GiB");
	t->trie_id = malloc(most * sizeof(*t->trie_id));
	if (!t->trie_id)
		return gp_fail(ENOMEM, "no memory for the tokenizer's tables");
	memset(t->trie_id, 0xFF, most * sizeof(*t->trie_id));
	memset(t->trie_root, 0xFF, sizeof(t->trie_root));
	t->trie_nodes = 1;
	for (uint32_t id = 0; id < v->n; id++) {
		uint32_t node = 0;

		if (!is_matched(t, id))
			continue;
		for (size_t i = 0; i < v->text_bytes[id]; i++)
			if ((rc = trie_step(t, &node, (uint8_t)v->text[id][i])) < 0)
				return rc;
		if (t->trie_id[node] == GP_NONE)
			t->trie_id[node] = id;
	}
	return 0;
}

/* ---- finish ------------------------------------------------------------------ */
static int32_t id_by_text(const struct gp_tokenizer *t, int32_t known, const char *text)
{
	return known >= 0 ? known : (int32_t)gp_vocab_find(t, text, strlen(text));
}

/* What a piece's code points become first; a control token is never one. */
static void index_ascii(struct gp_tokenizer *t)
{
	for (unsigned c = 0; c < 128; c++) {
		const char one = (char)c;
		uint32_t id = c == ' ' ? gp_vocab_find(t, GP_SPACE_MARK, 3)
		                       : gp_vocab_find(t, &one, 1);

		t->ascii[c] = id != GP_NONE && gp_vocab_is_special(t, id) ? GP_NONE : id;
	}
}

int gp_vocab_finish(struct gp_tokenizer *t)
{
	struct gp_vocab *v = &t->vocab;
	int rc;

	v->bos = id_by_text(t, v->bos, "<bos>");
	v->eos = id_by_text(t, v->eos, "<eos>");
	v->end_of_turn = id_by_text(t, v->end_of_turn, "<end_of_turn>");
	t->start_of_turn = gp_vocab_find(t, "<start_of_turn>", 15);
	t->eos_by_text = gp_vocab_find(t, "<eos>", 5);
	/* Whatever the file types them as, user text must not forge them. */
	const int32_t control[] = { v->bos, v->eos, v->end_of_turn };
	for (size_t i = 0; i < GP_ARRAY_LEN(control); i++)
		if (control[i] >= 0)
			v->kind[control[i]] = GP_TOKEN_CONTROL;
	t->longest = 1;
	for (size_t i = 0; i < v->n; i++)
		t->longest = v->text_bytes[i] > t->longest ? v->text_bytes[i] : t->longest;
	index_ascii(t);
	rc = build_trie(t);
	return rc < 0 ? rc : gp_vocab_build_merges(t);
}

const struct gp_vocab *gp_tokenizer_vocab(const struct gp_tokenizer *t)
{
	return &t->vocab;
}

static void free_texts(struct gp_text_block *b)
{
	while (b) {
		struct gp_text_block *next = b->next;

		free(b);
		b = next;
	}
}

void gp_tokenizer_close(struct gp_tokenizer *t)
{
	if (!t)
		return;
	free(t->vocab.text);
	free(t->vocab.text_bytes);
	free(t->vocab.score);
	free(t->vocab.kind);
	free(t->vocab.merge);
	free(t->vocab.chat_template);
	free_texts(t->texts);
	free(t->by_text);
	gp_map_free(&t->rank);
	free(t->merged);
	gp_map_free(&t->joint);
	gp_map_free(&t->trie_edge);
	free(t->trie_id);
	free(t);
}

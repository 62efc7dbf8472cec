/* The tokenizer's parts, shared by its files only.
 *
 *   tokenizer_json.c, tokenizer_gguf.c   a file -> vocabulary and merges
 *   tokenizer_vocab.c                    the vocabulary and the tables over it
 *   tokenizer.c                          text -> ids
 *   detokenizer.c                        ids -> text
 *   chat.c                               messages -> text or ids
 */
#ifndef GP_TOKENIZER_INTERNAL_H
#define GP_TOKENIZER_INTERNAL_H

#include "base/base.h"
#include "model/model.h"

#define GP_NONE UINT32_MAX
#define GP_MAX_PIECES (1u << 22)    /* sixteen times Gemma's: a corrupt id, not a vocabulary */
#define GP_MAX_PIECE_BYTES 1024u    /* Gemma's longest is 93 */
#define GP_MAX_TOKENIZER_TEXT ((size_t)1 << 30) /* symbols are indexed by 32 bits */

#define GP_SPACE_MARK "\xE2\x96\x81" /* U+2581 stands for a space in pieces */

/* Open addressing, at most half full. */
struct gp_map_slot { uint64_t key; uint32_t value; }; /* value GP_NONE: free */
struct gp_map { struct gp_map_slot *slot; size_t n; unsigned bits; };

int gp_map_put(struct gp_map *m, uint64_t key, uint32_t value); /* the first one stays */
void gp_map_free(struct gp_map *m);

static inline size_t gp_map_hash(uint64_t key, unsigned bits)
{
	key = (key ^ key >> 32) * 0x9E3779B97F4A7C15u;
	return (size_t)(key >> (64 - bits));
}

static inline uint32_t gp_map_get(const struct gp_map *m, uint64_t key)
{
	size_t at, mask = ((size_t)1 << m->bits) - 1;

	if (!m->slot)
		return GP_NONE;
	for (at = gp_map_hash(key, m->bits); m->slot[at].value != GP_NONE; at = (at + 1) & mask)
		if (m->slot[at].key == key)
			return m->slot[at].value;
	return GP_NONE;
}

static inline uint64_t gp_pair(uint32_t left, uint32_t right)
{
	return (uint64_t)left << 32 | right;
}

struct gp_text_block;

struct gp_tokenizer {
	struct gp_vocab vocab;
	struct gp_text_block *texts;    /* where vocab.text points */
	uint32_t *by_text;              /* open addressing: id, or GP_NONE */
	unsigned by_text_bits;

	/* Merges by rank, from the file or (no_merges) made from the scores. */
	struct gp_map rank;             /* gp_pair(left, right) -> rank */
	uint32_t *merged;               /* by rank: the id of left + right */
	/* gp_pair(x, y) of code points' ids: some merge joins a piece that ends
	 * with x and one that begins with y. Where two neighbours are not in it,
	 * no merge ever crosses, and the text can be cut there. */
	struct gp_map joint;

	/* Tokens matched in raw text: a trie. Node 0 is the root. */
	uint32_t trie_root[256];        /* first byte -> node, GP_NONE */
	struct gp_map trie_edge;        /* node << 8 | byte -> node */
	uint32_t *trie_id;              /* by node: id, GP_NONE */
	size_t trie_nodes;

	uint32_t ascii[128];            /* a piece's first symbols; ' ' is U+2581's id */
	uint32_t byte_id[256];
	size_t longest;                 /* bytes of text that an id stands for, at most */
	uint32_t start_of_turn;         /* GP_NONE: none */
	uint32_t eos_by_text;           /* a GGUF may name <end_of_turn> as eos */
};

/* ---- tokenizer_vocab.c, in the order a reader calls them ------------------ */
/* All n pieces empty and unused; holes in a file's ids stay so. */
int gp_vocab_init(struct gp_tokenizer *t, size_t n);
/* Takes a copy of text. Kinds that files get wrong are set right by text. */
int gp_vocab_set(struct gp_tokenizer *t, uint32_t id, const char *text, size_t bytes,
                 int32_t kind, float score);
/* After the last piece: look-up by text, byte tokens. */
int gp_vocab_index(struct gp_tokenizer *t);
uint32_t gp_vocab_find(const struct gp_tokenizer *t, const char *text, size_t bytes);
/* Room for n merges, then each as texts, by rank. */
int gp_vocab_reserve_merges(struct gp_tokenizer *t, size_t n);
int gp_vocab_add_merge(struct gp_tokenizer *t, const char *left, size_t left_bytes,
                       const char *right, size_t right_bytes);
/* bos, eos and end_of_turn by text where the file did not name them; tables. */
int gp_vocab_finish(struct gp_tokenizer *t);

static inline bool gp_vocab_is_special(const struct gp_tokenizer *t, uint32_t id)
{
	return t->vocab.kind[id] == GP_TOKEN_CONTROL || t->vocab.kind[id] == GP_TOKEN_UNKNOWN;
}

/* ---- tokenizer_merges.c ---------------------------------------------------- */
/* rank, merged and joint: from vocab.merge, or from the scores without merges. */
int gp_vocab_build_merges(struct gp_tokenizer *t);

/* ---- readers: fill t; on failure the caller closes it --------------------- */
int gp_tokenizer_read_json(struct gp_tokenizer *t, const char *path);
int gp_tokenizer_read_gguf(struct gp_tokenizer *t, const char *path);

/* ---- tokenizer.c ----------------------------------------------------------- */
struct gp_encoder {
	const struct gp_tokenizer *t;
	uint32_t *ids;
	size_t n, room;
	size_t most;                    /* ids; more are -E2BIG. 0: no limit */
	struct gp_symbol *symbols;      /* of the piece in hand */
	size_t n_symbols, symbols_room;
	uint64_t *heap;                 /* rank << 32 | left symbol: smallest first */
	size_t n_heap, heap_room;
};

int gp_encoder_id(struct gp_encoder *e, uint32_t id);
/* flags: GP_ENCODE_SPECIAL counts. */
int gp_encoder_text(struct gp_encoder *e, const char *text, size_t bytes, unsigned flags);
void gp_encoder_free(struct gp_encoder *e);

#endif

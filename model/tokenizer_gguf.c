/* The tokenizer inside a GGUF: the tokenizer.ggml.* keys. Files differ: some
 * have merges and some only scores; some hold runs of spaces as spaces; types
 * of the turn marks are often wrong (gp_vocab_set sets them right by text). */
#include <stdlib.h>
#include <string.h>

#include "model/gguf.h"
#include "model/tokenizer_internal.h"

struct arrays {
	const struct gp_gguf_value *tokens, *scores, *types, *merges; /* NULL: absent */
};

static int find_arrays(const struct gp_gguf *g, struct arrays *a)
{
	int rc;

	rc = gp_gguf_get_array(g, "tokenizer.ggml.tokens", GP_GGUF_STRING, &a->tokens);
	if (rc == 0)
		return gp_fail(ENOENT, "%s: the file has no tokenizer (tokenizer.ggml.tokens)",
		               gp_gguf_path(g));
	if (rc < 0 ||
	    (rc = gp_gguf_get_array(g, "tokenizer.ggml.scores", GP_GGUF_F32, &a->scores)) < 0 ||
	    (rc = gp_gguf_get_array(g, "tokenizer.ggml.token_type", GP_GGUF_I32, &a->types)) < 0 ||
	    (rc = gp_gguf_get_array(g, "tokenizer.ggml.merges", GP_GGUF_STRING, &a->merges)) < 0)
		return rc;
	if (!a->types || a->types->n != a->tokens->n ||
	    (a->scores && a->scores->n != a->tokens->n))
		return gp_fail(EINVAL, "%s: tokenizer.ggml.token_type or .scores does not have as "
		               "many items as .tokens", gp_gguf_path(g));
	if (!a->scores && !a->merges)
		return gp_fail(EINVAL, "%s: neither tokenizer.ggml.scores nor .merges; convert the "
		               "model again", gp_gguf_path(g));
	return 0;
}

static int check_model(const struct gp_gguf *g)
{
	const char *model;
	size_t bytes;
	int rc = gp_gguf_get_string(g, "tokenizer.ggml.model", &model, &bytes);

	if (rc <= 0)
		return rc;
	if (bytes == 5 && !memcmp(model, "llama", 5))
		return 0;
	return gp_fail(ENOTSUP, "%s: tokenizer.ggml.model is \"%.*s\"; Gemma 3's is \"llama\"",
	               gp_gguf_path(g), (int)(bytes < 40 ? bytes : 40), model);
}

/* Pieces have U+2581 where a file may have spaces; control tokens stay. */
static size_t mark_spaces(char out[3 * GP_MAX_PIECE_BYTES], const char *text, size_t bytes)
{
	size_t n = 0;

	for (size_t i = 0; i < bytes; i++) {
		if (text[i] == ' ') {
			memcpy(out + n, GP_SPACE_MARK, 3);
			n += 3;
		} else {
			out[n++] = text[i];
		}
	}
	return n;
}

static int read_token(struct gp_tokenizer *t, const struct gp_gguf *g, const struct arrays *a,
                      uint32_t id)
{
	const int32_t kind = gp_gguf_i32_at(a->types, id);
	const float score = a->scores ? gp_gguf_f32_at(a->scores, id) : 0;
	char marked[3 * GP_MAX_PIECE_BYTES];
	const char *text;
	size_t bytes;

	gp_gguf_string_at(g, a->tokens, id, &text, &bytes);
	if (bytes == 0)
		return 0;
	if (bytes <= GP_MAX_PIECE_BYTES && kind != GP_TOKEN_CONTROL && memchr(text, ' ', bytes)) {
		bytes = mark_spaces(marked, text, bytes);
		text = marked;
	}
	return gp_vocab_set(t, id, text, bytes, kind ? kind : GP_TOKEN_NORMAL, score);
}

static int read_merge(struct gp_tokenizer *t, const struct gp_gguf *g,
                      const struct gp_gguf_value *merges, uint64_t rank)
{
	const char *text, *space, *right;
	size_t bytes;

	gp_gguf_string_at(g, merges, rank, &text, &bytes);
	space = memchr(text, ' ', bytes);
	right = space ? space + 1 : NULL;
	if (!right || memchr(right, ' ', bytes - (size_t)(right - text)))
		return gp_fail(EINVAL, "tokenizer.ggml.merges: entry %llu is not \"left right\"",
		               (unsigned long long)rank);
	return gp_vocab_add_merge(t, text, (size_t)(space - text), right,
	                          bytes - (size_t)(right - text));
}

static int read_arrays(struct gp_tokenizer *t, const struct gp_gguf *g, const struct arrays *a)
{
	const uint64_t n_merges = a->merges ? a->merges->n : 0;
	int rc;

	if (a->tokens->n > GP_MAX_PIECES)
		return gp_fail(EINVAL, "a vocabulary of %llu tokens; at most %u are supported",
		               (unsigned long long)a->tokens->n, GP_MAX_PIECES);
	if ((rc = gp_vocab_init(t, (size_t)a->tokens->n)) < 0)
		return rc;
	for (uint32_t id = 0; id < a->tokens->n; id++)
		if ((rc = read_token(t, g, a, id)) < 0)
			return rc;
	if ((rc = gp_vocab_index(t)) < 0 ||
	    (rc = gp_vocab_reserve_merges(t, (size_t)n_merges)) < 0)
		return rc;
	for (uint64_t rank = 0; rank < n_merges; rank++)
		if ((rc = read_merge(t, g, a->merges, rank)) < 0)
			return rc;
	return 0;
}

static int read_id(const struct gp_tokenizer *t, const struct gp_gguf *g, const char *key,
                   int32_t *id)
{
	uint32_t value;
	int rc = gp_gguf_get_u32(g, key, &value);

	if (rc <= 0)
		return rc;
	if (value >= t->vocab.n)
		return gp_fail(EINVAL, "%s: %s is %u, past the vocabulary of %zu", gp_gguf_path(g),
		               key, value, t->vocab.n);
	*id = (int32_t)value;
	return 0;
}

static int read_rest(struct gp_tokenizer *t, const struct gp_gguf *g)
{
	struct gp_vocab *v = &t->vocab;
	const char *chat;
	size_t bytes;
	int rc;

	if ((rc = read_id(t, g, "tokenizer.ggml.bos_token_id", &v->bos)) < 0 ||
	    (rc = read_id(t, g, "tokenizer.ggml.eos_token_id", &v->eos)) < 0 ||
	    (rc = gp_gguf_get_string(g, "tokenizer.chat_template", &chat, &bytes)) < 0)
		return rc;
	if (rc && !(v->chat_template = strndup(chat, bytes)))
		return gp_fail(ENOMEM, "no memory for the chat template");
	return 0;
}

static int read_file(struct gp_tokenizer *t, const struct gp_gguf *g)
{
	struct arrays a = { 0 };
	int rc;

	if ((rc = find_arrays(g, &a)) < 0 || (rc = check_model(g)) < 0)
		return rc;
	if ((rc = read_arrays(t, g, &a)) < 0)
		return gp_fail_in(rc, "%s", gp_gguf_path(g));
	if ((rc = read_rest(t, g)) < 0)
		return rc;
	rc = gp_vocab_finish(t);
	return rc < 0 ? gp_fail_in(rc, "%s", gp_gguf_path(g)) : 0;
}

int gp_tokenizer_read_gguf(struct gp_tokenizer *t, const char *path)
{
	struct gp_gguf *g;
	int rc = gp_gguf_open(&g, path);

	if (rc < 0)
		return rc;
	rc = read_file(t, g);
	gp_gguf_close(g);
	return rc;
}

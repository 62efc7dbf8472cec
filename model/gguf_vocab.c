#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/gguf.h"
#include "model/model.h"

/* The arrays of rows items, of which v has the first n. */
struct columns {
	const char **text;
	size_t *bytes;
	float *score;
	int32_t *kind;
	char *padding;          /* the texts of the tokens that fill up */
};

enum { PADDING_BYTES = 24 };

static void free_columns(struct columns *c)
{
	free(c->text);
	free(c->bytes);
	free(c->score);
	free(c->kind);
	free(c->padding);
}

static bool alloc_columns(struct columns *c, uint32_t rows)
{
	*c = (struct columns){
		.text = calloc(rows, sizeof *c->text), .bytes = calloc(rows, sizeof *c->bytes),
		.score = calloc(rows, sizeof *c->score), .kind = calloc(rows, sizeof *c->kind),
		.padding = calloc(rows, PADDING_BYTES),
	};
	return c->text && c->bytes && c->score && c->kind && c->padding;
}

/* Ids without a text get a unique one too: llama.cpp indexes tokens by text. */
static void fill_columns(struct columns *c, const struct gp_vocab *v, uint32_t rows)
{
	for (uint32_t i = 0; i < rows; i++) {
		char *padding = c->padding + (size_t)i * PADDING_BYTES;
		bool known = i < v->n && v->text_bytes[i] > 0;

		c->text[i] = known ? v->text[i] : padding;
		c->bytes[i] = known ? v->text_bytes[i]
				    : (size_t)snprintf(padding, PADDING_BYTES, "[PAD%u]", i);
		c->score[i] = known ? v->score[i] : -(float)rows;
		c->kind[i] = known ? v->kind[i] : GP_TOKEN_UNUSED;
	}
}

static int add_columns(struct gp_gguf_writer *w, const struct columns *c, uint32_t rows)
{
	int rc = gp_gguf_add_string_array(w, "tokenizer.ggml.tokens", c->text, c->bytes, rows);

	if (rc < 0 || (rc = gp_gguf_add_f32_array(w, "tokenizer.ggml.scores", c->score, rows)) < 0)
		return rc;
	return gp_gguf_add_i32_array(w, "tokenizer.ggml.token_type", c->kind, rows);
}

static int add_tokens(struct gp_gguf_writer *w, const struct gp_vocab *v, uint32_t rows)
{
	struct columns c;
	int rc;

	if (alloc_columns(&c, rows)) {
		fill_columns(&c, v, rows);
		rc = add_columns(w, &c, rows);
	} else {
		rc = gp_fail(ENOMEM, "no memory for a vocabulary of %u tokens", rows);
	}
	free_columns(&c);
	return rc;
}

/* "left right" of every merge into one buffer; NULL: no memory. */
static char *merge_texts(const struct gp_vocab *v, const char **text, size_t *bytes)
{
	size_t all = 1;
	char *buffer, *p;

	for (size_t i = 0; i < v->n_merges; i++)
		all += v->text_bytes[v->merge[i][0]] + v->text_bytes[v->merge[i][1]] + 1;
	buffer = p = malloc(all);
	for (size_t i = 0; buffer && i < v->n_merges; i++) {
		const uint32_t l = v->merge[i][0], r = v->merge[i][1];

		text[i] = p;
		p = mempcpy(p, v->text[l], v->text_bytes[l]);
		*p++ = ' ';
		p = mempcpy(p, v->text[r], v->text_bytes[r]);
		bytes[i] = (size_t)(p - text[i]);
	}
	return buffer;
}

static int add_merges(struct gp_gguf_writer *w, const struct gp_vocab *v)
{
	const char **text = calloc(v->n_merges + 1, sizeof *text);
	size_t *bytes = calloc(v->n_merges + 1, sizeof *bytes);
	char *buffer = text && bytes ? merge_texts(v, text, bytes) : NULL;
	int rc;

	if (!buffer)
		rc = gp_fail(ENOMEM, "no memory for %zu merges", v->n_merges);
	else
		rc = gp_gguf_add_string_array(w, "tokenizer.ggml.merges", text, bytes, v->n_merges);
	free(buffer);
	free(text);
	free(bytes);
	return rc;
}

static int add_id(struct gp_gguf_writer *w, const char *key, int32_t id, uint32_t rows)
{
	return id >= 0 && (uint32_t)id < rows ? gp_gguf_add_u32(w, key, (uint32_t)id) : 0;
}

static int32_t find_kind(const struct gp_vocab *v, int32_t kind)
{
	for (size_t i = 0; i < v->n; i++)
		if (v->kind[i] == kind && v->text_bytes[i] > 0)
			return (int32_t)i;
	return -1;
}

static int32_t find_text(const struct gp_vocab *v, const char *text)
{
	for (size_t i = 0; i < v->n; i++)
		if (v->text_bytes[i] == strlen(text) && memcmp(v->text[i], text, strlen(text)) == 0)
			return (int32_t)i;
	return -1;
}

static int add_ids(struct gp_gguf_writer *w, const struct gp_vocab *v, uint32_t rows)
{
	const struct { const char *key; int32_t id; } ids[] = {
		{ "tokenizer.ggml.bos_token_id", v->bos },
		{ "tokenizer.ggml.eos_token_id", v->eos },
		{ "tokenizer.ggml.eot_token_id", v->end_of_turn },
		{ "tokenizer.ggml.unknown_token_id", find_kind(v, GP_TOKEN_UNKNOWN) },
		{ "tokenizer.ggml.padding_token_id", find_text(v, "<pad>") },
	};
	int rc = 0;

	for (size_t i = 0; i < GP_ARRAY_LEN(ids) && rc >= 0; i++)
		rc = add_id(w, ids[i].key, ids[i].id, rows);
	return rc;
}

int gp_gguf_add_vocab(struct gp_gguf_writer *w, const struct gp_vocab *v, uint32_t rows)
{
	int rc = gp_gguf_add_string(w, "tokenizer.ggml.model", "llama", 5);

	if (rc < 0 || (rc = gp_gguf_add_string(w, "tokenizer.ggml.pre", "default", 7)) < 0 ||
	    (rc = add_tokens(w, v, rows)) < 0 || (v->n_merges && (rc = add_merges(w, v)) < 0) ||
	    (rc = add_ids(w, v, rows)) < 0 ||
	    (rc = gp_gguf_add_bool(w, "tokenizer.ggml.add_bos_token", true)) < 0 ||
	    (rc = gp_gguf_add_bool(w, "tokenizer.ggml.add_eos_token", false)) < 0 ||
	    (rc = gp_gguf_add_bool(w, "tokenizer.ggml.add_space_prefix", false)) < 0)
		return rc;
	if (!v->chat_template)
		return 0;
	return gp_gguf_add_string(w, "tokenizer.chat_template", v->chat_template,
				  strlen(v->chat_template));
}

/* The tokenizer of a Hugging Face folder: tokenizer.json, and the names of its
 * control tokens in tokenizer_config.json. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "model/internal.h"
#include "model/tokenizer_internal.h"

static bool is_text(const json_t *j, const char *text)
{
	return json_is_string(j) && !strcmp(json_string_value(j), text);
}

/* ---- is it Gemma's kind of tokenizer ------------------------------------------- */
static int check_flow(const json_t *root, const json_t *model)
{
	const json_t *normalizer = json_object_get(root, "normalizer");
	const json_t *pattern = json_object_get(normalizer, "pattern");
	const json_t *split = json_object_get(root, "pre_tokenizer");

	if (!is_text(json_object_get(model, "type"), "BPE") ||
	    !json_is_true(json_object_get(model, "byte_fallback")))
		return gp_fail(ENOTSUP, "model is not BPE with byte_fallback; only Gemma's kind "
		               "of tokenizer is supported");
	if (!is_text(json_object_get(normalizer, "type"), "Replace") ||
	    !is_text(json_object_get(pattern, "String"), " ") ||
	    !is_text(json_object_get(normalizer, "content"), GP_SPACE_MARK))
		return gp_fail(ENOTSUP, "the normalizer does not just replace spaces; only "
		               "Gemma's kind of tokenizer is supported");
	/* After the normalizer no space is left, and this one splits nothing. */
	if (split && !json_is_null(split) &&
	    (!is_text(json_object_get(split, "type"), "Split") ||
	     !is_text(json_object_get(json_object_get(split, "pattern"), "String"), " ")))
		return gp_fail(ENOTSUP, "the pre_tokenizer is not Gemma's; only Gemma's kind of "
		               "tokenizer is supported");
	return 0;
}

/* ---- vocabulary ------------------------------------------------------------------ */
static int check_id(const json_t *id, const char *where)
{
	if (!json_is_integer(id) || json_integer_value(id) < 0 ||
	    json_integer_value(id) >= GP_MAX_PIECES)
		return gp_fail(EINVAL, "%s: an id is not a number from 0 to %u", where,
		               GP_MAX_PIECES - 1);
	return 0;
}

static int check_added(const json_t *token)
{
	static const char *const off[] = { "lstrip", "rstrip", "single_word" };

	if (!json_is_object(token) || !json_is_string(json_object_get(token, "content")) ||
	    !json_is_boolean(json_object_get(token, "special")) ||
	    json_string_length(json_object_get(token, "content")) == 0)
		return gp_fail(EINVAL, "added_tokens: an entry lacks content or special");
	for (size_t i = 0; i < GP_ARRAY_LEN(off); i++)
		if (json_is_true(json_object_get(token, off[i])))
			return gp_fail(ENOTSUP, "added_tokens: %s is not supported; Gemma's have "
			               "none", off[i]);
	return check_id(json_object_get(token, "id"), "added_tokens");
}

/* The highest id + 1, everything checked on the way. */
static int count_ids(json_t *pieces, const json_t *added, size_t *n)
{
	const char *text;
	json_t *value;
	size_t i;
	int rc;

	*n = 0;
	json_object_foreach(pieces, text, value) {
		if ((rc = check_id(value, "model.vocab")) < 0)
			return rc;
		if ((size_t)json_integer_value(value) >= *n)
			*n = (size_t)json_integer_value(value) + 1;
	}
	json_array_foreach(added, i, value) {
		if ((rc = check_added(value)) < 0)
			return rc;
		value = json_object_get(value, "id");
		if ((size_t)json_integer_value(value) >= *n)
			*n = (size_t)json_integer_value(value) + 1;
	}
	return 0;
}

static int set_pieces(struct gp_tokenizer *t, json_t *pieces)
{
	const char *text;
	json_t *value;
	int rc;

	json_object_foreach(pieces, text, value) {
		uint32_t id = (uint32_t)json_integer_value(value);

		if (t->vocab.text_bytes[id])
			return gp_fail(EINVAL, "model.vocab: two tokens have id %u", id);
		if (!*text)
			return gp_fail(EINVAL, "model.vocab: token %u is empty", id);
		rc = gp_vocab_set(t, id, text, strlen(text), GP_TOKEN_NORMAL, 0);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int32_t added_kind(const json_t *token, const char *unknown)
{
	const char *text = json_string_value(json_object_get(token, "content"));

	if (json_is_true(json_object_get(token, "special")))
		return unknown && !strcmp(text, unknown) ? GP_TOKEN_UNKNOWN : GP_TOKEN_CONTROL;
	return strncmp(text, "<unused", 7) ? GP_TOKEN_USER_DEFINED : GP_TOKEN_UNUSED;
}

static int set_added(struct gp_tokenizer *t, const json_t *added, const char *unknown)
{
	json_t *token;
	size_t i;
	int rc;

	json_array_foreach(added, i, token) {
		const json_t *content = json_object_get(token, "content");
		const char *text = json_string_value(content);
		size_t bytes = json_string_length(content);
		uint32_t id = (uint32_t)json_integer_value(json_object_get(token, "id"));

		if (t->vocab.text_bytes[id] && (t->vocab.text_bytes[id] != bytes ||
		                                memcmp(t->vocab.text[id], text, bytes)))
			return gp_fail(EINVAL, "added_tokens: id %u is another token's in model.vocab",
			               id);
		rc = gp_vocab_set(t, id, text, bytes, added_kind(token, unknown), 0);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* ---- merges -------------------------------------------------------------------------- */
/* "left right" or ["left", "right"]. */
static int add_merge(struct gp_tokenizer *t, const json_t *merge, size_t rank)
{
	const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
	const char *text = json_string_value(merge), *space = text ? strchr(text, ' ') : NULL;

	if (space && !strchr(space + 1, ' '))
		return gp_vocab_add_merge(t, text, (size_t)(space - text), space + 1,
		                          json_string_length(merge) - (size_t)(space + 1 - text));
	if (json_array_size(merge) == 2 && json_is_string(left) && json_is_string(right))
		return gp_vocab_add_merge(t, json_string_value(left), json_string_length(left),
		                          json_string_value(right), json_string_length(right));
	return gp_fail(EINVAL, "model.merges: entry %zu is neither \"left right\" nor a pair", rank);
}

static int read_merges(struct gp_tokenizer *t, const json_t *merges)
{
	json_t *merge;
	size_t rank;
	int rc;

	if (!json_is_array(merges))
		return gp_fail(EINVAL, "model.merges is not a list");
	if ((rc = gp_vocab_reserve_merges(t, json_array_size(merges))) < 0)
		return rc;
	json_array_foreach(merges, rank, merge)
		if ((rc = add_merge(t, merge, rank)) < 0)
			return rc;
	return 0;
}

/* Scores that order pieces as the merges do, for readers that know no merges:
 * minus the rank of the first merge that makes the piece. */
static void score_by_merges(struct gp_tokenizer *t)
{
	struct gp_vocab *v = &t->vocab;

	for (size_t id = 0; id < v->n; id++)
		v->score[id] = -(float)v->n_merges;
	for (size_t rank = v->n_merges; rank-- > 0;)
		v->score[t->merged[rank]] = -(float)rank;
}

/* ---- tokenizer_config.json ---------------------------------------------------------- */
/* The id of the token that config names: "<bos>" or {"content": "<bos>", ...}. */
static int32_t named_token(const struct gp_tokenizer *t, const json_t *config, const char *key)
{
	const json_t *name = json_object_get(config, key);

	if (json_is_object(name))
		name = json_object_get(name, "content");
	if (!json_is_string(name))
		return -1;
	return (int32_t)gp_vocab_find(t, json_string_value(name), json_string_length(name));
}

static int read_config(struct gp_tokenizer *t, const char *json_path)
{
	const char *slash = strrchr(json_path, '/');
	const json_t *chat;
	json_t *config;
	struct stat st;
	char path[4096];
	int rc;

	rc = snprintf(path, sizeof(path), "%.*stokenizer_config.json",
	              slash ? (int)(slash + 1 - json_path) : 0, json_path);
	if (rc >= (int)sizeof(path) || stat(path, &st) < 0)
		return 0;
	if ((rc = gp_json_read(&config, path, JSON_ALLOW_NUL)) < 0)
		return rc;
	t->vocab.bos = named_token(t, config, "bos_token");
	t->vocab.eos = named_token(t, config, "eos_token");
	chat = json_object_get(config, "chat_template");
	if (json_is_string(chat)) {
		t->vocab.chat_template = strdup(json_string_value(chat));
		if (!t->vocab.chat_template)
			rc = gp_fail(ENOMEM, "no memory for the chat template");
	}
	json_decref(config);
	return rc;
}

/* ---- all of it -------------------------------------------------------------------------- */
static int read_root(struct gp_tokenizer *t, const json_t *root)
{
	const json_t *model = json_object_get(root, "model");
	const json_t *added = json_object_get(root, "added_tokens");
	json_t *pieces = json_object_get(model, "vocab");
	size_t n;
	int rc;

	if (!json_is_object(pieces) || (added && !json_is_array(added)))
		return gp_fail(EINVAL, "model.vocab or added_tokens is missing or of another type");
	if ((rc = check_flow(root, model)) < 0 || (rc = count_ids(pieces, added, &n)) < 0 ||
	    (rc = gp_vocab_init(t, n)) < 0 || (rc = set_pieces(t, pieces)) < 0 ||
	    (rc = set_added(t, added, json_string_value(json_object_get(model, "unk_token")))) < 0 ||
	    (rc = gp_vocab_index(t)) < 0)
		return rc;
	return read_merges(t, json_object_get(model, "merges"));
}

int gp_tokenizer_read_json(struct gp_tokenizer *t, const char *path)
{
	json_t *root;
	int rc = gp_json_read(&root, path, JSON_ALLOW_NUL);

	if (rc < 0)
		return rc;
	rc = read_root(t, root);
	json_decref(root);
	if (rc < 0)
		return gp_fail_in(rc, "%s", path);
	rc = read_config(t, path);
	if (rc == 0 && (rc = gp_vocab_finish(t)) < 0)
		gp_fail_in(rc, "%s", path);
	if (rc == 0)
		score_by_merges(t);
	return rc;
}

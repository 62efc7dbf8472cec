/* Log probabilities of an answer's tokens, as JSON's text from the beginning: as trees they
 * would take twenty times as much, and an answer may have thousands. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/http/http.h"

#define LEAST_LOGPROB -9999.0f  /* JSON has no infinity */

/* Chat: one column of objects. Completions: tokens, their logarithms, the likeliest. */
enum { COLUMNS = 3 };
static const char *const column_name[COLUMNS] = { "tokens", "token_logprobs", "top_logprobs" };

struct logprob {
	struct logprob *next;
	uint64_t begin;                 /* of its text in the answer's, in characters */
	char *column[COLUMNS];
};

static void logprob_free(struct logprob *l)
{
	for (size_t i = 0; i < COLUMNS; i++)
		free(l->column[i]);
	free(l);
}

void logprobs_free(struct logprobs *list)
{
	for (struct logprob *l = list->first, *next; l; l = next) {
		next = l->next;
		logprob_free(l);
	}
	*list = (struct logprobs){ 0 };
}

/* ---- one token --------------------------------------------------------------------- */

static json_t *bytes_of(const struct gp_vocab *v, uint32_t token, const char *text, size_t n)
{
	json_t *list = json_array();

	if (v->kind[token] == GP_TOKEN_BYTE) { /* <0x41> */
		json_array_append_new(list, json_integer(strtol(v->text[token] + 3, NULL, 16)));
		return list;
	}
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, json_integer((unsigned char)text[i]));
	return list;
}

static json_t *describe(const struct gp_tokenizer *t, uint32_t token, float logprob)
{
	char *text = NULL;
	size_t n = 0;

	if (token >= gp_tokenizer_vocab(t)->n ||
	    gp_tokenizer_decode(t, &token, 1, false, &text, &n) < 0)
		return json_pack("{s:s, s:f, s:n}", "token", "", "logprob", (double)logprob, "bytes");
	json_t *name = json_stringn(text, n);
	json_t *o = json_pack("{s:o, s:f, s:o}", "token", name ? name : json_string("\xef\xbf\xbd"),
			      "logprob", (double)(logprob > LEAST_LOGPROB ? logprob : LEAST_LOGPROB),
			      "bytes", bytes_of(gp_tokenizer_vocab(t), token, text, n));
	free(text);
	return o;
}

static char *text_of(json_t *o)
{
	return o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(8) | JSON_ENCODE_ANY) : NULL;
}

static bool fill_chat(struct logprob *l, json_t *o, json_t *top)
{
	json_object_set(o, "top_logprobs", top);
	return (l->column[0] = text_of(o)) != NULL;
}

static bool fill_text(struct logprob *l, json_t *o, json_t *top)
{
	json_t *by_text = json_object(), *t;
	size_t i;

	json_array_foreach(top, i, t)
		json_object_set(by_text, json_string_value(json_object_get(t, "token")),
				json_object_get(t, "logprob"));
	l->column[0] = text_of(json_object_get(o, "token"));
	l->column[1] = text_of(json_object_get(o, "logprob"));
	l->column[2] = text_of(by_text);
	json_decref(by_text);
	return l->column[0] && l->column[1] && l->column[2];
}

int logprobs_add(struct choice *c, uint32_t token, float logprob,
		 const struct gp_slot_candidate *top, uint32_t n_top)
{
	const struct gp_tokenizer *t = c->exchange->server->tokenizer;
	struct logprob *l = calloc(1, sizeof *l);
	json_t *o = describe(t, token, logprob), *list = json_array();

	for (uint32_t i = 0; i < n_top; i++)
		json_array_append_new(list, describe(t, top[i].id, top[i].logit));
	const bool made = l && o && list && (c->exchange->ask.chat ? fill_chat(l, o, list)
								   : fill_text(l, o, list));
	json_decref(o);
	json_decref(list);
	if (!made) {
		if (l)
			logprob_free(l);
		return gp_fail(ENOMEM, "no memory for log probabilities");
	}
	l->begin = gp_text_made(c->text);
	if (c->logprobs.first)
		c->logprobs.last->next = l;
	else
		c->logprobs.first = l;
	c->logprobs.last = l;
	return 0;
}

/* ---- those of a piece --------------------------------------------------------------- */

/* A stop string may yet cut off a token whose text was not handed out. */
static bool is_certain(const struct choice *c, const struct logprob *l, bool all)
{
	return all || l->begin < gp_text_given(c->text);
}

bool logprobs_ready(const struct choice *c, bool all)
{
	return c->logprobs.first && is_certain(c, c->logprobs.first, all);
}

static int add_column(struct buffer *b, const struct logprob *l, const struct logprob *end, size_t i)
{
	int rc = buffer_add_text(b, "[");

	for (const char *comma = ""; l != end && rc == 0; l = l->next, comma = ",")
		if ((rc = buffer_add_text(b, comma)) == 0)
			rc = buffer_add_text(b, l->column[i]);
	return rc < 0 ? rc : buffer_add_text(b, "]");
}

static int add_columns(struct buffer *b, const struct logprob *l, const struct logprob *end)
{
	char text[32];
	int rc = 0;

	for (size_t i = 0; i < COLUMNS && rc == 0; i++) {
		snprintf(text, sizeof text, "%c\"%s\":", i ? ',' : '{', column_name[i]);
		if ((rc = buffer_add_text(b, text)) == 0)
			rc = add_column(b, l, end, i);
	}
	if (rc == 0)
		rc = buffer_add_text(b, ",\"text_offset\":[");
	for (const char *comma = ""; l != end && rc == 0; l = l->next, comma = ",") {
		snprintf(text, sizeof text, "%s%llu", comma, (unsigned long long)l->begin);
		rc = buffer_add_text(b, text);
	}
	return rc < 0 ? rc : buffer_add_text(b, "]}");
}

int logprobs_take(struct choice *c, bool all, struct buffer *b)
{
	struct logprob *end = c->logprobs.first, *next;
	int rc;

	while (end && is_certain(c, end, all))
		end = end->next;
	if (end == c->logprobs.first)
		return buffer_add_text(b, "null");
	if (!c->exchange->ask.chat)
		rc = add_columns(b, c->logprobs.first, end);
	else if ((rc = buffer_add_text(b, "{\"content\":")) == 0 &&
		 (rc = add_column(b, c->logprobs.first, end, 0)) == 0)
		rc = buffer_add_text(b, "}");
	for (struct logprob *l = c->logprobs.first; l != end; l = next) {
		next = l->next;
		logprob_free(l);
	}
	c->logprobs.first = end;
	return rc;
}

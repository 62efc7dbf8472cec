/* Answers as JSON, in OpenAI's forms. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/http/http.h"

#define LEAST_LOGPROB -9999.0f  /* JSON has no infinity */

json_t *answer_error(int status, const char *text)
{
	const char *type = status == 401   ? "authentication_error"
			   : status == 429 ? "rate_limit_error"
			   : status >= 500 ? "server_error" : "invalid_request_error";
	const char *code = status == 404 ? "not_found" : status == 413 ? "too_large" : NULL;
	json_t *message = json_string(text);

	/* What a client sent stands in it, which may be broken. */
	return json_pack("{s:{s:o, s:s, s:n, s:s?}}", "error", "message",
			 message ? message : json_string("the request is not valid"), "type", type,
			 "param", "code", code);
}

/* ---- log probabilities --------------------------------------------------------- */

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

void answer_logprob(struct choice *c, uint32_t token, float logprob,
		    const struct gp_slot_candidate *top, uint32_t n_top)
{
	const struct gp_tokenizer *t = c->exchange->server->tokenizer;
	json_t *o = describe(t, token, logprob), *list = json_array();

	for (uint32_t i = 0; i < n_top; i++)
		json_array_append_new(list, describe(t, top[i].id, top[i].logit));
	json_object_set_new(o, "top_logprobs", list);
	if (!c->logprobs)
		c->logprobs = json_array();
	json_array_append_new(c->logprobs, o);
}

/* The completions' form of the same. */
static json_t *as_columns(json_t *entries)
{
	json_t *tokens = json_array(), *logprobs = json_array(), *tops = json_array(), *e, *t;
	size_t i, k;

	json_array_foreach(entries, i, e) {
		json_t *top = json_object();

		json_array_append(tokens, json_object_get(e, "token"));
		json_array_append(logprobs, json_object_get(e, "logprob"));
		json_array_foreach(json_object_get(e, "top_logprobs"), k, t)
			json_object_set(top, json_string_value(json_object_get(t, "token")),
					json_object_get(t, "logprob"));
		json_array_append_new(tops, top);
	}
	return json_pack("{s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", logprobs,
			 "top_logprobs", tops);
}

/* Those not told of yet; they are told of now. */
static json_t *take_logprobs(struct choice *c)
{
	json_t *list = c->logprobs;

	c->logprobs = NULL;
	if (!list)
		return json_null();
	if (c->exchange->ask.chat)
		return json_pack("{s:o}", "content", list);
	json_t *columns = as_columns(list);
	json_decref(list);
	return columns;
}

/* ---- the frame --------------------------------------------------------------------- */

static const char *finish_name(const struct choice *c)
{
	return c->stopped || c->why == GP_FINISH_STOP ? "stop" : "length";
}

static json_t *usage_of(const struct exchange *x)
{
	json_int_t prompt = 0, made = 0;

	for (size_t i = 0; i < x->ask.n_prompts; i++)
		prompt += (json_int_t)x->ask.prompts[i].n;
	for (uint32_t i = 0; i < x->n_choices; i++)
		made += x->choices[i].n_tokens;
	return json_pack("{s:I, s:I, s:I}", "prompt_tokens", prompt, "completion_tokens", made,
			 "total_tokens", prompt + made);
}

static json_t *frame(const struct exchange *x, bool chunk, json_t *choices)
{
	char id[64];

	snprintf(id, sizeof id, "%s-%llx-%llu", x->ask.chat ? "chatcmpl" : "cmpl",
		 (unsigned long long)x->server->began, (unsigned long long)x->id);
	return json_pack("{s:s, s:s, s:I, s:s, s:o, s:s*}", "id", id, "object",
			 !x->ask.chat ? "text_completion"
			 : chunk ? "chat.completion.chunk" : "chat.completion",
			 "created", (json_int_t)x->created, "model", x->server->options->model_name,
			 "choices", choices, "service_tier", x->ask.tier);
}

/* Consumes o. */
static int send_event(struct exchange *x, json_t *o)
{
	char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(8)) : NULL;
	int rc = text ? 0 : gp_fail(ENOMEM, "no memory for an answer");

	if (rc == 0 && (rc = buffer_add(&x->out, "data: ", 6)) == 0 &&
	    (rc = buffer_add(&x->out, text, strlen(text))) == 0)
		rc = buffer_add(&x->out, "\n\n", 2);
	free(text);
	json_decref(o);
	return rc;
}

static int send_piece(struct exchange *x, struct choice *c, json_t *delta, const char *finish)
{
	json_t *choice = json_pack("{s:i, s:o, s:o, s:s?}", "index", (int)c->index,
				   x->ask.chat ? "delta" : "text", delta, "logprobs",
				   take_logprobs(c), "finish_reason", finish);
	json_t *o = choice ? frame(x, true, json_pack("[o]", choice)) : NULL;

	/* Where usage is wanted every piece says that it is not there yet. */
	if (o && x->ask.usage)
		json_object_set_new(o, "usage", json_null());
	return send_event(x, o);
}

int answer_begin(struct exchange *x)
{
	int rc = 0;

	for (uint32_t i = 0; i < x->n_choices && x->ask.chat && rc == 0; i++) {
		struct choice first = { .exchange = x, .index = i };

		rc = send_piece(x, &first, json_pack("{s:s, s:s}", "role", "assistant", "content", ""),
				NULL);
	}
	return rc;
}

int answer_piece(struct exchange *x, struct choice *c, const char *text, size_t bytes, bool finish)
{
	int rc = 0;

	if (bytes || c->logprobs)
		rc = send_piece(x, c, x->ask.chat ? json_pack("{s:s%}", "content", text, bytes)
						  : json_stringn(text, bytes), NULL);
	if (rc == 0 && finish)
		rc = send_piece(x, c, x->ask.chat ? json_object() : json_string(""), finish_name(c));
	return rc;
}

int answer_end(struct exchange *x)
{
	static const char done[] = "data: [DONE]\n\n";
	int rc = 0;

	if (x->ask.usage) {
		json_t *o = frame(x, true, json_array());

		json_object_set_new(o, "usage", usage_of(x));
		rc = send_event(x, o);
	}
	return rc < 0 ? rc : buffer_add(&x->out, done, sizeof done - 1);
}

json_t *answer_whole(struct exchange *x)
{
	json_t *choices = json_array();

	for (uint32_t i = 0; i < x->n_choices; i++) {
		struct choice *c = &x->choices[i];
		json_t *text = json_stringn(c->all.data ? c->all.data : "", c->all.n);
		json_t *o = json_pack("{s:i, s:o, s:o, s:s}", "index", (int)i,
				      x->ask.chat ? "message" : "text",
				      x->ask.chat ? json_pack("{s:s, s:o}", "role", "assistant",
							      "content", text) : text,
				      "logprobs", take_logprobs(c), "finish_reason", finish_name(c));

		json_array_append_new(choices, o);
	}
	json_t *o = frame(x, false, choices);
	json_object_set_new(o, "usage", usage_of(x));
	return o;
}

/* Answers as JSON, in OpenAI's forms. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/http/http.h"

static const char *code_of(int status)
{
	return status == 401 ? "invalid_api_key" : status == 404 ? "not_found"
	     : status == 413 ? "too_large" : NULL;
}

/* What a client sent stands in messages; where it is broken, or was cut inside a character, only
 * its ASCII is shown. */
static json_t *shown(const char *text)
{
	json_t *o = json_string(text);
	char *plain = o ? NULL : strdup(text);

	for (char *c = plain; c && *c; c++)
		if (*c & 0x80)
			*c = '?';
	if (plain)
		o = json_string(plain);
	free(plain);
	return o;
}

json_t *answer_error(int status, const char *code, const char *param, const char *text)
{
	const char *type = status == 401   ? "authentication_error"
			   : status == 429 ? "rate_limit_error"
			   : status >= 500 ? "server_error" : "invalid_request_error";
	json_t *field = param && *param ? shown(param) : NULL;

	return json_pack("{s:{s:o, s:s, s:o, s:s?}}", "error", "message", shown(text), "type", type,
			 "param", field ? field : json_null(), "code", code ? code : code_of(status));
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

/* Consumes o. */
static int add_json(struct buffer *b, json_t *o)
{
	char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(8) | JSON_ENCODE_ANY)
		       : NULL;
	const int rc = text ? buffer_add_text(b, text) : gp_fail(ENOMEM, "no memory for an answer");

	free(text);
	json_decref(o);
	return rc;
}

/* An object that is to go on. Consumes o. */
static int open_json(struct buffer *b, json_t *o)
{
	const int rc = add_json(b, o);

	b->n -= rc == 0;
	return rc;
}

/* Choices follow, then close_frame. */
static int open_frame(const struct exchange *x, bool chunk, struct buffer *b)
{
	char id[64];
	int rc;

	snprintf(id, sizeof id, "%s-%llx-%llu", x->ask.chat ? "chatcmpl" : "cmpl",
		 (unsigned long long)x->server->began, (unsigned long long)x->id);
	rc = open_json(b, json_pack("{s:s, s:s, s:I, s:s, s:s*}", "id", id, "object",
				    !x->ask.chat ? "text_completion"
				    : chunk ? "chat.completion.chunk" : "chat.completion",
				    "created", (json_int_t)x->created, "model",
				    x->server->options->model_name, "service_tier", x->ask.tier));
	return rc < 0 ? rc : buffer_add_text(b, ",\"choices\":[");
}

static int close_frame(struct buffer *b, json_t *usage)
{
	int rc = buffer_add_text(b, "]");

	if (rc == 0 && usage && (rc = buffer_add_text(b, ",\"usage\":")) == 0)
		rc = add_json(b, json_incref(usage));
	json_decref(usage);
	return rc < 0 ? rc : buffer_add_text(b, "}");
}

/* What: its text, delta or message; consumed. all: there will be no more of it. */
static int add_choice(struct buffer *b, struct choice *c, const char *name, json_t *what,
		      const char *finish, bool all)
{
	int rc = open_json(b, json_pack("{s:i, s:o, s:s?}", "index", (int)c->index, name, what,
					"finish_reason", finish));

	if (rc == 0 && (rc = buffer_add_text(b, ",\"logprobs\":")) == 0)
		rc = logprobs_take(c, all, b);
	return rc < 0 ? rc : buffer_add_text(b, "}");
}

/* ---- streams ------------------------------------------------------------------------ */

/* What was sent makes room, so that one who always lags a little holds little. */
static int begin_event(struct exchange *x)
{
	if (x->sent >= x->out.n / 2) {
		if (x->sent < x->out.n)
			memmove(x->out.data, x->out.data + x->sent, x->out.n - x->sent);
		x->out.n -= x->sent;
		x->sent = 0;
	}
	x->complete = x->out.n;
	return buffer_add_text(&x->out, "data: ");
}

static int end_event(struct exchange *x)
{
	const int rc = buffer_add_text(&x->out, "\n\n");

	x->complete = rc == 0 ? x->out.n : x->complete;
	return rc;
}

static int send_piece(struct exchange *x, struct choice *c, json_t *delta, const char *finish, bool all)
{
	int rc;

	if ((rc = begin_event(x)) < 0 || (rc = open_frame(x, true, &x->out)) < 0) {
		json_decref(delta);
		return rc;
	}
	if ((rc = add_choice(&x->out, c, x->ask.chat ? "delta" : "text", delta, finish, all)) < 0)
		return rc;
	/* Where usage is wanted every piece says that it is not there yet. */
	rc = close_frame(&x->out, x->ask.usage ? json_null() : NULL);
	return rc < 0 ? rc : end_event(x);
}

int answer_begin(struct exchange *x)
{
	int rc = 0;

	for (uint32_t i = 0; i < x->n_choices && x->ask.chat && rc == 0; i++) {
		struct choice first = { .exchange = x, .index = i };

		rc = send_piece(x, &first, json_pack("{s:s, s:s}", "role", "assistant", "content", ""),
				NULL, false);
	}
	return rc;
}

int answer_piece(struct exchange *x, struct choice *c, const char *text, size_t bytes, bool finish)
{
	const bool all = finish && !c->stopped;
	int rc = 0;

	if (bytes || logprobs_ready(c, all))
		rc = send_piece(x, c, x->ask.chat ? json_pack("{s:s%}", "content", text, bytes)
						  : json_stringn(text, bytes), NULL, all);
	if (rc == 0 && finish)
		rc = send_piece(x, c, x->ask.chat ? json_object() : json_string(""), finish_name(c), all);
	return rc;
}

int answer_end(struct exchange *x)
{
	int rc = 0;

	if (x->ask.usage && (rc = begin_event(x)) == 0 &&
	    (rc = open_frame(x, true, &x->out)) == 0 &&
	    (rc = close_frame(&x->out, usage_of(x))) == 0)
		rc = end_event(x);
	return rc < 0 ? rc : buffer_add_text(&x->out, "data: [DONE]\n\n");
}

/* Half an event may lie there, which nobody could read. */
int answer_failure(struct exchange *x, const char *why)
{
	int rc;

	x->out.n = x->complete;
	if ((rc = begin_event(x)) < 0 || (rc = add_json(&x->out, answer_error(500, NULL, NULL, why))) < 0)
		return rc;
	return end_event(x);
}

/* ---- whole ones ----------------------------------------------------------------------- */

static json_t *text_of(const struct choice *c)
{
	json_t *text = json_stringn(c->all.data ? c->all.data : "", c->all.n);

	return !c->exchange->ask.chat ? text
				      : json_pack("{s:s, s:o}", "role", "assistant", "content", text);
}

int answer_whole(struct exchange *x, struct buffer *b)
{
	int rc = open_frame(x, false, b);

	for (uint32_t i = 0; i < x->n_choices && rc == 0; i++) {
		struct choice *c = &x->choices[i];

		if (i == 0 || (rc = buffer_add_text(b, ",")) == 0)
			rc = add_choice(b, c, x->ask.chat ? "message" : "text", text_of(c), finish_name(c),
					!c->stopped);
	}
	return rc < 0 ? rc : close_frame(b, usage_of(x));
}

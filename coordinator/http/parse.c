/* A request's JSON. What is not known, or not offered, is refused by name: an answer
 * that silently ignores a wish is a wrong one. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "coordinator/http/http.h"

struct field {
	const char *name;
	int (*take)(struct ask *a, const char *name, json_t *v);
	bool chat, text;                /* where it may stand */
};

static int number(const char *name, json_t *v, double least, double most, float *out)
{
	const double x = json_is_number(v) ? json_number_value(v) : NAN;

	if (!(x >= least && x <= most))
		return gp_fail(EINVAL, "'%s' must be a number from %g to %g", name, least, most);
	*out = (float)x;
	return 0;
}

static int integer(const char *name, json_t *v, json_int_t least, json_int_t most, json_int_t *out)
{
	*out = json_integer_value(v);
	if (!json_is_integer(v) || *out < least || *out > most)
		return gp_fail(EINVAL, "'%s' must be an integer from %lld to %lld", name,
			       (long long)least, (long long)most);
	return 0;
}

static int boolean(const char *name, json_t *v, bool *out)
{
	*out = json_is_true(v);
	return json_is_boolean(v) ? 0 : gp_fail(EINVAL, "'%s' must be true or false", name);
}

/* ---- fields ------------------------------------------------------------------- */

/* Looked at elsewhere. */
static int take_later(struct ask *a, const char *name, json_t *v)
{
	(void)a, (void)name, (void)v;
	return 0;
}

static int take_stream(struct ask *a, const char *name, json_t *v)
{
	return boolean(name, v, &a->stream);
}

static int take_stream_options(struct ask *a, const char *name, json_t *v)
{
	const char *key;
	json_t *value;

	if (!json_is_object(v))
		return gp_fail(EINVAL, "'%s' must be an object", name);
	json_object_foreach(v, key, value) {
		if (strcmp(key, "include_usage") != 0)
			return gp_fail(EINVAL, "'%s.%.60s' is not supported", name, key);
		if (boolean("stream_options.include_usage", value, &a->usage) < 0)
			return -EINVAL;
	}
	return 0;
}

static int take_ignore_eos(struct ask *a, const char *name, json_t *v)
{
	return boolean(name, v, &a->ignore_eos);
}

static int take_n(struct ask *a, const char *name, json_t *v)
{
	json_int_t n;
	const int rc = integer(name, v, 1, HTTP_MAX_N, &n);

	a->n = (uint32_t)n;
	return rc;
}

static int take_max_tokens(struct ask *a, const char *name, json_t *v)
{
	json_int_t n;
	const int rc = integer(name, v, 1, 1 << 24, &n);

	a->max_new = (uint32_t)n;
	return rc;
}

static int take_seed(struct ask *a, const char *name, json_t *v)
{
	json_int_t n;
	const int rc = integer(name, v, INT64_MIN, INT64_MAX, &n);

	a->sampling.seed = (uint64_t)n;
	return rc;
}

static int take_temperature(struct ask *a, const char *name, json_t *v)
{
	return number(name, v, 0, 100, &a->sampling.temperature);
}

/* 0 is the likeliest token alone; the sampler's 0 is off. */
static int take_top_p(struct ask *a, const char *name, json_t *v)
{
	const int rc = number(name, v, 0, 1, &a->sampling.top_p);

	a->sampling.top_p = fmaxf(a->sampling.top_p, FLT_MIN);
	return rc;
}

static int take_min_p(struct ask *a, const char *name, json_t *v)
{
	return number(name, v, 0, 1, &a->sampling.min_p);
}

static int take_top_k(struct ask *a, const char *name, json_t *v)
{
	json_int_t n;
	const int rc = integer(name, v, -1, 1 << 24, &n);

	a->sampling.top_k = n > 0 ? (uint32_t)n : 0;
	return rc;
}

static int take_repeat_penalty(struct ask *a, const char *name, json_t *v)
{
	const int rc = number(name, v, 0, 100, &a->sampling.repeat_penalty);

	/* Logits are divided by it. */
	if (rc == 0 && a->sampling.repeat_penalty > 0 && a->sampling.repeat_penalty < 0.01f)
		return gp_fail(EINVAL, "'%s' must be 0, which is off, or from 0.01 to 100", name);
	return rc;
}

static int take_presence_penalty(struct ask *a, const char *name, json_t *v)
{
	return number(name, v, -2, 2, &a->sampling.presence_penalty);
}

static int take_frequency_penalty(struct ask *a, const char *name, json_t *v)
{
	return number(name, v, -2, 2, &a->sampling.frequency_penalty);
}

static int take_bias(struct ask *a, const char *name, json_t *v)
{
	const size_t n = json_object_size(v);
	struct gp_logit_bias *list = calloc(n + 1, sizeof *list);
	const char *key;
	json_t *value;
	int rc = 0;

	if (!list)
		return gp_fail(ENOMEM, "no memory for '%s'", name);
	a->sampling.bias = list;
	if (!json_is_object(v) || n > 1024)
		return gp_fail(EINVAL, "'%s' must be an object of at most 1024 token ids", name);
	json_object_foreach(v, key, value) {
		uint64_t id;

		rc = gp_parse_u64("logit_bias", key, 0, UINT32_MAX, &id);
		if (rc == 0)
			rc = number(name, value, -100, 100, &list[a->sampling.n_bias].bias);
		if (rc < 0)
			return rc;
		list[a->sampling.n_bias++].token = (uint32_t)id;
	}
	return 0;
}

static int add_stop(struct ask *a, json_t *v)
{
	const char *s = json_string_value(v);

	if (!s || !*s || strlen(s) > HTTP_MAX_STOP_BYTES || a->n_stops == HTTP_MAX_STOPS)
		return gp_fail(EINVAL, "'stop' must be a string or up to %u of them, none empty and each of at "
			       "most %u bytes", HTTP_MAX_STOPS, HTTP_MAX_STOP_BYTES);
	if (!(a->stops[a->n_stops] = strdup(s)))
		return gp_fail(ENOMEM, "no memory for 'stop'");
	a->n_stops++;
	return 0;
}

static int take_stop(struct ask *a, const char *name, json_t *v)
{
	int rc = 0;

	(void)name;
	if (!json_is_array(v))
		return add_stop(a, v);
	for (size_t i = 0; i < json_array_size(v) && rc == 0; i++)
		rc = add_stop(a, json_array_get(v, i));
	return rc;
}

/* Chat: true or false, and top_logprobs says how many; completions: how many. */
static int take_logprobs(struct ask *a, const char *name, json_t *v)
{
	json_int_t n;

	if (a->chat)
		return boolean(name, v, &a->logprobs);
	if (integer(name, v, 0, HTTP_MAX_TOP, &n) < 0)
		return -EINVAL;
	a->logprobs = true;
	a->n_top = (uint32_t)n;
	return 0;
}

static int take_top_logprobs(struct ask *a, const char *name, json_t *v)
{
	json_int_t n;
	const int rc = integer(name, v, 0, HTTP_MAX_TOP, &n);

	a->n_top = (uint32_t)n;
	return rc;
}

/* FNV-1a (Fowler, Noll, Vo). */
static int take_user(struct ask *a, const char *name, json_t *v)
{
	const char *s = json_string_value(v);
	uint64_t h = 0xcbf29ce484222325u;

	if (!s)
		return gp_fail(EINVAL, "'%s' must be a string", name);
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3u;
	a->user = h;
	return 0;
}

/* OpenAI's names. "auto" is the project's own, which is "default" here. */
static int take_tier(struct ask *a, const char *name, json_t *v)
{
	static const struct {
		const char *name, *is;
		int32_t priority;
	} tiers[] = { { "auto", "default", 0 }, { "default", "default", 0 }, { "flex", "flex", -1 },
		      { "priority", "priority", 1 } };
	const char *s = json_string_value(v);

	for (size_t i = 0; s && i < GP_ARRAY_LEN(tiers); i++) {
		if (strcmp(tiers[i].name, s) == 0) {
			a->tier = tiers[i].is;
			a->priority = tiers[i].priority;
			return 0;
		}
	}
	return gp_fail(EINVAL, "'%s' must be 'auto', 'default', 'flex' or 'priority'", name);
}

static const struct field fields[] = {
	{ "model", take_later, true, true },
	{ "messages", take_later, true, false },
	{ "prompt", take_later, false, true },
	{ "stream", take_stream, true, true },
	{ "stream_options", take_stream_options, true, true },
	{ "n", take_n, true, true },
	{ "ignore_eos", take_ignore_eos, true, true },
	{ "max_tokens", take_max_tokens, true, true },
	{ "max_completion_tokens", take_max_tokens, true, false },
	{ "seed", take_seed, true, true },
	{ "temperature", take_temperature, true, true },
	{ "top_p", take_top_p, true, true },
	{ "min_p", take_min_p, true, true },
	{ "top_k", take_top_k, true, true },
	{ "repeat_penalty", take_repeat_penalty, true, true },
	{ "presence_penalty", take_presence_penalty, true, true },
	{ "frequency_penalty", take_frequency_penalty, true, true },
	{ "logit_bias", take_bias, true, true },
	{ "stop", take_stop, true, true },
	{ "logprobs", take_logprobs, true, true },
	{ "top_logprobs", take_top_logprobs, true, false },
	{ "user", take_user, true, true },
	{ "service_tier", take_tier, true, true },
};

static int take_field(struct ask *a, const char *name, json_t *v)
{
	for (size_t i = 0; i < GP_ARRAY_LEN(fields); i++) {
		const struct field *f = &fields[i];

		if (strcmp(f->name, name) == 0 && (a->chat ? f->chat : f->text))
			return json_is_null(v) ? 0 : f->take(a, name, v);
	}
	return gp_fail(EINVAL, "'%.60s' is not supported here; leave it out", name);
}

/* ---- prompts ------------------------------------------------------------------- */

/* {"type": "text", "text": TEXT} */
static int take_part(json_t *part, size_t i, struct buffer *all)
{
	const char *type = json_string_value(json_object_get(part, "type")), *key;
	json_t *text = json_object_get(part, "text"), *unused;

	json_object_foreach(part, key, unused)
		if (strcmp(key, "type") != 0 && strcmp(key, "text") != 0 && !json_is_null(unused))
			return gp_fail(EINVAL, "'messages[%zu].content': '%.60s' of a part is not supported; "
				       "leave it out; gempipe takes text, no images", i, key);
	if (!type || strcmp(type, "text") != 0 || !json_is_string(text))
		return gp_fail(EINVAL, "'messages[%zu].content': each part must have the type text and a text; "
			       "gempipe takes no images", i);
	return buffer_add(all, json_string_value(text), json_string_length(text));
}

/* A string, or a list of parts that are text; *owned: what is to be freed. */
static int take_content(json_t *v, size_t i, const char **content, char **owned)
{
	struct buffer all = { 0 };
	int rc = 0;

	if ((*content = json_string_value(v)))
		return 0;
	if (!json_is_array(v))
		return gp_fail(EINVAL, "'messages[%zu].content' must be a string, or a list of parts of type "
			       "text", i);
	for (size_t k = 0; k < json_array_size(v) && rc == 0; k++)
		rc = take_part(json_array_get(v, k), i, &all);
	if (rc == 0)
		rc = buffer_add(&all, "", 1);
	*content = *owned = all.data;
	return rc;
}

static int take_message(json_t *v, size_t i, struct gp_chat_message *m, char **owned)
{
	const char *role = json_string_value(json_object_get(v, "role")), *key;
	json_t *unused;

	json_object_foreach(v, key, unused)
		if (strcmp(key, "role") != 0 && strcmp(key, "content") != 0 &&
		    !json_is_null(unused))
			return gp_fail(EINVAL, "'messages[%zu].%.60s' is not supported; leave it out", i,
				       key);
	if (!role)
		return gp_fail(EINVAL, "'messages[%zu]' must be an object with a role", i);
	m->role = strcmp(role, "developer") == 0 ? "system" : role;
	return take_content(json_object_get(v, "content"), i, &m->content, owned);
}

/* The tokenizer's says nothing of the context. */
static int too_long(const char *name, uint32_t context)
{
	return gp_fail(E2BIG, "'%s' has more tokens than the context, which is %u; shorten it or raise "
		       "--ctx", name, context);
}

/* All answers queue at once. */
static int make_prompts(struct ask *a, size_t n, const struct server *s)
{
	const uint32_t queue = gp_engine_max_queue(s->engine);

	if (n > HTTP_MAX_CHOICES / a->n)
		return gp_fail(EINVAL, "'prompt': %zu prompts with %u answers each are too many; %u answers "
			       "are the most", n, a->n, HTTP_MAX_CHOICES);
	if (queue && n * a->n > queue)
		return gp_fail(EINVAL, "'n': %zu answers are more than may wait here, which is %u; ask for "
			       "fewer at a time", n * a->n, queue);
	a->prompts = calloc(n, sizeof *a->prompts);
	if (!a->prompts)
		return gp_fail(ENOMEM, "no memory for %zu prompts", n);
	a->n_prompts = n;
	return 0;
}

static int encode_chat(struct ask *a, json_t *json, const struct server *s)
{
	json_t *list = json_object_get(json, "messages");
	const size_t n = json_array_size(list);
	struct gp_chat_message *m = calloc(n + 1, sizeof *m);
	char **owned = calloc(n + 1, sizeof *owned);
	int rc = m && owned ? 0 : gp_fail(ENOMEM, "no memory for %zu messages", n);

	for (size_t i = 0; i < n && rc == 0; i++)
		rc = take_message(json_array_get(list, i), i, &m[i], &owned[i]);
	/* Contents are plain text, whatever they look like. */
	if (rc == 0 && (rc = make_prompts(a, 1, s)) == 0)
		rc = gp_chat_encode_most(s->tokenizer, m, n, s->context, &a->prompts->ids,
					 &a->prompts->n);
	if (rc == -E2BIG)
		rc = too_long("messages", s->context);
	for (size_t i = 0; owned && i < n; i++)
		free(owned[i]);
	free(owned);
	free(m);
	return rc;
}

#define PROMPT_FORMS "'prompt' must be a string, a list of strings, a list of token ids, or a list " \
	"of such lists"

static int take_ids(struct prompt *p, json_t *list, uint32_t context)
{
	const size_t n = json_array_size(list);

	if (n > context)
		return -E2BIG;
	p->ids = calloc(n + 1, sizeof *p->ids);
	if (!p->ids)
		return gp_fail(ENOMEM, "no memory for %zu tokens", n);
	for (; p->n < n; p->n++) {
		json_t *v = json_array_get(list, p->n);

		if (!json_is_integer(v) || json_integer_value(v) < 0 ||
		    json_integer_value(v) > UINT32_MAX)
			return gp_fail(EINVAL, PROMPT_FORMS);
		p->ids[p->n] = (uint32_t)json_integer_value(v);
	}
	return 0;
}

/* A text with <bos> in front, or ids. */
static int encode_one(struct prompt *p, json_t *v, const struct server *s)
{
	int rc;

	if (json_is_string(v))
		rc = gp_tokenizer_encode_most(s->tokenizer, json_string_value(v), json_string_length(v),
					      GP_ENCODE_BOS, s->context, &p->ids, &p->n);
	else
		rc = json_is_array(v) ? take_ids(p, v, s->context) : gp_fail(EINVAL, PROMPT_FORMS);
	return rc == -E2BIG ? too_long("prompt", s->context) : rc;
}

static int encode_prompts(struct ask *a, json_t *json, const struct server *s)
{
	json_t *v = json_object_get(json, "prompt"), *first = json_array_get(v, 0);
	const bool many = json_is_string(first) || json_is_array(first);
	int rc = make_prompts(a, many ? json_array_size(v) : 1, s);

	for (size_t i = 0; i < a->n_prompts && rc == 0; i++) {
		json_t *one = many ? json_array_get(v, i) : v;

		if (many && json_typeof(one) != json_typeof(first))
			rc = gp_fail(EINVAL, PROMPT_FORMS);
		else
			rc = encode_one(&a->prompts[i], one, s);
	}
	return rc;
}

/* ---- the whole ------------------------------------------------------------------- */

static int blame(struct ask *a, const char *field, int rc)
{
	if (rc < 0)
		snprintf(a->param, sizeof a->param, "%s", field);
	return rc;
}

static int check_model(json_t *json, const char *model_name)
{
	json_t *v = json_object_get(json, "model");

	if (!json_is_string(v))
		return gp_fail(EINVAL, "'model' must be a string; this server has '%s'", model_name);
	if (strcmp(json_string_value(v), model_name) != 0)
		return gp_fail(ENOENT, "there is no model '%.100s' here; this server has '%s'",
			       json_string_value(v), model_name);
	return 0;
}

static int check_ids(struct ask *a, const struct server *s)
{
	const uint32_t vocab = gp_engine_config(s->engine)->vocab;

	for (size_t i = 0; i < a->sampling.n_bias; i++)
		if (a->sampling.bias[i].token >= vocab)
			return blame(a, "logit_bias", gp_fail(EINVAL, "'logit_bias': token %u is not in the "
				     "vocabulary of %u", a->sampling.bias[i].token, vocab));
	for (size_t p = 0; p < a->n_prompts; p++) {
		if (!a->prompts[p].n)
			return blame(a, "prompt", gp_fail(EINVAL, "'prompt' %zu has no tokens", p));
		for (size_t i = 0; i < a->prompts[p].n; i++)
			if (a->prompts[p].ids[i] >= vocab)
				return blame(a, "prompt", gp_fail(EINVAL, "'prompt' %zu: token %u is not in "
					     "the vocabulary of %u", p, a->prompts[p].ids[i], vocab));
	}
	return 0;
}

static int check_together(struct ask *a)
{
	if (a->usage && !a->stream)
		return blame(a, "stream_options",
			     gp_fail(EINVAL, "'stream_options' is for streams; leave it out"));
	if (a->chat && a->n_top && !a->logprobs)
		return blame(a, "top_logprobs", gp_fail(EINVAL, "'top_logprobs' needs 'logprobs': true"));
	return 0;
}

static int take_all(struct ask *a, json_t *json, const struct server *s)
{
	const char *name;
	json_t *v;
	int rc = 0;

	json_object_foreach(json, name, v)
		if ((rc = take_field(a, name, v)) < 0)
			return blame(a, name, rc);
	if ((rc = check_model(json, s->options->model_name)) < 0)
		return blame(a, "model", rc);
	if ((rc = check_together(a)) < 0)
		return rc;
	rc = a->chat ? blame(a, "messages", encode_chat(a, json, s))
		     : blame(a, "prompt", encode_prompts(a, json, s));
	return rc < 0 ? rc : check_ids(a, s);
}

int ask_parse(struct ask *a, bool chat, const char *body, size_t bytes, const struct server *s)
{
	json_error_t error;
	json_t *json;
	int rc;

	/* The settings that the model's authors recommend. */
	*a = (struct ask){ .chat = chat, .n = 1, .max_new = UINT32_MAX,
			   .sampling = { .temperature = 1, .top_k = 64, .top_p = 0.95f } };
	if (getrandom(&a->sampling.seed, sizeof a->sampling.seed, 0) < 0)
		return gp_fail(errno, "no random numbers: %s", strerror(errno));
	json = json_loadb(body, bytes, JSON_REJECT_DUPLICATES, &error);
	if (json_is_object(json))
		rc = take_all(a, json, s);
	else
		rc = gp_fail(EINVAL, "the body must be a JSON object: %.100s at byte %d",
			     json ? "it is something else" : error.text, json ? 0 : error.position);
	/* It may be much larger than what was taken from it, and an answer takes long. */
	json_decref(json);
	return rc;
}

void ask_free(struct ask *a)
{
	for (size_t i = 0; i < a->n_prompts; i++)
		free(a->prompts[i].ids);
	for (size_t i = 0; i < a->n_stops; i++)
		free(a->stops[i]);
	free(a->prompts);
	free((void *)(uintptr_t)a->sampling.bias);
	*a = (struct ask){ 0 };
}

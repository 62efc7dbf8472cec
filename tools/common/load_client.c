/* Streams of completions, many at a time. Prompts are token ids, so that every server gets the
 * same lengths; ends of text are ignored, so that answers have the lengths they should. */
#include <curl/curl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "tools/common/load.h"

#define LOOK_MS 100             /* at go_on */
#define MOST_TEXT (1u << 20)    /* of a line, or of an answer that is none */
/* Ids that every vocabulary has, and which stand for text. */
#define FIRST_ID 1000u
#define IDS 2048u

struct run;

struct stream {
	struct run *run;
	CURL *easy;
	struct curl_slist *headers;
	char *body, *text;              /* text: a line that is not whole yet */
	size_t n_text, room;
	uint64_t sent_ns, last_ns;      /* last_ns: of a piece; 0: none yet */
	uint32_t pieces;
	int64_t prompt_tokens, output_tokens; /* as the server counted; < 0: it did not */
	char error[160];                /* what the server said in the stream; "": nothing */
	bool whole, busy;               /* whole: [DONE] came */
};

struct run {
	const struct load_target *target;
	const struct load_level *level;
	const struct load_lengths *lengths;
	struct load_result *result;
	CURLM *multi;
	struct stream **streams;        /* of level->requests, n of them made */
	uint32_t n, busy, sent;
	uint64_t random, begin_ns, end_ns, due_ns; /* due_ns: when the next one comes */
	int rc;                         /* what went wrong with memory in a callback */
	char url[512];
};

/* ---- what is asked for ---------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static uint32_t token(const struct load_level *l, uint32_t request, uint32_t i)
{
	const uint64_t whose = i < l->shared ? 0 : (uint64_t)request + 1;

	return FIRST_ID + (uint32_t)(mix(mix(l->seed ^ (whose << 32)) ^ i) % IDS);
}

static char *make_body(const struct run *r, uint32_t request, struct load_length n)
{
	json_t *prompt = json_array(), *o;
	char *text = NULL;

	for (uint32_t i = 0; i < n.prompt; i++)
		json_array_append_new(prompt, json_integer(token(r->level, request, i)));
	o = json_pack("{s:s, s:o, s:I, s:i, s:b, s:b, s:{s:b}}", "model", r->target->model, "prompt",
		      prompt, "max_tokens", (json_int_t)n.output, "temperature", 0, "ignore_eos", 1,
		      "stream", 1, "stream_options", "include_usage", 1);
	if (o)
		text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return text;
}

/* ---- what comes ------------------------------------------------------------------- */

static void take_piece(struct stream *s)
{
	struct load_result *r = s->run->result;
	const uint64_t now = gp_now_ns(), since = s->last_ns ? s->last_ns : s->sent_ns;
	const int rc = load_times_add(s->last_ns ? &r->between : &r->first, (double)(now - since) / 1e6);

	s->run->rc = rc < 0 ? rc : s->run->rc;
	s->last_ns = now;
	s->pieces++;
}

/* An answer that breaks off has status 200: it had begun. */
static void take_error(struct stream *s, const json_t *error)
{
	const json_t *message = json_is_object(error) ? json_object_get(error, "message") : error;
	const char *text = json_string_value(message);

	snprintf(s->error, sizeof s->error, "%s", text && *text ? text : "no reason given");
}

static void take_event(struct stream *s, const char *line)
{
	json_t *o = json_loads(line, 0, NULL), *usage = json_object_get(o, "usage");
	json_t *choice = json_array_get(json_object_get(o, "choices"), 0);
	const char *text = json_string_value(json_object_get(choice, "text"));
	const json_t *error = json_object_get(o, "error");

	if (error && !json_is_null(error))
		take_error(s, error);
	if (text && *text)
		take_piece(s);
	if (json_is_object(usage)) {
		s->prompt_tokens = json_integer_value(json_object_get(usage, "prompt_tokens"));
		s->output_tokens = json_integer_value(json_object_get(usage, "completion_tokens"));
	}
	json_decref(o);
}

static void take_line(struct stream *s, const char *line)
{
	if (strncmp(line, "data: {", 7) == 0)
		take_event(s, line + 6);
	else if (strncmp(line, "data: [DONE]", 12) == 0)
		s->whole = true;
	else if (strncmp(line, "event: error", 12) == 0)
		take_error(s, NULL);
}

/* Whole lines are taken; what is left stays. */
static void take_lines(struct stream *s)
{
	char *line = s->text, *end;

	while ((end = memchr(line, '\n', s->n_text - (size_t)(line - s->text)))) {
		*end = '\0';
		take_line(s, line);
		line = end + 1;
	}
	s->n_text -= (size_t)(line - s->text);
	memmove(s->text, line, s->n_text + 1);
}

static size_t on_data(char *data, size_t one, size_t n, void *user)
{
	struct stream *s = user;
	long status = 0;

	n *= one;
	if (s->room - s->n_text <= n) {
		const size_t room = 2 * (s->n_text + n) + 4096;
		char *more = room < MOST_TEXT ? realloc(s->text, room) : NULL;

		if (!more)
			return 0;
		s->text = more;
		s->room = room;
	}
	memcpy(s->text + s->n_text, data, n);
	s->n_text += n;
	s->text[s->n_text] = '\0';
	curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
	if (status == 200 && s->run)
		take_lines(s);
	return n;
}

/* ---- one request -------------------------------------------------------------------- */

static void set_options(struct stream *s, const char *url, const char *body)
{
	curl_easy_setopt(s->easy, CURLOPT_URL, url);
	curl_easy_setopt(s->easy, CURLOPT_HTTPHEADER, s->headers);
	curl_easy_setopt(s->easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(s->easy, CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
	curl_easy_setopt(s->easy, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(s->easy, CURLOPT_WRITEDATA, s);
	curl_easy_setopt(s->easy, CURLOPT_PRIVATE, s);
	if (body) {
		curl_easy_setopt(s->easy, CURLOPT_POSTFIELDS, body);
		curl_easy_setopt(s->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
	}
}

static void free_stream(struct stream *s)
{
	if (!s)
		return;
	curl_easy_cleanup(s->easy);
	curl_slist_free_all(s->headers);
	free(s->body);
	free(s->text);
	free(s);
}

static int add_header(struct stream *s, const char *line)
{
	struct curl_slist *more = curl_slist_append(s->headers, line);

	if (!more)
		return gp_fail(ENOMEM, "no memory for headers");
	s->headers = more;
	return 0;
}

static int make_stream(struct stream **out, const struct load_target *t)
{
	struct stream *s = calloc(1, sizeof *s);
	char line[512];
	int rc = s && (s->easy = curl_easy_init()) ? 0 : gp_fail(ENOMEM, "no memory for a client");

	/* Without "Expect" curl sends a long body at once. */
	if (rc == 0 && (rc = add_header(s, "Content-Type: application/json")) == 0)
		rc = add_header(s, "Expect:");
	if (rc == 0 && t->key) {
		snprintf(line, sizeof line, "Authorization: Bearer %s", t->key);
		rc = add_header(s, line);
	}
	if (rc < 0)
		free_stream(s);
	else
		*out = s;
	return rc;
}

static int take_stream(struct run *r, struct stream **out)
{
	int rc;

	for (uint32_t i = 0; i < r->n; i++) {
		if (!r->streams[i]->busy) {
			*out = r->streams[i];
			return 0;
		}
	}
	if ((rc = make_stream(out, r->target)) < 0)
		return rc;
	(*out)->run = r;
	r->streams[r->n++] = *out;
	return 0;
}

static int send_next(struct run *r)
{
	const uint32_t i = r->sent;
	struct stream *s;
	int rc = take_stream(r, &s);

	if (rc < 0)
		return rc;
	free(s->body);
	s->body = make_body(r, i, r->lengths->of[i % r->lengths->n]);
	if (!s->body)
		return gp_fail(ENOMEM, "no memory for a request");
	s->n_text = s->pieces = 0;
	s->last_ns = 0;
	s->error[0] = '\0';
	s->whole = false;
	s->prompt_tokens = s->output_tokens = -1;
	set_options(s, r->url, s->body);
	s->sent_ns = gp_now_ns();
	if (!r->begin_ns)
		r->begin_ns = s->sent_ns;
	if (curl_multi_add_handle(r->multi, s->easy) != CURLM_OK)
		return gp_fail(ENOMEM, "libcurl takes no more requests");
	s->busy = true;
	r->busy++;
	r->sent++;
	return 0;
}

static bool has_failed(struct stream *s, CURLcode code, char *why, size_t room)
{
	long status = 0;

	curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
	if (status == 200 && s->n_text)
		take_line(s, s->text);
	if (code != CURLE_OK)
		snprintf(why, room, "%s", curl_easy_strerror(code));
	else if (status != 200)
		snprintf(why, room, "status %ld: %.200s", status, s->n_text ? s->text : "");
	else if (s->error[0])
		snprintf(why, room, "an error in the stream: %s", s->error);
	else if (!s->whole)
		snprintf(why, room, "the stream ended without data: [DONE]");
	else
		return false;
	return true;
}

static void end_stream(struct run *r, struct stream *s, CURLcode code)
{
	struct load_result *to = r->result;
	char why[sizeof to->failure];
	const bool failed = has_failed(s, code, why, sizeof why);

	curl_multi_remove_handle(r->multi, s->easy);
	s->busy = false;
	r->busy--;
	r->end_ns = gp_now_ns();
	if (failed) {
		if (!to->failed++)
			snprintf(to->failure, sizeof to->failure, "%s", why);
		return;
	}
	to->done++;
	to->counted |= s->output_tokens < 0;
	to->prompt_tokens += s->prompt_tokens > 0 ? (uint64_t)s->prompt_tokens : 0;
	to->output_tokens += s->output_tokens >= 0 ? (uint64_t)s->output_tokens : s->pieces;
	const int rc = load_times_add(&to->whole, (double)(r->end_ns - s->sent_ns) / 1e6);
	r->rc = rc < 0 ? rc : r->rc;
}

/* ---- many -------------------------------------------------------------------------- */

/* Arrivals do not wait for answers: the time to the next is distributed exponentially. */
static uint64_t draw_gap(struct run *r)
{
	r->random = mix(r->random);
	const double u = ((double)(r->random >> 11) + 0.5) * 0x1p-53;

	return (uint64_t)(-log(u) / r->level->rate * 1e9);
}

static int send_due(struct run *r)
{
	const struct load_level *l = r->level;
	int rc = 0;

	while (rc == 0 && r->sent < l->requests) {
		if (l->clients ? r->busy >= l->clients : gp_now_ns() < r->due_ns)
			return 0;
		if (!l->clients)
			r->due_ns += draw_gap(r);
		rc = send_next(r);
	}
	return rc;
}

static int patience(const struct run *r)
{
	const uint64_t now = gp_now_ns();

	if (r->level->clients || r->sent == r->level->requests || r->due_ns > now + LOOK_MS * 1000000u)
		return LOOK_MS;
	return r->due_ns > now ? (int)((r->due_ns - now) / 1000000) : 0;
}

static void take_ended(struct run *r)
{
	CURLMsg *m;
	int left;

	while ((m = curl_multi_info_read(r->multi, &left))) {
		char *s = NULL;

		if (m->msg != CURLMSG_DONE)
			continue;
		const CURLcode code = m->data.result;
		curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &s);
		end_stream(r, (struct stream *)(void *)s, code);
	}
}

static int go(struct run *r, bool (*go_on)(void *user, const struct load_result *r), void *user)
{
	int running, rc = 0;

	r->due_ns = gp_now_ns();
	while (rc == 0 && (r->busy || r->sent < r->level->requests)) {
		if ((rc = send_due(r)) < 0)
			break;
		if (curl_multi_perform(r->multi, &running) != CURLM_OK ||
		    (running && curl_multi_poll(r->multi, NULL, 0, patience(r), NULL) != CURLM_OK))
			rc = gp_fail(EIO, "libcurl does not go on");
		if (!running && !r->busy)
			curl_multi_poll(r->multi, NULL, 0, patience(r), NULL);
		take_ended(r);
		rc = rc < 0 ? rc : r->rc;
		if (rc == 0 && !go_on(user, r->result))
			rc = gp_fail(EINTR, "interrupted");
	}
	r->result->seconds = (double)(r->end_ns - r->begin_ns) / 1e9;
	return rc;
}

int load_run(const struct load_target *t, const struct load_level *l,
	     const struct load_lengths *lengths, struct load_result *result,
	     bool (*go_on)(void *user, const struct load_result *r), void *user)
{
	struct run r = { .target = t, .level = l, .lengths = lengths, .result = result,
			 .random = l->seed };
	int rc;

	*result = (struct load_result){ 0 };
	snprintf(r.url, sizeof r.url, "%s/completions", t->url);
	r.multi = curl_multi_init();
	r.streams = calloc(l->requests, sizeof(struct stream *));
	rc = r.multi && r.streams ? go(&r, go_on, user) : gp_fail(ENOMEM, "no memory for clients");
	for (uint32_t i = 0; i < r.n; i++) {
		if (r.streams[i]->busy)
			curl_multi_remove_handle(r.multi, r.streams[i]->easy);
		free_stream(r.streams[i]);
	}
	free(r.streams);
	curl_multi_cleanup(r.multi);
	load_times_sort(&result->first);
	load_times_sort(&result->between);
	load_times_sort(&result->whole);
	return rc;
}

void load_result_free(struct load_result *r)
{
	free(r->first.ms);
	free(r->between.ms);
	free(r->whole.ms);
	*r = (struct load_result){ 0 };
}

int load_find_model(const struct load_target *t, char **model)
{
	struct stream *s;
	char url[512];
	long status = 0;
	int rc = make_stream(&s, t);

	*model = NULL;
	if (rc < 0)
		return rc;
	snprintf(url, sizeof url, "%s/models", t->url);
	set_options(s, url, NULL);
	const CURLcode code = curl_easy_perform(s->easy);
	curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
	json_t *o = code == CURLE_OK && s->n_text ? json_loadb(s->text, s->n_text, 0, NULL) : NULL;
	json_t *first = json_array_get(json_object_get(o, "data"), 0);
	const char *id = json_string_value(json_object_get(first, "id"));
	if (id)
		*model = strdup(id);
	else
		rc = gp_fail(EPROTO, "%s: no model there (%s, status %ld); the address must be that of "
			     "OpenAI's API, such as http://127.0.0.1:8080/v1", url,
			     curl_easy_strerror(code), status);
	json_decref(o);
	free_stream(s);
	return rc < 0 || *model ? rc : gp_fail(ENOMEM, "no memory for a name");
}

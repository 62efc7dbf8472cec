#include "tools/common/load_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"

#define HEAD_FORMAT "%-9s %8s %6s %6s %6s %8s %8s %8s %8s %8s %8s %8s\n"
#define ROW_FORMAT "%-9s %8u %6u %6.0f %6.0f %8.2f %8.0f %8.0f %8.0f %8.1f %8.1f %8.1f\n"

static double per(double n, double of)
{
	return of > 0 ? n / of : 0;
}

static double tokens_per_s(const struct load_result *t)
{
	return per((double)t->output_tokens, t->seconds);
}

void load_report_begin(const struct load_report *r, const char *what)
{
	if (r->json)
		return;
	printf("%s: through HTTP, as its users see it. tokens/s: those of all answers together by\n"
	       "the wall time, prompts included; between: from one piece of a stream's text to the next.\n\n"
	       HEAD_FORMAT HEAD_FORMAT, what,
	       "", "", "", "in", "out", "out", "first", "token ms", "", "between", "tokens", "ms",
	       "load", "requests", "failed", "mean", "mean", "tokens/s", "p50", "p95", "p99", "p50",
	       "p95", "p99");
}

static void name_load(char text[32], const struct load_level *l)
{
	if (l->clients)
		snprintf(text, 32, "%u", l->clients);
	else
		snprintf(text, 32, "%g/s", l->rate);
}

static void print_line(const struct load_level *l, const struct load_result *t)
{
	char load[32];

	name_load(load, l);
	printf(ROW_FORMAT, load, t->done + t->failed, t->failed,
	       per((double)t->prompt_tokens, t->done), per((double)t->output_tokens, t->done),
	       tokens_per_s(t), load_times_at(&t->first, 0.5), load_times_at(&t->first, 0.95),
	       load_times_at(&t->first, 0.99), load_times_at(&t->between, 0.5),
	       load_times_at(&t->between, 0.95), load_times_at(&t->between, 0.99));
	if (t->failed)
		printf("        ^ the first that failed: %s\n", t->failure);
	if (t->counted)
		printf("        ^ the server does not count tokens: pieces of text are counted\n");
	fflush(stdout);
}

/* Null: there is none. */
static json_t *time_json(const struct load_times *t, double share)
{
	return t->n ? json_real(load_times_at(t, share)) : json_null();
}

static json_t *times_json(const struct load_times *t)
{
	return json_pack("{s:I, s:o, s:o, s:o, s:o, s:o}", "n", (json_int_t)t->n, "first",
			 t->n ? json_real(t->first) : json_null(), "p50", time_json(t, 0.5), "p95",
			 time_json(t, 0.95), "p99", time_json(t, 0.99), "max", time_json(t, 1));
}

int load_report_add(struct load_report *r, const struct load_level *l, const struct load_result *t)
{
	if (!r->json) {
		print_line(l, t);
		return 0;
	}
	if (!r->results)
		r->results = json_array();
	json_t *o = json_pack(
		"{s:s, s:o, s:o, s:I, s:I, s:s?, s:I, s:I, s:I, s:b, s:f, s:f, s:f, s:o, s:o, s:o}",
		"test", "serve", "clients", l->clients ? json_integer(l->clients) : json_null(),
		"requests_per_s_offered", l->clients ? json_null() : json_real(l->rate),
		"requests", (json_int_t)t->done + t->failed, "failed", (json_int_t)t->failed, "failure",
		t->failed ? t->failure : NULL, "shared_tokens", (json_int_t)l->shared,
		"prompt_tokens", (json_int_t)t->prompt_tokens,
		"output_tokens", (json_int_t)t->output_tokens, "output_counted_in_pieces", (int)t->counted,
		"seconds", t->seconds, "output_tokens_per_s", tokens_per_s(t),
		"requests_per_s", per(t->done, t->seconds), "time_to_first_token_ms", times_json(&t->first),
		"time_between_tokens_ms", times_json(&t->between), "request_ms", times_json(&t->whole));
	if (!o || json_array_append_new(r->results, o) < 0)
		return gp_fail(ENOMEM, "no memory for the results");
	return 0;
}

static json_t *stages_json(struct gp_engine *e)
{
	json_t *all = json_array();
	struct gp_engine_stats s;

	gp_engine_snapshot(e, &s); /* another thread serves */
	for (uint32_t k = 0; k < s.n_stages; k++)
		json_array_append_new(all, json_pack(
			"{s:s, s:s, s:I, s:I}", "device", s.stage[k].device, "description",
			s.stage[k].description, "first_layer", (json_int_t)s.stage[k].first_layer,
			"last_layer", (json_int_t)s.stage[k].end_layer - 1));
	return all;
}

int load_report_end(struct load_report *r, const struct load_target *t, struct gp_engine *engine)
{
	if (!r->json)
		return 0;
	const struct gp_plan *p = engine ? gp_engine_plan(engine) : NULL;
	json_t *all = json_pack("{s:s, s:s, s:s, s:o, s:o, s:O}", "version", GP_VERSION,
				"model", t->model, "url", t->url, "max_sequences",
				p ? json_integer(p->max_sequences) : json_null(), "stages",
				engine ? stages_json(engine) : json_null(), "results", r->results);
	if (!all)
		return gp_fail(ENOMEM, "no memory for the results");
	json_dumpf(all, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(all);
	return 0;
}

void load_report_free(struct load_report *r)
{
	json_decref(r->results);
	r->results = NULL;
}

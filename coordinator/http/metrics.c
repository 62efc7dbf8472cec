/* What Prometheus reads. */
#include <stdio.h>
#include <stdlib.h>

#include "coordinator/http/http.h"

static const double bounds_s[HTTP_BUCKETS] = { 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
					       0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600 };

void histogram_add(struct histogram *h, uint64_t ns)
{
	uint32_t i = 0;

	while (i < HTTP_BUCKETS && (double)ns > bounds_s[i] * 1e9)
		i++;
	atomic_fetch_add(&h->count[i], 1);
	atomic_fetch_add(&h->sum_ns, ns);
}

static void head(FILE *f, const char *name, const char *kind, const char *help)
{
	fprintf(f, "# HELP gempipe_%s %s\n# TYPE gempipe_%s %s\n", name, help, name, kind);
}

static void value(FILE *f, const char *name, const char *kind, const char *help, uint64_t v)
{
	head(f, name, kind, help);
	fprintf(f, "gempipe_%s %llu\n", name, (unsigned long long)v);
}

static void show_histogram(FILE *f, const char *name, const char *help, struct histogram *h)
{
	uint64_t n = 0;

	head(f, name, "histogram", help);
	for (uint32_t i = 0; i < HTTP_BUCKETS; i++) {
		n += atomic_load(&h->count[i]);
		fprintf(f, "gempipe_%s_bucket{le=\"%g\"} %llu\n", name, bounds_s[i],
			(unsigned long long)n);
	}
	n += atomic_load(&h->count[HTTP_BUCKETS]);
	fprintf(f, "gempipe_%s_bucket{le=\"+Inf\"} %llu\ngempipe_%s_sum %.9g\ngempipe_%s_count %llu\n",
		name, (unsigned long long)n, name, (double)atomic_load(&h->sum_ns) / 1e9, name,
		(unsigned long long)n);
}

enum stage_figure { BUSY, STEPS, ROWS, WEIGHT_BYTES, RESTARTS };

static double stage_figure(const struct server *s, const struct gp_engine_stats *e, uint32_t k,
			   enum stage_figure what)
{
	const struct gp_stage_stats *g = &e->stage[k];

	switch (what) {
	case BUSY:
		return (double)g->busy_ns / 1e9;
	case STEPS:
		return (double)g->steps;
	case ROWS:
		return (double)g->rows;
	case WEIGHT_BYTES:
		return (double)g->steps * (double)gp_model_bytes(gp_engine_model(s->engine),
			g->first_layer, g->end_layer, k + 1 == e->n_stages);
	default:
		return g->restarts;
	}
}

static void show_stages(FILE *f, const struct server *s, const struct gp_engine_stats *e)
{
	static const struct {
		const char *name, *help;
	} figures[] = {
		[BUSY] = { "stage_busy_seconds_total", "Time a stage spent in steps." },
		[STEPS] = { "stage_steps_total", "Steps a stage made." },
		[ROWS] = { "stage_rows_total", "Token rows a stage computed." },
		[WEIGHT_BYTES] = { "stage_weight_bytes_total", "Weights a stage read, once a step." },
		[RESTARTS] = { "stage_restarts_total", "Times a stage's worker was started again." },
	};

	for (size_t i = 0; i < GP_ARRAY_LEN(figures); i++) {
		head(f, figures[i].name, "counter", figures[i].help);
		for (uint32_t k = 0; k < e->n_stages; k++)
			fprintf(f, "gempipe_%s{stage=\"%u\",device=\"%s\",layers=\"%u-%u\"} %.15g\n",
				figures[i].name, k, e->stage[k].device, e->stage[k].first_layer,
				e->stage[k].end_layer - 1,
				stage_figure(s, e, k, (enum stage_figure)i));
	}
}

static void show_guesses(FILE *f, const char *which, const char *help, uint64_t looked_up,
			 uint64_t drafted)
{
	char name[40];

	snprintf(name, sizeof name, "guesses_%s_total", which);
	head(f, name, "counter", help);
	fprintf(f, "gempipe_%s{by=\"lookup\"} %llu\ngempipe_%s{by=\"draft\"} %llu\n", name,
		(unsigned long long)looked_up, name, (unsigned long long)drafted);
}

static void show_all(FILE *f, struct server *s, const struct gp_engine_stats *e)
{
	struct metrics *m = &s->metrics;

	head(f, "http_answers_total", "counter", "Answers by the first digit of their status.");
	for (uint32_t i = 1; i < 6; i++)
		fprintf(f, "gempipe_http_answers_total{status=\"%uxx\"} %llu\n", i,
			(unsigned long long)atomic_load(&m->answers[i]));
	value(f, "connections", "gauge", "Open connections.", atomic_load(&m->connections));
	value(f, "requests_live", "gauge", "Sequences that hold a slot.", e->live);
	value(f, "requests_queued", "gauge", "Sequences that wait for a slot.", e->queued);
	value(f, "requests_cancelled_total", "counter", "Sequences whose client left.",
	      atomic_load(&m->cancelled));
	value(f, "preemptions_total", "counter", "Sequences that made room and began again.",
	      e->preempted);
	value(f, "prompt_tokens_total", "counter", "Tokens of prompts.", atomic_load(&m->prompt_tokens));
	value(f, "prefix_tokens_total", "counter", "Tokens of prompts that were not computed again.",
	      e->prefix_tokens);
	value(f, "generated_tokens_total", "counter", "Tokens generated.",
	      atomic_load(&m->generated_tokens));
	show_guesses(f, "proposed", "Tokens that went to be verified before they were known.",
		     e->looked_up.proposed, e->drafted.proposed);
	show_guesses(f, "accepted", "Those of them that were right.", e->looked_up.accepted,
		     e->drafted.accepted);
	value(f, "kv_blocks", "gauge", "Blocks of the KV cache, of 64 positions.", e->kv_blocks);
	value(f, "kv_blocks_held", "gauge", "Blocks that sequences hold.", e->kv_blocks_held);
	show_histogram(f, "time_to_first_token_seconds", "From a request that is whole to its first token.",
		       &m->first);
	show_histogram(f, "time_between_tokens_seconds", "Between two tokens of a sequence.",
		       &m->between);
	show_histogram(f, "request_seconds", "From a request to the end of its answer.", &m->whole);
	show_stages(f, s, e);
}

char *metrics_text(struct server *s)
{
	struct gp_engine_stats e;
	char *text = NULL;
	size_t bytes;
	FILE *f = open_memstream(&text, &bytes);

	if (!f)
		return NULL;
	gp_engine_snapshot(s->engine, &e);
	show_all(f, s, &e);
	if (fclose(f) == 0)
		return text;
	free(text);
	return NULL;
}

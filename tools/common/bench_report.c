#include "tools/common/bench_report.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* A table of 100 columns; a note has a line of its own. */
#define HEAD_FORMAT "%-7s %6s %5s %7s %8s %8s %8s %8s %8s %6s %5s %7s %5s\n"
#define ROW_FORMAT \
	"%-7s %6llu %5u %7llu %8.2f %8.2f %8.2f %8.3f %8.1f %6.1f %5s %7.1f %5s\n"

/* A result with what follows from it. */
struct line {
	const struct bench_result *t;
	double gb_per_s, gop_per_s, read_share, arithmetic_share;
	const char *note;
};

static uint64_t model_bytes(const struct gp_model *m)
{
	return gp_model_bytes(m, 0, gp_model_config(m)->n_layers, true);
}

static double share(double speed, double ruler)
{
	return ruler > 0 ? speed / ruler : 0;
}

static bool has_rulers(const struct bench_report *r)
{
	return r->used.threads > 0;
}

static bool is_simulated(const struct bench_report *r)
{
	struct gp_engine_stats s;

	gp_engine_stats(r->engine, &s);
	for (uint32_t k = 0; k < s.n_stages; k++)
		if (strncmp(s.stage[k].device, "simulated", 9) == 0)
			return true;
	return false;
}

static struct line line_of(const struct bench_report *r, const struct bench_result *t)
{
	const struct gp_model *m = gp_engine_model(r->engine);
	const struct speed s = {
		.weights = gp_model_main_type(m), .model_bytes = model_bytes(m),
		.gb_per_s = t->cost.bytes * t->median / 1e9,
		.gop_per_s = t->cost.ops * t->median / 1e9,
	};

	return (struct line){
		.t = t, .gb_per_s = s.gb_per_s, .gop_per_s = s.gop_per_s,
		.read_share = share(s.gb_per_s, r->used.read_gb_per_s),
		.arithmetic_share = share(s.gop_per_s, rulers_arithmetic(&r->used, s.weights)),
		.note = is_simulated(r) ? "simulated: the speed of the simulator, of no NPU" :
			rulers_verdict(&r->used, &s, has_rulers(r) ? rulers_cache_bytes() : 0),
	};
}

/* ---- for people ------------------------------------------------------------------ */
static void print_rulers(const struct rulers *r)
{
	printf("%4u %-8s memory read %.1f GB/s, int8 ", r->threads,
	       r->threads == 1 ? "thread:" : "threads:", r->read_gb_per_s);
	if (r->int8_gop_per_s > 0)
		printf("%.1f Gop/s", r->int8_gop_per_s);
	else
		printf("none");
	printf(", float32 %.1f GFLOP/s\n", r->float_gflop_per_s);
}

static void print_model(const struct bench_report *r)
{
	const struct gp_model *m = gp_engine_model(r->engine);
	const struct gp_plan *p = gp_engine_plan(r->engine);
	char bytes[32], cache[32];

	printf("%s weights, %s; keys and values %s; %u stage%s\n",
	       gp_type_info(gp_model_main_type(m))->name, gp_size_text(bytes, model_bytes(m)),
	       gp_type_info(p->kv_type)->name, p->n_stages, p->n_stages == 1 ? "" : "s");
	if (has_rulers(r) && model_bytes(m) < 4 * rulers_cache_bytes())
		printf("cache-resident: less than four times the cache of %s; no measure of larger "
		       "models\n", gp_size_text(cache, rulers_cache_bytes()));
}

static void print_columns(void)
{
	printf("\n" HEAD_FORMAT, "test", "tokens", "batch", "context", "tokens/s", "min", "max",
	       "ms/token", "MB/token", "GB/s", "read", "Gop/s", "peak");
}

static void print_head(const struct bench_report *r)
{
	const char *ruler = rulers_arithmetic_name(gp_model_main_type(gp_engine_model(r->engine)));

	if (!has_rulers(r)) {
		printf("A stage is not on the CPU: speeds are held against nothing.\n");
		print_model(r);
		print_columns();
		return;
	}
	printf("What this machine can do, measured now:\n");
	print_rulers(&r->one);
	if (r->used.threads != r->one.threads)
		print_rulers(&r->used);
	print_model(r);
	printf("read: share of the memory read by %u thread%s; peak: share of their %s\n",
	       r->used.threads, r->used.threads == 1 ? "" : "s", ruler);
	print_columns();
}

/* "37%"; "-": there was no ruler. */
static const char *percent(char text[16], double part)
{
	if (part > 0)
		snprintf(text, 16, "%.0f%%", part * 100);
	else
		snprintf(text, 16, "-");
	return text;
}

static bool is_error(const struct line *l)
{
	return strncmp(l->note, "error", 5) == 0;
}

static void print_line(const struct line *l)
{
	const struct bench_result *t = l->t;
	char read[16], peak[16];

	printf(ROW_FORMAT, t->test, (unsigned long long)t->tokens, t->batch,
	       (unsigned long long)t->context, t->median, t->min, t->max, 1e3 / t->median,
	       t->cost.bytes / 1e6, l->gb_per_s, percent(read, l->read_share), l->gop_per_s,
	       percent(peak, l->arithmetic_share));
	if (is_error(l) || strncmp(l->note, "simulated", 9) == 0)
		printf("        ^ %s\n", l->note);
	fflush(stdout);
}

/* ---- for scripts ------------------------------------------------------------------ */
/* Null: not measured, or infinite, which JSON has not. */
static json_t *number(double v)
{
	return v > 0 && isfinite(v) ? json_real(v) : json_null();
}

static uint32_t threads_used(const struct gp_plan *p)
{
	uint32_t n = 0;

	for (uint32_t k = 0; k < p->n_stages; k++)
		n += p->stage[k].threads;
	return n;
}

static json_t *line_json(const struct bench_report *r, const struct line *l)
{
	const struct gp_plan *p = gp_engine_plan(r->engine);
	const struct bench_result *t = l->t;

	return json_pack(
		"{s:s, s:I, s:I, s:I, s:f, s:s, s:I, s:I, s:{s:o, s:o, s:o}, s:o, s:f, s:o, s:o, s:f,"
		" s:o, s:s, s:o, s:s}",
		"test", t->test, "tokens", (json_int_t)t->tokens, "batch", (json_int_t)t->batch,
		"context", (json_int_t)t->context, "mean_position", t->mean_position,
		"kv_type", gp_type_info(p->kv_type)->name,
		"stages", (json_int_t)p->n_stages, "threads", (json_int_t)threads_used(p),
		"tokens_per_s", "median", number(t->median), "min", number(t->min), "max", number(t->max),
		"ms_per_token", number(1e3 / t->median), "bytes_per_token", t->cost.bytes,
		"gb_per_s", number(l->gb_per_s), "bandwidth_share", number(l->read_share),
		"flop_per_token", t->cost.ops, "gflop_per_s", number(l->gop_per_s), "arithmetic_ruler",
		rulers_arithmetic_name(gp_model_main_type(gp_engine_model(r->engine))),
		"arithmetic_share", number(l->arithmetic_share), "note", l->note);
}

static json_t *machine_json(const struct bench_report *r)
{
	struct gp_engine_stats s;

	gp_engine_stats(r->engine, &s);
	return json_pack(
		"{s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:b}",
		"device", s.stage[0].description, "cpus", (json_int_t)r->n_cpus,
		"threads", (json_int_t)r->used.threads,
		"read_gb_per_s_one_thread", number(r->one.read_gb_per_s),
		"read_gb_per_s", number(r->used.read_gb_per_s),
		"int8_gop_per_s_one_thread", number(r->one.int8_gop_per_s),
		"int8_gop_per_s", number(r->used.int8_gop_per_s),
		"float32_gflop_per_s_one_thread", number(r->one.float_gflop_per_s),
		"float32_gflop_per_s", number(r->used.float_gflop_per_s),
		"last_level_cache_bytes", (json_int_t)rulers_cache_bytes(),
		"rings_on_huge_pages", s.huge_pages);
}

static json_t *model_json(const struct bench_report *r)
{
	const struct gp_model *m = gp_engine_model(r->engine);
	const struct gp_config *c = gp_model_config(m);

	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "path", gp_model_path(m), "type",
			 gp_type_info(gp_model_main_type(m))->name, "layers",
			 (json_int_t)c->n_layers, "hidden", (json_int_t)c->hidden, "vocab",
			 (json_int_t)c->vocab, "bytes_per_step", (json_int_t)model_bytes(m));
}

static json_t *results_json(const struct bench_report *r)
{
	json_t *all = json_array();

	for (size_t i = 0; i < r->n_results; i++) {
		const struct line l = line_of(r, &r->results[i]);

		json_array_append_new(all, line_json(r, &l));
	}
	return all;
}

static json_t *stages_json(const struct bench_report *r)
{
	const struct gp_plan *p = gp_engine_plan(r->engine);
	json_t *all = json_array();
	struct gp_engine_stats s;

	gp_engine_stats(r->engine, &s);
	for (uint32_t k = 0; k < p->n_stages; k++)
		json_array_append_new(all, json_pack(
			"{s:s, s:s, s:I, s:I, s:I, s:I}", "device", s.stage[k].device,
			"description", s.stage[k].description,
			"first_layer", (json_int_t)p->stage[k].first_layer,
			"last_layer", (json_int_t)p->stage[k].end_layer - 1,
			"threads", (json_int_t)p->stage[k].threads,
			"memory_bytes", (json_int_t)s.stage[k].memory_bytes));
	return all;
}

/* ---- the report ------------------------------------------------------------------- */
void bench_report_begin(const struct bench_report *r)
{
	if (!r->json)
		print_head(r);
}

static int measure_again(struct bench_report *r)
{
	struct rulers now;
	const int rc = rulers_measure(&now, r->used.threads);

	if (rc < 0)
		return rc;
	rulers_keep_longest(&r->used, &now);
	if (!r->json) {
		printf("        the rulers, measured again; the longer ones are used from here on:\n    ");
		print_rulers(&r->used);
	}
	return 0;
}

int bench_report_add(struct bench_report *r, const struct bench_result *t)
{
	struct bench_result *more = realloc(r->results, (r->n_results + 1) * sizeof *more);
	struct line l = line_of(r, t);
	int rc;

	if (!more)
		return gp_fail(ENOMEM, "no memory for the results");
	r->results = more;
	r->results[r->n_results++] = *t;
	if (is_error(&l) && has_rulers(r)) {
		if ((rc = measure_again(r)) < 0)
			return rc;
		l = line_of(r, t);
	}
	if (!r->json)
		print_line(&l);
	return 0;
}

/* All shares are of the rulers as they are now. */
int bench_report_end(struct bench_report *r)
{
	if (!r->json)
		return 0;
	json_t *all = json_pack("{s:s, s:o, s:o, s:o, s:o}", "version", GP_VERSION, "machine",
				machine_json(r), "model", model_json(r), "stages", stages_json(r),
				"results", results_json(r));
	if (!all)
		return gp_fail(ENOMEM, "no memory for the results");
	json_dumpf(all, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(all);
	return 0;
}

void bench_report_free(struct bench_report *r)
{
	free(r->results);
}

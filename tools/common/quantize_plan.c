#include "tools/common/quantize_plan.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/base.h"
#include "tools/common/ask_devices.h"
#include "tools/common/cli.h"
#include "tools/common/model_out.h"

int quantize_plan_header(const struct gp_model *m, size_t *bytes)
{
	struct gp_recipe any = { 0 };
	const struct gp_quantize_job j = { .model = m, .recipe = &any };
	struct gp_gguf_writer *w = NULL;
	size_t data;
	int rc = gp_recipe_uniform(&any, m, GP_TYPE_Q8_0, GP_TYPE_Q8_0, NULL, NULL);

	if (rc == 0 && (rc = gp_gguf_writer_create(&w, NULL)) == 0 &&
	    (rc = model_out_metadata(w, m, GP_TYPE_Q8_0, NULL)) == 0 &&
	    (rc = gp_quantize_declare(&j, w)) == 0)
		*bytes = gp_gguf_writer_bytes(w, &data);
	gp_gguf_writer_destroy(w);
	gp_recipe_free(&any);
	return rc;
}

/* ---- devices ------------------------------------------------------------------------------- */
struct budget {
	char name[32];
	uint64_t bytes;
};

enum { MOST_DEVICES = 16 };

/* Memory of the device's own: the largest heap that is. */
static uint64_t heap_of(const json_t *device)
{
	uint64_t most = 0;
	json_t *h;
	size_t i;

	json_array_foreach(json_object_get(device, "heaps"), i, h) {
		const uint64_t bytes = (uint64_t)json_integer_value(json_object_get(h, "bytes"));

		if (json_is_true(json_object_get(h, "device_local")) && bytes > most)
			most = bytes;
	}
	return most;
}

static size_t list_budgets(struct budget b[MOST_DEVICES])
{
	const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
	json_t *all = ask_devices(false), *kind, *d;
	size_t n = 1, i, k;

	snprintf(b[0].name, sizeof b[0].name, "cpu");
	b[0].bytes = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
	json_array_foreach(all, i, kind)
		json_array_foreach(json_object_get(kind, "devices"), k, d) {
			const char *name = json_string_value(json_object_get(d, "device"));

			if (!name || n == MOST_DEVICES || !json_is_true(json_object_get(d, "usable")))
				continue;
			snprintf(b[n].name, sizeof b[n].name, "%s", name);
			b[n++].bytes = heap_of(d);
		}
	json_decref(all);
	return n;
}

/* ---- a line a choice ---------------------------------------------------------------------------- */
struct plan {
	const struct gp_model *model;
	const struct gp_calibration *calibration;
	struct budget budget[MOST_DEVICES];
	size_t n_budgets, header;
	bool json, first;
};

static void print_text(const struct plan *p, const char *name, const struct gp_recipe *r)
{
	const uint64_t file = r->bytes + p->header;

	printf("%-14s %9.3f GB %8.3f", name, (double)file / 1e9,
	       8 * (double)r->bytes / (double)r->parameters);
	if (isfinite(r->cost))
		printf(" %12.5f", r->cost);
	else
		printf(" %12s", "-");
	for (size_t i = 0; i < p->n_budgets; i++)
		printf("  %s", file < p->budget[i].bytes ? p->budget[i].name : "-");
	putchar('\n');
}

static void print_json(const struct plan *p, const char *name, const struct gp_recipe *r)
{
	const uint64_t file = r->bytes + p->header;
	const char *comma = "";

	printf("%s{\"choice\": \"%s\", \"file_bytes\": %llu, \"bits_per_weight\": %.4f, \"kl\": ",
	       p->first ? "\n" : ",\n", name, (unsigned long long)file,
	       8 * (double)r->bytes / (double)r->parameters);
	if (isfinite(r->cost))
		printf("%.6g", r->cost);
	else
		printf("null");
	printf(", \"fits\": [");
	for (size_t i = 0; i < p->n_budgets; i++)
		if (file < p->budget[i].bytes) {
			printf("%s\"%s\"", comma, p->budget[i].name);
			comma = ", ";
		}
	printf("]}");
}

static void print_choice(struct plan *p, const char *name, const struct gp_recipe *r)
{
	(p->json ? print_json : print_text)(p, name, r);
	p->first = false;
}

static int print_type(struct plan *p, enum gp_type t)
{
	struct gp_recipe r;
	int rc = gp_recipe_uniform(&r, p->model, t, t, p->calibration, NULL);

	if (rc == 0)
		print_choice(p, gp_type_info(t)->name, &r);
	gp_recipe_free(&r);
	return rc;
}

/* A budget that the smallest types do not meet is left out. */
static int print_bits(struct plan *p, double bits)
{
	struct gp_recipe any = { 0 }, r;
	char name[32];
	int rc = gp_recipe_uniform(&any, p->model, GP_TYPE_F16, GP_TYPE_F16, NULL, NULL);
	const uint64_t bytes = (uint64_t)((double)any.parameters * bits / 8);

	gp_recipe_free(&any);
	if (rc < 0)
		return rc;
	rc = gp_recipe_budget(&r, p->model, bytes, p->calibration, NULL);
	if (rc == -ENOSPC)
		return 0;
	if (rc == 0) {
		snprintf(name, sizeof name, "--bits %g", bits);
		print_choice(p, name, &r);
	}
	gp_recipe_free(&r);
	return rc;
}

static void print_head(const struct plan *p)
{
	if (p->json) {
		printf("{\"parameters_of\": \"%s\", \"choices\": [", gp_model_path(p->model));
		return;
	}
	printf("%-14s %12s %8s %12s  weights alone fit\n", "choice", "file", "bits", "predicted KL");
}

int quantize_plan_print(const struct gp_model *m, const struct gp_calibration *c, bool json)
{
	static const enum gp_type plain[] = { GP_TYPE_F32, GP_TYPE_BF16 };
	static const double bits[] = { 3.5, 3.75, 4, 4.25, 4.5, 5, 6, 8 };
	struct plan p = { .model = m, .calibration = c, .json = json, .first = true };
	int rc = quantize_plan_header(m, &p.header);

	if (rc < 0)
		return rc;
	p.n_budgets = list_budgets(p.budget);
	print_head(&p);
	for (size_t i = 0; i < GP_ARRAY_LEN(plain) && rc == 0; i++)
		rc = print_type(&p, plain[i]);
	for (size_t k = GP_COST_TYPES; k-- > 0 && rc == 0;)
		rc = print_type(&p, gp_cost_types[k]);
	for (size_t i = 0; i < GP_ARRAY_LEN(bits) && rc == 0; i++)
		rc = print_bits(&p, bits[i]);
	if (json)
		printf("\n]}\n");
	return rc < 0 ? rc : cli_flush_stdout();
}

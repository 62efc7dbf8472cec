/* What the pipeline itself costs: the time per decoded token of the miniature
 * in one process without rings, in one worker, and in two workers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "coordinator/coordinator.h"
#include "workers/workers.h"

#define MODEL "models/gemma3-mini/gemma3-mini-bf16.gguf"
#define TOKENS 200u
#define ROUNDS 7

static uint32_t best_of(const float *logits, uint32_t n)
{
	uint32_t best = 0;

	for (uint32_t i = 1; i < n; i++)
		if (logits[i] > logits[best])
			best = i;
	return best;
}

/* Microseconds per token of the same greedy text, or < 0. */
static double in_process(struct gp_stage *s, float *logits, uint32_t vocab)
{
	struct gp_stage_row row = { .token = 2, .wants_logits = true };
	uint64_t start = 0;

	if (gp_kv_drop(gp_stage_kv(s), 0) < 0)
		return -1;
	for (uint32_t i = 0; i <= TOKENS; i++) {
		row.pos = i;
		if (gp_stage_run(s, &row, 1, NULL, logits) < 0)
			return -1;
		row.token = best_of(logits, vocab);
		if (i == 0)
			start = gp_now_ns();
	}
	return (double)(gp_now_ns() - start) / 1e3 / TOKENS;
}

static int open_stage(struct gp_model *m, void *dev, struct gp_stage **s)
{
	const struct gp_stage_shape shape = {
		.config = gp_model_config(m), .end_layer = gp_model_config(m)->n_layers,
		.embeds = true, .has_head = true, .max_rows = 8, .max_logit_rows = 8,
		.max_sequences = 1, .context = 1024, .kv_type = GP_TYPE_F32,
	};

	return gp_stage_create(s, m, &shape, gp_cpu_device.ops, dev, NULL, NULL);
}

struct timing {
	uint64_t start_ns, end_ns;
};

static int on_token(void *user, uint32_t token, bool is_stop)
{
	struct timing *t = user;

	(void)token, (void)is_stop;
	t->end_ns = gp_now_ns();
	if (!t->start_ns)
		t->start_ns = t->end_ns;
	return 0;
}

static double through_engine(struct gp_engine *e)
{
	static const uint32_t bos = 2;
	struct timing t = { 0 };
	const struct gp_request r = { .prompt = &bos, .n_prompt = 1, .max_new = TOKENS + 1,
				      .user = &t, .on_token = on_token };
	uint32_t id;

	if (gp_engine_submit(e, &r, &id) < 0 || gp_engine_run(e) < 0)
		return -1;
	return (double)(t.end_ns - t.start_ns) / 1e3 / TOKENS;
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void report(const char *name, double *us, double base)
{
	qsort(us, ROUNDS, sizeof *us, by_value);
	printf("%-28s %9.1f us/token  (min %.1f, max %.1f)", name, us[ROUNDS / 2], us[0],
	       us[ROUNDS - 1]);
	if (base > 0)
		printf("  %+.1f us against one process", us[ROUNDS / 2] - base);
	putchar('\n');
}

static int measure(struct gp_stage *s, struct gp_engine *one, struct gp_engine *two, float *logits,
		   uint32_t vocab)
{
	double a[ROUNDS], b[ROUNDS], c[ROUNDS];

	for (int i = 0; i < ROUNDS; i++) {
		a[i] = in_process(s, logits, vocab);
		b[i] = through_engine(one);
		c[i] = through_engine(two);
		if (!(a[i] > 0 && b[i] > 0 && c[i] > 0))
			return -EIO;
	}
	printf("decode of %u tokens, %s, 1 thread a process, median of %d rounds in turn\n", TOKENS,
	       MODEL, ROUNDS);
	report("one process, no rings", a, 0);
	report("pipeline of 1 stage", b, a[ROUNDS / 2]);
	report("pipeline of 2 stages", c, a[ROUNDS / 2]);
	return 0;
}

static int open_engine(const char *bin, const char *stages, struct gp_engine **e)
{
	const struct gp_engine_options o = {
		.model = MODEL, .worker_dir = bin,
		.plan = { .stages = stages, .threads = 1, .context = 1024, .kv_type = -1 },
	};

	return gp_engine_create(e, &o);
}

static int bench(const char *bin)
{
	struct gp_engine *one = NULL, *two = NULL;
	struct gp_model *m = NULL;
	struct gp_stage *s = NULL;
	float *logits = NULL;
	const struct gp_device_options one_thread = { .threads = 1 };
	void *dev = NULL;
	int rc;

	if ((rc = gp_model_open(&m, MODEL)) == 0 &&
	    (rc = gp_cpu_device.open(&dev, &one_thread)) == 0 && (rc = open_stage(m, dev, &s)) == 0 && (rc = open_engine(bin, "auto", &one)) == 0 &&
	    (rc = open_engine(bin, "cpu:0-2,cpu:3-5", &two)) == 0) {
		logits = calloc(gp_model_config(m)->vocab, sizeof *logits);
		rc = logits ? measure(s, one, two, logits, gp_model_config(m)->vocab) : -ENOMEM;
	}
	free(logits);
	gp_engine_destroy(two);
	gp_engine_destroy(one);
	gp_stage_destroy(s);
	if (dev)
		gp_cpu_device.close(dev);
	gp_model_close(m);
	return rc;
}

/* BUILD/tests/bench/pipeline finds the workers in BUILD/bin. */
static int find_bin(char bin[4096])
{
	char self[2048];
	const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

	if (n <= 0)
		return gp_fail(errno, "/proc/self/exe: %s", strerror(errno));
	self[n] = '\0';
	for (int i = 0; i < 3; i++)
		*strrchr(self, '/') = '\0';
	snprintf(bin, 4096, "%s/bin", self);
	return 0;
}

int main(void)
{
	char bin[4096];

	if (find_bin(bin) < 0 || bench(bin) < 0) {
		fprintf(stderr, "pipeline: %s\n", gp_error());
		return 1;
	}
	return 0;
}

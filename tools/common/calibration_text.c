#include "tools/common/calibration_text.h"

#include <sched.h>

#include "workers/workers.h"

uint32_t calibration_threads(uint32_t wanted)
{
	cpu_set_t set;

	if (wanted)
		return wanted;
	return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static int check(const struct score_text *t, const struct gp_config *c, const char *model)
{
	if (c->bos < 0)
		return gp_fail(EINVAL, "%s: names no <bos> token, which every chunk begins with", model);
	for (size_t i = 0; i < t->n_ids; i++)
		if (t->ids[i] >= c->vocab)
			return gp_fail(EINVAL, "%s: id %u at position %zu is not in the vocabulary of %u",
			               t->file ? t->file : t->ids_file, t->ids[i], i, c->vocab);
	return 0;
}

int calibration_text_open(struct calibration_text *t, struct gp_model *m)
{
	const struct gp_device_options options = { .threads = calibration_threads(t->threads) };
	const struct gp_config *c = gp_model_config(m);
	int rc;

	if ((rc = score_read(&t->text, gp_model_path(m))) < 0 ||
	    (rc = check(&t->text, c, gp_model_path(m))) < 0)
		return rc;
	t->walk = (struct gp_walk){
		.model = m, .ops = gp_cpu_device.ops, .ids = t->text.ids,
		.n_chunks = t->text.n_chunks, .chunk = (uint32_t)t->text.ctx, .bos = (uint32_t)c->bos,
	};
	return gp_cpu_device.open(&t->walk.dev, &options);
}

void calibration_text_close(struct calibration_text *t)
{
	gp_cpu_device.close(t->walk.dev);
	score_finish(&t->text);
}

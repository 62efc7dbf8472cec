#include "tools/common/calibration_text.h"

#include <stdlib.h>
#include <sched.h>

#include "tools/common/cli.h"
#include "workers/workers.h"

uint32_t calibration_threads(uint32_t wanted)
{
	cpu_set_t set;

	if (wanted)
		return wanted;
	return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static int encode_text(struct calibration_text *t, const char *model, size_t *n)
{
	struct gp_tokenizer *tokenizer;
	char *text;
	size_t bytes;
	int rc = gp_tokenizer_open(&tokenizer, model);

	if (rc < 0)
		return rc;
	if ((rc = cli_read_file(t->file, &text, &bytes)) == 0) {
		rc = gp_tokenizer_encode(tokenizer, text, bytes, 0, &t->ids, n);
		free(text);
	}
	gp_tokenizer_close(tokenizer);
	return rc < 0 ? gp_fail_in(rc, "%s", t->file) : 0;
}

static int check(const struct calibration_text *t, const struct gp_config *c, const char *path,
                 size_t n)
{
	const char *name = t->file ? t->file : t->ids_file;

	if (c->bos < 0)
		return gp_fail(EINVAL, "%s: names no <bos> token, which every chunk begins with", path);
	if (n < t->chunk)
		return gp_fail(EINVAL, "%s: %zu tokens are less than one chunk of %llu; give a longer "
		               "text or a smaller --ctx", name, n, (unsigned long long)t->chunk);
	for (size_t i = 0; i < n; i++)
		if (t->ids[i] >= c->vocab)
			return gp_fail(EINVAL, "%s: id %u at position %zu is not in the vocabulary of %u",
			               name, t->ids[i], i, c->vocab);
	return 0;
}

int calibration_text_open(struct calibration_text *t, struct gp_model *m)
{
	const struct gp_config *c = gp_model_config(m);
	const struct gp_device_options options = { .threads = calibration_threads(t->threads) };
	size_t n;
	int rc = t->file ? encode_text(t, gp_model_path(m), &n) : npy_read_ids(t->ids_file, &t->ids, &n);

	if (rc < 0 || (rc = check(t, c, gp_model_path(m), n)) < 0)
		return rc;
	t->walk = (struct gp_walk){
		.model = m, .ops = gp_cpu_device.ops, .ids = t->ids, .n_chunks = n / (size_t)t->chunk,
		.chunk = (uint32_t)t->chunk, .bos = (uint32_t)c->bos,
	};
	if (t->chunks && t->chunks < t->walk.n_chunks)
		t->walk.n_chunks = (size_t)t->chunks;
	return gp_cpu_device.open(&t->walk.dev, &options);
}

void calibration_text_close(struct calibration_text *t)
{
	gp_cpu_device.close(t->walk.dev);
	free(t->ids);
}

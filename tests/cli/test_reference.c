/* The figures of gempipe evaluate against their definitions, and the file that keeps
 * a reference's logits: what it holds, what it loses, what it refuses. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/common/tiny_model.h"
#include "quantize/quantize.h"
#include "tools/common/divergence.h"
#include "tools/common/reference.h"

enum { VOCAB = 128, CHUNKS = 2, CTX = 5, ROWS = CHUNKS * (CTX - 1) };

static char *folder, *model_path, *path, *part;
static struct gp_model *model;
/* As many as a longer chunk needs. */
static uint32_t ids[CHUNKS * (CTX + 1)] = { 3, 1, 4, 1, 5, 9, 2, 6, 5, 3 };
static float logits[ROWS][VOCAB];

/* Uniform in [-1, 1). */
static double noise(void)
{
	static uint32_t state = 12345;

	state = state * 1664525u + 1013904223u;
	return (double)(state >> 8) / (1 << 23) - 1;
}

static struct score_text text_of(void)
{
	return (struct score_text){ .ctx = CTX, .ids = ids, .n_ids = CHUNKS * CTX,
				    .n_chunks = CHUNKS, .per_chunk = CTX - 1, .n = ROWS };
}

static struct score_row row_of(size_t i)
{
	return (struct score_row){ .i = i, .logits = logits[i], .vocab = VOCAB,
				   .log_sum = gp_log_sum_exp(logits[i], VOCAB),
				   .nll = 1 / (1.0 + (double)i) };
}

static int set_up(void **state)
{
	(void)state;
	folder = tiny_folder();
	model_path = tiny_path(folder, "tiny.gguf");
	path = tiny_path(folder, "reference");
	part = tiny_path(folder, "reference.part");
	tiny_write_gguf(model_path);
	assert_int_equal(gp_model_open(&model, model_path), 0);
	assert_int_equal(gp_model_config(model)->vocab, VOCAB);
	for (size_t i = 0; i < ROWS; i++)
		for (uint32_t v = 0; v < VOCAB; v++)
			logits[i][v] = (float)(12 * noise() + 5);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	gp_model_close(model);
	free(model_path);
	free(path);
	free(part);
	tiny_remove(folder);
	return 0;
}

/* ---- figures -------------------------------------------------------------------------- */
static void assert_close(double got, double want, double tolerance)
{
	if (!(fabs(got - want) <= tolerance))
		fail_msg("%.17g, wanted %.17g", got, want);
}

static void test_log_sum(void **state)
{
	const float same[] = { 2, 2, 2, 2 }, large[] = { -70000, 90000, 89999 };
	const float unsure[] = { 1, NAN, 3 }, first[] = { NAN, 1 }, never[] = { -INFINITY, 1 };

	(void)state;
	assert_close(gp_log_sum_exp(same, 4), 2 + log(4), 1e-14);
	assert_close(gp_log_sum_exp(large, 3), 90000 + log1p(exp(-1)), 1e-10);
	assert_close(gp_log_sum_exp(never, 2), 1, 0);
	assert_true(isnan(gp_log_sum_exp(unsure, 3)));
	assert_true(isnan(gp_log_sum_exp(first, 2)));
}

static double kl_of(const float *p, const float *q, uint32_t n)
{
	return gp_kl_divergence(p, gp_log_sum_exp(p, n), q, gp_log_sum_exp(q, n), n);
}

static void test_kl_divergence(void **state)
{
	const float p[] = { logf(0.5f), logf(0.25f), logf(0.25f) };
	const float q[] = { logf(0.25f) + 7, logf(0.5f) + 7, logf(0.25f) + 7 };
	const float never[] = { 0, -INFINITY }, ever[] = { 0, 0 }, unsure[] = { 0, NAN };

	(void)state;
	/* 1/2 log 2 - 1/4 log 2; a constant added to logits changes nothing. */
	assert_close(kl_of(p, q, 3), 0.25 * log(2), 1e-7);
	assert_close(kl_of(never, ever, 2), log(2), 1e-15);
	assert_true(isinf(kl_of(ever, never, 2)));
	assert_true(isnan(kl_of(unsure, ever, 2)) && isnan(kl_of(ever, unsure, 2)));
	for (size_t i = 0; i < ROWS; i++)
		assert_true(kl_of(logits[i], logits[i], VOCAB) == 0);
}

static void test_estimates(void **state)
{
	const double x[] = { 1, 2, 4, 9 };
	const struct estimate e = mean_of(x, 4);
	const float equal[] = { 1, 7, 7 };

	(void)state;
	assert_close(e.value, 4, 0);
	/* Squares 9, 4, 0, 25: s^2 = 38 / 3. */
	assert_close(e.error, sqrt(38.0 / 3 / 4), 1e-15);
	assert_close(quantile_of(x, 4, 0), 1, 0);
	assert_close(quantile_of(x, 4, 1), 9, 0);
	assert_close(quantile_of(x, 4, 0.5), 3, 0);
	assert_close(quantile_of(x, 4, 0.9), 4 + 0.7 * 5, 1e-14);
	assert_close(quantile_of(x, 1, 0.5), 1, 0);
	assert_int_equal(largest_of(equal, 3), 1);
}

/* ---- the file ----------------------------------------------------------------------------- */
static int create(struct reference **r, const char *at)
{
	const struct score_text text = text_of();

	return reference_create(r, at, model, gp_model_config(model), &text);
}

static void write_rows(struct reference *r, size_t n)
{
	/* As parallel chunks give them: not in order. */
	for (size_t i = 0; i < n; i++) {
		const struct score_row row = row_of((i * 3) % ROWS);

		assert_int_equal(reference_write(r, &row), 0);
	}
}

static void save(void)
{
	struct reference *r;

	assert_int_equal(create(&r, path), 0);
	write_rows(r, ROWS);
	assert_int_equal(reference_finish(r), 0);
	reference_close(r);
	assert_int_not_equal(access(part, F_OK), 0);
}

static int open_saved(struct reference **r)
{
	const struct score_text text = text_of();

	return reference_open(r, path, gp_model_config(model), &text);
}

static void test_nameless_is_exact(void **state)
{
	struct reference *r;
	float got[VOCAB];
	double nll;

	(void)state;
	assert_int_equal(create(&r, NULL), 0);
	write_rows(r, ROWS);
	assert_int_equal(reference_finish(r), 0);
	for (size_t i = 0; i < ROWS; i++) {
		assert_int_equal(reference_read(r, i, &nll, got), 0);
		assert_memory_equal(got, logits[i], sizeof got);
		assert_true(nll == row_of(i).nll);
	}
	assert_string_equal(reference_model(r), "tiny.gguf");
	reference_close(r);
}

/* What docs/quality.md says of float16 deltas. */
static void test_saved_is_nearly_exact(void **state)
{
	struct reference *r;
	struct stat st;
	float got[VOCAB];
	double nll;

	(void)state;
	save();
	assert_true(reference_is_file(path));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 352 + ROWS * (16 + 2 * VOCAB));
	assert_int_equal(open_saved(&r), 0);
	for (size_t i = 0; i < ROWS; i++) {
		const uint32_t best = largest_of(logits[i], VOCAB);

		assert_int_equal(reference_read(r, i, &nll, got), 0);
		assert_true(nll == row_of(i).nll);
		assert_int_equal(largest_of(got, VOCAB), best);
		for (uint32_t v = 0; v < VOCAB; v++) {
			const double d = (double)(logits[i][v] - logits[i][best]);

			assert_close((double)got[v], d, fabs(d) / 2048 + 6e-8);
		}
		assert_close(kl_of(logits[i], got, VOCAB), 0, 1e-6);
	}
	reference_close(r);
	unlink(path);
}

static void test_unfinished_leaves_nothing(void **state)
{
	struct reference *r;
	size_t bytes, n;

	(void)state;
	save();
	uint8_t *before = tiny_load(path, &bytes);
	assert_int_equal(create(&r, path), 0);
	write_rows(r, ROWS - 1);
	assert_int_equal(reference_finish(r), -EIO);
	assert_non_null(strstr(gp_error(), "7 of 8 rows"));
	reference_close(r);
	assert_int_not_equal(access(part, F_OK), 0);
	/* What was there is there. */
	uint8_t *after = tiny_load(path, &n);
	assert_int_equal(n, bytes);
	assert_memory_equal(after, before, bytes);
	free(before);
	free(after);
	unlink(path);
}

static void test_unwritable(void **state)
{
	char *before = getenv("TMPDIR") ? strdup(getenv("TMPDIR")) : NULL;
	struct reference *r;

	(void)state;
	assert_int_equal(create(&r, folder), -EEXIST);
	assert_int_equal(create(&r, "/dev/null"), -EEXIST);
	assert_int_equal(create(&r, model_path), -EEXIST);
	tiny_store(path, "", 0);
	assert_int_equal(create(&r, path), 0);
	reference_close(r);
	unlink(path);
	assert_int_equal(create(&r, "/nowhere/at/all"), -ENOENT);
	assert_int_equal(setenv("TMPDIR", "/nowhere", 1), 0);
	assert_int_equal(create(&r, NULL), -ENOENT);
	assert_non_null(strstr(gp_error(), "TMPDIR"));
	assert_int_equal(before ? setenv("TMPDIR", before, 1) : unsetenv("TMPDIR"), 0);
	free(before);
}

/* Opens, and reads all rows; the first failure. */
static int read_everything(void)
{
	struct reference *r;
	float got[VOCAB];
	double nll;
	int rc = open_saved(&r);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < ROWS && rc == 0; i++)
		rc = reference_read(r, i, &nll, got);
	reference_close(r);
	return rc;
}

/* Whatever byte changes, whatever length it has. */
static void test_damage_is_found(void **state)
{
	size_t bytes;

	(void)state;
	save();
	uint8_t *whole = tiny_load(path, &bytes);
	const int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(read_everything(), 0);
	for (size_t i = 0; i < bytes; i++) {
		const uint8_t changed = whole[i] ^ (uint8_t)(1u << i % 8);

		assert_int_equal(pwrite(fd, &changed, 1, (off_t)i), 1);
		if (read_everything() != -EINVAL)
			fail_msg("byte %zu was changed, and nobody saw it", i);
		assert_int_equal(pwrite(fd, &whole[i], 1, (off_t)i), 1);
	}
	assert_int_equal(ftruncate(fd, (off_t)bytes + 1), 0);
	assert_int_equal(read_everything(), -EINVAL);
	for (size_t n = bytes; n-- > 0; ) {
		assert_int_equal(ftruncate(fd, (off_t)n), 0);
		if (read_everything() != -EINVAL)
			fail_msg("%zu of %zu bytes were taken for all", n, bytes);
	}
	close(fd);
	free(whole);
	unlink(path);
}

static void refuse(const struct gp_config *config, const struct score_text *text, const char *says)
{
	struct reference *r;

	assert_int_equal(reference_open(&r, path, config, text), -EINVAL);
	if (!strstr(gp_error(), says) || !strstr(gp_error(), path))
		fail_msg("'%s' does not say '%s'", gp_error(), says);
}

static void test_another_purpose_is_refused(void **state)
{
	const struct gp_config right = *gp_model_config(model);
	struct gp_config config = right;
	struct score_text text = text_of();
	struct reference *r;

	(void)state;
	save();
	config.n_layers++;
	refuse(&config, &text, "tiny.gguf, is a model of another shape");
	assert_int_equal(reference_create(&r, NULL, model, &config, &text), -EINVAL);
	config = right;
	config.vocab--;
	refuse(&config, &text, "vocabulary 128");
	config = right;
	config.bos = 3;
	refuse(&config, &text, "another shape");
	text.ctx++;
	refuse(&right, &text, "--ctx 5 --chunks 2 --skip 0; this is --ctx 6");
	text = text_of();
	text.skip = 1;
	refuse(&right, &text, "this is --ctx 5 --chunks 2 --skip 1");
	text = text_of();
	text.n_chunks = 1;
	refuse(&right, &text, "--chunks 1");
	text = text_of();
	ids[CHUNKS * CTX - 1]++;
	refuse(&right, &text, "another text");
	ids[CHUNKS * CTX - 1]--;
	assert_int_equal(read_everything(), 0);
	unlink(path);
}

static void test_other_files(void **state)
{
	(void)state;
	assert_false(reference_is_file(folder));
	assert_false(reference_is_file(model_path));
	assert_false(reference_is_file("/dev/null"));
	assert_false(reference_is_file("/nowhere/at/all"));
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_false(reference_is_file(path));
	assert_int_equal(read_everything(), -EINVAL);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_log_sum), cmocka_unit_test(test_kl_divergence),
		cmocka_unit_test(test_estimates), cmocka_unit_test(test_nameless_is_exact),
		cmocka_unit_test(test_saved_is_nearly_exact),
		cmocka_unit_test(test_unfinished_leaves_nothing), cmocka_unit_test(test_unwritable),
		cmocka_unit_test(test_damage_is_found),
		cmocka_unit_test(test_another_purpose_is_refused), cmocka_unit_test(test_other_files),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* Calibrations as files: what is written is read, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "quantize/quantize.h"

#define MINI "models/gemma3-mini/gemma3-mini-bf16.gguf"
#define OTHER "tests/data/gemma3-random-text"

static char path[64];
static struct gp_model *mini;
static struct gp_calibration made;

static int set_up(void **state)
{
	(void)state;
	strcpy(path, "/tmp/gp-calibration.XXXXXX");
	const int fd = mkstemp(path);

	if (fd < 0 || close(fd) < 0 || gp_model_open(&mini, MINI) < 0 ||
	    gp_calibration_init(&made, mini) < 0)
		return -1;
	for (size_t i = 0; i < made.n; i++) {
		for (uint32_t k = 0; k < made.matrix[i].cols; k++)
			made.matrix[i].importance[k] = 0.5f + (float)(i * 7 + k % 5);
		for (size_t t = 0; t < GP_COST_TYPES; t++)
			made.matrix[i].cost[t] = (double)(i + 1) / 1024 / (double)(t + 1);
	}
	made.chunks = 3;
	made.chunk = 512;
	struct gp_gguf_writer *w;
	const int rc = gp_gguf_writer_create(&w, path) < 0 ? -1 : gp_calibration_write(&made, w, "a text");

	gp_gguf_writer_destroy(w);
	return rc;
}

static int tear_down(void **state)
{
	(void)state;
	unlink(path);
	gp_calibration_free(&made);
	gp_model_close(mini);
	return 0;
}

static void what_is_written_is_read(void **state)
{
	struct gp_calibration c;

	(void)state;
	assert_int_equal(gp_calibration_read(&c, path, mini), 1);
	assert_int_equal(c.n, made.n);
	for (size_t i = 0; i < c.n; i++) {
		assert_int_equal(c.matrix[i].cols, made.matrix[i].cols);
		for (uint32_t k = 0; k < c.matrix[i].cols; k++)
			assert_true(fabsf(c.matrix[i].importance[k] - made.matrix[i].importance[k]) <=
			            1e-6f * made.matrix[i].importance[k]);
		for (size_t t = 0; t < GP_COST_TYPES; t++)
			assert_true(fabs(c.matrix[i].cost[t] - made.matrix[i].cost[t]) <=
			            1e-6 * made.matrix[i].cost[t]);
	}
	gp_calibration_free(&c);
}

static void another_models_is_refused(void **state)
{
	struct gp_calibration c;
	struct gp_model *other;

	(void)state;
	assert_int_equal(gp_model_open(&other, OTHER), 0);
	assert_int_equal(gp_calibration_read(&c, path, other), -EINVAL);
	assert_non_null(strstr(gp_error(), "another model"));
	gp_model_close(other);
}

/* Of any length but what lacks some of the 28 bytes of padding at the end. */
static void a_cut_file_is_refused(void **state)
{
	struct gp_calibration c;
	struct stat st;

	(void)state;
	assert_int_equal(stat(path, &st), 0);
	for (off_t n = st.st_size - 29; n > 0; n -= 1 + n / 7) {
		assert_int_equal(truncate(path, n), 0);
		assert_true(gp_calibration_read(&c, path, mini) < 0);
	}
}

/* Every float of the file in turn is no number, or below 0. */
static void numbers_that_cannot_be_are_refused(void **state)
{
	static const float bad[] = { NAN, -1, INFINITY };
	struct gp_calibration c;
	struct stat st;

	(void)state;
	assert_int_equal(stat(path, &st), 0);
	for (size_t i = 0; i < GP_ARRAY_LEN(bad); i++) {
		FILE *f = fopen(path, "r+b");
		float was;

		/* The last tensor but its count's padding: an importance of the embedding's. */
		assert_non_null(f);
		assert_int_equal(fseek(f, -64, SEEK_END), 0);
		assert_int_equal(fread(&was, sizeof was, 1, f), 1);
		assert_int_equal(fseek(f, -64, SEEK_END), 0);
		assert_int_equal(fwrite(&bad[i], sizeof bad[i], 1, f), 1);
		fflush(f);
		assert_int_equal(gp_calibration_read(&c, path, mini), -EINVAL);
		assert_non_null(strstr(gp_error(), "make the file again"));
		assert_int_equal(fseek(f, -64, SEEK_END), 0);
		assert_int_equal(fwrite(&was, sizeof was, 1, f), 1);
		fclose(f);
	}
	assert_int_equal(gp_calibration_read(&c, path, mini), 1);
	gp_calibration_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_written_is_read, set_up, tear_down),
		cmocka_unit_test_setup_teardown(another_models_is_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_cut_file_is_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(numbers_that_cannot_be_are_refused, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

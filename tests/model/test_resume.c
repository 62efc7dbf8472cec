/* A GGUF writer that an earlier run's part can be gone on with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "model/model.h"
#include "tests/common/tiny_model.h"

enum { TENSORS = 4, ELEMENTS = 100 };

static char folder[64], out[80], part[96], done[112];

static int set_up(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/gp-resume.XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(out, sizeof out, "%s/out.gguf", folder);
	snprintf(part, sizeof part, "%s.part", out);
	snprintf(done, sizeof done, "%s.done", part);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	unlink(out);
	unlink(part);
	unlink(done);
	return rmdir(folder);
}

static struct gp_gguf_writer *begin(uint32_t value)
{
	struct gp_gguf_writer *w;
	char name[16];

	assert_int_equal(gp_gguf_writer_create_resumable(&w, out), 0);
	assert_int_equal(gp_gguf_add_u32(w, "a.key", value), 0);
	for (int i = 0; i < TENSORS; i++) {
		snprintf(name, sizeof name, "t%d", i);
		assert_int_equal(gp_gguf_add_tensor(w, name, GP_TYPE_F32, 0, ELEMENTS + (uint64_t)i), 0);
	}
	return w;
}

static void write_tensors(struct gp_gguf_writer *w, int first, int end)
{
	for (int i = first; i < end; i++)
		for (int k = 0; k < ELEMENTS + i; k++) {
			const float v = (float)(i * 1000 + k);

			assert_int_equal(gp_gguf_write(w, &v, sizeof v), 0);
		}
}

/* Two tensors and a half, of which two are counted. */
static void interrupted_run(void)
{
	struct gp_gguf_writer *w = begin(1);
	const float half = 7;
	size_t n;

	unlink(done);
	assert_int_equal(gp_gguf_writer_resume(w, 42, &n), 0);
	assert_int_equal(n, 0);
	write_tensors(w, 0, 2);
	assert_int_equal(gp_gguf_writer_checkpoint(w), 0);
	assert_int_equal(gp_gguf_write(w, &half, sizeof half), 0);
	gp_gguf_writer_destroy(w);
	assert_int_equal(access(part, F_OK), 0);
	assert_int_not_equal(access(out, F_OK), 0);
}

static size_t resumed(uint32_t value, uint64_t key, struct gp_gguf_writer **w)
{
	size_t n;

	*w = begin(value);
	assert_int_equal(gp_gguf_writer_resume(*w, key, &n), 0);
	return n;
}

static void goes_on_to_the_same_file(void **state)
{
	struct gp_gguf_writer *w;
	size_t at_once_bytes, bytes;
	char *at_once, *data;

	(void)state;
	assert_int_equal(resumed(1, 42, &w), 0);
	write_tensors(w, 0, TENSORS);
	assert_int_equal(gp_gguf_writer_finish(w), 0);
	gp_gguf_writer_destroy(w);
	at_once = tiny_load_text(out, &at_once_bytes);
	unlink(out);

	interrupted_run();
	assert_int_equal(resumed(1, 42, &w), 2);
	write_tensors(w, 2, TENSORS);
	assert_int_equal(gp_gguf_writer_finish(w), 0);
	gp_gguf_writer_destroy(w);
	data = tiny_load_text(out, &bytes);
	assert_int_equal(bytes, at_once_bytes);
	assert_memory_equal(data, at_once, bytes);
	assert_int_not_equal(access(part, F_OK), 0);
	assert_int_not_equal(access(done, F_OK), 0);
	free(data);
	free(at_once);
}

/* Another header, another key, a count that lies, a part that lacks some of it. */
static void only_its_own_is_gone_on_with(void **state)
{
	static const char *const counts[] = { "", "5", "99 42", "x", "                   2 2a" };
	struct gp_gguf_writer *w;
	FILE *f;

	(void)state;
	interrupted_run();
	assert_int_equal(resumed(2, 42, &w), 0);
	gp_gguf_writer_destroy(w);
	interrupted_run();
	assert_int_equal(resumed(1, 43, &w), 0);
	gp_gguf_writer_destroy(w);
	for (size_t i = 0; i < GP_ARRAY_LEN(counts); i++) {
		interrupted_run();
		f = fopen(done, "w");
		fputs(counts[i], f);
		fclose(f);
		assert_int_equal(resumed(1, 42, &w), i == 4 ? 2 : 0);
		gp_gguf_writer_destroy(w);
	}
	interrupted_run();
	assert_int_equal(truncate(part, 700), 0);
	assert_int_equal(resumed(1, 42, &w), 0);
	gp_gguf_writer_destroy(w);
}

/* A run that fails before it begins leaves what was there. */
static void a_failure_before_resuming_keeps_the_part(void **state)
{
	struct gp_gguf_writer *w;

	(void)state;
	interrupted_run();
	gp_gguf_writer_destroy(begin(1));
	assert_int_equal(resumed(1, 42, &w), 2);
	gp_gguf_writer_destroy(w);
}

static void one_writes_at_a_time(void **state)
{
	struct gp_gguf_writer *w, *second;

	(void)state;
	interrupted_run();
	w = begin(1);
	assert_int_equal(gp_gguf_writer_create_resumable(&second, out), -EBUSY);
	assert_non_null(strstr(gp_error(), "another run writes it"));
	gp_gguf_writer_destroy(w);
	assert_int_equal(resumed(1, 42, &w), 2);
	gp_gguf_writer_destroy(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(goes_on_to_the_same_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(only_its_own_is_gone_on_with, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_failure_before_resuming_keeps_the_part, set_up, tear_down),
		cmocka_unit_test_setup_teardown(one_writes_at_a_time, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

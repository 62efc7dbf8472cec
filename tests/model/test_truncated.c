/* Damaged files: every 64th length of a GGUF and a safetensors file, and
 * thousands of flipped bits. Whatever they hold, opening them ends with a model
 * or with a message. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "tests/common/tiny_model.h"

static void forget_error(void)
{
	gp_fail(EINVAL, "%s", "");
}

static void count_line(void *user, const char *key, const char *value)
{
	(void)key;
	*(size_t *)user += strlen(value);
}

/* Touches what an opened model hands out: ASan or the kernel object to what
 * lies outside the file. */
static void use(const struct gp_model *m)
{
	const struct gp_tensor *list;
	size_t n = gp_model_all_tensors(m, &list), text = 0;
	unsigned sum = 0;

	for (size_t i = 0; i < n; i++)
		if (list[i].bytes) {
			sum += *(const uint8_t *)list[i].data;
			sum += ((const uint8_t *)list[i].data)[list[i].bytes - 1];
		}
	gp_model_each_metadata(m, count_line, &text);
	assert_true(text > 0 && sum <= n * 510);
	assert_int_equal(gp_config_check(gp_model_config(m)), 0);
	assert_true(gp_model_bytes(m, 0, gp_model_config(m)->n_layers, true) > 0);
}

static void expect_failure(const char *path)
{
	struct gp_model *m;

	forget_error();
	assert_true(gp_model_open(&m, path) < 0);
	assert_null(m);
	assert_string_not_equal(gp_error(), "no error");
}

static void truncate_steps(const char *model, const char *file)
{
	struct gp_model *m;
	size_t bytes;
	uint8_t *whole = tiny_load(file, &bytes);

	assert_int_equal(gp_model_open(&m, model), 0);
	gp_model_close(m);
	for (size_t n = bytes - 1 - (bytes - 1) % 64; n > 0; n -= 64) {
		assert_int_equal(truncate(file, (off_t)n), 0);
		expect_failure(model);
	}
	assert_int_equal(truncate(file, 0), 0);
	expect_failure(model);
	free(whole);
}

/* What is read is what is mapped; what is no longer there is an error. */
static void read_steps(const char *model, const char *file)
{
	const struct gp_tensor *list;
	struct gp_model *m;
	uint8_t got[256];
	size_t n;

	assert_int_equal(gp_model_open(&m, model), 0);
	n = gp_model_all_tensors(m, &list);
	for (size_t i = 0; i < n; i++)
		for (size_t at = 0; at < list[i].bytes; at += 37) {
			const size_t left = list[i].bytes - at;
			const size_t some = left < sizeof(got) ? left : sizeof(got);

			assert_int_equal(gp_tensor_read(&list[i], at, some, got), 0);
			assert_memory_equal(got, (const uint8_t *)list[i].data + at, some);
		}
	for (size_t i = 0; i < n; i++) {
		const size_t end = list[i].offset + list[i].bytes;

		assert_int_equal(truncate(file, (off_t)(end - 1)), 0);
		assert_int_equal(gp_tensor_read(&list[i], 0, 1, got), 0);
		assert_int_equal(gp_tensor_read(&list[i], list[i].bytes - 2, 2, got), -EIO);
		assert_non_null(strstr(gp_error(), list[i].name));
		assert_int_equal(truncate(file, (off_t)end), 0);
	}
	gp_model_close(m);
}

static void test_read_by_descriptor(void **state)
{
	char *folder = tiny_folder(), *path = tiny_path(folder, "t.gguf");

	(void)state;
	tiny_write_gguf(path);
	read_steps(path, path);
	free(path);
	path = tiny_path(folder, "model.safetensors");
	tiny_write_safetensors(folder, "model");
	read_steps(folder, path);
	free(path);
	tiny_remove(folder);
}

static void test_truncated_gguf(void **state)
{
	char *folder = tiny_folder(), *path = tiny_path(folder, "t.gguf");

	(void)state;
	tiny_write_gguf(path);
	truncate_steps(path, path);
	free(path);
	tiny_remove(folder);
}

static void test_truncated_safetensors(void **state)
{
	char *folder = tiny_folder(), *path = tiny_path(folder, "model.safetensors");

	(void)state;
	tiny_write_safetensors(folder, "model");
	truncate_steps(folder, path);
	free(path);
	tiny_remove(folder);
}

static void test_truncated_config(void **state)
{
	char *folder = tiny_folder(), *path = tiny_path(folder, "config.json");
	size_t bytes;
	uint8_t *whole;

	(void)state;
	tiny_write_safetensors(folder, "model");
	whole = tiny_load(path, &bytes);
	for (size_t n = bytes - 3; n > 0; n -= n < 7 ? n : 7) {
		tiny_store(path, whole, n);
		expect_failure(folder);
	}
	free(whole);
	free(path);
	tiny_remove(folder);
}

static uint32_t next(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

/* rounds times: up to four of the first header_bytes changed, at most. */
static void flip_bits(const char *model, const char *file, size_t header_bytes, unsigned rounds)
{
	unsigned opened = 0, refused = 0;
	uint32_t seed = 0x9e3779b9;
	size_t bytes;
	uint8_t *whole = tiny_load(file, &bytes), old[4];
	size_t at[4];

	assert_true(header_bytes <= bytes);
	for (unsigned r = 0; r < rounds; r++) {
		unsigned n = 1 + next(&seed) % 4;
		struct gp_model *m;

		for (unsigned i = 0; i < n; i++) {
			at[i] = next(&seed) % header_bytes;
			old[i] = whole[at[i]];
			if (next(&seed) % 3)
				whole[at[i]] = (uint8_t)(whole[at[i]] ^ (1u << next(&seed) % 8));
			else
				whole[at[i]] = next(&seed) % 2 ? 255 : 0;
		}
		tiny_store(file, whole, bytes);
		forget_error();
		if (gp_model_open(&m, model) == 0) {
			use(m);
			gp_model_close(m);
			opened++;
		} else {
			assert_string_not_equal(gp_error(), "no error");
			refused++;
		}
		while (n-- > 0)
			whole[at[n]] = old[n];
	}
	/* Both must occur, or the loop tests nothing. */
	assert_true(opened > 0);
	assert_true(refused > rounds / 10);
	free(whole);
}

static void test_flipped_gguf(void **state)
{
	char *folder = tiny_folder(), *path = tiny_path(folder, "t.gguf");

	(void)state;
	tiny_write_gguf(path);
	flip_bits(path, path, 5120, 3000);
	free(path);
	tiny_remove(folder);
}

static void test_flipped_safetensors(void **state)
{
	char *folder = tiny_folder(), *path = tiny_path(folder, "model.safetensors");

	(void)state;
	tiny_write_safetensors(folder, "model.language_model");
	flip_bits(folder, path, 9216, 3000);
	free(path);
	tiny_remove(folder);
}

static void test_flipped_config(void **state)
{
	char *folder = tiny_folder(), *path = tiny_path(folder, "config.json");
	size_t bytes;

	(void)state;
	tiny_write_safetensors(folder, "model");
	free(tiny_load(path, &bytes));
	flip_bits(folder, path, bytes, 2000);
	free(path);
	tiny_remove(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_truncated_gguf),
		cmocka_unit_test(test_read_by_descriptor),
		cmocka_unit_test(test_truncated_safetensors),
		cmocka_unit_test(test_truncated_config),
		cmocka_unit_test(test_flipped_gguf),
		cmocka_unit_test(test_flipped_safetensors),
		cmocka_unit_test(test_flipped_config),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

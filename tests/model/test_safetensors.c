/* The safetensors reader: headers that lie, shards, the three naming schemes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "model/safetensors.h"
#include "tests/common/tiny_model.h"

static char *folder, *path;

static int make_folder(void **state)
{
	(void)state;
	folder = tiny_folder();
	path = tiny_path(folder, "model.safetensors");
	return 0;
}

static int remove_folder(void **state)
{
	(void)state;
	free(path);
	tiny_remove(folder);
	return 0;
}

static void store(const char *name, uint64_t header_bytes, const char *header, size_t data_bytes)
{
	char *file = tiny_path(folder, name);
	size_t n = sizeof header_bytes + strlen(header) + data_bytes;
	uint8_t *image = calloc(1, n);

	assert_non_null(image);
	memcpy(image, &header_bytes, sizeof header_bytes);
	memcpy(image + sizeof header_bytes, header, strlen(header));
	tiny_store(file, image, n);
	free(image);
	free(file);
}

static void refuse_file(uint64_t header_bytes, const char *header, size_t data_bytes,
			const char *expected)
{
	struct gp_safetensors *s;

	store("model.safetensors", header_bytes, header, data_bytes);
	gp_fail(EINVAL, "%s", "");
	assert_true(gp_safetensors_open(&s, folder) < 0);
	assert_null(s);
	if (!strstr(gp_error(), expected))
		fail_msg("'%s' lacks '%s'", gp_error(), expected);
}

static void refuse(const char *header, const char *expected)
{
	refuse_file(strlen(header), header, 64, expected);
}

static void test_good_header(void **state)
{
	static const char header[] =
		"{\"__metadata__\":{\"format\":\"pt\"},"
		"\"m\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[16,28]},"
		"\"v\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
		"\"conv\":{\"dtype\":\"BF16\",\"shape\":[2,3,1,2],\"data_offsets\":[28,52]},"
		"\"ids\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[52,60]}}  ";
	const struct gp_tensor *t;
	struct gp_safetensors *s;

	(void)state;
	store("model.safetensors", strlen(header), header, 60);
	assert_int_equal(gp_safetensors_open(&s, folder), 0);
	assert_int_equal(gp_safetensors_tensors(s, &t), 3);
	assert_string_equal(t[0].name, "m");
	assert_int_equal(t[0].type, GP_TYPE_F16);
	assert_int_equal(t[0].rows, 2);
	assert_int_equal(t[0].cols, 3);
	assert_int_equal(t[0].offset, 8 + strlen(header) + 16);
	assert_int_equal(t[1].rows, 1);
	assert_int_equal(t[1].cols, 4);
	assert_int_equal(t[2].rows, 6);
	assert_int_equal(t[2].cols, 2);
	assert_string_equal(gp_safetensors_unreadable(s, "ids"), "I64");
	assert_null(gp_safetensors_unreadable(s, "m"));
	gp_safetensors_close(s);
}

static void test_bad_lengths(void **state)
{
	static const uint64_t lengths[] = { 0, 1, 1000, 100000001, UINT64_C(1) << 63, UINT64_MAX,
					    UINT64_MAX - 7 };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(lengths); i++)
		refuse_file(lengths[i], "{}", 64, "truncated");
	tiny_store(path, "short", 5);
	assert_true(gp_safetensors_open(&(struct gp_safetensors *){ NULL }, folder) < 0);
}

static void test_bad_json(void **state)
{
	(void)state;
	refuse("not json", "no JSON object");
	refuse("[1,2]", "no JSON object");
	refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
	       "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", "duplicate");
	refuse("{\"a\":7}", "dtype");
	refuse("{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", "dtype");
	refuse("{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", "dtype");
}

static void test_bad_offsets(void **state)
{
	static const char *const offsets[] = {
		"[0]", "[0,4,8]", "[\"0\",4]", "[4,0]", "[-4,0]", "[0,65]", "[64,68]",
		"[9223372036854775804,9223372036854775807]", "[0,9223372036854775807]", "{}", "null",
	};
	char header[256];

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(offsets); i++) {
		snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
			 "\"data_offsets\":%s}}", offsets[i]);
		refuse(header, "'a'");
	}
	/* JSON's own integers end at 2^63 - 1. */
	refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,99999999999999999999]}}",
	       "integer");
}

static void test_bad_shapes(void **state)
{
	static const char *const shapes[] = {
		"[2]", "[0]", "[-1]", "[1.0]", "[\"1\"]", "7", "[1,1,1,1,1,1,1,1,1]",
		"[4294967296,4294967296]", "[9223372036854775807,9223372036854775807,4]",
		"[9223372036854775807]", "[4611686018427387904,4]",
	};
	char header[256];

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(shapes); i++) {
		snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"F32\",\"shape\":%s,"
			 "\"data_offsets\":[0,4]}}", shapes[i]);
		refuse(header, "'a'");
	}
}

static void test_bad_index(void **state)
{
	static const struct { const char *text, *expected; } cases[] = {
		{ "{}", "weight_map" },
		{ "{\"weight_map\":{}}", "weight_map" },
		{ "{\"weight_map\":{\"a\":7}}", "names no file" },
		{ "{\"weight_map\":{\"a\":\"\"}}", "names no file" },
		{ "{\"weight_map\":{\"a\":\"../model.safetensors\"}}", "names no file" },
		{ "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "names no file" },
		{ "{\"weight_map\":{\"a\":\"absent.safetensors\"}}", "absent.safetensors" },
		{ "{\"weight_map\":", "damaged" },
		{ "[]", "no JSON object" },
	};
	char *index = tiny_path(folder, "model.safetensors.index.json");
	struct gp_safetensors *s;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++) {
		tiny_store(index, cases[i].text, strlen(cases[i].text));
		assert_true(gp_safetensors_open(&s, folder) < 0);
		if (!strstr(gp_error(), cases[i].expected))
			fail_msg("'%s' lacks '%s'", gp_error(), cases[i].expected);
	}
	assert_int_equal(remove(index), 0);
	free(index);
}

static void test_naming_schemes(void **state)
{
	static const char *const prefixes[] = { "model", "language_model.model",
						"model.language_model" };
	struct gp_model *m;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(prefixes); i++) {
		char expected[96];

		tiny_write_safetensors(folder, prefixes[i]);
		assert_int_equal(gp_model_open(&m, folder), 0);
		snprintf(expected, sizeof expected, "%s.layers.1.mlp.up_proj.weight", prefixes[i]);
		assert_string_equal(gp_model_tensor(m, GP_T_FFN_UP, 1)->name, expected);
		gp_model_close(m);
	}
	tiny_write_safetensors(folder, "transformer");
	assert_int_equal(gp_model_open(&m, folder), -EINVAL);
	assert_non_null(strstr(gp_error(), "'model.embed_tokens.weight' is missing"));
}

/* One change to the header's text, of the same length. */
static void refuse_change(const char *from, const char *to, const char *expected)
{
	struct gp_model *m;
	size_t bytes;
	uint8_t *file;

	assert_int_equal(strlen(from), strlen(to));
	tiny_write_safetensors(folder, "model");
	file = tiny_load(path, &bytes);
	memcpy(tiny_find(file, bytes, from), to, strlen(to));
	tiny_store(path, file, bytes);
	free(file);
	assert_int_equal(gp_model_open(&m, folder), -EINVAL);
	assert_null(m);
	if (!strstr(gp_error(), expected))
		fail_msg("'%s' lacks '%s'", gp_error(), expected);
}

static void test_bad_model(void **state)
{
	(void)state;
	refuse_change("model.layers.1.mlp.up_proj", "model.layers.1.mlp.up_xxxx",
		      "'model.layers.1.mlp.up_proj.weight' is missing");
	refuse_change("[96,64]", "[64,96]", "is 64 x 96 (rows x columns), expected 96 x 64");
	refuse_change("model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.v_proj",
		      "duplicate");
	refuse_change("\"dtype\":\"BF16\"", "\"dtype\": \"I16\"",
		      "'model.embed_tokens.weight' is of type I16");
	refuse_change("\"dtype\":\"BF16\"", "\"dtype\": \"F32\"", "disagree");
}

static void test_overlap(void **state)
{
	static const char header[] =
		"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
		"\"b\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[12,28]}}";
	struct gp_model *m;

	(void)state;
	tiny_write_safetensors(folder, "model");
	store("model.safetensors", strlen(header), header, 28);
	assert_int_equal(gp_model_open(&m, folder), -EINVAL);
	assert_non_null(strstr(gp_error(), "'a' and 'b' overlap"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good_header),
		cmocka_unit_test(test_bad_lengths),
		cmocka_unit_test(test_bad_json),
		cmocka_unit_test(test_bad_offsets),
		cmocka_unit_test(test_bad_shapes),
		cmocka_unit_test(test_bad_index),
		cmocka_unit_test(test_naming_schemes),
		cmocka_unit_test(test_bad_model),
		cmocka_unit_test(test_overlap),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

/* The GGUF reader and writer: values there and back, and headers that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "model/gguf.h"
#include "tests/common/tiny_model.h"

static char *folder, *path;

static int make_folder(void **state)
{
	(void)state;
	folder = tiny_folder();
	path = tiny_path(folder, "t.gguf");
	return 0;
}

static int remove_folder(void **state)
{
	(void)state;
	free(path);
	tiny_remove(folder);
	return 0;
}

/* ---- a file built by hand ---------------------------------------------------- */
struct image {
	uint8_t data[4096];
	size_t n;
};

static void put(struct image *f, const void *p, size_t n)
{
	assert_true(f->n + n <= sizeof f->data);
	memcpy(f->data + f->n, p, n);
	f->n += n;
}

static void put_u32(struct image *f, uint32_t v)
{
	put(f, &v, sizeof v);
}

static void put_u64(struct image *f, uint64_t v)
{
	put(f, &v, sizeof v);
}

static void put_string(struct image *f, const char *s)
{
	put_u64(f, strlen(s));
	put(f, s, strlen(s));
}

static struct image begin(uint32_t version, uint64_t n_tensors, uint64_t n_values)
{
	struct image f = { .n = 0 };

	put(&f, "GGUF", 4);
	put_u32(&f, version);
	put_u64(&f, n_tensors);
	put_u64(&f, n_values);
	return f;
}

static void put_key(struct image *f, const char *key, uint32_t kind)
{
	put_string(f, key);
	put_u32(f, kind);
}

static void put_tensor(struct image *f, const char *name, uint32_t type, uint64_t cols,
		       uint64_t rows, uint64_t offset)
{
	put_string(f, name);
	put_u32(f, 2);
	put_u64(f, cols);
	put_u64(f, rows);
	put_u32(f, type);
	put_u64(f, offset);
}

static void put_data(struct image *f, size_t n)
{
	static const uint8_t zero[1024];

	put(f, zero, (32 - f->n % 32) % 32);
	put(f, zero, n);
}

static int open_image(const struct image *f, struct gp_gguf **g)
{
	tiny_store(path, f->data, f->n);
	gp_fail(EINVAL, "%s", "");
	return gp_gguf_open(g, path);
}

static void refuse(const struct image *f, const char *expected)
{
	struct gp_gguf *g;

	assert_true(open_image(f, &g) < 0);
	assert_null(g);
	if (!strstr(gp_error(), expected))
		fail_msg("'%s' lacks '%s'", gp_error(), expected);
	assert_non_null(strstr(gp_error(), path));
}

/* ---- there and back ------------------------------------------------------------ */
static void write_values(struct gp_gguf_writer *w)
{
	static const char *const texts[] = { "a", "", "three\0" };
	static const size_t bytes[] = { 1, 0, 6 };
	static const float floats[] = { 1.5f, -2 };
	static const int32_t ints[] = { -7, 8, 9 };

	assert_int_equal(gp_gguf_add_u32(w, "u", 4000000000u), 0);
	assert_int_equal(gp_gguf_add_f32(w, "f", 0.25f), 0);
	assert_int_equal(gp_gguf_add_bool(w, "b", true), 0);
	assert_int_equal(gp_gguf_add_string(w, "s", "text\0more", 9), 0);
	assert_int_equal(gp_gguf_add_f32_array(w, "fa", floats, 2), 0);
	assert_int_equal(gp_gguf_add_i32_array(w, "ia", ints, 3), 0);
	assert_int_equal(gp_gguf_add_string_array(w, "sa", texts, bytes, 3), 0);
	assert_int_equal(gp_gguf_add_string_array(w, "none", NULL, NULL, 0), 0);
}

static void check_arrays(const struct gp_gguf *g)
{
	const struct gp_gguf_value *v = NULL;
	const char *s;
	size_t n;

	assert_int_equal(gp_gguf_get_array(g, "fa", GP_GGUF_F32, &v), 1);
	assert_int_equal(v->n, 2);
	assert_true(gp_gguf_f32_at(v, 1) == -2);
	assert_int_equal(gp_gguf_get_array(g, "ia", GP_GGUF_I32, &v), 1);
	assert_int_equal(gp_gguf_i32_at(v, 0), -7);
	assert_int_equal(gp_gguf_i32_at(v, 2), 9);
	assert_int_equal(gp_gguf_get_array(g, "sa", GP_GGUF_STRING, &v), 1);
	gp_gguf_string_at(g, v, 0, &s, &n);
	assert_int_equal(n, 1);
	gp_gguf_string_at(g, v, 1, &s, &n);
	assert_int_equal(n, 0);
	gp_gguf_string_at(g, v, 2, &s, &n);
	assert_int_equal(n, 6);
	assert_memory_equal(s, "three\0", 6);
	assert_int_equal(gp_gguf_get_array(g, "none", GP_GGUF_STRING, &v), 1);
	assert_int_equal(v->n, 0);
	assert_int_equal(gp_gguf_get_array(g, "sa", GP_GGUF_F32, &v), -EINVAL);
	assert_int_equal(gp_gguf_get_array(g, "absent", GP_GGUF_F32, &v), 0);
}

static void check_values(const struct gp_gguf *g)
{
	const char *s = NULL;
	uint32_t u = 0;
	bool b = false;
	size_t n = 0;
	float f = 0;

	assert_int_equal(gp_gguf_get_u32(g, "u", &u), 1);
	assert_int_equal(u, 4000000000u);
	assert_int_equal(gp_gguf_get_f32(g, "f", &f), 1);
	assert_true(f == 0.25f);
	assert_int_equal(gp_gguf_get_bool(g, "b", &b), 1);
	assert_true(b);
	assert_int_equal(gp_gguf_get_string(g, "s", &s, &n), 1);
	assert_int_equal(n, 9);
	assert_memory_equal(s, "text\0more", 9);
	assert_int_equal(gp_gguf_get_u32(g, "absent", &u), 0);
	assert_int_equal(gp_gguf_get_u32(g, "s", &u), -EINVAL);
	assert_non_null(strstr(gp_error(), "'s'"));
	assert_int_equal(gp_gguf_get_f32(g, "u", &f), -EINVAL);
	assert_int_equal(gp_gguf_get_bool(g, "u", &b), -EINVAL);
	assert_int_equal(gp_gguf_get_string(g, "u", &s, &n), -EINVAL);
}

static void test_round_trip(void **state)
{
	static const float vector[] = { 1, 2, 3 };
	const struct gp_gguf_tensor *t;
	struct gp_gguf_writer *w;
	struct gp_gguf *g;
	uint16_t matrix[4 * 5];

	(void)state;
	memset(matrix, 0x42, sizeof matrix);
	assert_int_equal(gp_gguf_writer_create(&w, path), 0);
	write_values(w);
	assert_int_equal(gp_gguf_add_tensor(w, "v", GP_TYPE_F32, 0, 3), 0);
	assert_int_equal(gp_gguf_add_tensor(w, "m", GP_TYPE_BF16, 4, 5), 0);
	assert_int_equal(gp_gguf_write(w, vector, sizeof vector), 0);
	assert_int_equal(gp_gguf_write(w, matrix, 7), 0);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(gp_gguf_write(w, matrix, sizeof matrix - 7), 0);
	assert_int_equal(gp_gguf_writer_finish(w), 0);
	gp_gguf_writer_destroy(w);

	assert_int_equal(gp_gguf_open(&g, path), 0);
	assert_int_equal(gp_gguf_version(g), 3);
	check_values(g);
	check_arrays(g);
	assert_int_equal(gp_gguf_tensors(g, &t), 2);
	assert_string_equal(t[0].name, "v");
	assert_int_equal(t[0].n_dims, 1);
	assert_memory_equal(t[0].data, vector, sizeof vector);
	assert_int_equal(t[1].dims[0], 5);
	assert_int_equal(t[1].dims[1], 4);
	assert_int_equal(t[1].offset % 32, 0);
	assert_memory_equal(t[1].data, matrix, sizeof matrix);
	gp_gguf_close(g);
}

static void test_writer_misuse(void **state)
{
	struct gp_gguf_writer *w;
	char *part = tiny_path(folder, "w.gguf.part"), *whole = tiny_path(folder, "w.gguf");

	(void)state;
	assert_int_equal(gp_gguf_writer_create(&w, "/nonexistent/x.gguf"), -ENOENT);
	assert_int_equal(gp_gguf_writer_create(&w, "/dev/null"), -EINVAL);
	assert_int_equal(gp_gguf_writer_create(&w, folder), -EINVAL);
	assert_int_equal(gp_gguf_writer_create(&w, whole), 0);
	assert_int_equal(gp_gguf_add_u32(w, "k", 1), 0);
	assert_int_equal(gp_gguf_add_u32(w, "k", 1), -EINVAL);
	assert_int_equal(gp_gguf_add_tensor(w, "t", GP_TYPE_Q4_0, 2, 33), -EINVAL);
	assert_int_equal(gp_gguf_add_tensor(w, "t", GP_TYPE_Q4_0, 2, 32), 0);
	assert_int_equal(gp_gguf_add_tensor(w, "t", GP_TYPE_Q4_0, 2, 32), -EINVAL);
	assert_int_equal(gp_gguf_write(w, "1234", 4), 0);
	assert_int_equal(gp_gguf_add_u32(w, "late", 1), -EINVAL);
	assert_int_equal(gp_gguf_writer_finish(w), -EINVAL);
	assert_non_null(strstr(gp_error(), "lacks 32"));
	assert_int_equal(access(part, F_OK), 0);
	gp_gguf_writer_destroy(w);
	assert_int_equal(access(part, F_OK), -1);
	assert_int_equal(access(whole, F_OK), -1);
	free(part);
	free(whole);
}

/* Integers of every width serve as u32, within its range. */
static void test_integer_widths(void **state)
{
	struct image f = begin(2, 0, 5);
	struct gp_gguf *g;
	uint32_t u = 0;
	float x = 0;

	(void)state;
	put_key(&f, "u8", GP_GGUF_U8);
	put(&f, "\xff", 1);
	put_key(&f, "i8", GP_GGUF_I8);
	put(&f, "\xff", 1);
	put_key(&f, "u64", GP_GGUF_U64);
	put_u64(&f, 77);
	put_key(&f, "large", GP_GGUF_U64);
	put_u64(&f, UINT64_MAX);
	put_key(&f, "f64", GP_GGUF_F64);
	put(&f, &(double){ 0.5 }, 8);
	assert_int_equal(open_image(&f, &g), 0);
	assert_int_equal(gp_gguf_version(g), 2);
	assert_int_equal(gp_gguf_get_u32(g, "u8", &u), 1);
	assert_int_equal(u, 255);
	assert_int_equal(gp_gguf_get_u32(g, "i8", &u), -EINVAL);
	assert_int_equal(gp_gguf_get_u32(g, "u64", &u), 1);
	assert_int_equal(u, 77);
	assert_int_equal(gp_gguf_get_u32(g, "large", &u), -EINVAL);
	assert_int_equal(gp_gguf_get_f32(g, "f64", &x), 1);
	assert_true(x == 0.5f);
	gp_gguf_close(g);
}

/* ---- headers that lie ------------------------------------------------------------ */
static void test_bad_start(void **state)
{
	struct image f = begin(3, 0, 0);

	(void)state;
	f.data[0] = 'X';
	refuse(&f, "no GGUF file");
	f = begin(1, 0, 0);
	refuse(&f, "version 1");
	f = begin(4, 0, 0);
	refuse(&f, "version 4");
	f = begin(UINT32_C(3) << 24, 0, 0);
	refuse(&f, "big-endian");
	f = begin(3, UINT64_MAX, 0);
	refuse(&f, "claims");
	f = begin(3, 0, UINT64_MAX / 2);
	refuse(&f, "claims");
	f = begin(3, 0, 60000);
	refuse(&f, "truncated");
	f = begin(3, 60000, 0);
	refuse(&f, "truncated");
}

static void test_bad_strings(void **state)
{
	static const uint64_t lengths[] = { UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 7, 1000 };
	struct image f;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(lengths); i++) {
		f = begin(3, 0, 1);
		put_u64(&f, lengths[i]);
		put(&f, "key", 3);
		refuse(&f, "damaged");
		f = begin(3, 0, 1);
		put_key(&f, "key", GP_GGUF_STRING);
		put_u64(&f, lengths[i]);
		refuse(&f, "key");
	}
	f = begin(3, 0, 1);
	put_key(&f, "", GP_GGUF_U8);
	put(&f, "", 1);
	refuse(&f, "empty");
	f = begin(3, 0, 1);
	put_key(&f, "key", 13);
	put_u64(&f, 0);
	refuse(&f, "unknown kind 13");
}

static void test_bad_arrays(void **state)
{
	static const uint64_t counts[] = { UINT64_MAX, UINT64_C(1) << 61, UINT64_C(1) << 27, 100 };
	struct image f;

	(void)state;
	for (uint32_t kind = 0; kind < GP_GGUF_KINDS; kind++)
		for (size_t i = 0; i < GP_ARRAY_LEN(counts); i++) {
			f = begin(3, 0, 1);
			put_key(&f, "key", GP_GGUF_ARRAY);
			put_u32(&f, kind);
			put_u64(&f, counts[i]);
			put_u32(&f, 0);
			refuse(&f, "'key'");
		}
	f = begin(3, 0, 1);
	put_key(&f, "key", GP_GGUF_ARRAY);
	put_u32(&f, 99);
	put_u64(&f, 0);
	refuse(&f, "unknown kind 99");
}

static void test_nested_arrays(void **state)
{
	struct gp_gguf *g;

	(void)state;
	for (unsigned depth = 1; depth < 40; depth++) {
		struct image f = begin(3, 0, 1);

		put_key(&f, "key", GP_GGUF_ARRAY);
		for (unsigned i = 0; i < depth; i++) {
			put_u32(&f, GP_GGUF_ARRAY);
			put_u64(&f, 1);
		}
		put_u32(&f, GP_GGUF_STRING);
		put_u64(&f, 1);
		put_string(&f, "deep");
		if (depth > 4) {
			refuse(&f, "nests");
			continue;
		}
		assert_int_equal(open_image(&f, &g), 0);
		gp_gguf_close(g);
	}
}

static void test_duplicates(void **state)
{
	struct image f = begin(3, 0, 2);

	(void)state;
	for (int i = 0; i < 2; i++) {
		put_key(&f, "key", GP_GGUF_U8);
		put(&f, "", 1);
	}
	refuse(&f, "key 'key' is there twice");
	f = begin(3, 2, 0);
	put_tensor(&f, "same", GP_TYPE_F32, 4, 2, 0);
	put_tensor(&f, "same", GP_TYPE_F32, 4, 2, 32);
	put_data(&f, 64);
	refuse(&f, "tensor 'same' is there twice");
}

static void test_bad_alignment(void **state)
{
	static const uint32_t bad[] = { 0, 3, 33, 0x80000001u };
	struct gp_gguf *g;
	struct image f;

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(bad); i++) {
		f = begin(3, 0, 1);
		put_key(&f, "general.alignment", GP_GGUF_U32);
		put_u32(&f, bad[i]);
		refuse(&f, "general.alignment");
	}
	f = begin(3, 1, 1);
	put_key(&f, "general.alignment", GP_GGUF_U32);
	put_u32(&f, 0x80000000u);
	put_tensor(&f, "t", GP_TYPE_F32, 1, 1, 0);
	put_data(&f, 64);
	refuse(&f, "truncated");
	f = begin(3, 1, 1);
	put_key(&f, "general.alignment", GP_GGUF_U32);
	put_u32(&f, 8);
	put_tensor(&f, "t", GP_TYPE_F32, 1, 1, 8);
	put_data(&f, 64);
	assert_int_equal(open_image(&f, &g), 0);
	gp_gguf_close(g);
}

static void refuse_tensor(uint32_t type, uint64_t cols, uint64_t rows, uint64_t offset,
			  const char *expected)
{
	struct image f = begin(3, 1, 0);

	put_tensor(&f, "t", type, cols, rows, offset);
	put_data(&f, 128);
	refuse(&f, expected);
}

static void test_bad_tensors(void **state)
{
	struct image f = begin(3, 1, 0);
	struct gp_gguf *g;

	(void)state;
	put_tensor(&f, "t", GP_TYPE_F32, 8, 4, 0);
	put_data(&f, 128);
	assert_int_equal(open_image(&f, &g), 0);
	gp_gguf_close(g);
	f.n--;
	refuse(&f, "passes the file's end");

	refuse_tensor(GP_TYPE_F32, 8, 4, 32, "passes the file's end");
	refuse_tensor(GP_TYPE_F32, 8, 4, UINT64_MAX - 31, "passes the file's end");
	refuse_tensor(GP_TYPE_F32, 8, 4, UINT64_C(1) << 63, "passes the file's end");
	refuse_tensor(GP_TYPE_F32, 8, 2, 4, "alignment");
	refuse_tensor(GP_TYPE_F32, 0, 4, 0, "dimension 0 is 0");
	refuse_tensor(GP_TYPE_F32, 8, 0, 0, "dimension 1 is 0");
	refuse_tensor(GP_TYPE_F32, UINT64_MAX, 2, 0, "'t'");
	refuse_tensor(GP_TYPE_F32, UINT64_C(1) << 62, 4, 0, "'t'");
	refuse_tensor(GP_TYPE_F32, UINT64_C(1) << 32, UINT64_C(1) << 32, 0, "'t'");
	refuse_tensor(GP_TYPE_Q4_0, 31, 1, 0, "'t'");
	refuse_tensor(10, 256, 1, 0, "Q2_K");
	refuse_tensor(4000, 8, 1, 0, "type 4000");
	refuse_tensor(UINT32_MAX, 8, 1, 0, "unknown");
}

static void test_bad_dimension_counts(void **state)
{
	static const uint32_t counts[] = { 0, 5, UINT32_MAX };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(counts); i++) {
		struct image f = begin(3, 1, 0);

		put_string(&f, "t");
		put_u32(&f, counts[i]);
		put_data(&f, 512);
		refuse(&f, "dimensions");
	}
}

static void test_no_regular_file(void **state)
{
	struct gp_gguf *g;
	struct image f = { .n = 0 };

	(void)state;
	assert_int_equal(gp_gguf_open(&g, "/nonexistent.gguf"), -ENOENT);
	assert_int_equal(gp_gguf_open(&g, folder), -EINVAL);
	refuse(&f, "empty");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_writer_misuse),
		cmocka_unit_test(test_integer_widths),
		cmocka_unit_test(test_bad_start),
		cmocka_unit_test(test_bad_strings),
		cmocka_unit_test(test_bad_arrays),
		cmocka_unit_test(test_nested_arrays),
		cmocka_unit_test(test_duplicates),
		cmocka_unit_test(test_bad_alignment),
		cmocka_unit_test(test_bad_tensors),
		cmocka_unit_test(test_bad_dimension_counts),
		cmocka_unit_test(test_no_regular_file),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

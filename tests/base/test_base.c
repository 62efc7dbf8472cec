#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

static void test_errors(void **state)
{
	(void)state;
	assert_int_equal(gp_fail(ENOENT, "%s: gone", "a\nb"), -ENOENT);
	assert_string_equal(gp_error(), "a b: gone"); /* one line, whatever the input */
	assert_int_equal(gp_fail_in(-ENOENT, "loading %d", 3), -ENOENT);
	assert_string_equal(gp_error(), "loading 3: a b: gone");
	assert_true(gp_fail(0, "no number") < 0);
}

static void test_long_errors_are_cut(void **state)
{
	char text[4 * GP_ERROR_BYTES];

	(void)state;
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	gp_fail(EINVAL, "%s", text);
	assert_int_equal(strlen(gp_error()), GP_ERROR_BYTES - 1);
	gp_fail_in(-EINVAL, "%s", text);
	assert_true(strlen(gp_error()) < GP_ERROR_BYTES);
}

static void test_sizes(void **state)
{
	size_t r = 7;

	(void)state;
	assert_true(gp_size_mul(3, 5, &r) && r == 15);
	assert_false(gp_size_mul(SIZE_MAX / 2, 3, &r));
	assert_int_equal(r, 15);
	assert_false(gp_size_add(SIZE_MAX, 1, &r));
	assert_true(gp_size_round_up(65, 64, &r) && r == 128);
	assert_true(gp_size_round_up(0, 64, &r) && r == 0);
	assert_false(gp_size_round_up(SIZE_MAX - 3, 64, &r));
}

static void test_size_text(void **state)
{
	char buf[32];

	(void)state;
	assert_string_equal(gp_size_text(buf, 17), "17 B");
	assert_string_equal(gp_size_text(buf, 1536), "1.5 KiB");
	assert_string_equal(gp_size_text(buf, (uint64_t)3 << 40), "3.0 TiB");
}

static void test_duration_text(void **state)
{
	char buf[32];

	(void)state;
	assert_string_equal(gp_duration_text(buf, 9.9), "0:09");
	assert_string_equal(gp_duration_text(buf, 3599), "59:59");
	assert_string_equal(gp_duration_text(buf, 3600 + 309), "1:05:09");
	assert_string_equal(gp_duration_text(buf, -1), "0:00");
	assert_string_equal(gp_duration_text(buf, INFINITY), "0:00");
	assert_string_equal(gp_duration_text(buf, NAN), "0:00");
}

/* Of the function's authors' list. */
static void test_hash(void **state)
{
	(void)state;
	assert_true(gp_hash(GP_HASH_BEGIN, "", 0) == 0xcbf29ce484222325u);
	assert_true(gp_hash(GP_HASH_BEGIN, "foobar", 6) == 0x85944171f73967e8u);
	assert_true(gp_hash(gp_hash(GP_HASH_BEGIN, "foo", 3), "bar", 3) == 0x85944171f73967e8u);
}

static void test_parse(void **state)
{
	static const char *const bad[] = { "", "-1", "+1", " 1", "1 ", "0x10", "11", "99999999999999999999" };
	uint64_t v;

	(void)state;
	assert_int_equal(gp_parse_u64("n", "10", 1, 10, &v), 0);
	assert_int_equal(v, 10);
	for (size_t i = 0; i < GP_ARRAY_LEN(bad); i++)
		assert_int_equal(gp_parse_u64("n", bad[i], 1, 10, &v), -EINVAL);
}

static void test_scan_size(void **state)
{
	static const struct { const char *text; uint64_t bytes; size_t used; } good[] = {
		{ "0", 0, 1 }, { "17,", 17, 2 }, { "3k", 3072, 2 }, { "16G]", (uint64_t)16 << 30, 3 },
		{ "5M", 5 << 20, 2 }, { "1T", (uint64_t)1 << 40, 2 },
		{ "16777215T", (uint64_t)16777215 << 40, 9 }, { "4X", 4, 1 },
	};
	static const char *const bad[] = { "", "G", "-1", "+1", " 1", "16777216T",
	                                   "18446744073709551616" };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(good); i++) {
		const char *at = good[i].text;
		uint64_t v = 1;

		assert_int_equal(gp_scan_size(&at, &v), 0);
		assert_int_equal(v, good[i].bytes);
		assert_ptr_equal(at, good[i].text + good[i].used);
	}
	for (size_t i = 0; i < GP_ARRAY_LEN(bad); i++) {
		const char *at = bad[i];
		uint64_t v;

		assert_int_equal(gp_scan_size(&at, &v), -EINVAL);
		assert_ptr_equal(at, bad[i]);
	}
}

/* A writer that was killed leaves half a line; the joined file stays JSON. */
static void test_trace_join_drops_half_lines(void **state)
{
	char part[] = "/tmp/gp-part-XXXXXX", out[] = "/tmp/gp-out-XXXXXX", text[512] = "";
	const char *const parts[] = { part, "/tmp/gp-part-that-is-not-there" };
	const int fd = mkstemp(part), out_fd = mkstemp(out);

	(void)state;
	dprintf(fd, "{\"a\":1}\n{\"half\":{}\n{\"b\":2}\n{\"c\":");
	close(fd);
	close(out_fd);
	assert_int_equal(gp_trace_join(out, parts, 2), 0);
	FILE *f = fopen(out, "re");
	assert_true(fread(text, 1, sizeof text - 1, f) > 0);
	fclose(f);
	unlink(part);
	unlink(out);
	assert_non_null(strstr(text, "{\"a\":1},\n{\"b\":2}\n]"));
	assert_null(strstr(text, "half"));
	assert_null(strstr(text, "{\"c\""));
}

static void test_trace_writes_spans(void **state)
{
	char part[] = "/tmp/gp-part-XXXXXX", text[2048] = "";

	(void)state;
	close(mkstemp(part));
	assert_false(gp_trace_on());
	gp_trace_span("c", "ignored", 1, 2, NULL, 0);
	assert_int_equal(gp_trace_open(part, "p", 1), 0);
	gp_trace_span("c", "work", 1000, 3000, "rows", 5);
	gp_trace_flow(true, 42, 1, 1500);
	gp_trace_close();
	FILE *f = fopen(part, "re");
	assert_true(fread(text, 1, sizeof text - 1, f) > 0);
	fclose(f);
	unlink(part);
	assert_non_null(strstr(text, "\"ts\":1.000,\"dur\":2.000,\"args\":{\"rows\":5}}"));
	assert_non_null(strstr(text, "\"ph\":\"s\""));
	assert_null(strstr(text, "ignored"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_errors), cmocka_unit_test(test_long_errors_are_cut),
		cmocka_unit_test(test_sizes), cmocka_unit_test(test_size_text),
		cmocka_unit_test(test_duration_text), cmocka_unit_test(test_hash),
		cmocka_unit_test(test_parse), cmocka_unit_test(test_scan_size),
		cmocka_unit_test(test_trace_join_drops_half_lines),
		cmocka_unit_test(test_trace_writes_spans),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Where weights and pipelines are kept: budgets, heaps, staging, the cache on disk; and
 * which device it is. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <ftw.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/common/process.h"
#include "workers/vulkan/vulkan_device.h"
#include "workers/workers.h"

static char *undisturbed;
static char cache[64];

static int set_up(void **state)
{
	(void)state;
	undisturbed = text_of_mini("12");
	return undisturbed ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	free(undisturbed);
	return 0;
}

static void run_stages(struct result *r, const char *stages, const char *limit)
{
	RUN(r, program("run"), "-m", MINI, "-p", "In the beginning", "-n", "12", "--stages", stages,
	    limit ? "--device-memory" : "-v", limit);
}

static void assert_says(const struct result *r, const char *text)
{
	if (!strstr(r->err, text))
		fail_msg("'%s' is not in: %s", text, r->err);
}

static void assert_text(const char *stages, const char *limit)
{
	struct result r;

	run_stages(&r, stages, limit);
	if (r.status)
		fail_msg("%s: %s", stages, r.err);
	assert_string_equal(r.out, undisturbed);
	result_free(&r);
}

static void assert_refused(const char *stages, const char *limit, const char *text)
{
	struct result r;

	run_stages(&r, stages, limit);
	assert_int_equal(r.status, 1);
	assert_string_equal(r.out, "");
	assert_says(&r, text);
	result_free(&r);
}

/* ---- budgets ------------------------------------------------------------------- */
static void test_limit(void **state)
{
	(void)state;
	assert_text("vulkan:0-5", "vulkan=1G");
	assert_text("vulkan:0-2,vulkan:3-5", "vulkan[0]=1024M");
	assert_refused("vulkan:0-5", "vulkan=40M", "(weights 29.");
	assert_refused("vulkan:0-5", "vulkan=40M", "40.0 MiB are its share of --device-memory");
	/* Enough for one stage, not for two. */
	assert_refused("vulkan:0-2,vulkan:3-5", "vulkan=60M", "are its share of --device-memory");
}

/* Ends of blocks that nothing fits stay within what the budget leaves over. */
static void test_ends_of_blocks(void **state)
{
	static const uint64_t slack[] = { 0, 5 << 20, 1 << 30 };
	const size_t bytes = 15 << 20;
	struct vk_span span;
	void *dev;

	(void)state;
	if (gp_vulkan_device.open(&dev, &(struct gp_device_options){ 0 }) < 0)
		fail_msg("%s", gp_error());
	for (size_t s = 0; s < GP_ARRAY_LEN(slack); s++) {
		struct vk_arena a = { .expected = 12 * bytes, .slack = slack[s] };

		for (unsigned i = 0; i < 12; i++)
			assert_int_equal(vk_take(dev, &a, bytes, "weights", &span), 0);
		assert_true(a.bytes <= a.expected + slack[s]);
		assert_true(slack[s] < 1 << 30 || a.n < 12);
		vk_give_all(dev, &a);
	}
	gp_vulkan_device.close(dev);
}

static void test_wrong_limits(void **state)
{
	static const char *const wrong[] = { "vulkan", "vulkan=", "vulkan=x", "vulkan=0", "vulkan=4X",
	                                     "vulkan[=4G", "=4G", "vulkan=4G;", "vulkan=99999999T",
	                                     "vulkan=4G," };

	(void)state;
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		assert_refused("vulkan:0-5", wrong[i], "is not DEVICE=SIZE");
	assert_refused("vulkan:0-5", "cpu=1G", "only vulkan and npu devices");
	assert_refused("vulkan:0-5", "vulkan[1]=1G", "no stage is on vulkan[1]");
	assert_refused("vulkan:0-5", "vulkan=1G,vulkan=2G", "it is there twice");
}

/* ---- a card -------------------------------------------------------------------- */
static json_t *list_devices(void)
{
	struct result r;

	RUN(&r, program("devices"), "--json");
	assert_int_equal(r.status, 0);
	json_t *all = json_loads(r.out, 0, NULL);
	assert_true(json_is_array(all));
	result_free(&r);
	return all;
}

static const json_t *vulkan_device(const json_t *all, size_t i)
{
	return json_array_get(json_object_get(json_array_get(all, 1), "devices"), i);
}

/* A real one has memory of its own kind, which the made-up heaps would not fit. */
static bool is_emulated(void)
{
	json_t *all = list_devices();
	const char *type = json_string_value(json_object_get(vulkan_device(all, 0), "type"));
	const bool yes = type && strstr(type, "emulation");

	json_decref(all);
	return yes;
}

static void put_card(const char *heaps)
{
	char preload[4096];

	if (!getenv("LD_PRELOAD") && !is_emulated())
		skip();
	snprintf(preload, sizeof preload, "%s", program("x"));
	strcpy(strstr(preload, "/bin/gempipe-x"), "/tests/preload/vulkan_card.so");
	setenv("LD_PRELOAD", preload, 1);
	setenv("GP_CARD", heaps, 1);
}

static void take_card(void)
{
	unsetenv("LD_PRELOAD");
	unsetenv("GP_CARD");
}

/* Weights go through staging buffers; what does not fit one heap goes to the other. */
static void test_card(void **state)
{
	(void)state;
	put_card("1024,1024");
	assert_text("vulkan:0-5", NULL);
	put_card("48,48");
	assert_text("vulkan:0-5", NULL);
	put_card("30,30");
	assert_refused("vulkan:0-5", NULL, "are free on the device");
	take_card();
}

/* Matrices larger than a staging buffer. */
static void test_card_in_parts(void **state)
{
	char path[] = "/tmp/gp-f32-XXXXXX";
	struct result r;

	(void)state;
	put_card("1024,1024");
	assert_int_equal(close(mkstemp(path)), 0);
	RUN(&r, program("convert"), "-q", MINI, "-o", path, "--type", "f32");
	assert_int_equal(r.status, 0);
	result_free(&r);
	RUN(&r, program("run"), "-m", path, "-p", "In the beginning", "-n", "12", "--stages",
	    "vulkan:0-5", "-q");
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, undisturbed);
	result_free(&r);
	unlink(path);
	take_card();
}

static void test_second_card(void **state)
{
	(void)state;
	put_card("1024,1024");
	assert_text("vulkan:0-2,vulkan[1]:3-5", NULL);
	assert_text("vulkan:0-2,vulkan[1]:3-5", "vulkan=512M,vulkan[1]=512M");
	assert_refused("vulkan:0-2,vulkan[1]:3-5", "vulkan=512M,vulkan[1]=20M",
	               "worker 1 (vulkan[1], layers 3-5)");
	assert_refused("vulkan[2]:0-5", NULL, "there is no vulkan[2]");
	take_card();
}

/* ---- a device that can do less ------------------------------------------------- */
static void convert(const char *from, const char *to, const char *type)
{
	struct result r;

	RUN(&r, program("convert"), "-q", from, "-o", to, "--type", type);
	if (r.status)
		fail_msg("%s", r.err);
	result_free(&r);
}

static char *text_of_file(const char *path, const char *stages)
{
	struct result r;

	RUN(&r, program("run"), "-m", path, "-p", "In the beginning", "-n", "12", "--stages",
	    stages, "-q");
	if (r.status)
		fail_msg("%s: %s", stages, r.err);
	char *text = r.out;
	r.out = NULL;
	result_free(&r);
	return text;
}

/* Without products in 8 bits, quantised weights become halves: on the CPU those of the
 * same weights in floats say the same. */
static void test_no_dot_products(void **state)
{
	char small[] = "/tmp/gp-q4-XXXXXX", whole[] = "/tmp/gp-f32-XXXXXX";
	struct result r;

	(void)state;
	put_card("1024,1024");
	take_card();
	assert_int_equal(close(mkstemp(small)), 0);
	assert_int_equal(close(mkstemp(whole)), 0);
	convert(MINI, small, "q4_0");
	convert(small, whole, "f32");
	char *want = text_of_file(whole, "cpu:0-5");
	put_card("1024,1024");
	setenv("GP_CARD_WITHOUT", "VK_KHR_shader_integer_dot_product", 1);
	char *got = text_of_file(small, "vulkan:0-5");
	assert_string_equal(got, want);
	RUN(&r, program("run"), "-m", small, "-p", "x", "--stages", "vulkan:0-5",
	    "--device-memory", "vulkan=20M");
	assert_says(&r, "(weights 29.");   /* 8 with quants */
	result_free(&r);
	json_t *all = list_devices();
	assert_true(json_is_true(json_object_get(vulkan_device(all, 0), "usable")));
	json_decref(all);
	unsetenv("GP_CARD_WITHOUT");
	take_card();
	free(want);
	free(got);
	unlink(small);
	unlink(whole);
}

/* ---- the list ------------------------------------------------------------------ */
static void test_devices(void **state)
{
	(void)state;
	put_card("100,50");
	json_t *all = list_devices();
	take_card();
	const json_t *d = vulkan_device(all, 1);
	assert_null(vulkan_device(all, 2));
	assert_string_equal(json_string_value(json_object_get(d, "device")), "vulkan[1]");
	assert_string_equal(json_string_value(json_object_get(d, "type")), "discrete GPU");
	assert_true(json_is_true(json_object_get(d, "usable")));
	const json_t *heap = json_array_get(json_object_get(d, "heaps"), 1);
	assert_int_equal(json_integer_value(json_object_get(heap, "bytes")), 50 << 20);
	assert_true(json_is_false(json_object_get(heap, "host_visible")));
	assert_true(json_array_size(json_object_get(d, "features")) > 8);
	json_decref(all);
}

/* Mesa's emulation has subgroups of 4 without AVX. Shaders would compute nonsense. */
static void test_narrow_subgroups(void **state)
{
	(void)state;
	setenv("LP_NATIVE_VECTOR_WIDTH", "128", 1);
	json_t *all = list_devices();
	const json_t *d = vulkan_device(all, 0);
	const bool narrow = d && json_integer_value(json_object_get(d, "subgroup_size")) < 8;
	if (narrow) {
		assert_true(json_is_false(json_object_get(d, "usable")));
		assert_refused("vulkan:0-5", NULL, "lacks subgroups of 8 that add and shuffle");
	}
	json_decref(all);
	unsetenv("LP_NATIVE_VECTOR_WIDTH");
	if (!narrow)
		skip();
}

/* ---- the cache on disk ---------------------------------------------------------- */
/* Of the one file in it; false: there is none. */
static bool cache_file(char path[400])
{
	char folder[80];
	struct dirent *e;
	bool found = false;

	snprintf(folder, sizeof folder, "%s/gempipe", cache);
	DIR *d = opendir(folder);
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.') {
			assert_false(found);
			snprintf(path, 400, "%s/%s", folder, e->d_name);
			found = true;
		}
	if (d)
		closedir(d);
	return found;
}

static void cached_run(bool damaged)
{
	struct result r;

	run_stages(&r, "vulkan:0-5", NULL);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, undisturbed);
	if ((strstr(r.err, "damaged") != NULL) != damaged)
		fail_msg("%s", r.err);
	result_free(&r);
}

static void put(const char *path, long at, const char *bytes, size_t n)
{
	FILE *f = fopen(path, "r+e");

	assert_non_null(f);
	assert_int_equal(fseek(f, at, SEEK_SET), 0);
	assert_int_equal(fwrite(bytes, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *at)
{
	(void)s;
	(void)type;
	(void)at;
	return remove(path);
}

/* Drivers and layers put files of their own there too. */
static void remove_cache(void)
{
	assert_int_equal(nftw(cache, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static void test_cache(void **state)
{
	char path[400], folder[80];

	(void)state;
	strcpy(cache, "/tmp/gp-cache.XXXXXX");
	assert_non_null(mkdtemp(cache));
	setenv("XDG_CACHE_HOME", cache, 1);
	setenv("MESA_SHADER_CACHE_DISABLE", "true", 1);
	cached_run(false);
	assert_true(cache_file(path));
	cached_run(false);
	put(path, 40, "?", 1);
	cached_run(true);
	cached_run(false);
	assert_int_equal(truncate(path, 30), 0);
	cached_run(true);
	cached_run(false);
	put(path, 8, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
	cached_run(true);
	cached_run(false);
	assert_true(cache_file(path));   /* and nothing temporary beside it */
	unlink(path);
	snprintf(folder, sizeof folder, "%s/gempipe", cache);
	assert_int_equal(rmdir(folder), 0);
	remove_cache();
	/* No folder can be there. */
	setenv("XDG_CACHE_HOME", "/dev/null/cache", 1);
	cached_run(false);
	unsetenv("XDG_CACHE_HOME");
	unsetenv("MESA_SHADER_CACHE_DISABLE");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_limit), cmocka_unit_test(test_ends_of_blocks),
		cmocka_unit_test(test_wrong_limits),
		cmocka_unit_test(test_card), cmocka_unit_test(test_card_in_parts),
		cmocka_unit_test(test_second_card), cmocka_unit_test(test_no_dot_products),
		cmocka_unit_test(test_devices), cmocka_unit_test(test_narrow_subgroups), cmocka_unit_test(test_cache),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

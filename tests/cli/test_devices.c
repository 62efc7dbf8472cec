/* gempipe devices, where there is a GPU and where there is none. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/common/process.h"

static json_t *list(const char *kind, json_t **all)
{
	struct result r;
	json_t *k;
	size_t i;

	RUN(&r, program("devices"), "--json");
	assert_int_equal(r.status, 0);
	assert_string_equal(r.err, "");
	*all = json_loads(r.out, 0, NULL);
	result_free(&r);
	json_array_foreach(*all, i, k)
		if (strcmp(json_string_value(json_object_get(k, "kind")), kind) == 0)
			return k;
	fail_msg("no %s", kind);
	return NULL;
}

static void test_cpu(void **state)
{
	json_t *all;

	(void)state;
	setenv("GP_CPU", "scalar", 1);
	const json_t *cpu = json_array_get(json_object_get(list("cpu", &all), "devices"), 0);
	unsetenv("GP_CPU");
	assert_true(json_string_length(json_object_get(cpu, "name")) > 0);
	assert_true(json_integer_value(json_object_get(cpu, "cores")) >= 1);
	assert_string_equal(json_string_value(json_object_get(cpu, "uses")), "scalar");
	assert_string_equal(json_string_value(json_object_get(cpu, "gp_cpu")), "scalar");
	json_decref(all);
	setenv("GP_CPU", "nonsense", 1);
	assert_non_null(strstr(json_string_value(json_object_get(list("cpu", &all), "problem")),
	                       "nonsense"));
	unsetenv("GP_CPU");
	json_decref(all);
	cpu = json_array_get(json_object_get(list("cpu", &all), "devices"), 0);
	assert_true(json_is_null(json_object_get(cpu, "gp_cpu")));
	assert_true(json_is_array(json_object_get(cpu, "instruction_sets")));
	json_decref(all);
}

/* One line says why there is none, and that is no failure. */
static void assert_no_vulkan(const char *why)
{
	struct result r;

	RUN(&r, program("devices"));
	assert_int_equal(r.status, 0);
	assert_string_equal(r.err, "");
	assert_ptr_equal(strstr(r.out, "cpu: "), r.out);
	const char *line = strstr(r.out, "\nvulkan: none: ");
	const char *end = line ? strchr(line + 1, '\n') : NULL, *reason = line ? strstr(line, why) : NULL;
	if (!end || !reason || reason > end || strncmp(end, "\nnpu: ", 6) != 0)
		fail_msg("%s", r.out);
	result_free(&r);
}

static void test_no_driver(void **state)
{
	(void)state;
	if (access(program("worker-vulkan"), X_OK) != 0)
		skip();
	setenv("VK_ICD_FILENAMES", "/nonexistent.json", 1);
	setenv("VK_DRIVER_FILES", "/nonexistent.json", 1);
	assert_no_vulkan("mesa-vulkan-drivers");
	unsetenv("VK_ICD_FILENAMES");
	unsetenv("VK_DRIVER_FILES");
}

static void put_script(const char *folder, const char *script)
{
	char path[128];

	snprintf(path, sizeof path, "%s/gempipe-worker-vulkan", folder);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	fputs(script, f);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(path, 0755), 0);
}

static void test_no_worker(void **state)
{
	char folder[] = "/tmp/gp-devices-XXXXXX", cpu[128], vulkan[128], own[4096];

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(cpu, sizeof cpu, "%s/gempipe-worker-cpu", folder);
	snprintf(vulkan, sizeof vulkan, "%s/gempipe-worker-vulkan", folder);
	assert_non_null(realpath(program("worker-cpu"), own));
	assert_int_equal(symlink(own, cpu), 0);
	setenv("GEMPIPE_WORKER_DIR", folder, 1);
	assert_no_vulkan("this build has no vulkan worker");
	/* As when the loader's library is missing. */
	put_script(folder, "#!/bin/sh\necho 'cannot open shared object file' >&2\nexit 127\n");
	assert_no_vulkan("libvulkan1");
	put_script(folder, "#!/bin/sh\nkill -SEGV $$\n");
	assert_no_vulkan("--describe failed");
	put_script(folder, "#!/bin/sh\necho '{\"devices'\n");
	assert_no_vulkan("--describe failed");
	unsetenv("GEMPIPE_WORKER_DIR");
	unlink(cpu);
	unlink(vulkan);
	rmdir(folder);
}

static void test_usage(void **state)
{
	struct result r;

	(void)state;
	RUN(&r, program("devices"), "gpu");
	assert_int_equal(r.status, 2);
	assert_non_null(strstr(r.err, "'gpu' is one word too many"));
	result_free(&r);
	RUN(&r, program("worker-cpu"), "--describe");
	assert_int_equal(r.status, 0);
	assert_non_null(strstr(r.out, "\"kind\":\"cpu\""));
	result_free(&r);
	RUN(&r, program("worker-cpu"), "--device", "x", "--connect", "ipc:///x", "--stage", "0");
	assert_int_equal(r.status, 2);
	result_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cpu), cmocka_unit_test(test_no_driver),
		cmocka_unit_test(test_no_worker), cmocka_unit_test(test_usage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

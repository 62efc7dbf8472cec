/* What is handed to the vendor's toolchain: the design script's numbers are those of
 * aie.h, what it prints is MLIR, and the build script says what is missing. */
#include "tests/kernels/check.h"

#include "kernels/aie/aie.h"
#include "tests/common/process.h"

#define DESIGN "kernels/aie/design.py"

static void shell(struct result *r, const char *command)
{
	RUN(r, "/bin/bash", "-o", "pipefail", "-c", command);
}

static bool has(const char *name)
{
	char command[64];
	struct result r;

	snprintf(command, sizeof command, "command -v %s", name);
	shell(&r, command);
	const bool yes = r.status == 0;
	result_free(&r);
	return yes;
}

static void test_sizes(void **state)
{
	unsigned x, w, y, memory_tile, compute_tile;
	char name[64];
	struct result r;

	(void)state;
	if (!has("python3"))
		skip();
	shell(&r, DESIGN " --sizes");
	assert_int_equal(r.status, 0);
	const char *at = r.out;
	for (unsigned f = 0; f < GP_AIE_FORMS; f++) {
		assert_int_equal(sscanf(at, "%63s %u %u %u %u %u", name, &x, &w, &y, &memory_tile,
		                        &compute_tile), 6);
		assert_string_equal(name, gp_aie_forms[f].name);
		assert_int_equal(x, gp_aie_forms[f].x_bytes);
		assert_int_equal(w, gp_aie_forms[f].w_bytes);
		assert_int_equal(y, gp_aie_forms[f].y_bytes);
		assert_true(memory_tile <= GP_AIE_MEMORY_TILE_BYTES);
		assert_true(compute_tile <= GP_AIE_DATA_BYTES);
		at = strchr(at, '\n') + 1;
	}
	assert_string_equal(at, "");
	result_free(&r);
}

/* 24 tiles, 16 cores; each parses where there is somebody to parse it. */
static void test_designs(void **state)
{
	char command[256];
	struct result r;

	(void)state;
	if (!has("python3"))
		skip();
	for (unsigned f = 0; f < GP_AIE_FORMS; f++) {
		snprintf(command, sizeof command, DESIGN " %s | grep -cE 'aie.(tile|core)\\('",
		         gp_aie_forms[f].name);
		shell(&r, command);
		assert_string_equal(r.out, "40\n");
		result_free(&r);
		if (!has("mlir-opt-16"))
			continue;
		snprintf(command, sizeof command, DESIGN " %s --generic | sed s/func.call/some.call/ | "
		         "mlir-opt-16 --allow-unregistered-dialect | grep -c aie.core",
		         gp_aie_forms[f].name);
		shell(&r, command);
		if (r.status != 0 || strcmp(r.out, "16\n") != 0)
			fail_msg("%s", r.err);
		result_free(&r);
	}
	shell(&r, DESIGN " gemm-int3");
	assert_int_equal(r.status, 2);
	result_free(&r);
}

static void test_build_script(void **state)
{
	struct result r;

	(void)state;
	if (has("aiecc") || has("aiecc.py") || has("xclbinutil"))
		skip();
	shell(&r, "MLIR_AIE_INSTALL_DIR=/nonexistent PEANO_INSTALL_DIR=/usr kernels/aie/build --check");
	assert_int_equal(r.status, 1);
	assert_string_equal(r.out, "");
	assert_non_null(strstr(r.err, "missing: aiecc"));
	assert_non_null(strstr(r.err, "missing: xclbinutil"));
	assert_non_null(strstr(r.err, "parts of the toolchain are missing"));
	result_free(&r);
}

/* With stand-ins for the toolchain: whichever aiecc there is, it gets the options that it
 * knows, and kernels that are too large are not put in. */
static void test_build(void **state)
{
	static const char build[] = "tests/npu/build-programs";
	struct result r;

	(void)state;
	if (!has("python3"))
		skip();
	RUN(&r, build, "4000", "shorthands (e.g. --get-xclbin)");
	assert_int_equal(r.status, 0);
	assert_non_null(strstr(r.out, " --get-xclbin "));
	assert_null(strstr(r.out, "--no-compile-host"));
	assert_non_null(strstr(r.out, " --alloc-scheme=basic-sequential "));
	assert_non_null(strstr(r.out, "gemm_int4: 4000 bytes of program"));
	assert_non_null(strstr(r.out, "\ngemv-int4-1x256x64.xclbin\n"));
	result_free(&r);
	RUN(&r, build, "4000", "--aie-generate-xclbin");
	assert_int_equal(r.status, 0);
	assert_non_null(strstr(r.out, " --aie-generate-xclbin --no-compile-host "));
	assert_null(strstr(r.out, "--get-xclbin"));
	result_free(&r);
	RUN(&r, build, "17000", "--get-xclbin");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "does not fit a tile's program memory"));
	result_free(&r);
	RUN(&r, build, "none", "--get-xclbin");
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "cannot say how large"));
	result_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes), cmocka_unit_test(test_designs),
		cmocka_unit_test(test_build_script), cmocka_unit_test(test_build),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

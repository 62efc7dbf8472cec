/* What Linux tells of the NPU: each way in which there is none, or none that can be used,
 * has its own line. The driver's answers are those of the simulated device, which is
 * preloaded (tests/preload/npu_device.c). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/common/process.h"
#include "workers/npu/xdna.h"

/* In place of /sys, /dev and /proc. */
static char root[64];

static void put(const char *path, const char *text)
{
	char whole[256];

	snprintf(whole, sizeof whole, "%s%s", root, path);
	for (char *slash = whole + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
		*slash = 0;
		mkdir(whole, 0700);
	}
	FILE *f = fopen(whole, "we");
	assert_non_null(f);
	fprintf(f, "%s\n", text);
	assert_int_equal(fclose(f), 0);
}

static void remove_all(void)
{
	char command[128];

	snprintf(command, sizeof command, "rm -rf '%s'", root);
	assert_int_equal(system(command), 0);
}

static int set_up(void **state)
{
	(void)state;
	unsetenv("GP_NPU_FAULT");
	snprintf(root, sizeof root, "%s/gp-xdna.XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	remove_all();
	return 0;
}

static void device(const char *folder, const char *vendor, const char *id)
{
	char path[128];

	snprintf(path, sizeof path, "%s/vendor", folder);
	put(path, vendor);
	snprintf(path, sizeof path, "%s/device", folder);
	put(path, id);
}

#define PCI "/sys/bus/pci/devices/0000:c6:00.1"
#define ACCEL "/sys/class/accel/accel0/device"

static void phoenix(void)
{
	device(PCI, "0x1022", "0x1502");
	device(ACCEL, "0x1022", "0x1502");
	put(ACCEL "/vbnv", "SIMULATED NPU Phoenix");
	put("/dev/accel/accel0", "");
}

static void says(int want, const char *text)
{
	struct gp_npu_info info;

	assert_int_equal(gp_xdna_probe(root, &info), -want);
	if (!strstr(gp_error(), text))
		fail_msg("'%s' is not in: %s", text, gp_error());
}

/* ---- no device, or no driver that took it ------------------------------------- */
static void test_none(void **state)
{
	(void)state;
	says(ENODEV, "this machine has none");
	/* Another vendor's, and another device of AMD's. */
	device("/sys/bus/pci/devices/0000:00:00.0", "0x8086", "0x1502");
	device("/sys/bus/pci/devices/0000:00:01.0", "0x1022", "0x14e8");
	put("/proc/cmdline", "root=/dev/sda1 quiet");
	says(ENODEV, "this machine has none");
	put("/proc/cmdline", "root=/dev/sda1 amd_iommu=off quiet");
	says(ENODEV, "amd_iommu=off");
}

static void test_no_driver(void **state)
{
	(void)state;
	device(PCI, "0x1022", "0x1502");
	says(ENODEV, "modprobe amdxdna");
	put("/sys/module/amdxdna/version", "");
	says(EPROTO, "its firmware is missing or of another protocol");
	put(PCI "/driver/x", "");
	says(ENODEV, "CONFIG_DRM_ACCEL");
}

static void test_other_device(void **state)
{
	(void)state;
	device("/sys/bus/pci/devices/0000:c6:00.1", "0x1022", "0x17f0");
	device(ACCEL, "0x1022", "0x17f0");
	says(ENOTSUP, "accel0 is not an XDNA1");
}

static void test_node(void **state)
{
	(void)state;
	phoenix();
	char path[128];
	snprintf(path, sizeof path, "%s/dev/accel/accel0", root);
	unlink(path);
	says(ENODEV, "cannot be opened");
	/* No device answers behind this name. */
	symlink("/dev/null", path);
	if (!process_has_preload("npu_device.so"))
		says(ENOTSUP, "not driven by amdxdna");
}

/* ---- what the driver answers --------------------------------------------------- */
static void need_device(void)
{
	if (!process_has_preload("npu_device.so"))
		skip();
	phoenix();
}

static void test_found(void **state)
{
	struct gp_npu_info info;

	(void)state;
	need_device();
	assert_int_equal(gp_xdna_probe(root, &info), 0);
	assert_string_equal(info.device, "SIMULATED NPU Phoenix");
	assert_string_equal(info.driver, "amdxdna 0.6, firmware 1.5.0.0");
	assert_true(info.simulated);
	assert_int_equal(info.columns, 4);
	assert_int_equal(info.rows, 4);
	assert_int_equal(info.clock_hz, 1000000000);
	/* A real one's name. */
	put(ACCEL "/vbnv", "NPU Phoenix");
	assert_int_equal(gp_xdna_probe(root, &info), 0);
	assert_string_equal(info.device, "NPU Phoenix");
	assert_false(info.simulated);
}

static void test_answers(void **state)
{
	(void)state;
	need_device();
	setenv("GP_NPU_FAULT", "access", 1);
	says(EACCES, "usermod -aG render");
	setenv("GP_NPU_FAULT", "old", 1);
	says(ENOTSUP, "Linux 6.14");
	setenv("GP_NPU_FAULT", "firmware", 1);
	says(EPROTO, "firmware of accel0 does not answer");
	setenv("GP_NPU_FAULT", "array", 1);
	says(ENOTSUP, "an array of 1 columns, 4 rows, which");
	setenv("GP_NPU_FAULT", "name", 1);
	says(ENOTSUP, "not driven by amdxdna but by 'other'");
}

/* As an ordinary user, whose limit it is: in a process of its own. */
static void test_locked_memory(void **state)
{
	int status;

	(void)state;
	need_device();
	const pid_t pid = fork();
	if (pid == 0) {
		struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
		struct __user_cap_data_struct data[2] = { { 0 } };
		struct gp_npu_info info;

		syscall(SYS_capget, &header, data);
		data[0].effective &= ~(1u << CAP_IPC_LOCK);
		syscall(SYS_capset, &header, data);
		/* Not everybody may raise it. */
		const struct rlimit enough = { GP_XDNA_LOCKED_BYTES, GP_XDNA_LOCKED_BYTES };
		if (setrlimit(RLIMIT_MEMLOCK, &enough) == 0 && gp_xdna_probe(root, &info))
			_exit(1);
		setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){ 8 << 20, 8 << 20 });
		if (gp_xdna_probe(root, &info) != -EPERM || !strstr(gp_error(), "only 8.0 MiB of memory") ||
		    !strstr(gp_error(), "memlock unlimited"))
			_exit(2);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(int argc, char **argv)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_none), TEST(test_no_driver), TEST(test_other_device), TEST(test_node),
		TEST(test_found), TEST(test_answers), TEST(test_locked_memory),
	};

	(void)argc;
	process_preload("npu_device.so", argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Finds the NPU through sysfs, and asks its driver a few questions. */
#include "workers/npu/xdna.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "workers/npu/xdna_abi.h"

enum { AMD = 0x1022, NPU1 = 0x1502 };

/* ---- files of sysfs ------------------------------------------------------------ */
static void path_of(char path[PATH_MAX], const char *root, const char *folder, const char *name,
                    const char *file)
{
	const int n = snprintf(path, PATH_MAX, "%s%s%s%s%s%s", root, folder, *name ? "/" : "", name,
	                       *file ? "/" : "", file);

	if (n >= PATH_MAX)
		path[0] = 0;
}

/* The first line of a file, without its end; false: there is none. */
static bool line_of(const char *path, char *line, size_t room)
{
	FILE *f = fopen(path, "re");
	const bool is = f && fgets(line, (int)room, f);

	if (f)
		fclose(f);
	if (is)
		line[strcspn(line, "\n")] = 0;
	return is;
}

static bool has_text(const char *path, const char *text)
{
	char line[4096];

	return line_of(path, line, sizeof line) && strstr(line, text);
}

/* A number such as 0x1022 from folder/name/file; 0: there is none. */
static unsigned long number_of(const char *root, const char *folder, const char *name, const char *file)
{
	char path[PATH_MAX], line[64];

	path_of(path, root, folder, name, file);
	return line_of(path, line, sizeof line) ? strtoul(line, NULL, 0) : 0;
}

static bool exists(const char *root, const char *folder, const char *name, const char *file)
{
	char path[PATH_MAX];

	path_of(path, root, folder, name, file);
	return access(path, F_OK) == 0;
}

/* The entry of a folder of devices that has this vendor and device; DEVICE 0: any other
 * of AMD's. prefix: of files. */
static bool find(const char *root, const char *folder, const char *prefix, unsigned long device,
                 char name[NAME_MAX + 1])
{
	char path[PATH_MAX], file[32];
	const struct dirent *e;
	bool found = false;

	path_of(path, root, folder, "", "");
	DIR *d = opendir(path);
	while (d && !found && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(file, sizeof file, "%svendor", prefix);
		found = number_of(root, folder, e->d_name, file) == AMD;
		snprintf(file, sizeof file, "%sdevice", prefix);
		const unsigned long is = found ? number_of(root, folder, e->d_name, file) : 0;
		found = found && (device == 0 ? is != NPU1 : is == device);
		if (found)
			strcpy(name, e->d_name);
	}
	if (d)
		closedir(d);
	return found;
}

/* ---- no device node -------------------------------------------------------------- */
static int why_no_node(const char *root)
{
	static const char pci[] = "/sys/bus/pci/devices";
	char path[PATH_MAX], name[NAME_MAX + 1], other[NAME_MAX + 1];

	if (!find(root, pci, "", NPU1, name)) {
		if (find(root, "/sys/class/accel", "device/", 0, other))
			return gp_fail(ENOTSUP, "NPU: %s is not an XDNA1 (Phoenix, Hawk Point: PCI 1022:1502), which alone "
			               "gempipe has programs for: use cpu or vulkan stages", other);
		path_of(path, root, "/proc/cmdline", "", "");
		if (has_text(path, "amd_iommu=off"))
			return gp_fail(ENODEV, "NPU: none is seen (PCI 1022:1502); the kernel was started with amd_iommu=off, "
			               "which hides it: remove that and start anew");
		return gp_fail(ENODEV, "NPU: this machine has none (PCI 1022:1502), or its firmware setup has it off "
		               "(IPU, NPU): use cpu or vulkan stages");
	}
	if (exists(root, pci, name, "driver"))
		return gp_fail(ENODEV, "NPU: %s has a driver, but no node in /dev/accel: build the kernel with "
		               "CONFIG_DRM_ACCEL, Linux 6.14 or newer", name);
	if (exists(root, "/sys/module/amdxdna", "", ""))
		return gp_fail(EPROTO, "NPU: the driver amdxdna did not take %s: its firmware is missing or of another "
		               "protocol; keep in-tree driver and linux-firmware of one time, and no out-of-tree "
		               "amdxdna beside them; dmesg | grep amdxdna says which", name);
	return gp_fail(ENODEV, "NPU: %s has no driver: modprobe amdxdna, which Linux has from 6.14 on", name);
}

/* ---- questions to the driver --------------------------------------------------------- */
static int ask(int fd, enum xdna_query query, void *answer, size_t bytes)
{
	struct xdna_get_info a = { .query = query, .bytes = (uint32_t)bytes, .buffer = (uintptr_t)answer };

	return ioctl(fd, DRM_REQUEST(XDNA_GET_INFO, struct xdna_get_info), &a) ? errno : 0;
}

static int check_driver(int fd, const char *node, int *minor)
{
	/* "amdxdna_accel_driver" in Linux and in AMD's own. */
	static const char expected[] = "amdxdna";
	char name[32] = "";
	struct drm_version_text v = { .name = name, .name_bytes = sizeof name - 1 };

	if (ioctl(fd, DRM_REQUEST(DRM_VERSION, struct drm_version_text), &v) ||
	    strncmp(name, expected, sizeof expected - 1) != 0)
		return gp_fail(ENOTSUP, "NPU: %s is not driven by amdxdna but by '%s'", node, name);
	*minor = v.minor;
	return 0;
}

static int check_device(int fd, const char *node, struct gp_npu_info *info)
{
	struct xdna_aie_metadata m = { 0 };
	struct xdna_clocks clocks = { 0 };
	struct xdna_firmware f = { 0 };
	int minor = 0, rc = check_driver(fd, node, &minor);

	if (rc)
		return rc;
	rc = ask(fd, XDNA_AIE_METADATA, &m, sizeof m);
	if (!rc)
		rc = ask(fd, XDNA_FIRMWARE_VERSION, &f, sizeof f);
	if (rc)
		return gp_fail(ENOTSUP, "NPU: the driver of %s is older than is needed (%s): Linux 6.14 or newer, or "
		               "amdxdna from XRT 2.18 on", node, strerror(rc));
	if (f.major == 0 && f.minor == 0)
		return gp_fail(EPROTO, "NPU: the firmware of %s does not answer: see dmesg | grep amdxdna, install "
		               "linux-firmware, and switch the machine off and on", node);
	/* m.version is that of the answer's layout (1.1 in XRT's info_aie2.cpp), not the array's. */
	if (m.core.rows != GP_NPU_ROWS || m.columns < GP_NPU_COLUMNS)
		return gp_fail(ENOTSUP, "NPU: %s has an array of %u columns, %u rows, which is not that of "
		               "XDNA1: use cpu or vulkan stages", node, m.columns, m.core.rows);
	if (ask(fd, XDNA_CLOCKS, &clocks, sizeof clocks) == 0)
		info->clock_hz = clocks.array.mhz * 1000000ull;
	info->columns = GP_NPU_COLUMNS;
	info->rows = GP_NPU_ROWS;
	snprintf(info->driver, sizeof info->driver, "amdxdna 0.%d, firmware %u.%u.%u.%u", minor, f.major, f.minor,
	         f.patch, f.build);
	return 0;
}

static int open_node(const char *root, const char *node)
{
	char path[PATH_MAX];

	path_of(path, root, "/dev/accel", node, "");
	const int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	if (errno == EACCES || errno == EPERM)
		return gp_fail(EACCES, "NPU: no permission to open %s: usermod -aG render USER, then log in again", path);
	return gp_fail(ENODEV, "NPU: %s cannot be opened: %s; see dmesg | grep amdxdna", path, strerror(errno));
}

/* ---- locked memory --------------------------------------------------------------------- */
static bool may_lock_all(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0 } };

	return syscall(SYS_capget, &header, data) == 0 && data[0].effective >> CAP_IPC_LOCK & 1;
}

static int check_locked(void)
{
	struct rlimit limit;
	char has[32], needs[32];

	if (getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur == RLIM_INFINITY ||
	    limit.rlim_cur >= GP_XDNA_LOCKED_BYTES || may_lock_all())
		return 0;
	return gp_fail(EPERM, "NPU: only %s of memory may be locked (ulimit -l), it takes %s and the weights' budget: "
	               "in /etc/security/limits.conf: USER - memlock unlimited",
	               gp_size_text(has, limit.rlim_cur), gp_size_text(needs, GP_XDNA_LOCKED_BYTES));
}

int gp_xdna_probe(const char *root, struct gp_npu_info *info)
{
	static const char accel[] = "/sys/class/accel";
	char node[NAME_MAX + 1], path[PATH_MAX];

	*info = (struct gp_npu_info){ .device = "NPU Phoenix" };
	if (!find(root, accel, "device/", NPU1, node))
		return why_no_node(root);
	path_of(path, root, accel, node, "device/vbnv");
	line_of(path, info->device, sizeof info->device);
	info->simulated = strncmp(info->device, "SIMULATED", 9) == 0;
	const int fd = open_node(root, node);
	if (fd < 0)
		return fd;
	const int rc = check_device(fd, node, info);
	close(fd);
	return rc ? rc : check_locked();
}

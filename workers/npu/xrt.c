/* The vendor's runtime as a driver: the shim, opened at run time so that machines without
 * XRT run everything else; what Linux itself can tell comes from xdna.c. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "workers/npu/npu.h"
#include "workers/npu/xdna.h"

#define SHIM_FILE "gempipe-npu-xrt.so"

static const struct gp_npu_driver *shim;
static struct gp_npu_driver xrt;
/* The driver is the real one all the same: it needs programs' files. */
static bool device_is_simulated;

static char xrt_version[32];

static int probe(struct gp_npu_info *info)
{
	const int rc = gp_xdna_probe("", info);
	const size_t n = rc ? 0 : strlen(info->driver);

	if (!rc && shim)
		snprintf(info->driver + n, sizeof info->driver - n, ", XRT %s", xrt_version);
	return rc;
}

/* XRT says little of why it finds no device. */
static int open_npu(struct gp_npu **npu)
{
	struct gp_npu_info info;
	const int rc = probe(&info);

	if (rc)
		return rc;
	device_is_simulated = info.simulated;
	return shim->open(npu);
}

static int wait_npu(struct gp_npu *npu, uint64_t deadline_ns, const volatile bool *cancelled,
                    struct gp_npu_result *result)
{
	const int rc = shim->wait(npu, deadline_ns, cancelled, result);

	result->simulated = device_is_simulated;
	return rc;
}

/* Beside the program. */
static bool own_folder(char path[PATH_MAX])
{
	const ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - sizeof SHIM_FILE);

	if (n <= 0)
		return false;
	path[n] = 0;
	char *slash = strrchr(path, '/');
	if (!slash)
		return false;
	strcpy(slash + 1, SHIM_FILE);
	return true;
}

static int open_shim(void)
{
	const char *given = getenv("GP_NPU_SHIM");
	char path[PATH_MAX] = SHIM_FILE;

	if (given)
		snprintf(path, sizeof path, "%s", given);
	else if (!own_folder(path) || access(path, F_OK))
		return gp_fail(ENODEV, "NPU: this gempipe was built without XRT: install libxrt-dev 2.18 or newer "
		               "(Debian sid, Ubuntu 26.04) and build again; or --npu sim, which is simulated");
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		return gp_fail(ENODEV, "NPU: XRT does not load (%s): install libxrt2 and libxrt-npu2", dlerror());
	gp_npu_shim_entry *entry;
	gp_npu_shim_version *version;
	*(void **)&entry = dlsym(library, GP_NPU_SHIM_ENTRY);
	*(void **)&version = dlsym(library, GP_NPU_SHIM_VERSION);
	shim = entry && version ? entry(GP_NPU_ABI, gp_fail) : NULL;
	if (!shim) {
		dlclose(library);
		return gp_fail(ENODEV, "NPU: %s is of another gempipe: build and install both again", path);
	}
	version(xrt_version);
	return 0;
}

int gp_npu_xrt(const struct gp_npu_driver **driver)
{
	struct gp_npu_info info;
	/* No device is the better reason, where both are missing. */
	int rc = probe(&info);

	if (!rc && !shim)
		rc = open_shim();
	if (rc)
		return rc;
	xrt = *shim;
	xrt.probe = probe;
	xrt.open = open_npu;
	xrt.wait = wait_npu;
	*driver = &xrt;
	return 0;
}

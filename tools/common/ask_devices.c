#include "tools/common/ask_devices.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "coordinator/coordinator.h"

static int spawn(pid_t *pid, char *path, int out, bool verbose)
{
	char *argv[] = { path, (char[]){ "--describe" }, NULL };
	posix_spawn_file_actions_t a;
	int rc = -posix_spawn_file_actions_init(&a);

	if (rc < 0)
		return rc;
	rc = -posix_spawn_file_actions_adddup2(&a, out, 1);
	if (rc == 0 && !verbose)
		rc = -posix_spawn_file_actions_addopen(&a, 2, "/dev/null", O_WRONLY, 0);
	if (rc == 0)
		rc = -posix_spawn(pid, path, &a, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&a);
	return rc;
}

/* Its whole standard output, if it ended well. */
static int read_worker(char *path, bool verbose, json_t **out)
{
	json_error_t e;
	int ends[2], status = 0, rc;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return gp_fail(errno, "pipe: %s", strerror(errno));
	rc = spawn(&pid, path, ends[1], verbose);
	close(ends[1]);
	if (rc < 0) {
		close(ends[0]);
		return gp_fail(-rc, "%s: %s", path, strerror(-rc));
	}
	*out = json_loadfd(ends[0], JSON_DISABLE_EOF_CHECK, &e);
	close(ends[0]);
	if (waitpid(pid, &status, 0) == pid && status == 0 && *out)
		return 0;
	json_decref(*out);
	*out = NULL;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return gp_fail(ENODEV, "%s does not start: a library is missing (ldd names it; "
		               "Debian's libvulkan1 is the Vulkan loader)", path);
	return gp_fail(EIO, "%s --describe failed; -v shows its messages", path);
}

/* {"kind", "devices", "problem"}: a kind that is not here is no failure. */
static json_t *ask(const char *kind, bool verbose)
{
	char path[GP_WORKER_PATH];
	json_t *found;

	if (gp_worker_path(getenv("GEMPIPE_WORKER_DIR"), kind, path) == 0 &&
	    read_worker(path, verbose, &found) == 0)
		return found;
	return json_pack("{s:s, s:[], s:s}", "kind", kind, "devices", "problem", gp_error());
}

json_t *ask_devices(bool verbose)
{
	return json_pack("[o, o, o]", ask("cpu", verbose), ask("vulkan", verbose), ask("npu", verbose));
}

int become_report(const char *kind, const char *report, const char *npu, bool json)
{
	char path[GP_WORKER_PATH], what[16], which[32], npu_option[] = "--npu", json_option[] = "--json";
	char *argv[6] = { path, what };
	size_t n = 2;
	const int rc = gp_worker_path(getenv("GEMPIPE_WORKER_DIR"), kind, path);

	if (rc < 0)
		return rc;
	snprintf(what, sizeof what, "%s", report);
	if (json)
		argv[n++] = json_option;
	if (npu) {
		snprintf(which, sizeof which, "%s", npu);
		argv[n++] = npu_option;
		argv[n++] = which;
	}
	execv(path, argv);
	return gp_fail(errno, "%s: %s", path, strerror(errno));
}

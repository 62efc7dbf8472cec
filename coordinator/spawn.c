/* Starting and reaping worker processes. */
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "coordinator/pool.h"

static int own_folder(char path[GP_WORKER_PATH])
{
	const ssize_t n = readlink("/proc/self/exe", path, GP_WORKER_PATH - 1);

	if (n <= 0)
		return gp_fail(errno, "/proc/self/exe: %s", strerror(errno));
	path[n] = '\0';
	*strrchr(path, '/') = '\0';
	return 0;
}

int gp_program_path(const char *folder, const char *name, char path[GP_WORKER_PATH])
{
	char own[GP_WORKER_PATH];
	int rc;

	if (!folder && (rc = own_folder(own)) < 0)
		return rc;
	if (!folder)
		folder = own;
	if (snprintf(path, GP_WORKER_PATH, "%s/gempipe-%s", folder, name) >= GP_WORKER_PATH)
		return gp_fail(ENAMETOOLONG, "%.100s...: path of the workers is too long", folder);
	return 0;
}

int gp_worker_path(const char *folder, const char *device, char path[GP_WORKER_PATH])
{
	char name[64];
	int rc;

	snprintf(name, sizeof name, "worker-%s", device);
	if ((rc = gp_program_path(folder, name, path)) < 0)
		return rc;
	if (access(path, X_OK) == 0)
		return 0;
	if (errno == ENOENT && strcmp(device, "vulkan") == 0)
		return gp_fail(ENODEV, "%s: this build has no vulkan worker; install libvulkan-dev and "
			       "glslc and run make again, or use cpu", path);
	if (errno == ENOENT && strcmp(device, "npu") == 0)
		return gp_fail(ENODEV, "%s: this build has no npu worker; install g++ and run make "
			       "again, or use cpu", path);
	return gp_fail(errno, "%s: %s; build it with make", path, strerror(errno));
}

/* The child gets its two rings and the terminal's stderr; everything else of
 * ours is close-on-exec. dup2 of a descriptor onto itself clears that flag. */
static int add_files(posix_spawn_file_actions_t *a, int in_fd, int out_fd)
{
	int rc;

	if ((rc = posix_spawn_file_actions_adddup2(a, in_fd, in_fd)) ||
	    (rc = posix_spawn_file_actions_adddup2(a, out_fd, out_fd)) ||
	    (rc = posix_spawn_file_actions_addopen(a, 0, "/dev/null", O_RDONLY, 0)) ||
	    (rc = posix_spawn_file_actions_addopen(a, 1, "/dev/null", O_WRONLY, 0)))
		return -rc;
	return 0;
}

/* The control thread blocks all signals; a worker begins with none blocked. */
static int set_attributes(posix_spawnattr_t *attr)
{
	sigset_t none;
	int rc;

	sigemptyset(&none);
	if ((rc = posix_spawnattr_setsigmask(attr, &none)) ||
	    (rc = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK)))
		return -rc;
	return 0;
}

static int spawn(pid_t *pid, const char *path, char *const argv[], int in_fd, int out_fd)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	int rc = -posix_spawn_file_actions_init(&actions);

	if (rc < 0)
		return rc;
	if ((rc = -posix_spawnattr_init(&attr)) < 0) {
		posix_spawn_file_actions_destroy(&actions);
		return rc;
	}
	if ((rc = add_files(&actions, in_fd, out_fd)) == 0 && (rc = set_attributes(&attr)) == 0)
		rc = -posix_spawn(pid, path, &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return rc;
}

int gp_spawn_worker(const struct gp_pool *p, uint32_t stage, struct gp_member *m)
{
	char npu[] = "--npu", off[] = "off", sim[] = "sim";
	char path[GP_WORKER_PATH], endpoint[GP_PROTO_TEXT], number[16], own_pid[16], index[16];
	const struct gp_plan_stage *s = &p->plan->stage[stage];
	char *argv[] = { path, (char[]){ "--connect" }, endpoint, (char[]){ "--stage" }, number,
			 (char[]){ "--spawned-by" }, own_pid, (char[]){ "--device" }, index,
			 NULL, NULL, NULL };
	int rc = gp_worker_path(p->options->worker_dir, s->device, path);

	if (rc < 0)
		return rc;
	snprintf(endpoint, sizeof endpoint, "%s", gp_channel_endpoint(p->channel));
	snprintf(number, sizeof number, "%u", stage);
	snprintf(index, sizeof index, "%u", s->device_index);
	if (m->without_npu || s->simulated) {
		argv[GP_ARRAY_LEN(argv) - 3] = npu;
		argv[GP_ARRAY_LEN(argv) - 2] = m->without_npu ? off : sim;
	}
	snprintf(own_pid, sizeof own_pid, "%d", (int)getpid());
	rc = spawn(&m->pid, path, argv, p->rings[stage].region.fd, p->rings[stage + 1].region.fd);
	if (rc < 0) {
		m->pid = 0;
		return gp_fail(-rc, "%s: not started: %s", path, strerror(-rc));
	}
	m->pid_fd = (int)syscall(SYS_pidfd_open, m->pid, 0);
	if (m->pid_fd >= 0)
		return 0;
	rc = gp_fail(errno, "worker %d: no pidfd: %s", (int)m->pid, strerror(errno));
	kill(m->pid, SIGKILL);
	waitpid(m->pid, NULL, 0);
	m->pid = 0;
	return rc;
}

void gp_spawn_reap(struct gp_member *m, char why[128])
{
	int status = 0;

	if (m->pid <= 0 || waitpid(m->pid, &status, 0) != m->pid)
		snprintf(why, 128, "the process is gone");
	else if (WIFSIGNALED(status))
		snprintf(why, 128, "killed by signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	else
		snprintf(why, 128, "exit status %d%s", WEXITSTATUS(status),
			 WEXITSTATUS(status) == 127 ? ": it does not start; ldd names the library that it "
						      "lacks" : "");
}

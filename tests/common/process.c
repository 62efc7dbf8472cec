#include "tests/common/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

void sleep_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 },
		  NULL);
}

const char *program(const char *verb)
{
	static char paths[16][4096];
	static unsigned next;
	char *path = paths[next++ % 16];
	char self[2048];
	const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

	assert_true(n > 0);
	self[n] = '\0';
	/* BUILD/tests/cli/test_x */
	for (int i = 0; i < 3; i++)
		*strrchr(self, '/') = '\0';
	snprintf(path, sizeof paths[0], "%s/bin/gempipe-%s", self, verb);
	return path;
}

void process_start(struct process *p, const char *const *argv, size_t limit_as)
{
	p->out_fd = memfd_create("stdout", MFD_CLOEXEC);
	p->err_fd = memfd_create("stderr", MFD_CLOEXEC);
	assert_true(p->out_fd >= 0 && p->err_fd >= 0);
	p->pid = fork();
	assert_true(p->pid >= 0);
	if (p->pid)
		return;
	/* A test that failed ends without stopping what it started. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	const int null = open("/dev/null", O_RDONLY);
	dup2(null, 0);
	dup2(p->out_fd, 1);
	dup2(p->err_fd, 2);
	if (limit_as)
		setrlimit(RLIMIT_AS, &(struct rlimit){ limit_as, limit_as });
	execv(argv[0], (char *const *)(uintptr_t)argv);
	fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

char *process_output(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	char *text = calloc(1, (size_t)st.st_size + 1);
	assert_non_null(text);
	assert_true(pread(fd, text, (size_t)st.st_size, 0) >= 0);
	return text;
}

bool process_says(int fd, const char *text, unsigned seconds)
{
	for (unsigned i = 0; i < seconds * 50; i++) {
		char *so_far = process_output(fd);
		const bool found = strstr(so_far, text) != NULL;

		free(so_far);
		if (found)
			return true;
		sleep_ms(20);
	}
	return false;
}

void process_finish(struct process *p, struct result *r, unsigned seconds)
{
	struct stat st;
	int status = 0;
	unsigned i = 0;
	pid_t got;

	while ((got = waitpid(p->pid, &status, WNOHANG)) == 0 && i++ < seconds * 100)
		sleep_ms(10);
	if (got == 0) {
		kill(p->pid, SIGKILL);
		waitpid(p->pid, NULL, 0);
	}
	assert_int_equal(fstat(p->out_fd, &st), 0);
	r->out_bytes = (size_t)st.st_size;
	r->out = process_output(p->out_fd);
	r->err = process_output(p->err_fd);
	close(p->out_fd);
	close(p->err_fd);
	if (got == 0)
		fail_msg("still running after %u s; it said: %s", seconds, r->err);
	r->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void process_interrupt(const char *const *argv, const char *when, int signal_number, int status)
{
	struct process p;
	struct result r;

	process_start(&p, argv, 0);
	assert_true(process_says(p.err_fd, when, 30));
	kill(p.pid, signal_number);
	process_finish(&p, &r, 10);
	assert_int_equal(r.status, status);
	result_free(&r);
}

void run_program(struct result *r, const char *const *argv)
{
	struct process p;

	process_start(&p, argv, 0);
	process_finish(&p, r, 300);
}

void result_free(struct result *r)
{
	free(r->out);
	free(r->err);
}

char *text_of_mini(const char *n)
{
	struct result r;

	RUN(&r, program("run"), "-m", MINI, "-p", "In the beginning", "-n", n, "-q");
	free(r.err);
	if (r.status == 0)
		return r.out;
	free(r.out);
	return NULL;
}

/* State and parent out of /proc/PID/stat; the name in it may hold blanks. */
static bool read_stat(pid_t pid, char *state, pid_t *parent)
{
	char path[64], text[512];
	int ppid;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	const size_t n = fread(text, 1, sizeof text - 1, f);
	fclose(f);
	text[n] = '\0';
	const char *after = strrchr(text, ')');
	if (!after || sscanf(after + 1, " %c %d", state, &ppid) != 2)
		return false;
	*parent = ppid;
	return true;
}

size_t process_workers(pid_t coordinator, pid_t *pids, size_t room)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	size_t n = 0;

	assert_non_null(d);
	while ((e = readdir(d)) && n < room) {
		const pid_t pid = (pid_t)atoi(e->d_name);
		pid_t parent;
		char state;

		if (pid > 0 && read_stat(pid, &state, &parent) && parent == coordinator &&
		    state != 'Z')
			pids[n++] = pid;
	}
	closedir(d);
	return n;
}

bool process_gone(pid_t pid, unsigned milliseconds)
{
	for (unsigned i = 0; i <= milliseconds / 10; i++) {
		pid_t parent;
		char state;

		if (!read_stat(pid, &state, &parent) || state == 'Z')
			return true;
		sleep_ms(10);
	}
	return false;
}

bool process_has_preload(const char *name)
{
	const char *preload = getenv("LD_PRELOAD");

	return preload && strstr(preload, name);
}

void process_preload(const char *name, char **argv)
{
	char path[4096];

	if (process_has_preload(name))
		return;
	snprintf(path, sizeof path, "%s", program("x"));
	char *end = strstr(path, "/bin/gempipe-x");
	snprintf(end, sizeof path - (size_t)(end - path), "/tests/preload/%s", name);
	if (access(path, R_OK))
		return;
	setenv("LD_PRELOAD", path, 1);
	execv("/proc/self/exe", argv);
}

double process_resident_mb(pid_t pid)
{
	char path[64];
	double pages = 0;

	snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
	FILE *f = fopen(path, "r");
	if (!f)
		return 0;
	if (fscanf(f, "%*f %lf", &pages) != 1)
		pages = 0;
	fclose(f);
	return pages * (double)sysconf(_SC_PAGESIZE) / 1e6;
}

#include "proto/proto.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "proto/internal.h"

#define PREFIX "gempipe-"
#define RANDOM_CHARS 6u

static bool usable(const char *dir)
{
	struct stat st;

	return dir && dir[0] == '/' && stat(dir, &st) == 0 && S_ISDIR(st.st_mode) &&
	       access(dir, W_OK | X_OK) == 0;
}

/* A variable that names no usable folder (XDG_RUNTIME_DIR after sudo) counts
 * as unset. */
static const char *parent_dir(void)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");

	if (usable(dir))
		return dir;
	dir = getenv("TMPDIR");
	return usable(dir) ? dir : "/tmp";
}

/* The PID in gempipe-PID-XXXXXX; 0: not such a name. */
static pid_t pid_in_name(const char *name)
{
	uint64_t pid = 0;
	size_t digits = 0;

	if (strncmp(name, PREFIX, strlen(PREFIX)) != 0)
		return 0;
	for (name += strlen(PREFIX); isdigit((unsigned char)*name) && digits < 10; digits++)
		pid = pid * 10 + (uint64_t)(*name++ - '0');
	if (*name++ != '-' || pid == 0 || pid > INT32_MAX)
		return 0;
	for (size_t i = 0; i < RANDOM_CHARS; i++)
		if (!isalnum((unsigned char)name[i]))
			return 0;
	return name[RANDOM_CHARS] == '\0' ? (pid_t)pid : 0;
}

static void remove_files(int dir_fd)
{
	struct stat st;
	struct dirent *e;
	DIR *d = fdopendir(dir_fd); /* takes dir_fd over */

	if (!d) {
		close(dir_fd);
		return;
	}
	while ((e = readdir(d)))
		if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    !S_ISDIR(st.st_mode) && st.st_uid == geteuid())
			unlinkat(dirfd(d), e->d_name, 0);
	closedir(d);
}

/* Through descriptors, so that nobody can put another folder in its place. */
static void remove_at(int parent_fd, const char *name)
{
	struct stat st;
	const int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return;
	if (fstat(fd, &st) < 0 || st.st_uid != geteuid()) {
		close(fd);
		return;
	}
	remove_files(fd);
	unlinkat(parent_fd, name, AT_REMOVEDIR);
}

static void sweep(const char *parent)
{
	struct dirent *e;
	DIR *d = opendir(parent);

	if (!d)
		return;
	while ((e = readdir(d))) {
		const pid_t pid = pid_in_name(e->d_name);

		if (pid > 0 && kill(pid, 0) < 0 && errno == ESRCH)
			remove_at(dirfd(d), e->d_name);
	}
	closedir(d);
}

int gp_runtime_dir_create(char path[GP_PROTO_TEXT])
{
	const char *parent = parent_dir();
	char made[GP_PROTO_TEXT];

	path[0] = '\0';
	sweep(parent);
	const int n = snprintf(made, sizeof made, "%s/" PREFIX "%ld-XXXXXX", parent, (long)getpid());
	if (n < 0 || (size_t)n + strlen("/" GP_CONTROL_NAME) > GP_SOCKET_PATH_MAX)
		return gp_fail(ENAMETOOLONG,
			       "%.200s: a control socket in it would have a path over %zu bytes; "
			       "set XDG_RUNTIME_DIR or TMPDIR to a folder with a shorter path",
			       parent, GP_SOCKET_PATH_MAX);
	/* mkdtemp makes it with mode 0700. */
	if (!mkdtemp(made))
		return gp_fail(errno, "%s: no runtime folder can be made there: %s; set TMPDIR to a "
			       "folder that you may write to", parent, strerror(errno));
	memcpy(path, made, (size_t)n + 1);
	return 0;
}

void gp_runtime_dir_remove(const char *path)
{
	const char *slash = path ? strrchr(path, '/') : NULL;

	/* Only ever a folder of the name that create gives. */
	if (slash && pid_in_name(slash + 1) > 0)
		remove_at(AT_FDCWD, path);
}

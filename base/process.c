#include "base/base.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

void gp_process_init(void)
{
	struct rlimit files;
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

int gp_process_check_files(size_t need)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= need)
		return 0;
	return gp_fail(EMFILE, "only %llu files may be open, this takes %zu; raise the limit with "
		       "ulimit -n", (unsigned long long)files.rlim_cur, need);
}

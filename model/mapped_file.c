#include "model/mapped_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

static int map_descriptor(struct gp_mapped_file *f, int fd, const char *path)
{
	struct stat st;
	void *p;

	if (fstat(fd, &st) < 0)
		return gp_fail(errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return gp_fail(EINVAL, "%s: is no regular file", path);
	if (st.st_size <= 0)
		return gp_fail(EINVAL, "%s: the file is empty; fetch it again", path);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return gp_fail(errno, "%s: can't be mapped: %s", path, strerror(errno));
	f->data = p;
	f->bytes = (size_t)st.st_size;
	return 0;
}

int gp_mapped_file_open(struct gp_mapped_file *f, const char *path)
{
	/* Non-blocking, so that a FIFO put in place of a model can't hang us. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc;

	*f = (struct gp_mapped_file){ 0 };
	if (fd < 0)
		return gp_fail(errno, "%s: %s", path, strerror(errno));
	f->path = strdup(path);
	f->fd = fd;
	rc = f->path ? map_descriptor(f, fd, path) : gp_fail(ENOMEM, "%s: out of memory", path);
	if (rc < 0)
		gp_mapped_file_close(f);
	return rc;
}

void gp_mapped_file_close(struct gp_mapped_file *f)
{
	if (f->path || f->data)
		close(f->fd);
	if (f->data)
		munmap((void *)(uintptr_t)f->data, f->bytes);
	free(f->path);
	*f = (struct gp_mapped_file){ 0 };
}

#include "shm/shm.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/base.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* memfd_create takes names of up to 249 bytes; the name is only for /proc. */
#define NAME_BYTES 200

static void say_no_huge_pages(const char *name, int errnum)
{
	static atomic_flag said = ATOMIC_FLAG_INIT;

	if (!atomic_flag_test_and_set(&said))
		gp_log(GP_LOG_WARNING,
		       "%s: no free huge pages (%s): using ordinary pages with a huge-page hint; "
		       "to reserve some: sysctl vm.nr_hugepages=N",
		       name, strerror(errnum));
}

/* 0: unknown. A memfd's size is not accounted against memory until its pages
 * are touched, so without asking first the answer would be the OOM killer. */
static uint64_t available_bytes(void)
{
	unsigned long long kib = 0;
	char line[128];
	FILE *f = fopen("/proc/meminfo", "re");

	if (!f)
		return 0;
	while (fgets(line, sizeof line, f))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	fclose(f);
	return (uint64_t)kib * 1024;
}

/* Takes the pages now: a page that is missing later would be a SIGBUS. */
static int populate(void *base, size_t bytes)
{
	if (madvise(base, bytes, MADV_POPULATE_WRITE) == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	/* Before Linux 5.14 there is no way to ask; the pages come when touched. */
	return 0;
}

static int page_size_of(int fd, size_t *page_bytes, bool *huge)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return -errno;
	if (fs.f_bsize <= 0 || (fs.f_bsize & (fs.f_bsize - 1)))
		return -EINVAL;
	*page_bytes = (size_t)fs.f_bsize;
	*huge = (unsigned long)fs.f_type == HUGETLBFS_MAGIC;
	return 0;
}

static int map(struct gp_region *r)
{
	void *base = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);

	if (base == MAP_FAILED)
		return -errno;
	r->base = base;
	return 0;
}

/* One attempt with one kind of page. Negative errno without a message: the
 * caller knows whether it has another kind to try. */
static int try_create(struct gp_region *r, const char *name, size_t bytes, unsigned huge_flag)
{
	int rc;

	*r = GP_REGION_NONE;
	r->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | huge_flag);
	if (r->fd < 0)
		return -errno;
	rc = page_size_of(r->fd, &r->page_bytes, &r->huge);
	if (rc < 0)
		goto fail;
	rc = -EOVERFLOW;
	if (!gp_size_round_up(bytes, r->page_bytes, &r->bytes) || r->bytes > INT64_MAX)
		goto fail;
	if (ftruncate(r->fd, (off_t)r->bytes) < 0 || fcntl(r->fd, F_ADD_SEALS, SEALS) < 0) {
		rc = -errno;
		goto fail;
	}
	rc = map(r);
	if (rc < 0)
		goto fail;
	/* Refused where transparent huge pages are not built in: still correct. */
	if (!r->huge)
		(void)madvise(r->base, r->bytes, MADV_HUGEPAGE);
	rc = populate(r->base, r->bytes);
	if (rc < 0)
		goto fail;
	return 0;
fail:
	gp_region_finish(r);
	return rc;
}

int gp_region_create(struct gp_region *r, const char *name, size_t bytes)
{
	char fd_name[NAME_BYTES], need[32], have[32];

	*r = GP_REGION_NONE;
	if (bytes == 0)
		return gp_fail(EINVAL, "%s: a region of 0 bytes; ask for at least one", name);
	snprintf(fd_name, sizeof fd_name, "gempipe-%s", name);
	const int huge_rc = try_create(r, fd_name, bytes, MFD_HUGETLB);
	if (huge_rc == 0)
		return 0;

	const uint64_t available = available_bytes();
	if (available && bytes > available)
		return gp_fail(ENOMEM,
			       "%s: needs %s of shared memory, %s are available; use a smaller "
			       "context, fewer sequences or fewer rows a step",
			       name, gp_size_text(need, bytes), gp_size_text(have, available));
	say_no_huge_pages(name, -huge_rc);
	const int rc = try_create(r, fd_name, bytes, 0);
	if (rc < 0)
		return gp_fail(ENOMEM, "%s: no %s of shared memory to be had (%s); free some memory",
			       name, gp_size_text(need, bytes), strerror(-rc));
	return 0;
}

static int check_sealed_memfd(int fd, size_t *bytes)
{
	struct stat st;
	const int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0)
		return gp_fail(EINVAL, "descriptor %d: no memfd (%s); pass on what gempipe created",
			       fd, strerror(errno));
	if ((seals & SEALS) != SEALS)
		return gp_fail(EINVAL, "descriptor %d: seals are 0x%x, 0x%x are needed so that its "
			       "size cannot change", fd, (unsigned)seals, (unsigned)SEALS);
	if (fstat(fd, &st) < 0)
		return gp_fail(errno, "descriptor %d: no size to be had: %s", fd, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size <= 0)
		return gp_fail(EINVAL, "descriptor %d: an empty memfd; it was never set up", fd);
	*bytes = (size_t)st.st_size;
	return 0;
}

int gp_region_attach(struct gp_region *r, int fd)
{
	struct gp_region got = { .fd = fd };

	*r = GP_REGION_NONE;
	int rc = check_sealed_memfd(fd, &got.bytes);
	if (rc < 0)
		return rc;
	rc = page_size_of(fd, &got.page_bytes, &got.huge);
	if (rc < 0)
		return gp_fail(-rc, "descriptor %d: no page size to be had: %s", fd, strerror(-rc));
	if (got.bytes % got.page_bytes)
		return gp_fail(EINVAL, "descriptor %d: %zu bytes are no multiple of its %zu-byte pages",
			       fd, got.bytes, got.page_bytes);
	rc = map(&got);
	if (rc < 0)
		return gp_fail(-rc, "descriptor %d: %zu bytes cannot be mapped: %s", fd, got.bytes,
			       strerror(-rc));
	*r = got;
	return 0;
}

void gp_region_finish(struct gp_region *r)
{
	if (r->base)
		munmap(r->base, r->bytes);
	if (r->fd >= 0)
		close(r->fd);
	*r = GP_REGION_NONE;
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "shm/shm.h"

static void test_finish_nothing(void **state)
{
	struct gp_region r = GP_REGION_NONE;

	(void)state;
	gp_region_finish(&r);
	gp_region_finish(&r);
	assert_null(r.base);
	assert_int_equal(r.fd, -1);
}

/* Holds with huge pages and without: the machine decides. */
static void test_create_and_attach(void **state)
{
	struct gp_region a, b;

	(void)state;
	assert_int_equal(gp_region_create(&a, "test", 10000), 0);
	assert_true(a.bytes >= 10000);
	assert_int_equal(a.bytes % a.page_bytes, 0);
	memset(a.base, 0x5a, a.bytes);

	assert_int_equal(gp_region_attach(&b, dup(a.fd)), 0);
	assert_int_equal(b.bytes, a.bytes);
	assert_int_equal(b.page_bytes, a.page_bytes);
	assert_int_equal(b.huge, a.huge);
	assert_memory_equal(a.base, b.base, a.bytes);
	gp_region_finish(&a);
	((char *)b.base)[b.bytes - 1] = 1;
	gp_region_finish(&b);
	gp_region_finish(&b);
}

static void test_size_is_sealed(void **state)
{
	struct gp_region r;

	(void)state;
	assert_int_equal(gp_region_create(&r, "test", 1), 0);
	assert_int_equal(ftruncate(r.fd, 0), -1);
	assert_int_equal(ftruncate(r.fd, (off_t)r.bytes * 2), -1);
	assert_int_equal(fcntl(r.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	gp_region_finish(&r);
}

static void test_too_much(void **state)
{
	struct gp_region r;

	(void)state;
	assert_int_equal(gp_region_create(&r, "big", 0), -EINVAL);
	assert_int_equal(gp_region_create(&r, "big", (size_t)1 << 50), -ENOMEM);
	assert_non_null(strstr(gp_error(), "big: needs 1024.0 TiB"));
	assert_int_equal(gp_region_create(&r, "big", SIZE_MAX), -ENOMEM);
	assert_int_equal(r.fd, -1);
}

static void refuse(int fd, const char *why)
{
	struct gp_region r;

	assert_true(gp_region_attach(&r, fd) < 0);
	assert_non_null(strstr(gp_error(), why));
	assert_null(r.base);
	assert_int_equal(r.fd, -1);
	/* Not taken over: still ours to close. */
	if (fd >= 0)
		assert_int_equal(close(fd), 0);
}

static void test_attach_refuses(void **state)
{
	int fds[2];

	(void)state;
	refuse(-1, "no memfd");
	assert_int_equal(pipe(fds), 0);
	refuse(fds[0], "no memfd");
	close(fds[1]);

	int fd = memfd_create("unsealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 4096), 0);
	refuse(fd, "seals are 0x0");

	fd = memfd_create("growable", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL), 0);
	refuse(fd, "are needed");

	const int all = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	fd = memfd_create("empty", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, all), 0);
	refuse(fd, "empty");

	fd = memfd_create("odd", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 5000), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, all), 0);
	refuse(fd, "no multiple");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_finish_nothing),
		cmocka_unit_test(test_create_and_attach),
		cmocka_unit_test(test_size_is_sealed),
		cmocka_unit_test(test_too_much),
		cmocka_unit_test(test_attach_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

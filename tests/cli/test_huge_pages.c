/* Rings on real huge pages: reserved, used through a worker's death, given back.
 * Needs root; skips elsewhere and where the kernel has no room for them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/common/process.h"

#define POOL "/proc/sys/vm/nr_hugepages"
#define WANTED 32l

static long reserved_before;

static long meminfo(const char *key)
{
	char line[128];
	long v = -1;
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof line, f))
		if (strncmp(line, key, strlen(key)) == 0)
			v = atol(line + strlen(key));
	if (f)
		fclose(f);
	return v;
}

static bool reserve(long n)
{
	FILE *f = fopen(POOL, "we");

	if (!f)
		return false;
	fprintf(f, "%ld\n", n);
	return fclose(f) == 0 && meminfo("HugePages_Total:") >= n;
}

static int set_up(void **state)
{
	(void)state;
	reserved_before = meminfo("HugePages_Total:");
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	if (geteuid() != 0 || reserved_before < 0)
		return 0;
	return reserve(reserved_before) && meminfo("HugePages_Total:") == reserved_before ? 0 : -1;
}

/* KernelPageSize of the first ring's mapping in a process, in KiB. */
static long ring_page_kib(pid_t pid)
{
	char path[64], line[512];
	bool in_ring = false;
	long kib = -1;

	snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
	FILE *f = fopen(path, "re");
	while (f && kib < 0 && fgets(line, sizeof line, f)) {
		if (strstr(line, "gempipe-ring-0"))
			in_ring = true;
		else if (in_ring && strncmp(line, "KernelPageSize:", 15) == 0)
			kib = atol(line + 15);
	}
	if (f)
		fclose(f);
	return kib;
}

/* Other programs may use the pool too; what is ours comes back within seconds. */
static bool comes_back(long pages)
{
	for (int i = 0; i < 500; i++) {
		if (meminfo("HugePages_Free:") - meminfo("HugePages_Rsvd:") >= pages)
			return true;
		sleep_ms(10);
	}
	return false;
}

static void test_pipeline_on_huge_pages(void **state)
{
	const char *const argv[] = { program("run"), "-m", MINI, "-p", "In the beginning", "-n", "200",
				     "--stages", "cpu:0-2,cpu:3-5", NULL };
	struct process p;
	struct result calm, r;
	pid_t workers[8];

	(void)state;
	if (geteuid() != 0 || reserved_before < 0 || !reserve(reserved_before + WANTED))
		skip();
	const long free_before = meminfo("HugePages_Free:");
	run_program(&calm, argv);
	assert_int_equal(calm.status, 0);
	assert_null(strstr(calm.err, "huge"));
	process_start(&p, argv, 0);
	for (int i = 0; i < 1000 && lseek(p.out_fd, 0, SEEK_END) < 20; i++)
		sleep_ms(10);
	assert_int_equal(ring_page_kib(p.pid), meminfo("Hugepagesize:"));
	assert_int_equal(process_workers(p.pid, workers, 8), 2);
	assert_int_equal(ring_page_kib(workers[0]), meminfo("Hugepagesize:"));
	kill(workers[0], SIGKILL);
	process_finish(&p, &r, 120);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, calm.out);
	assert_true(comes_back(free_before));
	result_free(&r);
	result_free(&calm);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_pipeline_on_huge_pages) };

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

#include "base/base.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Lines are flushed twice a second or so: a killed process loses little, and the
 * hot path seldom makes a system call. */
#define FLUSH_NS 500000000u
#define GPU_ROW (1L << 23)   /* more than any thread's number, which is at most 2^22 */

static FILE *part;
static _Atomic bool is_open;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t flushed_ns;

int gp_trace_open(const char *part_path, const char *process, int sort_index)
{
	const int fd = open(part_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	FILE *f = fd >= 0 ? fdopen(fd, "a") : NULL;

	if (!f) {
		const int e = errno;

		if (fd >= 0)
			close(fd);
		return gp_fail(e, "%s: trace not opened: %s", part_path, strerror(e));
	}
	/* A killed process may have left half a line: it ends here. */
	fprintf(f, "\n{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"args\":{\"name\":\"%s\"}}\n"
		"{\"ph\":\"M\",\"name\":\"process_sort_index\",\"pid\":%d,\"args\":{\"sort_index\":%d}}\n",
		getpid(), process, getpid(), sort_index);
	fflush(f);
	pthread_mutex_lock(&lock);
	part = f;
	flushed_ns = gp_now_ns();
	pthread_mutex_unlock(&lock);
	atomic_store_explicit(&is_open, true, memory_order_release);
	return 0;
}

bool gp_trace_on(void)
{
	return atomic_load_explicit(&is_open, memory_order_relaxed);
}

static void flush_sometimes(uint64_t now)
{
	if (now - flushed_ns < FLUSH_NS)
		return;
	fflush(part);
	flushed_ns = now;
}

static void write_span(long row, const char *category, const char *name, uint64_t start_ns,
		       uint64_t end_ns, const char *arg_name, int64_t arg)
{
	fprintf(part, "{\"ph\":\"X\",\"cat\":\"%s\",\"name\":\"%s\",\"pid\":%d,\"tid\":%ld,"
		"\"ts\":%.3f,\"dur\":%.3f", category, name, getpid(), row,
		(double)start_ns / 1e3, (double)(end_ns - start_ns) / 1e3);
	if (arg_name)
		fprintf(part, ",\"args\":{\"%s\":%" PRId64 "}", arg_name, arg);
	fputs("}\n", part);
	flush_sometimes(end_ns);
}

void gp_trace_span(const char *category, const char *name, uint64_t start_ns, uint64_t end_ns,
		   const char *arg_name, int64_t arg)
{
	if (!gp_trace_on() || end_ns < start_ns)
		return;
	pthread_mutex_lock(&lock);
	if (part)
		write_span(gettid(), category, name, start_ns, end_ns, arg_name, arg);
	pthread_mutex_unlock(&lock);
}

void gp_trace_gpu_span(const char *name, uint64_t start_ns, uint64_t end_ns)
{
	static bool named;

	if (!gp_trace_on() || end_ns < start_ns)
		return;
	pthread_mutex_lock(&lock);
	if (part && !named)
		fprintf(part, "{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%d,\"tid\":%ld,"
			"\"args\":{\"name\":\"GPU\"}}\n", getpid(), GPU_ROW);
	named = true;
	if (part)
		write_span(GPU_ROW, "gpu", name, start_ns, end_ns, NULL, 0);
	pthread_mutex_unlock(&lock);
}

void gp_trace_flow(bool begins, uint64_t step, uint32_t ring, uint64_t at_ns)
{
	const uint64_t id = step << 7 | ring;

	if (!gp_trace_on())
		return;
	pthread_mutex_lock(&lock);
	if (part)
		fprintf(part, "{\"ph\":\"%s\",\"cat\":\"flow\",\"name\":\"slot\",\"id\":%" PRIu64
			",\"pid\":%d,\"tid\":%ld,\"ts\":%.3f%s}\n", begins ? "s" : "f", id,
			getpid(), (long)gettid(), (double)at_ns / 1e3,
			begins ? "" : ",\"bp\":\"e\"");
	pthread_mutex_unlock(&lock);
}

void gp_trace_close(void)
{
	atomic_store(&is_open, false);
	pthread_mutex_lock(&lock);
	if (part)
		fclose(part);
	part = NULL;
	pthread_mutex_unlock(&lock);
}

/* A line counts only when it is whole, every brace of it closed: the writer may
 * have been killed. No text in a line holds a brace. */
static bool is_whole(const char *line, ssize_t n)
{
	int depth = 0;

	for (ssize_t i = 0; i < n; i++)
		depth += (line[i] == '{') - (line[i] == '}');
	return n > 2 && line[0] == '{' && line[n - 1] == '\n' && depth == 0;
}

static int append_part(FILE *out, const char *path, bool *first)
{
	FILE *in = fopen(path, "re");
	char *line = NULL;
	size_t room = 0;
	ssize_t n;

	if (!in)
		return errno == ENOENT ? 0 : gp_fail(errno, "%s: %s", path, strerror(errno));
	while ((n = getline(&line, &room, in)) > 0) {
		if (!is_whole(line, n))
			continue;
		line[n - 1] = '\0';
		fprintf(out, "%s%s", *first ? "" : ",\n", line);
		*first = false;
	}
	free(line);
	fclose(in);
	return 0;
}

int gp_trace_check(const char *out_path)
{
	char temporary[4096];
	struct stat st;

	if (snprintf(temporary, sizeof temporary, "%s.part", out_path) >= (int)sizeof temporary)
		return gp_fail(ENAMETOOLONG, "%.80s...: name too long for a trace", out_path);
	/* The trace is renamed into place, which would do away with anything else. */
	if (lstat(out_path, &st) == 0 && !S_ISREG(st.st_mode))
		return gp_fail(EINVAL, "%s: is no ordinary file; name another for the trace",
			       out_path);
	const int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0 && errno != EEXIST)
		return gp_fail(errno, "%s: no trace can be written there: %s", out_path,
			       strerror(errno));
	if (fd >= 0) {
		close(fd);
		unlink(temporary);
	}
	return 0;
}

int gp_trace_join(const char *out_path, const char *const *part_paths, size_t n_parts)
{
	char temporary[4096];
	bool first = true;
	int rc = 0;

	if (snprintf(temporary, sizeof temporary, "%s.part", out_path) >= (int)sizeof temporary)
		return gp_fail(ENAMETOOLONG, "%.80s...: name too long for a trace", out_path);
	FILE *out = fopen(temporary, "we");
	if (!out)
		return gp_fail(errno, "%s: trace not written: %s", out_path, strerror(errno));
	fputs("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", out);
	for (size_t i = 0; i < n_parts && rc == 0; i++)
		rc = append_part(out, part_paths[i], &first);
	fputs("\n]}\n", out);
	if (ferror(out) && rc == 0)
		rc = gp_fail(EIO, "%s: trace not written; is the disk full?", out_path);
	if (fclose(out) != 0 && rc == 0)
		rc = gp_fail(errno, "%s: trace not written: %s", out_path, strerror(errno));
	if (rc == 0 && rename(temporary, out_path) != 0)
		rc = gp_fail(errno, "%s: trace not written: %s", out_path, strerror(errno));
	if (rc < 0)
		unlink(temporary);
	return rc;
}

#include "base/base.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static char process_name[48] = "gempipe";
static _Atomic int most_level = GP_LOG_WARNING;

void gp_log_init(const char *process, enum gp_log_level most)
{
	snprintf(process_name, sizeof process_name, "%s", process);
	atomic_store(&most_level, (int)most);
}

enum gp_log_level gp_log_most(void)
{
	return (enum gp_log_level)atomic_load_explicit(&most_level, memory_order_relaxed);
}

static size_t clamp(int printed, size_t room)
{
	if (printed < 0)
		return 0;
	return (size_t)printed < room ? (size_t)printed : room - 1;
}

void gp_log(enum gp_log_level level, const char *fmt, ...)
{
	static const char *const names[] = { "error", "warning", "info", "debug" };
	char line[1024];
	const int saved_errno = errno;
	va_list ap;

	if (level > gp_log_most())
		return;
	size_t n = clamp(snprintf(line, sizeof line, "%s: %s: ", process_name, names[level]),
			 sizeof line);
	va_start(ap, fmt);
	n += clamp(vsnprintf(line + n, sizeof line - n, fmt, ap), sizeof line - n);
	va_end(ap);
	if (n == sizeof line)
		n--;
	line[n++] = '\n';
	/* A full stderr is nothing that the log could report. */
	if (write(STDERR_FILENO, line, n) < 0)
		errno = saved_errno;
	errno = saved_errno;
}

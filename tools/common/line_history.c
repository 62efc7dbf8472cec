#include "tools/common/line_history.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define REMEMBERED 1000

char *line_history_path(const char *name)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	char *path = NULL;
	int n;

	/* A relative one is to be ignored (XDG Base Directory Specification). */
	if (state && *state == '/')
		n = asprintf(&path, "%s/gempipe/%s", state, name);
	else if (home && *home == '/')
		n = asprintf(&path, "%s/.local/state/gempipe/%s", home, name);
	else
		return NULL;
	if (n < 0)
		return NULL;
	for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		if (mkdir(path, 0700) < 0 && errno != EEXIST) {
			gp_log(GP_LOG_INFO, "no history: %s: %s", path, strerror(errno));
			free(path);
			return NULL;
		}
		*p = '/';
	}
	return path;
}

History *line_history_open(const char *path)
{
	History *h = history_init();
	HistEvent event;

	if (!h)
		return NULL;
	history(h, &event, H_SETSIZE, REMEMBERED);
	history(h, &event, H_SETUNIQUE, 1);
	if (path)
		history(h, &event, H_LOAD, path);
	return h;
}

static void save(History *h, const char *path)
{
	char part[PATH_MAX];
	HistEvent event;

	if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part)
		return;
	const int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
	if (!f && fd >= 0)
		close(fd);
	bool ok = f && history(h, &event, H_SAVE_FP, f) >= 0;
	if (f)
		ok = fclose(f) == 0 && ok;
	if (!ok || rename(part, path) < 0)
		gp_log(GP_LOG_INFO, "no history: %s: %s", path, strerror(errno));
}

void line_history_add(History *h, const char *path, const char *message)
{
	HistEvent event;

	history(h, &event, H_ENTER, message);
	if (path)
		save(h, path);
}

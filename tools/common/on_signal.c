#include "tools/common/on_signal.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

enum { MOST_PATHS = 64 };

static char *paths[MOST_PATHS];
static volatile sig_atomic_t n_paths;

static char *said;
static size_t said_bytes;

static void end(int signal_number)
{
	if (said && write(STDERR_FILENO, said, said_bytes) < 0)
		said = NULL;            /* it has nowhere to go */
	for (int i = n_paths; i-- > 0;)
		if (unlink(paths[i]) < 0)
			rmdir(paths[i]);
	/* The handler is gone (SA_RESETHAND): the parent sees what ended us. */
	raise(signal_number);
}

static void answer_signals(void)
{
	static const int signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM, SIGXCPU, SIGXFSZ };
	const struct sigaction answer = { .sa_handler = end,
					  .sa_flags = (int)SA_RESETHAND };
	struct sigaction before;

	for (size_t i = 0; i < GP_ARRAY_LEN(signals); i++)
		/* nohup's choice stays. */
		if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
			sigaction(signals[i], &answer, NULL);
}

void cli_unlink_on_signal(const char *path)
{
	char *copy = n_paths < MOST_PATHS ? strdup(path) : NULL;

	if (!copy)
		return;
	paths[n_paths] = copy;
	if (n_paths++ == 0)
		answer_signals();
}

void cli_say_on_signal(const char *text)
{
	if (said || !(said = strdup(text)))
		return;
	said_bytes = strlen(text);
	answer_signals();
}

void cli_unlink_part_on_signal(const char *out)
{
	char part[PATH_MAX];

	/* It was opened, so its path is shorter. */
	snprintf(part, sizeof part, "%s.part", out);
	cli_unlink_on_signal(part);
}

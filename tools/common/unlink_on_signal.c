#include "tools/common/unlink_on_signal.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/base.h"

static char part[PATH_MAX];

static void unlink_and_end(int signal_number)
{
	unlink(part);
	/* The handler is gone (SA_RESETHAND): the parent sees what ended us. */
	raise(signal_number);
}

void cli_unlink_part_on_signal(const char *out)
{
	static const int signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM, SIGXCPU, SIGXFSZ };
	const struct sigaction answer = { .sa_handler = unlink_and_end,
					  .sa_flags = (int)SA_RESETHAND };
	struct sigaction before;

	/* It was opened, so its path is shorter. */
	snprintf(part, sizeof part, "%s.part", out);
	for (size_t i = 0; i < GP_ARRAY_LEN(signals); i++)
		/* nohup's choice stays. */
		if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
			sigaction(signals[i], &answer, NULL);
}

#include "tools/common/jsonl.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"

static int visit_line(const char *line, size_t bytes,
                      int (*visit)(const void *user, const json_t *value), const void *user)
{
	json_error_t error;
	json_t *value = json_loadb(line, bytes, JSON_ALLOW_NUL, &error);
	int rc;

	if (!value)
		return gp_fail(EINVAL, "not JSON: %.200s", error.text);
	rc = visit(user, value);
	json_decref(value);
	return rc;
}

int cli_each_json_line(int (*visit)(const void *user, const json_t *value), const void *user)
{
	char *line = NULL;
	size_t room = 0, n = 0;
	ssize_t bytes;
	int rc = 0;

	while (rc == 0 && (bytes = getline(&line, &room, stdin)) > 0) {
		n++;
		if (bytes == 1 && line[0] == '\n')
			continue;
		rc = visit_line(line, (size_t)bytes, visit, user);
		if (rc < 0)
			gp_fail_in(rc, "stdin, line %zu", n);
	}
	if (rc == 0 && ferror(stdin))
		rc = gp_fail(EIO, "stdin: not read to its end");
	free(line);
	return rc;
}

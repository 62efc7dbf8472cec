/* The keys of those who may ask. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/http/http.h"

#define BLANKS " \t\r\n"

/* KEY, or KEY priority. */
static int add_line(struct keys *k, char *line, const char *path)
{
	char *save = NULL;
	const char *key = strtok_r(line, BLANKS, &save), *grant = key ? strtok_r(NULL, BLANKS, &save) : NULL;

	if (!key)
		return 0;
	if (grant && (strcmp(grant, "priority") != 0 || strtok_r(NULL, BLANKS, &save)))
		return gp_fail(EINVAL, "--api-key-file %s: line of key %zu: a key has no blanks, and nothing "
			       "but 'priority' may follow it", path, k->n + 1);
	struct key *more = realloc(k->of, (k->n + 1) * sizeof *more);
	if (more)
		k->of = more;
	if (!more || !(more[k->n].text = strdup(key)))
		return gp_fail(ENOMEM, "no memory for keys");
	more[k->n++].may_hurry = grant != NULL;
	return 0;
}

int keys_read(struct keys *k, const char *path)
{
	char *line = NULL;
	size_t room = 0;
	int rc = 0;
	FILE *f = fopen(path, "re");

	if (!f)
		return gp_fail(errno, "--api-key-file %s: %s", path, strerror(errno));
	while (rc == 0 && getline(&line, &room, f) >= 0)
		rc = add_line(k, line, path);
	if (rc == 0 && ferror(f))
		rc = gp_fail(errno, "--api-key-file %s: %s", path, strerror(errno));
	free(line);
	fclose(f);
	if (rc == 0 && !k->n)
		rc = gp_fail(EINVAL, "--api-key-file %s: no key in it; write one a line", path);
	return rc;
}

void keys_free(struct keys *k)
{
	for (size_t i = 0; i < k->n; i++)
		free(k->of[i].text);
	free(k->of);
	*k = (struct keys){ 0 };
}

/* As long for a wrong key as for a right one. */
static bool same_key(const char *a, const char *b)
{
	const size_t n = strlen(a), m = strlen(b);
	unsigned char differ = n != m;

	for (size_t i = 0; i < m; i++)
		differ |= (unsigned char)(b[i] ^ a[n ? i % n : 0]);
	return !differ;
}

size_t keys_find(const struct keys *k, const char *authorization)
{
	size_t found = 0;

	if (strncasecmp(authorization, "Bearer ", 7) != 0)
		return 0;
	for (size_t i = 0; i < k->n; i++)
		if (same_key(k->of[i].text, authorization + 7))
			found = i + 1;
	return found;
}

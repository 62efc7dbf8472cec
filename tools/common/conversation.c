#include "tools/common/conversation.h"

#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/common/cli.h"

#define MOST_MIB 64 /* of a file */

static int make_room(struct conversation *c)
{
	const size_t room = 2 * c->room + 8;

	if (c->n < c->room)
		return 0;
	struct gp_chat_message *more = realloc(c->messages, room * sizeof *more);
	if (!more)
		return gp_fail(ENOMEM, "no memory for the conversation");
	c->messages = more;
	c->room = room;
	return 0;
}

int conversation_add(struct conversation *c, const char *role, const char *content)
{
	char *copy = make_room(c) == 0 ? strdup(content) : NULL;

	if (!copy)
		return gp_fail(ENOMEM, "no memory for the conversation");
	c->messages[c->n++] = (struct gp_chat_message){ .role = role, .content = copy };
	return 0;
}

static void free_content(const struct gp_chat_message *m)
{
	free((void *)(uintptr_t)m->content);
}

void conversation_forget(struct conversation *c, size_t keep)
{
	while (c->n > keep)
		free_content(&c->messages[--c->n]);
}

void conversation_free(struct conversation *c)
{
	conversation_forget(c, 0);
	free(c->messages);
	*c = (struct conversation){ 0 };
}

const char *conversation_system(const struct conversation *c)
{
	return c->n && strcmp(c->messages[0].role, "system") == 0 ? c->messages[0].content : NULL;
}

static void remove_first(struct conversation *c)
{
	free_content(&c->messages[0]);
	memmove(c->messages, c->messages + 1, --c->n * sizeof *c->messages);
}

int conversation_set_system(struct conversation *c, const char *text)
{
	const bool had = conversation_system(c) != NULL;

	if (text && conversation_add(c, "system", text) < 0)
		return -ENOMEM;
	if (had)
		remove_first(c);
	if (text) {
		const struct gp_chat_message system = c->messages[c->n - 1];

		memmove(c->messages + 1, c->messages, (c->n - 1) * sizeof *c->messages);
		c->messages[0] = system;
	}
	return 0;
}

/* ---- files ----------------------------------------------------------------------- */

/* A literal for a role that a file names; NULL: there is no such role. */
static const char *role_named(const char *name)
{
	static const char *const roles[] = { "system", "user", "assistant" };

	for (size_t i = 0; name && i < GP_ARRAY_LEN(roles); i++)
		if (strcmp(roles[i], name) == 0)
			return roles[i];
	return NULL;
}

static int take_message(struct conversation *c, const json_t *v, const char *path, size_t i)
{
	const char *role = role_named(json_string_value(json_object_get(v, "role")));
	const char *content = json_string_value(json_object_get(v, "content"));

	if (!role || !content)
		return gp_fail(EINVAL, "%s: message %zu is none; it must have a content that is a text "
			       "and the role system, user or assistant", path, i + 1);
	return conversation_add(c, role, content);
}

static int check_order(const struct conversation *c, const char *path)
{
	char *text;

	if (c->n == (conversation_system(c) ? 1 : 0))
		return 0;
	if (strcmp(c->messages[c->n - 1].role, "assistant") != 0)
		return gp_fail(EINVAL, "%s: the last message has no answer", path);
	const int rc = gp_chat_render(c->messages, c->n, false, &text);
	if (rc < 0)
		return gp_fail_in(rc, "%s", path);
	free(text);
	return 0;
}

static int check_file(int fd, const char *path, size_t *bytes)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return gp_fail(errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return gp_fail(EINVAL, "%s is no regular file; name one that /save wrote", path);
	if (st.st_size > (off_t)MOST_MIB << 20)
		return gp_fail(EFBIG, "%s has more than %d MiB, no conversation has; name one that "
			       "/save wrote", path, MOST_MIB);
	*bytes = (size_t)st.st_size;
	return 0;
}

/* As many bytes as it has now, or fewer where it shrinks. */
static int read_fd(int fd, const char *path, char **text, size_t *bytes)
{
	size_t size = 0, n = 0;
	ssize_t got = 1;
	const int rc = check_file(fd, path, &size);

	if (rc < 0)
		return rc;
	if (!(*text = malloc(size + 1)))
		return gp_fail(ENOMEM, "%s: no memory to read it", path);
	while (n < size && (got = read(fd, *text + n, size - n)) > 0)
		n += (size_t)got;
	*bytes = n;
	return got < 0 ? gp_fail(errno, "%s: not read: %s", path, strerror(errno)) : 0;
}

/* Not cli_read_file: a device or a pipe would hold the conversation up, for ever perhaps. */
static int read_file(const char *path, char **text, size_t *bytes)
{
	const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	*text = NULL;
	if (fd < 0)
		return gp_fail(errno, "%s: %s", path, strerror(errno));
	const int rc = read_fd(fd, path, text, bytes);
	close(fd);
	if (rc < 0)
		free(*text);
	return rc;
}

static int read_conversation(struct conversation *c, const char *path)
{
	char *text;
	size_t bytes = 0, i;
	json_error_t error;
	json_t *m;
	int rc = read_file(path, &text, &bytes);

	if (rc < 0)
		return rc;
	json_t *all = json_loadb(text, bytes, 0, &error);
	json_t *list = json_object_get(all, "messages");
	free(text);
	if (!json_is_array(list))
		rc = gp_fail(EINVAL, "%s: no conversation; it must be a JSON object with \"messages\", "
			     "as /save writes it", path);
	json_array_foreach(list, i, m)
		if (rc == 0)
			rc = take_message(c, m, path, i);
	json_decref(all);
	return rc < 0 ? rc : check_order(c, path);
}

int conversation_load(struct conversation *c, const char *path)
{
	struct conversation read = { 0 };
	const int rc = read_conversation(&read, path);

	if (rc < 0) {
		conversation_free(&read);
		return rc;
	}
	conversation_free(c);
	*c = read;
	return 0;
}

static int check_target(const char *path)
{
	struct conversation old = { 0 };

	if (access(path, F_OK) != 0)
		return 0;
	const int rc = read_conversation(&old, path);
	conversation_free(&old);
	if (rc < 0)
		return gp_fail(EEXIST, "%s is there and holds no conversation; give another name", path);
	return 0;
}

static int write_part(const json_t *all, const char *part)
{
	const int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		return gp_fail(errno, "%s: %s", part, strerror(errno));
	errno = 0;
	int rc = json_dumpfd(all, fd, JSON_INDENT(1)) < 0 ? -(errno ? errno : ENOMEM) : 0;
	if (close(fd) < 0 && rc == 0)
		rc = -errno;
	if (rc < 0)
		unlink(part);
	return rc < 0 ? gp_fail(-rc, "%s: not written: %s", part, strerror(-rc)) : 0;
}

int conversation_save(const struct conversation *c, const char *path)
{
	char part[PATH_MAX];
	json_t *list = json_array();
	int rc = check_target(path);

	for (size_t i = 0; i < c->n; i++)
		json_array_append_new(list, json_pack("{s:s, s:s}", "role", c->messages[i].role,
						      "content", c->messages[i].content));
	json_t *all = json_pack("{s:o}", "messages", list);
	if (rc == 0 && (!all || json_array_size(list) != c->n))
		rc = gp_fail(ENOMEM, "no memory to write the conversation");
	if (rc == 0 && snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part)
		rc = gp_fail(ENAMETOOLONG, "%.100s...: the name is too long", path);
	if (rc == 0 && (rc = write_part(all, part)) == 0 && rename(part, path) < 0) {
		rc = gp_fail(errno, "%s: %s", path, strerror(errno));
		unlink(part);
	}
	json_decref(all);
	return rc;
}

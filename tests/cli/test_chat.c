/* gempipe chat, typed on a terminal and through a pipe. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/common/process.h"
#include "tools/common/conversation.h"
#include "tools/common/terminal_out.h"

#define CTRL_C "\003"
#define CTRL_D "\004"
#define ERASE "\177"
#define UP "\033[A"
#define LEFT "\033[D"
#define PASTE(text) "\033[200~" text "\033[201~"

static char folder[] = "/tmp/gp-chat-XXXXXX";

static char *in_folder(const char *name)
{
	static char paths[8][256];
	static unsigned next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof paths[0], "%s/%s", folder, name);
	return path;
}

/* ---- a terminal with a chat in it ------------------------------------------------ */

struct terminal {
	pid_t pid;
	int fd;
	const char *prompt;
	char *text;             /* all that was shown */
	size_t n, room, seen;   /* seen: up to where it was expected */
	bool closed;
};

static bool take_more(struct terminal *t, int timeout_ms)
{
	struct pollfd p = { .fd = t->fd, .events = POLLIN };

	if (t->room - t->n < 4096) {
		t->text = realloc(t->text, t->room += 1 << 16);
		assert_non_null(t->text);
		t->text[t->n] = '\0';
	}
	if (poll(&p, 1, timeout_ms) != 1)
		return false;
	const ssize_t n = read(t->fd, t->text + t->n, t->room - t->n - 1);
	t->closed = n <= 0;
	if (t->closed)
		return false;
	t->text[t->n += (size_t)n] = '\0';
	return true;
}

/* Waits for text behind what was expected before. */
static void expect(struct terminal *t, const char *text)
{
	const uint64_t end = gp_now_ns() + UINT64_C(60000000000);
	const char *at;

	while (!(at = t->text ? strstr(t->text + t->seen, text) : NULL)) {
		take_more(t, 100);
		if (t->closed || gp_now_ns() > end)
			fail_msg("no '%s' in: %s", text, t->text ? t->text + t->seen : "");
	}
	t->seen = (size_t)(at - t->text) + strlen(text);
}

static void type(struct terminal *t, const char *keys)
{
	assert_int_equal(write(t->fd, keys, strlen(keys)), strlen(keys));
}

static void enter(struct terminal *t, const char *keys)
{
	type(t, keys);
	type(t, "\r");
}

static void expect_prompt(struct terminal *t)
{
	expect(t, t->prompt);
}

static void say(struct terminal *t, const char *message)
{
	enter(t, message);
	expect_prompt(t);
}

static void begin(struct terminal *t, const char *term, const char *const *more, size_t n_more)
{
	const char *argv[24] = { program("chat"), "-m", MINI, "--threads", "1", "--temp", "0", "-q" };
	const struct winsize size = { .ws_row = 24, .ws_col = 500 };

	for (size_t i = 0; i < n_more; i++)
		argv[8 + i] = more[i];
	*t = (struct terminal){ .prompt = strcmp(term, "dumb") == 0 ? "\n> " : "\033[?2004h> " };
	t->pid = forkpty(&t->fd, NULL, NULL, &size);
	assert_true(t->pid >= 0);
	if (t->pid == 0) {
		setenv("TERM", term, 1);
		setenv("XDG_STATE_HOME", folder, 1);
		setenv("XDG_RUNTIME_DIR", in_folder("runtime"), 1);
		unsetenv("LC_ALL");
		unsetenv("LC_CTYPE");
		unsetenv("LANG");
		execv(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	expect(t, "> ");
}

#define BEGIN(t, ...)                                                           \
	do {                                                                    \
		const char *const more_[] = { __VA_ARGS__ };                     \
		begin(t, "xterm", more_, GP_ARRAY_LEN(more_));                  \
	} while (0)

/* Its exit status; 128 + the signal that ended it. */
static int end(struct terminal *t)
{
	int status = 0, i = 0;
	pid_t got;

	/* What nobody reads may keep it from ending. */
	while ((got = waitpid(t->pid, &status, WNOHANG)) == 0 && i++ < 3000)
		if (t->closed || !take_more(t, 10))
			sleep_ms(10);
	if (got == 0) {
		kill(t->pid, SIGKILL);
		waitpid(t->pid, NULL, 0);
		fail_msg("it does not end: %s", t->text);
	}
	close(t->fd);
	free(t->text);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* What is in its conversation. */
static json_t *saved(struct terminal *t, const char *name)
{
	char command[300];
	json_error_t error;

	snprintf(command, sizeof command, "/save %s", in_folder(name));
	say(t, command);
	json_t *o = json_load_file(in_folder(name), 0, &error);
	if (!o)
		fail_msg("%s: %s in %s", name, error.text, t->text);
	json_t *list = json_incref(json_object_get(o, "messages"));
	json_decref(o);
	return list;
}

static const char *content(json_t *messages, size_t i)
{
	const char *text = json_string_value(json_object_get(json_array_get(messages, i), "content"));

	assert_non_null(text);
	return text;
}

static const char *role(json_t *messages, size_t i)
{
	return json_string_value(json_object_get(json_array_get(messages, i), "role"));
}

/* ---- typing ------------------------------------------------------------------------ */

static void test_what_is_typed_is_what_is_said(void **state)
{
	static const struct {
		const char *keys, *message;
	} cases[] = {
		{ "Hello\r", "Hello" },
		{ "  caf\xc3\xa9\xc3\xa9" ERASE " au l\xc3\xa4it \xe2\x82\xac" LEFT LEFT LEFT ERASE "a\r",
		  "  caf\xc3\xa9 au l\xc3\xa4" "at \xe2\x82\xac" },
		{ "one \\\rtwo\r", "one \ntwo" },
		{ "\"\"\"\rone\r\r two \\\rthree\"\"\"\r", "one\n\n two \\\nthree" },
		{ PASTE("a\n\tb\033]0;x\a\rc\\\nd") " e\r", "a\n\tb]0;x\nc\\\nd e" },
		{ "not this" CTRL_C "but this\r", "but this" },
		{ "not this\\\rnor this" CTRL_C "but this\r", "but this" },
		{ " /quit\r", " /quit" },
		{ "/etc/hosts\r", "/etc/hosts" },
		{ UP UP UP "!\r", "/etc/hosts!" },
	};
	struct terminal t;

	(void)state;
	BEGIN(&t, "-n", "2");
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++) {
		say(&t, "/clear");
		type(&t, cases[i].keys);
		expect(&t, "(cut at 2 tokens");
		expect_prompt(&t);
		json_t *said = saved(&t, "typed");
		assert_int_equal(json_array_size(said), 2);
		assert_string_equal(role(said, 0), "user");
		assert_string_equal(content(said, 0), cases[i].message);
		assert_string_equal(role(said, 1), "assistant");
		json_decref(said);
	}
	type(&t, CTRL_D);
	assert_int_equal(end(&t), 0);
}

/* Longer than what is read at once, with characters across its borders. */
static void test_long_paste(void **state)
{
	enum { LINES = 2000 };
	static const char line[] = "a\xe2\x82\xac\n";
	char *text = calloc(1, LINES * (sizeof line - 1) + 1);
	struct terminal t;

	(void)state;
	assert_non_null(text);
	for (size_t i = 0; i < LINES; i++)
		strcat(text + i * (sizeof line - 1), line);
	BEGIN(&t, "-n", "2");
	type(&t, "/system \033[200~");
	type(&t, text);
	type(&t, "\033[201~end\r");
	expect_prompt(&t);
	json_t *said = saved(&t, "pasted");
	assert_int_equal(json_array_size(said), 1);
	assert_memory_equal(content(said, 0), text, strlen(text));
	assert_string_equal(content(said, 0) + strlen(text), "end");
	json_decref(said);
	free(text);
	enter(&t, "/quit");
	assert_int_equal(end(&t), 0);
}

static void test_stopped_and_resized(void **state)
{
	const struct winsize size = { .ws_row = 10, .ws_col = 100 };
	struct terminal t;

	(void)state;
	BEGIN(&t, "-n", "2");
	type(&t, "Hel");
	expect(&t, "Hel");
	kill(t.pid, SIGSTOP);
	assert_int_equal(waitpid(t.pid, NULL, WUNTRACED), t.pid);
	/* As a shell leaves it. */
	struct termios cooked;
	assert_int_equal(tcgetattr(t.fd, &cooked), 0);
	cooked.c_lflag |= ICANON | ECHO;
	assert_int_equal(tcsetattr(t.fd, TCSANOW, &cooked), 0);
	kill(t.pid, SIGCONT);
	for (int i = 0; i < 3000 && (cooked.c_lflag & ICANON); i++) {
		take_more(&t, 10);      /* it waits until what it wrote is taken */
		assert_int_equal(tcgetattr(t.fd, &cooked), 0);
	}
	assert_false(cooked.c_lflag & ICANON);
	assert_int_equal(ioctl(t.fd, TIOCSWINSZ, &size), 0);
	say(&t, "px" ERASE LEFT "l" "\005!");
	json_t *said = saved(&t, "resized");
	assert_string_equal(content(said, 0), "Hellp!");
	json_decref(said);
	enter(&t, "/quit");
	assert_int_equal(end(&t), 0);
}

static void test_history(void **state)
{
	struct stat st;
	struct terminal t;

	(void)state;
	BEGIN(&t, "-n", "2");
	say(&t, "\"\"\"first\rsecond\"\"\"");
	enter(&t, "/quit");
	assert_int_equal(end(&t), 0);
	assert_int_equal(stat(in_folder("gempipe/chat-history"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	BEGIN(&t, "-n", "2");
	say(&t, UP UP);
	json_t *said = saved(&t, "recalled");
	assert_string_equal(content(said, 0), "first\nsecond");
	json_decref(said);
	enter(&t, "/quit");
	assert_int_equal(end(&t), 0);
	unlink(in_folder("gempipe/chat-history"));
	BEGIN(&t, "-n", "2", "--no-history");
	say(&t, "Hello");
	enter(&t, "/quit");
	assert_int_equal(end(&t), 0);
	assert_int_equal(access(in_folder("gempipe/chat-history"), F_OK), -1);
}

static void test_interrupts(void **state)
{
	struct terminal t;

	(void)state;
	BEGIN(&t, "-n", "100000");
	enter(&t, "Tell me everything.");
	expect(&t, "everything.\r\n");
	while (t.n < t.seen + 20)
		take_more(&t, 100);
	type(&t, CTRL_C);
	expect_prompt(&t);
	json_t *said = saved(&t, "stopped");
	assert_int_equal(json_array_size(said), 2);
	assert_true(strlen(content(said, 1)) > 10);
	json_decref(said);
	/* It goes on, and at the prompt Ctrl-C ends nothing. */
	for (int i = 0; i < 3; i++) {
		type(&t, CTRL_C);
		expect(&t, "(/quit or Ctrl-D ends)");
		expect_prompt(&t);
	}
	enter(&t, "Go on.");
	expect(&t, "Go on.\r\n");
	while (t.n < t.seen + 20)
		take_more(&t, 100);
	/* Other signals mean the whole. */
	kill(t.pid, SIGTERM);
	assert_int_equal(end(&t), 0);
	BEGIN(&t, "-n", "2");
	kill(t.pid, SIGTERM);
	assert_int_equal(end(&t), 0);
	/* Half a message is none. */
	BEGIN(&t, "-n", "2");
	enter(&t, "Hello \\");
	expect(&t, "... ");
	kill(t.pid, SIGTERM);
	assert_int_equal(end(&t), 0);
}

/* A worker that hangs makes the closing last: it must not be broken off, for that leaves the
 * runtime folder behind. */
static void test_interrupts_at_the_end(void **state)
{
	struct terminal t;
	pid_t worker;

	(void)state;
	BEGIN(&t, "-n", "2");
	assert_int_equal(process_workers(t.pid, &worker, 1), 1);
	assert_int_equal(kill(worker, SIGSTOP), 0);
	enter(&t, "/quit");
	expect(&t, "/quit\r\n");
	sleep_ms(200);
	for (int i = 0; i < 6; i++) {
		kill(t.pid, SIGINT);
		sleep_ms(20);
	}
	const int status = end(&t);
	/* Where the chat left it behind it ends now. */
	kill(worker, SIGCONT);
	assert_int_equal(status, 0);
	/* It is empty, or rmdir fails. */
	assert_int_equal(rmdir(in_folder("runtime")), 0);
	assert_int_equal(mkdir(in_folder("runtime"), 0700), 0);
}

/* ---- commands ------------------------------------------------------------------------- */

static void test_save_and_load(void **state)
{
	char command[300];
	struct terminal t;

	(void)state;
	BEGIN(&t, "-n", "12", "--system", "Be kind.");
	say(&t, "Hello");
	json_decref(saved(&t, "before"));
	say(&t, "Who are you?");
	json_t *one = saved(&t, "one");
	/* Neither of these changes anything. */
	snprintf(command, sizeof command, "/load %s", in_folder("missing"));
	enter(&t, command);
	expect(&t, "No such file");
	snprintf(command, sizeof command, "/load %s", MINI);
	enter(&t, command);
	expect(&t, "no conversation");
	snprintf(command, sizeof command, "/save %s", program("chat"));
	enter(&t, command);
	expect(&t, "is there and holds no conversation");
	enter(&t, "/save");
	expect(&t, "no file");
	expect_prompt(&t);
	json_t *same = saved(&t, "same");
	assert_true(json_equal(one, same));
	enter(&t, "/quit");
	assert_int_equal(end(&t), 0);

	BEGIN(&t, "-n", "12");
	snprintf(command, sizeof command, "/load %s", in_folder("before"));
	enter(&t, command);
	expect(&t, "loaded 3 messages");
	expect_prompt(&t);
	say(&t, "Who are you?");
	json_t *other = saved(&t, "other");
	assert_int_equal(json_array_size(one), 5);
	assert_true(json_equal(one, other));
	json_decref(one);
	json_decref(same);
	json_decref(other);
	enter(&t, "/quit");
	assert_int_equal(end(&t), 0);
}

static void enter_named(struct terminal *t, const char *command, const char *path)
{
	char keys[300];

	snprintf(keys, sizeof keys, "%s %s", command, path);
	enter(t, keys);
}

/* None of them is waited for or read without end. */
static void test_what_is_no_file(void **state)
{
	const char *fifo = in_folder("fifo"), *huge = in_folder("huge");
	const char *const paths[] = { fifo, "/dev/zero", "/dev/full", "/dev/tty", folder };
	struct terminal t;

	(void)state;
	assert_int_equal(mkfifo(fifo, 0600), 0);
	BEGIN(&t, "-n", "2");
	say(&t, "Hello");
	for (size_t i = 0; i < GP_ARRAY_LEN(paths); i++) {
		enter_named(&t, "/load", paths[i]);
		expect(&t, "is no regular file");
		expect_prompt(&t);
		enter_named(&t, "/save", paths[i]);
		expect(&t, "is there and holds no conversation");
		expect_prompt(&t);
	}
	const int fd = open(huge, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, (64 << 20) + 1), 0);
	close(fd);
	enter_named(&t, "/load", huge);
	expect(&t, "more than 64 MiB");
	expect_prompt(&t);
	/* The conversation is what it was. */
	json_t *said = saved(&t, "kept");
	assert_int_equal(json_array_size(said), 2);
	json_decref(said);
	enter(&t, "/quit");
	assert_int_equal(end(&t), 0);
}

static void test_system(void **state)
{
	struct terminal t;
	char command[200];

	(void)state;
	BEGIN(&t, "-n", "2");
	enter(&t, "/system");
	expect(&t, "system: none");
	expect_prompt(&t);
	say(&t, "Hello");
	say(&t, "/system Be brief.\\\rAnd kind.");
	json_t *said = saved(&t, "system");
	assert_int_equal(json_array_size(said), 3);
	assert_string_equal(role(said, 0), "system");
	assert_string_equal(content(said, 0), "Be brief.\nAnd kind.");
	assert_string_equal(content(said, 1), "Hello");
	json_decref(said);
	say(&t, "/clear");
	say(&t, "/system Be long.");
	say(&t, "Hello");
	said = saved(&t, "system");
	assert_int_equal(json_array_size(said), 3);
	assert_string_equal(content(said, 0), "Be long.");
	json_decref(said);
	say(&t, "/system \"\"");
	said = saved(&t, "system");
	assert_int_equal(json_array_size(said), 2);
	json_decref(said);
	FILE *f = fopen(in_folder("obeyed"), "w");
	assert_non_null(f);
	fputs("{\"messages\":[{\"role\":\"system\",\"content\":\"x\\u001b[8mhidden\"}]}", f);
	assert_int_equal(fclose(f), 0);
	snprintf(command, sizeof command, "/load %s", in_folder("obeyed"));
	say(&t, command);
	enter(&t, "/system");
	expect(&t, "system: x\xef\xbf\xbd[8mhidden");
	enter(&t, "/stats");
	expect(&t, "tokens/s");
	enter(&t, "/help");
	expect(&t, "/system TEXT");
	enter(&t, "/frobnicate now");
	expect(&t, "no command /frobnicate");
	enter(&t, "/quit");
	assert_int_equal(end(&t), 0);
}

static void test_files_that_are_no_conversations(void **state)
{
	static const struct {
		const char *json, *says;
	} cases[] = {
		{ "", "no conversation" }, { "[]", "no conversation" }, { "{\"messages\":{}}", "no conversation" },
		{ "{\"messages\":[1]}", "message 1" },
		{ "{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", "message 1" },
		{ "{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", "message 1" },
		{ "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "no answer" },
		{ "{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\"}]}", "message 1" },
		{ "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"},"
		  "{\"role\":\"assistant\",\"content\":\"x\"}]}", "no conversation" },
	};
	struct conversation c = { 0 };

	(void)state;
	assert_int_equal(conversation_add(&c, "user", "kept"), 0);
	for (size_t i = 0; i < GP_ARRAY_LEN(cases); i++) {
		FILE *f = fopen(in_folder("bad"), "w");

		assert_non_null(f);
		fputs(cases[i].json, f);
		fclose(f);
		assert_true(conversation_load(&c, in_folder("bad")) < 0);
		if (!strstr(gp_error(), cases[i].says))
			fail_msg("%s: %s", cases[i].json, gp_error());
		assert_int_equal(c.n, 1);
		assert_int_equal(conversation_save(&c, in_folder("bad")), -EEXIST);
	}
	conversation_free(&c);
}

/* ---- where nobody types ------------------------------------------------------------------ */

static void test_pipe(void **state)
{
	char command[1024];
	struct result r, one;

	(void)state;
	snprintf(command, sizeof command, "printf 'Hello\\nHi \\\\\\nyou\\na\\0b\\n\"\"\"x\\ny' | "
		 "TERM=xterm XDG_STATE_HOME=%s %s -m %s --threads 1 --temp 0 -n 12 -q", in_folder("none"),
		 program("chat"), MINI);
	RUN(&r, "/bin/sh", "-c", command);
	assert_int_equal(r.status, 0);
	assert_null(strchr(r.out, '\033'));
	assert_null(strchr(r.err, '\033'));
	assert_null(strstr(r.err, "> "));
	assert_non_null(strstr(r.err, "NUL byte"));
	assert_int_equal(access(in_folder("none"), F_OK), -1);
	/* A message is what several lines make of it. */
	snprintf(command, sizeof command, "printf 'Hello\\n\"\"\"Hi \\nyou\"\"\"\\nx\\\\\\ny\\n' | %s -m %s "
		 "--threads 1 --temp 0 -n 12 -q", program("chat"), MINI);
	RUN(&one, "/bin/sh", "-c", command);
	assert_string_equal(r.out, one.out);
	result_free(&one);
	result_free(&r);
}

static void test_dumb_terminal(void **state)
{
	const char *const options[] = { "-n", "2" };
	struct terminal t;

	(void)state;
	begin(&t, "dumb", options, GP_ARRAY_LEN(options));
	say(&t, "Hello");
	type(&t, "not this" CTRL_C);
	expect_prompt(&t);
	json_t *said = saved(&t, "dumb");
	assert_int_equal(json_array_size(said), 2);
	assert_string_equal(content(said, 0), "Hello");
	json_decref(said);
	/* The loading bar is what it always was. */
	assert_null(strchr(strstr(t.text, "> "), '\033'));
	type(&t, CTRL_D);
	assert_int_equal(end(&t), 0);
}

static void test_terminal_obeys_no_model(void **state)
{
	static const char in[] = "a\tb\n\033]0;x\a\r\xc2\x9b" "1m \xc2\xa3 \xc2\xc2\x9b \xc3\xa9\x7f",
			  out[] = "a\tb\n\xef\xbf\xbd]0;x\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" "1m \xc2\xa3 "
				  "\xc2\xef\xbf\xbd \xc3\xa9\xef\xbf\xbd";
	const int fd = memfd_create("terminal", MFD_CLOEXEC);

	(void)state;
	assert_true(fd >= 0);
	const pid_t pid = fork();
	if (pid == 0) {
		dup2(fd, 1);
		FILE *f = terminal_out_open(stdout);
		for (size_t i = 0; f && i < sizeof in - 1; i++) {
			fputc(in[i], f);
			fflush(f);
		}
		_exit(f && fclose(f) == 0 ? 0 : 1);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	char *text = process_output(fd);
	assert_string_equal(text, out);
	free(text);
	close(fd);
}

static int set_up(void **state)
{
	(void)state;
	return mkdtemp(folder) && mkdir(in_folder("runtime"), 0700) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
	struct result r;

	(void)state;
	RUN(&r, "/bin/rm", "-r", folder);
	const int status = r.status;
	result_free(&r);
	return status;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_typed_is_what_is_said), cmocka_unit_test(test_long_paste),
		cmocka_unit_test(test_stopped_and_resized), cmocka_unit_test(test_history),
		cmocka_unit_test(test_interrupts), cmocka_unit_test(test_interrupts_at_the_end),
		cmocka_unit_test(test_save_and_load), cmocka_unit_test(test_what_is_no_file),
		cmocka_unit_test(test_system), cmocka_unit_test(test_files_that_are_no_conversations),
		cmocka_unit_test(test_pipe), cmocka_unit_test(test_dumb_terminal),
		cmocka_unit_test(test_terminal_obeys_no_model),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

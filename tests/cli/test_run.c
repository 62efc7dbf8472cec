/* The pipeline through the programs that people type: texts and logits are the
 * same whatever the stages, threads, chunks and company. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/common/process.h"

#define RANDOM_TEXT "tests/data/gemma3-random-text"
#define N_GREEDY 64

static json_t *golden;

static int load_golden(void **state)
{
	(void)state;
	golden = json_load_file("tests/data/gemma3-mini/golden.json", 0, NULL);
	return golden ? 0 : -1;
}

static int drop_golden(void **state)
{
	(void)state;
	json_decref(golden);
	return 0;
}

static const char *golden_field(size_t i, const char *key)
{
	return json_string_value(json_object_get(
		json_array_get(json_object_get(golden, "greedy"), i), key));
}

/* The text plus the newline that run ends with. */
static void assert_golden_text(const struct result *r, size_t i)
{
	const char *text = golden_field(i, "text");

	if (r->status != 0)
		fail_msg("exit status %d: %s", r->status, r->err);
	assert_int_equal(strncmp(r->out, text, strlen(text)), 0);
	assert_string_equal(r->out + strlen(text), "\n");
}

static void test_greedy_texts(void **state)
{
	static const char *const stages[] = {
		"cpu:0-5", "cpu:0-2,cpu:3-5", "cpu:0-1,cpu:2-3,cpu:4-5",
		"cpu:0,cpu:1,cpu:2,cpu:3,cpu:4,cpu:5",
	};
	const size_t n = json_array_size(json_object_get(golden, "greedy"));

	(void)state;
	assert_true(n > 0);
	for (size_t i = 0; i < n; i++) {
		struct result r;

		RUN(&r, program("run"), "-m", MINI, "-p", golden_field(i, "prompt"), "-n", "64",
		    "--stages", stages[i % 4], "--threads", i % 2 ? "1" : "2");
		assert_golden_text(&r, i);
		assert_non_null(strstr(r.err, "hop p99"));
		result_free(&r);
	}
}

static size_t count_of(const char *text, const char *what)
{
	size_t n = 0;

	for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
		n++;
	return n;
}

static bool has_free_huge_pages(void)
{
	char line[128];
	long n = 0;
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "HugePages_Free: %ld", &n) == 1)
			break;
	if (f)
		fclose(f);
	return n > 0;
}

/* Three rings in three processes, and one line about them. */
static void test_no_huge_pages_is_said_once(void **state)
{
	struct result r;

	(void)state;
	if (has_free_huge_pages())
		skip();
	RUN(&r, program("run"), "-m", MINI, "-p", "x", "-n", "2", "--stages", "cpu:0-2,cpu:3-5", "-q");
	assert_int_equal(r.status, 0);
	assert_int_equal(count_of(r.err, "no free huge pages"), 1);
	assert_int_equal(count_of(r.err, "\n"), 1);
	result_free(&r);
}

/* What a program writes to a terminal on stderr. */
static void on_terminal(const char *const *argv, char *text, size_t room)
{
	const int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	size_t n = 0;
	ssize_t got;

	assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
	const int terminal = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(terminal >= 0);
	const pid_t pid = fork();
	if (pid == 0) {
		dup2(open("/dev/null", O_RDWR), 1);
		dup2(terminal, 2);
		execv(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	close(terminal);
	/* EIO: the last process closed its end. */
	while (n + 1 < room && (got = read(master, text + n, room - 1 - n)) > 0)
		n += (size_t)got;
	text[n] = '\0';
	close(master);
	waitpid(pid, NULL, 0);
}

static void test_progress_only_on_a_terminal(void **state)
{
	const char *const argv[] = { program("run"), "-m", MINI, "-p", "x", "-n", "2", NULL };
	static char text[1 << 16];
	struct result r;

	(void)state;
	run_program(&r, argv);
	assert_null(strstr(r.err, "loading ["));
	result_free(&r);
	on_terminal(argv, text, sizeof text);
	assert_non_null(strstr(text, "loading ["));
	assert_non_null(strstr(text, "100%"));
}

static void write_prompts(char path[64])
{
	const size_t n = json_array_size(json_object_get(golden, "greedy"));

	snprintf(path, 64, "/tmp/gp-prompts-XXXXXX");
	const int fd = mkstemp(path);
	assert_true(fd >= 0);
	FILE *f = fdopen(fd, "w");
	for (size_t i = 0; i < n; i++)
		fprintf(f, "%s\n", golden_field(i, "prompt"));
	assert_int_equal(fclose(f), 0);
}

static void test_many_prompts(void **state)
{
	static const char *const parallel[] = { "1", "2", "5" };
	char path[64];

	(void)state;
	write_prompts(path);
	for (size_t k = 0; k < 3; k++) {
		struct result r;
		size_t i = 0;

		RUN(&r, program("run"), "-m", MINI, "--prompts", path, "-n", "64", "--parallel",
		    parallel[k], "--stages", "cpu:0-2,cpu:3-5", "--max-rows", "7", "--json", "-q");
		assert_int_equal(r.status, 0);
		for (char *line = strtok(r.out, "\n"); line; line = strtok(NULL, "\n"), i++) {
			json_t *o = json_loads(line, 0, NULL);

			assert_string_equal(json_string_value(json_object_get(o, "text")),
					    golden_field(i, "text"));
			assert_string_equal(json_string_value(json_object_get(o, "finish")),
					    "length");
			json_decref(o);
		}
		assert_int_equal(i, json_array_size(json_object_get(golden, "greedy")));
		result_free(&r);
	}
	unlink(path);
}

static void test_seed_repeats(void **state)
{
	struct result a, b, c;

	(void)state;
	RUN(&a, program("run"), "-m", MINI, "-p", "The", "-n", "40", "--temp", "1", "--top-p", "0.9",
	    "--seed", "7", "-q");
	RUN(&b, program("run"), "-m", MINI, "-p", "The", "-n", "40", "--temp", "1", "--top-p", "0.9",
	    "--seed", "7", "-q", "--stages", "cpu:0-2,cpu:3-5", "--threads", "1");
	RUN(&c, program("run"), "-m", MINI, "-p", "The", "-n", "40", "--temp", "1", "--top-p", "0.9",
	    "--seed", "8", "-q");
	assert_int_equal(a.status | b.status | c.status, 0);
	assert_string_equal(a.out, b.out);
	assert_string_not_equal(a.out, c.out);
	result_free(&a);
	result_free(&b);
	result_free(&c);
}

static void logits_bytes(const char *model, const char *stages, const char *threads,
			 const char *rows, struct result *file)
{
	char path[64] = "/tmp/gp-logits-XXXXXX";
	struct result r;
	const int fd = mkstemp(path);

	assert_true(fd >= 0);
	RUN(&r, program("logits"), "-m", model, "--ids",
	    "2,31,266,391,351,299,351,135,414,192,332,330,73,96,364,415,440,89,168,283,495,272,225,"
	    "199,394,280,279,305,249,199,392,27,167,7,280,257,11,52,269,91,394,103,111,246,207,273",
	    "--out", path, "--stages", stages, "--threads", threads, "--max-rows", rows, "-q");
	if (r.status != 0)
		fail_msg("%s: %s", stages, r.err);
	result_free(&r);
	*file = (struct result){ .out = process_output(fd) };
	file->out_bytes = (size_t)lseek(fd, 0, SEEK_END);
	close(fd);
	/* The file was written under another name and renamed over this one. */
	FILE *f = fopen(path, "re");
	assert_non_null(f);
	free(file->out);
	file->out = malloc(1 << 20);
	file->out_bytes = fread(file->out, 1, 1 << 20, f);
	fclose(f);
	unlink(path);
}

static void test_logits_invariant(void **state)
{
	static const char *const variants[][3] = {
		{ "cpu:0-7", "2", "512" }, { "cpu:0-7", "1", "1" }, { "cpu:0-7", "2", "5" },
		{ "cpu:0-3,cpu:4-7", "1", "16" }, { "cpu:0-1,cpu:2-2,cpu:3-7", "2", "3" },
		{ "cpu:0,cpu:1,cpu:2,cpu:3,cpu:4,cpu:5-7", "1", "512" },
	};
	struct result first, other;

	(void)state;
	logits_bytes(RANDOM_TEXT, "auto", "1", "512", &first);
	assert_int_equal(first.out_bytes, 128 + 46 * 512 * 4);
	for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
		logits_bytes(RANDOM_TEXT, variants[i][0], variants[i][1], variants[i][2], &other);
		assert_int_equal(other.out_bytes, first.out_bytes);
		assert_memory_equal(other.out, first.out, first.out_bytes);
		free(other.out);
	}
	free(first.out);
}

static void test_vision_language_model(void **state)
{
	struct result f;

	(void)state;
	logits_bytes("tests/data/gemma3-random-vision-text", "cpu:0-3,cpu:4-7", "1", "512", &f);
	assert_int_equal(f.out_bytes, 128 + 46 * 520 * 4);
	free(f.out);
}

static void test_chat_keeps_up(void **state)
{
	char path[64] = "/tmp/gp-chat-XXXXXX", command[1024];
	struct result r;
	const int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	assert_true(write(fd, "Hello\nWho are you?\n/clear\nHello\n", 32) == 32);
	close(fd);
	snprintf(command, sizeof command, "%s -m %s --temp 0 -n 12 -q < %s", program("chat"), MINI,
		 path);
	RUN(&r, "/bin/sh", "-c", command);
	unlink(path);
	assert_int_equal(r.status, 0);
	/* The first answer comes again after /clear. */
	const char *end = strchr(r.out, '\n');
	assert_non_null(end);
	const size_t n = (size_t)(end - r.out) + 1;
	assert_true(strlen(r.out) >= 2 * n);
	assert_memory_equal(r.out, r.out + strlen(r.out) - n, n);
	result_free(&r);
}

static void test_perplexity_of_text(void **state)
{
	struct result r;

	(void)state;
	RUN(&r, program("perplexity"), "-m", MINI, "-f", "tests/data/gemma3-mini-valid.txt",
	    "--chunks", "2", "--json", "--parallel", "2", "-q");
	assert_int_equal(r.status, 0);
	json_t *o = json_loads(r.out, 0, NULL);
	assert_int_equal(json_integer_value(json_object_get(o, "tokens")), 2 * 511);
	const double ppl = json_real_value(json_object_get(o, "perplexity"));
	assert_true(ppl > 5 && ppl < 100);
	json_decref(o);
	result_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_greedy_texts), cmocka_unit_test(test_many_prompts),
		cmocka_unit_test(test_no_huge_pages_is_said_once),
		cmocka_unit_test(test_progress_only_on_a_terminal),
		cmocka_unit_test(test_seed_repeats), cmocka_unit_test(test_logits_invariant),
		cmocka_unit_test(test_vision_language_model), cmocka_unit_test(test_chat_keeps_up),
		cmocka_unit_test(test_perplexity_of_text),
	};

	return cmocka_run_group_tests(tests, load_golden, drop_golden);
}

/* Wrong input: one clear line, the right exit status, no partial file. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/common/process.h"
#include "tests/common/sanitizers.h"

#define TEXT_MODEL "tests/data/gemma3-random-text"

static char folder[] = "/tmp/gp-bad-XXXXXX";

static int set_up(void **state)
{
	(void)state;
	return mkdtemp(folder) && setenv("XDG_RUNTIME_DIR", folder, 1) == 0 ? 0 : -1;
}

/* Not empty: something was left behind, and the group fails. */
static int tear_down(void **state)
{
	(void)state;
	return rmdir(folder);
}

/* The warning about huge pages is no part of the error. */
static const char *skip_warnings(const char *err)
{
	while (strstr(err, ": warning: ") && strstr(err, ": warning: ") < strchr(err, '\n'))
		err = strchr(err, '\n') + 1;
	return err;
}

static void assert_refused(const char *const *argv, int status, const char *says)
{
	struct result r;

	run_program(&r, argv);
	const char *err = skip_warnings(r.err);
	const char *end = strchr(err, '\n');
	if (r.status != status || !strstr(err, says) || !end || end[1])
		fail_msg("status %d, wanted %d and '%s'; it said: %s", r.status, status, says, r.err);
	assert_int_equal(strncmp(err, "gempipe ", 8), 0);
	assert_string_equal(r.out, "");
	result_free(&r);
}

#define REFUSED(status, says, ...) \
	assert_refused((const char *const[]){ __VA_ARGS__, NULL }, status, says)

static void write_file(char path[64], const char *name, const void *data, size_t bytes)
{
	snprintf(path, 64, "%s/%s", folder, name);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, bytes, f), bytes);
	assert_int_equal(fclose(f), 0);
}

static void test_usage(void **state)
{
	const char *run = program("run");

	(void)state;
	REFUSED(2, "no model", run, "-p", "x");
	REFUSED(2, "give one of", run, "-m", MINI);
	REFUSED(2, "give one of", run, "-m", MINI, "-p", "x", "-f", "y");
	REFUSED(2, "'stray' is no option", run, "-m", MINI, "-p", "x", "stray");
	REFUSED(2, "-n: '0'", run, "-m", MINI, "-p", "x", "-n", "0");
	REFUSED(2, "-n: '-3'", run, "-m", MINI, "-p", "x", "-n", "-3");
	REFUSED(2, "--threads: 'many'", run, "-m", MINI, "-p", "x", "--threads", "many");
	REFUSED(2, "--cpu-mask: instruction set \"sse9\"", run, "-m", MINI, "-p", "x",
		"--cpu-mask", "sse9");
	REFUSED(2, "--kv-type 'q4_0'", run, "-m", MINI, "-p", "x", "--kv-type", "q4_0");
	REFUSED(2, "--temp: 'hot'", run, "-m", MINI, "-p", "x", "--temp", "hot");
	REFUSED(2, "--temp: 'nan'", run, "-m", MINI, "-p", "x", "--temp", "nan");
	REFUSED(2, "--top-p: '2'", run, "-m", MINI, "-p", "x", "--top-p", "2");
	REFUSED(2, "'--frobnicate' is no option", run, "--frobnicate");
	REFUSED(2, "'-m' is no option, or lacks", run, "-m");
	REFUSED(2, "there is no --json", program("chat"), "-m", MINI, "--json");
	REFUSED(2, "nothing to measure", program("bench"), "-m", MINI, "-p", "0", "-n", "0");
	REFUSED(2, "--ids and --out", program("logits"), "-m", MINI);
	REFUSED(2, "one of -f and --ids", program("perplexity"), "-m", MINI);
	REFUSED(2, "--batch", program("bench"), "-m", MINI, "-b", "0");
	REFUSED(2, "--batch: '257'", program("bench"), "-m", MINI, "-b", "1,257");
	REFUSED(2, "--batch: more than 16", program("bench"), "-m", MINI, "-b",
		"1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1");
	REFUSED(2, "--context ',': no number", program("bench"), "-m", MINI, "-c", ",");
	REFUSED(2, "--context: '-1'", program("bench"), "-m", MINI, "-c", "0,-1");
	REFUSED(2, "--lookup: '32'", run, "-m", MINI, "-p", "x", "--lookup", "32");
	REFUSED(1, "without --draft", run, "-m", MINI, "-p", "x", "--draft-stages", "cpu:0-5");
	REFUSED(1, "draft model /none.gguf", run, "-m", MINI, "-p", "x", "--draft", "/none.gguf");
	REFUSED(1, "tokenizer", run, "-m", MINI, "-p", "x", "--draft", "tests/data/gemma3-mini-tokenizer");
	REFUSED(2, "nothing guesses", program("bench"), "--guess", "-m", MINI, "--lookup", "0");
	REFUSED(2, "--accept '1,2'", program("bench"), "--guess", "-m", MINI, "--accept", "1,2");
	REFUSED(2, "go together", program("bench"), "--guess", "-m", MINI, "--lookup", "1", "-f", "x");
	REFUSED(1, "trained for 8192", program("bench"), "-m", MINI, "-c", "8192");
	REFUSED(1, "reach position 106 ", program("bench"), "-m", MINI, "-p", "0", "-n", "1", "-c",
		"100", "--ctx", "105");
}

static void test_unknown_option(void **state)
{
	struct result r;

	(void)state;
	RUN(&r, program("run"), "--frobnicate");
	assert_int_equal(r.status, 2);
	assert_non_null(strstr(r.err, "frobnicate"));
	assert_non_null(strstr(r.err, "--help"));
	result_free(&r);
}

static void test_help_and_version(void **state)
{
	static const char *const verbs[] = { "run", "chat", "logits", "tokenize", "detokenize",
					     "perplexity", "evaluate", "inspect", "convert",
					     "synth", "bench", "guess", "worker-cpu" };

	(void)state;
	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
		struct result r;

		RUN(&r, program(verbs[i]), "--help");
		if (r.status != 0 || !strstr(r.out, "xample") || r.err[0])
			fail_msg("%s --help: status %d, %s%s", verbs[i], r.status, r.out, r.err);
		result_free(&r);
		RUN(&r, program(verbs[i]), "--version");
		assert_int_equal(r.status, 0);
		assert_int_equal(strncmp(r.out, "gempipe ", 8), 0);
		result_free(&r);
	}
}

static void test_stages(void **state)
{
	static const struct {
		const char *stages, *says;
	} cases[] = {
		{ "cpu:0-4", "layers 5-5 stand in no stage" },
		{ "cpu:0-2,cpu:4-5", "layer 3 stands in no stage" },
		{ "cpu:0-3,cpu:3-5", "layer 3 stands in two stages" },
		{ "cpu:1-5", "layer 0 stands in no stage" },
		{ "cpu:0-6", "layer 6 does not exist" },
		{ "cpu:5-0", "run backwards" },
		{ "cpu:0-5,", "is not DEVICE:FIRST-LAST" },
		{ "cpu", "is not DEVICE:FIRST-LAST" },
		{ "cpu:a-b", "is not DEVICE:FIRST-LAST" },
		{ "cpu:0-99999999999", "is not DEVICE:FIRST-LAST" },
		{ "tpu:0-5", "device 'tpu' is unknown" },
		{ "cpu[1]:0-5", "only vulkan devices are numbered" },
		{ "cpu:0,cpu:1,cpu:2,cpu:3,cpu:4,cpu:5,cpu:6", "only 6 layers" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		REFUSED(1, cases[i].says, program("run"), "-m", MINI, "-p", "x", "--stages",
			cases[i].stages);
}

static void test_models(void **state)
{
	char path[64], config[128];

	(void)state;
	REFUSED(1, "/nonexistent.gguf", program("run"), "-m", "/nonexistent.gguf", "-p", "x");
	REFUSED(1, "tokenizer", program("run"), "-m", TEXT_MODEL, "-p", "x");
	write_file(path, "empty.gguf", "", 0);
	REFUSED(1, "empty.gguf", program("logits"), "-m", path, "--ids", "2", "--out", "/dev/null");
	unlink(path);
	write_file(path, "bad.gguf", "NOPE, no model at all, and long enough", 38);
	REFUSED(1, "bad.gguf", program("inspect"), path);
	REFUSED(1, "bad.gguf", program("logits"), "-m", path, "--ids", "2", "--out", "/dev/null");
	unlink(path);
	write_file(path, "config.json", "{\"model_type\": \"llama\"}", 23);
	memcpy(config, path, sizeof path);
	REFUSED(1, "llama", program("logits"), "-m", folder, "--ids", "2", "--out", "/dev/null");
	unlink(config);
}

static void test_prompts(void **state)
{
	char path[64];
	char *many = malloc(60000);

	(void)state;
	REFUSED(1, "UTF-8", program("run"), "-m", MINI, "-p", "caf\xe9");
	REFUSED(1, "shorten it", program("run"), "-m", MINI, "--ctx", "8", "-p",
		"In the beginning God created the heaven and the earth, and the earth was void.");
	REFUSED(1, "was trained for 8192", program("run"), "-m", MINI, "--ctx", "9000", "-p", "x");
	REFUSED(1, "/nonexistent.txt", program("run"), "-m", MINI, "-f", "/nonexistent.txt");
	write_file(path, "none.txt", "", 0);
	REFUSED(1, "no prompts", program("run"), "-m", MINI, "--prompts", path);
	unlink(path);
	memset(many, 'x', 60000);
	for (size_t i = 0; i < 60000; i += 2)
		many[i] = (char)('0' + i % 7);
	write_file(path, "long.txt", many, 60000);
	REFUSED(1, "shorten it", program("run"), "-m", MINI, "-f", path);
	unlink(path);
	free(many);
}

static void test_ids(void **state)
{
	char out[64];

	(void)state;
	snprintf(out, sizeof out, "%s/out.npy", folder);
	REFUSED(2, "no token ids", program("logits"), "-m", TEXT_MODEL, "--ids", "", "--out", out);
	REFUSED(2, "'banana'", program("logits"), "-m", TEXT_MODEL, "--ids", "2,banana", "--out", out);
	REFUSED(1, "token id 512", program("logits"), "-m", TEXT_MODEL, "--ids", "2,512", "--out", out);
	REFUSED(2, "'-1'", program("logits"), "-m", TEXT_MODEL, "--ids", "-1", "--out", out);
	REFUSED(1, "/nowhere", program("logits"), "-m", TEXT_MODEL, "--ids", "2", "--out",
		"/nowhere/out.npy");
	REFUSED(1, "no image", program("run"), "-m", "tests/data/gemma3-random-vision-text",
		"--image", "x.png", "-p", "x");
}

static void test_closed_descriptors(void **state)
{
	static const char *const closed[] = { "<&-", ">&-", "2>&-", "<&- 2>&-" };
	char command[8192], out[64];

	(void)state;
	snprintf(out, sizeof out, "%s/out.npy", folder);
	for (size_t i = 0; i < sizeof closed / sizeof closed[0]; i++) {
		struct result r;
		struct stat st;

		snprintf(command, sizeof command, "%s -m " TEXT_MODEL " --ids 2,3,4 --out %s -q %s",
			 program("logits"), out, closed[i]);
		RUN(&r, "/bin/sh", "-c", command);
		if (r.status != 0 || stat(out, &st) != 0 || st.st_size != 128 + 3 * 512 * 4)
			fail_msg("%s: status %d, %s", closed[i], r.status, r.err);
		unlink(out);
		result_free(&r);
	}
}

static void test_stdout_full(void **state)
{
	char command[8192];
	struct result r;

	(void)state;
	snprintf(command, sizeof command, "%s -m " MINI " -f tests/data/gemma3-mini-valid.txt "
		 "--chunks 1 -q > /dev/full", program("perplexity"));
	RUN(&r, "/bin/sh", "-c", command);
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "stdout"));
	result_free(&r);
}

/* Python's header for shape, order and type; then n int32 of zero. */
static void write_npy(char path[64], const char *dict, size_t n)
{
	char data[128 + 4096] = "\x93NUMPY\x01";

	data[8] = 118;
	memset(data + 10, ' ', 118);
	memcpy(data + 10, dict, strlen(dict));
	data[127] = '\n';
	write_file(path, "ids.npy", data, 128 + 4 * n);
}

static void test_npy(void **state)
{
	static const struct {
		const char *dict;
		size_t n;
		const char *says;
	} bad[] = {
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (600,), }", 600, "integers" },
		{ "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (600,), }", 600,
		  "integers" },
		{ "{'descr': '<i4', 'fortran_order': True, 'shape': (2, 300), }", 600, "C order" },
		{ "{'descr': '<i4', 'fortran_order': False, 'shape': (601,), }", 600, "cut short" },
		{ "{'descr': '<i4', 'fortran_order': False, 'shape': (-1,), }", 600, "cut short" },
		{ "{'descr': '<i4', 'fortran_order': False, }", 600, "cut short" },
		{ "{'descr': '<i4', 'fortran_order': False, 'shape': (5,), }", 5, "less than one" },
	};
	char path[64];

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		write_npy(path, bad[i].dict, bad[i].n);
		REFUSED(1, bad[i].says, program("perplexity"), "-m", MINI, "--ids", path);
		unlink(path);
	}
	write_npy(path, "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 300), }", 600);
	struct result r;
	RUN(&r, program("perplexity"), "-m", MINI, "--ids", path, "-q");
	assert_int_equal(r.status, 0);
	result_free(&r);
	unlink(path);
}

static void test_few_files(void **state)
{
	struct result r;
	char command[8192];

	(void)state;
	snprintf(command, sizeof command, "ulimit -n 20; exec %s -m " MINI " -p x", program("run"));
	RUN(&r, "/bin/sh", "-c", command);
	assert_int_equal(r.status, 1);
	assert_non_null(strstr(r.err, "ulimit -n"));
	result_free(&r);
}

static void test_socket_path_too_long(void **state)
{
	char deep[256];
	size_t n = (size_t)snprintf(deep, sizeof deep, "%s", folder);

	(void)state;
	for (int i = 0; i < 4; i++) {
		n += (size_t)snprintf(deep + n, sizeof deep - n, "/%s", "a-folder-with-a-long-name-x");
		assert_int_equal(mkdir(deep, 0700), 0);
	}
	setenv("XDG_RUNTIME_DIR", deep, 1);
	REFUSED(1, "shorter path", program("run"), "-m", MINI, "-p", "x");
	setenv("XDG_RUNTIME_DIR", folder, 1);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(rmdir(deep), 0);
		*strrchr(deep, '/') = '\0';
	}
}

/* Wherever it is that memory ends, in the coordinator, in the worker or for a thread's stack, both
 * end and say so. Which allocation does not fit at which limit depends on the machine. */
static void test_no_memory(void **state)
{
	const char *const argv[] = { program("run"), "-m", MINI, "-p", "x", "--max-rows", "65536",
				     NULL };

	(void)state;
	NOT_UNDER_SANITIZERS(); /* their shadow memory is larger than any such limit */
	for (size_t mib = 120; mib <= 240; mib += 4) {
		struct process p;
		struct result r;

		process_start(&p, argv, mib << 20);
		process_finish(&p, &r, 60);
		if (r.status != 1 || (!strstr(r.err, "no memory") && !strstr(r.err, "Cannot allocate memory") &&
				      !strstr(r.err, "cannot be started")))
			fail_msg("%zu MiB: status %d; it said: %s", mib, r.status, r.err);
		result_free(&r);
	}
}

static void test_disk_full(void **state)
{
	struct result r;

	(void)state;
	RUN(&r, "/bin/sh", "-c",
	    "ulimit -f 8; trap '' XFSZ; exec \"$0\" -m " TEXT_MODEL
	    " --ids 2,3,4,5,6,7,8,9,10,11,12 --out \"$1\" -q", program("logits"), "/tmp/gp-full.npy");
	assert_int_equal(r.status, 1);
	assert_int_not_equal(access("/tmp/gp-full.npy", F_OK), 0);
	assert_int_not_equal(access("/tmp/gp-full.npy.part", F_OK), 0);
	result_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_usage), cmocka_unit_test(test_unknown_option),
		cmocka_unit_test(test_help_and_version), cmocka_unit_test(test_stages),
		cmocka_unit_test(test_models), cmocka_unit_test(test_prompts),
		cmocka_unit_test(test_ids), cmocka_unit_test(test_closed_descriptors),
		cmocka_unit_test(test_stdout_full), cmocka_unit_test(test_npy),
		cmocka_unit_test(test_few_files), cmocka_unit_test(test_socket_path_too_long),
		cmocka_unit_test(test_no_memory), cmocka_unit_test(test_disk_full),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* The programs that read and write files alone: convert, synth, inspect,
 * tokenize, detokenize. What they are given, what they leave behind. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "model/model.h"
#include "tests/common/process.h"
#include "tests/common/tiny_model.h"

#define VISION_MODEL "tests/data/gemma3-random-vision-text"

static char *folder, *out, *part;

static int set_up(void **state)
{
	(void)state;
	/* A shell's background job ignores Ctrl-C, and would hand that on. */
	signal(SIGINT, SIG_DFL);
	signal(SIGHUP, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	folder = tiny_folder();
	out = tiny_path(folder, "out.gguf");
	part = tiny_path(folder, "out.gguf.part");
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	free(out);
	free(part);
	tiny_remove(folder);
	return 0;
}

/* command: for the shell, after "PROGRAM ". */
static void run_shell(struct result *r, const char *before, const char *verb, const char *after)
{
	char command[8192];

	snprintf(command, sizeof command, "%s%s %s", before, program(verb), after);
	RUN(r, "/bin/sh", "-c", command);
}

static void assert_said(const struct result *r, int status, const char *stdout_text,
			const char *stderr_part)
{
	if (r->status != status || strcmp(r->out, stdout_text) != 0 || !strstr(r->err, stderr_part))
		fail_msg("status %d, wanted %d; stdout '%s', wanted '%s'; stderr '%s', wanted '%s'",
			 r->status, status, r->out, stdout_text, r->err, stderr_part);
}

static void assert_nothing_left(void)
{
	assert_int_not_equal(access(out, F_OK), 0);
	assert_int_not_equal(access(part, F_OK), 0);
}

static void test_usage_is_one_line(void **state)
{
	static const char *const verbs[] = { "convert", "synth", "inspect", "tokenize",
					     "detokenize" };
	static const char *const wrong[] = { "--frobnicate", "--tensors=3", "-m" };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(verbs); i++)
		for (size_t k = 0; k < GP_ARRAY_LEN(wrong); k++) {
			char expected[128];
			struct result r;

			snprintf(expected, sizeof expected, "gempipe %s: '%s' is no option, or lacks "
				 "its value; see gempipe %s --help\n", verbs[i], wrong[k], verbs[i]);
			RUN(&r, program(verbs[i]), wrong[k]);
			assert_int_equal(r.status, 2);
			assert_string_equal(r.err, expected);
			assert_string_equal(r.out, "");
			result_free(&r);
		}
}

/* The file grows for a long time; it ends at its first bytes. */
static void test_interrupted_synth(void **state)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	const char *const argv[] = { program("synth"), "--size", "27b", "--type", "q4_0", "-o", out,
				     NULL };

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(signals); i++) {
		struct process p;
		struct result r;
		struct stat st;

		process_start(&p, argv, 0);
		while ((stat(part, &st) != 0 || st.st_size == 0) && kill(p.pid, 0) == 0 &&
		       !process_gone(p.pid, 0))
			sleep_ms(5);
		kill(p.pid, signals[i]);
		process_finish(&p, &r, 60);
		assert_said(&r, 128 + signals[i], "", "");
		assert_nothing_left();
		result_free(&r);
	}
}

/* Of a folder as little is left, of its first shard too. */
static void test_interrupted_folder(void **state)
{
	char *shard = tiny_path(folder, "out.gguf.part/model-00001-of-00011.safetensors");
	const char *const argv[] = { program("synth"), "--size", "27b", "--format", "safetensors",
				     "-o", out, NULL };
	struct process p;
	struct result r;

	(void)state;
	process_start(&p, argv, 0);
	while (access(shard, F_OK) != 0 && !process_gone(p.pid, 0))
		sleep_ms(5);
	kill(p.pid, SIGINT);
	process_finish(&p, &r, 60);
	assert_said(&r, 128 + SIGINT, "", "");
	assert_nothing_left();
	result_free(&r);
	free(shard);
}

/* What synth writes as a Hugging Face folder, the readers take. */
static void test_synth_folder(void **state)
{
	const struct gp_config *c;
	struct gp_tokenizer *t;
	struct gp_model *m;
	struct result r;
	char limited[512];
	float norm;
	char *files[] = { tiny_path(out, "config.json"), tiny_path(out, "tokenizer.json"),
			  tiny_path(out, "tokenizer_config.json"),
			  tiny_path(out, "model.safetensors.index.json"),
			  tiny_path(out, "model-00001-of-00001.safetensors") };

	(void)state;
	snprintf(limited, sizeof limited, "-q --size 270m --format safetensors -o %s", out);
	run_shell(&r, "ulimit -f 1000; trap '' XFSZ; exec ", "synth", limited);
	assert_said(&r, 1, "", "writing failed");
	assert_nothing_left();
	result_free(&r);
	RUN(&r, program("synth"), "-q", "--size", "270m", "--format", "safetensors", "-o", out);
	assert_said(&r, 0, "", "");
	result_free(&r);
	assert_int_equal(gp_model_open(&m, out), 0);
	c = gp_model_config(m);
	assert_int_equal(c->n_layers, 18);
	assert_true(c->is_global[5] && !c->is_global[6] && c->attn_scale == 0.0625f);
	assert_int_equal(gp_model_tensor(m, GP_T_FFN_DOWN, 17)->type, GP_TYPE_BF16);
	gp_dequantize(GP_TYPE_BF16, gp_model_tensor(m, GP_T_ATTN_NORM, 3)->data, &norm, 1);
	assert_true(fabsf(norm) <= 0.1f);
	gp_model_close(m);
	assert_int_equal(gp_tokenizer_open(&t, out), 0);
	assert_string_equal(gp_tokenizer_vocab(t)->text[105], "<start_of_turn>");
	assert_int_equal(gp_tokenizer_vocab(t)->bos, 2);
	gp_tokenizer_close(t);
	RUN(&r, program("synth"), "-q", "--size", "270m", "--format", "safetensors", "-o", out);
	assert_said(&r, 1, "", "is there already");
	result_free(&r);
	for (size_t i = 0; i < GP_ARRAY_LEN(files); i++) {
		assert_int_equal(unlink(files[i]), 0);
		free(files[i]);
	}
	assert_int_equal(rmdir(out), 0);
}

/* A limit on files ends a program by a signal; ignored, a write fails. */
static void test_limited_convert(void **state)
{
	char after[512];
	struct result r;

	(void)state;
	snprintf(after, sizeof after, "-q " MINI " -o %s", out);
	run_shell(&r, "ulimit -f 64; exec ", "convert", after);
	assert_said(&r, 128 + SIGXFSZ, "", "");
	assert_nothing_left();
	result_free(&r);
	run_shell(&r, "ulimit -f 64; trap '' XFSZ; exec ", "convert", after);
	assert_said(&r, 1, "", "writing failed");
	assert_nothing_left();
	result_free(&r);
}

/* The folder has no tokenizer: a line on stderr while the file is open. */
static void test_closed_descriptors(void **state)
{
	static const char *const closed[] = { "<&-", ">&-", "2>&-", "<&- >&- 2>&-" };
	char after[512];
	struct result r;
	size_t bytes, n;
	uint8_t *whole, *file;

	(void)state;
	snprintf(after, sizeof after, "-q " VISION_MODEL " -o %s", out);
	run_shell(&r, "exec ", "convert", after);
	assert_said(&r, 0, "", "has no tokenizer");
	result_free(&r);
	whole = tiny_load(out, &bytes);
	for (size_t i = 0; i < GP_ARRAY_LEN(closed); i++) {
		assert_int_equal(unlink(out), 0);
		snprintf(after, sizeof after, "-q " VISION_MODEL " -o %s %s", out, closed[i]);
		run_shell(&r, "exec ", "convert", after);
		assert_said(&r, 0, "", "");
		result_free(&r);
		file = tiny_load(out, &n);
		assert_int_equal(n, bytes);
		assert_memory_equal(file, whole, bytes);
		free(file);
	}
	assert_int_equal(unlink(out), 0);
	free(whole);
}

static void test_closed_readers(void **state)
{
	struct result r;

	(void)state;
	run_shell(&r, "exec ", "tokenize", "-m " MINI " <&-");
	assert_said(&r, 0, "2\n", "");
	result_free(&r);
	run_shell(&r, "exec ", "tokenize", "-m " MINI " >&- 2>&-");
	assert_said(&r, 0, "", "");
	result_free(&r);
	run_shell(&r, "exec ", "detokenize", "-m " MINI " <&- 2>&-");
	assert_said(&r, 0, "", "");
	result_free(&r);
	run_shell(&r, "exec ", "inspect", "--json " MINI " <&- 2>&-");
	assert_int_equal(r.status, 0);
	assert_int_equal(r.out[0], '{');
	result_free(&r);
}

/* Nothing of the published text-only models is lost; here a tower is. */
static void test_convert_without_vision(void **state)
{
	static const char tensor[] = "v.patch_embd.weight";
	const struct gp_config c = tiny_config();
	const float row[8] = { 0 };
	char *source = tiny_path(folder, "vision.gguf");
	struct gp_gguf_writer *w;
	struct result r;

	(void)state;
	assert_int_equal(gp_gguf_writer_create(&w, source), 0);
	assert_int_equal(gp_gguf_add_config(w, &c, "seeing"), 0);
	tiny_add_tensors(w, &c, 0, c.n_layers);
	assert_int_equal(gp_gguf_add_tensor(w, tensor, GP_TYPE_F32, 0, 8), 0);
	tiny_write_tensors(w, &c, 0, c.n_layers);
	assert_int_equal(gp_gguf_write(w, row, sizeof row), 0);
	assert_int_equal(gp_gguf_writer_finish(w), 0);
	gp_gguf_writer_destroy(w);
	RUN(&r, program("convert"), "-q", source, "-o", out);
	assert_said(&r, 0, "", "has a vision tower, which is left out\n");
	result_free(&r);
	/* This one names no <bos> either. */
	RUN(&r, program("inspect"), out);
	assert_int_equal(r.status, 0);
	assert_non_null(strstr(r.out, "gempipe can: logits, bench, convert, quantize\n"));
	result_free(&r);
	unlink(out);
	unlink(source);
	free(source);
	RUN(&r, program("inspect"), "tests/data/gemma3-random-text");
	assert_non_null(strstr(r.out, "gempipe can: perplexity, evaluate, calibrate, logits, bench, convert, quantize\n"));
	result_free(&r);
}

static void test_fifo_is_no_model(void **state)
{
	char *fifo = tiny_path(folder, "config.json");
	struct result r;

	(void)state;
	assert_int_equal(mkfifo(fifo, 0600), 0);
	RUN(&r, program("inspect"), folder);
	assert_said(&r, 1, "", "config.json: is no regular file");
	result_free(&r);
	RUN(&r, program("inspect"), fifo);
	assert_said(&r, 1, "", "is no regular file");
	result_free(&r);
	RUN(&r, program("tokenize"), "-m", fifo);
	assert_said(&r, 1, "", "is no regular file");
	result_free(&r);
	unlink(fifo);
	free(fifo);
}

static void detokenize(const char *input, int status, const char *says)
{
	char before[256];
	struct result r;

	snprintf(before, sizeof before, "printf '%s' | ", input);
	run_shell(&r, before, "detokenize", "-m " MINI);
	assert_said(&r, status, status ? "" : says, status ? says : "");
	result_free(&r);
}

static void test_ids(void **state)
{
	struct result r;

	(void)state;
	run_shell(&r, "printf 'And the light' | ", "tokenize", "-m " MINI " --no-bos");
	assert_int_equal(r.status, 0);
	r.out[strcspn(r.out, "\n")] = '\0';
	detokenize(r.out, 0, "And the light");
	for (char *p = r.out; (p = strchr(p, ' ')); )
		*p = ',';
	detokenize(r.out, 0, "And the light");
	result_free(&r);
	detokenize("[2, 3]", 0, "<bos><unk>");
	detokenize("", 0, "");
	detokenize("\\n", 0, "");
	detokenize("2 banana", 1, "stdin: 'banana' is no number");
	detokenize("2 3\\0 4", 1, "stdin: holds more than numbers");
	detokenize("@/dev/null", 1, "stdin: holds more than numbers");
}

static void test_lines(void **state)
{
	struct result r;

	(void)state;
	run_shell(&r, "printf '{\"ids\": [2]}\\n\\n{\"ids\": [2], \"skip_special\": true}\\n' | ",
		  "detokenize", "-m " MINI " --jsonl");
	assert_said(&r, 0, "{\"text\": \"<bos>\"}\n{\"text\": \"\"}\n", "");
	result_free(&r);
	run_shell(&r, "printf '{\"text\": \"\"}\\n{\"text\": \"\", \"add_special\": false}\\n' | ",
		  "tokenize", "-m " MINI " --jsonl");
	assert_said(&r, 0, "{\"ids\": [2]}\n{\"ids\": []}\n", "");
	result_free(&r);
	run_shell(&r, "printf '{\"text\": \"\"}\\n\\n{\\n' | ", "tokenize", "-m " MINI " --jsonl");
	assert_said(&r, 1, "{\"ids\": [2]}\n", "stdin, line 3: not JSON");
	result_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_usage_is_one_line), cmocka_unit_test(test_interrupted_synth),
		cmocka_unit_test(test_interrupted_folder), cmocka_unit_test(test_synth_folder),
		cmocka_unit_test(test_limited_convert), cmocka_unit_test(test_closed_descriptors),
		cmocka_unit_test(test_closed_readers), cmocka_unit_test(test_convert_without_vision),
		cmocka_unit_test(test_fifo_is_no_model), cmocka_unit_test(test_ids),
		cmocka_unit_test(test_lines),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* gempipe calibrate and quantize: what they write, and what is left when they are stopped. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "model/model.h"
#include "tests/common/process.h"
#include "tests/common/sanitizers.h"
#include "tests/common/tiny_model.h"

#define RANDOM "tests/data/gemma3-random-text"

static char *folder, *out, *part, *done, *again, *calibration;

static int set_up(void **state)
{
	(void)state;
	signal(SIGINT, SIG_DFL);
	folder = tiny_folder();
	out = tiny_path(folder, "out.gguf");
	part = tiny_path(folder, "out.gguf.part");
	done = tiny_path(folder, "out.gguf.part.done");
	again = tiny_path(folder, "again.gguf");
	calibration = tiny_path(folder, "mini.calibration");
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	free(out);
	free(part);
	free(done);
	free(again);
	free(calibration);
	tiny_remove(folder);
	return 0;
}

static void must(struct result *r, int status, const char *said)
{
	if (r->status != status || !strstr(r->err, said))
		fail_msg("status %d, wanted %d; stderr '%s', wanted '%s'", r->status, status, r->err, said);
}

static void assert_same_file(const char *a, const char *b)
{
	size_t na, nb;
	uint8_t *x = tiny_load(a, &na), *y = tiny_load(b, &nb);

	assert_int_equal(na, nb);
	assert_memory_equal(x, y, na);
	free(x);
	free(y);
}

static double perplexity(const char *path)
{
	struct result r;
	double v;

	RUN(&r, program("perplexity"), "-q", "-m", path, "-f", "models/gemma3-mini/README.md", "--ctx",
	    "256", "--kv-type", "f32");
	must(&r, 0, "");
	assert_int_equal(sscanf(r.out, "perplexity %lf", &v), 1);
	result_free(&r);
	return v;
}

/* A budget is kept by the file as a whole, and the types differ. */
static void a_budget_is_kept(void **state)
{
	struct gp_model *m;
	struct result r;
	struct stat st;
	bool differ = false;

	(void)state;
	NOT_UNDER_TSAN();
	RUN(&r, program("calibrate"), "-q", "-m", MINI, "-f", "models/gemma3-mini/TRAINING-DATA.md",
	    "-o", calibration, "--probe-chunks", "1", "--ctx", "96", "--json");
	must(&r, 0, "");
	assert_non_null(strstr(r.out, "\"blk.5.ffn_down.weight\": {\"Q3_K\": "));
	result_free(&r);
	RUN(&r, program("quantize"), "-q", MINI, "-o", out, "--target-size", "8.2M", "--calibration",
	    calibration);
	must(&r, 0, "");
	result_free(&r);
	assert_int_equal(stat(out, &st), 0);
	assert_true(st.st_size <= 8200000 && st.st_size > 8000000);
	assert_int_equal(gp_model_open(&m, out), 0);
	for (uint32_t l = 1; l < 6; l++)
		differ |= gp_model_tensor(m, GP_T_FFN_DOWN, l)->type != gp_model_tensor(m, GP_T_ATTN_K, 0)->type;
	assert_true(differ);
	gp_model_close(m);
	assert_true(perplexity(out) < 1.2 * perplexity(MINI));
}

/* Each way gives a model that is still one. Which is better by how much, docs/quality.md shows:
 * a text of this size does not. */
static void every_method_works(void **state)
{
	static const char *const method[][3] = {
		{ "--nearest" }, { "--text", "models/gemma3-mini/TRAINING-DATA.md", "--ctx=256" },
	};
	const double was = perplexity(MINI);

	(void)state;
	NOT_UNDER_TSAN();
	for (size_t i = 0; i < GP_ARRAY_LEN(method); i++) {
		struct result r;

		RUN(&r, program("quantize"), MINI, "-o", out, "--type", "q3_k", method[i][0], method[i][1],
		    method[i][2]);
		must(&r, 0, "");
		result_free(&r);
		assert_true(perplexity(out) < 1.25 * was);
		unlink(out);
	}
}

/* Two files: a text's first bytes, and the rest behind them. */
static void cut_text(const char *text, size_t at, const char *first, const char *rest)
{
	size_t n;
	uint8_t *data = tiny_load(text, &n);

	assert_true(n > at);
	tiny_store(first, data, at);
	tiny_store(rest, data + at, n - at);
	free(data);
}

/* The goal of docs/quality.md on 11 held-out chunks. Of so few ids the retention's standard error
 * is 0.0055, so what tells is KL divergence: 0.0696 here; without following 6% more, without
 * coordinate descent as much again, without error compensation over 20%. */
static void four_bits_keep_the_goal(void **state)
{
	struct result r;
	const char *figure;
	char *held, *text;
	double kl;

	(void)state;
	NOT_UNDER_SANITIZERS();
	held = tiny_path(folder, "held-out.txt");
	text = tiny_path(folder, "text.txt");
	cut_text("tests/data/gemma3-mini-valid.txt", 22000, held, text);
	RUN(&r, program("quantize"), "-q", MINI, "-o", out, "--bits", "4.0", "--text", text, "--chunks",
	    "12");
	must(&r, 0, "");
	result_free(&r);
	RUN(&r, program("evaluate"), "-q", out, "--reference", MINI, "--text", held, "--min-retention",
	    "0.955");
	must(&r, 0, "");
	assert_non_null(figure = strstr(r.out, "KL divergence"));
	assert_int_equal(sscanf(figure, "KL divergence %lf", &kl), 1);
	print_message("KL divergence %g\n", kl);
	assert_true(kl < 0.0725);
	result_free(&r);
	unlink(out);
	free(held);
	free(text);
}

static void end_it_in_the_middle(const char *const *argv, int signal_number, const char *said)
{
	struct process p;
	struct result r;
	struct stat st;

	process_start(&p, argv, 0);
	while ((stat(done, &st) != 0 || st.st_size == 0) && !process_gone(p.pid, 0))
		sleep_ms(1);
	kill(p.pid, signal_number);
	process_finish(&p, &r, 60);
	must(&r, 128 + signal_number, said);
	result_free(&r);
}

/* Killed, it leaves nothing that looks whole; run again, it goes on, to the same file. */
static void a_killed_run_goes_on(void **state)
{
	const char *const argv[] = { program("quantize"), MINI, "-o", out, "--type", "q8_0", NULL };
	struct result r;

	(void)state;
	NOT_UNDER_TSAN();
	RUN(&r, program("quantize"), "-q", MINI, "-o", again, "--type", "q8_0");
	must(&r, 0, "");
	result_free(&r);
	end_it_in_the_middle(argv, SIGKILL, "");
	assert_int_not_equal(access(out, F_OK), 0);
	assert_int_equal(access(part, F_OK), 0);
	unlink(done);
	end_it_in_the_middle(argv, SIGINT, "interrupted; the same command goes on");
	assert_int_not_equal(access(out, F_OK), 0);
	run_program(&r, argv);
	must(&r, 0, "of an earlier run");
	result_free(&r);
	assert_same_file(out, again);
	assert_int_not_equal(access(part, F_OK), 0);
	assert_int_not_equal(access(done, F_OK), 0);

	/* Of another recipe nothing is taken over. */
	unlink(out);
	end_it_in_the_middle(argv, SIGKILL, "");
	RUN(&r, program("quantize"), MINI, "-o", out, "--type", "q8_0", "--nearest");
	must(&r, 0, "");
	assert_null(strstr(r.err, "earlier run"));
	result_free(&r);
}

static void write_ids(const char *path, uint32_t n)
{
	FILE *f = fopen(path, "wb");
	char shape[80];

	assert_non_null(f);
	snprintf(shape, sizeof shape, "{'descr': '<i4', 'fortran_order': False, 'shape': (%u,), }", n);
	fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, f);
	fprintf(f, "%-117s\n", shape);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(fwrite(&(uint32_t){ 5 + i * 91 % 500 }, 4, 1, f), 1);
	assert_int_equal(fclose(f), 0);
}

/* What the layers before give is read back from the part: with a text too it goes on to the same
 * file, wherever it ended. */
static void with_a_text_it_goes_on_too(void **state)
{
	char *text, command[4096];
	struct result r;

	(void)state;
	NOT_UNDER_TSAN();
	text = tiny_path(folder, "ids.npy");
	write_ids(text, 4 * 128);
#define WITH_TEXT RANDOM, "--type", "q4_0", "--ids", text, "--ctx", "128", "--threads", "2"
	RUN(&r, program("quantize"), "-q", "-o", again, WITH_TEXT);
	must(&r, 0, "");
	result_free(&r);
	for (unsigned kb = 550; kb <= 950; kb += 400) {
		snprintf(command, sizeof command, "ulimit -f %u; exec %s -q -o %s " RANDOM " --type q4_0 "
		         "--ids %s --ctx 128 --threads 2", kb, program("quantize"), out, text);
		RUN(&r, "/bin/bash", "-c", command);
		must(&r, 1, "File too large");
		result_free(&r);
		RUN(&r, program("quantize"), "-o", out, WITH_TEXT);
		must(&r, 0, "of an earlier run");
		result_free(&r);
		assert_same_file(out, again);
		unlink(out);
	}
	free(text);
}

/* A limit of 10 MB a file is to a program what a full disk is. With room, it goes on. */
static void a_full_disk_is_told(void **state)
{
	char command[4096];
	struct result r;

	(void)state;
	NOT_UNDER_TSAN();
	snprintf(command, sizeof command, "ulimit -f 10240; trap '' XFSZ; exec %s -q %s -o %s --type q8_0 "
	         "--nearest", program("quantize"), MINI, out);
	RUN(&r, "/bin/bash", "-c", command);
	must(&r, 1, "File too large");
	must(&r, 1, "run the same again to go on");
	result_free(&r);
	assert_int_not_equal(access(out, F_OK), 0);
	RUN(&r, program("quantize"), MINI, "-o", out, "--type", "q8_0", "--nearest");
	must(&r, 0, "of an earlier run");
	result_free(&r);
	RUN(&r, program("quantize"), "-q", MINI, "-o", again, "--type", "q8_0", "--nearest");
	must(&r, 0, "");
	result_free(&r);
	assert_same_file(out, again);
	RUN(&r, program("quantize"), "-q", MINI, "-o", "/dev/full/x.gguf", "--type", "q8_0");
	must(&r, 1, "/dev/full/x.gguf");
	result_free(&r);
}

static void wrong_words_are_named(void **state)
{
	static const char *const wrong[][6] = {
		{ "--type", "q9", "'q9'" },
		{ "--bits", "0.5", "'0.5'" },
		{ "--target-size", "13 apples", "13 apples" },
		{ "--type=q4_0", "--bits=4", "one of --type, --bits and --target-size" },
		{ "--type=q4_0", "--nearest", "leave one out", "--text=x" },
		{ "--bits=4", "--embedding=q8_0", "--embedding goes with --type" },
		{ "--bits=4", "--tensor-type=*", "must be PATTERN=TYPE" },
		{ "--bits=4", "--tensor-type=*=q9", "must be PATTERN=TYPE" },
		{ "--plan", "--tensor-type=*=q8_0", "leave out --plan" },
	};

	(void)state;
	for (size_t i = 0; i < GP_ARRAY_LEN(wrong); i++) {
		struct result r;

		RUN(&r, program("quantize"), MINI, "-o", out, wrong[i][0], wrong[i][1], wrong[i][3]);
		must(&r, 2, wrong[i][2]);
		result_free(&r);
	}
	struct result r;

	RUN(&r, program("quantize"), "-q", MINI, "-o", out, "--bits", "3");
	must(&r, 1, "more than the budget");
	result_free(&r);
	RUN(&r, program("quantize"), "-q", MINI, "-o", out, "--bits=5", "--tensor-type=*=q8_0");
	must(&r, 1, "with --tensor-type: the smallest types take");
	result_free(&r);
	RUN(&r, program("quantize"), "-q", MINI, "-o", out, "--bits=5", "--tensor-type=ffn=q8_0");
	must(&r, 1, "'ffn': matches no matrix");
	result_free(&r);
	RUN(&r, program("quantize"), "-q", MINI, "-o", out, "--bits", "4", "--calibration", MINI);
	must(&r, 1, "make it with gempipe calibrate");
	result_free(&r);
	assert_int_not_equal(access(out, F_OK), 0);
}

/* In a budget too, which then is the others'; the last pattern that matches counts. */
static void given_types_are_kept(void **state)
{
	struct gp_model *m;
	struct result r;
	struct stat st;
	const char *value = "*.attn_v.weight=q8_0, blk.1.*=q6_k";
	size_t n;
	uint8_t *data;

	(void)state;
	RUN(&r, program("quantize"), "-q", MINI, "-o", out, "--target-size", "9M", "--nearest",
	    "--tensor-type", "*.attn_v.weight=q8_0", "--tensor-type", "blk.1.*=q6_k");
	must(&r, 0, "");
	result_free(&r);
	assert_int_equal(stat(out, &st), 0);
	assert_true(st.st_size <= 9000000);
	assert_int_equal(gp_model_open(&m, out), 0);
	assert_int_equal(gp_model_tensor(m, GP_T_ATTN_V, 0)->type, GP_TYPE_Q8_0);
	assert_int_equal(gp_model_tensor(m, GP_T_ATTN_V, 1)->type, GP_TYPE_Q6_K);
	assert_int_equal(gp_model_tensor(m, GP_T_FFN_UP, 1)->type, GP_TYPE_Q6_K);
	assert_int_equal(gp_model_tensor(m, GP_T_ATTN_NORM, 1)->type, GP_TYPE_F32);
	assert_int_equal(gp_model_tensor(m, GP_T_ATTN_V, 2)->type, GP_TYPE_Q8_0);
	assert_int_not_equal(gp_model_tensor(m, GP_T_FFN_UP, 0)->type, GP_TYPE_Q6_K);
	gp_model_close(m);
	data = tiny_load(out, &n);
	assert_non_null(memmem(data, n, value, strlen(value)));
	free(data);
	unlink(out);
}

static void the_plan_reads_headers_alone(void **state)
{
	struct result r;

	(void)state;
	RUN(&r, program("quantize"), MINI, "--plan");
	must(&r, 0, "");
	assert_non_null(strstr(r.out, "\n--bits 4 "));
	assert_non_null(strstr(r.out, "\nQ4_K "));
	result_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_budget_is_kept, set_up, tear_down),
		cmocka_unit_test_setup_teardown(every_method_works, set_up, tear_down),
		cmocka_unit_test_setup_teardown(four_bits_keep_the_goal, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_killed_run_goes_on, set_up, tear_down),
		cmocka_unit_test_setup_teardown(with_a_text_it_goes_on_too, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_full_disk_is_told, set_up, tear_down),
		cmocka_unit_test_setup_teardown(wrong_words_are_named, set_up, tear_down),
		cmocka_unit_test_setup_teardown(given_types_are_kept, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_plan_reads_headers_alone, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

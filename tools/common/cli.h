/* tools/common: what the programs share: options, the engine with a progress
 * bar, messages, statistics, .npy files. A program's exit status is 0, 1 for a
 * failure and 2 for wrong usage. */
#ifndef GP_CLI_H
#define GP_CLI_H

#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/base.h"
#include "coordinator/coordinator.h"

/* Options that every program which runs the pipeline understands. */
struct cli {
	const char *verb;       /* "run" */
	const char *model, *trace;
	struct gp_plan_request plan;
	bool json, verbose, quiet;
	uint32_t max_queue;     /* as in gp_engine_options */
	float max_step_ms;
	uint32_t lookup;        /* as in gp_engine_options, as are these */
	const char *draft, *draft_stages;
	struct gp_engine *engine;
};
enum { CLI_STAGES = 256, CLI_THREADS, CLI_TRACE, CLI_JSON, CLI_CTX, CLI_KV_TYPE, CLI_ROWS,
       CLI_CPU_MASK, CLI_DEVICE_MEMORY, CLI_NPU, CLI_NPU_LAYERS, CLI_CHECK_NUMERICS, CLI_VERSION, CLI_LOOKUP,
       CLI_DRAFT, CLI_DRAFT_STAGES, CLI_FIRST_OWN };
#define CLI_ENGINE_OPTIONS                                                                \
	{ "model", required_argument, NULL, 'm' }, { "stages", required_argument, NULL, CLI_STAGES }, \
	{ "threads", required_argument, NULL, CLI_THREADS },                               \
	{ "trace", required_argument, NULL, CLI_TRACE }, { "json", no_argument, NULL, CLI_JSON }, \
	{ "ctx", required_argument, NULL, CLI_CTX },                                       \
	{ "kv-type", required_argument, NULL, CLI_KV_TYPE },                               \
	{ "max-rows", required_argument, NULL, CLI_ROWS },                                 \
	{ "cpu-mask", required_argument, NULL, CLI_CPU_MASK },                             \
	{ "device-memory", required_argument, NULL, CLI_DEVICE_MEMORY },                   \
	{ "npu", required_argument, NULL, CLI_NPU },                                       \
	{ "npu-layers", required_argument, NULL, CLI_NPU_LAYERS },                         \
	{ "check-numerics", no_argument, NULL, CLI_CHECK_NUMERICS },                       \
	{ "verbose", no_argument, NULL, 'v' }, { "quiet", no_argument, NULL, 'q' },        \
	{ "help", no_argument, NULL, 'h' }, { "version", no_argument, NULL, CLI_VERSION }
#define CLI_ENGINE_LETTERS "m:vqh"
#define CLI_ENGINE_HELP                                                                   \
	"  -m, --model PATH       a .gguf file or a Hugging Face folder\n"                  \
	"      --stages LIST      DEVICE:FIRST-LAST,... or auto (default): cpu:0-2,vulkan:3-5\n" \
	"      --threads N        threads of each CPU worker (default: the cores, shared out)\n" \
	"      --kv-type TYPE     f32, f16 or q8_0 (default: f32 for F32/BF16 weights, else f16)\n" \
	"      --max-rows N       token rows a step may carry (default 512)\n"               \
	"      --cpu-mask SET     at most scalar, avx2, avx512, avx512vnni or avx512bf16 (also: GP_CPU)\n" \
	"      --device-memory LIST  at most so much on a device: vulkan=16G,npu=2G\n" \
	"      --npu-layers N     with --stages auto: the last N layers on the NPU (6 is a good choice)\n" \
	"      --npu sim          npu stages run on a simulated NPU, which is slow\n"        \
	"      --check-numerics   search every operation's output for NaN and infinity (slow)\n" \
	"      --trace FILE       write spans of all processes, for Perfetto's viewer\n"     \
	"  -q, --quiet            no statistics;  -v, --verbose: more on stderr\n"            \
	"  -h, --help             this text;  --version: the version\n"

/* Of programs that generate text. */
#define CLI_GUESS_OPTIONS                                                                 \
	{ "lookup", required_argument, NULL, CLI_LOOKUP },                                 \
	{ "draft", required_argument, NULL, CLI_DRAFT },                                   \
	{ "draft-stages", required_argument, NULL, CLI_DRAFT_STAGES }
#define CLI_GUESS_HELP                                                                    \
	"      --lookup N         tokens a step that are guessed at most from what the text holds\n" \
	"                         already; the text stays the same (0: none; default: 15, none\n"  \
	"                         where a stage is not on the CPU)\n"                            \
	CLI_DRAFT_HELP
#define CLI_DRAFT_HELP                                                                    \
	"      --draft FILE       a smaller model of the same vocabulary guesses tokens. The text\n" \
	"                         stays the same\n"                                          \
	"      --draft-stages LIST  its stages, as --stages\n"

#define CLI_JSON_HELP "      --json             results as JSON\n"
#define CLI_CTX_HELP "      --ctx N            positions a sequence may have (default: up to 8192)\n"

/* Begins a program: log, verb. */
void cli_init(struct cli *c, const char *verb);
/* One of the shared options: 0 taken, -EINVAL (message), 1: not a shared one.
 * --help and --version are answered and end the program. */
int cli_option(struct cli *c, int option, const char *help);
/* Prints "gempipe VERB: message" and returns the exit status. */
int cli_failed(const struct cli *c);            /* gp_error(), 1 */
int cli_misused(const struct cli *c, const char *fmt, ...) GP_PRINTF(2, 3); /* 2 */
/* For getopt's '?': names the word. 2. */
int cli_bad_option(const struct cli *c, char **argv);

/* Loads the model into workers; progress bar when stderr is a terminal; Ctrl-C
 * interrupts the engine (a second one ends the program). */
int cli_open_engine(struct cli *c);
/* Returns the exit status: status, or 1 (printed) when the trace was not written. */
int cli_close_engine(struct cli *c, int status);
/* What was printed must have arrived: -errno when stdout took it not. */
int cli_flush_stdout(void);
/* The signal that interrupted, SIGINT for Ctrl-C; 0: none since it was forgotten. */
int cli_interrupt(void);
/* It was answered; the next one is the first again. */
void cli_forget_interrupt(void);
/* Signals end a read from the terminal with EINTR and leave the engine alone, or interrupt
 * the engine and leave reads waiting. */
void cli_interrupt_reads(bool yes);
/* It takes so many more signals than one to end the program while the engine stops. */
void cli_be_patient(int more);
/* Stage table and speeds, for people. */
void cli_print_stats(const struct cli *c, FILE *to);
/* Whole file, or stdin for "-"; malloc'ed, NUL-terminated. */
int cli_read_file(const char *path, char **text, size_t *bytes);
/* "2,5,17" or "@FILE" (numbers apart by blanks or commas). malloc'ed. */
int cli_parse_ids(const char *text, uint32_t **ids, size_t *n);
int cli_sampling_option(struct gp_sampling *s, const char *name, const char *value);

/* ---- .npy, version 1.0 (NumPy's format specification) ------------------------ */
struct npy_writer;
/* float32, C order, rows x cols; to PATH.part, renamed by finish. */
int npy_create(struct npy_writer **w, const char *path, size_t rows, size_t cols);
int npy_write_row(struct npy_writer *w, const float *row);
int npy_finish(struct npy_writer *w);  /* frees; -EIO when rows are missing or unwritten */
void npy_abandon(struct npy_writer *w); /* frees and removes; NULL is fine */
/* int32, int64 or uint32, any shape, flattened; malloc'ed. */
int npy_read_ids(const char *path, uint32_t **ids, size_t *n);

#endif

/* gempipe calibrate: what quantising each matrix of a model would cost. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/common/calibration_text.h"
#include "tools/common/cli.h"
#include "tools/common/on_signal.h"

static const char help[] =
	"Usage: gempipe calibrate -m MODEL -f TEXT | --ids F.npy -o OUT [options]\n"
	"Runs a text through the model, layer by layer, and measures for gempipe quantize how large\n"
	"the inputs of each matrix are, and what the matrix costs in fewer bits. OUT is an importance\n"
	"matrix that llama.cpp's quantiser reads, too. Memory: a layer, and the activations of the\n"
	"text's tokens.\n\n"
	"  -m, --model PATH       a .gguf file or a Hugging Face folder, best in BF16 or F32\n"
	"  -f, --file TEXT        a UTF-8 text (- : stdin) like those the model is for; 50,000 tokens\n"
	"                         are enough\n"
	"      --ids F.npy        token ids instead of a text\n"
	"  -o, --output FILE      the file to write; it appears only once it is whole\n"
	"      --ctx N            tokens of a chunk (default 512)\n"
	"      --chunks N         only the first N chunks (default: all)\n"
	"      --probe-chunks N   chunks for the costs (default 8)\n"
	"      --threads N        (default: one a core)\n"
	"      --json             the costs as JSON\n"
	"  -q, --quiet            no progress;  -h, --help: this text;  --version: the version\n"
	"\nExample:\n"
	"  gempipe calibrate -m gemma-3-27b-it -f calibration.txt -o 27b.calibration\n";

enum { OPT_IDS = CLI_FIRST_OWN, OPT_CHUNKS, OPT_PROBES };

static const struct option options[] = {
	{ "model", required_argument, NULL, 'm' }, { "file", required_argument, NULL, 'f' },
	{ "ids", required_argument, NULL, OPT_IDS }, { "output", required_argument, NULL, 'o' },
	{ "ctx", required_argument, NULL, CLI_CTX }, { "chunks", required_argument, NULL, OPT_CHUNKS },
	{ "probe-chunks", required_argument, NULL, OPT_PROBES },
	{ "threads", required_argument, NULL, CLI_THREADS }, { "json", no_argument, NULL, CLI_JSON },
	{ "quiet", no_argument, NULL, 'q' }, { "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, CLI_VERSION }, { 0 },
};

struct calibrate {
	struct cli cli;
	const char *out;
	uint64_t probe_chunks;
	struct calibration_text text;
	struct gp_model *model;
	struct gp_calibration found;
	struct gp_gguf_writer *writer;
	uint64_t begun_ns;
};

static int own_option(struct calibrate *c, int o)
{
	switch (o) {
	case 'f': c->text.text.file = optarg; return 0;
	case 'o': c->out = optarg; return 0;
	case OPT_IDS: c->text.text.ids_file = optarg; return 0;
	case CLI_CTX: return gp_parse_u64("--ctx", optarg, 2, 1u << 24, &c->text.text.ctx);
	case OPT_CHUNKS: return gp_parse_u64("--chunks", optarg, 1, 1u << 24, &c->text.text.most_chunks);
	default: return gp_parse_u64("--probe-chunks", optarg, 1, 1u << 24, &c->probe_chunks);
	}
}

static int parse(struct calibrate *c, int argc, char **argv)
{
	int o, rc;

	while ((o = getopt_long(argc, argv, "m:f:o:qh", options, NULL)) != -1) {
		if (o == '?')
			return cli_bad_option(&c->cli, argv);
		rc = o == CLI_CTX ? 1 : cli_option(&c->cli, o, help);
		if (rc == 1)
			rc = own_option(c, o);
		if (rc < 0)
			return cli_misused(&c->cli, "%s", gp_error());
	}
	if (optind < argc)
		return cli_misused(&c->cli, "'%s' is no option", argv[optind]);
	if (!c->cli.model || !c->out || (c->text.text.file != NULL) + (c->text.text.ids_file != NULL) != 1)
		return cli_misused(&c->cli, "-m, -o and one of -f and --ids are needed");
	return 0;
}

static void on_progress(void *user, uint32_t done, uint32_t total)
{
	const struct calibrate *c = user;
	const double seconds = (double)(gp_now_ns() - c->begun_ns) / 1e9;
	const double left = seconds * (double)(total - done) / (double)done;
	char time[32];

	if (c->cli.quiet)
		return;
	gp_duration_text(time, left);
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[Kgempipe calibrate: %u of %u, %s left", done, total, time);
	else
		fprintf(stderr, "gempipe calibrate: %u of %u, %s left\n", done, total, time);
}

/* A line a matrix: name, and what it costs as each type. */
static void print_costs(const struct calibrate *c)
{
	printf("{\"chunks\": %zu, \"chunk\": %u, \"costs\": {", c->found.chunks, c->found.chunk);
	for (size_t i = 0; i < c->found.n; i++) {
		const struct gp_matrix_cost *x = &c->found.matrix[i];
		char name[64];
		int n = 0;

		gp_gguf_tensor_name(name, x->id, x->layer);
		printf("%s\n\"%s\": {", i ? "," : "", name);
		for (size_t k = 0; k < GP_COST_TYPES; k++)
			if (x->cost[k] == x->cost[k]) /* no NaN */
				printf("%s\"%s\": %.6g", n++ ? ", " : "",
				       gp_type_info(gp_cost_types[k])->name, x->cost[k]);
		printf("}");
	}
	printf("}}\n");
}

static int calibrate(struct calibrate *c)
{
	struct gp_calibrate_options o = { .probe_chunks = (size_t)c->probe_chunks,
	                                  .progress = on_progress, .user = c };
	const char *text = c->text.text.file ? c->text.text.file : c->text.text.ids_file;
	const char *slash = strrchr(text, '/');
	int rc = gp_model_open(&c->model, c->cli.model);

	c->text.threads = c->cli.plan.threads;
	o.threads = calibration_threads(c->text.threads);
	/* Before the long work: a name that can't be written shows now. */
	if (rc < 0 || (rc = gp_gguf_writer_create(&c->writer, c->out)) < 0)
		return rc;
	cli_unlink_part_on_signal(c->out);
	if ((rc = calibration_text_open(&c->text, c->model)) < 0)
		return rc;
	c->begun_ns = gp_now_ns();
	if ((rc = gp_calibrate(&c->found, &c->text.walk, &o)) < 0)
		return rc;
	if (!c->cli.quiet && isatty(STDERR_FILENO))
		fputc('\n', stderr);
	if ((rc = gp_calibration_write(&c->found, c->writer, slash ? slash + 1 : text)) < 0)
		return rc;
	if (c->cli.json)
		print_costs(c);
	return cli_flush_stdout();
}

int main(int argc, char **argv)
{
	struct calibrate c = { .text = CALIBRATION_TEXT_DEFAULTS, .probe_chunks = 8 };
	int status;

	cli_init(&c.cli, "calibrate");
	if ((status = parse(&c, argc, argv)) != 0)
		return status;
	if (calibrate(&c) < 0)
		status = cli_failed(&c.cli);
	gp_gguf_writer_destroy(c.writer);
	gp_calibration_free(&c.found);
	calibration_text_close(&c.text);
	gp_model_close(c.model);
	return status;
}

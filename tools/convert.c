/* gempipe convert: any model that gempipe reads into one GGUF file. */
#include <stdlib.h>
#include <unistd.h>

#include "model/model.h"
#include "quantize/quantize.h"
#include "tools/common/cli.h"
#include "tools/common/model_out.h"
#include "tools/common/on_signal.h"

#define TYPES "f32, f16, bf16, q8_0, q4_0, q3_k, q4_k, q5_k, q6_k, iq4_nl or iq4_xs"

static const char help[] =
	"Usage: gempipe convert SOURCE -o OUT.gguf [--type TYPE]\n"
	"Writes a model (a Hugging Face folder or a .gguf file, with its tokenizer) as one GGUF\n"
	"file that gempipe and llama.cpp read. Tensors stream through one by one.\n\n"
	"  -o, --output FILE      the file to write; it appears only once it is whole\n"
	"      --type TYPE        " TYPES " for\n"
	"                         the matrices (default: each keeps its type). Norms are f32. Types\n"
	"                         of less than 6 bits store the embedding as q6_k. Rows that are no\n"
	"                         multiple of a type's block become q8_0, or f16\n"
	"  -q, --quiet            no progress;  -h, --help: this text;  --version: the version\n"
	"\nExamples:\n"
	"  gempipe convert gemma-3-4b-it -o gemma-3-4b-it-bf16.gguf\n"
	"  gempipe convert gemma-3-4b-it -o gemma-3-4b-it-q4_0.gguf --type q4_0\n";

enum { OPT_TYPE = CLI_FIRST_OWN, CHUNK_ELEMENTS = 1 << 20 };

static const struct option options[] = {
	{ "output", required_argument, NULL, 'o' },
	{ "type", required_argument, NULL, OPT_TYPE },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, CLI_VERSION },
	{ 0 },
};

struct convert {
	struct cli cli;
	const char *source, *out;
	const struct gp_type_info *type;  /* NULL: keep */
	struct gp_model *model;
	struct gp_gguf_writer *writer;
	float *values;                    /* a chunk of rows */
	uint8_t *encoded;
	uint64_t done, total;             /* elements */
	unsigned substituted;             /* matrices of another type than asked for */
};

/* ---- which type ------------------------------------------------------------------ */
static enum gp_type out_type(const struct convert *c, enum gp_tensor_id id,
			     const struct gp_tensor *t)
{
	if (t->rows == 1)
		return GP_TYPE_F32;
	if (!c->type)
		return t->type;
	return gp_fitting_type(id == GP_T_TOKEN_EMBD ? gp_embedding_type(c->type->type) : c->type->type,
	                       t->cols);
}

/* ---- all tensors in order ----------------------------------------------------------- */
static int each_tensor(struct convert *c,
		       int (*visit)(struct convert *c, enum gp_tensor_id id, uint32_t layer,
				    const struct gp_tensor *t))
{
	int rc = 0;

	for (uint32_t l = 0; l < gp_model_config(c->model)->n_layers; l++)
		for (int id = l ? GP_T_PER_LAYER : 0; id < GP_T_COUNT && rc >= 0; id++)
			rc = visit(c, (enum gp_tensor_id)id, l,
				   gp_model_tensor(c->model, (enum gp_tensor_id)id, l));
	return rc;
}

static int declare(struct convert *c, enum gp_tensor_id id, uint32_t layer,
		   const struct gp_tensor *t)
{
	const enum gp_type type = out_type(c, id, t);
	char name[64];

	c->total += t->rows * t->cols;
	c->substituted += c->type && t->rows > 1 && type != c->type->type;
	gp_gguf_tensor_name(name, id, layer);
	return gp_gguf_add_tensor(c->writer, name, type, t->rows == 1 ? 0 : t->rows, t->cols);
}

static void show_progress(const struct convert *c)
{
	if (!c->cli.quiet && isatty(STDERR_FILENO))
		fprintf(stderr, "\rgempipe convert: %3.0f%%%s",
			100 * (double)c->done / (double)c->total, c->done == c->total ? "\n" : "");
}

/* Rows [first, first + n) of t, as type, to the writer. */
static int write_rows(struct convert *c, const struct gp_tensor *t, enum gp_type type,
		      uint64_t first, uint64_t n)
{
	const size_t elements = (size_t)(n * t->cols), row = t->bytes / (size_t)t->rows;
	const float offset = t->rows == 1 ? gp_model_config(c->model)->norm_offset : 0;
	const uint8_t *from = (const uint8_t *)t->data + first * row;
	size_t bytes;
	int rc;

	if (type == t->type && !(offset > 0))
		return gp_gguf_write(c->writer, from, row * (size_t)n);
	gp_dequantize(t->type, from, c->values, elements);
	for (size_t i = 0; i < elements && offset > 0; i++)
		c->values[i] += offset;
	if ((rc = gp_quantize(type, c->values, c->encoded, elements)) < 0 ||
	    (rc = gp_type_bytes(type, n, t->cols, &bytes)) < 0)
		return rc;
	return gp_gguf_write(c->writer, c->encoded, bytes);
}

static int write_tensor(struct convert *c, enum gp_tensor_id id, uint32_t layer,
			const struct gp_tensor *t)
{
	const enum gp_type type = out_type(c, id, t);
	const uint64_t chunk = t->cols < CHUNK_ELEMENTS ? CHUNK_ELEMENTS / t->cols : 1;
	int rc = 0;

	(void)layer;
	for (uint64_t r = 0; r < t->rows && rc >= 0; r += chunk) {
		const uint64_t n = t->rows - r < chunk ? t->rows - r : chunk;

		rc = write_rows(c, t, type, r, n);
		c->done += n * t->cols;
		show_progress(c);
	}
	return rc < 0 ? gp_fail_in(rc, "tensor '%s'", t->name) : 0;
}

/* Room for a chunk, or for one row where that is more. */
static int alloc_chunk(struct convert *c)
{
	const struct gp_config *config = gp_model_config(c->model);
	uint64_t widest = (uint64_t)config->n_heads * config->head_dim;

	widest = widest > config->ffn ? widest : config->ffn;
	widest = widest > config->hidden ? widest : config->hidden;
	widest = widest > CHUNK_ELEMENTS ? widest : CHUNK_ELEMENTS;
	c->values = calloc((size_t)widest, sizeof *c->values);
	c->encoded = calloc((size_t)widest, sizeof(float)); /* F32 is the widest type */
	return c->values && c->encoded ? 0 : gp_fail(ENOMEM, "no memory for a chunk of rows");
}

static int convert(struct convert *c)
{
	int rc;

	if ((rc = gp_model_open(&c->model, c->source)) < 0 || (rc = alloc_chunk(c)) < 0 ||
	    (rc = gp_gguf_writer_create(&c->writer, c->out)) < 0)
		return rc;
	cli_unlink_part_on_signal(c->out);
	const enum gp_type type = c->type ? c->type->type : gp_model_main_type(c->model);
	if ((rc = model_out_metadata(c->writer, c->model, type, c->cli.verb)) < 0 || (rc = each_tensor(c, declare)) < 0)
		return rc;
	if (gp_model_config(c->model)->has_vision)
		fprintf(stderr, "gempipe convert: %s has a vision tower, which is left out\n",
			c->source);
	if (c->substituted)
		fprintf(stderr, "gempipe convert: %u matrices are not %s: embeddings of small types, "
			"and rows that its blocks do not divide\n", c->substituted, c->type->name);
	if ((rc = each_tensor(c, write_tensor)) < 0)
		return rc;
	return gp_gguf_writer_finish(c->writer);
}

static bool writable_type(const struct gp_type_info *t)
{
	static const enum gp_type types[] = { GP_TYPE_F32, GP_TYPE_F16, GP_TYPE_BF16, GP_TYPE_Q8_0,
					      GP_TYPE_Q4_0, GP_TYPE_Q3_K, GP_TYPE_Q4_K, GP_TYPE_Q5_K,
					      GP_TYPE_Q6_K, GP_TYPE_IQ4_NL, GP_TYPE_IQ4_XS };

	for (size_t i = 0; t && i < GP_ARRAY_LEN(types); i++)
		if (t->type == types[i])
			return true;
	return false;
}

static int own_option(struct convert *c, int o)
{
	if (o == 'o') {
		c->out = optarg;
		return 0;
	}
	c->type = gp_type_by_name(optarg);
	if (writable_type(c->type))
		return 0;
	return cli_misused(&c->cli, "--type '%s': must be " TYPES, optarg);
}

static int parse(struct convert *c, int argc, char **argv)
{
	int o, status = 0;

	while ((o = getopt_long(argc, argv, "o:qh", options, NULL)) != -1 && status == 0) {
		if (o == '?')
			return cli_bad_option(&c->cli, argv);
		if (cli_option(&c->cli, o, help) == 1)
			status = own_option(c, o);
	}
	if (status)
		return status;
	if (optind + 1 != argc || !c->out)
		return cli_misused(&c->cli, "one SOURCE and -o OUT.gguf are needed");
	c->source = argv[optind];
	return 0;
}

int main(int argc, char **argv)
{
	struct convert c = { 0 };
	int status;

	cli_init(&c.cli, "convert");
	if ((status = parse(&c, argc, argv)) != 0)
		return status;
	if (convert(&c) < 0)
		status = cli_failed(&c.cli);
	gp_gguf_writer_destroy(c.writer);
	gp_model_close(c.model);
	free(c.values);
	free(c.encoded);
	return status;
}

/* gempipe inspect: what a model file holds and what gempipe can do with it. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "model/gguf.h"
#include "model/model.h"
#include "tools/common/cli.h"

static const char help[] =
	"Usage: gempipe inspect MODEL [--tensors] [--json]\n"
	"Prints a model's header, configuration, sizes, tokenizer, and what gempipe can do with it.\n"
	"MODEL is a .gguf file (or the first part of a split) or a Hugging Face folder. The exit\n"
	"status is 1 when gempipe can't run it; the problem is said last.\n\n"
	"      --tensors          every tensor: type, rows x columns, bytes, file, offset\n"
	"      --json             the same as one JSON object\n"
	"  -h, --help             this text;  --version: the version\n"
	"\nExamples:\n"
	"  gempipe inspect gemma-3-4b-it-q4_0.gguf\n"
	"  gempipe inspect gemma-3-4b-it --tensors\n"
	"  gempipe inspect model.gguf --json | jq .config\n";

enum { OPT_TENSORS = CLI_FIRST_OWN };

static const struct option options[] = {
	{ "tensors", no_argument, NULL, OPT_TENSORS },
	{ "json", no_argument, NULL, CLI_JSON },
	{ "model", required_argument, NULL, 'm' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, CLI_VERSION },
	{ 0 },
};

/* Everything is gathered as JSON first; people get a rendering of that. */
struct inspect {
	struct cli cli;
	bool tensors;
	struct gp_model *model;         /* NULL: gempipe can't run it */
	struct gp_tokenizer *tokenizer; /* NULL: none */
	struct gp_gguf *gguf;           /* where the model did not open */
	json_t *out;
};

static void put(json_t *o, const char *key, json_t *v)
{
	json_object_set_new(o, key, v);
}

static void put_int(json_t *o, const char *key, uint64_t v)
{
	put(o, key, json_integer((json_int_t)v));
}

/* Names from a file need not be UTF-8; JSON must. */
static json_t *text_or_null(const char *s)
{
	json_t *t = json_string(s);

	return t ? t : json_string("(not UTF-8)");
}

/* ---- gathering ---------------------------------------------------------------------- */
static void add_line(void *user, const char *key, const char *value)
{
	json_object_set_new(user, key, text_or_null(value));
}

static json_t *global_layers(const struct gp_config *c)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < c->n_layers; i++)
		if (c->is_global[i])
			json_array_append_new(list, json_integer(i));
	return list;
}

static json_t *config_json(const struct gp_config *c)
{
	json_t *o = json_object();

	put_int(o, "layers", c->n_layers);
	put_int(o, "hidden", c->hidden);
	put_int(o, "heads", c->n_heads);
	put_int(o, "kv_heads", c->n_kv_heads);
	put_int(o, "head_dim", c->head_dim);
	put_int(o, "ffn", c->ffn);
	put_int(o, "vocabulary", c->vocab);
	put_int(o, "context", c->context);
	put_int(o, "window", c->window);
	put(o, "global_layers", global_layers(c));
	put(o, "rope_base_local", json_real((double)c->rope_base_local));
	put(o, "rope_base_global", json_real((double)c->rope_base_global));
	put(o, "rope_factor_global", json_real((double)c->rope_scale_global));
	put(o, "attention_scale", json_real((double)c->attn_scale));
	put(o, "rms_eps", json_real((double)c->rms_eps));
	put(o, "bos", json_integer(c->bos));
	put(o, "eos", json_integer(c->eos));
	put(o, "vision", json_boolean(c->has_vision));
	return o;
}

static void add_type(json_t *types, const char *name, uint64_t bytes, uint64_t elements)
{
	json_t *o = json_object_get(types, name);

	if (!o) {
		o = json_object();
		put(types, name, o);
	}
	put_int(o, "tensors", (uint64_t)json_integer_value(json_object_get(o, "tensors")) + 1);
	put_int(o, "bytes", (uint64_t)json_integer_value(json_object_get(o, "bytes")) + bytes);
	put_int(o, "elements",
		(uint64_t)json_integer_value(json_object_get(o, "elements")) + elements);
}

static void add_tensor(struct inspect *in, const char *name, enum gp_type t, uint64_t rows,
		       uint64_t cols, uint64_t bytes, uint32_t file, uint64_t offset)
{
	json_t *o;

	add_type(json_object_get(in->out, "types"), gp_type_info(t)->name, bytes, rows * cols);
	if (!in->tensors)
		return;
	o = json_object();
	put(o, "name", text_or_null(name));
	put(o, "type", json_string(gp_type_info(t)->name));
	put_int(o, "rows", rows);
	put_int(o, "cols", cols);
	put_int(o, "bytes", bytes);
	put_int(o, "file", file);
	put_int(o, "offset", offset);
	json_array_append_new(json_object_get(in->out, "tensors"), o);
}

static json_t *tokenizer_json(const struct gp_tokenizer *t)
{
	const struct gp_vocab *v = gp_tokenizer_vocab(t);
	json_t *o = json_object();

	put_int(o, "pieces", v->n);
	put_int(o, "merges", v->n_merges);
	put(o, "bos", json_integer(v->bos));
	put(o, "eos", json_integer(v->eos));
	put(o, "end_of_turn", json_integer(v->end_of_turn));
	put(o, "chat_template", json_boolean(v->chat_template));
	return o;
}

static void gather_version(struct inspect *in)
{
	struct gp_gguf *g;

	if (gp_gguf_open(&g, in->cli.model) < 0)
		return; /* a folder */
	put_int(in->out, "gguf_version", gp_gguf_version(g));
	gp_gguf_close(g);
}

static void gather_model(struct inspect *in)
{
	const struct gp_config *c = gp_model_config(in->model);
	const struct gp_tensor *t;
	const size_t n = gp_model_all_tensors(in->model, &t);
	json_t *metadata = json_object();

	put(in->out, "format", json_string(gp_model_format(in->model)));
	gather_version(in);
	for (size_t i = 0; i < n; i++)
		add_tensor(in, t[i].name, t[i].type, t[i].rows, t[i].cols, t[i].bytes, t[i].file,
			   t[i].offset);
	put(in->out, "main_type",
	    json_string(gp_type_info((uint32_t)gp_model_main_type(in->model))->name));
	put_int(in->out, "bytes_per_token", gp_model_bytes(in->model, 0, c->n_layers, true));
	put(in->out, "config", config_json(c));
	gp_model_each_metadata(in->model, add_line, metadata);
	put(in->out, "metadata", metadata);
}

/* A GGUF that is sound but no Gemma 3, or lacks something. */
static void gather_gguf(struct inspect *in)
{
	const struct gp_gguf_tensor *t;
	const size_t n = gp_gguf_tensors(in->gguf, &t);
	const char *s = NULL;
	size_t bytes = 0;

	put(in->out, "format", json_string("GGUF"));
	put_int(in->out, "gguf_version", gp_gguf_version(in->gguf));
	for (size_t i = 0; i < n; i++)
		add_tensor(in, t[i].name, t[i].type, t[i].dims[1] * t[i].dims[2] * t[i].dims[3],
			   t[i].dims[0], t[i].bytes, 0, t[i].offset);
	if (gp_gguf_get_string(in->gguf, "general.architecture", &s, &bytes) > 0)
		put(in->out, "architecture", json_stringn(s, bytes));
}

static void add_problem(struct inspect *in, const char *text)
{
	json_array_append_new(json_object_get(in->out, "problems"), text_or_null(text));
}

static void gather_uses(struct inspect *in)
{
	json_t *uses = json_object_get(in->out, "uses");
	const struct gp_vocab *v = in->tokenizer ? gp_tokenizer_vocab(in->tokenizer) : NULL;
	const char *const with_bos[] = { "perplexity", "evaluate", "calibrate" };
	const char *const with_ids[] = { "logits", "bench", "convert", "quantize" };

	if (!in->model)
		return;
	if (v)
		json_array_append_new(uses, json_string("run"));
	if (v && v->end_of_turn >= 0)
		json_array_append_new(uses, json_string("chat"));
	/* Every chunk begins with <bos>. */
	for (size_t i = 0; i < GP_ARRAY_LEN(with_bos) && gp_model_config(in->model)->bos >= 0; i++)
		json_array_append_new(uses, json_string(with_bos[i]));
	for (size_t i = 0; i < GP_ARRAY_LEN(with_ids); i++)
		json_array_append_new(uses, json_string(with_ids[i]));
	if (gp_model_config(in->model)->has_vision)
		add_problem(in, "the vision tower is not used: images are refused");
}

static void gather_tokenizer(struct inspect *in)
{
	const int rc = gp_tokenizer_open(&in->tokenizer, in->cli.model);

	if (rc >= 0)
		put(in->out, "tokenizer", tokenizer_json(in->tokenizer));
	else if (rc == -ENOENT)
		add_problem(in, "no tokenizer in the files: token ids only");
	else
		add_problem(in, gp_error());
}

/* Opens and gathers what there is; negative: gempipe can't run it. */
static int gather(struct inspect *in)
{
	int rc = gp_model_open(&in->model, in->cli.model);

	in->out = json_object();
	put(in->out, "path", text_or_null(in->cli.model));
	put(in->out, "types", json_object());
	put(in->out, "problems", json_array());
	put(in->out, "uses", json_array());
	if (in->tensors)
		put(in->out, "tensors", json_array());
	if (rc >= 0) {
		gather_model(in);
		gather_tokenizer(in);
		gather_uses(in);
		return 0;
	}
	add_problem(in, gp_error());
	if (gp_gguf_open_part(&in->gguf, in->cli.model) < 0)
		return rc;
	gather_gguf(in);
	return rc;
}

/* ---- for people ------------------------------------------------------------------------ */
static const char *size_text(char buf[32], const json_t *bytes)
{
	return gp_size_text(buf, (uint64_t)json_integer_value(bytes));
}

static void print_object(const char *title, const json_t *o)
{
	const char *key;
	json_t *v;

	if (!o)
		return;
	printf("\n%s\n", title);
	json_object_foreach((json_t *)(uintptr_t)o, key, v) {
		char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(7));

		printf("  %-40s %s\n", key, json_is_string(v) ? json_string_value(v) :
					      text ? text : "?");
		free(text);
	}
}

static void print_types(const json_t *types)
{
	uint64_t bytes = 0, elements = 0;
	const char *name;
	char buf[32];
	json_t *o;

	printf("\ntypes\n");
	json_object_foreach((json_t *)(uintptr_t)types, name, o) {
		printf("  %-8s %5lld tensors  %s\n", name,
		       (long long)json_integer_value(json_object_get(o, "tensors")),
		       size_text(buf, json_object_get(o, "bytes")));
		bytes += (uint64_t)json_integer_value(json_object_get(o, "bytes"));
		elements += (uint64_t)json_integer_value(json_object_get(o, "elements"));
	}
	printf("  together %.2f million parameters, %s\n", (double)elements / 1e6,
	       gp_size_text(buf, bytes));
}

static void print_tensors(const json_t *tensors)
{
	json_t *t;
	size_t i;

	printf("\ntensors\n");
	json_array_foreach(tensors, i, t)
		printf("  %-60s %-6s %7lld x %-7lld %11lld bytes, file %lld at %lld\n",
		       json_string_value(json_object_get(t, "name")),
		       json_string_value(json_object_get(t, "type")),
		       (long long)json_integer_value(json_object_get(t, "rows")),
		       (long long)json_integer_value(json_object_get(t, "cols")),
		       (long long)json_integer_value(json_object_get(t, "bytes")),
		       (long long)json_integer_value(json_object_get(t, "file")),
		       (long long)json_integer_value(json_object_get(t, "offset")));
}

static void print_list(const char *title, const json_t *list, const char *none)
{
	json_t *v;
	size_t i;

	printf("\n%s", title);
	json_array_foreach(list, i, v)
		printf("%s%s", i ? ", " : "", json_string_value(v));
	printf("%s\n", json_array_size(list) ? "" : none);
}

static void print_text(const struct inspect *in)
{
	const char *format = json_string_value(json_object_get(in->out, "format"));
	const json_t *per_token = json_object_get(in->out, "bytes_per_token");
	const json_t *version = json_object_get(in->out, "gguf_version");
	char buf[32];

	printf("%s: %s", in->cli.model, format ? format : "unreadable");
	if (version)
		printf(" version %lld", (long long)json_integer_value(version));
	putchar('\n');
	print_object("header", json_object_get(in->out, "metadata"));
	print_object("configuration", json_object_get(in->out, "config"));
	print_types(json_object_get(in->out, "types"));
	if (per_token)
		printf("  read for every decoded token: %s\n", size_text(buf, per_token));
	print_object("tokenizer", json_object_get(in->out, "tokenizer"));
	if (in->tensors)
		print_tensors(json_object_get(in->out, "tensors"));
	print_list("gempipe can: ", json_object_get(in->out, "uses"), "nothing");
	print_list("problems: ", json_object_get(in->out, "problems"), "none");
}

static int print(const struct inspect *in)
{
	if (!in->cli.json)
		print_text(in);
	else if (json_dumpf(in->out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) < 0 ||
		 putchar('\n') == EOF)
		return gp_fail(EIO, "stdout: writing failed");
	return fflush(stdout) == 0 ? 0 : gp_fail(errno, "stdout: %s", strerror(errno));
}

static int parse(struct inspect *in, int argc, char **argv)
{
	int o;

	while ((o = getopt_long(argc, argv, "m:h", options, NULL)) != -1) {
		if (o == '?')
			return cli_bad_option(&in->cli, argv);
		if (cli_option(&in->cli, o, help) == 1)
			in->tensors = true;
	}
	if (!in->cli.model && optind < argc)
		in->cli.model = argv[optind++];
	if (optind < argc)
		return cli_misused(&in->cli, "'%s' is one model too many", argv[optind]);
	if (!in->cli.model)
		return cli_misused(&in->cli, "a MODEL is needed");
	return 0;
}

/* Nothing at all to print: the message is all there is. */
static bool is_readable(const struct inspect *in)
{
	return in->model || in->gguf;
}

int main(int argc, char **argv)
{
	struct inspect in = { 0 };
	char problem[GP_ERROR_BYTES];
	int status, rc;

	cli_init(&in.cli, "inspect");
	if ((status = parse(&in, argc, argv)) != 0)
		return status;
	rc = gather(&in);
	if (rc < 0) {
		/* The first problem, not what a later look at the file met. */
		snprintf(problem, sizeof problem, "%s", json_string_value(
			 json_array_get(json_object_get(in.out, "problems"), 0)));
		gp_fail(-rc, "%s", problem);
	}
	if (is_readable(&in) || in.cli.json) {
		const int printed = print(&in);

		rc = rc < 0 ? rc : printed;
	}
	if (rc < 0)
		status = cli_failed(&in.cli);
	json_decref(in.out);
	gp_gguf_close(in.gguf);
	gp_tokenizer_close(in.tokenizer);
	gp_model_close(in.model);
	return status;
}

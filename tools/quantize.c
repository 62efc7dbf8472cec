/* gempipe quantize: a model in fewer bits. */
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "tools/common/calibration_text.h"
#include "tools/common/cli.h"
#include "tools/common/model_out.h"
#include "tools/common/on_signal.h"
#include "tools/common/quantize_plan.h"

static const char help[] =
	"Usage: gempipe quantize SOURCE -o OUT.gguf --type TYPE | --bits B | --target-size S\n"
	"                        [--calibration FILE] [--text TEXT | --ids F.npy] [options]\n"
	"       gempipe quantize SOURCE --plan [--calibration FILE]\n"
	"Writes a model (a Hugging Face folder or a .gguf file, best in BF16 or F32) as one GGUF\n"
	"file of fewer bits, which gempipe and llama.cpp read. With --bits or --target-size each\n"
	"matrix gets the type that makes the whole lose least at that size.\n\n"
	"  -o, --output FILE      the file to write; it appears only once it is whole\n"
	"      --type TYPE        q3_k, iq4_xs, iq4_nl, q4_0, q4_k, q5_k, q6_k, q8_0, f16, bf16\n"
	"                         or f32 for all matrices; norms are f32. What a block does not\n"
	"                         divide becomes q8_0, or f16\n"
	"      --embedding TYPE   the embedding's, which is the head too (default: q6_k where\n"
	"                         --type has less than 6 bits, else the same)\n"
	"      --tensor-type PATTERN=TYPE  the type of matrices whose name matches: of all FFN down\n"
	"                         '*.ffn_down.weight=q6_k'. May be given again, the last one that\n"
	"                         matches counts; what is left of a budget is the others'\n"
	"      --bits B           at most so many bits a weight, all tensors included: 4.0\n"
	"      --target-size S    at most so large a file: 13.5G (of 10^9 bytes; GiB: of 2^30)\n"
	"      --calibration FILE what gempipe calibrate (or llama-imatrix) has measured\n"
	"      --text TEXT        errors of one column are made good by the next ones (GPTQ), those of\n"
	"                         one matrix by the layers behind it, as this text's activations\n"
	"                         tell; without --calibration, it is calibrated on too. Takes long\n"
	"      --ids F.npy        token ids instead of a text\n"
	"      --chunks N         only the first N chunks (default: all)\n"
	"      --ctx N            tokens of a chunk (default 512)\n"
	"      --nearest          plain rounding, without a search for better scales: fastest\n"
	"      --threads N        (default: one a core)\n"
	"      --restart          begin anew; else an interrupted run of the same goes on\n"
	"      --plan             only print what sizes there are and where they fit\n"
	"      --json             the plan, or the result, as JSON\n"
	"  -q, --quiet            no progress;  -h, --help: this text;  --version: the version\n"
	"\nExamples:\n"
	"  gempipe quantize gemma-3-27b-it --plan\n"
	"  gempipe calibrate -m gemma-3-27b-it -f calibration.txt -o 27b.calibration\n"
	"  gempipe quantize gemma-3-27b-it -o 27b.gguf --bits 4.0 --calibration 27b.calibration\n"
	"  gempipe quantize gemma-3-4b-it -o 4b.gguf --target-size 2G --text calibration.txt\n";

enum { OPT_TYPE = CLI_FIRST_OWN, OPT_EMBEDDING, OPT_BITS, OPT_SIZE, OPT_CALIBRATION, OPT_TEXT,
       OPT_IDS, OPT_CHUNKS, OPT_NEAREST, OPT_RESTART, OPT_PLAN, OPT_TENSOR_TYPE };

static const struct option options[] = {
	{ "output", required_argument, NULL, 'o' }, { "type", required_argument, NULL, OPT_TYPE },
	{ "embedding", required_argument, NULL, OPT_EMBEDDING },
	{ "tensor-type", required_argument, NULL, OPT_TENSOR_TYPE },
	{ "bits", required_argument, NULL, OPT_BITS },
	{ "target-size", required_argument, NULL, OPT_SIZE },
	{ "calibration", required_argument, NULL, OPT_CALIBRATION },
	{ "text", required_argument, NULL, OPT_TEXT }, { "ids", required_argument, NULL, OPT_IDS },
	{ "chunks", required_argument, NULL, OPT_CHUNKS },
	{ "ctx", required_argument, NULL, CLI_CTX },
	{ "nearest", no_argument, NULL, OPT_NEAREST },
	{ "threads", required_argument, NULL, CLI_THREADS },
	{ "restart", no_argument, NULL, OPT_RESTART }, { "plan", no_argument, NULL, OPT_PLAN },
	{ "json", no_argument, NULL, CLI_JSON }, { "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' }, { "version", no_argument, NULL, CLI_VERSION }, { 0 },
};

struct quantize {
	struct cli cli;
	const char *source, *out, *calibration_file;
	const struct gp_type_info *type, *embedding;
	struct gp_pins pins;           /* --tensor-type */
	char pinned[1024];             /* the same as text */
	double bits;
	uint64_t target;               /* bytes of the file */
	bool nearest, restart, plan;
	struct calibration_text text;
	struct gp_model *model;
	struct gp_calibration calibration;
	struct gp_recipe recipe;
	struct gp_gguf_writer *writer;
	uint64_t begun_ns;
	uint64_t first, first_ns;      /* parameters that were there when progress began */
	uint64_t shown_ns;
};

/* ---- arguments ---------------------------------------------------------------------------- */
static bool writable(const struct gp_type_info *t)
{
	static const enum gp_type plain[] = { GP_TYPE_F32, GP_TYPE_F16, GP_TYPE_BF16 };

	for (size_t i = 0; t && i < GP_ARRAY_LEN(plain); i++)
		if (t->type == plain[i])
			return true;
	for (size_t i = 0; t && i < GP_COST_TYPES; i++)
		if (t->type == gp_cost_types[i])
			return true;
	return false;
}

static int type_option(struct quantize *q, const char *option, const struct gp_type_info **type)
{
	*type = gp_type_by_name(optarg);
	return writable(*type) ? 0 :
	       cli_misused(&q->cli, "%s '%s': is no type that can be written; see --help", option,
	                   optarg);
}

/* "PATTERN=TYPE"; the pattern stays where it is, in argv. */
static int tensor_type_option(struct quantize *q)
{
	const size_t n = strlen(q->pinned), room = sizeof q->pinned - n;
	char *equals = strrchr(optarg, '=');
	const struct gp_type_info *type = equals ? gp_type_by_name(equals + 1) : NULL;

	if (!equals || equals == optarg || !writable(type))
		return cli_misused(&q->cli, "--tensor-type '%s': must be PATTERN=TYPE, such as "
		                   "'*.ffn_down.weight=q6_k'; see --help", optarg);
	if (q->pins.n == GP_ARRAY_LEN(q->pins.pin) ||
	    snprintf(q->pinned + n, room, "%s%s", n ? ", " : "", optarg) >= (int)room)
		return cli_misused(&q->cli, "--tensor-type '%s': is one too many; join some in one "
		                   "pattern", optarg);
	*equals = '\0';
	q->pins.pin[q->pins.n].pattern = optarg;
	q->pins.pin[q->pins.n++].type = type->type;
	return 0;
}

/* "13.5G": of 10^9 bytes, as files are sold; "13.5GiB" of 2^30. */
static int size_option(struct quantize *q)
{
	static const struct { const char *unit; double bytes; } units[] = {
		{ "", 1 }, { "K", 1e3 }, { "M", 1e6 }, { "G", 1e9 }, { "KB", 1e3 }, { "MB", 1e6 },
		{ "GB", 1e9 }, { "KiB", 0x1p10 }, { "MiB", 0x1p20 }, { "GiB", 0x1p30 },
	};
	char *end;
	const double v = strtod(optarg, &end);

	for (size_t i = 0; i < GP_ARRAY_LEN(units); i++)
		if (end != optarg && strcmp(end, units[i].unit) == 0 && v * units[i].bytes >= 1 &&
		    v * units[i].bytes < 1e15) {
			q->target = (uint64_t)(v * units[i].bytes);
			return 0;
		}
	return cli_misused(&q->cli, "--target-size '%s': must be a size such as 13.5G or 12GiB",
	                   optarg);
}

static int bits_option(struct quantize *q)
{
	char *end;

	q->bits = strtod(optarg, &end);
	if (end != optarg && !*end && q->bits >= 1 && q->bits <= 32)
		return 0;
	return cli_misused(&q->cli, "--bits '%s': must be a number from 1 to 32, such as 4.0",
	                   optarg);
}

static int number_option(struct quantize *q, const char *option, uint64_t least, uint64_t *v)
{
	return gp_parse_u64(option, optarg, least, 1u << 24, v) < 0 ?
	       cli_misused(&q->cli, "%s", gp_error()) : 0;
}

static int own_option(struct quantize *q, int o)
{
	switch (o) {
	case 'o': q->out = optarg; return 0;
	case OPT_TYPE: return type_option(q, "--type", &q->type);
	case OPT_EMBEDDING: return type_option(q, "--embedding", &q->embedding);
	case OPT_TENSOR_TYPE: return tensor_type_option(q);
	case OPT_BITS: return bits_option(q);
	case OPT_SIZE: return size_option(q);
	case OPT_CALIBRATION: q->calibration_file = optarg; return 0;
	case OPT_TEXT: q->text.text.file = optarg; return 0;
	case OPT_IDS: q->text.text.ids_file = optarg; return 0;
	case OPT_CHUNKS: return number_option(q, "--chunks", 1, &q->text.text.most_chunks);
	case OPT_NEAREST: q->nearest = true; return 0;
	case OPT_RESTART: q->restart = true; return 0;
	default: q->plan = true; return 0;
	}
}

static bool has_text(const struct quantize *q)
{
	return q->text.text.file || q->text.text.ids_file;
}

static int check_arguments(struct quantize *q)
{
	const int goals = (q->type != NULL) + (q->bits > 0) + (q->target > 0);

	if (!q->plan && (!q->out || goals != 1))
		return cli_misused(&q->cli, "one SOURCE, -o OUT.gguf, and one of --type, --bits "
		                   "and --target-size are needed");
	if (q->text.text.file && q->text.text.ids_file)
		return cli_misused(&q->cli, "--text and --ids are two ways to say the same: give "
		                   "one");
	if (q->nearest && (has_text(q) || q->calibration_file))
		return cli_misused(&q->cli, "--nearest rounds without looking at a calibration: "
		                   "leave one out");
	if (has_text(q) && q->type && q->type->block_elems == 1)
		return cli_misused(&q->cli, "--type %s has no errors that a text could compensate: "
		                   "leave one out", q->type->name);
	if (q->plan && q->pins.n)
		return cli_misused(&q->cli, "--tensor-type is for a file that is written: leave out "
		                   "--plan");
	if (q->embedding && !q->type)
		return cli_misused(&q->cli, "--embedding goes with --type; a budget chooses it "
		                   "itself");
	return 0;
}

static int parse(struct quantize *q, int argc, char **argv)
{
	int o, rc, status = 0;

	while ((o = getopt_long(argc, argv, "o:qh", options, NULL)) != -1 && status == 0) {
		if (o == '?')
			return cli_bad_option(&q->cli, argv);
		if (o == CLI_CTX) {
			status = number_option(q, "--ctx", 2, &q->text.text.ctx);
			continue;
		}
		if ((rc = cli_option(&q->cli, o, help)) < 0)
			status = cli_misused(&q->cli, "%s", gp_error());
		else if (rc == 1)
			status = own_option(q, o);
	}
	if (status)
		return status;
	if (optind + 1 != argc)
		return cli_misused(&q->cli, "one SOURCE is needed");
	q->source = argv[optind];
	return check_arguments(q);
}

/* ---- progress -------------------------------------------------------------------------------- */
static void on_progress(void *user, uint64_t done, uint64_t total)
{
	struct quantize *q = user;
	const double percent = 100 * (double)done / (double)total;
	const uint64_t now = gp_now_ns();
	const bool terminal = isatty(STDERR_FILENO);
	const uint64_t pause_ns = terminal ? 200000000u : 10000000000u;
	char time[32];

	if (!q->first_ns) {
		q->first = done;
		q->first_ns = now;
	}
	if (q->cli.quiet || (done < total && now - q->shown_ns < pause_ns))
		return;
	q->shown_ns = now;
	if (done == q->first)
		return;
	gp_duration_text(time, (double)(now - q->first_ns) / 1e9 * (double)(total - done) /
	                       (double)(done - q->first));
	fprintf(stderr, terminal ? "\r\033[Kgempipe quantize: %.1f%%, %s left%s" :
	        "gempipe quantize: %.1f%%, %s left%s", percent, time,
	        !terminal || done == total ? "\n" : "");
}

static void on_calibrated(void *user, uint32_t done, uint32_t total)
{
	const struct quantize *q = user;
	const bool terminal = isatty(STDERR_FILENO);

	if (!q->cli.quiet)
		fprintf(stderr, "%sgempipe quantize: calibrated %u of %u%s",
		        terminal ? "\r\033[K" : "", done, total,
		        !terminal || done == total ? "\n" : "");
}

/* ---- which types ----------------------------------------------------------------------------- */
enum { RECIPE_TEXT = 512, ALIGNED = 32 };

/* Room for what the recipe adds to the header, and for the tensors' alignment. */
static int budget(struct quantize *q, uint64_t *bytes)
{
	const struct gp_config *c = gp_model_config(q->model);
	const uint64_t tensors = 2 + (uint64_t)c->n_layers * (GP_T_COUNT - GP_T_PER_LAYER);
	struct gp_recipe any = { 0 };
	size_t header = 0;
	uint64_t beside;
	int rc;

	if (q->bits > 0) {
		rc = gp_recipe_uniform(&any, q->model, GP_TYPE_F16, GP_TYPE_F16, NULL, NULL);
		*bytes = (uint64_t)((double)any.parameters * q->bits / 8);
		gp_recipe_free(&any);
		return rc;
	}
	if ((rc = quantize_plan_header(q->model, &header)) < 0)
		return rc;
	beside = header + RECIPE_TEXT * 4 + tensors * ALIGNED;
	if (q->target <= beside)
		return gp_fail(ENOSPC, "--target-size: the file takes %llu bytes beside its "
		               "weights; raise it", (unsigned long long)beside);
	*bytes = q->target - beside;
	return 0;
}

static enum gp_type embedding_type(const struct quantize *q)
{
	return q->embedding ? q->embedding->type : gp_embedding_type(q->type->type);
}

static int choose_types(struct quantize *q)
{
	const struct gp_calibration *c = q->calibration.n ? &q->calibration : NULL;
	const struct gp_pins *pins = q->pins.n ? &q->pins : NULL;
	uint64_t bytes = 0;
	int rc;

	if (q->type) {
		rc = gp_recipe_uniform(&q->recipe, q->model, q->type->type, embedding_type(q), c, pins);
		return pins && rc < 0 ? gp_fail_in(rc, "--tensor-type") : rc;
	}
	if ((rc = budget(q, &bytes)) < 0)
		return rc;
	rc = gp_recipe_budget(&q->recipe, q->model, bytes, c, pins);
	return pins && rc < 0 ? gp_fail_in(rc, "with --tensor-type") : rc;
}

/* ---- calibration ----------------------------------------------------------------------------- */
static int calibrate(struct quantize *q)
{
	const struct gp_calibrate_options o = {
		.probe_chunks = 8, .threads = calibration_threads(q->text.threads),
		.progress = on_calibrated, .user = q,
	};
	int rc;

	if (q->calibration_file) {
		rc = gp_calibration_read(&q->calibration, q->calibration_file, q->model);
		if (rc == 0 && !q->type && !q->cli.quiet)
			fprintf(stderr, "gempipe quantize: %s holds no costs: types are chosen as "
			        "other models' matrices cost\n", q->calibration_file);
		return rc < 0 ? rc : 0;
	}
	/* Of one type, what the text tells on the way is enough. */
	if (!has_text(q) || q->type || q->plan)
		return 0;
	return gp_calibrate(&q->calibration, &q->text.walk, &o);
}

/* ---- writing --------------------------------------------------------------------------------- */
static enum gp_type main_type(const struct quantize *q)
{
	uint64_t bytes[GP_TYPE_BF16 + 1] = { 0 };
	enum gp_type most = q->recipe.type[0];

	for (size_t i = 0; i < q->recipe.n; i++) {
		const struct gp_config *c = gp_model_config(q->model);
		enum gp_tensor_id id;
		uint32_t layer;
		size_t n = 0;
		const struct gp_tensor *t;

		gp_matrix_at(c, i, &id, &layer);
		t = gp_model_tensor(q->model, id, layer);
		gp_type_bytes(q->recipe.type[i], t->rows, t->cols, &n);
		bytes[q->recipe.type[i]] += n;
		if (bytes[q->recipe.type[i]] > bytes[most])
			most = q->recipe.type[i];
	}
	return most;
}

static int add_string(struct quantize *q, const char *key, const char *s)
{
	return gp_gguf_add_string(q->writer, key, s, strlen(s));
}

/* How the file was made: also what tells an interrupted run of the same from another. */
static int add_recipe(struct quantize *q)
{
	const char *method = q->nearest ? "nearest" :
	                     has_text(q) ? "search, error compensation" : "search";
	const char *text = q->text.text.file ? q->text.text.file : q->text.text.ids_file;
	char goal[64], source[128], of[128] = "", recipe[RECIPE_TEXT], with[256] = "";
	int rc;

	if (q->type)
		snprintf(goal, sizeof goal, "type %s", q->type->name);
	else if (q->bits > 0)
		snprintf(goal, sizeof goal, "at most %g bits a weight", q->bits);
	else
		snprintf(goal, sizeof goal, "at most %llu bytes", (unsigned long long)q->target);
	model_out_name(source, sizeof source, q->source);
	if (text) {
		model_out_name(of, sizeof of, text);
		snprintf(with, sizeof with, "; text %s, %zu chunks of %u", of,
		         q->text.walk.n_chunks, q->text.walk.chunk);
	}
	snprintf(recipe, sizeof recipe, "gempipe " GP_VERSION ": %s; %s; of %s%s", goal, method,
	         source, with);
	if ((rc = add_string(q, "gempipe.recipe", recipe)) < 0 ||
	    (q->pins.n && (rc = add_string(q, "gempipe.recipe.tensor_types", q->pinned)) < 0) ||
	    !q->calibration.n)
		return rc;
	of[0] = '\0';
	if (q->calibration_file)
		model_out_name(of, sizeof of, q->calibration_file);
	if ((rc = add_string(q, "quantize.imatrix.file", of)) < 0 ||
	    (rc = gp_gguf_add_u32(q->writer, "quantize.imatrix.entries_count",
	                          (uint32_t)q->calibration.n)) < 0)
		return rc;
	return gp_gguf_add_u32(q->writer, "quantize.imatrix.chunks_count",
	                       (uint32_t)q->calibration.chunks);
}

static int check_room(const struct quantize *q)
{
	char folder[4096], need[32], there[32];
	size_t data = 0, bytes = gp_gguf_writer_bytes(q->writer, &data);
	struct statvfs fs;
	struct stat part;
	uint64_t room;
	char *slash;

	if (!bytes)
		return gp_fail(ENOMEM, "no memory for the header of %s", q->out);
	bytes += data;
	snprintf(folder, sizeof folder, "%s.part", q->out);
	room = stat(folder, &part) == 0 ? (uint64_t)part.st_blocks * 512 : 0;
	slash = strrchr(folder, '/');
	snprintf(slash ? slash + 1 : folder, 2, ".");
	if (statvfs(folder, &fs) < 0)
		return 0;
	room += (uint64_t)fs.f_bavail * fs.f_frsize;
	return room >= bytes ? 0 :
	       gp_fail(ENOSPC, "%s: takes %s, its disk has %s; free some or write elsewhere",
	               q->out, gp_size_text(need, bytes), gp_size_text(there, room));
}

static void hash(uint64_t *key, const void *data, size_t bytes)
{
	*key = gp_hash(*key, data, bytes);
}

static void hash_tensor(uint64_t *key, const struct gp_tensor *t)
{
	struct stat st;

	if (!t->mapped || fstat(t->fd, &st) < 0)
		return;
	hash(key, &st.st_dev, sizeof st.st_dev);
	hash(key, &st.st_ino, sizeof st.st_ino);
	hash(key, &st.st_size, sizeof st.st_size);
	hash(key, &st.st_mtim, sizeof st.st_mtim);
	hash(key, &t->offset, sizeof t->offset);
}

/* Of what an interrupted run must have in common with this one, beside the header: the very
 * files of the source, the importance of columns, the text. */
static uint64_t key_of(const struct quantize *q)
{
	const struct gp_config *c = gp_model_config(q->model);
	uint64_t key = GP_HASH_BEGIN;

	for (uint32_t l = 0; l < c->n_layers; l++)
		for (uint32_t id = 0; id < GP_T_COUNT; id++)
			hash_tensor(&key, gp_model_tensor(q->model, id, l));
	for (size_t i = 0; i < q->calibration.n; i++)
		hash(&key, q->calibration.matrix[i].importance,
		     q->calibration.matrix[i].cols * sizeof(float));
	if (has_text(q))
		hash(&key, q->text.walk.ids,
		     q->text.walk.n_chunks * q->text.walk.chunk * sizeof *q->text.walk.ids);
	return key;
}

static bool has_part(const struct quantize *q, const char *end)
{
	char path[4096];
	struct stat st;

	snprintf(path, sizeof path, "%s.part%s", q->out, end);
	return stat(path, &st) == 0 && st.st_size > 0;
}

/* Early: a name that can't be written shows before the long work. */
static int create_writer(struct quantize *q)
{
	char text[4096];
	int rc = gp_gguf_writer_create_resumable(&q->writer, q->out);

	if (rc < 0)
		return rc;
	snprintf(text, sizeof text, "%s.part.done", q->out);
	if (q->restart)
		unlink(text);
	snprintf(text, sizeof text, "%sgempipe quantize: interrupted; the same command goes on "
	         "with %s.part (--restart: anew)\n", isatty(STDERR_FILENO) ? "\n" : "", q->out);
	cli_say_on_signal(text);
	/* Too large a file is an error like a full disk. */
	signal(SIGXFSZ, SIG_IGN);
	return 0;
}

static int prepare_file(struct quantize *q, const struct gp_quantize_job *j, size_t *done)
{
	const bool earlier = has_part(q, ".done");
	int rc;

	if ((rc = model_out_metadata(q->writer, q->model, main_type(q), q->cli.verb)) < 0 ||
	    (rc = add_recipe(q)) < 0 || (rc = gp_quantize_declare(j, q->writer)) < 0 ||
	    (rc = check_room(q)) < 0)
		return rc;
	if ((rc = gp_gguf_writer_resume(q->writer, key_of(q), done)) < 0 || q->cli.quiet)
		return rc;
	if (*done)
		fprintf(stderr, "gempipe quantize: goes on behind %zu tensors of an earlier run "
		        "(--restart: anew)\n", *done);
	else if (earlier)
		fprintf(stderr, "gempipe quantize: %s.part was of another source or recipe: begins "
		        "anew\n", q->out);
	return 0;
}

static void print_json(const struct quantize *q, double bits, double seconds)
{
	struct stat st = { 0 };
	json_t *o;

	stat(q->out, &st);
	o = json_pack("{s:s, s:I, s:I, s:I, s:f, s:f}", "file", q->out, "file_bytes",
	              (json_int_t)st.st_size, "weight_bytes", (json_int_t)q->recipe.bytes,
	              "parameters", (json_int_t)q->recipe.parameters, "bits_per_weight", bits,
	              "seconds", seconds);
	json_dumpf(o, stdout, JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(o);
}

static int print_result(const struct quantize *q, double seconds)
{
	const double bits = 8 * (double)q->recipe.bytes / (double)q->recipe.parameters;

	if (q->cli.json)
		print_json(q, bits, seconds);
	else if (!q->cli.quiet)
		fprintf(stderr, "gempipe quantize: %s: %.4f bits a weight, %.3f GB of weights, "
		        "%.0f s\n", q->out, bits, (double)q->recipe.bytes / 1e9, seconds);
	return cli_flush_stdout();
}

static int can_go_on(const struct quantize *q, int rc)
{
	char why[GP_ERROR_BYTES];

	if (!has_part(q, ".done"))
		return rc;
	snprintf(why, sizeof why, "%s", gp_error());
	return gp_fail(-rc, "%s; %s.part keeps what is done: run the same again to go on", why,
	               q->out);
}

static int write_file(struct quantize *q)
{
	const struct gp_quantize_job j = {
		.model = q->model, .recipe = &q->recipe,
		.calibration = q->calibration.n ? &q->calibration : NULL,
		.walk = has_text(q) ? &q->text.walk : NULL, .nearest = q->nearest,
		.threads = calibration_threads(q->text.threads), .damping = 0.01f,
		.head_damping = 1, .progress = on_progress, .user = q,
	};
	size_t done;
	int rc = prepare_file(q, &j, &done);

	if (rc < 0)
		return rc;
	q->begun_ns = gp_now_ns();
	if ((rc = gp_quantize_write(&j, q->writer, done)) < 0 ||
	    (rc = gp_gguf_writer_finish(q->writer)) < 0)
		return can_go_on(q, rc);
	return print_result(q, (double)(gp_now_ns() - q->begun_ns) / 1e9);
}

/* ---- all ------------------------------------------------------------------------------------- */
static int quantize(struct quantize *q)
{
	const struct gp_calibration *c;
	int rc = gp_model_open(&q->model, q->source);

	if (rc < 0)
		return rc;
	q->text.threads = q->cli.plan.threads;
	if (!q->plan && (rc = create_writer(q)) < 0)
		return rc;
	if (has_text(q) && !q->plan && (rc = calibration_text_open(&q->text, q->model)) < 0)
		return rc;
	if ((rc = calibrate(q)) < 0)
		return rc;
	c = q->calibration.n ? &q->calibration : NULL;
	if (q->plan)
		return quantize_plan_print(q->model, c, q->cli.json);
	return (rc = choose_types(q)) < 0 ? rc : write_file(q);
}

int main(int argc, char **argv)
{
	struct quantize q = { .text = CALIBRATION_TEXT_DEFAULTS };
	int status;

	cli_init(&q.cli, "quantize");
	if ((status = parse(&q, argc, argv)) != 0)
		return status;
	if (quantize(&q) < 0)
		status = cli_failed(&q.cli);
	gp_gguf_writer_destroy(q.writer);
	gp_recipe_free(&q.recipe);
	gp_calibration_free(&q.calibration);
	calibration_text_close(&q.text);
	gp_model_close(q.model);
	return status;
}

/* gempipe synth: a GGUF file, or a Hugging Face folder, of a true Gemma 3 shape with
 * random weights, to measure speed without a download. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "model/gguf.h"
#include "model/model.h"
#include "tools/common/cli.h"
#include "tools/common/folder_out.h"
#include "tools/common/on_signal.h"

#define TYPES "bf16, q8_0, q4_0, q3_k, q4_k, q5_k, q6_k, iq4_nl or iq4_xs"

static const char help[] =
	"Usage: gempipe synth --size SIZE --type TYPE -o OUT.gguf [--seed N]\n"
	"       gempipe synth --size SIZE --format safetensors -o FOLDER [--seed N]\n"
	"Writes a file of a Gemma 3 model's true shape with random weights and a placeholder\n"
	"vocabulary (control and byte tokens work), to measure speed. Its text is noise.\n\n"
	"      --size SIZE        270m, 1b, 4b, 12b or 27b\n"
	"      --type TYPE        " TYPES "\n"
	"                         (default q4_0). As in llama.cpp's files, types of less than 8 bits\n"
	"                         store the embedding as q6_k; q4_k (its Q4_K_S), iq4_nl and iq4_xs\n"
	"                         some matrices as q5_k; rows that these do not divide (270m, 1b)\n"
	"                         are q8_0, q5_0, q5_1 or iq4_nl\n"
	"      --format FORMAT    gguf (default), or safetensors: a Hugging Face folder in bf16\n"
	"  -o, --output FILE      the file to write; it appears only once it is whole\n"
	"      --seed N           another file (default 1); equal arguments give equal files\n"
	"  -q, --quiet            no progress;  -h, --help: this text;  --version: the version\n"
	"\nExamples:\n"
	"  gempipe synth --size 1b --type q8_0 -o 1b-q8_0.gguf\n"
	"  gempipe synth --size 27b --type q4_0 -o 27b-q4_0.gguf\n"
	"  gempipe synth --size 12b --format safetensors -o 12b\n";

enum { OPT_SIZE = CLI_FIRST_OWN, OPT_TYPE, OPT_FORMAT, OPT_SEED };
enum { POOL_BYTES = 64 << 20, PIECES = 262144 };

static const struct option options[] = {
	{ "size", required_argument, NULL, OPT_SIZE },
	{ "type", required_argument, NULL, OPT_TYPE },
	{ "format", required_argument, NULL, OPT_FORMAT },
	{ "output", required_argument, NULL, 'o' },
	{ "seed", required_argument, NULL, OPT_SEED },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, CLI_VERSION },
	{ 0 },
};

/* Hugging Face's published config.json files. */
static const struct size {
	const char *name;
	uint32_t layers, hidden, heads, kv_heads, head_dim, ffn, vocab, window, context;
	float rope_factor, query_scalar;
} sizes[] = {
	{ "270m", 18, 640, 4, 1, 256, 2048, 262144, 512, 32768, 1, 256 },
	{ "1b", 26, 1152, 4, 1, 256, 6912, 262144, 512, 32768, 1, 256 },
	{ "4b", 34, 2560, 8, 4, 256, 10240, 262208, 1024, 131072, 8, 256 },
	{ "12b", 48, 3840, 16, 8, 256, 15360, 262208, 1024, 131072, 8, 256 },
	{ "27b", 62, 5376, 32, 16, 128, 21504, 262208, 1024, 131072, 8, 168 },
};

struct synth {
	struct cli cli;
	const char *out;
	const struct size *size;
	enum gp_type type;
	bool has_type, safetensors;
	uint64_t random;                       /* state of the generator */
	struct gp_config config;
	struct gp_gguf_writer *writer;         /* one of these two */
	struct folder_out *folder;
	uint8_t *pool[GP_TYPE_BF16 + 1];       /* by type: random blocks, POOL_BYTES or less */
	size_t pool_bytes[GP_TYPE_BF16 + 1];
	uint64_t done, total;
};

/* ---- random blocks: weights of mean 0 and deviation 0.02, as at initialisation ------- */
#define DEVIATION 0.02f

/* Marsaglia's xorshift64. */
static uint64_t next_random(struct synth *s)
{
	s->random ^= s->random << 13;
	s->random ^= s->random >> 7;
	s->random ^= s->random << 17;
	return s->random;
}

static void put_half(uint8_t *p, float v)
{
	const uint16_t h = gp_f32_to_f16(v);

	memcpy(p, &h, sizeof h);
}

/* All of a block but its scale is random bits; the scale that gives DEVIATION
 * follows from the deviation of what those bits stand for. */
static void scale_block(enum gp_type t, uint8_t *block)
{
	switch (t) {
	case GP_TYPE_Q4_0: put_half(block, DEVIATION / 4.61f); break;
	case GP_TYPE_Q5_0: put_half(block, DEVIATION / 9.23f); break;
	case GP_TYPE_Q5_1: /* weight = d * q + m; q is 15.5 in the mean */
		put_half(block, DEVIATION / 9.23f);
		put_half(block + 2, -DEVIATION / 9.23f * 15.5f);
		break;
	case GP_TYPE_Q8_0: put_half(block, DEVIATION / 73.9f); break;
	case GP_TYPE_Q4_K: /* weight = d * scale * q - dmin * min; q is 7.5 in the mean */
		put_half(block, DEVIATION / 258);
		put_half(block + 2, DEVIATION / 258 * 7.5f);
		break;
	case GP_TYPE_Q5_K: /* as Q4_K; q is 15.5 in the mean */
		put_half(block, DEVIATION / 527);
		put_half(block + 2, DEVIATION / 527 * 15.5f);
		break;
	case GP_TYPE_Q6_K: put_half(block + 208, DEVIATION / 1367); break;
	case GP_TYPE_Q3_K: put_half(block + 108, DEVIATION / 43.3f); break;
	case GP_TYPE_IQ4_NL: put_half(block, DEVIATION / 67.4f); break;
	case GP_TYPE_IQ4_XS: put_half(block, DEVIATION / 1246); break;
	default: break;
	}
}

static void fill_floats(struct synth *s, uint8_t *pool, size_t bytes)
{
	for (size_t i = 0; i + 2 <= bytes; i += 2) {
		const float unit = (float)(next_random(s) >> 40) / (float)(1 << 23) - 1;
		const uint16_t h = gp_f32_to_bf16(unit * DEVIATION * 1.732f);

		memcpy(pool + i, &h, sizeof h);
	}
}

static void fill_blocks(struct synth *s, enum gp_type t, uint8_t *pool, size_t bytes)
{
	for (size_t i = 0; i + 8 <= bytes; i += 8) {
		const uint64_t bits = next_random(s);

		memcpy(pool + i, &bits, sizeof bits);
	}
	for (size_t i = 0; i < bytes; i += gp_type_info(t)->block_bytes)
		scale_block(t, pool + i);
}

static int need_pool(struct synth *s, enum gp_type t)
{
	const size_t block = gp_type_info(t)->block_bytes;

	if (s->pool[t])
		return 0;
	s->pool_bytes[t] = POOL_BYTES / block * block;
	s->pool[t] = calloc(1, s->pool_bytes[t]);
	if (!s->pool[t])
		return gp_fail(ENOMEM, "no memory for random blocks");
	if (t == GP_TYPE_BF16)
		fill_floats(s, s->pool[t], s->pool_bytes[t]);
	else
		fill_blocks(s, t, s->pool[t], s->pool_bytes[t]);
	return 0;
}

/* ---- shapes ------------------------------------------------------------------------------ */
static void shape(const struct gp_config *c, enum gp_tensor_id id, uint64_t *rows, uint64_t *cols)
{
	const uint64_t q = (uint64_t)c->n_heads * c->head_dim, kv = (uint64_t)c->n_kv_heads * c->head_dim;

	*rows = 0; /* a vector */
	*cols = c->hidden;
	switch (id) {
	case GP_T_TOKEN_EMBD: *rows = c->vocab; break;
	case GP_T_ATTN_Q: *rows = q; break;
	case GP_T_ATTN_K:
	case GP_T_ATTN_V: *rows = kv; break;
	case GP_T_ATTN_OUT: *rows = c->hidden; *cols = q; break;
	case GP_T_ATTN_Q_NORM:
	case GP_T_ATTN_K_NORM: *cols = c->head_dim; break;
	case GP_T_FFN_GATE:
	case GP_T_FFN_UP: *rows = c->ffn; break;
	case GP_T_FFN_DOWN: *rows = c->hidden; *cols = c->ffn; break;
	default: break;
	}
}

static bool is_iq4(enum gp_type t)
{
	return t == GP_TYPE_IQ4_NL || t == GP_TYPE_IQ4_XS;
}

/* What matters most has 5 bits in Q4_K_S and, made without an importance matrix, in
 * IQ4: the last matrix of the first eighth; the values of the first four layers, in
 * IQ4 all values that four heads or more share. */
static bool is_5_bit(const struct synth *s, enum gp_tensor_id id, uint32_t layer)
{
	const struct gp_config *c = &s->config;

	if (s->type != GP_TYPE_Q4_K && !is_iq4(s->type))
		return false;
	if (id == GP_T_ATTN_V)
		return is_iq4(s->type) ? c->n_heads >= 4 * c->n_kv_heads : layer < 4;
	return id == GP_T_FFN_DOWN && layer < c->n_layers / 8;
}

/* For rows that are no multiple of 256. */
static enum gp_type smaller_blocks(enum gp_type t)
{
	switch (t) {
	case GP_TYPE_Q3_K:
	case GP_TYPE_IQ4_XS: return GP_TYPE_IQ4_NL;
	case GP_TYPE_Q4_K: return GP_TYPE_Q5_0;
	case GP_TYPE_Q5_K: return GP_TYPE_Q5_1;
	case GP_TYPE_Q6_K: return GP_TYPE_Q8_0;
	default: return t;
	}
}

/* As llama.cpp's quantiser chooses for Q4_0, Q3_K_S, Q4_K_S, Q5_K_S, Q6_K, IQ4_NL,
 * IQ4_XS, Q8_0 and BF16. */
static enum gp_type type_of(const struct synth *s, enum gp_tensor_id id, uint32_t layer,
			    uint64_t rows, uint64_t cols)
{
	const bool large = s->type == GP_TYPE_BF16 || s->type == GP_TYPE_Q8_0;
	enum gp_type t = s->type;

	if (rows == 0)
		return s->folder ? GP_TYPE_BF16 : GP_TYPE_F32;
	if (id == GP_T_TOKEN_EMBD && !large)
		t = GP_TYPE_Q6_K;
	else if (is_5_bit(s, id, layer))
		t = GP_TYPE_Q5_K;
	return cols % gp_type_info(t)->block_elems ? smaller_blocks(t) : t;
}

static int each_tensor(struct synth *s, int (*visit)(struct synth *s, enum gp_tensor_id id,
						     uint32_t layer, enum gp_type t, uint64_t rows,
						     uint64_t cols))
{
	uint64_t rows, cols;
	int rc = 0;

	for (uint32_t l = 0; l < s->config.n_layers; l++)
		for (int i = l ? GP_T_PER_LAYER : 0; i < GP_T_COUNT && rc >= 0; i++) {
			const enum gp_tensor_id id = (enum gp_tensor_id)i;

			shape(&s->config, id, &rows, &cols);
			rc = visit(s, id, l, type_of(s, id, l, rows, cols), rows, cols);
		}
	return rc;
}

static int declare(struct synth *s, enum gp_tensor_id id, uint32_t layer, enum gp_type t,
		   uint64_t rows, uint64_t cols)
{
	size_t bytes;
	char name[64];
	int rc = gp_type_bytes(t, rows ? rows : 1, cols, &bytes);

	if (rc < 0)
		return rc;
	s->total += bytes;
	if (s->folder)
		return folder_out_add(s->folder, id, layer, rows, cols);
	gp_gguf_tensor_name(name, id, layer);
	return gp_gguf_add_tensor(s->writer, name, t, rows, cols);
}

static int put(struct synth *s, const void *data, size_t bytes)
{
	return s->folder ? folder_out_write(s->folder, data, bytes) :
	       gp_gguf_write(s->writer, data, bytes);
}

/* Near 1 with the offset that the format leaves out; n numbers of type t. */
static int write_norm(struct synth *s, enum gp_type t, uint64_t n)
{
	float *v = calloc((size_t)n, sizeof *v), *as_stored = calloc((size_t)n, sizeof *v);
	size_t bytes = 0;
	int rc = v && as_stored ? gp_type_bytes(t, 1, n, &bytes) :
	         gp_fail(ENOMEM, "no memory for a norm");

	for (uint64_t i = 0; i < n && rc == 0; i++)
		v[i] = 1 - s->config.norm_offset +
		       0.1f * ((float)(next_random(s) >> 40) / (float)(1 << 23) - 1);
	if (rc == 0 && (rc = gp_quantize(t, v, as_stored, (size_t)n)) == 0)
		rc = put(s, as_stored, bytes);
	free(v);
	free(as_stored);
	return rc;
}

/* From a random block of the pool on, round and round. */
static int write_blocks(struct synth *s, enum gp_type t, size_t bytes)
{
	const size_t block = gp_type_info(t)->block_bytes, pool = s->pool_bytes[t];
	size_t at = (size_t)(next_random(s) % (pool / block)) * block;
	int rc = 0;

	while (bytes && rc >= 0) {
		const size_t n = pool - at < bytes ? pool - at : bytes;

		rc = put(s, s->pool[t] + at, n);
		bytes -= n;
		at = 0;
	}
	return rc;
}

static int write_tensor(struct synth *s, enum gp_tensor_id id, uint32_t layer, enum gp_type t,
			uint64_t rows, uint64_t cols)
{
	size_t bytes = 0;
	int rc;

	(void)id;
	(void)layer;
	if ((rc = gp_type_bytes(t, rows ? rows : 1, cols, &bytes)) < 0)
		return rc;
	if (rows == 0)
		rc = write_norm(s, t, cols);
	else if ((rc = need_pool(s, t)) >= 0)
		rc = write_blocks(s, t, bytes);
	s->done += bytes;
	if (!s->cli.quiet && isatty(STDERR_FILENO))
		fprintf(stderr, "\rgempipe synth: %3.0f%%%s",
			100 * (double)s->done / (double)s->total, s->done == s->total ? "\n" : "");
	return rc;
}

/* ---- the vocabulary: Gemma's control and byte tokens at Gemma's ids, and "▁w123" ------- */
enum { PIECE_BYTES = 20, FIRST_BYTE_ID = 238, START_OF_TURN = 105, END_OF_TURN = 106 };

static const char *control_text(uint32_t id)
{
	static const char *const first[] = { "<pad>", "<eos>", "<bos>", "<unk>", "<mask>" };

	if (id < GP_ARRAY_LEN(first))
		return first[id];
	return id == START_OF_TURN ? "<start_of_turn>" : id == END_OF_TURN ? "<end_of_turn>" : NULL;
}

static int32_t name_piece(char text[PIECE_BYTES], uint32_t id)
{
	const char *control = control_text(id);

	if (control) {
		snprintf(text, PIECE_BYTES, "%s", control);
		return id == 3 ? GP_TOKEN_UNKNOWN : GP_TOKEN_CONTROL;
	}
	if (id >= FIRST_BYTE_ID && id < FIRST_BYTE_ID + 256) {
		snprintf(text, PIECE_BYTES, "<0x%02X>", id - FIRST_BYTE_ID);
		return GP_TOKEN_BYTE;
	}
	snprintf(text, PIECE_BYTES, "\u2581w%u", id);
	return GP_TOKEN_NORMAL;
}

static void fill_vocab(struct gp_vocab *v, char *texts)
{
	for (uint32_t i = 0; i < PIECES; i++) {
		char *text = texts + (size_t)i * PIECE_BYTES;

		v->kind[i] = name_piece(text, i);
		v->text[i] = text;
		v->text_bytes[i] = strlen(text);
		v->score[i] = v->kind[i] == GP_TOKEN_NORMAL ? -(float)i : 0;
	}
}

typedef int take_vocab(struct synth *s, const struct gp_vocab *v);

static int with_vocab(struct synth *s, take_vocab *take)
{
	struct gp_vocab v = {
		.n = PIECES, .text = calloc(PIECES, sizeof *v.text),
		.text_bytes = calloc(PIECES, sizeof *v.text_bytes),
		.score = calloc(PIECES, sizeof *v.score), .kind = calloc(PIECES, sizeof *v.kind),
		.bos = 2, .eos = 1, .end_of_turn = END_OF_TURN,
	};
	char *texts = calloc(PIECES, PIECE_BYTES);
	int rc = gp_fail(ENOMEM, "no memory for the vocabulary");

	if (texts && v.text && v.text_bytes && v.score && v.kind) {
		fill_vocab(&v, texts);
		rc = take(s, &v);
	}
	free(texts);
	free(v.text);
	free(v.text_bytes);
	free(v.score);
	free(v.kind);
	return rc;
}

/* ---- the file ------------------------------------------------------------------------------- */
static struct gp_config config_of(const struct size *z)
{
	struct gp_config c = {
		.n_layers = z->layers, .hidden = z->hidden, .n_heads = z->heads,
		.n_kv_heads = z->kv_heads, .head_dim = z->head_dim, .ffn = z->ffn,
		.vocab = z->vocab, .window = z->window, .context = z->context,
		.rope_base_local = 10000, .rope_base_global = 1000000,
		.rope_scale_global = z->rope_factor, .attn_scale = 1 / sqrtf(z->query_scalar),
		.rms_eps = 1e-6f, .norm_offset = 0, .bos = 2, .eos = 1,
	};

	for (uint32_t i = 0; i < c.n_layers; i++)
		c.is_global[i] = (i + 1) % 6 == 0;
	return c;
}

/* 0: no type of a whole file. */
static uint32_t file_type(enum gp_type t)
{
	/* llama.cpp's general.file_type; those of Q3_K_S, Q4_K_S and Q5_K_S. */
	static const uint8_t number[GP_TYPE_BF16 + 1] = {
		[GP_TYPE_Q4_0] = 2, [GP_TYPE_Q8_0] = 7, [GP_TYPE_Q3_K] = 11, [GP_TYPE_Q4_K] = 14,
		[GP_TYPE_Q5_K] = 16, [GP_TYPE_Q6_K] = 18, [GP_TYPE_IQ4_NL] = 25,
		[GP_TYPE_IQ4_XS] = 30, [GP_TYPE_BF16] = 32,
	};

	return number[t];
}

static int add_vocab(struct synth *s, const struct gp_vocab *v)
{
	return gp_gguf_add_vocab(s->writer, v, s->config.vocab);
}

static int synth_gguf(struct synth *s)
{
	char name[64];
	int rc;

	snprintf(name, sizeof name, "Gemma 3 %s of random weights", s->size->name);
	if ((rc = gp_gguf_writer_create(&s->writer, s->out)) < 0)
		return rc;
	cli_unlink_part_on_signal(s->out);
	if ((rc = gp_gguf_add_config(s->writer, &s->config, name)) < 0 ||
	    (rc = gp_gguf_add_u32(s->writer, "general.file_type", file_type(s->type))) < 0 ||
	    (rc = with_vocab(s, add_vocab)) < 0 || (rc = each_tensor(s, declare)) < 0 ||
	    (rc = each_tensor(s, write_tensor)) < 0)
		return rc;
	return gp_gguf_writer_finish(s->writer);
}

static int finish_folder(struct synth *s, const struct gp_vocab *v)
{
	return folder_out_finish(s->folder, &s->config, v);
}

static int synth_folder(struct synth *s)
{
	int rc = folder_out_create(&s->folder, s->out);

	s->type = GP_TYPE_BF16;
	s->config.norm_offset = 1;
	if (rc < 0 || (rc = each_tensor(s, declare)) < 0 || (rc = each_tensor(s, write_tensor)) < 0)
		return rc;
	return with_vocab(s, finish_folder);
}

static int synth(struct synth *s)
{
	s->config = config_of(s->size);
	return s->safetensors ? synth_folder(s) : synth_gguf(s);
}

static int size_option(struct synth *s)
{
	for (size_t i = 0; i < GP_ARRAY_LEN(sizes); i++)
		if (strcasecmp(optarg, sizes[i].name) == 0) {
			s->size = &sizes[i];
			return 0;
		}
	return cli_misused(&s->cli, "--size '%s': must be 270m, 1b, 4b, 12b or 27b", optarg);
}

static int type_option(struct synth *s)
{
	const struct gp_type_info *t = gp_type_by_name(optarg);

	if (!t || !file_type(t->type))
		return cli_misused(&s->cli, "--type '%s': must be " TYPES, optarg);
	s->type = t->type;
	s->has_type = true;
	return 0;
}

static int format_option(struct synth *s)
{
	s->safetensors = strcmp(optarg, "safetensors") == 0;
	return s->safetensors || strcmp(optarg, "gguf") == 0 ? 0 :
	       cli_misused(&s->cli, "--format '%s': must be gguf or safetensors", optarg);
}

static int own_option(struct synth *s, int o)
{
	switch (o) {
	case OPT_SIZE: return size_option(s);
	case OPT_TYPE: return type_option(s);
	case OPT_FORMAT: return format_option(s);
	case OPT_SEED:
		/* 0 is the generator's one fixed point. */
		if (gp_parse_u64("--seed", optarg, 1, UINT64_MAX, &s->random) < 0)
			return cli_misused(&s->cli, "%s", gp_error());
		return 0;
	default:
		s->out = optarg;
		return 0;
	}
}

static int parse(struct synth *s, int argc, char **argv)
{
	int o, status = 0;

	while ((o = getopt_long(argc, argv, "o:qh", options, NULL)) != -1 && status == 0) {
		if (o == '?')
			return cli_bad_option(&s->cli, argv);
		if (cli_option(&s->cli, o, help) == 1)
			status = own_option(s, o);
	}
	if (status)
		return status;
	if (optind < argc)
		return cli_misused(&s->cli, "'%s' is no option", argv[optind]);
	if (!s->size || !s->out)
		return cli_misused(&s->cli, "--size and -o OUT are needed");
	if (s->safetensors && s->has_type && s->type != GP_TYPE_BF16)
		return cli_misused(&s->cli, "--format safetensors holds bf16: leave --type out");
	/* Small seeds differ in few bits: spread them. */
	s->random *= 0x9e3779b97f4a7c15u;
	return 0;
}

int main(int argc, char **argv)
{
	struct synth s = { .type = GP_TYPE_Q4_0, .random = 1 };
	int status;

	cli_init(&s.cli, "synth");
	if ((status = parse(&s, argc, argv)) != 0)
		return status;
	if (synth(&s) < 0)
		status = cli_failed(&s.cli);
	gp_gguf_writer_destroy(s.writer);
	folder_out_destroy(s.folder);
	for (size_t i = 0; i < GP_ARRAY_LEN(s.pool); i++)
		free(s.pool[i]);
	return status;
}

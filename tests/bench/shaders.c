/* Speed of the Vulkan shaders for the shapes of Gemma 3 4B and 27B, by the device's own
 * clock. Each result is held against sums on the CPU first: what is wrong has no speed. */
#include <getopt.h>

#include "tests/bench/shaders.h"
#include "tests/common/vulkan_products.h"

#define MOST_COPIES 64u
#define SAMPLES 256u
#define HEAD_ROWS 32u

static const char usage[] =
	"Usage: bench-shaders [options]\n"
	"Speed of the shaders on the Vulkan device: products, attention, all others.\n"
	"      --model 4b|27b     shapes (default: both)\n"
	"      --type TYPE        of the weights (default q4_0)\n"
	"      --rows N[,N...]    activation rows (default 1,8,32,64,512)\n"
	"      --positions N[,N...]   of each sequence in attention (default 128,4096,32768)\n"
	"      --sequences N[,N...]   that attention decodes (default 1,8)\n"
	"      --only TEXT        products and shaders whose name contains TEXT\n"
	"      --tiling R,O,E,SR,SO   rows, outputs and elements of a work group's tile on\n"
	"                         matrix units, rows and outputs of a subgroup (default:\n"
	"                         chosen by what the device has)\n"
	"      --json             JSON lines\n"
	"Examples: bench-shaders --model 27b --type q4_k --rows 512 --only gate,up\n"
	"          bench-shaders --model 4b --only attention --positions 4096 --json\n";

static const struct model models[] = {
	{ "4b", { .n_layers = 1, .hidden = 2560, .n_heads = 8, .n_kv_heads = 4, .head_dim = 256,
	          .ffn = 10240, .vocab = 262208, .window = 1024, .context = 8192, .rms_eps = 1e-6f } },
	{ "27b", { .n_layers = 1, .hidden = 5376, .n_heads = 32, .n_kv_heads = 16, .head_dim = 128,
	           .ffn = 21504, .vocab = 262208, .window = 1024, .context = 8192, .rms_eps = 1e-6f } },
};

/* A product by the buffers between which it lies. */
struct shape {
	const char *name;
	enum gp_buffer from, to[3];
	uint32_t n_out;
	bool is_gated;             /* of two, to[0] becomes gelu(to[0]) * to[1] */
};

static const struct shape shapes[] = {
	{ "q,k,v", GP_BUF_NORMED, { GP_BUF_Q, GP_BUF_K, GP_BUF_V }, 3, false },
	{ "attn_output", GP_BUF_ATTN, { GP_BUF_BRANCH }, 1, false },
	{ "gate,up", GP_BUF_NORMED, { GP_BUF_GATE, GP_BUF_UP }, 2, false },
	{ "gated", GP_BUF_NORMED, { GP_BUF_GATE, GP_BUF_UP }, 2, true },
	{ "down", GP_BUF_GATE, { GP_BUF_BRANCH }, 1, false },
	{ "head", GP_BUF_NORMED, { GP_BUF_LOGITS }, 1, false },
};

struct bench {
	struct vulkan_device *d;
	const struct model *model;
	const struct shape *shape;
	enum gp_type type;
	uint32_t cols, n[3];
	gp_handle copies[MOST_COPIES][3];
	uint32_t n_copies;
	size_t bytes;                       /* of one copy */
	struct gp_tensor matrix[3];
	float *x, *y[3];
	uint32_t rows;                      /* in hand */
};

/* ---- set up --------------------------------------------------------------------- */
static uint32_t rows_of(const struct shape *s)
{
	return s->to[0] == GP_BUF_LOGITS ? HEAD_ROWS : MOST_ROWS;
}

static void configure(struct bench *b)
{
	struct gp_config c = b->model->c;
	const struct gp_stage_shape s = {
		.config = &c, .end_layer = 1, .embeds = true, .has_head = true,
		.max_rows = MOST_ROWS, .max_logit_rows = HEAD_ROWS, .max_sequences = 1,
		.context = c.context, .kv_type = GP_TYPE_F16 };

	c.rope_base_local = c.rope_base_global = 10000;
	c.rope_scale_global = c.attn_scale = 1;
	check(vulkan_configure(b->d, &s));
}

static uint32_t copies_for(const struct bench *b)
{
	const size_t n = COLD_BYTES / b->bytes + 1;

	return b->d->is_unified ? 1 : n < 2 ? 2 : n < MOST_COPIES ? (uint32_t)n : MOST_COPIES;
}

static void set_up(struct bench *b)
{
	struct vulkan_device *d = b->d;
	const struct shape *s = b->shape;
	const uint32_t rows = rows_of(s);

	configure(b);
	b->cols = d->width[s->from];
	for (uint32_t i = 0; i < s->n_out; i++) {
		b->n[i] = d->width[s->to[i]];
		b->matrix[i] = random_matrix(b->type, b->n[i], b->cols);
		b->bytes += b->matrix[i].bytes;
	}
	for (const uint32_t n = copies_for(b); b->n_copies < n; b->n_copies++)
		for (uint32_t i = 0; i < s->n_out; i++)
			check(vulkan_load(d, &b->matrix[i], 0, &b->copies[b->n_copies][i]));
	b->x = malloc((size_t)rows * b->cols * 4);
	check_fill(b->x, (size_t)rows * b->cols, FILL_RANDOM);
	check(vk_upload(d, &d->buffer[s->from], b->x, (size_t)rows * b->cols * 4));
	for (uint32_t i = 0; i < HEAD_ROWS; i++)
		((uint32_t *)(void *)d->picked.host)[i] = i;
	check(vulkan_finish_load(d));
}

static void tear_down(struct bench *b)
{
	vulkan_release(b->d);
	for (uint32_t i = 0; i < b->shape->n_out; i++) {
		free((void *)(uintptr_t)b->matrix[i].data);
		free(b->y[i]);
	}
	free(b->x);
}

/* ---- measure -------------------------------------------------------------------- */
static void product(void *arg, uint32_t copy)
{
	const struct gp_device_ops *ops = gp_vulkan_device.ops;
	const struct bench *b = arg;
	struct gp_matmul_out to[3];

	b->d->rows = b->d->logit_rows = b->rows;
	if (b->shape->to[0] == GP_BUF_LOGITS) {
		check(ops->head(b->d, b->copies[copy][0]));
		return;
	}
	if (b->shape->is_gated) {
		check(ops->gated_matmul(b->d, b->copies[copy][0], b->copies[copy][1]));
		return;
	}
	for (uint32_t i = 0; i < b->shape->n_out; i++)
		to[i] = (struct gp_matmul_out){ b->copies[copy][i], b->shape->to[i] };
	check(ops->matmul(b->d, b->shape->from, to, b->shape->n_out));
}

/* Of output n of a matrix and row m: the sum, and that of magnitudes. */
static void sum_of(const struct bench *b, uint32_t matrix, uint32_t m, uint32_t n, double *sum,
                   double *size)
{
	const struct gp_tensor *t = &b->matrix[matrix];
	const uint32_t cols = b->cols;
	float *w = malloc(cols * sizeof *w);

	if (!w)
		check(gp_fail(ENOMEM, "no memory for a row"));
	gp_dequantize(b->type, (const char *)t->data + n * (t->bytes / b->n[matrix]), w, cols);
	*sum = *size = 0;
	for (uint32_t k = 0; k < cols; k++) {
		*sum += (double)b->x[(size_t)m * cols + k] * w[k];
		*size += fabs((double)b->x[(size_t)m * cols + k] * w[k]);
	}
	free(w);
}

static double gelu(double x)
{
	return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static void sample(const struct bench *b)
{
	for (uint32_t s = 0; s < SAMPLES; s++) {
		const uint32_t i = b->shape->is_gated ? 0 : s % b->shape->n_out;
		const uint32_t n = check_random() % b->n[i], m = check_random() % b->rows;
		const float y = b->y[i][(size_t)m * b->n[i] + n];
		double sum, size, up, up_size;

		sum_of(b, i, m, n, &sum, &size);
		if (b->shape->is_gated) {
			sum_of(b, 1, m, n, &up, &up_size);
			size = size * fabs(up) + (fabs(sum) + 1) * up_size;
			sum = gelu(sum) * up;
		}
		check_near(b->shape->name, m, n, y, sum, 1e-3 * size);
	}
}

static void check_results(struct bench *b)
{
	b->d->is_quantized[b->shape->from] = false;   /* so many rows of it */
	run_once(b->d, product, b);
	for (uint32_t i = 0; i < b->shape->n_out; i++) {
		free(b->y[i]);
		b->y[i] = get(b->d, &b->d->buffer[b->shape->to[i]], (size_t)b->rows * b->n[i]);
	}
	sample(b);
}

static void report_product(const struct bench *b, double s, bool json)
{
	double flop = 0;

	for (uint32_t i = 0; i < b->shape->n_out; i++)
		flop += 2.0 * b->rows * b->cols * b->n[i];
	printf(json ? "{\"model\": \"%s\", \"product\": \"%s\", \"type\": \"%s\", \"rows\": %u, "
	              "\"us\": %.2f, \"gb_per_s\": %.1f, \"tflop_per_s\": %.2f}\n" :
	              "%-4s %-12s %-5s rows %4u %10.1f us %8.1f GB/s %8.2f TFLOP/s\n",
	       b->model->name, b->shape->name, gp_type_info(b->type)->name, b->rows, s * 1e6,
	       (double)b->bytes / s * 1e-9, flop / s * 1e-12);
	fflush(stdout);
}

static void bench_shape(struct vulkan_device *d, const struct model *m, const struct shape *s,
                        const struct options *o)
{
	struct bench b = { .d = d, .model = m, .shape = s, .type = o->type };

	set_up(&b);
	for (uint32_t i = 0; i < o->n_rows; i++) {
		b.rows = o->rows[i];
		if (b.rows > rows_of(s))
			continue;
		check_results(&b);
		report_product(&b, seconds(d, product, &b, b.n_copies), o->json);
	}
	tear_down(&b);
}

/* ---- options -------------------------------------------------------------------- */
static bool read_numbers(const char *text, uint32_t *to, uint32_t room, uint32_t most, uint32_t *n)
{
	char *end = NULL;

	for (*n = 0; *n < room; text = end + 1) {
		const unsigned long v = strtoul(text, &end, 10);

		if (end == text || v == 0 || v > most)
			return false;
		to[(*n)++] = (uint32_t)v;
		if (*end != ',')
			return !*end;
	}
	return false;
}

static bool read_tiling(const char *text, struct vk_tiling *t)
{
	uint32_t v[5], n;

	if (!read_numbers(text, v, 5, MOST_ROWS, &n) || n != 5)
		return false;
	*t = (struct vk_tiling){ v[0], v[1], v[2], v[3], v[4] };
	return true;
}

static bool read_option(int c, struct options *o)
{
	const struct gp_type_info *type;

	switch (c) {
	case 'm': o->model = optarg; return true;
	case 'o': o->only = optarg; return true;
	case 'j': o->json = true; return true;
	case 'r': return read_numbers(optarg, o->rows, 16, MOST_ROWS, &o->n_rows);
	case 'p': return read_numbers(optarg, o->positions, 16, 131072, &o->n_positions);
	case 's': return read_numbers(optarg, o->sequences, 16, 64, &o->n_sequences);
	case 'T': return read_tiling(optarg, &o->tiling);
	case 't':
		type = gp_type_by_name(optarg);
		o->type = type ? type->type : GP_TYPE_F32;
		return type;
	default: return false;
	}
}

static void read_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{ "model", required_argument, NULL, 'm' }, { "type", required_argument, NULL, 't' },
		{ "rows", required_argument, NULL, 'r' }, { "only", required_argument, NULL, 'o' },
		{ "positions", required_argument, NULL, 'p' },
		{ "sequences", required_argument, NULL, 's' },
		{ "tiling", required_argument, NULL, 'T' }, { "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' }, { 0 },
	};

	for (int c; (c = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
		if (c == 'h') {
			fputs(usage, stdout);
			exit(0);
		}
		if (!read_option(c, o)) {
			fputs(usage, stderr);
			exit(2);
		}
	}
}

static void bench_model(struct vulkan_device *d, const struct model *m, const struct options *o)
{
	for (size_t i = 0; i < GP_ARRAY_LEN(shapes); i++)
		if (is_wanted(o, shapes[i].name))
			bench_shape(d, m, &shapes[i], o);
	bench_attention(d, m, o);
	bench_ops(d, m, o);
}

int main(int argc, char **argv)
{
	struct options o = { .type = GP_TYPE_Q4_0, .rows = { 1, 8, 32, 64, 512 }, .n_rows = 5,
	                     .positions = { 128, 4096, 32768 }, .n_positions = 3,
	                     .sequences = { 1, 8 }, .n_sequences = 2 };
	void *dev;

	check_state = 1;
	read_options(argc, argv, &o);
	check(gp_vulkan_device.open(&dev, &(struct gp_device_options){ 0 }));
	struct vulkan_device *d = dev;

	if (o.tiling.rows && (!d->many.tiling[0].rows || !vk_tiling_fits(&d->features, &o.tiling)))
		check(gp_fail(EINVAL, "--tiling: the device has no matrix units, or too little shared "
		              "memory or registers for this"));
	if (o.tiling.rows)
		d->many.tiling[0] = d->many.tiling[1] = o.tiling;
	for (size_t m = 0; m < GP_ARRAY_LEN(models); m++)
		if (!o.model || !strcmp(o.model, models[m].name))
			bench_model(d, &models[m], &o);
	gp_vulkan_device.close(dev);
	return 0;
}

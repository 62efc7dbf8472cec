/* Speed of the Vulkan shaders for the shapes of Gemma 3 4B and 27B, by the device's own
 * clock. Each result is held against sums on the CPU first: what is wrong has no speed. */
#include <getopt.h>

#include "tests/common/vulkan_products.h"

#define COLD_BYTES ((size_t)512 << 20)  /* of weights read in turn: more than caches hold */
#define MOST_COPIES 64u
#define RUNS 5u
#define SAMPLES 256u
#define MOST_ROWS 512u

static const char usage[] =
	"Usage: bench-shaders [options]\n"
	"Speed of matrix products on the Vulkan device.\n"
	"      --model 4b|27b     shapes (default: both)\n"
	"      --type TYPE        of the weights (default q4_0)\n"
	"      --rows N[,N...]    activation rows (default 1,8,32,64,512)\n"
	"      --only TEXT        products whose name contains TEXT\n"
	"      --tiling R,O,E,SR,SO,T   rows, outputs and elements of a work group's tile on\n"
	"                         matrix units, rows and outputs of a subgroup, tiles in\n"
	"                         shared memory (default: chosen by the device)\n"
	"      --json             JSON lines\n"
	"Example: bench-shaders --model 27b --type q4_k --rows 512\n";

struct options {
	const char *model, *only;
	enum gp_type type;
	uint32_t rows[16], n_rows;
	struct vk_tiling tiling;
	bool json;
};

struct shape {
	const char *model, *name;
	uint32_t cols, n[3], n_out;
};

static const struct shape shapes[] = {
	{ "4b", "q,k,v", 2560, { 2048, 1024, 1024 }, 3 }, { "4b", "attn_output", 2048, { 2560 }, 1 },
	{ "4b", "gate,up", 2560, { 10240, 10240 }, 2 }, { "4b", "down", 10240, { 2560 }, 1 },
	{ "4b", "head", 2560, { 262208 }, 1 },
	{ "27b", "q,k,v", 5376, { 4096, 2048, 2048 }, 3 }, { "27b", "attn_output", 4096, { 5376 }, 1 },
	{ "27b", "gate,up", 5376, { 21504, 21504 }, 2 }, { "27b", "down", 21504, { 5376 }, 1 },
	{ "27b", "head", 5376, { 262208 }, 1 },
};

/* The buffers of a step stand for any widths here. */
static const enum gp_buffer outs[] = { GP_BUF_Q, GP_BUF_K, GP_BUF_V };

struct bench {
	struct vulkan_device *d;
	const struct shape *shape;
	enum gp_type type;
	gp_handle copies[MOST_COPIES][3];
	uint32_t n_copies;
	size_t bytes;                       /* of one copy */
	struct gp_tensor matrix[3];
	float *x, *y[3];
	VkQueryPool queries;
	double ns_per_tick;
};

static void die(void)
{
	fprintf(stderr, "bench-shaders: %s\n", gp_error());
	exit(1);
}

static void check(int rc)
{
	if (rc < 0)
		die();
}

/* ---- set up --------------------------------------------------------------------- */
static void open_queries(struct bench *b)
{
	const VkQueryPoolCreateInfo info = { .sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
	                                     .queryType = VK_QUERY_TYPE_TIMESTAMP, .queryCount = 2 };
	VkPhysicalDeviceProperties p;

	vkGetPhysicalDeviceProperties(b->d->physical, &p);
	b->ns_per_tick = (double)p.limits.timestampPeriod;
	if (vkCreateQueryPool(b->d->device, &info, NULL, &b->queries) < 0) {
		gp_fail(EIO, "the device has no timestamps");
		die();
	}
}

static void take_span(struct bench *b, enum gp_buffer to, uint32_t rows, uint32_t width)
{
	struct vulkan_device *d = b->d;

	d->width[to] = width;
	check(vk_take(d, &d->work_arena, (size_t)rows * width * 4, "activations", &d->buffer[to]));
}

static void set_up(struct bench *b, const struct shape *s, enum gp_type type, uint32_t rows)
{
	struct vulkan_device *d = b->d;
	const uint32_t head_rows = s->n[0] > 100000 ? 32 : rows;

	*b = (struct bench){ .d = d, .shape = s, .type = type };
	open_queries(b);
	memset(d->width, 0, sizeof d->width);
	d->config.hidden = 5376;
	take_span(b, GP_BUF_NORMED, rows, s->cols);
	for (uint32_t i = 0; i < s->n_out; i++) {
		b->matrix[i] = random_matrix(type, s->n[i], s->cols);
		b->bytes += b->matrix[i].bytes;
		take_span(b, outs[i], head_rows, s->n[i]);
		b->y[i] = malloc((size_t)head_rows * s->n[i] * 4);
	}
	check(vk_many_take(d, rows));
	while (b->n_copies < MOST_COPIES && (b->n_copies < 2 || b->n_copies * b->bytes < COLD_BYTES)) {
		for (uint32_t i = 0; i < s->n_out; i++)
			check(vulkan_load(d, &b->matrix[i], 0, &b->copies[b->n_copies][i]));
		b->n_copies++;
	}
	b->x = malloc((size_t)rows * s->cols * 4);
	check_fill(b->x, (size_t)rows * s->cols, FILL_RANDOM);
	check(vk_upload(d, &d->buffer[GP_BUF_NORMED], b->x, (size_t)rows * s->cols * 4));
}

static void tear_down(struct bench *b)
{
	vkDestroyQueryPool(b->d->device, b->queries, NULL);
	vulkan_release(b->d);
	for (uint32_t i = 0; i < b->shape->n_out; i++) {
		free((void *)(uintptr_t)b->matrix[i].data);
		free(b->y[i]);
	}
	free(b->x);
}

/* ---- measure -------------------------------------------------------------------- */
static void product(struct bench *b, const struct gp_batch *batch, uint32_t copy)
{
	struct gp_matmul_out to[3];

	for (uint32_t i = 0; i < b->shape->n_out; i++)
		to[i] = (struct gp_matmul_out){ b->copies[copy][i], outs[i] };
	b->d->batch = batch;
	check(gp_vulkan_device.ops->matmul(b->d, GP_BUF_NORMED, to, b->shape->n_out));
}

static void sample(const struct bench *b, uint32_t rows)
{
	const uint32_t cols = b->shape->cols;
	float *w = malloc(cols * sizeof *w);

	for (uint32_t s = 0; s < SAMPLES; s++) {
		const uint32_t i = s % b->shape->n_out, n = check_random() % b->shape->n[i];
		const uint32_t m = check_random() % rows;
		const size_t row_bytes = b->matrix[i].bytes / b->shape->n[i];
		const float y = b->y[i][(size_t)m * b->shape->n[i] + n];
		double sum = 0, size = 0;

		gp_dequantize(b->type, (const char *)b->matrix[i].data + n * row_bytes, w, cols);
		for (uint32_t k = 0; k < cols; k++) {
			sum += (double)b->x[(size_t)m * cols + k] * w[k];
			size += fabs((double)b->x[(size_t)m * cols + k] * w[k]);
		}
		if (!(fabs(sum - y) <= 1e-3 * size)) {
			gp_fail(EIO, "%s %s: [%u][%u] is %g, not %g", b->shape->model,
			        b->shape->name, m, n, (double)y, sum);
			die();
		}
	}
	free(w);
}

static void check_results(struct bench *b, const struct gp_batch *batch)
{
	check(vk_begin_commands(b->d));
	product(b, batch, b->n_copies - 1);
	check(vk_run_commands(b->d));
	for (uint32_t i = 0; i < b->shape->n_out; i++) {
		const size_t bytes = (size_t)batch->n_rows * b->shape->n[i] * 4;
		struct vk_arena back = { .kind = VK_MEMORY_TO_HOST };
		struct vk_span to;

		check(vk_take(b->d, &back, bytes, "results", &to));
		check(vk_begin_commands(b->d));
		vkCmdCopyBuffer(b->d->commands, b->d->buffer[outs[i]].buffer, to.buffer, 1,
		                &(VkBufferCopy){ b->d->buffer[outs[i]].offset, to.offset, bytes });
		check(vk_run_commands(b->d));
		memcpy(b->y[i], to.host, bytes);
		vk_give_all(b->d, &back);
	}
	sample(b, batch->n_rows);
}

/* Seconds of one product, the fastest of several runs over all copies. */
static double seconds(struct bench *b, const struct gp_batch *batch)
{
	double best = INFINITY;

	for (uint32_t run = 0; run < RUNS; run++) {
		uint64_t ticks[2];

		check(vk_begin_commands(b->d));
		vkCmdResetQueryPool(b->d->commands, b->queries, 0, 2);
		vkCmdWriteTimestamp(b->d->commands, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, b->queries, 0);
		for (uint32_t i = 0; i < b->n_copies; i++)
			product(b, batch, i);
		vkCmdWriteTimestamp(b->d->commands, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, b->queries, 1);
		check(vk_run_commands(b->d));
		vkGetQueryPoolResults(b->d->device, b->queries, 0, 2, sizeof ticks, ticks, 8,
		                      VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT);
		best = fmin(best, (double)(ticks[1] - ticks[0]));
	}
	return best * b->ns_per_tick * 1e-9 / b->n_copies;
}

static void report(const struct bench *b, uint32_t rows, double s, bool json)
{
	double flop = 0;

	for (uint32_t i = 0; i < b->shape->n_out; i++)
		flop += 2.0 * rows * b->shape->cols * b->shape->n[i];
	printf(json ? "{\"model\": \"%s\", \"product\": \"%s\", \"type\": \"%s\", \"rows\": %u, "
	              "\"us\": %.2f, \"gb_per_s\": %.1f, \"tflop_per_s\": %.2f}\n" :
	              "%-4s %-12s %-5s rows %4u %10.1f us %8.1f GB/s %8.2f TFLOP/s\n",
	       b->shape->model, b->shape->name, gp_type_info(b->type)->name, rows, s * 1e6,
	       (double)b->bytes / s * 1e-9, flop / s * 1e-12);
	fflush(stdout);
}

static void bench_shape(struct vulkan_device *d, const struct shape *s, const struct options *o)
{
	struct bench b = { .d = d };

	set_up(&b, s, o->type, MOST_ROWS);
	for (uint32_t i = 0; i < o->n_rows; i++) {
		const struct gp_batch batch = { .n_rows = o->rows[i] };

		if (s->n[0] > 100000 && batch.n_rows > 32)
			continue;
		check_results(&b, &batch);
		report(&b, batch.n_rows, seconds(&b, &batch), o->json);
	}
	tear_down(&b);
}

/* ---- options -------------------------------------------------------------------- */
static bool read_numbers(const char *text, uint32_t *to, uint32_t most, uint32_t *n)
{
	char *end = NULL;

	for (*n = 0; *n < most; text = end + 1) {
		const unsigned long v = strtoul(text, &end, 10);

		if (end == text || v == 0 || v > MOST_ROWS)
			return false;
		to[(*n)++] = (uint32_t)v;
		if (*end != ',')
			return !*end;
	}
	return false;
}

static bool read_tiling(const char *text, struct vk_tiling *t)
{
	uint32_t v[6], n;

	if (!read_numbers(text, v, 6, &n) || n != 6)
		return false;
	*t = (struct vk_tiling){ v[0], v[1], v[2], v[3], v[4], v[5] };
	return true;
}

static bool read_option(int c, struct options *o)
{
	const struct gp_type_info *type;

	switch (c) {
	case 'm': o->model = optarg; return true;
	case 'o': o->only = optarg; return true;
	case 'j': o->json = true; return true;
	case 'r': return read_numbers(optarg, o->rows, GP_ARRAY_LEN(o->rows), &o->n_rows);
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

int main(int argc, char **argv)
{
	struct options o = { .type = GP_TYPE_Q4_0, .rows = { 1, 8, 32, 64, 512 }, .n_rows = 5 };
	void *dev;

	read_options(argc, argv, &o);
	check(gp_vulkan_device.open(&dev, 0, 0));
	struct vulkan_device *d = dev;

	if (o.tiling.rows)
		d->many.tiling[0] = d->many.tiling[1] = o.tiling;
	for (size_t i = 0; i < GP_ARRAY_LEN(shapes); i++)
		if ((!o.model || !strcmp(o.model, shapes[i].model)) &&
		    (!o.only || strstr(shapes[i].name, o.only)))
			bench_shape(d, &shapes[i], &o);
	gp_vulkan_device.close(dev);
	return 0;
}

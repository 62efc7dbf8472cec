/* Timing on the device's clock, checking, telling. */
#include "tests/bench/shaders.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "tests/kernels/check.h"

#define WARM_NS 300000000u      /* until a device has left its idle clock */
#define TIMED_NS 50000000u

void die(void)
{
	fprintf(stderr, "bench-shaders: %s\n", gp_error());
	exit(1);
}

void check(int rc)
{
	if (rc < 0)
		die();
}

void check_near(const char *what, uint32_t row, uint32_t i, float y, double want, double tolerance)
{
	if (!(fabs(want - y) <= tolerance))
		check(gp_fail(EIO, "%s: [%u][%u] is %g, not %g", what, row, i, (double)y, want));
}

/* ---- data ----------------------------------------------------------------------- */
float *random_floats(size_t n)
{
	float *x = malloc(n * sizeof *x);

	if (!x)
		check(gp_fail(ENOMEM, "no memory for %zu floats", n));
	if (!check_state)
		check_state = 1;
	check_fill(x, n, FILL_RANDOM);
	return x;
}

struct gp_tensor random_vector(uint32_t n)
{
	float *x = random_floats(n);

	for (uint32_t i = 0; i < n; i++)
		x[i] = 1 + x[i] / 4;
	return (struct gp_tensor){ .name = "vector", .type = GP_TYPE_F32, .rows = 1, .cols = n,
	                           .data = x, .bytes = n * sizeof *x };
}

void put(struct vulkan_device *d, enum gp_buffer b, const float *x, size_t n)
{
	check(vk_upload(d, &d->buffer[b], x, n * sizeof *x));
}

float *get(struct vulkan_device *d, const struct vk_span *from, size_t n)
{
	struct vk_arena back = { .kind = VK_MEMORY_TO_HOST };
	float *x = malloc(n * sizeof *x);
	struct vk_span to;

	if (!x)
		check(gp_fail(ENOMEM, "no memory for %zu floats", n));
	check(vk_take(d, &back, n * sizeof *x, "results", &to));
	check(vk_begin_commands(d));
	vk_barrier_of_begin(d);
	vkCmdCopyBuffer(d->commands, from->buffer, to.buffer, 1,
	                &(VkBufferCopy){ from->offset, to.offset, n * sizeof *x });
	check(vk_run_commands(d));
	memcpy(x, to.host, n * sizeof *x);
	vk_give_all(d, &back);
	return x;
}

/* ---- timing --------------------------------------------------------------------- */
static VkQueryPool open_queries(struct vulkan_device *d)
{
	const VkQueryPoolCreateInfo info = { .sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
	                                     .queryType = VK_QUERY_TYPE_TIMESTAMP, .queryCount = 2 };
	VkQueryPool queries = VK_NULL_HANDLE;

	if (!d->timestamp_bits || vkCreateQueryPool(d->device, &info, NULL, &queries) < 0)
		check(gp_fail(EIO, "the device has no timestamps"));
	return queries;
}

static double ticks_of(struct vulkan_device *d, VkQueryPool queries,
                       void (*run)(void *arg, uint32_t i), void *arg, uint32_t n)
{
	uint64_t ticks[2] = { 0 };

	check(vk_begin_commands(d));
	vk_barrier_of_begin(d);
	vkCmdResetQueryPool(d->commands, queries, 0, 2);
	vkCmdWriteTimestamp(d->commands, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, queries, 0);
	for (uint32_t i = 0; i < n; i++)
		run(arg, i);
	vkCmdWriteTimestamp(d->commands, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, queries, 1);
	check(vk_run_commands(d));
	vkGetQueryPoolResults(d->device, queries, 0, 2, sizeof ticks, ticks, 8,
	                      VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT);
	return (double)(ticks[1] - ticks[0]);
}

double seconds(struct vulkan_device *d, void (*run)(void *arg, uint32_t i), void *arg, uint32_t n)
{
	static bool is_warm;
	const uint64_t warm = gp_now_ns() + (is_warm ? WARM_NS / 10 : WARM_NS);
	const VkQueryPool queries = open_queries(d);
	double best = INFINITY;

	while (!d->is_unified && gp_now_ns() < warm)
		ticks_of(d, queries, run, arg, n);
	is_warm = true;
	const uint64_t end = gp_now_ns() + TIMED_NS;
	do
		best = fmin(best, ticks_of(d, queries, run, arg, n));
	while (gp_now_ns() < end && !d->is_unified);
	vkDestroyQueryPool(d->device, queries, NULL);
	return best * d->timestamp_ns * 1e-9 / n;
}

void run_once(struct vulkan_device *d, void (*run)(void *arg, uint32_t i), void *arg)
{
	check(vk_begin_commands(d));
	vk_barrier_of_begin(d);
	run(arg, 0);
	check(vk_run_commands(d));
}

/* ---- telling ---------------------------------------------------------------------- */
bool is_wanted(const struct options *o, const char *name)
{
	return !o->only || strstr(name, o->only);
}

void report(const struct options *o, const char *model, const char *shader, const char *of,
            uint32_t rows, double s, double bytes, double flop)
{
	printf(o->json ? "{\"model\": \"%s\", \"shader\": \"%s\", \"of\": \"%s\", \"rows\": %u, "
	                 "\"us\": %.2f, \"gb_per_s\": %.1f" :
	                 "%-4s %-18s %-18s rows %4u %10.1f us %8.1f GB/s",
	       model, shader, of, rows, s * 1e6, bytes / s * 1e-9);
	if (flop > 0)
		printf(o->json ? ", \"tflop_per_s\": %.2f" : " %8.2f TFLOP/s", flop / s * 1e-12);
	puts(o->json ? "}" : "");
	fflush(stdout);
}

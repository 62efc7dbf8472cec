/* Matrix products on a Vulkan device without a model around them, for the test and the
 * benchmark of shaders. Include cmocka.h's standard headers first. */
#ifndef TESTS_COMMON_VULKAN_PRODUCTS_H
#define TESTS_COMMON_VULKAN_PRODUCTS_H

#include <math.h>
#include <string.h>

#include "tests/kernels/check.h"
#include "workers/vulkan/vulkan_device.h"
#include "workers/workers.h"

#define CANARY 64u             /* floats after the outputs */

struct product {
	struct vulkan_device *d;
	struct vk_span x, y, picked;       /* rows in, rows out */
};

/* For products of up to so many rows with matrices of up to cols x n. */
static inline void product_open(struct product *p, uint32_t rows, uint32_t cols, uint32_t n)
{
	void *dev;

	if (gp_vulkan_device.open(&dev, &(struct gp_device_options){ 0 }) < 0)
		fail_msg("%s", gp_error());
	p->d = dev;
	rows = (rows + VK_ROW_STEP - 1) / VK_ROW_STEP * VK_ROW_STEP;
	p->d->width[GP_BUF_GATE] = cols;
	p->d->width[GP_BUF_NORMED] = 4;    /* so that there is room for tiles, whatever else is */
	p->d->config.hidden = n;
	if (vk_take(p->d, &p->d->in_arena, (size_t)rows * cols * 4, "rows", &p->x) < 0 ||
	    vk_take(p->d, &p->d->in_arena, rows * sizeof(uint32_t), "rows", &p->picked) < 0 ||
	    vk_take(p->d, &p->d->out_arena, ((size_t)rows * n + CANARY) * 4, "rows", &p->y) < 0 ||
	    vk_many_take(p->d, rows) < 0)
		fail_msg("%s", gp_error());
}

static inline void product_close(struct product *p)
{
	gp_vulkan_device.close(p->d);
}

static inline struct vk_weight product_weight(struct product *p, const struct gp_tensor *t)
{
	gp_handle h;

	if (vulkan_load(p->d, t, 0, &h) < 0)
		fail_msg("%s", gp_error());
	return p->d->weights[h - 1];
}

static inline float half_random(float scale)
{
	return gp_f16_to_f32(gp_f32_to_f16(check_uniform() * scale));
}

/* A matrix of random values: of random bits where the type has scales. */
static inline struct gp_tensor random_matrix(enum gp_type type, uint32_t rows, uint32_t cols)
{
	struct gp_tensor t = { .type = type, .rows = rows, .cols = cols };

	assert_int_equal(gp_type_bytes(type, rows, cols, &t.bytes), 0);
	uint8_t *bytes = malloc(t.bytes);
	assert_non_null(bytes);
	t.data = bytes;
	if (gp_type_info(type)->block_elems > 1) {
		check_random_blocks(type, bytes, t.bytes);
		return t;
	}
	for (size_t i = 0; i < (size_t)rows * cols; i++) {
		const float f = half_random(0.05f);
		uint32_t bits;

		memcpy(&bits, &f, 4);
		if (type == GP_TYPE_F32)
			memcpy(bytes + i * 4, &f, 4);
		else
			((uint16_t *)(void *)bytes)[i] =
				type == GP_TYPE_F16 ? gp_f32_to_f16(f) : (uint16_t)(bits >> 16);
	}
	return t;
}

#endif

/* Pipelines from the SPIR-V that the build put into this file. */
#include "workers/vulkan/vulkan_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define MOST_CONSTANTS 16u

static const uint32_t embed[] =
#include "shaders/embed.comp.inc"
;
static const uint32_t rms_norm[] =
#include "shaders/rms_norm.comp.inc"
;
static const uint32_t matmul_int8_1[] =
#include "shaders/matmul_int8_1.comp.inc"
;
static const uint32_t matmul_int8_2[] =
#include "shaders/matmul_int8_2.comp.inc"
;
static const uint32_t matmul_int8_4[] =
#include "shaders/matmul_int8_4.comp.inc"
;
static const uint32_t matmul_int8_8[] =
#include "shaders/matmul_int8_8.comp.inc"
;
static const uint32_t matmul_int8_16[] =
#include "shaders/matmul_int8_16.comp.inc"
;
static const uint32_t matmul_float_1[] =
#include "shaders/matmul_float_1.comp.inc"
;
static const uint32_t matmul_float_2[] =
#include "shaders/matmul_float_2.comp.inc"
;
static const uint32_t matmul_float_4[] =
#include "shaders/matmul_float_4.comp.inc"
;
static const uint32_t matmul_float_8[] =
#include "shaders/matmul_float_8.comp.inc"
;
static const uint32_t matmul_float_16[] =
#include "shaders/matmul_float_16.comp.inc"
;
static const uint32_t quantize[] =
#include "shaders/quantize.comp.inc"
;
static const uint32_t elementwise[] =
#include "shaders/elementwise.comp.inc"
;
static const uint32_t qk_rope_append[] =
#include "shaders/qk_rope_append.comp.inc"
;
static const uint32_t attention[] =
#include "shaders/attention.comp.inc"
;
static const uint32_t matmul_many[] =
#include "shaders/matmul_many.comp.inc"
;
static const uint32_t pack_skinny[] =
#include "shaders/pack_skinny.comp.inc"
;
static const uint32_t pack_rows[] =
#include "shaders/pack_rows.comp.inc"
;
static const uint32_t chunk_maxima[] =
#include "shaders/chunk_maxima.comp.inc"
;
static const uint32_t pick_chunks[] =
#include "shaders/pick_chunks.comp.inc"
;
static const uint32_t sum_parts[] =
#include "shaders/sum_parts.comp.inc"
;
#ifdef GP_COOPMAT
static const uint32_t matmul_many_coopmat[] =
#include "shaders/matmul_many_coopmat.comp.inc"
;
static const uint32_t matmul_skinny_coopmat[] =
#include "shaders/matmul_skinny_coopmat.comp.inc"
;
static const uint32_t attention_tile_coopmat[] =
#include "shaders/attention_tile_coopmat.comp.inc"
;
static const uint32_t probe_coopmat[] =
#include "shaders/probe_coopmat.comp.inc"
;
#endif

static const struct { const uint32_t *code; size_t bytes; const char *name; } shaders[] = {
	[VK_EMBED] = { embed, sizeof embed, "embed" },
	[VK_RMS_NORM] = { rms_norm, sizeof rms_norm, "rms_norm" },
	[VK_MATMUL_INT8_1] = { matmul_int8_1, sizeof matmul_int8_1, "matmul_int8_1" },
	[VK_MATMUL_INT8_2] = { matmul_int8_2, sizeof matmul_int8_2, "matmul_int8_2" },
	[VK_MATMUL_INT8_4] = { matmul_int8_4, sizeof matmul_int8_4, "matmul_int8_4" },
	[VK_MATMUL_INT8_8] = { matmul_int8_8, sizeof matmul_int8_8, "matmul_int8_8" },
	[VK_MATMUL_INT8_16] = { matmul_int8_16, sizeof matmul_int8_16, "matmul_int8_16" },
	[VK_MATMUL_FLOAT_1] = { matmul_float_1, sizeof matmul_float_1, "matmul_float_1" },
	[VK_MATMUL_FLOAT_2] = { matmul_float_2, sizeof matmul_float_2, "matmul_float_2" },
	[VK_MATMUL_FLOAT_4] = { matmul_float_4, sizeof matmul_float_4, "matmul_float_4" },
	[VK_MATMUL_FLOAT_8] = { matmul_float_8, sizeof matmul_float_8, "matmul_float_8" },
	[VK_MATMUL_FLOAT_16] = { matmul_float_16, sizeof matmul_float_16, "matmul_float_16" },
	[VK_QUANTIZE] = { quantize, sizeof quantize, "quantize" },
	[VK_ELEMENTWISE] = { elementwise, sizeof elementwise, "elementwise" },
	[VK_QK_ROPE_APPEND] = { qk_rope_append, sizeof qk_rope_append, "qk_rope_append" },
	[VK_ATTENTION] = { attention, sizeof attention, "attention" },
	[VK_MATMUL_MANY] = { matmul_many, sizeof matmul_many, "matmul_many" },
	[VK_PACK_ROWS] = { pack_rows, sizeof pack_rows, "pack_rows" },
	[VK_PACK_SKINNY] = { pack_skinny, sizeof pack_skinny, "pack_skinny" },
	[VK_CHUNK_MAXIMA] = { chunk_maxima, sizeof chunk_maxima, "chunk_maxima" },
	[VK_PICK_CHUNKS] = { pick_chunks, sizeof pick_chunks, "pick_chunks" },
	[VK_SUM_PARTS] = { sum_parts, sizeof sum_parts, "sum_parts" },
#ifdef GP_COOPMAT
	[VK_MATMUL_MANY_COOPMAT] = { matmul_many_coopmat, sizeof matmul_many_coopmat,
	                             "matmul_many_coopmat" },
	[VK_MATMUL_SKINNY_COOPMAT] = { matmul_skinny_coopmat, sizeof matmul_skinny_coopmat,
	                               "matmul_skinny_coopmat" },
	[VK_ATTENTION_TILE_COOPMAT] = { attention_tile_coopmat, sizeof attention_tile_coopmat,
	                                "attention_tile_coopmat" },
	[VK_PROBE_COOPMAT] = { probe_coopmat, sizeof probe_coopmat, "probe_coopmat" },
#endif
};

bool vk_has_shader(enum vk_shader s)
{
	return shaders[s].code;
}

static int module_of(struct vulkan_device *d, enum vk_shader s)
{
	const VkShaderModuleCreateInfo info = {
		.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
		.codeSize = shaders[s].bytes, .pCode = shaders[s].code };

	if (d->modules[s])
		return 0;
	const VkResult r = vkCreateShaderModule(d->device, &info, NULL, &d->modules[s]);
	return r < 0 ? vk_fail(r, shaders[s].name) : 0;
}

int vk_create_pipeline(struct vulkan_device *d, enum vk_shader s, const uint32_t *constants,
                       uint32_t n, uint32_t subgroup, VkPipeline *out)
{
	VkSpecializationMapEntry entries[MOST_CONSTANTS];
	const VkSpecializationInfo special = { n, entries, n * sizeof *constants, constants };
	const VkPipelineShaderStageRequiredSubgroupSizeCreateInfoEXT size = {
		.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO_EXT,
		.requiredSubgroupSize = subgroup };
	VkComputePipelineCreateInfo info = {
		.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO, .layout = d->layout,
		.stage = { .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
		           .stage = VK_SHADER_STAGE_COMPUTE_BIT, .pName = "main",
		           .pSpecializationInfo = &special } };
	const int rc = module_of(d, s);

	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < n; i++)
		entries[i] = (VkSpecializationMapEntry){ i, i * 4, 4 };
	info.stage.module = d->modules[s];
	if (subgroup)
		info.stage.pNext = &size;
	if (subgroup || d->features.whole_subgroups)
		info.stage.flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT_EXT;
	const VkResult r = vkCreateComputePipelines(d->device, d->cache, 1, &info, NULL, out);
	return r < 0 ? vk_fail(r, shaders[s].name) : 0;
}

int vk_variant(struct vulkan_device *d, enum vk_shader s, const struct vk_constants *c,
               VkPipeline *out)
{
	int rc;

	for (uint32_t i = 0; i < d->n_pipelines; i++)
		if (d->pipelines[i].shader == s && !memcmp(&d->pipelines[i].constants, c, sizeof *c)) {
			*out = d->pipelines[i].pipeline;
			return 0;
		}
	if (d->n_pipelines == d->pipelines_room) {
		const uint32_t room = d->pipelines_room ? d->pipelines_room * 2 : 64;
		struct vk_made_pipeline *grown = realloc(d->pipelines, room * sizeof *grown);

		if (!grown)
			return gp_fail(ENOMEM, "no memory for %u pipelines", room);
		d->pipelines = grown;
		d->pipelines_room = room;
	}
	if ((rc = vk_create_pipeline(d, s, c->v, VK_CONSTANTS, d->features.lanes, out)) < 0)
		return rc;
	d->pipelines[d->n_pipelines++] = (struct vk_made_pipeline){ s, *c, *out };
	return 0;
}

int vk_pipeline(struct vulkan_device *d, enum vk_shader s, uint32_t constant, VkPipeline *out)
{
	return vk_variant(d, s, &(struct vk_constants){ { constant } }, out);
}

void vk_destroy_pipelines(struct vulkan_device *d)
{
	for (uint32_t i = 0; i < d->n_pipelines; i++)
		vkDestroyPipeline(d->device, d->pipelines[i].pipeline, NULL);
	for (uint32_t s = 0; s < VK_SHADERS; s++)
		vkDestroyShaderModule(d->device, d->modules[s], NULL);
	free(d->pipelines);
	d->pipelines = NULL;
	d->n_pipelines = d->pipelines_room = 0;
}

/* Pipelines from the SPIR-V that the build put into this file. */
#include "workers/vulkan/vulkan_device.h"

#include "base/base.h"

#define MOST_CONSTANTS 16u

static const uint32_t embed[] =
#include "shaders/embed.comp.inc"
;
static const uint32_t rms_norm[] =
#include "shaders/rms_norm.comp.inc"
;
static const uint32_t matmul[] =
#include "shaders/matmul.comp.inc"
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
static const uint32_t pack_rows[] =
#include "shaders/pack_rows.comp.inc"
;
static const uint32_t sum_parts[] =
#include "shaders/sum_parts.comp.inc"
;
#ifdef GP_COOPMAT
static const uint32_t matmul_many_coopmat[] =
#include "shaders/matmul_many_coopmat.comp.inc"
;
#endif

static const struct { const uint32_t *code; size_t bytes; const char *name; } shaders[] = {
	[VK_EMBED] = { embed, sizeof embed, "embed" },
	[VK_RMS_NORM] = { rms_norm, sizeof rms_norm, "rms_norm" },
	[VK_MATMUL] = { matmul, sizeof matmul, "matmul" },
	[VK_ELEMENTWISE] = { elementwise, sizeof elementwise, "elementwise" },
	[VK_QK_ROPE_APPEND] = { qk_rope_append, sizeof qk_rope_append, "qk_rope_append" },
	[VK_ATTENTION] = { attention, sizeof attention, "attention" },
	[VK_MATMUL_MANY] = { matmul_many, sizeof matmul_many, "matmul_many" },
	[VK_PACK_ROWS] = { pack_rows, sizeof pack_rows, "pack_rows" },
	[VK_SUM_PARTS] = { sum_parts, sizeof sum_parts, "sum_parts" },
#ifdef GP_COOPMAT
	[VK_MATMUL_MANY_COOPMAT] = { matmul_many_coopmat, sizeof matmul_many_coopmat,
	                             "matmul_many_coopmat" },
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
	if (subgroup) {
		info.stage.pNext = &size;
		info.stage.flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT_EXT;
	}
	const VkResult r = vkCreateComputePipelines(d->device, d->cache, 1, &info, NULL, out);
	return r < 0 ? vk_fail(r, shaders[s].name) : 0;
}

int vk_pipeline(struct vulkan_device *d, enum vk_shader s, uint32_t variant, VkPipeline *out)
{
	const uint32_t constants[] = { variant % VK_TYPES, 1u << variant / VK_TYPES };
	int rc = 0;

	if (variant >= VK_VARIANTS)
		return gp_fail(EINVAL, "%s: variant %u", shaders[s].name, variant);
	VkPipeline *p = &d->pipelines[s][variant];
	if (!*p)
		rc = vk_create_pipeline(d, s, constants, 2, 0, p);
	*out = *p;
	return rc;
}

void vk_destroy_pipelines(struct vulkan_device *d)
{
	for (uint32_t s = 0; s < VK_SHADERS; s++) {
		for (uint32_t v = 0; v < VK_VARIANTS; v++)
			vkDestroyPipeline(d->device, d->pipelines[s][v], NULL);
		vkDestroyShaderModule(d->device, d->modules[s], NULL);
	}
}

/* Pipelines from the SPIR-V that the build put into this file. */
#include "workers/vulkan/vulkan_device.h"

#include "base/base.h"

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

static const struct { const uint32_t *code; size_t bytes; const char *name; } shaders[] = {
	[VK_EMBED] = { embed, sizeof embed, "embed" },
	[VK_RMS_NORM] = { rms_norm, sizeof rms_norm, "rms_norm" },
	[VK_MATMUL] = { matmul, sizeof matmul, "matmul" },
	[VK_ELEMENTWISE] = { elementwise, sizeof elementwise, "elementwise" },
	[VK_QK_ROPE_APPEND] = { qk_rope_append, sizeof qk_rope_append, "qk_rope_append" },
	[VK_ATTENTION] = { attention, sizeof attention, "attention" },
};

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

int vk_pipeline(struct vulkan_device *d, enum vk_shader s, uint32_t variant, VkPipeline *out)
{
	const uint32_t constants[] = { variant % VK_TYPES, 1u << variant / VK_TYPES };
	const VkSpecializationMapEntry entries[] = { { 0, 0, 4 }, { 1, 4, 4 } };
	const VkSpecializationInfo special = { 2, entries, sizeof constants, constants };
	int rc;

	if (variant >= VK_VARIANTS)
		return gp_fail(EINVAL, "%s: variant %u", shaders[s].name, variant);
	if ((rc = module_of(d, s)) < 0)
		return rc;
	const VkComputePipelineCreateInfo info = {
		.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO, .layout = d->layout,
		.stage = { .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
		           .stage = VK_SHADER_STAGE_COMPUTE_BIT, .module = d->modules[s],
		           .pName = "main", .pSpecializationInfo = &special } };
	VkPipeline *p = &d->pipelines[s][variant];
	if (!*p) {
		const VkResult r = vkCreateComputePipelines(d->device, d->cache, 1, &info,
		                                            NULL, p);
		if (r < 0)
			return vk_fail(r, shaders[s].name);
	}
	*out = *p;
	return 0;
}

void vk_destroy_pipelines(struct vulkan_device *d)
{
	for (uint32_t s = 0; s < VK_SHADERS; s++) {
		for (uint32_t v = 0; v < VK_VARIANTS; v++)
			vkDestroyPipeline(d->device, d->pipelines[s][v], NULL);
		vkDestroyShaderModule(d->device, d->modules[s], NULL);
	}
}

/* What a device must have; and what it may have, and is used where it has it: dot products
 * of bytes, matrix units, a choice of subgroup sizes, the number of its compute units. */
#include "workers/vulkan/vulkan_device.h"

#include <stddef.h>

#include "base/base.h"

/* ---- what it must have ---------------------------------------------------------- */
void vk_chain_core(struct vk_core *c, void *next)
{
	*c = (struct vk_core){
		.all.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2,
		.v11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES,
		.v12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES };
	c->all.pNext = &c->v11;
	c->v11.pNext = &c->v12;
	c->v12.pNext = next;
}

const char *vk_needed(uint32_t i, struct vk_core *c, VkBool32 **feature)
{
	static const struct { const char *name; size_t at; } needed[] = {
		{ "8-bit storage", offsetof(struct vk_core, v12.storageBuffer8BitAccess) },
		{ "16-bit storage", offsetof(struct vk_core, v11.storageBuffer16BitAccess) },
		{ "8-bit integers", offsetof(struct vk_core, v12.shaderInt8) },
		{ "16-bit integers", offsetof(struct vk_core, all.features.shaderInt16) },
		{ "64-bit integers", offsetof(struct vk_core, all.features.shaderInt64) },
		{ "buffer addresses", offsetof(struct vk_core, v12.bufferDeviceAddress) },
		{ "scalar block layout", offsetof(struct vk_core, v12.scalarBlockLayout) },
		{ "float16", offsetof(struct vk_core, v12.shaderFloat16) },
		{ "timeline semaphores", offsetof(struct vk_core, v12.timelineSemaphore) },
	};

	if (i >= GP_ARRAY_LEN(needed))
		return NULL;
	*feature = (VkBool32 *)(void *)((char *)c + needed[i].at);
	return needed[i].name;
}

/* ---- what it may have ----------------------------------------------------------- */
static void enable(struct vk_features *f, const char *name, void *feature)
{
	VkBaseOutStructure *s = feature;

	f->extensions[f->n_extensions++] = name;
	s->pNext = f->chain;
	f->chain = feature;
}

/* ---- matrix units --------------------------------------------------------------- */
/* Of the shapes that a subgroup multiplies at once, halves with float32 sums, the
 * largest of at most 16 x 16 x 16: tiles are made of multiples of that. */
static bool choose_shape(struct vk_features *f, const VkCooperativeMatrixPropertiesKHR *all,
                         uint32_t n)
{
	uint32_t best = 0;

	for (uint32_t i = 0; i < n; i++) {
		const VkCooperativeMatrixPropertiesKHR *p = &all[i];

		if (p->AType != VK_COMPONENT_TYPE_FLOAT16_KHR ||
		    p->BType != VK_COMPONENT_TYPE_FLOAT16_KHR ||
		    p->CType != VK_COMPONENT_TYPE_FLOAT32_KHR ||
		    p->ResultType != VK_COMPONENT_TYPE_FLOAT32_KHR ||
		    p->scope != VK_SCOPE_SUBGROUP_KHR || p->saturatingAccumulation)
			continue;
		f->has_16_8_16 |= p->MSize == 16 && p->NSize == 8 && p->KSize == 16;
		if (p->MSize > 16 || p->NSize > 16 || p->KSize > 16 || p->MSize < 8 ||
		    p->NSize < 8 || p->KSize < 8 || p->MSize * p->NSize * p->KSize <= best)
			continue;
		best = p->MSize * p->NSize * p->KSize;
		f->matrix[0] = p->MSize;
		f->matrix[1] = p->NSize;
		f->matrix[2] = p->KSize;
	}
	return best != 0;
}

static bool find_shape(struct vulkan_device *d)
{
	const PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR get =
		(PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)vkGetInstanceProcAddr(
			d->instance, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
	VkCooperativeMatrixPropertiesKHR all[128];
	uint32_t n = GP_ARRAY_LEN(all);

	for (uint32_t i = 0; i < n; i++)
		all[i] = (VkCooperativeMatrixPropertiesKHR){
			.sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR };
	return get && get(d->physical, &n, all) >= 0 && choose_shape(&d->features, all, n);
}

static void find_matrix_units(struct vulkan_device *d)
{
	VkPhysicalDeviceCooperativeMatrixFeaturesKHR *m = &d->features.matrix_feature;
	VkPhysicalDeviceVulkan12Features v12 = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, .pNext = m };
	VkPhysicalDeviceFeatures2 f = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &v12 };

	m->sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
	vkGetPhysicalDeviceFeatures2(d->physical, &f);
	m->cooperativeMatrixRobustBufferAccess = false;
	d->features.matrix_units = m->cooperativeMatrix && v12.vulkanMemoryModel && find_shape(d);
	if (d->features.matrix_units)
		enable(&d->features, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME, m);
}

/* ---- subgroups ------------------------------------------------------------------ */
/* Whole subgroups of one size: 32 invocations where there is a choice. Work groups are
 * of multiples of 32: a size that divides it is whole without being asked for. */
static void choose_subgroups(struct vk_features *f,
                             const VkPhysicalDeviceSubgroupSizeControlPropertiesEXT *sizes,
                             uint32_t usual)
{
	const bool has_32 = sizes->minSubgroupSize <= 32 && sizes->maxSubgroupSize >= 32;

	f->subgroup = has_32 ? 32 : sizes->maxSubgroupSize;
	f->lanes = has_32 && sizes->maxComputeWorkgroupSubgroups >= f->invocations / 32 ? 32 : 0;
	f->whole_subgroups = f->lanes || 32 % usual == 0;
}

static void find_subgroups(struct vulkan_device *d)
{
	VkPhysicalDeviceSubgroupSizeControlFeaturesEXT *can = &d->features.subgroup_feature;
	VkPhysicalDeviceFeatures2 f = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = can };
	VkPhysicalDeviceSubgroupProperties usual = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES };
	VkPhysicalDeviceSubgroupSizeControlPropertiesEXT sizes = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES_EXT,
		.pNext = &usual };
	VkPhysicalDeviceProperties2 p = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &sizes };

	can->sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT;
	vkGetPhysicalDeviceFeatures2(d->physical, &f);
	vkGetPhysicalDeviceProperties2(d->physical, &p);
	if (!can->subgroupSizeControl || !can->computeFullSubgroups ||
	    !(sizes.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT))
		return;
	choose_subgroups(&d->features, &sizes, usual.subgroupSize);
	enable(&d->features, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME, can);
}

const char *vk_lacking_limit(VkPhysicalDevice physical)
{
	const VkSubgroupFeatureFlags operations = VK_SUBGROUP_FEATURE_ARITHMETIC_BIT |
	                                          VK_SUBGROUP_FEATURE_SHUFFLE_BIT;
	VkPhysicalDeviceSubgroupProperties s = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES };
	VkPhysicalDeviceProperties2 p = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &s };
	const VkPhysicalDeviceLimits *l = &p.properties.limits;

	vkGetPhysicalDeviceProperties2(physical, &p);
	if (s.subgroupSize < 8 || !(s.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) ||
	    (s.supportedOperations & operations) != operations)
		return "subgroups of 8 that add and shuffle";
	if (l->maxComputeWorkGroupInvocations < 256 || l->maxComputeWorkGroupSize[0] < 256)
		return "work groups of 256";
	return l->maxComputeSharedMemorySize < 32768 ? "32 KiB of shared memory" : NULL;
}

/* ---- products of packed bytes --------------------------------------------------- */
static void find_dot_products(struct vulkan_device *d)
{
	VkPhysicalDeviceShaderIntegerDotProductFeaturesKHR *can = &d->features.dot_feature;
	VkPhysicalDeviceFeatures2 f = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = can };

	can->sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES_KHR;
	vkGetPhysicalDeviceFeatures2(d->physical, &f);
	d->features.dot_products = can->shaderIntegerDotProduct;
	if (can->shaderIntegerDotProduct)
		enable(&d->features, VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME, can);
}

/* ---- compute units -------------------------------------------------------------- */
/* 0: not known. */
static uint32_t count_units(const struct vulkan_device *d)
{
	VkPhysicalDeviceShaderSMBuiltinsPropertiesNV sm = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_SM_BUILTINS_PROPERTIES_NV };
	VkPhysicalDeviceShaderCorePropertiesAMD cu = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_CORE_PROPERTIES_AMD };
	VkPhysicalDeviceProperties2 p = { .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2 };

	if (vk_has_extension(d->physical, VK_NV_SHADER_SM_BUILTINS_EXTENSION_NAME))
		p.pNext = &sm;
	else if (vk_has_extension(d->physical, VK_AMD_SHADER_CORE_PROPERTIES_EXTENSION_NAME))
		p.pNext = &cu;
	vkGetPhysicalDeviceProperties2(d->physical, &p);
	return sm.shaderSMCount + cu.shaderEngineCount * cu.shaderArraysPerEngineCount *
	                          cu.computeUnitsPerShaderArray;
}

void vk_find_features(struct vulkan_device *d)
{
	struct vk_features *f = &d->features;
	VkPhysicalDeviceProperties p;

	vkGetPhysicalDeviceProperties(d->physical, &p);
	const uint32_t most = p.limits.maxComputeWorkGroupInvocations;
	const uint32_t wide = p.limits.maxComputeWorkGroupSize[0];
	*f = (struct vk_features){ .shared_bytes = p.limits.maxComputeSharedMemorySize,
	                           .invocations = most < wide ? most : wide };
	if (vk_has_extension(d->physical, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME))
		find_subgroups(d);
	if (vk_has_extension(d->physical, VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME))
		find_dot_products(d);
	if (f->subgroup && vk_has_extension(d->physical, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME))
		find_matrix_units(d);
	f->units = count_units(d);
}

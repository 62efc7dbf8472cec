/* Compiled pipelines, kept from run to run in the user's cache folder: a file for each
 * device and driver version. Losing it costs time, nothing else, so whatever goes wrong
 * here is logged and forgotten. */
#include "workers/vulkan/vulkan_device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define MOST_BYTES ((size_t)256 << 20)

/* Drivers believe what they are given; so the file says what it should be. */
struct header {
	char magic[8];
	uint64_t bytes, sum;
};
static const char magic[8] = "gpvkpc1";

/* ---- where ---------------------------------------------------------------------- */
/* Makes the last two folders where they are missing. */
static bool find_folder(char *path, size_t room)
{
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	int n;

	if (cache && cache[0] == '/')
		n = snprintf(path, room, "%s", cache);
	else if (home && home[0] == '/')
		n = snprintf(path, room, "%s/.cache", home);
	else
		return false;
	if (n < 0 || (size_t)n + sizeof "/gempipe" > room)
		return false;
	mkdir(path, 0700);
	snprintf(path + n, room - (size_t)n, "/gempipe");
	mkdir(path, 0700);
	return true;
}

static void find_path(struct vulkan_device *d)
{
	VkPhysicalDeviceIDProperties id = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES };
	VkPhysicalDeviceProperties2 p = {
		.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &id };
	char folder[400], uuid[2 * VK_UUID_SIZE + 1];

	d->cache_path[0] = '\0';
	if (!find_folder(folder, sizeof folder))
		return;
	vkGetPhysicalDeviceProperties2(d->physical, &p);
	for (size_t i = 0; i < VK_UUID_SIZE; i++)
		snprintf(uuid + 2 * i, 3, "%02x", id.deviceUUID[i]);
	snprintf(d->cache_path, sizeof d->cache_path, "%s/vulkan-%s-%08x.cache", folder, uuid,
	         p.properties.driverVersion);
}

/* ---- reading -------------------------------------------------------------------- */
/* NULL: there is no file, or none of use. */
static uint8_t *read_file(const char *path, struct header *h)
{
	FILE *f = fopen(path, "re");
	uint8_t *data = NULL;

	if (!f)
		return NULL;
	if (fread(h, sizeof *h, 1, f) == 1 && memcmp(h->magic, magic, sizeof magic) == 0 &&
	    h->bytes && h->bytes <= MOST_BYTES && (data = malloc(h->bytes)) &&
	    (fread(data, h->bytes, 1, f) != 1 || gp_hash(GP_HASH_BEGIN, data, h->bytes) != h->sum)) {
		free(data);
		data = NULL;
	}
	fclose(f);
	if (!data)
		gp_log(GP_LOG_WARNING, "%s: damaged; its pipelines are compiled again", path);
	return data;
}

void vk_load_cache(struct vulkan_device *d)
{
	struct header h = { .bytes = 0 };

	find_path(d);
	uint8_t *data = d->cache_path[0] ? read_file(d->cache_path, &h) : NULL;
	const VkPipelineCacheCreateInfo info = {
		.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO,
		.initialDataSize = data ? h.bytes : 0, .pInitialData = data };
	/* Of another driver: that is no error, it is just not used. */
	if (vkCreatePipelineCache(d->device, &info, NULL, &d->cache) < 0)
		d->cache = VK_NULL_HANDLE;
	d->cache_sum = data ? h.sum : 0;
	free(data);
}

/* ---- writing -------------------------------------------------------------------- */
/* Under a temporary name, then renamed: a reader sees the old file or the new one. */
static void write_file(const char *path, const struct header *h, const uint8_t *data)
{
	char temporary[600];

	snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
	const int fd = mkstemp(temporary);
	FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
	if (!f) {
		gp_log(GP_LOG_INFO, "%s: pipelines not kept: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return;
	}
	const bool ok = fwrite(h, sizeof *h, 1, f) == 1 && fwrite(data, h->bytes, 1, f) == 1;
	if (fclose(f) != 0 || !ok || rename(temporary, path) != 0) {
		gp_log(GP_LOG_INFO, "%s: pipelines not kept: %s", path, strerror(errno));
		unlink(temporary);
	}
}

void vk_save_cache(struct vulkan_device *d)
{
	struct header h;
	size_t n = 0;
	uint8_t *data;

	if (!d->cache_path[0] || !d->cache ||
	    vkGetPipelineCacheData(d->device, d->cache, &n, NULL) < 0 || !n || n > MOST_BYTES)
		return;
	if (!(data = malloc(n)))
		return;
	if (vkGetPipelineCacheData(d->device, d->cache, &n, data) == VK_SUCCESS) {
		memcpy(h.magic, magic, sizeof magic);
		h.bytes = n;
		h.sum = gp_hash(GP_HASH_BEGIN, data, n);
		if (h.sum != d->cache_sum)
			write_file(d->cache_path, &h, data);
		d->cache_sum = h.sum;
	}
	free(data);
}

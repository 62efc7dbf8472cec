/* workers: the worker process. One main for all devices; a device offers
 * gp_device_ops and the two calls below. Never includes coordinator/. */
#ifndef GP_WORKERS_H
#define GP_WORKERS_H

#include "model/model.h"

struct gp_worker_device {
	const struct gp_device_ops *ops;
	/* threads 0: all cores this process may use; pinned from first_cpu on. */
	int (*open)(void **dev, uint32_t threads, uint32_t first_cpu);
	void (*close)(void *dev); /* NULL is fine */
	void (*describe)(char text[256]); /* "2 cores, AVX-512", for hello */
};

/* workers/worker.c. Arguments: --connect ENDPOINT --stage K [-v]. */
int gp_worker_main(const struct gp_worker_device *device, int argc, char **argv);

/* workers/cpu/cpu.c */
extern const struct gp_worker_device gp_cpu_device;
/* workers/vulkan/vulkan.c; where the build has Vulkan */
extern const struct gp_worker_device gp_vulkan_device;

#endif

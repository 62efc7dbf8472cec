/* workers: the worker process. One main for all devices; a device offers
 * gp_device_ops and the two calls below. Never includes coordinator/. */
#ifndef GP_WORKERS_H
#define GP_WORKERS_H

#include <jansson.h>

#include "model/model.h"

struct gp_device_options {      /* zero: the default */
	uint32_t index;         /* which of the machine's devices of this kind */
	uint32_t threads;       /* CPU; 0: all cores this process may use */
	uint32_t first_cpu;     /* pinned from here on */
	uint64_t memory_bytes;  /* at most; 0: what is free (NPU: none is pinned) */
	const char *npu;        /* NPU: "sim", "off" (the host computes all); NULL: the real one */
};

struct gp_worker_device {
	const struct gp_device_ops *ops;
	int (*open)(void **dev, const struct gp_device_options *o);
	void (*close)(void *dev); /* NULL is fine */
	/* "2 cores, AVX-512", for hello; begins with SIMULATED where the device is. */
	void (*describe)(const struct gp_device_options *o, char text[256]);
	/* The machine's devices of this kind, as a JSON array; an empty one and the
	 * reason (gp_error) where there is none. Never NULL but for lack of memory. */
	json_t *(*list)(void);
	/* Prints a report of the device's tests (verify) or speed (measure); the exit status.
	 * NULL: it has none. */
	int (*verify)(const struct gp_device_options *o);
	int (*measure)(const struct gp_device_options *o, bool json);
};

/* workers/worker.c. Arguments: --connect ENDPOINT --stage K [--device N] [--npu WHICH], or
 * --describe, --verify, --measure. */
int gp_worker_main(const struct gp_worker_device *device, int argc, char **argv);

/* workers/cpu/cpu.c */
extern const struct gp_worker_device gp_cpu_device;
/* workers/vulkan/vulkan.c; where the build has Vulkan */
extern const struct gp_worker_device gp_vulkan_device;
/* workers/npu/npu_worker.c */
extern const struct gp_worker_device gp_npu_device;

#endif

/* What Linux tells of the NPU, without the vendor's runtime: is there one, may this user
 * open it, do kernel driver and firmware fit? Sources: Linux' drivers/accel/amdxdna
 * (sysfs, amdxdna_accel.h) and what users of it report. */
#ifndef GP_NPU_XDNA_H
#define GP_NPU_XDNA_H

#include <stddef.h>

#include "workers/npu/npu.h"

/* What XRT locks at least: its heap, and two staging buffers of the worker. */
#define GP_XDNA_LOCKED_BYTES ((64u + 2 * 64u) << 20)

/* As gp_npu_driver's probe. root: in front of /sys, /dev and /proc; "" but in tests. */
int gp_xdna_probe(const char *root, struct gp_npu_info *info);

#endif

/* The ioctls of Linux' amdxdna driver that gempipe asks itself (xdna.c) and that the fake
 * device of the tests answers. What they mean and how they lie in memory: Linux'
 * include/uapi/drm/amdxdna_accel.h and drm.h, which Debian's kernel headers leave out. */
#ifndef GP_XDNA_ABI_H
#define GP_XDNA_ABI_H

#include <stdint.h>
#include <stddef.h>
#include <sys/ioctl.h>

enum xdna_bo_type { XDNA_BO_SHARE = 1, XDNA_BO_HEAP = 2, XDNA_BO_DEV = 3, XDNA_BO_CMD = 4 };
enum xdna_query {
	XDNA_AIE_METADATA = 1, XDNA_AIE_VERSION = 2, XDNA_CLOCKS = 3, XDNA_SENSORS = 4,
	XDNA_CONTEXTS = 5, XDNA_FIRMWARE_VERSION = 8, XDNA_POWER_MODE = 9, XDNA_RESOURCES = 12,
};
enum { XDNA_CONFIG_CU = 0, XDNA_EXEC_BUFFER = 0 };
#define XDNA_NO_ADDRESS UINT64_MAX

struct xdna_create_context {
	uint64_t ext, ext_flags, qos;
	uint32_t umq_bo, log_bo, max_opc, tiles, mem_size, umq_doorbell, handle, syncobj;
};
struct xdna_destroy_context {
	uint32_t handle, pad;
};
struct xdna_config_context {
	uint32_t handle, type;
	uint64_t value;
	uint32_t value_bytes, pad;
};
struct xdna_cu {
	uint32_t bo;
	uint8_t function, pad[3];
};
struct xdna_cu_config {
	uint16_t n, pad[3];
	struct xdna_cu cu[];
};
struct xdna_create_bo {
	uint64_t flags, vaddr, bytes;
	uint32_t type, handle;
};
struct xdna_bo_info {
	uint64_t ext, ext_flags;
	uint32_t handle, pad;
	uint64_t map_offset, vaddr, address;
};
struct xdna_sync_bo {
	uint32_t handle, direction;
	uint64_t offset, bytes;
};
struct xdna_exec {
	uint64_t ext, ext_flags;
	uint32_t context, type;
	uint64_t commands, args;        /* one command: its handle; args: array of handles */
	uint32_t n_commands, n_args;
	uint64_t sequence;
};
struct xdna_wait {
	uint32_t context, timeout_ms;
	uint64_t sequence;
};
struct xdna_get_info {
	uint32_t query, bytes;
	uint64_t buffer;
};
struct xdna_get_array {
	uint32_t query, element_bytes, n, pad;
	uint64_t buffer;
};

struct xdna_aie_version {
	uint32_t major, minor;
};
struct xdna_tiles {
	uint16_t rows, first_row, channels, locks, events, pad[3];
};
struct xdna_aie_metadata {
	uint32_t column_bytes;
	uint16_t columns, rows;
	struct xdna_aie_version version;
	struct xdna_tiles core, memory, shim;
};
struct xdna_clock {
	char name[16];
	uint32_t mhz, pad;
};
struct xdna_clocks {
	struct xdna_clock controller, array;
};
struct xdna_firmware {
	uint32_t major, minor, patch, build;
};

/* Of all DRM drivers. */
struct drm_version_text {
	int major, minor, patch;
	size_t name_bytes;
	char *name;
	size_t date_bytes;
	char *date;
	size_t text_bytes;
	char *text;
};
struct drm_handle {
	uint32_t handle, pad;
};
struct drm_timeline_wait {
	uint64_t handles, points;
	int64_t until_ns;               /* CLOCK_MONOTONIC */
	uint32_t n, flags, first, pad;  /* newer ones have more behind it */
};

/* Numbers of the calls; the driver's own begin at 0x40. */
enum {
	DRM_VERSION = 0x00, DRM_CLOSE_BO = 0x09, DRM_SYNCOBJ_DESTROY = 0xc0, DRM_SYNCOBJ_WAIT = 0xca,
	XDNA_CREATE_CONTEXT = 0x40, XDNA_DESTROY_CONTEXT, XDNA_CONFIG_CONTEXT, XDNA_CREATE_BO,
	XDNA_GET_BO_INFO, XDNA_SYNC_BO, XDNA_EXEC, XDNA_GET_INFO, XDNA_SET_STATE, XDNA_WAIT, XDNA_GET_ARRAY,
};
#define DRM_REQUEST(number, type) _IOWR('d', number, type)

#endif

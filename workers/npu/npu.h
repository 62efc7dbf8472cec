/* The NPU as gempipe sees it: a narrow interface in plain C between the worker, which
 * knows stages, and a driver, which knows the device. Two drivers:
 *   xrt   the vendor's runtime, behind a C++ shim in a shared object of its own
 *         (workers/npu/xrt/), opened at run time;
 *   sim   a software model of the array (workers/npu/sim.c). It is chosen by name only,
 *         and what it tells carries the word "simulated".
 *
 * Units are bytes, nanoseconds and 32-bit little-endian instruction words. Every call on
 * one device comes from one thread at a time; two devices share nothing. Functions return
 * 0 or a negative errno, and then gp_error() is the one line that names what is wrong and
 * what to do. No driver aborts, prints, or lets an exception out. */
#ifndef GP_NPU_H
#define GP_NPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- limits of an XDNA1 ("npu1", Phoenix and Hawk Point) ------------------------
 * AM020 (AIE-ML architecture manual), Linux' drivers/accel/amdxdna, Xilinx/mlir-aie. */
#define GP_NPU_COLUMNS 4u          /* that a program can use, of 5 */
#define GP_NPU_ROWS 4u             /* of compute tiles */
#define GP_NPU_MAX_BUFFERS 5u      /* of a command, instructions not counted */
#define GP_NPU_MAX_CONTEXTS 6u     /* of all processes together */
#define GP_NPU_BUFFER_ALIGN 4096u  /* of a buffer's host address, at least */
#define GP_NPU_QUEUE 4u            /* tasks that a DMA channel of a shim tile takes */
#define GP_NPU_BDS 16u             /* buffer descriptors of a shim tile */

/*
 * Errors. All drivers use the same ones, so that the worker's answer does not depend on
 * which it talks to:
 *   -ENODEV     no device, no driver in the kernel, or the runtime's library is missing
 *   -EACCES     the device is there and this user may not open it
 *   -ENOMEM     no memory; -EPERM: the limit of locked memory (ulimit -l) is too low
 *   -EPROTO     firmware or protocol that driver or runtime do not know
 *   -ENOTSUP    kernel driver or runtime older than is needed, or another device than npu1
 *   -EBUSY      too many contexts; other programs hold them
 *   -ENOENT     the program's file is missing; -EINVAL: it is no such program
 *   -ETIMEDOUT  a command did not end by its deadline. The device counts as wedged: every
 *               later call but close is -EIO, and close does not wait for it
 *   -EIO        the device is wedged, or a command ended with an error
 *   -ECONNRESET the context is lost (suspend, reset of the device): open it anew
 *   -ECANCELED  wait was interrupted through its flag; the command still runs
 * After -ETIMEDOUT, -EIO and -ECONNRESET the worker ends; the coordinator starts another.
 */

struct gp_npu_info {
	char device[64];       /* "NPU Phoenix"; sim: "SIMULATED NPU Phoenix" */
	char driver[128];      /* "amdxdna 0.2, firmware 1.5.2.380, XRT 2.21.0"; sim: "simulated" */
	uint32_t columns, rows;
	uint64_t clock_hz;     /* of the array; 0: unknown */
	bool simulated;
};

/* ---- programs -------------------------------------------------------------------
 * A program is the tile kernels, where they lie and how data is routed between them: an
 * xclbin. It is named by what it computes and its tile shape, FORM-MxKxN (kernels/aie/aie.h
 * has the forms and the layout of what they stream), and its file is NAME.xclbin in the
 * folder of programs. It is the same for products of all sizes: how much is streamed
 * through it is told by the instruction words (sequence.h), which gempipe writes itself. */
#define GP_NPU_NAME_BYTES 48
struct gp_npu_program {
	char name[GP_NPU_NAME_BYTES];  /* "gemm-int4-32x256x64" */
	const char *path;              /* its xclbin; NULL: the driver needs no file (sim) */
};

/* ---- the driver ------------------------------------------------------------------ */
struct gp_npu;          /* an open device; its driver's own */
struct gp_npu_buffer;   /* memory that both sides see; its driver's own */
struct gp_npu_context;  /* a loaded program; its driver's own */

enum gp_npu_direction { GP_NPU_TO_DEVICE, GP_NPU_FROM_DEVICE };
enum gp_npu_use {       /* XRT: host_only of group_id(3 + i); cacheable of group_id(1) */
	GP_NPU_DATA,
	GP_NPU_INSTRUCTIONS,
};

struct gp_npu_command {
	struct gp_npu_context *context;
	struct gp_npu_buffer *instructions;
	uint32_t words;                /* of instructions */
	struct gp_npu_buffer *buffers[GP_NPU_MAX_BUFFERS]; /* argument i of DDR_PATCH */
	uint32_t n_buffers;
};

/* What a driver can tell of a command that has ended. */
struct gp_npu_result {
	uint64_t ns;           /* from submit to the end; sim: of the modelled device */
	uint64_t cycles;       /* sim: of the modelled array; 0: unknown */
	uint64_t bytes_in, bytes_out;  /* likewise */
	bool simulated;
};

struct gp_npu_driver {
	const char *name;      /* "xrt", "sim" */
	bool simulated;

	/* Is there a device that open could take? Takes nothing, needs no permission beyond
	 * open's, and leaves no trace. -ENODEV, -EACCES, -ENOTSUP, -EPROTO, -EPERM. */
	int (*probe)(struct gp_npu_info *info);

	int (*open)(struct gp_npu **npu);
	/* Gives back every context and buffer still held. NULL is fine. */
	void (*close)(struct gp_npu *npu);

	/* bytes > 0; zeroed; pinned; *host is page aligned, and stands until free. `context`
	 * says whose memory group it is of; NULL: any (the group of data is the same for all
	 * contexts of npu1). */
	int (*alloc)(struct gp_npu *npu, struct gp_npu_context *context, enum gp_npu_use use,
	             size_t bytes, struct gp_npu_buffer **buffer, void **host);
	/* No command that uses it may run. NULL is fine. */
	void (*free)(struct gp_npu *npu, struct gp_npu_buffer *buffer);
	/* Makes what one side wrote in [offset, offset + bytes) seen by the other: before
	 * submit, and after a successful wait. */
	int (*sync)(struct gp_npu *npu, struct gp_npu_buffer *buffer, enum gp_npu_direction to,
	            size_t offset, size_t bytes);

	/* Takes one of the device's contexts. The program's text is not kept. */
	int (*load)(struct gp_npu *npu, const struct gp_npu_program *program,
	            struct gp_npu_context **context);
	void (*unload)(struct gp_npu *npu, struct gp_npu_context *context); /* NULL is fine */

	/* Starts a command; returns before it ends. One may run at a time: -EBUSY. What the
	 * command names stays the caller's, and must stand until wait has succeeded. */
	int (*submit)(struct gp_npu *npu, const struct gp_npu_command *command);
	/* Until the command ends or deadline_ns (gp_now_ns) has passed; a deadline in the past
	 * only asks: -EAGAIN while it runs, and nothing is wedged. cancelled: looked at every
	 * 50 ms or so, may be NULL. The driver keeps its own clock: XRT's wait(ms) throws at
	 * its timeout in 2.25. */
	int (*wait)(struct gp_npu *npu, uint64_t deadline_ns, const volatile bool *cancelled,
	            struct gp_npu_result *result);
};

/* workers/npu/sim.c */
extern const struct gp_npu_driver gp_npu_sim;

/* workers/npu/xrt.c: looks for a device (xdna.h), then opens the shim, gempipe-npu-xrt.so
 * beside the program or what GP_NPU_SHIM names, once. As probe; -ENODEV (message) where
 * there is no shim either. The shim exports GP_NPU_SHIM_ENTRY, which returns its driver,
 * or NULL where abi is not its GP_NPU_ABI. It links nothing of gempipe's: fail is gp_fail. */
#define GP_NPU_ABI 1u
#define GP_NPU_SHIM_ENTRY "gempipe_npu_shim"
#define GP_NPU_SHIM_VERSION "gempipe_npu_xrt_version" /* XRT's, "2.25" */
typedef int gp_npu_fail(int errnum, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
typedef const struct gp_npu_driver *gp_npu_shim_entry(uint32_t abi, gp_npu_fail *fail);
typedef void gp_npu_shim_version(char text[32]);
int gp_npu_xrt(const struct gp_npu_driver **driver);

#endif

/* Instruction streams for the NPU's controller: AMD's transaction format, version 0.1
 * (first word 0x06030100), written and read, and what the streams of this project do.
 *
 * A stream is a header of 4 words and operations: writes to the array's registers, patches
 * that put a buffer's address into a DMA descriptor, and waits for completion tokens.
 * Words are 32 bits, little endian. Sources: Xilinx/aie-rt driver/src/common/xaie_txn.h
 * (layout), Xilinx/mlir-aie lib/Targets/AIETargetNPU.cpp (the same, as it is written for
 * Phoenix), AM020/AM025 and mlir-aie lib/Dialect/AIEX (shim DMA registers).
 *
 * Errors are negative errno with a message (gp_error). Nothing here is thread-bound. */
#ifndef GP_NPU_STREAM_H
#define GP_NPU_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	GP_STREAM_HEADER = 0x06030100,  /* 6 rows, device generation 3, version 0.1 */
	GP_STREAM_HEADER_WORDS = 4,
	GP_STREAM_COLUMNS = 5,          /* of the array; programs use the first 4 */
	GP_STREAM_ARGS = 7,             /* data buffers of one command */
	GP_SHIM_BDS = 16,               /* descriptors of a column's shim DMA */
	GP_SHIM_CHANNELS = 2,           /* each way */
	GP_SHIM_QUEUE = 4,              /* tasks that a channel's queue holds */
	GP_SHIM_MOST_REPEATS = 256,     /* runs of one task */
	/* Packet of a shim tile's completion tokens. Programs route this one to the
	 * controller: mlir-aie's aie-assign-tile-controller-ids, and its controller_id. */
	GP_SHIM_TOKEN_PACKET = 15,
};

/* ---- operations ---------------------------------------------------------- */
enum gp_stream_code {
	GP_STREAM_WRITE = 0, GP_STREAM_BLOCK_WRITE = 1, GP_STREAM_MASK_WRITE = 3,
	GP_STREAM_MASK_POLL = 4, GP_STREAM_SYNC = 0x80, GP_STREAM_PATCH = 0x81,
};

struct gp_stream_op {
	enum gp_stream_code code;
	uint32_t address;       /* column << 25 | row << 20 | register; not for SYNC */
	uint32_t value, mask;   /* WRITE, MASK_WRITE, MASK_POLL */
	const uint32_t *words;  /* BLOCK_WRITE: n_words, inside the stream that is read */
	uint32_t n_words;
	uint32_t arg;           /* PATCH: which data buffer, ... */
	uint64_t arg_offset;    /* ... from which byte on */
	uint8_t column, row, columns, rows, channel; /* SYNC: tokens of these tiles */
	bool to_array;          /* SYNC: MM2S, else S2MM */
};

static inline uint32_t gp_stream_address(uint32_t column, uint32_t row, uint32_t reg)
{
	return column << 25 | row << 20 | reg;
}

/* Into the caller's words. The first failure stands until gp_stream_end. */
struct gp_stream {
	uint32_t *words;
	size_t n_words, room;
	uint32_t n_ops;
	int error;
};

void gp_stream_begin(struct gp_stream *s, uint32_t *words, size_t room);
void gp_stream_put(struct gp_stream *s, const struct gp_stream_op *op);
/* Writes the header's sizes; *n_words of the whole. -ENOSPC: the words are too few. */
int gp_stream_end(struct gp_stream *s, size_t *n_words);

struct gp_stream_reader {
	const uint32_t *words;
	size_t at, n_words;
	uint32_t left;          /* operations */
};

/* The words must stand still while they are read: copy what others can write to. */
int gp_stream_open(struct gp_stream_reader *r, const uint32_t *words, size_t n_words);
/* 1: *op; 0: that was all; -EINVAL: no such operation, or cut off, or a wrong size. */
int gp_stream_next(struct gp_stream_reader *r, struct gp_stream_op *op);

/* ---- descriptors of the shim DMA ------------------------------------------
 * A run of a descriptor moves n_words words: d0_size of them d0_step apart, as often as
 * d1_size says d1_step apart, and that d2_step apart until n_words are done. Size 0: no
 * end, so 0 everywhere is one linear piece. Steps are in words and count from 1. Run i
 * of a task starts iteration_step * (i % iterations) words on; 1: every run is the same. */
struct gp_shim_bd {
	uint32_t n_words;
	uint32_t d0_size, d0_step, d1_size, d1_step, d2_step;
	uint32_t iterations, iteration_step;
};

enum { GP_SHIM_BD_WORDS = 8 };
/* The address is left zero: a patch sets it. -ERANGE: a field is too narrow. */
int gp_shim_bd_write(const struct gp_shim_bd *bd, uint32_t words[GP_SHIM_BD_WORDS]);
/* -EINVAL: not valid, chained, locked or with packets, which no stream here has. */
int gp_shim_bd_read(struct gp_shim_bd *bd, const uint32_t words[GP_SHIM_BD_WORDS]);

/* ---- what a stream does ---------------------------------------------------- */
struct gp_shim_channel {
	uint8_t column, channel;
	bool to_array;          /* MM2S: reads memory; else S2MM: writes it */
};

struct gp_shim_task {
	struct gp_shim_channel on;
	struct gp_shim_bd bd;
	uint32_t repeats;       /* runs, at least 1 */
	uint32_t arg;           /* data buffer */
	uint64_t offset;        /* bytes into it */
	bool token;             /* is waited for */
};

/* Bytes that a task moves, and the end of the furthest in its buffer. -EOVERFLOW. */
int gp_shim_task_extent(const struct gp_shim_task *t, uint64_t *moved, uint64_t *end);
/* The pieces of a task's memory in its order; bytes is a multiple of 4. Stops at the
 * first that is not 0 and returns it. The buffer must reach gp_shim_task_extent's end. */
int gp_shim_task_walk(const struct gp_shim_task *t,
                      int (*piece)(void *context, uint64_t offset, uint64_t bytes),
                      void *context);

/* Called in the stream's order. A task starts at once where its channel is idle; wait
 * means: until that channel's oldest unwaited token has come; write is a word into the
 * memory of a tile above the shim (a kernel's parameter), NULL where there are none. All
 * return 0 or a negative errno, which ends the reading. */
struct gp_stream_visitor {
	int (*task)(void *context, const struct gp_shim_task *task);
	int (*wait)(void *context, const struct gp_shim_channel *on);
	int (*write)(void *context, uint32_t address, uint32_t value);
	void *context;
};

/* -EINVAL: an operation, a register or an order that the streams made here never have:
 * a descriptor written again while a task may still read it, a fifth task in a queue, a
 * wait for a token that nothing gives, tokens that would get lost, tokens or writes of
 * memory that nobody waits for. */
int gp_stream_read(const uint32_t *words, size_t n_words, const struct gp_stream_visitor *v);

/* ---- writing tasks ---------------------------------------------------------- */
/* Which tasks may be in flight after what was written (or read) so far. */
struct gp_shim_flight {
	uint16_t bds[GP_STREAM_COLUMNS];        /* in use, a bit each */
	bool named[GP_STREAM_COLUMNS][2][GP_SHIM_CHANNELS]; /* its tokens' packet is set */
	struct gp_shim_queue {                  /* oldest first */
		struct { uint8_t bd; bool token; } task[GP_SHIM_QUEUE];
		uint8_t n;
	} queue[GP_STREAM_COLUMNS][2][GP_SHIM_CHANNELS]; /* [to_array] */
};

struct gp_task_writer {
	struct gp_stream *s;
	struct gp_shim_flight flight;
	uint32_t n_tasks;
};

void gp_tasks_begin(struct gp_task_writer *w, struct gp_stream *s);
/* Takes a free descriptor. Tasks to the host always ask for a token, others where
 * task->token says so. Where the channel's queue is full, waits for its oldest token;
 * -EINVAL where it has none: split the product. What is waited for must be able to end
 * with the tasks that were put before. */
void gp_tasks_put(struct gp_task_writer *w, const struct gp_shim_task *task);
/* Waits for all tokens that are still to come. */
void gp_tasks_end(struct gp_task_writer *w);

#endif

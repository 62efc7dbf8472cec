/* base: what every other folder leans on: errors, log, clock, checked sizes,
 * trace spans. Depends on libc only. */
#ifndef GP_BASE_H
#define GP_BASE_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define GP_VERSION "0.1.0"

#define GP_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))

#define GP_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* ---- errors (base/error.c) ----------------------------------------------
 * A function that can fail returns 0 (or a count >= 0), or a negative errno;
 * then gp_error() is one line, without newline, that names the input, the
 * problem and the remedy. The text belongs to the calling thread and stands
 * until its next failure. */
int gp_fail(int errnum, const char *fmt, ...) GP_PRINTF(2, 3); /* returns -errnum */
/* Puts "fmt: " in front of the present message; returns rc unchanged. */
int gp_fail_in(int rc, const char *fmt, ...) GP_PRINTF(2, 3);
const char *gp_error(void);
#define GP_ERROR_BYTES 512

/* ---- log (base/log.c) ----------------------------------------------------
 * Lines on stderr, one write each, so that processes do not mix theirs:
 * "gempipe[worker 1] warning: text". Any thread. */
enum gp_log_level { GP_LOG_ERROR, GP_LOG_WARNING, GP_LOG_INFO, GP_LOG_DEBUG };
void gp_log_init(const char *process, enum gp_log_level most); /* keeps a copy of process */
enum gp_log_level gp_log_most(void);
void gp_log(enum gp_log_level level, const char *fmt, ...) GP_PRINTF(2, 3);

/* ---- process (base/process.c) --------------------------------------------
 * First thing in a main: descriptors 0 to 2 that the parent closed are opened on
 * /dev/null, or the next file opened would get their number, and messages would
 * go into it. Raises the soft limit of open files to the hard one. */
void gp_process_init(void);
/* -EMFILE (message): fewer than need descriptors may be open. */
int gp_process_check_files(size_t need);

/* ---- clock (base/clock.c) ------------------------------------------------ */
uint64_t gp_now_ns(void); /* CLOCK_MONOTONIC: one clock for all processes */

/* ---- hash (base/hash.c) ----------------------------------------------------
 * FNV-1a of bytes (Fowler, Noll, Vo), going on from h. Tells accidents, not intent. */
#define GP_HASH_BEGIN 0xcbf29ce484222325u
uint64_t gp_hash(uint64_t h, const void *data, size_t bytes);

/* ---- sizes (base/size.c) -------------------------------------------------
 * false: the result does not fit size_t, *out is untouched. */
bool gp_size_mul(size_t a, size_t b, size_t *out);
bool gp_size_add(size_t a, size_t b, size_t *out);
/* Up to a multiple of align, a power of two. */
bool gp_size_round_up(size_t n, size_t align, size_t *out);
/* "1.5 GiB" into buf; returns buf. */
const char *gp_size_text(char buf[32], uint64_t bytes);
/* "1:05:09" or "5:09" into buf; returns buf. */
const char *gp_duration_text(char buf[32], double seconds);
/* Whole text is a decimal number in [min, max], else -EINVAL (message names what). */
int gp_parse_u64(const char *what, const char *text, uint64_t min, uint64_t max,
                 uint64_t *out);
/* Bytes: a number at *text with K, M, G or T (of 1024) behind it, or nothing; moves
 * past it. -EINVAL without a message. */
int gp_scan_size(const char **text, uint64_t *bytes);

/* ---- trace (base/trace.c) ------------------------------------------------
 * Spans in the Trace Event format, one JSON object a line in a file of each
 * process ("part"); the coordinator joins the parts. Source: "Trace Event
 * Format", Google, 2016. Closed (the default): every call is one branch.
 * Any thread. */
int gp_trace_open(const char *part_path, const char *process, int sort_index);
bool gp_trace_on(void);
/* name and category are literals without quotes; arg_name may be NULL. */
void gp_trace_span(const char *category, const char *name, uint64_t start_ns,
                   uint64_t end_ns, const char *arg_name, int64_t arg);
/* On a row of its own beside the process's threads. */
void gp_trace_gpu_span(const char *name, uint64_t start_ns, uint64_t end_ns);
/* Arrow between processes, of a step through ring (< 128): named the same at its
 * two ends, each inside a span. */
void gp_trace_flow(bool begins, uint64_t step, uint32_t ring, uint64_t at_ns);
void gp_trace_close(void);
/* Before the work: could a trace be written there? Writes nothing. */
int gp_trace_check(const char *out_path);
/* Joins the parts into one JSON document at out_path (temporary name, then renamed);
 * a part's unfinished last line is dropped. */
int gp_trace_join(const char *out_path, const char *const *part_paths, size_t n_parts);

#endif

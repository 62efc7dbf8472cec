/* tools/common: what stages can run on here, as each kind's worker program tells. */
#ifndef GP_ASK_DEVICES_H
#define GP_ASK_DEVICES_H

#include <jansson.h>
#include <stdbool.h>

/* A list of {"kind", "devices": [...], "problem" where there is none}, the caller's. verbose:
 * the drivers' own messages go through. */
json_t *ask_devices(bool verbose);
/* Becomes the worker program of a kind, which prints a report: "--verify" or "--measure".
 * npu may be NULL. Returns only when that fails. */
int become_report(const char *kind, const char *report, const char *npu, bool json);

#endif

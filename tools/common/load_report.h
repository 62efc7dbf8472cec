/* The report of gempipe bench --serve: a table for people, JSON for scripts. */
#ifndef GP_LOAD_REPORT_H
#define GP_LOAD_REPORT_H

#include <jansson.h>

#include "tools/common/cli.h"
#include "tools/common/load.h"

struct load_report {
	bool json;
	json_t *results;                /* owned */
};
void load_report_begin(const struct load_report *r, const char *what); /* the table's head */
int load_report_add(struct load_report *r, const struct load_level *l, const struct load_result *t);
/* engine: NULL: of another server. */
int load_report_end(struct load_report *r, const struct load_target *t, struct gp_engine *engine);
void load_report_free(struct load_report *r);

#endif

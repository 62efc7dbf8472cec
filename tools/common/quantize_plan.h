/* tools/common: what sizes a model can have. */
#ifndef GP_QUANTIZE_PLAN_H
#define GP_QUANTIZE_PLAN_H

#include "quantize/quantize.h"

/* Bytes that a file of the model takes beside its tensors' data. */
int quantize_plan_header(const struct gp_model *m, size_t *bytes);
/* The size of every choice, from the model's header alone, and which devices could hold it. */
int quantize_plan_print(const struct gp_model *m, const struct gp_calibration *c, bool json);

#endif

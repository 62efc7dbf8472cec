/* What a reference model says of a scored text, row by row, in a file: to be compared
 * with another model's rows, now or later. */
#ifndef GP_REFERENCE_H
#define GP_REFERENCE_H

#include <stdbool.h>

#include "tools/common/score.h"

struct reference;

/* Of source, for a model of config: -EINVAL where their shapes differ. At path, as float16:
 * each logit less its row's largest. NULL: as they are, in float32, in a file without a
 * name in TMPDIR or /var/tmp, which ends with the process. The room is taken now where
 * the file system can do that, so that a full disk shows at once. */
int reference_create(struct reference **r, const char *path, const struct gp_model *source,
		     const struct gp_config *config, const struct score_text *text);
int reference_write(struct reference *r, const struct score_row *row);
/* All rows are written: the file gets its name, and can be read from. */
int reference_finish(struct reference *r);

/* false: something else, a model perhaps. */
bool reference_is_file(const char *path);
/* A finished file; -EINVAL when it is not of such a model and that text, or damaged. */
int reference_open(struct reference **r, const char *path, const struct gp_config *config,
		   const struct score_text *text);
/* Row i: -log p of the text's id, to the last bit, and logits less a constant. */
int reference_read(const struct reference *r, size_t i, double *nll, float *logits);
const char *reference_model(const struct reference *r); /* its file's or folder's name */
/* What was not finished is removed. NULL is fine. */
void reference_close(struct reference *r);

#endif

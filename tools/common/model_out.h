/* tools/common: the GGUF files that programs write of a model. */
#ifndef GP_MODEL_OUT_H
#define GP_MODEL_OUT_H

#include "model/model.h"

/* The last part of a path, without slashes at its end and ".gguf". */
void model_out_name(char *name, size_t room, const char *path);
/* Configuration, file type and tokenizer of m; warns as "gempipe VERB" where there is no
 * tokenizer (verb NULL: does not). type: of most of the matrices. */
int model_out_metadata(struct gp_gguf_writer *w, const struct gp_model *m, enum gp_type type,
                       const char *verb);

#endif

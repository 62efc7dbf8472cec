/* A Hugging Face folder being written: shards of BF16 tensors with their index, config.json,
 * tokenizer.json. Only synth makes such: published models come as these. */
#ifndef GP_FOLDER_OUT_H
#define GP_FOLDER_OUT_H

#include "model/model.h"

struct folder_out;
/* Files go to PATH.part, which takes PATH's name when it is whole. -EEXIST: PATH is there. */
int folder_out_create(struct folder_out **f, const char *path);
/* rows 0: a vector of cols. All are declared before any data. */
int folder_out_add(struct folder_out *f, enum gp_tensor_id id, uint32_t layer, uint64_t rows,
                   uint64_t cols);
/* Appends bytes of the tensors (BF16), in the order in which they were declared. */
int folder_out_write(struct folder_out *f, const void *data, size_t bytes);
/* Pieces without merges: what is no control token is read as bytes. */
int folder_out_finish(struct folder_out *f, const struct gp_config *c, const struct gp_vocab *v);
/* Not finished: PATH.part is removed. So does what ends the program from outside. */
void folder_out_destroy(struct folder_out *f);

#endif

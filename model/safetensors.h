/* safetensors reader (source: "Safetensors format", huggingface/safetensors
 * README): a folder's one file or its shards. Headers are checked whole at
 * opening: offsets, shapes, types, duplicate names. */
#ifndef GP_SAFETENSORS_H
#define GP_SAFETENSORS_H

#include <stddef.h>

#include "model/model.h"

struct gp_safetensors;

/* folder: model.safetensors.index.json and its shards, or model.safetensors. */
int gp_safetensors_open(struct gp_safetensors **s, const char *folder);
void gp_safetensors_close(struct gp_safetensors *s); /* NULL is fine */
/* The tensors of readable types (F32, F16, BF16), in the files' order. More
 * dimensions than two: cols is the last, rows the product of the others. */
size_t gp_safetensors_tensors(const struct gp_safetensors *s, const struct gp_tensor **list);
/* The type's text of a tensor that is there but unreadable; NULL: not there. */
const char *gp_safetensors_unreadable(const struct gp_safetensors *s, const char *name);
const char *gp_safetensors_path(const struct gp_safetensors *s, uint32_t file);

#endif

/* A Gemma 3 of 2 layers and ~140 KB, written to a folder of its own, for tests
 * of the readers. Helpers fail the running test when they can't do their work. */
#ifndef GP_TINY_MODEL_H
#define GP_TINY_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "model/model.h"

struct gp_config tiny_config(void);

/* A new folder, and its removal with all files in it (no folders). */
char *tiny_folder(void);                               /* free() after remove */
void tiny_remove(char *folder);                        /* frees it too */
char *tiny_path(const char *folder, const char *name); /* free() */

/* Layers [first, end) of the model; the per-model tensors with layer 0. */
void tiny_add_tensors(struct gp_gguf_writer *w, const struct gp_config *c, uint32_t first,
                      uint32_t end);
void tiny_write_tensors(struct gp_gguf_writer *w, const struct gp_config *c, uint32_t first,
                        uint32_t end);
void tiny_write_gguf(const char *path);
/* config.json and model.safetensors; prefix as in "model.layers.0...". */
void tiny_write_safetensors(const char *folder, const char *prefix);

uint8_t *tiny_load(const char *path, size_t *bytes);   /* free(); a NUL follows */
char *tiny_load_text(const char *path, size_t *bytes); /* the same */
void tiny_store(const char *path, const void *data, size_t bytes);
/* Where the text stands in data; fails the test where it does not. */
uint8_t *tiny_find(uint8_t *data, size_t bytes, const char *text);

#endif

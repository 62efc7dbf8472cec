/* Shared by the files of the GGUF reader alone. */
#ifndef GP_GGUF_INTERNAL_H
#define GP_GGUF_INTERNAL_H

#include "model/gguf.h"
#include "model/mapped_file.h"

struct gp_gguf {
	struct gp_mapped_file file;
	size_t at;                      /* while parsing: the next byte */
	uint32_t version;
	struct gp_gguf_value *values;   /* sorted by key */
	size_t n_values;
	struct gp_gguf_tensor *tensors; /* in the file's order */
	size_t n_tensors;
};

/* ggml's name of a type, also of those that gempipe does not read. */
const char *gp_gguf_type_text(uint32_t type);

#endif

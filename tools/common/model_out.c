/* What a GGUF says of a model beside its tensors. */
#include "tools/common/model_out.h"

#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "model/gguf.h"

/* llama.cpp's number for general.file_type. */
static uint32_t file_type(enum gp_type t)
{
	static const uint8_t number[GP_TYPE_BF16 + 1] = {
		[GP_TYPE_F32] = 0, [GP_TYPE_F16] = 1, [GP_TYPE_Q4_0] = 2, [GP_TYPE_Q4_1] = 3,
		[GP_TYPE_Q8_0] = 7, [GP_TYPE_Q5_0] = 8, [GP_TYPE_Q5_1] = 9, [GP_TYPE_Q3_K] = 12,
		[GP_TYPE_Q4_K] = 15, [GP_TYPE_Q5_K] = 17, [GP_TYPE_Q6_K] = 18,
		[GP_TYPE_IQ4_NL] = 25, [GP_TYPE_IQ4_XS] = 30, [GP_TYPE_BF16] = 32,
	};

	return number[t];
}

void model_out_name(char *name, size_t room, const char *path)
{
	size_t end = strlen(path), begin;

	while (end > 1 && path[end - 1] == '/')
		end--;
	for (begin = end; begin > 0 && path[begin - 1] != '/'; begin--)
		;
	if (end - begin > 5 && memcmp(path + end - 5, ".gguf", 5) == 0)
		end -= 5;
	snprintf(name, room, "%.*s", (int)(end - begin), path + begin);
}

static int add_vocab(struct gp_gguf_writer *w, const char *source, const struct gp_config *config,
                     const char *verb)
{
	struct gp_tokenizer *t;
	int rc = gp_tokenizer_open(&t, source);

	if (rc >= 0) {
		rc = gp_gguf_add_vocab(w, gp_tokenizer_vocab(t), config->vocab);
		gp_tokenizer_close(t);
		return rc;
	}
	if (rc != -ENOENT)
		return rc;
	if (verb)
		fprintf(stderr, "gempipe %s: %s has no tokenizer; the file will work with token ids only\n",
		        verb, source);
	if (config->bos >= 0 &&
	    (rc = gp_gguf_add_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)config->bos)) < 0)
		return rc;
	return config->eos < 0 ? 0 :
	       gp_gguf_add_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)config->eos);
}

int model_out_metadata(struct gp_gguf_writer *w, const struct gp_model *m, enum gp_type type,
                       const char *verb)
{
	const char *source = gp_model_path(m);
	char name[128];
	int rc;

	model_out_name(name, sizeof name, source);
	if ((rc = gp_gguf_add_config(w, gp_model_config(m), name)) < 0 ||
	    (rc = gp_gguf_add_u32(w, "general.file_type", file_type(type))) < 0)
		return rc;
	return add_vocab(w, source, gp_model_config(m), verb);
}

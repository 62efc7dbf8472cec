/* A completion in the making: tokens to text, for run and chat. */
#ifndef GP_GENERATE_H
#define GP_GENERATE_H

#include "tools/common/cli.h"

struct completion {
	const struct gp_tokenizer *tokenizer;
	struct gp_detokenizer *detokenizer;
	FILE *stream;           /* text is written as it becomes certain; NULL: only kept */
	char *text;             /* NUL-terminated */
	size_t bytes, room;
	uint32_t *ids;          /* generated tokens, stop token included */
	size_t n_ids, ids_room;
	size_t n_prompt;
	enum gp_finish finish;
	bool done;
	int rc;                 /* what went wrong with memory or the stream */
};

int completion_init(struct completion *c, const struct gp_tokenizer *t, FILE *stream);
void completion_finish(struct completion *c); /* frees */
/* Submits prompt for c; the callbacks fill it while the engine runs. */
int completion_submit(struct completion *c, struct gp_engine *e, const uint32_t *prompt, size_t n,
                      uint32_t max_new, const struct gp_sampling *s, uint32_t reuse, bool keep,
                      uint32_t *id);
const char *finish_text(enum gp_finish f);

#endif

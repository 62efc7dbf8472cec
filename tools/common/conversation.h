/* What was said so far, in a chat. */
#ifndef GP_CONVERSATION_H
#define GP_CONVERSATION_H

#include "model/model.h"

struct conversation {           /* zero: an empty one */
	struct gp_chat_message *messages; /* contents are owned */
	size_t n, room;
};

/* role: a literal; content is copied. */
int conversation_add(struct conversation *c, const char *role, const char *content);
/* All but the first so many. */
void conversation_forget(struct conversation *c, size_t keep);
void conversation_free(struct conversation *c);
/* What stands before the first message; NULL: nothing. */
const char *conversation_system(const struct conversation *c);
int conversation_set_system(struct conversation *c, const char *text);
/* A JSON object with "messages", as OpenAI's API has them; readable by its owner only. A file
 * that is there and holds none is left alone: -EEXIST. */
int conversation_save(const struct conversation *c, const char *path);
/* Replaces c, unless it fails. The last message must be an answer. */
int conversation_load(struct conversation *c, const char *path);

#endif

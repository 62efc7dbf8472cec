/* gempipe chat, and what it can be told besides messages. */
#ifndef GP_CHAT_COMMANDS_H
#define GP_CHAT_COMMANDS_H

#include "tools/common/cli.h"
#include "tools/common/conversation.h"
#include "tools/common/line.h"

struct chat {
	struct cli cli;
	struct gp_tokenizer *tokenizer;
	struct gp_sampling sampling;
	const char *system;
	bool no_history;
	uint32_t n_tokens;
	struct conversation said;
	struct line_reader *in;
	FILE *out;
	uint32_t last_id;                 /* whose sequence is kept */
	bool ends;
};

/* Does it where text is a command, and says what went wrong: the conversation goes on in any
 * case. false: it is a message. */
bool chat_command(struct chat *c, const char *text);

#endif

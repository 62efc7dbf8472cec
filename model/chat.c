/* Gemma 3's chat template, written out: the template in the model's files is a
 * program in another language, and has been the same for every Gemma 3.
 *
 *   <bos><start_of_turn>user\n{system}\n\n{content}<end_of_turn>\n
 *   <start_of_turn>model\n{content}<end_of_turn>\n ... <start_of_turn>model\n
 *
 * It is produced once, as a sequence of marks and texts, for two consumers:
 * one makes text of it, the other ids. A text between two marks is encoded
 * whole, so that white space of template and content merges as in the text. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"
#include "model/utf8.h"

enum mark { MARK_BOS, MARK_START, MARK_END, MARKS };

static const char *const mark_text[MARKS] = {
	[MARK_BOS] = "<bos>", [MARK_START] = "<start_of_turn>", [MARK_END] = "<end_of_turn>",
};

struct prompt {                 /* the consumer */
	/* Ids: the encoder, what the marks are, and the text since the last mark. */
	struct gp_encoder *encoder;     /* NULL: text only */
	uint32_t mark_id[MARKS];
	char *text;
	size_t n, room;
};

static int put(struct prompt *p, const char *s, size_t n)
{
	size_t want, room = p->room ? p->room : 256;
	char *grown;

	if (!gp_size_add(p->n, n, &want) || want > GP_MAX_TOKENIZER_TEXT)
		return gp_fail(EFBIG, "the chat is longer than 1 GiB");
	while (room < want + 1)
		room *= 2;
	if (room != p->room) {
		grown = realloc(p->text, room);
		if (!grown)
			return gp_fail(ENOMEM, "no memory for the chat's prompt");
		p->text = grown;
		p->room = room;
	}
	memcpy(p->text + p->n, s, n);
	p->n = want;
	p->text[want] = '\0';
	return 0;
}

static int put_string(struct prompt *p, const char *s)
{
	return put(p, s, strlen(s));
}

/* Encodes the text since the last mark; user text makes no control tokens. */
static int encode_pending(struct prompt *p)
{
	size_t n = p->n;

	p->n = 0;
	return n ? gp_encoder_text(p->encoder, p->text, n, 0) : 0;
}

static int put_mark(struct prompt *p, enum mark m)
{
	int rc;

	if (!p->encoder)
		return put_string(p, mark_text[m]);
	rc = encode_pending(p);
	return rc < 0 ? rc : gp_encoder_id(p->encoder, p->mark_id[m]);
}

/* ---- the template ------------------------------------------------------------- */
static int check_message(const struct gp_chat_message *m, size_t i, bool has_system)
{
	static const char *const roles[] = { "user", "assistant" };
	const size_t turn = i - has_system;
	size_t valid;

	if (!m->role || !m->content)
		return gp_fail(EINVAL, "message %zu: role or content is missing", i + 1);
	valid = gp_utf8_valid(m->content, strlen(m->content));
	if (m->content[valid])
		return gp_fail(EILSEQ, "message %zu: not valid UTF-8 at byte %zu; convert it to "
		               "UTF-8 first", i + 1, valid);
	if (i == 0 && has_system)
		return 0;
	if (strcmp(m->role, roles[turn % 2]) != 0)
		return gp_fail(EINVAL, "message %zu has role \"%.40s\" where \"%s\" is due; roles "
		               "must alternate user/assistant, after at most one system message",
		               i + 1, m->role, roles[turn % 2]);
	return 0;
}

static int check_messages(const struct gp_chat_message *m, size_t n)
{
	const bool has_system = n && m[0].role && !strcmp(m[0].role, "system");
	int rc = 0;

	if (n == 0)
		return gp_fail(EINVAL, "a chat without messages; give at least one of role user");
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = check_message(&m[i], i, has_system);
	if (rc == 0 && n == has_system)
		return gp_fail(EINVAL, "a chat of a system message alone; a user message must "
		               "follow");
	return rc;
}

static int put_turn(struct prompt *p, const char *role, const char *system, const char *content)
{
	size_t n = strlen(content);
	int rc;

	gp_utf8_strip(&content, &n);
	if ((rc = put_mark(p, MARK_START)) < 0 || (rc = put_string(p, role)) < 0 ||
	    (rc = put(p, "\n", 1)) < 0)
		return rc;
	if (system && ((rc = put_string(p, system)) < 0 || (rc = put(p, "\n\n", 2)) < 0))
		return rc;
	if ((rc = put(p, content, n)) < 0 || (rc = put_mark(p, MARK_END)) < 0)
		return rc;
	return put(p, "\n", 1);
}

static int put_chat(struct prompt *p, const struct gp_chat_message *m, size_t n,
                    bool add_generation_prompt)
{
	const char *system = NULL;
	int rc = check_messages(m, n);

	if (rc < 0 || (rc = put_mark(p, MARK_BOS)) < 0)
		return rc;
	if (!strcmp(m[0].role, "system")) {
		system = m[0].content;
		m++;
		n--;
	}
	for (size_t i = 0; i < n; i++) {
		rc = put_turn(p, i % 2 ? "model" : "user", i ? NULL : system, m[i].content);
		if (rc < 0)
			return rc;
	}
	if (add_generation_prompt && (rc = put_mark(p, MARK_START)) == 0)
		rc = put_string(p, "model\n");
	return rc;
}

/* ---- as text, as ids ------------------------------------------------------------ */
int gp_chat_render(const struct gp_chat_message *m, size_t n, bool add_generation_prompt,
                   char **text)
{
	struct prompt p = { 0 };
	int rc = put_chat(&p, m, n, add_generation_prompt);

	if (rc < 0) {
		free(p.text);
		return rc;
	}
	*text = p.text;
	return 0;
}

static int find_marks(const struct gp_tokenizer *t, uint32_t mark_id[MARKS])
{
	mark_id[MARK_BOS] = (uint32_t)t->vocab.bos;
	mark_id[MARK_START] = t->start_of_turn;
	mark_id[MARK_END] = (uint32_t)t->vocab.end_of_turn;
	for (int i = 0; i < MARKS; i++)
		if (mark_id[i] == GP_NONE)
			return gp_fail(ENOTSUP, "the vocabulary has no %s; this model knows no chats, "
			               "give it plain text", mark_text[i]);
	return 0;
}

static int encode_rendered(const struct gp_tokenizer *t, const struct gp_chat_message *m,
                           size_t n, bool add_generation_prompt, uint32_t **ids,
                           size_t *n_ids)
{
	char *text;
	int rc = gp_chat_render(m, n, add_generation_prompt, &text);

	if (rc < 0)
		return rc;
	rc = gp_tokenizer_encode(t, text, strlen(text), GP_ENCODE_SPECIAL, ids, n_ids);
	free(text);
	return rc;
}

static int encode_plain(const struct gp_tokenizer *t, const struct gp_chat_message *m, size_t n,
                        bool add_generation_prompt, size_t most, uint32_t **ids, size_t *n_ids)
{
	struct gp_encoder e = { .t = t, .most = most };
	struct prompt p = { .encoder = &e };
	int rc = find_marks(t, p.mark_id);

	if (rc == 0)
		rc = put_chat(&p, m, n, add_generation_prompt);
	if (rc == 0)
		rc = encode_pending(&p);
	if (rc == 0) {
		*ids = e.ids;
		*n_ids = e.n;
		e.ids = NULL;
	}
	gp_encoder_free(&e);
	free(p.text);
	return rc;
}

int gp_chat_encode(const struct gp_tokenizer *t, const struct gp_chat_message *m, size_t n,
                   bool add_generation_prompt, bool parse_content, uint32_t **ids,
                   size_t *n_ids)
{
	uint32_t marks[MARKS];
	int rc = find_marks(t, marks);

	if (rc < 0)
		return rc;
	return parse_content ? encode_rendered(t, m, n, add_generation_prompt, ids, n_ids)
			     : encode_plain(t, m, n, add_generation_prompt, 0, ids, n_ids);
}

int gp_chat_encode_most(const struct gp_tokenizer *t, const struct gp_chat_message *m, size_t n,
                        size_t most, uint32_t **ids, size_t *n_ids)
{
	return encode_plain(t, m, n, true, most, ids, n_ids);
}

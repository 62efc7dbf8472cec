/* Ids to text. A maximal run of byte tokens is text only if the whole run is
 * valid UTF-8; so the run's bytes are held back until something ends it. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"
#include "model/utf8.h"

struct text {
	char *data;
	size_t n, room;
};

struct gp_detokenizer {
	const struct gp_tokenizer *t;
	bool skip_special;
	struct text run;                /* of byte tokens, not yet certain */
	struct text out;
};

static int append(struct text *to, const char *s, size_t n)
{
	size_t want, room = to->room ? to->room : 64;
	char *grown;

	if (!gp_size_add(to->n, n, &want) || want > SIZE_MAX / 4)
		return gp_fail(ENOMEM, "the text is too long");
	while (room < want + 1)
		room *= 2;
	if (room != to->room) {
		grown = realloc(to->data, room);
		if (!grown)
			return gp_fail(ENOMEM, "no memory for %zu bytes of text", want);
		to->data = grown;
		to->room = room;
	}
	if (n)
		memcpy(to->data + to->n, s, n);
	to->n = want;
	to->data[want] = '\0';
	return 0;
}

static int end_run(struct gp_detokenizer *d)
{
	const size_t n = d->run.n;
	int rc = 0;

	d->run.n = 0;
	if (gp_utf8_valid(d->run.data, n) == n)
		return append(&d->out, d->run.data, n);
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = append(&d->out, GP_UTF8_REPLACEMENT, strlen(GP_UTF8_REPLACEMENT));
	return rc;
}

static int append_piece(struct text *to, const char *s, size_t n)
{
	size_t begin = 0;
	int rc = 0;

	for (size_t at = 0; rc == 0 && at + 3 <= n;) {
		if (memcmp(s + at, GP_SPACE_MARK, 3) != 0) {
			at++;
			continue;
		}
		rc = append(to, s + begin, at - begin);
		if (rc == 0)
			rc = append(to, " ", 1);
		at += 3;
		begin = at;
	}
	return rc < 0 ? rc : append(to, s + begin, n - begin);
}

static char byte_value(const char *text)
{
	const char hex[3] = { text[3], text[4], '\0' };

	return (char)strtoul(hex, NULL, 16);
}

static int add(struct gp_detokenizer *d, uint32_t id)
{
	const struct gp_vocab *v = &d->t->vocab;
	int rc;

	if (id >= v->n || !v->text_bytes[id] ||
	    (d->skip_special && gp_vocab_is_special(d->t, id)))
		return 0;
	if (v->kind[id] == GP_TOKEN_BYTE) {
		const char byte = byte_value(v->text[id]);

		return append(&d->run, &byte, 1);
	}
	rc = end_run(d);
	return rc < 0 ? rc : append_piece(&d->out, v->text[id], v->text_bytes[id]);
}

int gp_tokenizer_decode(const struct gp_tokenizer *t, const uint32_t *ids, size_t n,
                        bool skip_special, char **text, size_t *bytes)
{
	struct gp_detokenizer d = { .t = t, .skip_special = skip_special };
	int rc = append(&d.out, "", 0); /* an empty result is a text too */

	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = add(&d, ids[i]);
	if (rc == 0)
		rc = end_run(&d);
	free(d.run.data);
	if (rc < 0) {
		free(d.out.data);
		return rc;
	}
	*text = d.out.data;
	*bytes = d.out.n;
	return 0;
}

int gp_detokenizer_create(struct gp_detokenizer **out, const struct gp_tokenizer *t,
                          bool skip_special)
{
	struct gp_detokenizer *d = calloc(1, sizeof(*d));

	if (!d)
		return gp_fail(ENOMEM, "no memory for a detokenizer");
	d->t = t;
	d->skip_special = skip_special;
	*out = d;
	return 0;
}

/* Hands out what add or end_run (rc: its result) left in d->out. */
static int hand_out(struct gp_detokenizer *d, int rc, const char **text, size_t *bytes)
{
	if (rc < 0)
		return rc;
	*text = d->out.n ? d->out.data : "";
	*bytes = d->out.n;
	return 0;
}

int gp_detokenizer_push(struct gp_detokenizer *d, uint32_t id, const char **text, size_t *bytes)
{
	d->out.n = 0;
	return hand_out(d, add(d, id), text, bytes);
}

int gp_detokenizer_flush(struct gp_detokenizer *d, const char **text, size_t *bytes)
{
	d->out.n = 0;
	return hand_out(d, end_run(d), text, bytes);
}

void gp_detokenizer_destroy(struct gp_detokenizer *d)
{
	if (!d)
		return;
	free(d->run.data);
	free(d->out.data);
	free(d);
}

#include "tools/common/generate.h"

#include <stdlib.h>
#include <string.h>

int completion_init(struct completion *c, const struct gp_tokenizer *t, FILE *stream)
{
	*c = (struct completion){ .tokenizer = t, .stream = stream };
	c->text = calloc(1, c->room = 256);
	c->ids = calloc(c->ids_room = 64, sizeof *c->ids);
	if (!c->text || !c->ids) {
		completion_finish(c);
		return gp_fail(ENOMEM, "no memory for a completion");
	}
	return gp_detokenizer_create(&c->detokenizer, t, true);
}

void completion_finish(struct completion *c)
{
	gp_detokenizer_destroy(c->detokenizer);
	free(c->text);
	free(c->ids);
	*c = (struct completion){ 0 };
}

static int append_text(struct completion *c, const char *text, size_t bytes)
{
	if (c->room - c->bytes <= bytes) {
		const size_t room = 2 * (c->bytes + bytes) + 1;
		char *more = realloc(c->text, room);

		if (!more)
			return gp_fail(ENOMEM, "no memory for the text");
		c->text = more;
		c->room = room;
	}
	memcpy(c->text + c->bytes, text, bytes);
	c->text[c->bytes += bytes] = '\0';
	if (!c->stream || !bytes)
		return 0;
	if (fwrite(text, 1, bytes, c->stream) != bytes || fflush(c->stream) != 0)
		return gp_fail(errno, "stdout: %s", strerror(errno));
	return 0;
}

static int append_id(struct completion *c, uint32_t id)
{
	if (c->n_ids == c->ids_room) {
		uint32_t *more = realloc(c->ids, 2 * c->ids_room * sizeof *more);

		if (!more)
			return gp_fail(ENOMEM, "no memory for the tokens");
		c->ids = more;
		c->ids_room *= 2;
	}
	c->ids[c->n_ids++] = id;
	return 0;
}

static int on_token(void *user, uint32_t token, bool is_stop)
{
	struct completion *c = user;
	const char *text;
	size_t bytes;

	c->rc = append_id(c, token);
	if (c->rc == 0 && !is_stop)
		c->rc = gp_detokenizer_push(c->detokenizer, token, &text, &bytes);
	if (c->rc == 0 && !is_stop)
		c->rc = append_text(c, text, bytes);
	return c->rc < 0;
}

static void on_done(void *user, enum gp_finish why)
{
	struct completion *c = user;
	const char *text;
	size_t bytes;

	c->finish = why;
	c->done = true;
	if (c->rc == 0)
		c->rc = gp_detokenizer_flush(c->detokenizer, &text, &bytes);
	if (c->rc == 0)
		c->rc = append_text(c, text, bytes);
}

/* End marks by what the vocabulary says; there are two at most. */
static size_t collect_stops(const struct gp_tokenizer *t, uint32_t stops[2])
{
	const struct gp_vocab *v = gp_tokenizer_vocab(t);
	size_t n = 0;

	if (v->eos >= 0)
		stops[n++] = (uint32_t)v->eos;
	if (v->end_of_turn >= 0)
		stops[n++] = (uint32_t)v->end_of_turn;
	return n;
}

int completion_submit(struct completion *c, struct gp_engine *e, const uint32_t *prompt, size_t n,
		      uint32_t max_new, const struct gp_sampling *s, uint32_t reuse, bool keep,
		      uint32_t *id)
{
	uint32_t stops[2];
	const struct gp_request r = {
		.prompt = prompt, .n_prompt = n, .max_new = max_new, .sampling = *s,
		.stops = stops, .n_stops = collect_stops(c->tokenizer, stops),
		.reuse = reuse, .keep = keep, .user = c,
		.on_token = on_token, .on_done = on_done,
	};

	c->n_prompt = n;
	return gp_engine_submit(e, &r, id);
}

const char *finish_text(enum gp_finish f)
{
	static const char *const texts[] = { "stop", "length", "context", "cancelled", "failed" };

	return texts[f];
}

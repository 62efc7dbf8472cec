/* Tokens to text. What may yet become a stop string is held back. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "coordinator/coordinator.h"

struct gp_text {
	struct gp_detokenizer *detokenizer;
	struct stop {
		char *text;
		size_t bytes;
	} *stops;
	size_t n_stops;
	char *held;             /* certain but for stop strings; the first given bytes are handed out */
	size_t n, room, given;
	bool stopped;
	uint64_t characters_made, characters_given;
};

static uint64_t characters(const char *text, size_t bytes)
{
	uint64_t n = 0;

	for (size_t i = 0; i < bytes; i++)
		n += ((unsigned char)text[i] & 0xc0) != 0x80;
	return n;
}

int gp_text_create(struct gp_text **out, const struct gp_tokenizer *tokenizer,
		   const char *const *stops, size_t n_stops)
{
	struct gp_text *t = calloc(1, sizeof *t);
	int rc = t && (t->stops = calloc(n_stops + 1, sizeof *t->stops))
			 ? gp_detokenizer_create(&t->detokenizer, tokenizer, true) : -ENOMEM;

	for (size_t i = 0; i < n_stops && rc == 0; i++) {
		t->stops[i] = (struct stop){ strdup(stops[i]), strlen(stops[i]) };
		t->n_stops++;
		rc = t->stops[i].text ? 0 : -ENOMEM;
	}
	if (rc < 0) {
		gp_text_destroy(t);
		return gp_fail(-rc, "no memory for a text");
	}
	*out = t;
	return 0;
}

void gp_text_destroy(struct gp_text *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n_stops; i++)
		free(t->stops[i].text);
	free(t->stops);
	gp_detokenizer_destroy(t->detokenizer);
	free(t->held);
	free(t);
}

static int append(struct gp_text *t, const char *text, size_t bytes)
{
	if (!bytes && !t->given)
		return 0;
	if (t->given)
		memmove(t->held, t->held + t->given, t->n - t->given);
	t->n -= t->given;
	t->given = 0;
	if (t->room - t->n < bytes) {
		const size_t room = 2 * (t->n + bytes) + 64;
		char *more = realloc(t->held, room);

		if (!more)
			return gp_fail(ENOMEM, "no memory for a text of %zu bytes", room);
		t->held = more;
		t->room = room;
	}
	if (bytes)
		memcpy(t->held + t->n, text, bytes);
	t->n += bytes;
	t->characters_made += characters(text, bytes);
	return 0;
}

/* Is a stop string at a place, whole or (begun) so much of it as there is text for? */
static bool stop_at(const struct gp_text *t, size_t at, bool begun)
{
	const size_t left = t->n - at;

	for (size_t i = 0; i < t->n_stops; i++) {
		const size_t bytes = t->stops[i].bytes;

		if ((bytes <= left || begun) &&
		    memcmp(t->held + at, t->stops[i].text, bytes < left ? bytes : left) == 0)
			return true;
	}
	return false;
}

static size_t find_stop(const struct gp_text *t, bool begun)
{
	size_t at = 0;

	while (at < t->n && !stop_at(t, at, begun))
		at++;
	return at;
}

/* 1: stopped. last: nothing can become whole any more. */
static int hand_out(struct gp_text *t, bool last, const char **text, size_t *bytes)
{
	t->given = find_stop(t, false);
	t->stopped = t->given < t->n;
	if (!t->stopped && !last)
		t->given = find_stop(t, true);
	*text = t->held ? t->held : "";
	*bytes = t->given;
	t->characters_given += characters(*text, *bytes);
	return t->stopped;
}

int gp_text_push(struct gp_text *t, uint32_t token, const char **text, size_t *bytes)
{
	int rc = gp_detokenizer_push(t->detokenizer, token, text, bytes);

	if (rc < 0 || (rc = append(t, *text, *bytes)) < 0)
		return rc;
	return hand_out(t, false, text, bytes);
}

int gp_text_flush(struct gp_text *t, const char **text, size_t *bytes)
{
	int rc;

	*text = "";
	*bytes = 0;
	if (t->stopped)
		return 0;
	if ((rc = gp_detokenizer_flush(t->detokenizer, text, bytes)) < 0 ||
	    (rc = append(t, *text, *bytes)) < 0)
		return rc;
	return hand_out(t, true, text, bytes);
}

uint64_t gp_text_made(const struct gp_text *t)
{
	return t->characters_made;
}

uint64_t gp_text_given(const struct gp_text *t)
{
	return t->characters_given;
}

/* Tokens to text. What may yet become a stop string is held back. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "coordinator/coordinator.h"

struct gp_text {
	struct gp_detokenizer *detokenizer;
	char **stops;
	size_t n_stops;
	char *held;             /* certain but for stop strings; the first given bytes are handed out */
	size_t n, room, given;
	bool stopped;
};

int gp_text_create(struct gp_text **out, const struct gp_tokenizer *tokenizer,
		   const char *const *stops, size_t n_stops)
{
	struct gp_text *t = calloc(1, sizeof *t);
	int rc = t && (t->stops = calloc(n_stops + 1, sizeof *t->stops))
			 ? gp_detokenizer_create(&t->detokenizer, tokenizer, true) : -ENOMEM;

	for (size_t i = 0; i < n_stops && rc == 0; i++) {
		t->stops[t->n_stops] = strdup(stops[i]);
		rc = t->stops[t->n_stops++] ? 0 : -ENOMEM;
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
		free(t->stops[i]);
	free(t->stops);
	gp_detokenizer_destroy(t->detokenizer);
	free(t->held);
	free(t);
}

static int append(struct gp_text *t, const char *text, size_t bytes)
{
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
	memcpy(t->held + t->n, text, bytes);
	t->n += bytes;
	return 0;
}

/* 2: the stop string is there, 1: its beginning is, with which the text ends. */
static int matches(const struct gp_text *t, size_t at, const char *stop)
{
	const size_t bytes = strlen(stop), left = t->n - at;

	if (memcmp(t->held + at, stop, bytes < left ? bytes : left) != 0)
		return 0;
	return bytes <= left ? 2 : 1;
}

/* Where the first stop string begins, or what may become one; n: nowhere. */
static size_t find_stop(const struct gp_text *t, bool *whole)
{
	for (size_t at = 0; at < t->n; at++) {
		int best = 0;

		for (size_t i = 0; i < t->n_stops; i++) {
			const int m = matches(t, at, t->stops[i]);

			best = m > best ? m : best;
		}
		*whole = best == 2;
		if (best)
			return at;
	}
	return t->n;
}

static int hand_out(struct gp_text *t, const char **text, size_t *bytes)
{
	bool whole = false;

	t->given = find_stop(t, &whole);
	t->stopped = whole;
	*text = t->held ? t->held : "";
	*bytes = t->given;
	return t->stopped;
}

int gp_text_push(struct gp_text *t, uint32_t token, const char **text, size_t *bytes)
{
	int rc = gp_detokenizer_push(t->detokenizer, token, text, bytes);

	if (rc < 0 || (rc = append(t, *text, *bytes)) < 0)
		return rc;
	return hand_out(t, text, bytes);
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
	rc = hand_out(t, text, bytes);
	*bytes = rc ? *bytes : t->n;
	return rc;
}

/* Layout of a slot: header | max_ops operations | max_rows rows | padding to 64 |
 * payload. All offsets follow from the geometry, none from the slot. */
#include "shm/shm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define ALIGN 64u
#define CANDIDATE_FLOATS 2u

struct layout {
	size_t ops, rows, payload, end; /* offsets */
};

_Static_assert(sizeof(struct gp_slot_header) % 8 == 0, "operations follow the header");
_Static_assert(sizeof(struct gp_kv_op) == 16 && sizeof(struct gp_row) == 16,
	       "the slot ABI has no padding");
_Static_assert(sizeof(struct gp_slot_candidate) == CANDIDATE_FLOATS * sizeof(float),
	       "candidates lie among floats");

static bool add_array(size_t *at, size_t n, size_t each)
{
	size_t bytes;

	return gp_size_mul(n, each, &bytes) && gp_size_add(*at, bytes, at);
}

static int lay_out(const struct gp_slot_geometry *g, struct layout *l)
{
	size_t row_bytes = 0, at = sizeof(struct gp_slot_header);
	const bool has_payload = g->payload != GP_PAYLOAD_NONE;

	if (g->payload > GP_PAYLOAD_LOGITS)
		return gp_fail(EINVAL, "slot: payload kind %u is unknown", g->payload);
	if (g->max_rows == 0)
		return gp_fail(EINVAL, "slot: room for 0 rows; it takes at least one");
	l->ops = at;
	bool fits = add_array(&at, g->max_ops, sizeof(struct gp_kv_op));
	l->rows = at;
	fits = fits && add_array(&at, g->max_rows, sizeof(struct gp_row)) &&
	       gp_size_round_up(at, ALIGN, &at);
	l->payload = at;
	if (has_payload)
		fits = fits && gp_size_mul(g->payload_cols, sizeof(float), &row_bytes) &&
		       add_array(&at, g->max_payload_rows, row_bytes);
	if (!fits || !gp_size_round_up(at, ALIGN, &l->end))
		return gp_fail(EOVERFLOW, "slot: %u operations, %u rows and %u x %u payload do not "
			       "fit the address space", g->max_ops, g->max_rows,
			       g->max_payload_rows, g->payload_cols);
	return 0;
}

int gp_slot_bytes(const struct gp_slot_geometry *g, size_t *bytes)
{
	struct layout l;
	const int rc = lay_out(g, &l);

	if (rc == 0)
		*bytes = l.end;
	return rc;
}

uint32_t gp_slot_most_candidates(const struct gp_slot_geometry *g)
{
	const uint32_t cols = g->payload == GP_PAYLOAD_LOGITS ? g->payload_cols : g->vocab;
	const uint32_t fit = cols / CANDIDATE_FLOATS;

	return fit < GP_SLOT_CANDIDATES ? fit : GP_SLOT_CANDIDATES;
}

/* Nothing for rings that carry no logits. */
static bool allocate_logits(struct gp_slot_view *v, const struct gp_slot_geometry *g)
{
	const size_t n = g->max_payload_rows, each = gp_slot_most_candidates(g);

	if (g->payload != GP_PAYLOAD_LOGITS)
		return true;
	v->logits = calloc(n + 1, sizeof *v->logits);
	v->candidates = calloc(n * each + 1, sizeof *v->candidates);
	return v->logits && v->candidates;
}

int gp_slot_view_create(struct gp_slot_view *v, const struct gp_slot_geometry *g)
{
	struct layout l;

	*v = (struct gp_slot_view){ 0 };
	const int rc = lay_out(g, &l);
	if (rc < 0)
		return rc;
	v->ops = calloc((size_t)g->max_ops + 1, sizeof *v->ops); /* never 0 bytes */
	v->rows = calloc(g->max_rows, sizeof *v->rows);
	if (!v->ops || !v->rows || !allocate_logits(v, g)) {
		gp_slot_view_finish(v);
		return gp_fail(ENOMEM, "slot: no memory for %u operations and %u rows", g->max_ops,
			       g->max_rows);
	}
	return 0;
}

void gp_slot_view_finish(struct gp_slot_view *v)
{
	free(v->ops);
	free(v->rows);
	free(v->logits);
	free(v->candidates);
	*v = (struct gp_slot_view){ 0 };
}

/* ---- checks: each works on the private copy ---------------------------------- */

static int check_header(const struct gp_slot_header *h, const struct gp_slot_geometry *g)
{
	const uint32_t cols = g->payload == GP_PAYLOAD_NONE ? 0 : g->payload_cols;

	if (h->magic != GP_SLOT_MAGIC)
		return gp_fail(EPROTO, "slot: magic is 0x%08x, not 0x%08x: no step was written here",
			       h->magic, GP_SLOT_MAGIC);
	if (h->abi != GP_SLOT_ABI)
		return gp_fail(EPROTO, "slot: abi is %u, this program speaks %u; use programs of one "
			       "build", h->abi, GP_SLOT_ABI);
	if (h->n_ops > g->max_ops)
		return gp_fail(EPROTO, "slot: n_ops is %u, the ring takes %u", h->n_ops, g->max_ops);
	if (h->n_rows > g->max_rows)
		return gp_fail(EPROTO, "slot: n_rows is %u, the ring takes %u", h->n_rows,
			       g->max_rows);
	if (h->payload != g->payload)
		return gp_fail(EPROTO, "slot: payload is of kind %u, the ring carries kind %u",
			       h->payload, g->payload);
	if (h->payload_cols != cols)
		return gp_fail(EPROTO, "slot: payload_cols is %u, the ring carries %u",
			       h->payload_cols, cols);
	return 0;
}

static int check_op(const struct gp_kv_op *op, size_t i, const struct gp_slot_geometry *g)
{
	if (op->kind < GP_KV_DROP || op->kind > GP_KV_COPY)
		return gp_fail(EPROTO, "slot: operation %zu: kind %u is unknown", i, op->kind);
	if (op->seq >= g->max_sequences)
		return gp_fail(EPROTO, "slot: operation %zu: seq is %u of %u sequences", i, op->seq,
			       g->max_sequences);
	if (op->kind == GP_KV_COPY ? op->src >= g->max_sequences || op->src == op->seq
				   : op->src != 0)
		return gp_fail(EPROTO, "slot: operation %zu: src %u cannot be for kind %u on seq %u",
			       i, op->src, op->kind, op->seq);
	if (op->pos > (op->kind == GP_KV_DROP ? 0 : g->context))
		return gp_fail(EPROTO, "slot: operation %zu: pos %u cannot be for kind %u, context "
			       "%u", i, op->pos, op->kind, g->context);
	return 0;
}

static int check_row(const struct gp_row *row, size_t i, const struct gp_slot_geometry *g)
{
	if (row->seq >= g->max_sequences)
		return gp_fail(EPROTO, "slot: row %zu: seq is %u of %u sequences", i, row->seq,
			       g->max_sequences);
	if (row->pos >= g->context)
		return gp_fail(EPROTO, "slot: row %zu: pos is %u, the context ends at %u", i,
			       row->pos, g->context);
	if (row->token >= g->vocab)
		return gp_fail(EPROTO, "slot: row %zu: token is %u, the vocabulary has %u", i,
			       row->token, g->vocab);
	if (row->flags & ~(uint32_t)GP_ROW_WANTS_LOGITS)
		return gp_fail(EPROTO, "slot: row %zu: flags 0x%x are unknown", i, row->flags);
	const uint32_t most = row->flags & GP_ROW_WANTS_LOGITS ? gp_slot_most_candidates(g) : 0;
	if (row->candidates > most)
		return gp_fail(EPROTO, "slot: row %zu: candidates is %u, it may ask for %u", i,
			       row->candidates, most);
	return 0;
}

static uint32_t payload_rows(const struct gp_slot_header *h, const struct gp_row *rows)
{
	uint32_t n = 0;

	switch (h->payload) {
	case GP_PAYLOAD_HIDDEN:
		return h->n_rows;
	case GP_PAYLOAD_LOGITS:
		for (uint32_t i = 0; i < h->n_rows; i++)
			n += rows[i].flags & GP_ROW_WANTS_LOGITS;
		return n;
	default:
		return 0;
	}
}

static int check_payload_rows(const struct gp_slot_header *h, const struct gp_row *rows,
			      const struct gp_slot_geometry *g)
{
	const uint32_t n = payload_rows(h, rows);

	if (h->payload_rows != n)
		return gp_fail(EPROTO, "slot: payload_rows is %u, the rows call for %u",
			       h->payload_rows, n);
	if (g->payload != GP_PAYLOAD_NONE && n > g->max_payload_rows)
		return gp_fail(EPROTO, "slot: payload_rows is %u, the ring takes %u", n,
			       g->max_payload_rows);
	return 0;
}

/* Order and ids; whether they are finite is for their user to say. */
static int check_candidates(const struct gp_slot_candidate *c, uint32_t n, uint32_t cols, size_t row)
{
	for (uint32_t i = 0; i < n; i++) {
		if (c[i].id >= cols)
			return gp_fail(EPROTO, "slot: payload row %zu: candidate %u is token %u of "
				       "%u", row, i, c[i].id, cols);
		if (i && isfinite(c[i - 1].logit) &&
		    !(c[i - 1].logit > c[i].logit ||
		      (c[i - 1].logit == c[i].logit && c[i - 1].id < c[i].id)))
			return gp_fail(EPROTO, "slot: payload row %zu: candidate %u is better than "
				       "the one before it", row, i);
	}
	return 0;
}

/* Where each row's logits lie follows from the private rows, which ask for no
 * more than fits: check_row and check_payload_rows have seen to it. */
static int read_logits(struct gp_slot_view *v, const struct gp_slot_geometry *g)
{
	struct gp_slot_candidate *to = v->candidates;
	const float *from = v->payload;
	size_t n = 0;
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < v->header.n_rows; i++) {
		const uint32_t k = v->rows[i].candidates;

		if (!(v->rows[i].flags & GP_ROW_WANTS_LOGITS))
			continue;
		v->logits[n] = k ? (struct gp_slot_logits){ .best = to, .n_best = k }
				 : (struct gp_slot_logits){ .row = from };
		if (k) {
			memcpy(to, from, k * sizeof *to);
			rc = check_candidates(to, k, g->payload_cols, n);
		}
		from += k ? k * CANDIDATE_FLOATS : g->payload_cols;
		to += k;
		n++;
	}
	return rc;
}

int gp_slot_read(struct gp_slot_view *v, const struct gp_slot_geometry *g, const void *slot)
{
	const uint8_t *bytes = slot;
	struct layout l;
	int rc = lay_out(g, &l);

	if (rc < 0)
		return rc;
	memcpy(&v->header, bytes, sizeof v->header);
	rc = check_header(&v->header, g);
	if (rc < 0)
		return rc;
	memcpy(v->ops, bytes + l.ops, v->header.n_ops * sizeof *v->ops);
	memcpy(v->rows, bytes + l.rows, v->header.n_rows * sizeof *v->rows);
	for (size_t i = 0; rc == 0 && i < v->header.n_ops; i++)
		rc = check_op(&v->ops[i], i, g);
	for (size_t i = 0; rc == 0 && i < v->header.n_rows; i++)
		rc = check_row(&v->rows[i], i, g);
	if (rc == 0)
		rc = check_payload_rows(&v->header, v->rows, g);
	v->payload = (const float *)(const void *)(bytes + l.payload);
	if (rc == 0 && g->payload == GP_PAYLOAD_LOGITS)
		rc = read_logits(v, g);
	return rc;
}

float *gp_slot_payload(const struct gp_slot_geometry *g, void *slot)
{
	struct layout l;

	if (lay_out(g, &l) < 0)
		return NULL;
	return (float *)(void *)((uint8_t *)slot + l.payload);
}

int gp_slot_write(const struct gp_slot_geometry *g, void *slot, const struct gp_slot_header *h,
		  const struct gp_kv_op *ops, const struct gp_row *rows)
{
	struct gp_slot_header out = *h;
	uint8_t *bytes = slot;
	struct layout l;
	const int rc = lay_out(g, &l);

	if (rc < 0)
		return rc;
	if (h->n_ops > g->max_ops || h->n_rows > g->max_rows ||
	    (h->payload != GP_PAYLOAD_NONE && h->payload_rows > g->max_payload_rows))
		return gp_fail(E2BIG, "slot: %u operations, %u rows, %u payload rows; the ring takes "
			       "%u, %u, %u: send smaller steps", h->n_ops, h->n_rows,
			       h->payload_rows, g->max_ops, g->max_rows, g->max_payload_rows);
	out.magic = GP_SLOT_MAGIC;
	out.abi = GP_SLOT_ABI;
	memcpy(bytes, &out, sizeof out);
	if (h->n_ops)
		memcpy(bytes + l.ops, ops, h->n_ops * sizeof *ops);
	if (h->n_rows)
		memcpy(bytes + l.rows, rows, h->n_rows * sizeof *rows);
	return 0;
}

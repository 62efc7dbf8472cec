/* What a token costs at least: bytes from memory and operations. */
#ifndef GP_COST_H
#define GP_COST_H

#include "model/model.h"

struct cost {
	/* Weights, once a step for all of its rows; the row of the embedding; the
	 * keys and values that attention looks at, once a step for all rows of a
	 * sequence. Activations stay in caches, and writing is not counted. */
	double bytes;
	/* Multiplications and additions: 2 for each parameter of a matrix, 4 for
	 * each position, head and dimension of attention. */
	double ops;
};

/* Rows at positions [first, first + n) of a sequence. */
struct cost_rows {
	uint64_t first, n;       /* n > 0 */
	uint64_t together;       /* of them in a step; decode: 1 */
	double rows_per_step;    /* of all sequences */
	bool logits;             /* the head runs for each row; else for none */
};

/* The mean over these rows. */
struct cost cost_per_token(const struct gp_model *m, enum gp_type kv_type,
                           const struct cost_rows *r);

#endif

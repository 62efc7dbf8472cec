/* Tasks of the shim DMA: written into a stream, and found again in one. Both keep the
 * same account of what may be in flight. */
#include <string.h>

#include "base/base.h"
#include "workers/npu/stream.h"

/* Registers of a shim tile. */
#define TOKEN (1u << 31)
enum {
	BD_0 = 0x1d000, BD_BYTES = 4 * GP_SHIM_BD_WORDS, BD_END = BD_0 + GP_SHIM_BDS * BD_BYTES,
	CONTROL_0 = 0x1d200, QUEUE_0 = 0x1d204, CHANNEL_BYTES = 8, TO_ARRAY_BYTES = 16,
	CONTROL_END = CONTROL_0 + 2 * TO_ARRAY_BYTES,
	REPEATS_AT = 16,
	TOKEN_PACKET_MASK = 0x1f00, TOKEN_PACKET = GP_SHIM_TOKEN_PACKET << 8, /* in CONTROL */
};

static struct gp_shim_queue *queue_of(struct gp_shim_flight *f, const struct gp_shim_channel *on)
{
	return &f->queue[on->column][on->to_array][on->channel];
}

static const char *name_of(const struct gp_shim_channel *on, char name[32])
{
	snprintf(name, 32, "column %u %s %u", on->column, on->to_array ? "MM2S" : "S2MM", on->channel);
	return name;
}

static int push(struct gp_shim_flight *f, const struct gp_shim_channel *on, uint32_t bd, bool token)
{
	struct gp_shim_queue *q = queue_of(f, on);
	char name[32];

	if (q->n == GP_SHIM_QUEUE)
		return gp_fail(EINVAL, "instruction stream: %s: over %d tasks at once", name_of(on, name),
		               GP_SHIM_QUEUE);
	q->task[q->n].bd = (uint8_t)bd;
	q->task[q->n++].token = token;
	f->bds[on->column] |= (uint16_t)(1u << bd);
	return 0;
}

/* A descriptor may be in several tasks of its column. */
static bool is_in_flight(const struct gp_shim_flight *f, uint32_t column, uint32_t bd)
{
	for (uint32_t i = 0; i < 2 * GP_SHIM_CHANNELS; i++) {
		const struct gp_shim_queue *q = &f->queue[column][i / GP_SHIM_CHANNELS][i % GP_SHIM_CHANNELS];
		for (uint32_t k = 0; k < q->n; k++)
			if (q->task[k].bd == bd)
				return true;
	}
	return false;
}

/* The oldest token has come: the tasks up to its own are done. */
static int pop(struct gp_shim_flight *f, const struct gp_shim_channel *on)
{
	struct gp_shim_queue *q = queue_of(f, on);
	uint32_t n = 0;
	uint8_t done[GP_SHIM_QUEUE];
	char name[32];

	while (n < q->n && !q->task[n].token)
		n++;
	if (n == q->n)
		return gp_fail(EINVAL, "instruction stream: %s: waits for a token that no task gives",
		               name_of(on, name));
	n++;
	for (uint32_t i = 0; i < n; i++)
		done[i] = q->task[i].bd;
	q->n = (uint8_t)(q->n - n);
	memmove(q->task, q->task + n, q->n * sizeof *q->task);
	for (uint32_t i = 0; i < n; i++)
		if (!is_in_flight(f, on->column, done[i]))
			f->bds[on->column] &= (uint16_t)~(1u << done[i]);
	return 0;
}

static bool has_token(const struct gp_shim_queue *q)
{
	for (uint32_t i = 0; i < q->n; i++)
		if (q->task[i].token)
			return true;
	return false;
}

/* ---- writing ---------------------------------------------------------------- */
void gp_tasks_begin(struct gp_task_writer *w, struct gp_stream *s)
{
	*w = (struct gp_task_writer){ .s = s };
}

static void keep_error(struct gp_task_writer *w, int rc)
{
	if (rc && !w->s->error)
		w->s->error = rc;
}

static void put_wait(struct gp_task_writer *w, const struct gp_shim_channel *on)
{
	gp_stream_put(w->s, &(struct gp_stream_op){ .code = GP_STREAM_SYNC, .column = on->column,
	              .columns = 1, .rows = 1, .channel = on->channel, .to_array = on->to_array });
	keep_error(w, pop(&w->flight, on));
}

static int free_bd(const struct gp_shim_flight *f, uint32_t column, uint32_t *bd)
{
	const uint32_t unused = ~(uint32_t)f->bds[column] & 0xffff;

	if (unused == 0)
		return gp_fail(EINVAL, "instruction stream: column %u: no DMA descriptor is free", column);
	*bd = (uint32_t)__builtin_ctz(unused);
	return 0;
}

static uint32_t channel_address(const struct gp_shim_channel *on, uint32_t reg)
{
	return gp_stream_address(on->column, 0, reg + (on->to_array ? TO_ARRAY_BYTES : 0u) +
	                         on->channel * (uint32_t)CHANNEL_BYTES);
}

/* Once a command: what ran before may have set another. */
static void name_tokens(struct gp_task_writer *w, const struct gp_shim_channel *on)
{
	bool *named = &w->flight.named[on->column][on->to_array][on->channel];

	if (!*named)
		gp_stream_put(w->s, &(struct gp_stream_op){ .code = GP_STREAM_MASK_WRITE, .value = TOKEN_PACKET,
		              .mask = TOKEN_PACKET_MASK, .address = channel_address(on, CONTROL_0) });
	*named = true;
}

static void put_task(struct gp_task_writer *w, const struct gp_shim_task *t, uint32_t bd, bool token)
{
	const uint32_t at = gp_stream_address(t->on.column, 0, BD_0 + bd * BD_BYTES);
	const uint32_t start = bd | (t->repeats - 1) << REPEATS_AT | (token ? TOKEN : 0);
	uint32_t words[GP_SHIM_BD_WORDS] = { 0 };

	keep_error(w, gp_shim_bd_write(&t->bd, words));
	gp_stream_put(w->s, &(struct gp_stream_op){ .code = GP_STREAM_BLOCK_WRITE, .address = at,
	              .words = words, .n_words = GP_SHIM_BD_WORDS });
	gp_stream_put(w->s, &(struct gp_stream_op){ .code = GP_STREAM_PATCH, .address = at + 4,
	              .arg = t->arg, .arg_offset = t->offset });
	if (token)
		name_tokens(w, &t->on);
	gp_stream_put(w->s, &(struct gp_stream_op){ .code = GP_STREAM_WRITE, .value = start,
	              .address = channel_address(&t->on, QUEUE_0) });
	keep_error(w, push(&w->flight, &t->on, bd, token));
	w->n_tasks++;
}

static bool is_channel(const struct gp_shim_channel *on)
{
	return on->column < GP_STREAM_COLUMNS && on->channel < GP_SHIM_CHANNELS;
}

void gp_tasks_put(struct gp_task_writer *w, const struct gp_shim_task *t)
{
	uint32_t bd = 0;

	if (w->s->error)
		return;
	if (!is_channel(&t->on) || t->arg >= GP_STREAM_ARGS || t->repeats - 1 >= GP_SHIM_MOST_REPEATS) {
		w->s->error = gp_fail(EINVAL, "instruction stream: a task in column %u, channel %u, of buffer %u, "
		                      "%u times", t->on.column, t->on.channel, t->arg, t->repeats);
		return;
	}
	if (queue_of(&w->flight, &t->on)->n == GP_SHIM_QUEUE)
		put_wait(w, &t->on);
	keep_error(w, free_bd(&w->flight, t->on.column, &bd));
	put_task(w, t, bd, t->token || !t->on.to_array);
}

void gp_tasks_end(struct gp_task_writer *w)
{
	for (uint8_t column = 0; column < GP_STREAM_COLUMNS; column++)
		for (uint8_t i = 0; i < 2 * GP_SHIM_CHANNELS; i++) {
			const struct gp_shim_channel on = { column, i % GP_SHIM_CHANNELS, i >= GP_SHIM_CHANNELS };
			while (!w->s->error && has_token(queue_of(&w->flight, &on)))
				put_wait(w, &on);
		}
}

/* ---- reading ---------------------------------------------------------------- */
struct shim {
	uint32_t bd[GP_SHIM_BDS][GP_SHIM_BD_WORDS];
	struct { bool known; uint32_t arg; uint64_t offset; } address[GP_SHIM_BDS];
};

struct reading {
	const struct gp_stream_visitor *v;
	struct gp_shim_flight flight;
	struct shim shim[GP_STREAM_COLUMNS];
};

static int write_bd(struct reading *r, uint32_t column, uint32_t reg, uint32_t value)
{
	const uint32_t bd = (reg - BD_0) / BD_BYTES, word = (reg - BD_0) % BD_BYTES / 4;

	if (r->flight.bds[column] >> bd & 1)
		return gp_fail(EINVAL, "instruction stream: column %u: descriptor %u is written while a task "
		               "may still read it", column, bd);
	r->shim[column].bd[bd][word] = value;
	r->shim[column].address[bd].known = false;
	return 0;
}

static int start_task(struct reading *r, uint32_t column, uint32_t reg, uint32_t value)
{
	const uint32_t bd = value & (GP_SHIM_BDS - 1), at = reg - QUEUE_0;
	struct shim *s = &r->shim[column];
	struct gp_shim_task t = {
		.on = { (uint8_t)column, (uint8_t)(at / CHANNEL_BYTES % GP_SHIM_CHANNELS), at >= TO_ARRAY_BYTES },
		.repeats = (value >> REPEATS_AT & 0xff) + 1, .token = value & TOKEN,
		.arg = s->address[bd].arg, .offset = s->address[bd].offset,
	};

	if (!s->address[bd].known)
		return gp_fail(EINVAL, "instruction stream: column %u: descriptor %u has no address", column, bd);
	if (value & ~(TOKEN | 0xffu << REPEATS_AT | (GP_SHIM_BDS - 1)))
		return gp_fail(EINVAL, "instruction stream: column %u: task %08x", column, value);
	if (t.token && !r->flight.named[column][t.on.to_array][t.on.channel])
		return gp_fail(EINVAL, "instruction stream: column %u: a token without its packet gets lost", column);
	int rc = gp_shim_bd_read(&t.bd, s->bd[bd]);
	if (!rc)
		rc = push(&r->flight, &t.on, bd, t.token);
	return rc ? rc : r->v->task(r->v->context, &t);
}

static int do_write(struct reading *r, uint32_t address, uint32_t value)
{
	const uint32_t column = address >> 25, row = address >> 20 & 0x1f, reg = address & 0xfffff;

	if (column < GP_STREAM_COLUMNS && row == 0 && reg % 4 == 0) {
		if (reg >= BD_0 && reg < BD_END)
			return write_bd(r, column, reg, value);
		if (reg >= CONTROL_0 && reg < CONTROL_END && reg % 8 == QUEUE_0 % 8)
			return start_task(r, column, reg, value);
	}
	if (column < GP_STREAM_COLUMNS && row > 0 && row < 6 && r->v->write)
		return r->v->write(r->v->context, address, value);
	return gp_fail(EINVAL, "instruction stream: a write to %08x, which no program here does", address);
}

static int do_block(struct reading *r, const struct gp_stream_op *op)
{
	int rc = 0;

	for (uint32_t i = 0; i < op->n_words && rc == 0; i++)
		rc = do_write(r, op->address + i * 4, op->words[i]);
	return rc;
}

static int do_mask_write(struct reading *r, const struct gp_stream_op *op)
{
	const uint32_t column = op->address >> 25, at = (op->address & 0x1ffffff) - CONTROL_0;

	if (column >= GP_STREAM_COLUMNS || at >= CONTROL_END - CONTROL_0 || at % CHANNEL_BYTES != 0 ||
	    op->mask != TOKEN_PACKET_MASK || op->value != TOKEN_PACKET)
		return gp_fail(EINVAL, "instruction stream: a write of %08x to %08x under mask %08x, which no program "
		               "here does", op->value, op->address, op->mask);
	r->flight.named[column][at >= TO_ARRAY_BYTES][at / CHANNEL_BYTES % GP_SHIM_CHANNELS] = true;
	return 0;
}

static int do_patch(struct reading *r, const struct gp_stream_op *op)
{
	const uint32_t column = op->address >> 25, at = (op->address & 0x1ffffff) - BD_0;

	if (column >= GP_STREAM_COLUMNS || at >= BD_END - BD_0 || at % BD_BYTES != 4)
		return gp_fail(EINVAL, "instruction stream: an address for %08x, which is no descriptor's",
		               op->address);
	if (op->arg >= GP_STREAM_ARGS)
		return gp_fail(EINVAL, "instruction stream: data buffer %u; the last is %d", op->arg,
		               GP_STREAM_ARGS - 1);
	if (r->flight.bds[column] >> at / BD_BYTES & 1)
		return gp_fail(EINVAL, "instruction stream: column %u: the address of descriptor %u changes "
		               "while a task may still read it", column, at / BD_BYTES);
	r->shim[column].address[at / BD_BYTES].known = true;
	r->shim[column].address[at / BD_BYTES].arg = op->arg;
	r->shim[column].address[at / BD_BYTES].offset = op->arg_offset;
	return 0;
}

static int do_sync(struct reading *r, const struct gp_stream_op *op)
{
	int rc = 0;

	if (op->row != 0 || op->rows != 1 || op->columns == 0 || op->channel >= GP_SHIM_CHANNELS ||
	    (uint32_t)op->column + op->columns > GP_STREAM_COLUMNS)
		return gp_fail(EINVAL, "instruction stream: a wait for column %u row %u (%u x %u) channel %u",
		               op->column, op->row, op->columns, op->rows, op->channel);
	for (uint8_t i = 0; i < op->columns && rc == 0; i++) {
		const struct gp_shim_channel on = { (uint8_t)(op->column + i), op->channel, op->to_array };
		rc = pop(&r->flight, &on);
		if (!rc)
			rc = r->v->wait(r->v->context, &on);
	}
	return rc;
}

static int do_op(struct reading *r, const struct gp_stream_op *op)
{
	switch (op->code) {
	case GP_STREAM_WRITE:
		return do_write(r, op->address, op->value);
	case GP_STREAM_BLOCK_WRITE:
		return do_block(r, op);
	case GP_STREAM_MASK_WRITE:
		return do_mask_write(r, op);
	case GP_STREAM_SYNC:
		return do_sync(r, op);
	case GP_STREAM_PATCH:
		return do_patch(r, op);
	case GP_STREAM_MASK_POLL:
		break;
	}
	return gp_fail(EINVAL, "instruction stream: operation %d, which no program here has", op->code);
}

static int check_end(struct gp_shim_flight *f)
{
	char name[32];

	for (uint8_t column = 0; column < GP_STREAM_COLUMNS; column++)
		for (uint8_t i = 0; i < 2 * GP_SHIM_CHANNELS; i++) {
			const struct gp_shim_channel on = { column, i % GP_SHIM_CHANNELS, i >= GP_SHIM_CHANNELS };
			const struct gp_shim_queue *q = queue_of(f, &on);
			if (has_token(q) || (!on.to_array && q->n > 0))
				return gp_fail(EINVAL, "instruction stream: %s: nobody waits for its last tasks",
				               name_of(&on, name));
		}
	return 0;
}

int gp_stream_read(const uint32_t *words, size_t n_words, const struct gp_stream_visitor *v)
{
	struct reading r = { .v = v };
	struct gp_stream_reader reader;
	struct gp_stream_op op;
	int rc = gp_stream_open(&reader, words, n_words);

	while (rc == 0) {
		rc = gp_stream_next(&reader, &op);
		if (rc <= 0)
			break;
		rc = do_op(&r, &op);
	}
	return rc ? rc : check_end(&r.flight);
}

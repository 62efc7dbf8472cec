/* Between struct gp_message and the wire format of control.proto. Both ways go
 * through check(): what would not be accepted is not sent. */
#include "proto/proto.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "proto/control.pb-c.h"
#include "proto/internal.h"

#define MAX_STAGES 64u
#define MAX_LAYERS 4096u
#define MAX_THREADS 4096u

/* ---- ranges ------------------------------------------------------------------ */

static int check_text(int errnum, const char *field, const char *text, size_t room)
{
	if (memchr(text, '\0', room))
		return 0;
	return gp_fail(errnum, "%s: longer than %zu bytes", field, room - 1);
}

static int check_number(int errnum, const char *field, uint64_t value, uint64_t min, uint64_t max)
{
	if (value >= min && value <= max)
		return 0;
	return gp_fail(errnum, "%s: %llu is not in %llu..%llu", field, (unsigned long long)value,
		       (unsigned long long)min, (unsigned long long)max);
}

static int check_hello(int errnum, const struct gp_msg_hello *m)
{
	int rc = check_number(errnum, "hello.stage", m->stage, 0, MAX_STAGES - 1);

	if (rc == 0)
		rc = check_number(errnum, "hello.pid", m->pid, 0, INT32_MAX);
	if (rc == 0)
		rc = check_text(errnum, "hello.device", m->device, sizeof m->device);
	if (rc == 0)
		rc = check_text(errnum, "hello.description", m->description, sizeof m->description);
	return rc;
}

static int check_ring(int errnum, const struct gp_msg_ring *m)
{
	int rc = check_text(errnum, "ring.path", m->path, sizeof m->path);

	/* The range that matters to memory is checked by gp_slot_bytes. */
	if (rc == 0)
		rc = check_number(errnum, "ring.payload", m->payload, GEMPIPE__PAYLOAD__PAYLOAD_NONE,
				  GEMPIPE__PAYLOAD__PAYLOAD_LOGITS);
	return rc;
}

static int check_load_numbers(int errnum, const struct gp_msg_load *m)
{
	const struct {
		const char *field;
		uint32_t value, min, max;
	} numbers[] = {
		{ "load.n_stages", m->n_stages, 1, MAX_STAGES },
		{ "load.stage", m->stage, 0, m->n_stages - 1 },
		{ "load.end_layer", m->end_layer, 0, MAX_LAYERS },
		{ "load.first_layer", m->first_layer, 0, m->end_layer },
		{ "load.threads", m->threads, 0, MAX_THREADS },
		{ "load.first_cpu", m->first_cpu, 0, MAX_THREADS },
		{ "load.coordinator_pid", m->coordinator_pid, 0, INT32_MAX },
		{ "load.log_level", m->log_level, GP_LOG_ERROR, GP_LOG_DEBUG },
	};
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < GP_ARRAY_LEN(numbers); i++)
		rc = check_number(errnum, numbers[i].field, numbers[i].value, numbers[i].min,
				  numbers[i].max);
	return rc;
}

static int check_load(int errnum, const struct gp_msg_load *m)
{
	int rc = check_text(errnum, "load.model", m->model, sizeof m->model);

	if (rc == 0)
		rc = check_text(errnum, "load.trace_part", m->trace_part, sizeof m->trace_part);
	if (rc == 0)
		rc = check_load_numbers(errnum, m);
	if (rc == 0)
		rc = check_ring(errnum, &m->in);
	if (rc == 0)
		rc = check_ring(errnum, &m->out);
	return rc;
}

static int check(int errnum, const struct gp_message *m)
{
	switch (m->kind) {
	case GP_MSG_HELLO:
		return check_hello(errnum, &m->hello);
	case GP_MSG_LOAD:
		return check_load(errnum, &m->load);
	case GP_MSG_ERROR:
	case GP_MSG_REFUSED:
		return check_text(errnum, "error.text", m->error.text, sizeof m->error.text);
	case GP_MSG_PROGRESS:
	case GP_MSG_READY:
	case GP_MSG_PARK:
	case GP_MSG_PARKED:
	case GP_MSG_RESUME:
	case GP_MSG_HEARTBEAT:
	case GP_MSG_STOP:
	case GP_MSG_GOODBYE:
		return 0;
	}
	return gp_fail(errnum, "control message: kind %d is unknown", (int)m->kind);
}

/* ---- to the wire ---------------------------------------------------------------- */

/* The protobuf-c structures of any one message; their texts point into it. */
struct parts {
	Gempipe__Envelope envelope;
	union {
		Gempipe__Hello hello;
		Gempipe__Load load;
		Gempipe__Progress progress;
		Gempipe__Ready ready;
		Gempipe__Epoch epoch;
		Gempipe__Heartbeat heartbeat;
		Gempipe__Error error;
		Gempipe__Nothing nothing;
	};
	Gempipe__Ring in, out;
};

/* protobuf-c wants char *, and only reads it. */
static char *text_of(const char *s)
{
	return (char *)(uintptr_t)s;
}

static void put_ring(Gempipe__Ring *w, const struct gp_msg_ring *m)
{
	gempipe__ring__init(w);
	w->path = text_of(m->path);
	w->fd = m->fd;
	w->max_ops = m->max_ops;
	w->max_rows = m->max_rows;
	w->payload = (Gempipe__Payload)m->payload;
	w->max_payload_rows = m->max_payload_rows;
	w->payload_cols = m->payload_cols;
}

static void put_load(struct parts *p, const struct gp_msg_load *m)
{
	Gempipe__Load *w = &p->load;

	gempipe__load__init(w);
	w->model = text_of(m->model);
	w->stage = m->stage;
	w->n_stages = m->n_stages;
	w->first_layer = m->first_layer;
	w->end_layer = m->end_layer;
	w->embeds = m->embeds;
	w->has_head = m->has_head;
	w->threads = m->threads;
	w->first_cpu = m->first_cpu;
	w->kv_type = m->kv_type;
	w->context = m->context;
	w->max_sequences = m->max_sequences;
	w->vocab = m->vocab;
	w->coordinator_pid = m->coordinator_pid;
	put_ring(&p->in, &m->in);
	put_ring(&p->out, &m->out);
	w->in = &p->in;
	w->out = &p->out;
	w->trace_part = text_of(m->trace_part);
	w->log_level = m->log_level;
	w->memory_bytes = m->memory_bytes;
	w->check_numerics = m->check_numerics;
	w->kv_blocks = m->kv_blocks;
}

static void put_hello(Gempipe__Hello *w, const struct gp_msg_hello *m)
{
	gempipe__hello__init(w);
	w->abi = m->abi;
	w->slot_abi = m->slot_abi;
	w->stage = m->stage;
	w->pid = m->pid;
	w->device = text_of(m->device);
	w->description = text_of(m->description);
}

static void put_heartbeat(Gempipe__Heartbeat *w, const struct gp_msg_heartbeat *m)
{
	gempipe__heartbeat__init(w);
	w->step = m->step;
	w->step_age_ns = m->step_age_ns;
}

static void put_epoch(Gempipe__Epoch *w, const struct gp_msg_epoch *m)
{
	gempipe__epoch__init(w);
	w->epoch = m->epoch;
}

static void put_error(Gempipe__Error *w, const struct gp_msg_error *m)
{
	gempipe__error__init(w);
	w->code = m->code;
	w->text = text_of(m->text);
}

/* One table row a kind: which oneof case it is. */
static const Gempipe__Envelope__BodyCase body_cases[] = {
	[GP_MSG_HELLO] = GEMPIPE__ENVELOPE__BODY_HELLO,
	[GP_MSG_LOAD] = GEMPIPE__ENVELOPE__BODY_LOAD,
	[GP_MSG_PROGRESS] = GEMPIPE__ENVELOPE__BODY_PROGRESS,
	[GP_MSG_READY] = GEMPIPE__ENVELOPE__BODY_READY,
	[GP_MSG_PARK] = GEMPIPE__ENVELOPE__BODY_PARK,
	[GP_MSG_PARKED] = GEMPIPE__ENVELOPE__BODY_PARKED,
	[GP_MSG_RESUME] = GEMPIPE__ENVELOPE__BODY_RESUME,
	[GP_MSG_HEARTBEAT] = GEMPIPE__ENVELOPE__BODY_HEARTBEAT,
	[GP_MSG_ERROR] = GEMPIPE__ENVELOPE__BODY_ERROR,
	[GP_MSG_STOP] = GEMPIPE__ENVELOPE__BODY_STOP,
	[GP_MSG_GOODBYE] = GEMPIPE__ENVELOPE__BODY_GOODBYE,
	[GP_MSG_REFUSED] = GEMPIPE__ENVELOPE__BODY_REFUSED,
};

static void put_body(struct parts *p, const struct gp_message *m)
{
	switch (m->kind) {
	case GP_MSG_HELLO:
		put_hello(&p->hello, &m->hello);
		break;
	case GP_MSG_LOAD:
		put_load(p, &m->load);
		break;
	case GP_MSG_PROGRESS:
		gempipe__progress__init(&p->progress);
		p->progress.done_bytes = m->progress.done_bytes;
		p->progress.total_bytes = m->progress.total_bytes;
		break;
	case GP_MSG_READY:
		gempipe__ready__init(&p->ready);
		p->ready.memory_bytes = m->ready.memory_bytes;
		p->ready.load_ns = m->ready.load_ns;
		break;
	case GP_MSG_PARK:
	case GP_MSG_PARKED:
	case GP_MSG_RESUME:
		put_epoch(&p->epoch, &m->epoch);
		break;
	case GP_MSG_HEARTBEAT:
		put_heartbeat(&p->heartbeat, &m->heartbeat);
		break;
	case GP_MSG_ERROR:
	case GP_MSG_REFUSED:
		put_error(&p->error, &m->error);
		break;
	case GP_MSG_STOP:
	case GP_MSG_GOODBYE:
		gempipe__nothing__init(&p->nothing);
		break;
	}
}

int gp_message_encode(const struct gp_message *m, uint8_t **data, size_t *bytes)
{
	struct parts p = { .envelope = GEMPIPE__ENVELOPE__INIT };

	*data = NULL;
	*bytes = 0;
	const int rc = check(EINVAL, m);
	if (rc < 0)
		return rc;
	put_body(&p, m);
	p.envelope.body_case = body_cases[m->kind];
	/* All members of the oneof are pointers to the one body. */
	p.envelope.hello = &p.hello;
	const size_t n = gempipe__envelope__get_packed_size(&p.envelope);
	*data = malloc(n);
	if (!*data)
		return gp_fail(ENOMEM, "control message: no memory for %zu bytes", n);
	*bytes = gempipe__envelope__pack(&p.envelope, *data);
	return 0;
}

/* ---- from the wire --------------------------------------------------------------- */

static int take_text(const char *field, char *out, size_t room, const char *text)
{
	const size_t n = strlen(text);

	if (n >= room)
		return gp_fail(EPROTO, "%s: %zu bytes, at most %zu are allowed", field, n, room - 1);
	memcpy(out, text, n + 1);
	return 0;
}

static int take_hello(struct gp_msg_hello *m, const Gempipe__Hello *w)
{
	m->abi = w->abi;
	m->slot_abi = w->slot_abi;
	m->stage = w->stage;
	m->pid = w->pid;
	const int rc = take_text("hello.device", m->device, sizeof m->device, w->device);
	return rc < 0 ? rc : take_text("hello.description", m->description,
				       sizeof m->description, w->description);
}

static int take_ring(struct gp_msg_ring *m, const Gempipe__Ring *w)
{
	if (!w)
		return gp_fail(EPROTO, "load: a ring is missing");
	m->fd = w->fd;
	m->max_ops = w->max_ops;
	m->max_rows = w->max_rows;
	m->payload = (uint32_t)w->payload;
	m->max_payload_rows = w->max_payload_rows;
	m->payload_cols = w->payload_cols;
	return take_text("ring.path", m->path, sizeof m->path, w->path);
}

static int take_load(struct gp_msg_load *m, const Gempipe__Load *w)
{
	m->stage = w->stage;
	m->n_stages = w->n_stages;
	m->first_layer = w->first_layer;
	m->end_layer = w->end_layer;
	m->embeds = w->embeds;
	m->has_head = w->has_head;
	m->threads = w->threads;
	m->first_cpu = w->first_cpu;
	m->kv_type = w->kv_type;
	m->context = w->context;
	m->max_sequences = w->max_sequences;
	m->vocab = w->vocab;
	m->coordinator_pid = w->coordinator_pid;
	m->log_level = w->log_level;
	m->memory_bytes = w->memory_bytes;
	m->check_numerics = w->check_numerics;
	m->kv_blocks = w->kv_blocks;
	int rc = take_text("load.model", m->model, sizeof m->model, w->model);
	if (rc == 0)
		rc = take_text("load.trace_part", m->trace_part, sizeof m->trace_part,
			       w->trace_part);
	if (rc == 0)
		rc = take_ring(&m->in, w->in);
	return rc < 0 ? rc : take_ring(&m->out, w->out);
}

static void take_heartbeat(struct gp_msg_heartbeat *m, const Gempipe__Heartbeat *w)
{
	*m = (struct gp_msg_heartbeat){ .step = w->step, .step_age_ns = w->step_age_ns };
}

static int take_error(struct gp_msg_error *m, const Gempipe__Error *w)
{
	m->code = w->code;
	return take_text("error.text", m->text, sizeof m->text, w->text);
}

static int take_body(struct gp_message *m, const Gempipe__Envelope *e)
{
	switch (m->kind) {
	case GP_MSG_HELLO:
		return take_hello(&m->hello, e->hello);
	case GP_MSG_LOAD:
		return take_load(&m->load, e->load);
	case GP_MSG_PROGRESS:
		m->progress.done_bytes = e->progress->done_bytes;
		m->progress.total_bytes = e->progress->total_bytes;
		return 0;
	case GP_MSG_READY:
		m->ready.memory_bytes = e->ready->memory_bytes;
		m->ready.load_ns = e->ready->load_ns;
		return 0;
	case GP_MSG_PARK:
	case GP_MSG_PARKED:
	case GP_MSG_RESUME:
		m->epoch.epoch = e->park->epoch;
		return 0;
	case GP_MSG_HEARTBEAT:
		take_heartbeat(&m->heartbeat, e->heartbeat);
		return 0;
	case GP_MSG_ERROR:
	case GP_MSG_REFUSED:
		return take_error(&m->error, e->error);
	case GP_MSG_STOP:
	case GP_MSG_GOODBYE:
		return 0;
	}
	return -EPROTO;
}

static int kind_of(const Gempipe__Envelope *e, enum gp_message_kind *kind)
{
	for (size_t k = GP_MSG_HELLO; k < GP_ARRAY_LEN(body_cases); k++)
		if (body_cases[k] == e->body_case) {
			*kind = (enum gp_message_kind)k;
			return 0;
		}
	return gp_fail(EPROTO, "control message: of no kind that this program knows");
}

int gp_message_decode(struct gp_message *m, const uint8_t *data, size_t bytes)
{
	memset(m, 0, sizeof *m);
	if (bytes > GP_MESSAGE_BYTES)
		return gp_fail(EPROTO, "control message: %zu bytes, at most %u are allowed", bytes,
			       GP_MESSAGE_BYTES);
	Gempipe__Envelope *e = gempipe__envelope__unpack(NULL, bytes, data);
	if (!e)
		return gp_fail(EPROTO, "control message: %zu bytes that are no such message", bytes);
	int rc = kind_of(e, &m->kind);
	if (rc == 0)
		rc = take_body(m, e);
	if (rc == 0)
		rc = check(EPROTO, m);
	gempipe__envelope__free_unpacked(e, NULL);
	return rc;
}

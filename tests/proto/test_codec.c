#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "proto/proto.h"

static struct gp_msg_ring ring(uint32_t n)
{
	struct gp_msg_ring r = {
		.fd = -1 - (int32_t)n, .max_ops = n, .max_rows = n + 1, .payload = n % 3,
		.max_payload_rows = n + 2, .payload_cols = n + 3,
	};

	snprintf(r.path, sizeof r.path, "/proc/%u/fd/7", n);
	return r;
}

static struct gp_message load_message(void)
{
	return (struct gp_message){ .kind = GP_MSG_LOAD, .load = {
		.model = "a model.gguf", .stage = 1, .n_stages = 3, .first_layer = 4,
		.end_layer = 9, .embeds = true, .has_head = true, .threads = 2, .first_cpu = 1,
		.kv_type = 30, .context = 4096, .max_sequences = 8, .vocab = 262144,
		.coordinator_pid = 4321, .in = ring(1), .out = ring(2),
		.trace_part = "/tmp/part", .log_level = GP_LOG_DEBUG,
		.memory_bytes = (uint64_t)17 << 33, .check_numerics = true, .kv_blocks = 77,
	} };
}

/* One of each kind. */
static size_t all_messages(struct gp_message m[16])
{
	size_t n = 0;

	m[n++] = (struct gp_message){ .kind = GP_MSG_HELLO, .hello = {
		.abi = 99, .slot_abi = 2, .stage = 63, .pid = 1234, .device = "cpu",
		.description = "2 cores, \xc3\xa9" } };
	m[n++] = load_message();
	m[n++] = (struct gp_message){ .kind = GP_MSG_PROGRESS, .progress = { 1, UINT64_MAX } };
	m[n++] = (struct gp_message){ .kind = GP_MSG_READY, .ready = { 5, 6 } };
	m[n++] = (struct gp_message){ .kind = GP_MSG_PARK, .epoch = { 1 } };
	m[n++] = (struct gp_message){ .kind = GP_MSG_PARKED, .epoch = { UINT32_MAX } };
	m[n++] = (struct gp_message){ .kind = GP_MSG_RESUME, .epoch = { 0 } };
	m[n++] = (struct gp_message){ .kind = GP_MSG_HEARTBEAT,
				      .heartbeat = { 1, 2 } };
	m[n++] = (struct gp_message){ .kind = GP_MSG_ERROR, .error = { -5, "went wrong" } };
	m[n++] = (struct gp_message){ .kind = GP_MSG_STOP };
	m[n++] = (struct gp_message){ .kind = GP_MSG_GOODBYE };
	m[n++] = (struct gp_message){ .kind = GP_MSG_REFUSED, .error = { 1, "" } };
	return n;
}

static void encode(const struct gp_message *m, uint8_t **data, size_t *bytes)
{
	assert_int_equal(gp_message_encode(m, data, bytes), 0);
	assert_true(*bytes > 0);
}

static void test_round_trip(void **state)
{
	struct gp_message m[16], got;
	const size_t n = all_messages(m);
	uint8_t *data;
	size_t bytes;

	(void)state;
	assert_int_equal(n, 12);
	for (size_t i = 0; i < n; i++) {
		/* Padding and the rest of the union are zero on both sides. */
		encode(&m[i], &data, &bytes);
		assert_int_equal(gp_message_decode(&got, data, bytes), 0);
		assert_memory_equal(&got, &m[i], sizeof got);
		free(data);
	}
}

static void test_longest_texts(void **state)
{
	struct gp_message m = load_message(), got;
	uint8_t *data;
	size_t bytes;

	(void)state;
	memset(m.load.model, 'm', sizeof m.load.model - 1);
	memset(m.load.in.path, 'p', sizeof m.load.in.path - 1);
	encode(&m, &data, &bytes);
	assert_int_equal(gp_message_decode(&got, data, bytes), 0);
	assert_string_equal(got.load.model, m.load.model);
	assert_string_equal(got.load.in.path, m.load.in.path);

	/* One byte more on the wire: the path's length is its tag's next byte. */
	free(data);
	m.load.model[GP_PROTO_TEXT - 1] = 'x';
	assert_int_equal(gp_message_encode(&m, &data, &bytes), -EINVAL);
	assert_null(data);
	assert_non_null(strstr(gp_error(), "load.model"));
}

/* Error{code 0, text of n bytes} by hand: tag, length, tag, length, text. */
static size_t error_on_wire(uint8_t *out, size_t n)
{
	const size_t inner = n + 3;
	const uint8_t head[] = { 9 << 3 | 2, (uint8_t)(inner | 0x80), (uint8_t)(inner >> 7),
				 2 << 3 | 2, (uint8_t)(n | 0x80), (uint8_t)(n >> 7) };

	memcpy(out, head, sizeof head);
	memset(out + sizeof head, 't', n);
	return sizeof head + n;
}

static void test_text_too_long_on_the_wire(void **state)
{
	uint8_t wire[2048];
	struct gp_message m;

	(void)state;
	assert_int_equal(gp_message_decode(&m, wire, error_on_wire(wire, 1023)), 0);
	assert_int_equal(strlen(m.error.text), 1023);
	assert_int_equal(gp_message_decode(&m, wire, error_on_wire(wire, 1024)), -EPROTO);
	assert_non_null(strstr(gp_error(), "error.text: 1024 bytes"));
}

static void refuse(struct gp_message m, const char *field)
{
	uint8_t *data;
	size_t bytes;

	assert_int_equal(gp_message_encode(&m, &data, &bytes), -EINVAL);
	assert_non_null(strstr(gp_error(), field));
}

static void test_ranges(void **state)
{
	struct gp_message m;

	(void)state;
	m = load_message(), m.load.stage = 3, refuse(m, "load.stage");
	m = load_message(), m.load.n_stages = 0, refuse(m, "load.n_stages");
	m = load_message(), m.load.n_stages = 65, refuse(m, "load.n_stages");
	m = load_message(), m.load.first_layer = 10, refuse(m, "load.first_layer");
	m = load_message(), m.load.end_layer = UINT32_MAX, refuse(m, "load.end_layer");
	m = load_message(), m.load.threads = UINT32_MAX, refuse(m, "load.threads");
	m = load_message(), m.load.log_level = 4, refuse(m, "load.log_level");
	m = load_message(), m.load.in.payload = 3, refuse(m, "ring.payload");
	m = load_message(), m.load.coordinator_pid = UINT32_MAX, refuse(m, "coordinator_pid");
	refuse((struct gp_message){ .kind = 0 }, "kind 0");
	refuse((struct gp_message){ .kind = 13 }, "kind 13");
	refuse((struct gp_message){ .kind = GP_MSG_HELLO, .hello = { .stage = 64 } }, "hello.stage");
}

/* The same checks at the receiver: the wire bytes of a good message, changed. */
static void test_ranges_on_the_wire(void **state)
{
	struct gp_message m = load_message(), got;
	uint8_t *data;
	size_t bytes;

	(void)state;
	encode(&m, &data, &bytes);
	/* n_stages: tag 3, varint. The model's text before it has no such byte. */
	uint8_t *tag = memchr(data + 18, 3 << 3, bytes - 18);
	assert_non_null(tag);
	assert_int_equal(tag[1], 3);
	tag[1] = 100;
	assert_int_equal(gp_message_decode(&got, data, bytes), -EPROTO);
	assert_non_null(strstr(gp_error(), "load.n_stages: 100"));
	free(data);
}

static void test_not_a_message(void **state)
{
	const uint8_t unknown_kind[] = { 13 << 3 | 2, 0 }, no_rings[] = { 2 << 3 | 2, 0 };
	uint8_t *big = calloc(1, 70000);
	struct gp_message m;

	(void)state;
	assert_non_null(big);
	assert_int_equal(gp_message_decode(&m, big, 0), -EPROTO);
	assert_int_equal(gp_message_decode(&m, unknown_kind, sizeof unknown_kind), -EPROTO);
	assert_int_equal(gp_message_decode(&m, no_rings, sizeof no_rings), -EPROTO);
	assert_int_equal(gp_message_decode(&m, big, 70000), -EPROTO);
	assert_non_null(strstr(gp_error(), "at most 65536"));
	free(big);
}

/* A copy of exactly this length, so that AddressSanitizer sees a read past it. */
static int decode_copy(const uint8_t *data, size_t bytes)
{
	uint8_t *copy = malloc(bytes ? bytes : 1);
	struct gp_message m;

	assert_non_null(copy);
	memcpy(copy, data, bytes);
	const int rc = gp_message_decode(&m, copy, bytes);
	free(copy);
	assert_true(rc == 0 || rc == -EPROTO);
	if (rc == 0 && m.kind == GP_MSG_LOAD)
		assert_true(m.load.stage < m.load.n_stages && m.load.in.payload < 3 &&
			    strlen(m.load.model) < GP_PROTO_TEXT);
	return rc;
}

static void test_truncated(void **state)
{
	struct gp_message m[16];
	const size_t n = all_messages(m);
	uint8_t *data;
	size_t bytes;

	(void)state;
	for (size_t i = 0; i < n; i++) {
		encode(&m[i], &data, &bytes);
		for (size_t cut = 0; cut < bytes; cut++)
			assert_int_equal(decode_copy(data, cut), -EPROTO);
		free(data);
	}
}

static void test_mutated(void **state)
{
	struct gp_message m[16];
	const size_t n = all_messages(m);
	uint64_t x = 88172645463325252u;
	uint8_t *data, changed[4096];
	size_t bytes, accepted = 0;

	(void)state;
	for (size_t round = 0; round < 60000; round++) {
		encode(&m[round % n], &data, &bytes);
		memcpy(changed, data, bytes);
		free(data);
		for (int k = 0; k < 1 + (int)(round % 3); k++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			changed[(x >> 16) % bytes] = (uint8_t)x;
		}
		accepted += decode_copy(changed, bytes) == 0;
	}
	assert_true(accepted > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_longest_texts),
		cmocka_unit_test(test_text_too_long_on_the_wire),
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_ranges_on_the_wire),
		cmocka_unit_test(test_not_a_message),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_mutated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

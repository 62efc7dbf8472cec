/* Latency of one hop between two processes on two cores: from before the
 * payload is copied into the slot until the consumer has the slot, and until it
 * has read and checked the payload. Paced, so that each hop finds the ring
 * empty and the consumer (a) spinning or (b) asleep. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "shm/shm.h"

#define PAYLOAD_BYTES 21504u /* a row of Gemma 3 27B: 5376 float32 */
#define PAYLOAD_WORDS (PAYLOAD_BYTES / sizeof(uint32_t))
#define SLOT_BYTES (PAYLOAD_BYTES + 64u)
#define N_SLOTS 4u
#define WARM_UP 1000u
#define DEFAULT_HOPS 100000u
#define WAIT_NS 10000000000u
#define GAP_NS 20000u /* between hops: the consumer is back in its wait by then */

struct message {
	uint64_t sent_ns;
	uint32_t number, unused[13];
	uint32_t payload[PAYLOAD_WORDS];
};
_Static_assert(sizeof(struct message) == SLOT_BYTES, "one message fills one slot");

/* Shared with the consumer, which fills it. */
struct results {
	uint64_t sleeps;
	uint32_t times[]; /* n hops, then n hops with the payload read; ns */
};

struct summary {
	double p50, p99, p999, mean;
};

static int pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	return sched_setaffinity(0, sizeof set, &set);
}

/* The first two CPUs that we may use; the same one twice where there is one. */
static void two_cpus(int cpus[2])
{
	cpu_set_t set;
	int n = 0;

	cpus[0] = cpus[1] = 0;
	if (sched_getaffinity(0, sizeof set, &set) < 0)
		return;
	for (int i = 0; i < CPU_SETSIZE && n < 2; i++)
		if (CPU_ISSET((size_t)i, &set))
			cpus[n++] = i;
	if (n == 1)
		cpus[1] = cpus[0];
}

/* ---- the two ends ----------------------------------------------------------------- */

static bool payload_is(const struct message *m, uint32_t number)
{
	uint32_t wrong = 0;

	for (size_t i = 0; i < PAYLOAD_WORDS; i++)
		wrong |= m->payload[i] ^ (number + (uint32_t)i);
	return m->number == number && wrong == 0;
}

static uint32_t clamp_ns(uint64_t ns)
{
	return ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

static int consume(struct gp_ring *r, uint32_t hops, struct results *out)
{
	void *slot;

	for (uint32_t i = 0; i < WARM_UP + hops; i++) {
		const int rc = gp_ring_wait(r, WAIT_NS, &slot);
		const uint64_t arrived = gp_now_ns();

		if (rc < 0) {
			fprintf(stderr, "hop: nothing came: %s\n", strerror(-rc));
			return 1;
		}
		const struct message *m = slot;
		if (!payload_is(m, i)) {
			fprintf(stderr, "hop: message %u arrived damaged\n", i);
			return 1;
		}
		const uint64_t read = gp_now_ns();
		if (i >= WARM_UP) {
			out->times[i - WARM_UP] = clamp_ns(arrived - m->sent_ns);
			out->times[hops + i - WARM_UP] = clamp_ns(read - m->sent_ns);
		}
		gp_ring_release(r);
	}
	out->sleeps = r->sleeps;
	return 0;
}

/* The next hop starts when the ring is empty and the consumer had time to come
 * to rest: busy, for a sleeping producer would measure its own waking, too. */
static bool pace(const struct gp_ring *r, bool asleep)
{
	const uint64_t give_up = gp_now_ns() + WAIT_NS;

	while (gp_ring_used(r) > 0)
		if (gp_now_ns() > give_up)
			return false;
	const uint64_t until = gp_now_ns() + (asleep ? 3 * GAP_NS : GAP_NS);
	while (gp_now_ns() < until)
		;
	return true;
}

static int produce(struct gp_ring *r, uint32_t hops, bool asleep)
{
	static uint32_t payload[PAYLOAD_WORDS];
	void *slot;

	for (uint32_t i = 0; i < WARM_UP + hops; i++) {
		for (size_t k = 0; k < PAYLOAD_WORDS; k++)
			payload[k] = i + (uint32_t)k;
		if (!pace(r, asleep)) {
			fprintf(stderr, "hop: the consumer takes nothing\n");
			return 1;
		}
		const uint64_t start = gp_now_ns();
		const int rc = gp_ring_reserve(r, WAIT_NS, &slot);
		if (rc < 0) {
			fprintf(stderr, "hop: no room: %s\n", strerror(-rc));
			return 1;
		}
		struct message *m = slot;
		m->sent_ns = start;
		m->number = i;
		memcpy(m->payload, payload, sizeof m->payload);
		gp_ring_publish(r);
	}
	return 0;
}

/* ---- results ----------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
	const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static struct summary summarize(uint32_t *times, uint32_t n)
{
	double sum = 0;

	qsort(times, n, sizeof *times, by_value);
	for (uint32_t i = 0; i < n; i++)
		sum += times[i];
	return (struct summary){
		.p50 = times[n / 2] / 1e3, .p99 = times[(uint64_t)n * 99 / 100] / 1e3,
		.p999 = times[(uint64_t)n * 999 / 1000] / 1e3, .mean = sum / n / 1e3,
	};
}

static void print_one(bool json, const char *name, const char *until, const struct summary *s)
{
	if (json)
		printf("{\"test\": \"hop\", \"consumer\": \"%s\", \"until\": \"%s\", \"p50_us\": %.2f, "
		       "\"p99_us\": %.2f, \"p999_us\": %.2f, \"mean_us\": %.2f}",
		       name, until, s->p50, s->p99, s->p999, s->mean);
	else
		printf("%-10s %-8s %9.2f %9.2f %9.2f %9.2f\n", name, until, s->p50, s->p99, s->p999,
		       s->mean);
}

static void print_machine(bool json, const int cpus[2], uint32_t hops, bool huge)
{
	char line[256], model[200] = "unknown";
	struct utsname u = { 0 };
	FILE *f = fopen("/proc/cpuinfo", "re");

	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "model name : %199[^\n\"\\]", model) == 1)
			break;
	if (f)
		fclose(f);
	uname(&u);
	printf(json ? "{\"machine\": {\"cpu\": \"%s\", \"cpus\": %ld, \"kernel\": \"%s\"}, "
		      "\"payload_bytes\": %u, \"hops\": %u, \"pinned\": [%d, %d], \"pages\": \"%s\", "
		      "\"results\": ["
		    : "%s, %ld CPUs, Linux %s\n%u bytes of payload, %u hops, pinned to CPU %d and %d, "
		      "%s pages; microseconds\n",
	       model, sysconf(_SC_NPROCESSORS_ONLN), u.release, PAYLOAD_BYTES, hops, cpus[0],
	       cpus[1], huge ? "huge" : "ordinary");
	if (!json)
		printf("%-10s %-8s %9s %9s %9s %9s\n", "consumer", "until", "p50", "p99", "p99.9",
		       "mean");
}

/* ---- one measurement ----------------------------------------------------------------- */

static int child(struct gp_ring *r, uint32_t hops, bool asleep, struct results *out)
{
	void *slot;

	/* Asleep until the first message is there: a consumer that spins at once
	 * may keep the producer, born on the same CPU, from moving to its own. */
	r->spin_ns = 0;
	const int rc = gp_ring_wait(r, WAIT_NS, &slot);
	if (rc < 0)
		return 1;
	r->spin_ns = asleep ? 0 : WAIT_NS;
	return consume(r, hops, out);
}

static int measure(struct gp_ring *r, uint32_t hops, bool asleep, const int cpus[2],
		   struct results *out)
{
	int status = 1;

	fflush(stdout);
	/* Pinned before it is born: on the producer's CPU it might never run. */
	if (pin(cpus[1]) < 0)
		perror("hop: cannot pin the consumer");
	const pid_t pid = fork();
	if (pid < 0) {
		perror("hop: fork");
		return 1;
	}
	if (pid == 0)
		_exit(child(r, hops, asleep, out));
	if (pin(cpus[0]) < 0)
		perror("hop: cannot pin the producer");
	const int rc = produce(r, hops, asleep);
	waitpid(pid, &status, 0);
	return rc || status;
}

static void report(bool json, bool asleep, uint32_t hops, struct results *out)
{
	const char *name = asleep ? "asleep" : "spinning";
	const struct summary hop = summarize(out->times, hops);
	const struct summary whole = summarize(out->times + hops, hops);

	if (json && asleep)
		printf(", ");
	print_one(json, name, "arrival", &hop);
	if (json)
		printf(", ");
	print_one(json, name, "read", &whole);
	if (!json)
		printf("%-10s slept %llu times\n", name, (unsigned long long)out->sleeps);
}

static int run(struct gp_ring *r, uint32_t hops, bool json, struct results *out)
{
	int cpus[2];

	two_cpus(cpus);
	print_machine(json, cpus, hops, r->region.huge);
	for (int asleep = 0; asleep < 2; asleep++) {
		if (measure(r, hops, asleep, cpus, out))
			return 1;
		report(json, asleep, hops, out);
		gp_ring_reset(r);
	}
	if (json)
		printf("]}\n");
	return 0;
}

static int parse(int argc, char **argv, uint32_t *hops, bool *json)
{
	uint64_t n;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--json") == 0) {
			*json = true;
		} else if (gp_parse_u64("hops", argv[i], 1, 10000000, &n) == 0) {
			*hops = (uint32_t)n;
		} else {
			fprintf(stderr, "%s\nusage: hop [--json] [HOPS]\n", gp_error());
			return -1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	uint32_t hops = DEFAULT_HOPS;
	bool json = false;
	struct gp_ring r;

	if (parse(argc, argv, &hops, &json) < 0)
		return 2;
	const size_t bytes = sizeof(struct results) + (size_t)hops * 2 * sizeof(uint32_t);
	struct results *out = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (out == MAP_FAILED) {
		perror("hop: no memory");
		return 1;
	}
	if (gp_ring_create(&r, "hop", N_SLOTS, SLOT_BYTES) < 0) {
		fprintf(stderr, "hop: %s\n", gp_error());
		return 1;
	}
	const int rc = run(&r, hops, json, out);
	gp_ring_finish(&r);
	return rc;
}

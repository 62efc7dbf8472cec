/* The pool's control thread. */
#include <signal.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "coordinator/pool.h"

#define WAIT_MS 200
#define HELLO_NS 20000000000u  /* a worker that has not said hello by then is broken */
#define LAST_WORDS_NS 60000000u
#define SILENCE_NS 5000000000u /* without a heartbeat; worth a warning */
#define CHECK_NS 1000000000u
#define STOP_NS 2000000000u    /* after STOP a worker is killed */
#define HANG_NS 60000000000u   /* a step this old is worth a warning */
#define NPU_TRIES 2u           /* failures of an NPU in a row until its stage does without */

static void fail_pool(struct gp_pool *p, int rc, const char *text)
{
	pthread_mutex_lock(&p->lock);
	if (p->state != POOL_FAILED) {
		p->state = POOL_FAILED;
		p->rc = rc;
		snprintf(p->error, sizeof p->error, "%s", text);
	}
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	gp_ring_interrupt(&p->rings[0]);
	gp_ring_interrupt(&p->rings[p->plan->n_stages]);
}

static bool failed(struct gp_pool *p)
{
	pthread_mutex_lock(&p->lock);
	const bool yes = p->state == POOL_FAILED;
	pthread_mutex_unlock(&p->lock);
	return yes;
}

static int send_kind(struct gp_pool *p, struct gp_member *m, enum gp_message_kind kind)
{
	const struct gp_message msg = { .kind = kind, .epoch = { .epoch = p->epoch } };

	return gp_channel_send(p->channel, &m->peer, &msg);
}

/* A send that fails is no failure of its own: the process behind it is gone or
 * going, and its pidfd says so. */
static void send_or_forget(struct gp_pool *p, struct gp_member *m, enum gp_message_kind kind)
{
	if (send_kind(p, m, kind) < 0)
		gp_log(GP_LOG_DEBUG, "worker %d: %s", (int)(m - p->members), gp_error());
}

/* ---- recovery ------------------------------------------------------------ */

static void raise_epoch(struct gp_pool *p)
{
	pthread_mutex_lock(&p->lock);
	p->epoch++;
	if (p->state == POOL_RUNNING)
		p->state = POOL_WAITING;
	pthread_mutex_unlock(&p->lock);
	gp_ring_interrupt(&p->rings[0]);
	gp_ring_interrupt(&p->rings[p->plan->n_stages]);
	for (uint32_t i = 0; i < p->plan->n_stages; i++) {
		struct gp_member *m = &p->members[i];

		if (m->state < MEMBER_PARKING)
			continue;
		m->state = MEMBER_PARKING;
		send_or_forget(p, m, GP_MSG_PARK);
	}
}

static bool all_parked(const struct gp_pool *p)
{
	for (uint32_t i = 0; i < p->plan->n_stages; i++)
		if (p->members[i].state != MEMBER_PARKED || p->members[i].epoch != p->epoch)
			return false;
	return true;
}

/* Nobody is inside a ring call now: the workers said so, the engine waits. */
static void resume_when_parked(struct gp_pool *p)
{
	if (!all_parked(p))
		return;
	pthread_mutex_lock(&p->lock);
	const bool go = p->engine_parked && p->state == POOL_WAITING;
	if (go) {
		for (uint32_t i = 0; i <= p->plan->n_stages; i++)
			gp_ring_reset(&p->rings[i]);
		p->state = POOL_RUNNING;
		pthread_cond_broadcast(&p->changed);
	}
	pthread_mutex_unlock(&p->lock);
	for (uint32_t i = 0; go && i < p->plan->n_stages; i++) {
		p->members[i].state = MEMBER_RUNNING;
		send_or_forget(p, &p->members[i], GP_MSG_RESUME);
	}
}

/* ---- starting ------------------------------------------------------------ */

static void announce(struct gp_pool *p, uint32_t k)
{
	const char *endpoint = gp_channel_endpoint(p->channel), *mask = getenv("GP_CPU");
	char text[3 * GP_PROTO_TEXT], set[64] = "";

	/* What limits the workers that are started here should limit this one. */
	if (mask && *mask)
		snprintf(set, sizeof set, "GP_CPU=%s ", mask);
	snprintf(text, sizeof text,
		 "Stage %u (layers %u-%u) waits for a worker. Start it in another terminal:\n"
		 "  %sgempipe worker cpu --connect %s --stage %u\n"
		 "or under a debugger:\n"
		 "  %sgempipe worker --gdb cpu --connect %s --stage %u\n",
		 k, p->plan->stage[k].first_layer, p->plan->stage[k].end_layer - 1, set,
		 endpoint, k, set, endpoint, k);
	if (p->options->announce)
		p->options->announce(p->options->user, text);
}

static void start_member(struct gp_pool *p, uint32_t k)
{
	struct gp_member *m = &p->members[k];

	if (p->plan->stage[k].external) {
		if (!m->announced)
			announce(p, k);
		m->announced = true;
		return;
	}
	m->heard_ns = gp_now_ns();
	m->silent = false;
	if (gp_spawn_worker(p, k, m) < 0)
		fail_pool(p, -EIO, gp_error());
	else
		m->state = MEMBER_STARTING;
}

static void start_absent(struct gp_pool *p)
{
	for (uint32_t k = 0; k < p->plan->n_stages && !failed(p); k++)
		if (p->members[k].state == MEMBER_ABSENT)
			start_member(p, k);
}

static void refuse(struct gp_pool *p, const struct gp_peer *peer, const char *why)
{
	struct gp_message m = { .kind = GP_MSG_REFUSED };

	snprintf(m.error.text, sizeof m.error.text, "%s", why);
	if (gp_channel_send(p->channel, peer, &m) < 0)
		gp_log(GP_LOG_DEBUG, "%s", gp_error());
}

static void fill_ring(const struct gp_pool *p, uint32_t ring, bool external, struct gp_msg_ring *r)
{
	struct gp_slot_geometry g;
	const int fd = p->rings[ring].region.fd;

	gp_plan_geometry(p->plan, gp_model_config(p->model), ring, &g);
	*r = (struct gp_msg_ring){
		.fd = fd, .max_ops = g.max_ops, .max_rows = g.max_rows, .payload = g.payload,
		.max_payload_rows = g.max_payload_rows, .payload_cols = g.payload_cols,
	};
	if (external)
		snprintf(r->path, sizeof r->path, "/proc/%d/fd/%d", (int)getpid(), fd);
}

static void send_load(struct gp_pool *p, uint32_t k)
{
	const struct gp_plan_stage *s = &p->plan->stage[k];
	struct gp_member *m = &p->members[k];
	struct gp_message msg = { .kind = GP_MSG_LOAD };
	struct gp_msg_load *l = &msg.load;

	snprintf(l->model, sizeof l->model, "%s", gp_model_path(p->model));
	l->stage = k;
	l->n_stages = p->plan->n_stages;
	l->first_layer = s->first_layer;
	l->end_layer = s->end_layer;
	l->embeds = k == 0;
	l->has_head = k + 1 == p->plan->n_stages;
	l->threads = s->threads;
	l->first_cpu = s->first_cpu;
	l->kv_type = p->plan->kv_type;
	l->context = p->plan->context;
	l->max_sequences = p->plan->max_sequences + p->plan->prefixes;
	l->vocab = gp_model_config(p->model)->vocab;
	l->coordinator_pid = (uint32_t)getpid();
	l->log_level = gp_log_most();
	l->memory_bytes = s->memory_bytes;
	l->check_numerics = p->plan->check_numerics;
	l->kv_blocks = p->plan->kv_blocks;
	fill_ring(p, k, s->external, &l->in);
	fill_ring(p, k + 1, s->external, &l->out);
	if (p->options->trace)
		gp_pool_trace_part(p, k, l->trace_part);
	m->state = MEMBER_LOADING;
	if (gp_channel_send(p->channel, &m->peer, &msg) < 0)
		gp_log(GP_LOG_WARNING, "worker %u: %s", k, gp_error());
}

/* NULL: welcome. */
static const char *why_refused(const struct gp_pool *p, const struct gp_msg_hello *h)
{
	static _Thread_local char text[256];

	if (h->abi != GP_PROTO_ABI || h->slot_abi != GP_SLOT_ABI) {
		snprintf(text, sizeof text, "the worker speaks ABI %u/%u, the coordinator %u/%u; "
			 "build both from one tree", h->abi, h->slot_abi, GP_PROTO_ABI, GP_SLOT_ABI);
		return text;
	}
	if (h->stage >= p->plan->n_stages) {
		snprintf(text, sizeof text, "there is no stage %u; the plan has %u", h->stage,
			 p->plan->n_stages);
		return text;
	}
	const struct gp_member *m = &p->members[h->stage];
	if (p->plan->stage[h->stage].external ? m->state == MEMBER_ABSENT
					      : m->state == MEMBER_STARTING && (pid_t)h->pid == m->pid)
		return NULL;
	snprintf(text, sizeof text, "stage %u does not wait for a worker", h->stage);
	return text;
}

static void on_hello(struct gp_pool *p, const struct gp_peer *peer, const struct gp_msg_hello *h)
{
	const char *why = why_refused(p, h);

	if (why) {
		gp_log(GP_LOG_WARNING, "refused a worker: %s", why);
		refuse(p, peer, why);
		if (h->stage < p->plan->n_stages && h->pid > 0 &&
		    (pid_t)h->pid == p->members[h->stage].pid)
			fail_pool(p, -EPROTO, why);
		return;
	}
	struct gp_member *m = &p->members[h->stage];
	if (p->plan->stage[h->stage].external) {
		m->pid_fd = (int)syscall(SYS_pidfd_open, (pid_t)h->pid, 0);
		if (m->pid_fd < 0) {
			refuse(p, peer, "the coordinator cannot watch the worker's process");
			return;
		}
		m->announced = false;
	}
	m->peer = *peer;
	m->has_peer = true;
	m->error[0] = '\0';
	m->error_code = 0;
	m->said_goodbye = false;
	m->silent = false;
	m->heard_ns = gp_now_ns();
	pthread_mutex_lock(&p->lock);
	m->hello = *h;
	pthread_mutex_unlock(&p->lock);
	send_load(p, h->stage);
}

/* ---- death ---------------------------------------------------------------- */

/* One that its user started is asked to end; its pidfd tells when it has. */
static void kill_member(struct gp_pool *p, uint32_t k)
{
	struct gp_member *m = &p->members[k];

	if (!p->plan->stage[k].external && m->pid > 0)
		kill(m->pid, SIGKILL);
	else if (m->has_peer)
		send_or_forget(p, m, GP_MSG_STOP);
}

/* A wedged NPU may come back with its next process. When it does not, its stage goes on
 * without; that is no failure of the worker's. It may show at the first load, too, which
 * measures the device. */
static bool loses_npu(struct gp_pool *p, struct gp_member *m, const struct gp_plan_stage *s)
{
	const bool wedged = m->error_code == -ETIMEDOUT || m->error_code == -EIO ||
			    m->error_code == -ECONNRESET;
	/* One that stays wedged may refuse its next process with any error. */
	const bool npu = strcmp(s->device, "npu") == 0 &&
			 (wedged || (m->npu_failures && m->error_code));

	m->npu_failures = npu ? m->npu_failures + 1 : 0;
	if (m->npu_failures < NPU_TRIES || m->without_npu)
		return false;
	pthread_mutex_lock(&p->lock);
	m->without_npu = true;
	pthread_mutex_unlock(&p->lock);
	return true;
}

/* Gives up, or lets start_absent try again. */
static void judge_death(struct gp_pool *p, uint32_t k, const char *why)
{
	struct gp_member *m = &p->members[k];
	const struct gp_plan_stage *s = &p->plan->stage[k];
	char text[GP_ERROR_BYTES], number[16] = "";

	if (s->device_index)
		snprintf(number, sizeof number, "[%u]", s->device_index);
	/* In a row means: without new tokens in between, whoever died. */
	if (atomic_exchange(&p->progressed, false))
		for (uint32_t i = 0; i < p->plan->n_stages; i++)
			p->members[i].failures = p->members[i].npu_failures = 0;
	m->failures++;
	if (loses_npu(p, m, s))
		gp_log(GP_LOG_WARNING, "worker %u (layers %u-%u): its NPU failed %u times in a row; the "
		       "host computes these layers from now on", k, s->first_layer, s->end_layer - 1,
		       m->npu_failures);
	/* What fails before it ever worked, and says why, will fail again. */
	if ((!m->was_ready && m->error[0] && !m->npu_failures) || m->failures >= GP_POOL_TRIES) {
		if (m->was_ready)
			snprintf(text, sizeof text, "worker %u (%s%s, layers %u-%u) failed %u times "
				 "in a row, giving up; last: %.300s", k, s->device, number, s->first_layer,
				 s->end_layer - 1, m->failures, why);
		else
			snprintf(text, sizeof text, "worker %u (%s%s, layers %u-%u): %.300s", k,
				 s->device, number, s->first_layer, s->end_layer - 1, why);
		fail_pool(p, -EIO, text);
		return;
	}
	gp_log(GP_LOG_WARNING, "worker %u (layers %u-%u): %s; starting it again (try %u of %u)", k,
	       s->first_layer, s->end_layer - 1, why, m->failures, GP_POOL_TRIES);
	pthread_mutex_lock(&p->lock);
	m->restarts++;
	pthread_mutex_unlock(&p->lock);
}

static void on_message(struct gp_pool *p, const struct gp_peer *peer, const struct gp_message *msg);

/* The pidfd can be faster than the socket: what the dead one said last may
 * still be on its way through the socket's own thread. */
static void hear_last_words(struct gp_pool *p)
{
	struct gp_message m;
	struct gp_peer peer;
	size_t which;
	const uint64_t deadline = gp_now_ns() + LAST_WORDS_NS;

	/* Others' heartbeats must not keep it here. */
	while (gp_now_ns() < deadline &&
	       gp_channel_wait(p->channel, NULL, 0, 20, &m, &peer, &which) == GP_EVENT_MESSAGE)
		on_message(p, &peer, &m);
}

static void on_gone(struct gp_pool *p, uint32_t k)
{
	struct gp_member *m = &p->members[k];
	const bool external = p->plan->stage[k].external;
	char why[128] = "the process is gone", text[GP_PROTO_TEXT + 160];

	hear_last_words(p);
	if (!external)
		gp_spawn_reap(m, why);
	close(m->pid_fd);
	m->pid_fd = -1;
	m->pid = 0;
	m->has_peer = false;
	m->state = MEMBER_ABSENT;
	snprintf(text, sizeof text, "%s", m->error[0] ? m->error : why);
	if (failed(p))
		return;
	if (external)
		gp_log(GP_LOG_WARNING, "worker %u left: %s", k, m->said_goodbye ? "goodbye" : text);
	else
		judge_death(p, k, text);
	raise_epoch(p);
}

/* ---- messages --------------------------------------------------------------- */

static void report_progress(struct gp_pool *p)
{
	uint64_t done = 0, total = 0;

	for (uint32_t i = 0; i < p->plan->n_stages; i++) {
		done += p->members[i].done_bytes;
		total += p->members[i].total_bytes;
	}
	if (p->options->progress)
		p->options->progress(p->options->user, done, total);
}

static void on_ready(struct gp_pool *p, struct gp_member *m, const struct gp_msg_ready *r)
{
	if (m->state != MEMBER_LOADING)
		return;
	m->state = MEMBER_PARKED;
	m->epoch = p->epoch;
	m->was_ready = true;
	m->done_bytes = m->total_bytes;
	pthread_mutex_lock(&p->lock);
	m->memory_bytes = r->memory_bytes;
	m->load_ns = r->load_ns;
	pthread_mutex_unlock(&p->lock);
	report_progress(p);
}

static void on_heartbeat(struct gp_member *m, uint32_t k, const struct gp_msg_heartbeat *h)
{
	if (h->step_age_ns < HANG_NS) {
		m->warned = false;
		return;
	}
	if (!m->warned)
		gp_log(GP_LOG_WARNING, "worker %u has been in step %llu for %llu s", k,
		       (unsigned long long)h->step,
		       (unsigned long long)(h->step_age_ns / 1000000000u));
	m->warned = true;
}

static int find_member(const struct gp_pool *p, const struct gp_peer *peer)
{
	for (uint32_t i = 0; i < p->plan->n_stages; i++) {
		const struct gp_member *m = &p->members[i];

		if (m->has_peer && m->peer.bytes == peer->bytes &&
		    memcmp(m->peer.id, peer->id, peer->bytes) == 0)
			return (int)i;
	}
	return -1;
}

static void on_message(struct gp_pool *p, const struct gp_peer *peer, const struct gp_message *msg)
{
	const int k = find_member(p, peer);

	if (msg->kind == GP_MSG_HELLO) {
		on_hello(p, peer, &msg->hello);
		return;
	}
	if (k < 0)
		return; /* of one that is gone already */
	struct gp_member *m = &p->members[k];
	m->heard_ns = gp_now_ns();
	m->silent = false;
	switch (msg->kind) {
	case GP_MSG_PROGRESS:
		m->done_bytes = msg->progress.done_bytes;
		m->total_bytes = msg->progress.total_bytes;
		report_progress(p);
		break;
	case GP_MSG_READY:
		on_ready(p, m, &msg->ready);
		break;
	case GP_MSG_PARKED:
		m->epoch = msg->epoch.epoch;
		if (m->state == MEMBER_PARKING && m->epoch == p->epoch)
			m->state = MEMBER_PARKED;
		break;
	case GP_MSG_HEARTBEAT:
		on_heartbeat(m, (uint32_t)k, &msg->heartbeat);
		break;
	case GP_MSG_ERROR:
		snprintf(m->error, sizeof m->error, "%s", msg->error.text);
		m->error_code = msg->error.code;
		break;
	case GP_MSG_GOODBYE:
		m->said_goodbye = true;
		break;
	default:
		gp_log(GP_LOG_WARNING, "worker %d sent message %d, which is not for a coordinator; "
		       "ending it", k, (int)msg->kind);
		kill_member(p, (uint32_t)k);
	}
}

/* ---- the loop ----------------------------------------------------------------- */

/* fds[0] is the eventfd; owner[i] is whose pidfd fds[i] is. */
static size_t collect_fds(const struct gp_pool *p, int *fds, uint32_t *owner)
{
	size_t n = 0;

	fds[n++] = p->wake_fd;
	for (uint32_t i = 0; i < p->plan->n_stages; i++) {
		if (p->members[i].pid_fd < 0)
			continue;
		owner[n] = i;
		fds[n++] = p->members[i].pid_fd;
	}
	return n;
}

static void drain_wake(struct gp_pool *p)
{
	uint64_t n;

	if (read(p->wake_fd, &n, sizeof n) < 0 && errno != EAGAIN)
		gp_log(GP_LOG_WARNING, "eventfd: %s", strerror(errno));
}

/* A worker that says nothing: its control thread hangs, or it was stopped. One
 * that everybody waits for is ended, or that told its end and does not come to it (a
 * driver may keep it); any other may be under a debugger. */
static void check_member(struct gp_pool *p, uint32_t k, uint64_t silent_ns)
{
	struct gp_member *m = &p->members[k];
	const unsigned seconds = (unsigned)(silent_ns / 1000000000u);

	if (m->state == MEMBER_ABSENT || silent_ns < SILENCE_NS)
		return;
	if (!m->silent)
		gp_log(GP_LOG_WARNING, "worker %u has said nothing for %u s; is it stopped?", k,
		       seconds);
	m->silent = true;
	if (p->plan->stage[k].external)
		return;
	if (m->error[0]) {
		kill_member(p, k);
		return;
	}
	if ((m->state != MEMBER_STARTING && m->state != MEMBER_PARKING) || silent_ns < HELLO_NS)
		return;
	snprintf(m->error, sizeof m->error, "%s within %u s", m->state == MEMBER_STARTING ?
		 "no hello" : "no answer", seconds);
	kill_member(p, k);
}

static void check_silence(struct gp_pool *p)
{
	const uint64_t now = gp_now_ns(), passed = now - p->checked_ns;

	if (passed < CHECK_NS)
		return;
	p->checked_ns = now;
	for (uint32_t k = 0; k < p->plan->n_stages; k++) {
		/* We were stopped ourselves: what they said then is still to be read. */
		if (passed > 3 * CHECK_NS)
			p->members[k].heard_ns = now;
		check_member(p, k, now - p->members[k].heard_ns);
	}
}

/* Messages come before deaths: a worker's last words explain its end. */
static void wait_event(struct gp_pool *p)
{
	int fds[GP_MAX_STAGES + 1];
	uint32_t owner[GP_MAX_STAGES + 1];
	const size_t n = collect_fds(p, fds, owner);
	struct gp_message m;
	struct gp_peer peer;
	size_t which;
	const int event = gp_channel_wait(p->channel, fds, n, WAIT_MS, &m, &peer, &which);

	if (event == GP_EVENT_MESSAGE) {
		on_message(p, &peer, &m);
	} else if (event == GP_EVENT_BAD) {
		const int k = find_member(p, &peer);

		gp_log(GP_LOG_WARNING, "%s", gp_error());
		if (k >= 0)
			kill_member(p, (uint32_t)k);
	} else if (event == GP_EVENT_FD) {
		if (which == 0)
			drain_wake(p);
		else
			on_gone(p, owner[which]);
	} else if (event < 0) {
		fail_pool(p, event, gp_error());
	}
}

static bool stopping(struct gp_pool *p)
{
	pthread_mutex_lock(&p->lock);
	const bool yes = p->stopping;
	pthread_mutex_unlock(&p->lock);
	return yes;
}

static void await_end(struct gp_member *m, uint64_t deadline_ns, bool external)
{
	struct pollfd f = { .fd = m->pid_fd, .events = POLLIN };
	const uint64_t now = gp_now_ns();
	char why[128];

	const int ended = poll(&f, 1, now < deadline_ns ? (int)((deadline_ns - now) / 1000000u) + 1 : 0);
	if (!external) {
		if (ended <= 0)
			kill(m->pid, SIGKILL);
		gp_spawn_reap(m, why);
	}
	close(m->pid_fd);
	m->pid_fd = -1;
	m->pid = 0;
}

static void stop_members(struct gp_pool *p)
{
	const uint64_t deadline = gp_now_ns() + STOP_NS;

	for (uint32_t k = 0; k < p->plan->n_stages; k++)
		if (p->members[k].has_peer)
			send_or_forget(p, &p->members[k], GP_MSG_STOP);
	for (uint32_t k = 0; k < p->plan->n_stages; k++) {
		struct gp_member *m = &p->members[k];

		if (m->pid_fd < 0)
			continue;
		/* One that has not said hello yet never hears of STOP. */
		if (!m->has_peer)
			kill_member(p, k);
		await_end(m, deadline, p->plan->stage[k].external);
	}
}

void *gp_pool_control_thread(void *arg)
{
	struct gp_pool *p = arg;
	sigset_t all;

	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	p->checked_ns = gp_now_ns();
	while (!stopping(p)) {
		start_absent(p);
		resume_when_parked(p);
		wait_event(p);
		check_silence(p);
	}
	stop_members(p);
	return NULL;
}

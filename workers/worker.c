/* The worker process: its control thread. */
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "workers/worker.h"

#define HEARTBEAT_MS 200

struct control {
	struct worker *w;
	struct gp_channel *channel;
	const char *endpoint;
	uint32_t stage;
	bool spawned;               /* by the coordinator: its terminal's Ctrl-C is not ours */
	pid_t coordinator_pid;      /* 0: not known yet */
	int signal_fd, coordinator_fd;
	pthread_t thread;
	bool thread_runs, ready_sent;
	bool thread_ended;          /* and why was read */
	uint64_t heartbeat_ns;
	uint32_t parked_sent;       /* last epoch acknowledged */
	int report;                 /* 'v'erify or 'm'easure instead of serving */
	bool json;
};

static int send_message(struct control *c, const struct gp_message *m)
{
	return gp_channel_send(c->channel, NULL, m);
}

static int send_hello(struct control *c)
{
	struct gp_message m = { .kind = GP_MSG_HELLO };

	m.hello.abi = GP_PROTO_ABI;
	m.hello.slot_abi = GP_SLOT_ABI;
	m.hello.stage = c->stage;
	m.hello.pid = (uint32_t)getpid();
	snprintf(m.hello.device, sizeof m.hello.device, "%s", c->w->device->ops->name);
	c->w->device->describe(&c->w->options, m.hello.description);
	return send_message(c, &m);
}

static void send_error(struct control *c, int code, const char *text)
{
	struct gp_message m = { .kind = GP_MSG_ERROR };

	m.error.code = code;
	snprintf(m.error.text, sizeof m.error.text, "%s", text);
	send_message(c, &m);
}

static int send_progress(struct control *c)
{
	struct gp_message m = { .kind = GP_MSG_PROGRESS };

	m.progress.done_bytes = atomic_load(&c->w->loaded_bytes);
	m.progress.total_bytes = atomic_load(&c->w->total_bytes);
	return send_message(c, &m);
}

static int send_ready(struct control *c)
{
	struct gp_message m = { .kind = GP_MSG_READY };

	m.ready.memory_bytes = atomic_load(&c->w->memory_bytes);
	m.ready.load_ns = atomic_load(&c->w->load_ns);
	/* A load shorter than a heartbeat has reported none yet. */
	int rc = send_progress(c);
	if (rc == 0)
		rc = send_message(c, &m);
	c->ready_sent = rc == 0;
	return rc;
}

static int send_parked(struct control *c, uint32_t epoch)
{
	struct gp_message m = { .kind = GP_MSG_PARKED, .epoch = { .epoch = epoch } };

	const int rc = send_message(c, &m);

	if (rc == 0)
		c->parked_sent = epoch;
	return rc;
}

static int send_heartbeat(struct control *c)
{
	struct gp_message m = { .kind = GP_MSG_HEARTBEAT };
	struct worker *w = c->w;
	const uint64_t now = gp_now_ns(), start = atomic_load(&w->step_start_ns);

	if (now - c->heartbeat_ns < HEARTBEAT_MS * 1000000u)
		return 0;
	c->heartbeat_ns = now;
	if (!c->ready_sent)
		return send_progress(c);
	m.heartbeat.step = atomic_load(&w->step);
	m.heartbeat.step_age_ns = start && now > start ? now - start : 0;
	return send_message(c, &m);
}

/* Hands a wish to the stage thread and ends what it is waiting for or doing. */
static void want(struct worker *w, enum worker_want what, uint32_t epoch)
{
	pthread_mutex_lock(&w->lock);
	w->want = what;
	w->want_epoch = epoch;
	pthread_cond_signal(&w->wanted);
	const bool serving = w->state == WORKER_RUNNING;
	pthread_mutex_unlock(&w->lock);
	if (!serving || what == WANT_RESUME)
		return;
	/* A step in hand is of no use to anybody any more. */
	w->device->ops->cancel(w->dev);
	gp_ring_interrupt(&w->in);
}

static int watch_coordinator(struct control *c, pid_t pid)
{
	if (c->coordinator_fd >= 0)
		return 0;
	c->coordinator_pid = pid;
	c->coordinator_fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (c->coordinator_fd < 0)
		return gp_fail(errno, "coordinator %d: %s", (int)pid, strerror(errno));
	return 0;
}

/* Waits a little: a dying process closes its sockets before it counts as dead. */
static bool coordinator_died(const struct control *c, int wait_ms)
{
	struct pollfd f = { .fd = c->coordinator_fd, .events = POLLIN };

	if (c->coordinator_fd >= 0)
		return poll(&f, 1, wait_ms) > 0;
	return c->coordinator_pid > 0 && kill(c->coordinator_pid, 0) < 0 && errno == ESRCH;
}

/* The coordinator is gone: nobody else will clean up after it. */
static int coordinator_lost(struct control *c)
{
	char dir[GP_PROTO_TEXT];
	char *slash;

	snprintf(dir, sizeof dir, "%s", c->endpoint);
	if (coordinator_died(c, 500) && strncmp(dir, "ipc://", 6) == 0 &&
	    (slash = strrchr(dir, '/')) > dir + 6) {
		*slash = '\0';
		gp_runtime_dir_remove(dir + 6);
	}
	return gp_fail(EPIPE, "the coordinator is gone");
}

/* What shows a device's times has to say that it is simulated, or left to the host. */
static const char *stands_for(const struct worker *w)
{
	char text[256];

	w->device->describe(&w->options, text);
	if (strncmp(text, "SIMULATED", 9) == 0)
		return "simulated ";
	return w->options.npu && strcmp(w->options.npu, "off") == 0 ? "host for " : "";
}

static int start_load(struct control *c, const struct gp_msg_load *l)
{
	struct worker *w = c->w;
	char name[32];
	int rc;

	if (c->thread_runs)
		return gp_fail(EPROTO, "the coordinator sent a second load");
	w->load = *l;
	snprintf(name, sizeof name, "gempipe worker %u", l->stage);
	gp_log_init(name, (enum gp_log_level)l->log_level);
	if ((rc = watch_coordinator(c, (pid_t)l->coordinator_pid)) < 0)
		return rc;
	if (l->trace_part[0]) {
		snprintf(name, sizeof name, "stage %u: %s%s", l->stage, stands_for(w),
			 w->device->ops->name);
		if ((rc = gp_trace_open(l->trace_part, name, (int)l->stage + 1)) < 0)
			return rc;
	}
	rc = -pthread_create(&c->thread, NULL, gp_worker_stage_thread, w);
	if (rc < 0)
		return gp_fail(-rc, "no thread: %s", strerror(-rc));
	c->thread_runs = true;
	return 0;
}

/* 1: end. */
static int handle(struct control *c, const struct gp_message *m)
{
	switch (m->kind) {
	case GP_MSG_LOAD:
		return start_load(c, &m->load);
	case GP_MSG_PARK:
		want(c->w, WANT_PARK, m->epoch.epoch);
		return 0;
	case GP_MSG_RESUME:
		want(c->w, WANT_RESUME, m->epoch.epoch);
		return 0;
	case GP_MSG_STOP:
		return 1;
	case GP_MSG_REFUSED:
		return gp_fail(ECONNREFUSED, "refused by the coordinator: %s", m->error.text);
	default:
		return gp_fail(EPROTO, "message %d is not one for a worker", (int)m->kind);
	}
}

static int drain_notify(const struct control *c)
{
	uint64_t n;

	if (read(c->w->notify_fd, &n, sizeof n) < 0 && errno != EAGAIN)
		return gp_fail(errno, "eventfd: %s", strerror(errno));
	return 0;
}

/* What the stage thread has come to, told to the coordinator; again where that could not be
 * sent before. */
static int report_state(struct control *c)
{
	struct worker *w = c->w;
	int rc = 0;

	pthread_mutex_lock(&w->lock);
	const enum worker_state state = w->state;
	const uint32_t parked = w->parked_epoch;
	const int thread_rc = w->rc;
	pthread_mutex_unlock(&w->lock);
	c->thread_ended = state == WORKER_ENDED;
	if (c->thread_ended)
		return thread_rc < 0 ? gp_fail(-thread_rc, "%s", w->error) : 1;
	if (state == WORKER_PARKED && !c->ready_sent)
		rc = send_ready(c);
	if (rc == 0 && state == WORKER_PARKED && parked != c->parked_sent)
		rc = send_parked(c, parked);
	return rc;
}

static int user_stop(struct control *c)
{
	const struct gp_message m = { .kind = GP_MSG_GOODBYE };

	/* The kernel sends this signal when the thread that spawned us ends, a moment
	 * before its process counts as dead. */
	if (c->spawned && coordinator_died(c, 500))
		return coordinator_lost(c);
	send_message(c, &m);
	return 1;
}

/* One event. 0: go on, 1: end, < 0: failure. */
static int serve_event(struct control *c)
{
	int fds[3];
	size_t n = 0, which = 0;
	struct gp_message m;

	/* Order matters: the index says which one it was. */
	fds[n++] = c->w->notify_fd;
	fds[n++] = c->signal_fd;
	if (c->coordinator_fd >= 0)
		fds[n++] = c->coordinator_fd;
	const int event = gp_channel_wait(c->channel, fds, n, HEARTBEAT_MS, &m, NULL, &which);
	if (event == GP_EVENT_MESSAGE)
		return handle(c, &m);
	if (event == GP_EVENT_LOST || (event == GP_EVENT_FD && which == 2))
		return coordinator_lost(c);
	if (event == GP_EVENT_FD)
		return which == 0 ? drain_notify(c) : user_stop(c);
	return event == GP_EVENT_TIMEOUT ? 0 : event == GP_EVENT_BAD ? -EPROTO : event;
}

static int serve(struct control *c)
{
	int rc = send_hello(c);

	while (rc == 0) {
		if ((rc = serve_event(c)) != 0)
			break; /* its -EAGAIN: no more threads are to be had */
		rc = report_state(c);
		if (rc == 0)
			rc = send_heartbeat(c);
		/* A coordinator that was stopped does not read; it may go on later. The stage
		 * thread's own failure may have the same code. */
		if (rc == -EAGAIN && !c->thread_ended)
			rc = 0;
	}
	if (rc == -EHOSTUNREACH && !c->thread_ended)
		rc = coordinator_lost(c);
	return rc < 0 ? rc : 0;
}

static void end_thread(struct control *c)
{
	struct worker *w = c->w;

	if (!c->thread_runs)
		return;
	pthread_mutex_lock(&w->lock);
	const bool loading = w->state == WORKER_LOADING;
	pthread_mutex_unlock(&w->lock);
	/* A load can take minutes and holds nothing that outlives the process. */
	if (loading) {
		gp_channel_destroy(c->channel);
		_exit(1);
	}
	want(w, WANT_STOP, 0);
	pthread_join(c->thread, NULL);
	c->thread_runs = false;
}

/* Every signal that ends a worker comes through a descriptor; under a
 * coordinator, what the terminal sends is the coordinator's affair. */
static int take_signals(struct control *c)
{
	static const int of_the_terminal[] = { SIGINT, SIGHUP, SIGQUIT };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	if (!c->spawned)
		sigaddset(&set, SIGINT);
	for (size_t i = 0; c->spawned && i < GP_ARRAY_LEN(of_the_terminal); i++)
		signal(of_the_terminal[i], SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	c->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (c->signal_fd < 0)
		return gp_fail(errno, "signalfd: %s", strerror(errno));
	return 0;
}

static int open_control(struct control *c)
{
	struct worker *w = c->w;
	int rc;

	if ((rc = take_signals(c)) < 0)
		return rc;
	w->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->notify_fd < 0)
		return gp_fail(errno, "eventfd: %s", strerror(errno));
	/* Two watches of the coordinator's life beside the socket's; the signal also
	 * reaches a control thread that is not waiting. */
	if (c->spawned) {
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		if (watch_coordinator(c, c->coordinator_pid) < 0)
			return coordinator_lost(c);
	}
	return gp_channel_connect(&c->channel, c->endpoint, c->stage);
}

static void close_control(struct control *c)
{
	gp_channel_destroy(c->channel);
	if (c->signal_fd >= 0)
		close(c->signal_fd);
	if (c->coordinator_fd >= 0)
		close(c->coordinator_fd);
	if (c->w->notify_fd >= 0)
		close(c->w->notify_fd);
}

static int misused(const struct gp_worker_device *d, const char *text)
{
	fprintf(stderr, "gempipe worker: %s; see gempipe worker %s --help\n", text, d->ops->name);
	return 2;
}

static int help(const struct gp_worker_device *d)
{
	return printf("Usage: gempipe worker %s --connect ENDPOINT --stage K\n"
		"Serves one stage of a pipeline; `gempipe run --stages ...,external:A-B` prints\n"
		"the exact command. Ctrl-C leaves the pipeline, which then waits for another.\n"
		"  --connect ENDPOINT  the coordinator's control socket (ipc://...)\n"
		"  --stage K           which stage of the plan this is, from 0\n"
		"  --device N          which device of this kind, from 0, as in gempipe devices\n"
		"  --npu WHICH         NPU: sim simulates one, off leaves all to the host\n"
		"  --describe          print the devices of this kind as JSON, and end\n"
		"      --version       print the version\n"
		"  -h, --help          print this\n"
		"Example: gempipe worker %s --connect ipc:///run/user/1000/gempipe-4711-x/control --stage 1\n",
		d->ops->name, d->ops->name) < 0;
}

/* {"devices": [...], "problem": why there is none}. Exit status 0 all the same. */
static int print_devices(const struct gp_worker_device *d)
{
	json_t *all = d->list();
	json_t *out = all ? json_pack("{s:s, s:o}", "kind", d->ops->name, "devices", all) : NULL;

	if (out && !json_array_size(all))
		json_object_set_new(out, "problem", json_string(gp_error()));
	const bool ok = out && json_dumpf(out, stdout, JSON_COMPACT) == 0 && putchar('\n') != EOF &&
			fflush(stdout) == 0;
	json_decref(out);
	return ok ? 0 : 1;
}

static int print_report(const struct control *c)
{
	const struct gp_worker_device *d = c->w->device;

	if (c->report == 'v' && d->verify)
		return d->verify(&c->w->options);
	if (c->report == 'm' && d->measure)
		return d->measure(&c->w->options, c->json);
	return misused(d, "this kind of device has no such report");
}

static int read_arguments(struct control *c, int argc, char **argv)
{
	static const struct option options[] = {
		{ "connect", required_argument, NULL, 'c' }, { "stage", required_argument, NULL, 's' },
		{ "spawned-by", required_argument, NULL, 'S' }, { "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' }, { "device", required_argument, NULL, 'd' },
		{ "describe", no_argument, NULL, 'D' }, { "npu", required_argument, NULL, 'n' },
		{ "verify", no_argument, NULL, 'v' }, { "measure", no_argument, NULL, 'm' },
		{ "json", no_argument, NULL, 'j' }, { 0 },
	};
	bool have_stage = false;
	uint64_t v = 0;
	int o, rc = 0;

	opterr = 0;
	while (rc == 0 && (o = getopt_long(argc, argv, "c:s:h", options, NULL)) != -1) {
		if (o == 'c')
			c->endpoint = optarg;
		else if (o == 's')
			rc = gp_parse_u64("--stage", optarg, 0, GP_MAX_STAGES - 1, &v);
		else if (o == 'd')
			rc = gp_parse_u64("--device", optarg, 0, 255, &v);
		else if (o == 'S')
			rc = gp_parse_u64("--spawned-by", optarg, 1, INT32_MAX, &v);
		else if (o == 'V')
			exit(printf("gempipe %s\n", GP_VERSION) < 0);
		else if (o == 'D')
			exit(print_devices(c->w->device));
		else if (o == 'h')
			exit(help(c->w->device));
		else if (o == 'n')
			c->w->options.npu = optarg;
		else if (o == 'v' || o == 'm')
			c->report = o;
		else if (o == 'j')
			c->json = true;
		else
			rc = gp_fail(EINVAL, "'%s' is no option, or lacks its value", argv[optind - 1]);
		if (rc == 0 && o == 's')
			c->stage = (uint32_t)v, have_stage = true;
		if (rc == 0 && o == 'd')
			c->w->options.index = (uint32_t)v;
		if (rc == 0 && o == 'S')
			c->coordinator_pid = (pid_t)v, c->spawned = true;
	}
	if (rc < 0)
		return misused(c->w->device, gp_error());
	if (c->report)
		return optind < argc ? misused(c->w->device, "a report takes no more words") : 0;
	if (!c->endpoint || !have_stage || optind < argc)
		return misused(c->w->device, "--connect ENDPOINT and --stage K are needed, no more");
	return 0;
}

int gp_worker_main(const struct gp_worker_device *device, int argc, char **argv)
{
	static struct worker w = {
		.lock = PTHREAD_MUTEX_INITIALIZER, .wanted = PTHREAD_COND_INITIALIZER,
		.in = { .region = { .fd = -1 } }, .out = { .region = { .fd = -1 } },
		.notify_fd = -1,
	};
	struct control c = { .w = &w, .signal_fd = -1, .coordinator_fd = -1 };
	int rc;

	w.device = device;
	gp_process_init();
	gp_log_init("gempipe worker", GP_LOG_WARNING);
	if ((rc = read_arguments(&c, argc, argv)) != 0)
		return rc;
	if (c.report)
		return print_report(&c);
	rc = open_control(&c);
	if (rc == 0)
		rc = serve(&c);
	if (rc < 0 && c.channel) {
		/* The stage thread may sit in a step of seconds: the word goes first. */
		send_error(&c, rc, gp_error());
		if (rc == -EPIPE)
			_exit(1);
	}
	if (rc < 0)
		gp_log(c.spawned ? GP_LOG_DEBUG : GP_LOG_ERROR, "%s", gp_error());
	end_thread(&c);
	gp_worker_unload(&w);
	gp_trace_close();
	close_control(&c);
	return rc < 0;
}

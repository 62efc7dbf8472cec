/* The engine as a program opens it: with a progress bar and Ctrl-C. */
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/common/cli.h"

static struct gp_engine *running; /* the signal handler has no other way to it */
static volatile sig_atomic_t interrupts, last_signal, patience;
static volatile sig_atomic_t changing; /* it is being made or destroyed */

/* Without an engine while one changes: it is on its way out, which takes a bounded time and
 * removes the workers and the runtime folder. */
static void on_signal(int signal_number)
{
	struct gp_engine *e = running;

	last_signal = signal_number;
	if (e && interrupts++ <= patience)
		gp_engine_interrupt(e);
	else if (e || !changing)
		_exit(128 + signal_number);
}

static void on_signal_to_reads(int signal_number)
{
	last_signal = signal_number;
}

int cli_interrupt(void)
{
	return last_signal;
}

void cli_forget_interrupt(void)
{
	interrupts = last_signal = 0;
}

void cli_be_patient(int more)
{
	patience = more;
}

void cli_interrupt_reads(bool yes)
{
	struct sigaction a = { .sa_handler = yes ? on_signal_to_reads : on_signal,
			       .sa_flags = yes ? 0 : SA_RESTART }, old;

	sigemptyset(&a.sa_mask);
	sigaction(SIGINT, &a, NULL);
	sigaction(SIGTERM, &a, NULL);
	/* Ignored by nohup: that stays. */
	if (sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
		sigaction(SIGHUP, &a, NULL);
}

static void catch_signals(void)
{
	cli_interrupt_reads(false);
	/* A reader that went away shows as EPIPE where it is written to. */
	signal(SIGPIPE, SIG_IGN);
}

static void show_progress(void *user, uint64_t done, uint64_t total)
{
	const struct cli *c = user;
	char have[32], all[32];

	if (c->quiet || !total || !isatty(STDERR_FILENO))
		return;
	const int percent = (int)(done >= total ? 100 : done * 100 / total);
	fprintf(stderr, "\r\033[Kloading [%-25.*s] %3d%%  %s of %s%s", percent / 4,
		"#########################", percent, gp_size_text(have, done),
		gp_size_text(all, total), done >= total ? "\r\033[K" : "");
	fflush(stderr);
}

static void show_announcement(void *user, const char *text)
{
	(void)user;
	fputs(text, stderr);
}

int cli_open_engine(struct cli *c)
{
	const struct gp_engine_options o = {
		.model = c->model, .plan = c->plan, .trace = c->trace,
		.max_queue = c->max_queue, .max_step_ms = c->max_step_ms,
		.lookup = c->lookup, .draft = c->draft, .draft_stages = c->draft_stages,
		.worker_dir = getenv("GEMPIPE_WORKER_DIR"),
		.progress = show_progress, .announce = show_announcement, .user = c,
	};

	if (c->draft_stages && !c->draft)
		return gp_fail(EINVAL, "--draft-stages without --draft FILE");
	catch_signals();
	changing = 1;
	/* One that fails takes itself out of running before it is destroyed. */
	const int rc = gp_engine_create(&running, &o);
	changing = 0;
	c->engine = running;
	return rc;
}

int cli_close_engine(struct cli *c, int status)
{
	struct gp_engine *e = c->engine;

	c->engine = NULL;
	changing = 1;
	/* A handler that saw neither would end the program at once. */
	atomic_signal_fence(memory_order_seq_cst);
	running = NULL;
	if (gp_engine_destroy(e) < 0)
		status = cli_failed(c);
	changing = 0;
	return status;
}

static double per_second(uint64_t n, uint64_t ns)
{
	return ns ? (double)n * 1e9 / (double)ns : 0;
}

static void print_guesses(FILE *to, const char *by, const struct gp_guess_stats *s)
{
	if (s->proposed)
		fprintf(to, "guessed by %s: %llu tokens, %llu right (%.0f%%)\n", by,
			(unsigned long long)s->proposed, (unsigned long long)s->accepted,
			100 * (double)s->accepted / (double)s->proposed);
}

void cli_print_stats(const struct cli *c, FILE *to)
{
	struct gp_engine_stats s;
	bool simulated = false;
	char memory[32];

	gp_engine_stats(c->engine, &s);
	fprintf(to, "\n%-5s %-13s %-9s %10s %10s %12s %12s %8s\n", "stage", "device", "layers",
		"memory", "rows/s", "hop mean us", "hop p99 us", "restarts");
	for (uint32_t k = 0; k < s.n_stages; k++) {
		const struct gp_stage_stats *g = &s.stage[k];
		char layers[24];

		simulated = simulated || strncmp(g->device, "simulated", 9) == 0;
		snprintf(layers, sizeof layers, "%u-%u", g->first_layer, g->end_layer - 1);
		fprintf(to, "%-5u %-13s %-9s %10s %10.1f %12.1f %12.1f %8u\n", k, g->device, layers,
			gp_size_text(memory, g->memory_bytes), per_second(g->rows, g->busy_ns),
			(double)g->hop_mean_ns / 1e3, (double)g->hop_p99_ns / 1e3, g->restarts);
	}
	fprintf(to, "load %.2f s; prompt %llu tokens, %.1f tokens/s; generated %llu tokens, "
		"%.1f tokens/s%s\n", (double)s.load_ns / 1e9, (unsigned long long)s.prompt_tokens,
		per_second(s.prompt_tokens, s.prompt_ns),
		(unsigned long long)s.generated_tokens,
		per_second(s.decoded_tokens, s.generate_ns),
		simulated ? " (simulated NPU: the speed of the simulator, of no NPU)" : "");
	print_guesses(to, "lookup", &s.looked_up);
	print_guesses(to, "the draft model", &s.drafted);
}

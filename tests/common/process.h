/* Programs under test, as a user's shell would run them. */
#ifndef GP_TEST_PROCESS_H
#define GP_TEST_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define MINI "models/gemma3-mini/gemma3-mini-bf16.gguf"

struct process {
	pid_t pid;
	int out_fd, err_fd; /* memfds: nothing blocks, nothing is left behind */
};
struct result {
	int status;         /* exit status, or 128 + signal */
	char *out, *err;    /* NUL-terminated, owned */
	size_t out_bytes;
};

/* Path of a program beside this test's build; a static buffer per call site's
 * verb: "run" -> BUILD/bin/gempipe-run. */
const char *program(const char *verb);
/* argv[0] is a path; NULL-terminated. limit_as: RLIMIT_AS in bytes, 0: none. */
void process_start(struct process *p, const char *const *argv, size_t limit_as);
/* Fails the test when it runs longer than seconds. */
void process_finish(struct process *p, struct result *r, unsigned seconds);
void run_program(struct result *r, const char *const *argv);
/* Sends the signal when it says so on stderr; it must end with that status within 10 s. */
void process_interrupt(const char *const *argv, const char *when, int signal_number, int status);
void result_free(struct result *r);
/* What MINI says after "In the beginning" in n tokens on the CPU, which the caller frees;
 * NULL: it failed. */
char *text_of_mini(const char *n);
/* Text so far; malloc'ed. */
char *process_output(int fd);
/* Waits until the output holds text, at most seconds; false: it never did. */
bool process_says(int fd, const char *text, unsigned seconds);
/* Pids of the workers that p spawned, in the order of their pids; the count. */
size_t process_workers(pid_t coordinator, pid_t *pids, size_t room);
/* MB; 0: it is gone. */
double process_resident_mb(pid_t pid);
/* Waits until pid is gone (a zombie counts as gone). */
bool process_gone(pid_t pid, unsigned milliseconds);
void sleep_ms(unsigned ms);
/* Starts this program again with BUILD/tests/preload/NAME in front of its libraries, where
 * that is built and not in front already. */
void process_preload(const char *name, char **argv);
bool process_has_preload(const char *name);

#define RUN(r, ...) run_program(r, (const char *const[]){ __VA_ARGS__, NULL })

#endif

/* A program that is ended from outside (Ctrl-C, SIGTERM, hang-up, a limit) while it writes a
 * file leaves no part of it, or says how to go on. */
#ifndef GP_ON_SIGNAL_H
#define GP_ON_SIGNAL_H

/* From now on what ends the program removes this file, or this folder behind what was named
 * after it. Of up to 64, by one thread. */
void cli_unlink_on_signal(const char *path);
/* OUT.part, once it was opened. */
void cli_unlink_part_on_signal(const char *out);
/* This is printed to stderr then: one text a program. */
void cli_say_on_signal(const char *text);

#endif

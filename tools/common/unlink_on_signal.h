/* A program that is ended while it writes a file leaves no part of it. */
#ifndef GP_UNLINK_ON_SIGNAL_H
#define GP_UNLINK_ON_SIGNAL_H

/* From now on what ends the program from outside (Ctrl-C, SIGTERM, hang-up, a
 * limit) removes this file, or this folder behind what was named after it. Of
 * up to 64, by one thread. */
void cli_unlink_on_signal(const char *path);
/* OUT.part, once it was opened. */
void cli_unlink_part_on_signal(const char *out);

#endif

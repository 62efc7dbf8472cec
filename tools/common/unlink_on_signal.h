/* A program that is ended while it writes a file leaves no part of it. */
#ifndef GP_UNLINK_ON_SIGNAL_H
#define GP_UNLINK_ON_SIGNAL_H

/* From now on what ends the program from outside (Ctrl-C, SIGTERM, hang-up, a
 * limit) removes OUT.part first. Once a program, after OUT.part was opened. */
void cli_unlink_part_on_signal(const char *out);

#endif

/* A file mapped read-only as a whole. Another process that shrinks the file
 * while it is mapped makes reads of the mapping raise SIGBUS; headers are read that
 * way, weights by descriptor, where the same is an error. */
#ifndef GP_MAPPED_FILE_H
#define GP_MAPPED_FILE_H

#include <stddef.h>
#include <stdint.h>

struct gp_mapped_file {
	char *path;
	const uint8_t *data;
	size_t bytes;
	int fd;                /* of an open one */
};

/* An empty file or one that is no regular file is -EINVAL. */
int gp_mapped_file_open(struct gp_mapped_file *f, const char *path);
void gp_mapped_file_close(struct gp_mapped_file *f); /* a zeroed one is fine */

#endif

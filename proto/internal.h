/* What the files of proto/ share. */
#ifndef GP_PROTO_INTERNAL_H
#define GP_PROTO_INTERNAL_H

#include <sys/un.h>

#define GP_MESSAGE_BYTES 65536u /* of one message on the wire, at most */
#define GP_CONTROL_NAME "control"
/* Characters of a socket's path, without the NUL. */
#define GP_SOCKET_PATH_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)

#endif

/*
 * Unix sockets: every call on them, none of which ever blocks or raises SIGPIPE. Errors are worded
 * as in format/file.h.
 */
#ifndef FORMAT_SOCKET_H
#define FORMAT_SOCKET_H

#include <sys/types.h>

#include "format/file.h"

/* A socket's file that this process made. */
struct socket_file {
    char *path; /* NULL: none */
    uint64_t device, inode;
};

/*
 * Listen at `path`, in a file that none but our user may open (mode 0600 from its first moment on).
 * What a server that died left there is replaced. E_EXISTS where one listens there, or where there
 * is anything else; E_LIMIT for a name above 80 bytes; E_CONFLICT where another process keeps the
 * directory locked. Two that begin at once: one of them gets it.
 */
MUST_CHECK int socket_listen(int *out_fd, struct socket_file *out, const char *path);

/* Remove the file, unless another is in its place. */
void socket_file_release(struct socket_file *file);

/* Make a descriptor that others opened ours. E_INVALID where it is no unix socket that listens. */
MUST_CHECK int socket_adopt(int fd);

/* The listening socket that the process was started with, as systemd does: of that name, or NULL:
   the first. E_NOTFOUND where there is none. */
MUST_CHECK int socket_inherited(int *out_fd, const char *name);

/* *out_fd -1: nobody is waiting. */
MUST_CHECK int socket_accept(int *out_fd, int fd);

/* Whose process connected. */
MUST_CHECK int socket_peer(uid_t *out, int fd);

/* E_NOTFOUND where there is no socket or nobody listens; *out_fd -1: it has too many to answer now.
 */
MUST_CHECK int socket_connect(int *out_fd, const char *path);

/* As much as goes at once; *sent 0: nothing does now. */
MUST_CHECK int socket_send(size_t *sent, int fd, struct bytes data);

/* As much as is there; *got 0: nothing yet, or, with *ended, nothing any more. */
MUST_CHECK int socket_receive(size_t *got, bool *ended, int fd, void *data, size_t len);

#endif

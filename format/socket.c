/*
 * Unix sockets. See socket.h.
 *
 * A socket's file gets its mode from the socket itself (fchmod before bind: on Linux bind takes the
 * mode that the socket has), so there is no moment at which it is more open, and the umask, which
 * belongs to the whole process, stays as it is. Looking at what is there, removing it and binding
 * is one step to whoever does the same: they lock the directory, which leaves nothing behind.
 */
#define _GNU_SOURCE
#include "format/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "format/text.h"

#define NAME_MAX_BYTES  80 /* "/proc/self/fd/2147483647/" and a name fit into an address */
#define LOCK_TRIES      100
#define LOCK_TRY_MS     10
#define FIRST_INHERITED 3 /* systemd's SD_LISTEN_FDS_START */

/* The directory that a socket is in, and its address, through the directory where the path is
   longer than an address can be. */
static int address_make(struct sockaddr_un *out, int *out_dir, const char *path)
{
    AUTO_FREE(char, parent);
    AUTO_FD(dir);
    const char *name = path_name(path);

    if (!name[0] || strlen(name) > NAME_MAX_BYTES)
        return error_set(
            name[0] ? E_LIMIT : E_INVALID, "%s: a socket's name has 1 to %d bytes", path,
            NAME_MAX_BYTES
        );
    int err = path_parent(&parent, path);
    if (err < 0)
        return err;
    dir = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return file_error(parent);
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) < sizeof(out->sun_path))
        memcpy(out->sun_path, path, strlen(path) + 1);
    else
        snprintf(out->sun_path, sizeof(out->sun_path), "/proc/self/fd/%d/%s", dir, name);
    *out_dir = dir;
    dir = -1;
    return 0;
}

static int socket_make(int *out)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return file_error("socket");
    *out = fd;
    return 0;
}

static int connect_to(int fd, const struct sockaddr_un *address)
{
    int result;

    do {
        result = connect(fd, (const struct sockaddr *)address, sizeof(*address));
    } while (result != 0 && errno == EINTR);
    return result;
}

/* Nobody else looks and binds here. Another user may hold the lock for ever, so the wait ends. */
static int dir_lock(int dir, const char *path)
{
    for (unsigned i = 0; flock(dir, LOCK_EX | LOCK_NB) != 0; i++) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return file_error(path);
        if (i == LOCK_TRIES)
            return error_set(
                E_CONFLICT, "%s: another process keeps the directory of the socket locked", path
            );
        poll(NULL, 0, LOCK_TRY_MS);
    }
    return 0;
}

/* Remove what a server that died left. */
static int stale_remove(const struct sockaddr_un *address, const char *path)
{
    AUTO_FD(probe);
    struct stat status;

    if (lstat(address->sun_path, &status) != 0)
        return errno == ENOENT ? 0 : file_error(path);
    if (!S_ISSOCK(status.st_mode))
        return error_set(E_EXISTS, "%s: there is something already, and no socket", path);
    int err = socket_make(&probe);
    if (err < 0)
        return err;
    if (connect_to(probe, address) == 0 || errno != ECONNREFUSED)
        return error_hint(
            error_set(E_EXISTS, "%s: another program listens there", path),
            "end it, or choose another path"
        );
    return unlink(address->sun_path) == 0 || errno == ENOENT ? 0 : file_error(path);
}

static int bind_and_listen(
    int fd, struct socket_file *out, const struct sockaddr_un *address, const char *path
)
{
    struct stat status;

    if (fchmod(fd, 0600) != 0 || bind(fd, (const struct sockaddr *)address, sizeof(*address)) != 0)
        return errno == EADDRINUSE ? error_set(E_EXISTS, "%s: there is something already", path)
                                   : file_error(path);
    if (listen(fd, SOMAXCONN) != 0 || lstat(address->sun_path, &status) != 0) {
        int err = file_error(path);
        unlink(address->sun_path);
        return err;
    }
    out->device = status.st_dev;
    out->inode = status.st_ino;
    return 0;
}

int socket_listen(int *out_fd, struct socket_file *out, const char *path)
{
    struct sockaddr_un address;
    struct socket_file file = {0};
    AUTO_FREE(char, copy);
    AUTO_FD(dir);
    AUTO_FD(fd);
    int err;

    if (!(copy = bytes_dup(text_bytes(path))))
        return error_wrap(E_NOMEM, "%s", path);
    if ((err = address_make(&address, &dir, path)) < 0 || (err = socket_make(&fd)) < 0 ||
        (err = dir_lock(dir, path)) < 0 || (err = stale_remove(&address, path)) < 0 ||
        (err = bind_and_listen(fd, &file, &address, path)) < 0)
        return err;
    file.path = copy;
    copy = NULL;
    *out = file;
    *out_fd = fd;
    fd = -1;
    return 0;
}

void socket_file_release(struct socket_file *file)
{
    struct sockaddr_un address;
    AUTO_FD(dir);
    struct stat status;

    if (file->path && address_make(&address, &dir, file->path) == 0) {
        /* Without the lock it is still better removed than left. */
        (void)!dir_lock(dir, file->path);
        if (lstat(address.sun_path, &status) == 0 && status.st_dev == file->device &&
            status.st_ino == file->inode)
            unlink(address.sun_path);
    }
    free(file->path);
    *file = (struct socket_file){0};
}

/* What getsockopt() says of a socket, -1 where it is none. */
static int socket_option(int fd, int option)
{
    int value = -1;
    socklen_t size = sizeof(value);

    return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

int socket_adopt(int fd)
{
    if (socket_option(fd, SO_DOMAIN) != AF_UNIX || socket_option(fd, SO_TYPE) != SOCK_STREAM ||
        socket_option(fd, SO_ACCEPTCONN) != 1)
        return error_set(E_INVALID, "descriptor %d: no unix stream socket that listens", fd);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return file_error("socket");
    return 0;
}

/* Is the i-th of the names, which colons part, this one? */
static bool name_is(const char *names, unsigned i, const char *name)
{
    for (; i && names; i--)
        names = strchr(names, ':') ? strchr(names, ':') + 1 : NULL;
    return names && strncmp(names, name, strlen(name)) == 0 &&
           (names[strlen(name)] == ':' || !names[strlen(name)]);
}

int socket_inherited(int *out_fd, const char *name)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    uint64_t process = 0, sockets = 0;

    if (pid && count && text_parse_uint64(&process, text_bytes(pid)) &&
        text_parse_uint64(&sockets, text_bytes(count)) && process == (uint64_t)getpid()) {
        for (unsigned i = 0; i < sockets && i < 1024; i++) {
            if (name && !name_is(getenv("LISTEN_FDNAMES"), i, name))
                continue;
            *out_fd = FIRST_INHERITED + (int)i;
            return 0;
        }
    }
    return error_set(
        E_NOTFOUND, "this process was not started with a listening socket%s%s",
        name ? " of the name " : "", name ? name : ""
    );
}

int socket_accept(int *out_fd, int fd)
{
    int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    /* A peer that went away in between is nobody. */
    if (accepted < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        return file_error("socket");
    *out_fd = accepted;
    return 0;
}

int socket_peer(uid_t *out, int fd)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return file_error("socket");
    *out = peer.uid;
    return 0;
}

int socket_connect(int *out_fd, const char *path)
{
    struct sockaddr_un address;
    AUTO_FD(dir);
    AUTO_FD(fd);
    int err;

    if ((err = address_make(&address, &dir, path)) < 0 || (err = socket_make(&fd)) < 0)
        return err;
    if (connect_to(fd, &address) != 0) {
        if (errno == EAGAIN) {
            *out_fd = -1;
            return 0;
        }
        err = errno == ECONNREFUSED ? error_set(E_NOTFOUND, "%s: nobody listens there", path)
              : errno == EPROTOTYPE || errno == ENOTSOCK
                  ? error_set(E_INVALID, "%s: not a stream socket", path)
                  : file_error(path);
        return err;
    }
    *out_fd = fd;
    fd = -1;
    return 0;
}

int socket_send(size_t *sent, int fd, struct bytes data)
{
    ssize_t n = send(fd, data.data, data.len, MSG_NOSIGNAL);

    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return file_error("socket");
    *sent = n > 0 ? (size_t)n : 0;
    return 0;
}

int socket_receive(size_t *got, bool *ended, int fd, void *data, size_t len)
{
    ssize_t n = recv(fd, data, len, 0);

    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return file_error("socket");
    *ended = n == 0;
    *got = n > 0 ? (size_t)n : 0;
    return 0;
}

/*
 * System calls of the whole program, libgit2's own too: functions of these names in the program go
 * before libc's. The n-th call can fail or kill the process, and a model of the disk says what a
 * power cut would lose.
 *
 * The model: what was written to a file is lost until the file is synced; a name that a directory
 * was given is lost until the directory is.
 */
#ifndef TESTS_SYSCALLS_H
#define TESTS_SYSCALLS_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum fault_mode {
    FAULT_NONE,
    FAULT_ONCE,    /* the call fails, later ones do not */
    FAULT_FOREVER, /* and so do all later ones */
    FAULT_KILL,    /* the process ends there */
};

#define DIRTY_MAX 256

static struct {
    enum fault_mode mode;
    int countdown; /* calls that still succeed */
    int error;
    bool fired;
    bool model; /* keep `dirty` */
    char dirty[DIRTY_MAX][PATH_MAX];
    size_t dirty_count;
    void (*on_rename)(const char *from, const char *to); /* before it happens */
    void (*on_unlink)(const char *path);
} syscalls;

static bool fault_due(void)
{
    if (syscalls.mode == FAULT_NONE || (syscalls.fired && syscalls.mode != FAULT_FOREVER))
        return false;
    if (!syscalls.fired && syscalls.countdown-- > 0)
        return false;
    if (syscalls.mode == FAULT_KILL)
        raise(SIGKILL);
    syscalls.fired = true;
    errno = syscalls.error;
    return true;
}

static bool is_dirty(const char *path)
{
    for (size_t i = 0; i < syscalls.dirty_count; i++) {
        if (strcmp(syscalls.dirty[i], path) == 0)
            return true;
    }
    return false;
}

/* The index is never synced, and its loss no loss. */
static bool is_index(const char *path)
{
    return strstr(path, "/index.sqlite") != NULL;
}

static void dirty_add(const char *path)
{
    if (!syscalls.model || is_dirty(path) || is_index(path))
        return;
    if (syscalls.dirty_count == DIRTY_MAX)
        abort();
    snprintf(syscalls.dirty[syscalls.dirty_count++], PATH_MAX, "%s", path);
}

static void dirty_remove(const char *path)
{
    for (size_t i = 0; i < syscalls.dirty_count; i++) {
        if (strcmp(syscalls.dirty[i], path) == 0)
            memmove(syscalls.dirty[i], syscalls.dirty[--syscalls.dirty_count], PATH_MAX);
    }
}

/* The directory that a new name was given to. */
static void dirty_add_parent(const char *path)
{
    char parent[PATH_MAX];

    if (is_index(path))
        return;
    snprintf(parent, sizeof(parent), "%s", path);
    while (*parent && parent[strlen(parent) - 1] == '/')
        parent[strlen(parent) - 1] = '\0';
    char *slash = strrchr(parent, '/');
    if (slash) {
        *slash = '\0';
        dirty_add(parent);
    }
}

static void fd_path(char out[PATH_MAX], int fd)
{
    char link_name[64];

    snprintf(link_name, sizeof(link_name), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link_name, out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = '\0';
}

/* The model finds a descriptor's path in /proc, which a bare root file system lacks. */
static inline bool model_works(void)
{
    bool works = access("/proc/self/fd", X_OK) == 0;

    if (!works)
        print_message("a power cut: not tried here, /proc is not mounted\n");
    return works;
}

#define EXPORTED __attribute__((visibility("default")))

static int open_any(int at, const char *path, int flags, mode_t mode)
{
    struct stat status;
    bool creates = (flags & O_CREAT) && fstatat(at, path, &status, AT_SYMLINK_NOFOLLOW) != 0;

    if ((flags & (O_CREAT | O_WRONLY | O_RDWR)) && fault_due())
        return -1;
    int fd = (int)syscall(SYS_openat, at, path, flags, mode);
    if (fd >= 0 && creates && syscalls.model) {
        char full[PATH_MAX];
        fd_path(full, fd);
        dirty_add_parent(full);
    }
    return fd;
}

/* Where off_t has 64 bits either name may be the one that is called. */
EXPORTED int plain_open(const char *path, int flags, ...) __asm__("open");
EXPORTED int plain_open(const char *path, int flags, ...)
{
    va_list ap;

    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return open_any(AT_FDCWD, path, flags, mode);
}

EXPORTED int large_open(const char *path, int flags, ...) __asm__("open64");
EXPORTED int large_open(const char *path, int flags, ...)
{
    va_list ap;

    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return open_any(AT_FDCWD, path, flags, mode);
}

EXPORTED int large_openat(int at, const char *path, int flags, ...) __asm__("openat64");
EXPORTED int large_openat(int at, const char *path, int flags, ...)
{
    va_list ap;

    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return open_any(at, path, flags, mode);
}

EXPORTED ssize_t write(int fd, const void *data, size_t len)
{
    char path[PATH_MAX];

    if (fault_due())
        return -1;
    if (syscalls.model) {
        fd_path(path, fd);
        dirty_add(path);
    }
    return syscall(SYS_write, fd, data, len);
}

EXPORTED ssize_t large_pwrite(int fd, const void *data, size_t len, off_t at) __asm__("pwrite64");
EXPORTED ssize_t large_pwrite(int fd, const void *data, size_t len, off_t at)
{
    char path[PATH_MAX];

    if (fault_due())
        return -1;
    if (syscalls.model) {
        fd_path(path, fd);
        dirty_add(path);
    }
    return syscall(SYS_pwrite64, fd, data, len, at);
}

/* The only one of these that several threads call at once. Nothing is synced: the model cuts the
   power, and a disk would make the tests ten times as slow. */
EXPORTED int fsync(int fd)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    char path[PATH_MAX];

    pthread_mutex_lock(&mutex);
    bool fails = fault_due();
    if (!fails && syscalls.model) {
        fd_path(path, fd);
        dirty_remove(path);
    }
    pthread_mutex_unlock(&mutex);
    return fails || fcntl(fd, F_GETFD) < 0 ? -1 : 0;
}

EXPORTED int rename(const char *from, const char *to)
{
    if (fault_due())
        return -1;
    if (syscalls.on_rename)
        syscalls.on_rename(from, to);
    if (is_dirty(from)) {
        dirty_remove(from);
        dirty_add(to);
    }
    int result = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (result == 0)
        dirty_add_parent(to);
    return result;
}

EXPORTED int link(const char *from, const char *to)
{
    if (fault_due())
        return -1;
    int result = (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (result == 0) {
        /* libgit2 renames by linking and unlinking. */
        if (syscalls.on_rename)
            syscalls.on_rename(from, to);
        if (is_dirty(from))
            dirty_add(to);
        dirty_add_parent(to);
    }
    return result;
}

EXPORTED int unlink(const char *path)
{
    if (fault_due())
        return -1;
    if (syscalls.on_unlink)
        syscalls.on_unlink(path);
    int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (result == 0) {
        dirty_remove(path);
        dirty_add_parent(path);
    }
    return result;
}

EXPORTED int mkdir(const char *path, mode_t mode)
{
    if (fault_due())
        return -1;
    int result = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (result == 0)
        dirty_add_parent(path);
    return result;
}

EXPORTED int large_ftruncate(int fd, off_t len) __asm__("ftruncate64");
EXPORTED int large_ftruncate(int fd, off_t len)
{
    return fault_due() ? -1 : (int)syscall(SYS_ftruncate, fd, len);
}

#endif

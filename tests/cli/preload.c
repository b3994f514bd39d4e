/*
 * Loaded into the program by the command tests (LD_PRELOAD), so that its system calls fail or stop
 * at a chosen place, whoever runs the tests and on whatever file system:
 *
 *   PRELOAD_SPACE=N       regular files take N more bytes, then the disk is full
 *   PRELOAD_PLAIN=1       rename has no flags, as on NFS
 *   PRELOAD_READONLY=DIR  nothing below DIR can be changed
 *   PRELOAD_STOP=N        the process stops itself (SIGSTOP) before its N-th change to a file
 * system PRELOAD_KILL=N        and here it dies PRELOAD_FORBIDDEN=PATH  the file of this path may
 * not be opened PRELOAD_BROKEN=PATH   it may, and cannot be read behind its first 4096 bytes
 *   PRELOAD_DISCARD=1     what is written below 4096 bytes is written, the rest is lost in silence
 *   PRELOAD_UID=N         the user is another one
 */
#undef _FILE_OFFSET_BITS /* it would make open() another name of open64() */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* The next definition of a function: the C library's, or a sanitizer's. */
#define NEXT(pointer, name) *(void **)(&(pointer)) = dlsym(RTLD_NEXT, name)

static long setting(const char *name)
{
    const char *text = getenv(name);

    return text ? strtol(text, NULL, 10) : -1;
}

/* Before every call that changes a file system. */
static void count_change(void)
{
    static atomic_long changes;
    long change = ++changes;

    if (setting("PRELOAD_STOP") > 0 && change >= setting("PRELOAD_STOP"))
        raise(SIGSTOP);
    if (change == setting("PRELOAD_KILL"))
        raise(SIGKILL);
}

static bool is_protected(const char *path)
{
    const char *top = getenv("PRELOAD_READONLY");
    char here[4096] = "", absolute[8192];
    size_t len = top ? strlen(top) : 0;

    if (!top || (path[0] != '/' && !getcwd(here, sizeof(here))))
        return false;
    snprintf(absolute, sizeof(absolute), "%s%s%s", here, here[0] ? "/" : "", path);
    return strncmp(absolute, top, len) == 0 && (absolute[len] == '/' || absolute[len] == '\0');
}

/* 0, or -1 and errno for a path that may not be changed. */
static int change(const char *path)
{
    count_change();
    if (!is_protected(path))
        return 0;
    errno = EROFS;
    return -1;
}

/* How many of `len` bytes the disk still takes; it is asked for regular files only. */
static size_t space_for(int fd, size_t len)
{
    static long left = -2;
    struct stat status;

    if (left == -2)
        left = setting("PRELOAD_SPACE");
    if (left < 0 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        return len;
    size_t taken = len < (size_t)left ? len : (size_t)left;
    left -= (long)taken;
    return taken;
}

static size_t change_file(int fd, size_t len)
{
    count_change();
    size_t taken = space_for(fd, len);
    if (len && !taken)
        errno = ENOSPC;
    return taken;
}

EXPORT ssize_t write(int fd, const void *data, size_t len)
{
    ssize_t (*next)(int, const void *, size_t);
    struct stat status;

    NEXT(next, "write");
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        return next(fd, data, len);
    size_t taken = change_file(fd, len);
    return len && !taken ? -1 : next(fd, data, taken);
}

static bool is_discarded(off64_t at)
{
    return setting("PRELOAD_DISCARD") > 0 && at >= 4096;
}

static ssize_t pwrite_any(const char *name, int fd, const void *data, size_t len, off64_t at)
{
    ssize_t (*next)(int, const void *, size_t, off64_t);
    size_t taken = change_file(fd, len);

    NEXT(next, name);
    if (is_discarded(at))
        return (ssize_t)taken;
    return len && !taken ? -1 : next(fd, data, taken, at);
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t len, off_t at)
{
    return pwrite_any("pwrite", fd, data, len, at);
}

EXPORT ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at)
{
    return pwrite_any("pwrite64", fd, data, len, at);
}

EXPORT ssize_t
copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t len, unsigned flags)
{
    ssize_t (*next)(int, off64_t *, int, off64_t *, size_t, unsigned);
    size_t taken = change_file(to, len);

    NEXT(next, "copy_file_range");
    if (to_at && is_discarded(*to_at))
        return (ssize_t)taken;
    return len && !taken ? -1 : next(from, from_at, to, to_at, taken, flags);
}

static bool is_path(const char *name, const char *path)
{
    const char *wanted = getenv(name);

    return wanted && strcmp(wanted, path) == 0;
}

static int broken = -1; /* the descriptor that PRELOAD_BROKEN means */

EXPORT ssize_t pread64(int fd, void *data, size_t len, off64_t at)
{
    ssize_t (*next)(int, void *, size_t, off64_t);

    NEXT(next, "pread64");
    if (fd != broken || at < 4096)
        return next(fd, data, len, at);
    errno = EIO;
    return -1;
}

static int open_any(const char *name, int at, const char *path, int flags, mode_t mode)
{
    int (*next)(int, const char *, int, ...);

    NEXT(next, name);
    if ((flags & O_ACCMODE) != O_RDONLY && change(path) < 0)
        return -1;
    if (is_path("PRELOAD_FORBIDDEN", path)) {
        errno = EACCES;
        return -1;
    }
    int fd = next(at, path, flags, mode);
    if (fd >= 0 && is_path("PRELOAD_BROKEN", path))
        broken = fd;
    return fd;
}

static mode_t mode_of(int flags, va_list ap)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
}

#define OPEN(name, target)                                                                         \
    EXPORT int name(const char *path, int flags, ...)                                              \
    {                                                                                              \
        va_list ap;                                                                                \
        va_start(ap, flags);                                                                       \
        mode_t mode = mode_of(flags, ap);                                                          \
        va_end(ap);                                                                                \
        return open_any(target, AT_FDCWD, path, flags, mode);                                      \
    }
#define OPENAT(name)                                                                               \
    EXPORT int name(int at, const char *path, int flags, ...)                                      \
    {                                                                                              \
        va_list ap;                                                                                \
        va_start(ap, flags);                                                                       \
        mode_t mode = mode_of(flags, ap);                                                          \
        va_end(ap);                                                                                \
        return open_any(#name, at, path, flags, mode);                                             \
    }
OPEN(open, "openat")
OPEN(open64, "openat64")
OPENAT(openat)
OPENAT(openat64)

EXPORT int mkdir(const char *path, mode_t mode)
{
    int (*next)(const char *, mode_t);

    NEXT(next, "mkdir");
    return change(path) < 0 ? -1 : next(path, mode);
}

EXPORT int mkdirat(int at, const char *path, mode_t mode)
{
    int (*next)(int, const char *, mode_t);

    NEXT(next, "mkdirat");
    return change(path) < 0 ? -1 : next(at, path, mode);
}

EXPORT int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags)
{
    int (*next)(int, const char *, int, const char *, unsigned);

    NEXT(next, "renameat2");
    if (flags && setting("PRELOAD_PLAIN") > 0) {
        errno = EINVAL;
        return -1;
    }
    return change(from) < 0 || change(to) < 0 ? -1 : next(from_at, from, to_at, to, flags);
}

EXPORT int renameat(int from_at, const char *from, int to_at, const char *to)
{
    int (*next)(int, const char *, int, const char *);

    NEXT(next, "renameat");
    return change(from) < 0 || change(to) < 0 ? -1 : next(from_at, from, to_at, to);
}

EXPORT int fchmodat(int at, const char *path, mode_t mode, int flags)
{
    int (*next)(int, const char *, mode_t, int);

    NEXT(next, "fchmodat");
    return change(path) < 0 ? -1 : next(at, path, mode, flags);
}

EXPORT int ftruncate64(int fd, off64_t len)
{
    int (*next)(int, off64_t);

    NEXT(next, "ftruncate64");
    count_change();
    return next(fd, len);
}

EXPORT int unlinkat(int at, const char *path, int flags)
{
    int (*next)(int, const char *, int);

    NEXT(next, "unlinkat");
    return change(path) < 0 ? -1 : next(at, path, flags);
}

EXPORT int rmdir(const char *path)
{
    int (*next)(const char *);

    NEXT(next, "rmdir");
    return change(path) < 0 ? -1 : next(path);
}

EXPORT int rename(const char *from, const char *to)
{
    int (*next)(const char *, const char *);

    NEXT(next, "rename");
    return change(from) < 0 || change(to) < 0 ? -1 : next(from, to);
}

EXPORT int link(const char *from, const char *to)
{
    int (*next)(const char *, const char *);

    NEXT(next, "link");
    return change(to) < 0 ? -1 : next(from, to);
}

EXPORT int unlink(const char *path)
{
    int (*next)(const char *);

    NEXT(next, "unlink");
    return change(path) < 0 ? -1 : next(path);
}

EXPORT int fsync(int fd)
{
    int (*next)(int);

    NEXT(next, "fsync");
    count_change();
    return next(fd);
}

static uid_t user(const char *name)
{
    uid_t (*next)(void);
    long uid = setting("PRELOAD_UID");

    NEXT(next, name);
    return uid < 0 ? next() : (uid_t)uid;
}

EXPORT uid_t getuid(void)
{
    return user("getuid");
}

EXPORT uid_t geteuid(void)
{
    return user("geteuid");
}

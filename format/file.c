/*
 * File system calls: open, read, write, copy, sync, remove. See file.h.
 *
 * Reads and writes go on over EINTR and short counts; between the portions of a long one the
 * interrupt flag is asked. What is written whole (file_write) is written to a temporary sibling,
 * synced, renamed, and the directory synced: after a crash there is the old file or the new one.
 */
#define _GNU_SOURCE
#include "format/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/crew.h"
#include "format/limits.h"

#define PORTION       ((size_t)16 << 20) /* bytes of one call: what an interrupt waits for */
#define CLONE_UNIT    4096u              /* reflinks begin and end at blocks */
#define TREE_DEPTH    256                /* each level holds two descriptors */
#define SYNCS_AT_ONCE 8u
#define LARGE_FILE    MIB /* from here on the disk may begin before the sync */

int file_error(const char *path)
{
    int problem = errno;
    int code = problem == ENOENT ? E_NOTFOUND : problem == EEXIST ? E_EXISTS : E_IO;

    code = error_set(code, "%s: %s", path, strerror(problem));
    if (problem == ENOSPC || problem == EDQUOT)
        return error_hint(code, "free some space there, or choose another place");
    if (problem == EROFS)
        return error_hint(code, "this file system is read-only: choose another place");
    return code;
}

void file_claim_standard(void)
{
    static const int against[] = {O_WRONLY, O_RDONLY, O_RDONLY}; /* the way that is not used */

    /* open() gives the lowest descriptor that is free. */
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", against[fd]) < 0)
            return;
}

void fd_release(int *fd)
{
    int saved = errno;

    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    errno = saved;
}

int file_open(int *out_fd, uint64_t *out_bytes, const char *path)
{
    AUTO_FD(fd);
    struct stat status;

    /* Asked before it is opened: opening a device or a FIFO can have effects. */
    if (stat(path, &status) != 0)
        return file_error(path);
    if (!S_ISREG(status.st_mode))
        return error_set(E_INVALID, "%s: not a regular file", path);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &status) != 0)
        return file_error(path);
    if (!S_ISREG(status.st_mode))
        return error_set(E_INVALID, "%s: not a regular file", path);
    *out_fd = fd;
    *out_bytes = (uint64_t)status.st_size;
    fd = -1;
    return 0;
}

/* The range as an off_t that no addition below can leave. */
static int range_check(uint64_t offset, uint64_t len, const char *path)
{
    uint64_t end;

    if (__builtin_add_overflow(offset, len, &end) || end > INT64_MAX)
        return error_set(E_LIMIT, "%s: offset %" PRIu64 " is out of range", path, offset);
    return 0;
}

static size_t portion(uint64_t left)
{
    return left < PORTION ? (size_t)left : PORTION;
}

static int64_t nanoseconds(const struct timespec *time)
{
    return (int64_t)time->tv_sec * 1000000000 + time->tv_nsec;
}

int fd_stamp(struct file_stamp *out, int fd, const char *path)
{
    struct stat status;

    if (fstat(fd, &status) != 0)
        return file_error(path);
    *out = (struct file_stamp){
        .device = status.st_dev,
        .inode = status.st_ino,
        .bytes = (uint64_t)status.st_size,
        .modified = nanoseconds(&status.st_mtim),
        .changed = nanoseconds(&status.st_ctim),
    };
    return 0;
}

bool file_stamps_equal(const struct file_stamp *a, const struct file_stamp *b)
{
    return a->device == b->device && a->inode == b->inode && a->bytes == b->bytes &&
           a->modified == b->modified && a->changed == b->changed;
}

int file_read_at(int fd, void *data, size_t len, uint64_t offset, const char *path)
{
    int err = range_check(offset, len, path);

    for (size_t done = 0; err == 0 && done < len;) {
        off_t at = (off_t)(offset + done);
        ssize_t n = pread(fd, (uint8_t *)data + done, portion(len - done), at);
        if (n < 0 && errno != EINTR)
            return file_error(path);
        if (n == 0)
            return error_set(E_IO, "%s: ends at byte %jd, shorter than it was", path, (intmax_t)at);
        done += n > 0 ? (size_t)n : 0;
        if (done < len)
            err = interrupt_check();
    }
    return err;
}

void file_read_ahead(int fd, uint64_t offset, uint64_t len)
{
    (void)!posix_fadvise(fd, (off_t)offset, (off_t)len, POSIX_FADV_WILLNEED);
}

int file_write_at(int fd, const void *data, size_t len, uint64_t offset, const char *path)
{
    int err = range_check(offset, len, path);

    for (size_t done = 0; err == 0 && done < len;) {
        off_t at = (off_t)(offset + done);
        ssize_t n = pwrite(fd, (const uint8_t *)data + done, portion(len - done), at);
        if (n < 0 && errno != EINTR)
            return file_error(path);
        done += n > 0 ? (size_t)n : 0;
        if (done < len)
            err = interrupt_check();
    }
    return err;
}

/* What it holds now. */
static int file_begin(struct buf *out, int *out_fd, const char *path, uint64_t limit)
{
    uint64_t size = 0;

    int err = file_open(out_fd, &size, path);
    if (err < 0)
        return err;
    if (size > limit || size > SIZE_MAX - 1)
        return error_set(
            E_LIMIT, "%s: %" PRIu64 " bytes, at most %" PRIu64 " are allowed", path, size, limit
        );
    if ((err = buf_reserve(out, (size_t)size)) == 0 &&
        (err = file_read_at(*out_fd, out->data, (size_t)size, 0, path)) == 0)
        out->len = (size_t)size;
    return err;
}

int file_read(struct buf *out, const char *path, uint64_t limit)
{
    AUTO_BUF(data);
    AUTO_FD(fd);
    uint8_t more;

    int err = file_begin(&data, &fd, path, limit);
    if (err < 0)
        return err;
    ssize_t n = pread(fd, &more, 1, (off_t)data.len);
    if (n < 0)
        return file_error(path);
    if (n > 0)
        return error_set(E_IO, "%s: grew while it was read", path);
    *out = buf_take(&data);
    return 0;
}

int file_read_log(struct buf *out, const char *path, uint64_t limit)
{
    AUTO_BUF(data);
    AUTO_FD(fd);

    int err = file_begin(&data, &fd, path, limit);
    if (err == 0)
        *out = buf_take(&data);
    return err;
}

/* Sleep until a descriptor that does not block is ready. */
static void fd_wait(int fd, short events)
{
    struct pollfd wanted = {.fd = fd, .events = events};

    if (errno == EAGAIN)
        poll(&wanted, 1, -1);
}

int file_map(struct bytes *out, int fd, uint64_t len, const char *path)
{
    if (len == 0) {
        *out = (struct bytes){0};
        return 0;
    }
    void *at = mmap(NULL, (size_t)len, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return file_error(path);
    *out = (struct bytes){at, (size_t)len};
    return 0;
}

void file_unmap(struct bytes *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->len);
    *map = (struct bytes){0};
}

int fd_read_all(struct buf *out, int fd, uint64_t limit, const char *path)
{
    AUTO_BUF(data);
    int err = 0;

    while ((err = interrupt_check()) == 0) {
        if ((err = buf_reserve(&data, 65536)) < 0)
            return err;
        ssize_t n = read(fd, data.data + data.len, 65536);
        if (n == 0) {
            *out = buf_take(&data);
            return 0;
        }
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return file_error(path);
        if (n < 0)
            fd_wait(fd, POLLIN);
        else if ((data.len += (size_t)n) > limit)
            return error_set(E_LIMIT, "%s: more than %" PRIu64 " bytes", path, limit);
    }
    return err;
}

int fd_read_more(struct buf *out, int fd, uint64_t len, const char *path)
{
    int err = 0;

    for (uint64_t left = len; left && (err = interrupt_check()) == 0;) {
        size_t step = left < 65536 ? (size_t)left : 65536;
        if ((err = buf_reserve(out, step)) < 0)
            return err;
        ssize_t n = read(fd, out->data + out->len, step);
        if (n == 0)
            return 0;
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return file_error(path);
        if (n < 0) {
            fd_wait(fd, POLLIN);
            continue;
        }
        out->len += (size_t)n;
        left -= (uint64_t)n;
    }
    return err;
}

int fd_write_all(int fd, const void *data, size_t len, const char *path)
{
    int err = 0;

    for (size_t done = 0; err == 0 && done < len;) {
        ssize_t n = write(fd, (const uint8_t *)data + done, portion(len - done));
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return file_error(path);
        if (n < 0)
            fd_wait(fd, POLLOUT);
        done += n > 0 ? (size_t)n : 0;
        if (done < len)
            err = interrupt_check();
    }
    return err;
}

/* A range in flight between two files; `done` of `len` bytes are copied. */
struct copy {
    int from, to;
    uint64_t from_offset, to_offset, len, done;
};

/* Whatever goes wrong, the copies below go on and word the error. */
static void copy_clone(struct copy *copy)
{
    uint64_t whole = copy->len - copy->len % CLONE_UNIT;
    struct file_clone_range range = {
        .src_fd = copy->from,
        .src_offset = copy->from_offset,
        .dest_offset = copy->to_offset,
        .src_length = whole,
    };

    if (whole && copy->from_offset % CLONE_UNIT == 0 && copy->to_offset % CLONE_UNIT == 0 &&
        ioctl(copy->to, FICLONERANGE, &range) == 0)
        copy->done = whole;
}

uint64_t file_clone(int from, int to, uint64_t len)
{
    struct copy copy = {from, to, 0, 0, len, 0};

    copy_clone(&copy);
    return copy.done;
}

static int copy_in_kernel(struct copy *copy)
{
    int err = 0;

    while (copy->done < copy->len && (err = interrupt_check()) == 0) {
        off_t from = (off_t)(copy->from_offset + copy->done);
        off_t to = (off_t)(copy->to_offset + copy->done);
        size_t len = portion(copy->len - copy->done);
        ssize_t n = copy_file_range(copy->from, &from, copy->to, &to, len, 0);
        if (n == 0 || (n < 0 && errno != EINTR))
            break;
        copy->done += n > 0 ? (uint64_t)n : 0;
    }
    return err;
}

static int copy_by_hand(struct copy *copy, const char *path)
{
    AUTO_BUF(block);
    int err = 0;

    if (copy->done < copy->len)
        err = buf_reserve(&block, (size_t)1 << 20);
    while (err == 0 && copy->done < copy->len) {
        uint64_t left = copy->len - copy->done;
        size_t len = left < block.cap ? (size_t)left : block.cap;
        if ((err = file_read_at(copy->from, block.data, len, copy->from_offset + copy->done, path)
            ) == 0 &&
            (err = file_write_at(copy->to, block.data, len, copy->to_offset + copy->done, path)) ==
                0 &&
            (err = interrupt_check()) == 0)
            copy->done += len;
    }
    return err;
}

int file_copy_range(
    int from,
    uint64_t from_offset,
    int to,
    uint64_t to_offset,
    uint64_t len,
    uint64_t *cloned_bytes,
    const char *path
)
{
    struct copy copy = {from, to, from_offset, to_offset, len, 0};
    int err;

    if ((err = range_check(from_offset, len, path)) < 0 ||
        (err = range_check(to_offset, len, path)) < 0)
        return err;
    copy_clone(&copy);
    if (cloned_bytes)
        *cloned_bytes += copy.done;
    err = copy_in_kernel(&copy);
    return err < 0 ? err : copy_by_hand(&copy, path);
}

int file_resize(int fd, uint64_t bytes, const char *path)
{
    int err = range_check(bytes, 0, path);

    if (err < 0)
        return err;
    return ftruncate(fd, (off_t)bytes) == 0 ? 0 : file_error(path);
}

/* A file system that cannot sync directories says EINVAL. */
int fd_sync(int fd, const char *path)
{
    while (fsync(fd) != 0) {
        if (errno == EINVAL)
            break;
        if (errno != EINTR)
            return file_error(path);
    }
    return 0;
}

int path_sync(const char *path)
{
    AUTO_FD(fd);

    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    return fd < 0 ? file_error(path) : fd_sync(fd, path);
}

void fd_sync_begin(int fd)
{
    (void)!sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

bool path_exists(const char *path)
{
    struct stat status;

    return lstat(path, &status) == 0;
}

bool path_is_directory(const char *path)
{
    struct stat status;

    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool path_is_forbidden(const char *path)
{
    return access(path, X_OK) != 0 && errno == EACCES;
}

bool path_is_private(const char *path)
{
    struct stat status;

    return stat(path, &status) == 0 && (status.st_mode & 077) == 0 &&
           (status.st_uid == geteuid() || status.st_uid == 0);
}

bool path_is_file(const char *path)
{
    struct stat status;

    return lstat(path, &status) == 0 && S_ISREG(status.st_mode);
}

int path_remove(const char *path)
{
    return unlink(path) == 0 || errno == ENOENT ? 0 : file_error(path);
}

int path_join(char **out, const char *dir, const char *name)
{
    AUTO_BUF(path);
    size_t len = strlen(dir);

    int err = buf_printf(&path, "%s%s%s", dir, len && dir[len - 1] == '/' ? "" : "/", name);
    if (err == 0)
        *out = (char *)buf_take(&path).data;
    return err;
}

const char *path_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

int path_parent(char **out, const char *path)
{
    size_t len = (size_t)(path_name(path) - path);

    while (len > 1 && path[len - 1] == '/')
        len--;
    *out = bytes_dup(len ? (struct bytes){(const uint8_t *)path, len} : text_bytes("."));
    return *out ? 0 : error_set(E_NOMEM, "out of memory for a path");
}

int program_directory(char **out)
{
    static const char link[] = "/proc/self/exe";
    AUTO_FREE(char, program);

    if (!(program = realpath(link, NULL)))
        return file_error(link);
    return path_parent(out, program);
}

int path_random(char **out, const char *dir, const char *prefix)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz234567";
    AUTO_BUF(temporary);
    uint8_t random[7] = {0};

    if (getrandom(random, 6, 0) != 6)
        return error_set(E_IO, "the system gives no random numbers: %s", strerror(errno));
    for (size_t i = 0; i < 6; i++)
        random[i] = (uint8_t)letters[random[i] % 32];
    int err = buf_printf(&temporary, "%s%s", prefix, (const char *)random);
    return err < 0 ? err : path_join(out, dir, (const char *)temporary.data);
}

int path_temporary(char **out, const char *dir, const char *name)
{
    char prefix[256];

    /* The name may be as long as a name can be: the temporary one keeps what fits. */
    snprintf(prefix, sizeof(prefix), ".%.200s.vera-", name);
    return path_random(out, dir, prefix);
}

/* Write, sync and close the new file, and give it its name. */
static int write_and_rename(int fd, const char *temporary, const char *path, struct bytes data)
{
    int err = fd_write_all(fd, data.data, data.len, path);

    if (err < 0 || (err = fd_sync(fd, path)) < 0)
        return err;
    return rename(temporary, path) == 0 ? 0 : file_error(path);
}

int file_write(const char *path, struct bytes data)
{
    AUTO_FREE(char, parent);
    AUTO_FREE(char, temporary);
    AUTO_FD(fd);
    int err;

    if ((err = path_parent(&parent, path)) < 0 ||
        (err = path_temporary(&temporary, parent, path_name(path))) < 0)
        return err;
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        return file_error(path);
    if ((err = write_and_rename(fd, temporary, path, data)) == 0)
        return path_sync(parent);
    unlink(temporary);
    return err;
}

int file_write_locked(const char *path, struct bytes data)
{
    AUTO_FREE(char, parent);
    AUTO_BUF(lock);
    AUTO_FD(fd);
    int err;

    if ((err = path_parent(&parent, path)) < 0 || (err = buf_printf(&lock, "%s.lock", path)) < 0)
        return err;
    const char *temporary = (const char *)lock.data;
    fd = open(temporary, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return file_error(temporary);
    err = write_and_rename(fd, temporary, path, data);
    return err < 0 ? err : path_sync(parent);
}

int file_create(int *out_fd, const char *path, unsigned mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, (mode_t)mode);

    if (fd < 0)
        return file_error(path);
    *out_fd = fd;
    return 0;
}

int file_claim(const char *path)
{
    AUTO_FD(fd);

    return file_create(&fd, path, 0666);
}

int path_rename(const char *from, const char *to)
{
    return rename(from, to) == 0 ? 0 : file_error(to);
}

int file_make(const char *path, struct bytes data)
{
    AUTO_FD(fd);

    int err = file_create(&fd, path, 0666);
    if (err == 0 && (err = fd_write_all(fd, data.data, data.len, path)) < 0)
        unlink(path);
    return err;
}

int file_append(const char *path, struct bytes data)
{
    AUTO_FD(fd);

    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    return fd < 0 ? file_error(path) : fd_write_all(fd, data.data, data.len, path);
}

int path_time(int64_t *out, const char *path)
{
    struct stat status;

    if (lstat(path, &status) != 0)
        return file_error(path);
    *out = status.st_mtime;
    return 0;
}

int path_stamp(int64_t *out, const char *path)
{
    struct stat status;

    if (stat(path, &status) != 0)
        return file_error(path);
    *out = nanoseconds(&status.st_mtim);
    return 0;
}

int file_put(const char *path, const char *prefix, struct bytes data)
{
    AUTO_FREE(char, parent);
    AUTO_FREE(char, temporary);
    AUTO_FD(fd);
    int err;

    if ((err = path_parent(&parent, path)) < 0 ||
        (err = path_random(&temporary, parent, prefix)) < 0)
        return err;
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
    if (fd < 0)
        return file_error(path);
    err = fd_write_all(fd, data.data, data.len, path);
    if (err == 0 && data.len >= LARGE_FILE)
        fd_sync_begin(fd);
    if (err == 0 && rename(temporary, path) != 0)
        err = file_error(path);
    if (err < 0)
        unlink(temporary);
    return err;
}

/* One directory, whose parent is there. */
static int dir_make_one(const char *path)
{
    AUTO_FREE(char, parent);
    struct stat status;

    if (stat(path, &status) == 0) {
        errno = ENOTDIR;
        return S_ISDIR(status.st_mode) ? 0 : file_error(path);
    }
    int err = path_parent(&parent, path);
    if (err < 0)
        return err;
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return file_error(path);
    err = path_sync(path);
    return err < 0 ? err : path_sync(parent);
}

int dir_make(const char *path)
{
    AUTO_FREE(char, prefix);
    int err = 0;

    if (!*path)
        return error_set(E_INVALID, "an empty path is no directory");
    prefix = bytes_dup(text_bytes(path));
    if (!prefix)
        return error_set(E_NOMEM, "out of memory for a path");
    for (size_t at = 1; err == 0; at++) {
        char next = prefix[at];
        if ((next == '/' || !next) && prefix[at - 1] != '/') {
            prefix[at] = '\0';
            err = dir_make_one(prefix);
            prefix[at] = next;
        }
        if (!next)
            break;
    }
    return err;
}

/* The absolute path without symlinks of `path` or, where nothing is there, of its parent; NULL
   where that is missing too. */
static int path_resolve(char **out, const char *path)
{
    AUTO_FREE(char, parent);
    AUTO_FREE(char, trimmed);
    size_t len = strlen(path);

    *out = realpath(path, NULL);
    if (*out || errno != ENOENT)
        return *out ? 0 : file_error(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    if (!(trimmed = bytes_dup((struct bytes){(const uint8_t *)path, len})))
        return error_set(E_NOMEM, "out of memory for a path");
    int err = path_parent(&parent, trimmed);
    if (err < 0)
        return err;
    *out = realpath(parent, NULL);
    return *out || errno == ENOENT ? 0 : file_error(path);
}

/* By inode, so that bind mounts and names in another case are seen too. */
int path_is_inside(bool *out, const char *path, const char *dir)
{
    AUTO_FREE(char, at);
    struct stat wanted, here;
    bool inside = false;

    if (stat(dir, &wanted) != 0)
        return file_error(dir);
    int err = path_resolve(&at, path);
    if (err < 0)
        return err;
    for (size_t len = at ? strlen(at) : 0; len > 0 && !inside;) {
        if (stat(at, &here) != 0)
            return file_error(at);
        inside = here.st_dev == wanted.st_dev && here.st_ino == wanted.st_ino;
        len = len > 1 ? (size_t)(path_name(at) - at) : 0;
        if (len > 1)
            len--;
        at[len ? len : 1] = '\0';
    }
    *out = inside;
    return 0;
}

bool dir_has(const char *path, const char *name)
{
    AUTO_FREE(char, file);
    struct stat status;

    return path_join(&file, path, name) == 0 && stat(file, &status) == 0 && S_ISREG(status.st_mode);
}

/* Trees */

static void dir_release(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

/* A directory below `at`, not through a symlink. */
static int dir_open(DIR **out, int at, const char *name, const char *path)
{
    AUTO_FD(fd);

    fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir)
        return file_error(path);
    fd = -1;
    *out = dir;
    return 0;
}

int dir_next(const char **out, DIR *dir, const char *path)
{
    const struct dirent *entry;

    do {
        errno = 0;
        entry = readdir(dir);
    } while (entry && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
    if (!entry && errno)
        return file_error(path);
    *out = entry ? entry->d_name : NULL;
    return 0;
}

int dir_names(struct buf *out, const char *path)
{
    __attribute__((cleanup(dir_release))) DIR *dir = NULL;
    const char *entry = NULL;
    uint64_t count = 0;
    int err = 0;

    if (!(dir = opendir(path)))
        return file_error(path);
    while (err == 0 && (err = dir_next(&entry, dir, path)) == 0 && entry) {
        if (++count > LIMIT_ENTRIES)
            return error_set(E_LIMIT, "%s: more than %" PRIu64 " entries", path, LIMIT_ENTRIES);
        err = buf_append(out, entry, strlen(entry) + 1);
    }
    return err;
}

int dir_remove_empty(const char *path)
{
    if (rmdir(path) == 0 || errno == ENOENT || errno == ENOTEMPTY || errno == EEXIST)
        return 0;
    return file_error(path);
}

static int tree_remove_at(int at, const char *name, const char *path, unsigned depth)
{
    __attribute__((cleanup(dir_release))) DIR *dir = NULL;
    const char *entry = NULL;

    if (unlinkat(at, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return file_error(path);
    if (depth > TREE_DEPTH)
        return error_set(E_LIMIT, "%s: folders deeper than %d", path, TREE_DEPTH);
    int err = dir_open(&dir, at, name, path);
    while (err == 0 && (err = dir_next(&entry, dir, path)) == 0 && entry)
        err = tree_remove_at(dirfd(dir), entry, path, depth + 1);
    if (err == 0 && unlinkat(at, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        err = file_error(path);
    return err;
}

int tree_remove(const char *path)
{
    return tree_remove_at(AT_FDCWD, path, path, 0);
}

/* Append `path` and all below it, each with a NUL. Only files and directories are expected. */
static int tree_list(struct buf *out, int at, const char *name, const char *path, unsigned depth)
{
    __attribute__((cleanup(dir_release))) DIR *dir = NULL;
    const char *entry = NULL;
    struct stat status;
    int err;

    if (fstatat(at, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return file_error(path);
    if ((err = buf_append(out, path, strlen(path) + 1)) < 0 || !S_ISDIR(status.st_mode))
        return err;
    if (depth > TREE_DEPTH)
        return error_set(E_LIMIT, "%s: folders deeper than %d", path, TREE_DEPTH);
    err = dir_open(&dir, at, name, path);
    while (err == 0 && (err = dir_next(&entry, dir, path)) == 0 && entry) {
        AUTO_FREE(char, child);
        if ((err = path_join(&child, path, entry)) == 0)
            err = tree_list(out, dirfd(dir), entry, child, depth + 1);
    }
    return err;
}

static int sync_one(void *context, unsigned member, size_t number)
{
    const char *const *paths = context;
    int err = interrupt_check();

    (void)member;
    if (err == 0 && (err = path_sync(paths[number])) == E_NOTFOUND)
        err = 0;
    return err;
}

int paths_sync(struct bytes paths)
{
    AUTO_FREE(const char *, list);
    size_t count = 0, room = 0;

    for (size_t i = 0; i < paths.len; i++)
        room += paths.data[i] == '\0';
    if (room == 0)
        return 0;
    if (!(list = array_new(room, sizeof(*list))))
        return error_wrap(E_NOMEM, "syncing %zu files", room);
    for (size_t i = 0; i < paths.len; i += strlen(list[count++]) + 1)
        list[count] = (const char *)paths.data + i;
    return crew_run(sync_one, list, count, count < SYNCS_AT_ONCE ? (unsigned)count : SYNCS_AT_ONCE);
}

int tree_sync(const char *path)
{
    AUTO_BUF(paths);
    int err = tree_list(&paths, AT_FDCWD, path, path, 0);

    return err < 0 ? err : paths_sync(buf_bytes(&paths));
}

/*
 * Locks on single bytes of a file, and the little text that it may hold. See file.h.
 *
 * F_OFD_SETLK: the lock belongs to the open file, so neither another thread of this process nor a
 * close() of another descriptor can end it. Such a lock has no process: who holds it is told by a
 * second, advisory one of the classic kind, which has.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "format/file.h"

int lock_file_open(int *out_fd, const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0666);

    if (fd < 0)
        return file_error(path);
    *out_fd = fd;
    return 0;
}

int lock_byte(bool *got, int fd, uint64_t byte, bool exclusive, const char *path)
{
    struct flock wanted = {
        .l_type = exclusive ? F_WRLCK : F_RDLCK,
        .l_whence = SEEK_SET,
        .l_start = (off_t)byte,
        .l_len = 1,
    };

    while (fcntl(fd, F_OFD_SETLK, &wanted) != 0) {
        if (errno == EAGAIN || errno == EACCES) {
            *got = false;
            return 0;
        }
        if (errno != EINTR)
            return file_error(path);
    }
    *got = true;
    return 0;
}

int unlock_byte(int fd, uint64_t byte, const char *path)
{
    struct flock wanted = {
        .l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};

    return fcntl(fd, F_OFD_SETLK, &wanted) == 0 ? 0 : file_error(path);
}

void lock_tell(int fd, uint64_t byte)
{
    struct flock mine = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};

    (void)!fcntl(fd, F_SETLK, &mine);
}

int lock_told(int fd, uint64_t byte)
{
    struct flock asked = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};

    if (fcntl(fd, F_GETLK, &asked) != 0 || asked.l_type == F_UNLCK || asked.l_pid < 0)
        return 0;
    return asked.l_pid;
}

int lock_file_write(int fd, struct bytes data, const char *path)
{
    int err = file_write_at(fd, data.data, data.len, 0, path);

    if (err < 0)
        return err;
    return ftruncate(fd, (off_t)data.len) == 0 ? 0 : file_error(path);
}

void lock_file_clear(int fd)
{
    (void)!ftruncate(fd, 0);
}

int lock_file_read(struct buf *out, int fd, uint64_t limit, const char *path)
{
    if (lseek(fd, 0, SEEK_SET) != 0)
        return file_error(path);
    return fd_read_all(out, fd, limit, path);
}

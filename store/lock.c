/*
 * The locks of vera.lock (docs/format.md, "Locks"): byte 0 for a writer's operation, byte 1 while
 * refs move, byte 2 tells who works, byte 3 for the index. Waiting is bounded: whoever waits longer
 * is told for whom.
 */
#include <time.h>

#include "format/file.h"
#include "store/internal.h"

#define BYTE_WORK  0
#define BYTE_REFS  1
#define BYTE_WHO   2
#define BYTE_INDEX 3
#define PAUSE_MS   2u
#define PAUSE_LONG 50u

static int busy(struct store *store, int fd, const char *what)
{
    int who = lock_told(fd, BYTE_WHO), err;

    if (who)
        err = error_set(E_CONFLICT, "%s: process %d %s", store->path, who, what);
    else
        err = error_set(E_CONFLICT, "%s: another process %s", store->path, what);
    return error_hint(err, "try again when it has ended");
}

static int wait_for(
    struct store *store, int fd, uint64_t byte, bool exclusive, const char *path, const char *what
)
{
    unsigned waited = 0, pause = PAUSE_MS;
    bool got = false;
    int err;

    while ((err = lock_byte(&got, fd, byte, exclusive, path)) == 0 && !got) {
        if (waited >= store->wait_ms)
            return busy(store, fd, what);
        struct timespec time = {.tv_nsec = (long)pause * 1000000};
        nanosleep(&time, NULL);
        waited += pause;
        pause = pause < PAUSE_LONG ? pause * 2 : pause;
        if ((err = interrupt_check()) < 0)
            return err;
    }
    return err;
}

static int lock_take(
    struct store_lock *out, struct store *store, uint64_t byte, bool exclusive, const char *what
)
{
    AUTO_LOCK(lock);
    AUTO_FREE(char, path);

    int err = path_join(&path, store->path, "vera.lock");
    if (err < 0)
        return err;
    if ((err = lock_file_open(&lock.fd, path)) < 0) {
        err = error_wrap(err, "the repository cannot be written");
        return err;
    }
    if ((err = wait_for(store, lock.fd, byte, exclusive, path, what)) < 0)
        return err;
    lock_tell(lock.fd, BYTE_WHO);
    *out = lock;
    lock.fd = -1;
    return 0;
}

int lock_write(struct store_lock *out, struct store *store)
{
    return lock_take(out, store, BYTE_WORK, false, "is dropping objects");
}

int lock_drop(struct store_lock *out, struct store *store)
{
    return lock_take(out, store, BYTE_WORK, true, "is writing");
}

int lock_drop_try(bool *got, struct store_lock *out, struct store *store)
{
    unsigned wait_ms = store->wait_ms;

    store->wait_ms = 0;
    int err = lock_drop(out, store);
    store->wait_ms = wait_ms;
    *got = err == 0;
    return err == E_CONFLICT ? 0 : err;
}

int lock_refs(struct store_lock *out, struct store *store)
{
    return lock_take(out, store, BYTE_REFS, true, "is moving refs");
}

int lock_index(bool *got, struct store_lock *lock, struct store *store, bool exclusive)
{
    AUTO_FREE(char, path);
    int err = path_join(&path, store->path, "vera.lock");

    if (err == 0 && lock->fd < 0)
        err = lock_file_open(&lock->fd, path);
    return err < 0 ? err : lock_byte(got, lock->fd, BYTE_INDEX, exclusive, path);
}

void lock_release(struct store_lock *lock)
{
    fd_release(&lock->fd);
}

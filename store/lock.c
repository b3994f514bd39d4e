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
#define BYTE_PACK  4
#define BYTE_GATE  5
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

static int lock_open(struct store_lock *out, char **out_path, struct store *store)
{
    int err = path_join(out_path, store->path, "vera.lock");

    if (err < 0 || (err = lock_file_open(&out->fd, *out_path)) == 0)
        return err;
    err = error_wrap(err, "the repository cannot be written");
    if (err == E_IO && !error_hint_text())
        return error_hint(err, "a copy can: git clone --mirror '%s'", store->path);
    return err;
}

static int lock_take(
    struct store_lock *out, struct store *store, uint64_t byte, bool exclusive, const char *what
)
{
    AUTO_LOCK(lock);
    AUTO_FREE(char, path);
    int err;

    if ((err = lock_open(&lock, &path, store)) < 0 ||
        (err = wait_for(store, lock.fd, byte, exclusive, path, what)) < 0)
        return err;
    lock_tell(lock.fd, BYTE_WHO);
    *out = lock;
    lock.fd = -1;
    return 0;
}

/* Through the gate. Who drops objects stands in it from the moment on that it waits: else writers
   that follow one another would keep it out for ever. */
static int lock_work(struct store_lock *out, struct store *store, bool exclusive, const char *what)
{
    AUTO_LOCK(lock);
    AUTO_FREE(char, path);
    int err;

    if ((err = lock_open(&lock, &path, store)) < 0 ||
        (err = wait_for(store, lock.fd, BYTE_GATE, exclusive, path, "is dropping objects")) < 0 ||
        (err = wait_for(store, lock.fd, BYTE_WORK, exclusive, path, what)) < 0 ||
        (!exclusive && (err = unlock_byte(lock.fd, BYTE_GATE, path)) < 0))
        return err;
    lock_tell(lock.fd, BYTE_WHO);
    *out = lock;
    lock.fd = -1;
    return 0;
}

int lock_write(struct store_lock *out, struct store *store)
{
    AUTO_LOCK(lock);
    int err;

    if ((err = lock_work(&lock, store, false, "is dropping objects")) < 0 ||
        (err = store_renew(store)) < 0)
        return err;
    *out = lock;
    lock.fd = -1;
    return 0;
}

int lock_drop(struct store_lock *out, struct store *store)
{
    return lock_work(out, store, true, "is writing");
}

int lock_pack(struct store_lock *out, struct store *store)
{
    return lock_take(out, store, BYTE_PACK, true, "is packing");
}

int lock_pack_try(bool *got, struct store_lock *out, struct store *store)
{
    AUTO_FREE(char, path);

    int err = lock_open(out, &path, store);
    return err < 0 ? err : lock_byte(got, out->fd, BYTE_PACK, true, path);
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

void lock_tell_again(const struct store_lock *lock)
{
    lock_tell(lock->fd, BYTE_WHO);
}

void lock_release(struct store_lock *lock)
{
    fd_release(&lock->fd);
}

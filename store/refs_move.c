/*
 * The one way in which refs move. See internal.h and docs/format.md, "Locks" and G8.
 *
 * Under the refs lock: what a crash left is removed; the names are noted; every ref is locked, as
 * git does it, and compared; only then the first one moves. One branch by itself, as a commit moves
 * it, is moved by ref_plain.c; all else by libgit2, which syncs a ref's file before the rename, and
 * its folder after it; folders above, which may be new, and those that lost an entry are synced
 * here, before the next ref moves.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/ref_plain.h"

#define PAUSE_MS      10u
#define AT_ONCE       256u /* each has a file open */
#define LOCK_FILE     "vera.lock"
#define PACKED_REFS   "packed-refs"
#define GIT_HEAD_FILE "HEAD"

static bool name_is_valid(const char *name)
{
    int valid = 0;

    return git_reference_name_is_valid(&valid, name) == 0 && valid;
}

/* What vera.lock names */

static int lock_file_remove(struct store *store, const char *name)
{
    AUTO_BUF(path);

    /* The file may hold anything: nothing but lock files of refs is removed. */
    if (strcmp(name, PACKED_REFS) != 0 && !name_is_valid(name))
        return 0;
    int err = buf_printf(&path, "%s/%s.lock", store->path, name);
    return err < 0 ? err : path_remove((const char *)path.data);
}

static int crash_clean(struct store *store, int fd)
{
    AUTO_BUF(names);

    int err = lock_file_read(&names, fd, LIMIT_TEXT, LOCK_FILE);
    if (err < 0 || !names.len)
        return err;
    if (!buf_text(&names))
        return error_wrap(E_NOMEM, LOCK_FILE);
    /* A name that was not written to its end had no lock file yet. */
    for (char *name = (char *)names.data, *end; err == 0 && (end = strchr(name, '\n'));
         name = end + 1) {
        *end = '\0';
        err = lock_file_remove(store, name);
    }
    return err < 0 ? err : lock_file_write(fd, (struct bytes){0}, LOCK_FILE);
}

/* The lock files must not outlive these names in a power cut. */
static int names_note(struct store *store, int fd, struct bytes names, struct bytes first)
{
    AUTO_BUF(paths);
    int err = lock_file_write(fd, names, LOCK_FILE);

    if (err < 0 || !first.len)
        return err < 0 ? err : fd_sync(fd, LOCK_FILE);
    if ((err = buf_printf(&paths, "%s/" LOCK_FILE, store->path)) < 0 ||
        (err = buf_append_byte(&paths, '\0')) < 0 ||
        (err = buf_append(&paths, first.data, first.len)) < 0)
        return err;
    return paths_sync(buf_bytes(&paths));
}

static int
moving_begin(struct store_lock *out, struct store *store, struct bytes names, struct bytes first)
{
    AUTO_LOCK(lock);
    int err;

    if ((err = lock_refs(&lock, store)) < 0 || (err = crash_clean(store, lock.fd)) < 0 ||
        (err = names_note(store, lock.fd, names, first)) < 0)
        return err;
    lock_tell_again(&lock);
    *out = lock;
    lock.fd = -1;
    return 0;
}

int refs_moving_begin(struct store_lock *out, struct store *store, struct bytes names)
{
    return moving_begin(out, store, names, (struct bytes){0});
}

/* Where the names cannot be removed, the next one does. */
void refs_moving_end(struct store_lock *lock)
{
    if (lock->fd >= 0)
        lock_file_clear(lock->fd);
    lock_release(lock);
}

/* Comparing */

static int moved(const char *name)
{
    int err = error_set(E_CONFLICT, "%s: another process has moved it", name);

    return error_hint(err, "look at what is there now, and try again");
}

int change_compare(struct store *store, const struct ref_change *change)
{
    AUTO_GIT(git_reference, ref);

    int code = git_reference_lookup(&ref, store->repo, change->name);
    if (code < 0 && code != GIT_ENOTFOUND)
        return git_failed(code, "%s", change->name);
    if (code == GIT_ENOTFOUND)
        return change->has_old ? moved(change->name) : 0;
    if (git_reference_type(ref) != GIT_REFERENCE_DIRECT)
        return error_set(E_INVALID, "%s: is a symbolic ref", change->name);
    if (!change->has_old || !git_oid_equal(git_reference_target(ref), &change->old))
        return moved(change->name);
    return 0;
}

static int collision(const char *name, const char *other)
{
    return error_set(
        E_EXISTS, "%s: cannot be there beside %s, since a name is no folder of others", name, other
    );
}

/* Is a part of the path to `name` a ref? */
static int above_check(struct store *store, const char *name)
{
    AUTO_FREE(char, prefix);

    if (!(prefix = bytes_dup(text_bytes(name))))
        return error_wrap(E_NOMEM, "%s", name);
    for (char *slash; (slash = strrchr(prefix, '/'));) {
        AUTO_GIT(git_reference, ref);
        *slash = '\0';
        if (!strchr(prefix, '/'))
            break;
        int code = git_reference_lookup(&ref, store->repo, prefix);
        if (code == 0)
            return collision(name, prefix);
        if (code != GIT_ENOTFOUND && code != GIT_EINVALIDSPEC)
            return git_failed(code, "%s", prefix);
    }
    return 0;
}

/* Is `name` part of the path to a ref? No valid name means something as a glob. */
static int below_check(struct store *store, const char *name)
{
    AUTO_GIT(git_reference_iterator, refs);
    AUTO_BUF(glob);
    const char *other = NULL;
    int code;

    int err = buf_printf(&glob, "%s/*", name);
    if (err < 0)
        return err;
    code = git_reference_iterator_glob_new(&refs, store->repo, (const char *)glob.data);
    if (code == 0 && (code = git_reference_next_name(&other, refs)) == 0)
        return collision(name, other);
    return code == GIT_ITEROVER ? 0 : git_failed(code, "%s", name);
}

static int changes_check(struct store *store, const struct ref_change *changes, size_t count)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < count; i++) {
        const struct ref_change *change = &changes[i];
        if (!name_is_valid(change->name))
            return error_set(E_INVALID, "%s: not a name that git allows", change->name);
        if ((err = change_compare(store, change)) == 0 && change->has_new && !change->has_old &&
            (err = above_check(store, change->name)) == 0)
            err = below_check(store, change->name);
    }
    return err;
}

/* Moving */

int ref_wait(unsigned *waited_ms, struct store *store, const char *name)
{
    struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000};

    if (*waited_ms >= store->wait_ms) {
        int err = error_set(E_CONFLICT, "%s: is locked by a git that is at work", name);
        return error_hint(err, "if there is none: rm -- '%s/%s.lock'", store->path, name);
    }
    nanosleep(&pause, NULL);
    *waited_ms += PAUSE_MS;
    return interrupt_check();
}

/* Locks one ref, waiting for a git that holds it. */
static int ref_lock(git_transaction **out, struct store *store, const char *name)
{
    unsigned waited_ms = 0;
    int code, err = 0;

    if ((code = git_transaction_new(out, store->repo)) < 0)
        return git_failed(code, "%s", name);
    while (err == 0 && (code = git_transaction_lock_ref(*out, name)) == GIT_ELOCKED)
        err = ref_wait(&waited_ms, store, name);
    if (err < 0)
        return err;
    return code < 0 ? git_failed(code, "%s", name) : 0;
}

/* Syncing */

/* The folders from the one that `name` is in up to `root`, as far as they are there. Those of init
   are synced; one that is new is known to those above it only when they are. */
static int folders_sync(struct store *store, const char *root, const char *name)
{
    AUTO_BUF(path);
    int err = buf_printf(&path, "%s/%s%s", store->path, root, name);

    for (size_t floor = strlen(store->path) + strlen(root); err == 0;) {
        char *slash = strrchr((char *)path.data, '/');
        if (!slash || (size_t)(slash - (char *)path.data) <= floor)
            break;
        *slash = '\0';
        if ((err = path_sync((const char *)path.data)) == E_NOTFOUND)
            err = 0;
    }
    return err;
}

static bool is_nested(const char *name)
{
    return (strncmp(name, REF_HEADS, strlen(REF_HEADS)) != 0 &&
            strncmp(name, REF_TAGS, strlen(REF_TAGS)) != 0) ||
           strchr(strchr(name + strlen("refs/"), '/') + 1, '/');
}

static int change_sync(struct store *store, const struct ref_change *change)
{
    int err = 0;

    if (!change->has_new) {
        int code = git_reflog_delete(store->repo, change->name);
        if (code < 0 && code != GIT_ENOTFOUND)
            return git_failed(code, "%s", change->name);
    }
    if ((change->has_new && change->has_old) || (change->has_new && !is_nested(change->name)))
        return 0;
    if ((err = folders_sync(store, "", change->name)) < 0)
        return err;
    return folders_sync(store, "logs/", change->name);
}

/* Changing */

/* The reflog of a branch that gets a new name goes along: what lies at the new name's place belongs
   to no ref. */
static int reflog_take(struct store *store, const struct ref_change *change)
{
    AUTO_BUF(from);
    AUTO_BUF(to);
    AUTO_BUF(lines);
    AUTO_FREE(char, folder);
    int err;

    if (!change->reflog_of)
        return 0;
    if ((err = buf_printf(&from, "%s/logs/%s", store->path, change->reflog_of)) < 0 ||
        (err = buf_printf(&to, "%s/logs/%s", store->path, change->name)) < 0 ||
        (err = file_read_log(&lines, (const char *)from.data, LIMIT_TEXT)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    const char *path = (const char *)to.data;
    if ((err = tree_remove(path)) < 0 || (err = path_parent(&folder, path)) < 0 ||
        (err = dir_make(folder)) < 0)
        return err;
    return file_write(path, buf_bytes(&lines));
}

static int change_commit(
    git_transaction *transaction,
    const struct ref_change *change,
    const git_signature *who,
    const char *message
)
{
    int code = change->has_new ? git_transaction_set_target(
                                     transaction, change->name, &change->new, who, message
                                 )
                               : git_transaction_remove(transaction, change->name);

    if (code == 0)
        code = git_transaction_commit(transaction);
    return code < 0 ? git_failed(code, "%s", change->name) : 0;
}

/* A later one failed: the first `count` go back, as far as that works. */
static void changes_undo(
    struct store *store, const struct ref_change *changes, size_t count, const git_signature *who
)
{
    for (size_t i = count; i-- > 0;) {
        AUTO_GIT(git_transaction, transaction);
        struct ref_change back = changes[i];
        back.has_new = changes[i].has_old;
        back.new = changes[i].old;
        if (git_transaction_new(&transaction, store->repo) == 0 &&
            git_transaction_lock_ref(transaction, back.name) == 0)
            (void)!change_commit(transaction, &back, who, "undone");
    }
}

static int changes_commit(
    struct store *store,
    const struct ref_change *changes,
    git_transaction **transactions,
    size_t count,
    const char *message
)
{
    AUTO_GIT(git_signature, who);

    int err = signature_now(&who, store);
    for (size_t i = 0; err == 0 && i < count; i++) {
        if ((err = reflog_take(store, &changes[i])) == 0 &&
            (err = change_commit(transactions[i], &changes[i], who, message)) == 0)
            err = change_sync(store, &changes[i]);
        if (err < 0 && i) {
            error_keep();
            changes_undo(store, changes, i, who);
            err = error_restore(err);
        }
    }
    return err;
}

static int changes_apply(
    struct store *store,
    const struct ref_change *changes,
    git_transaction **transactions,
    size_t count,
    const char *message
)
{
    bool done = false;
    int err = changes_check(store, changes, count);

    if (err == 0 && count == 1 && (err = ref_move_plain(&done, store, changes, message)) == 0 &&
        done)
        return change_sync(store, changes);
    for (size_t i = 0; err == 0 && i < count; i++)
        err = ref_lock(&transactions[i], store, changes[i].name);
    /* Once more: a git may have moved them before they were locked. */
    for (size_t i = 0; err == 0 && i < count; i++)
        err = change_compare(store, &changes[i]);
    if (err == 0)
        err = changes_commit(store, changes, transactions, count, message);
    return err;
}

static int changes_names(struct buf *out, const struct ref_change *changes, size_t count)
{
    bool removes = false;
    int err = 0;

    for (size_t i = 0; err == 0 && i < count; i++) {
        removes |= !changes[i].has_new;
        err = buf_printf(out, "%s\n", changes[i].name);
    }
    return err == 0 && removes ? buf_append_text(out, PACKED_REFS "\n") : err;
}

int refs_move_after(
    struct bytes first,
    struct store *store,
    const struct ref_change *changes,
    size_t count,
    const char *message
)
{
    __attribute__((cleanup(refs_moving_end))) struct store_lock lock = {.fd = -1};
    AUTO_FREE(git_transaction *, transactions);
    AUTO_BUF(names);
    int err;

    if (!(transactions = array_new(count, sizeof(git_transaction *))))
        return error_wrap(E_NOMEM, "refs");
    if ((err = changes_names(&names, changes, count)) < 0 ||
        (err = moving_begin(&lock, store, buf_bytes(&names), first)) < 0 ||
        (err = interrupt_check()) < 0)
        return err;
    err = changes_apply(store, changes, transactions, count, message);
    for (size_t i = 0; i < count; i++)
        git_transaction_release(&transactions[i]);
    return err;
}

int refs_move(
    struct store *store, const struct ref_change *changes, size_t count, const char *message
)
{
    return refs_move_after((struct bytes){0}, store, changes, count, message);
}

int refs_move_many(
    struct store *store, const struct ref_change *changes, size_t count, const char *message
)
{
    int err = 0;

    for (size_t at = 0, n; err == 0 && at < count; at += n) {
        n = count - at < AT_ONCE ? count - at : AT_ONCE;
        err = refs_move(store, changes + at, n, message);
    }
    return err;
}

static int
head_set(struct store *store, git_transaction *transaction, const char *ref, const char *message)
{
    AUTO_GIT(git_signature, who);

    int err = signature_now(&who, store);
    if (err < 0)
        return err;
    int code = git_transaction_set_symbolic_target(transaction, GIT_HEAD_FILE, ref, who, message);
    if (code == 0)
        code = git_transaction_commit(transaction);
    return code < 0 ? git_failed(code, "HEAD") : 0;
}

int head_move(struct store *store, const char *ref, const char *message)
{
    __attribute__((cleanup(refs_moving_end))) struct store_lock lock = {.fd = -1};
    AUTO_GIT(git_transaction, transaction);
    int err;

    if (!name_is_valid(ref) || strncmp(ref, REF_HEADS, strlen(REF_HEADS)) != 0)
        return error_set(E_INVALID, "%s: not the name of a branch", ref);
    if ((err = refs_moving_begin(&lock, store, text_bytes(GIT_HEAD_FILE "\n"))) < 0 ||
        (err = ref_lock(&transaction, store, GIT_HEAD_FILE)) < 0)
        return err;
    return head_set(store, transaction, ref, message);
}

/*
 * One branch moves: what every commit does last. See ref_plain.h.
 *
 * By git's own protocol: <ref>.lock is made, which only one process can; the ref is compared; the
 * new id is written into the lock file; that is renamed. libgit2 would sync both reflogs, their
 * folders and the lock file one after the other. Here they are synced at once, then the rename's
 * folder: a line of a reflog that its ref does not confirm is what a crash may leave anyway
 * (docs/format.md).
 */
#include "store/ref_plain.h"

#include <stdlib.h>
#include <string.h>

#include "format/file.h"

struct plain {
    char *ref, *lock, *folder; /* paths */
    char *logs[2];             /* the ref's, and HEAD's where it is on this ref, else NULL */
    struct buf paths;          /* to be synced before the ref moves */
};
#define AUTO_PLAIN(name) __attribute__((cleanup(plain_release))) struct plain name = {0}

static void plain_release(struct plain *plain)
{
    free(plain->ref);
    free(plain->lock);
    free(plain->folder);
    free(plain->logs[0]);
    free(plain->logs[1]);
    buf_release(&plain->paths);
}

static int
path_make(char **out, struct store *store, const char *root, const char *name, const char *end)
{
    AUTO_BUF(path);
    int err = buf_printf(&path, "%s/%s%s%s", store->path, root, name, end);

    if (err == 0)
        *out = (char *)buf_take(&path).data;
    return err;
}

static int path_add(struct buf *paths, const char *path)
{
    return buf_append(paths, path, strlen(path) + 1);
}

/* Is a missing reflog to be begun? What is no plain yes is left to libgit2. */
static bool logs_begin(struct store *store)
{
    AUTO_GIT(git_config, config);
    int on = 0;

    return git_repository_config_snapshot(&config, store->repo) == 0 &&
           git_config_get_bool(&on, config, "core.logAllRefUpdates") == 0 && on;
}

static bool log_is_plain(struct store *store, const char *log, bool *may_begin)
{
    AUTO_FREE(char, folder);

    if (path_exists(log))
        return path_is_file(log);
    if (path_parent(&folder, log) < 0 || !path_is_directory(folder))
        return false;
    return *may_begin || (*may_begin = logs_begin(store));
}

static int head_is_on(bool *out, struct store *store, const char *name)
{
    AUTO_GIT(git_reference, head);

    int code = git_reference_lookup(&head, store->repo, "HEAD");
    if (code < 0)
        return git_failed(code, "HEAD");
    const char *target = git_reference_symbolic_target(head);
    *out = target && strcmp(target, name) == 0;
    return 0;
}

static int plain_find(
    bool *is_plain, struct plain *plain, struct store *store, const struct ref_change *change
)
{
    const char *name = change->name;
    bool is_current = false, may_begin = false;
    int err;

    *is_plain = false;
    if (!change->has_new || change->reflog_of || strncmp(name, REF_HEADS, strlen(REF_HEADS)) != 0)
        return 0;
    if ((err = path_make(&plain->ref, store, "", name, "")) < 0 ||
        (err = path_make(&plain->lock, store, "", name, ".lock")) < 0 ||
        (err = path_make(&plain->logs[0], store, "logs/", name, "")) < 0 ||
        (err = path_parent(&plain->folder, plain->ref)) < 0 ||
        (err = head_is_on(&is_current, store, name)) < 0 ||
        (is_current && (err = path_make(&plain->logs[1], store, "logs/", "HEAD", "")) < 0))
        return err;
    *is_plain = (path_is_file(plain->ref) ||
                 (!path_exists(plain->ref) && path_is_directory(plain->folder))) &&
                log_is_plain(store, plain->logs[0], &may_begin) &&
                (!is_current || log_is_plain(store, plain->logs[1], &may_begin));
    return 0;
}

static int plain_lock(struct plain *plain, struct store *store, const struct ref_change *change)
{
    char line[GIT_OID_HEXSZ + 2];
    unsigned waited_ms = 0;
    int err;

    git_oid_tostr(line, sizeof(line), &change->new);
    line[GIT_OID_HEXSZ] = '\n';
    struct bytes data = {(const uint8_t *)line, GIT_OID_HEXSZ + 1};
    while ((err = file_make(plain->lock, data)) == E_EXISTS) {
        if ((err = ref_wait(&waited_ms, store, change->name)) < 0)
            break;
    }
    return err;
}

static int line_make(
    struct buf *out, struct store *store, const struct ref_change *change, const char *message
)
{
    AUTO_GIT(git_signature, who);
    char old[GIT_OID_HEXSZ + 1], new[GIT_OID_HEXSZ + 1];
    git_oid none = {{0}};

    git_oid_tostr(old, sizeof(old), change->has_old ? &change->old : &none);
    git_oid_tostr(new, sizeof(new), &change->new);
    int err = signature_now(&who, store);
    if (err < 0 || (err = buf_printf(out, "%s %s ", old, new)) < 0 ||
        (err = signature_append(out, who)) < 0)
        return err;
    return buf_printf(out, "\t%.*s\n", (int)strcspn(message, "\n"), message);
}

static int log_append(struct plain *plain, const char *log, struct bytes line)
{
    AUTO_FREE(char, folder);
    bool is_new = !path_exists(log);

    int err = file_append(log, line);
    if (err < 0 || (err = path_add(&plain->paths, log)) < 0 || !is_new ||
        (err = path_parent(&folder, log)) < 0)
        return err;
    return path_add(&plain->paths, folder);
}

/* The ref is locked. */
static int plain_move(
    struct plain *plain, struct store *store, const struct ref_change *change, const char *message
)
{
    AUTO_BUF(line);
    int err;

    if ((err = change_compare(store, change)) < 0 ||
        (err = line_make(&line, store, change, message)) < 0)
        return err;
    for (size_t i = 0; err == 0 && i < 2 && plain->logs[i]; i++)
        err = log_append(plain, plain->logs[i], buf_bytes(&line));
    if (err < 0 || (err = path_add(&plain->paths, plain->lock)) < 0 ||
        (err = paths_sync(buf_bytes(&plain->paths))) < 0)
        return err;
    return path_rename(plain->lock, plain->ref);
}

int ref_move_plain(
    bool *done, struct store *store, const struct ref_change *change, const char *message
)
{
    AUTO_PLAIN(plain);

    int err = plain_find(done, &plain, store, change);
    if (err < 0 || !*done || (err = plain_lock(&plain, store, change)) < 0)
        return err;
    if ((err = plain_move(&plain, store, change, message)) < 0) {
        error_keep();
        (void)!path_remove(plain.lock);
        return error_restore(err);
    }
    return path_sync(plain.folder);
}

#include "store/expire.h"

#include <string.h>

#include "format/file.h"
#include "format/limits.h"

#define LOGS       "logs"
#define IDS_LENGTH (2 * (GIT_OID_HEXSZ + 1)) /* each with the space behind it */

/* Lines */

/* The seconds of "<ids> <who> <seconds> <zone>\t<why>": false where the line has none. */
static bool line_time(int64_t *out, struct bytes line)
{
    const uint8_t *tab = memchr(line.data, '\t', line.len);
    size_t end = tab ? (size_t)(tab - line.data) : line.len, begin;
    int64_t seconds = 0;

    while (end > 0 && line.data[end - 1] != ' ')
        end--;
    if (end == 0)
        return false;
    for (begin = --end; begin > 0 && line.data[begin - 1] != ' '; begin--) {
        uint8_t digit = line.data[begin - 1];
        if (digit < '0' || digit > '9' || end - begin > 15)
            return false;
    }
    for (size_t i = begin; i < end; i++)
        seconds = seconds * 10 + (line.data[i] - '0');
    *out = seconds;
    return begin < end;
}

static struct bytes line_next(size_t *at, struct bytes text)
{
    const uint8_t *line = text.data + *at, *end = memchr(line, '\n', text.len - *at);
    size_t len = end ? (size_t)(end - line) + 1 : text.len - *at;

    *at += len;
    return (struct bytes){line, len};
}

static int lines_keep(struct buf *out, struct bytes text, int64_t before)
{
    int err = 0;

    for (size_t at = 0; err == 0 && at < text.len;) {
        struct bytes line = line_next(&at, text);
        int64_t time;
        if (!line_time(&time, line) || time >= before)
            err = buf_append(out, line.data, line.len);
    }
    return err;
}

/* Reflogs */

struct reflogs {
    struct store *store;
    int64_t before;
    int (*visit)(void *context, const git_oid *old, const git_oid *now);
    void *context;
    struct buf old; /* instead of visiting: the refs whose reflogs have old lines, NUL-terminated */
};

static int lines_visit(const struct reflogs *logs, struct bytes text)
{
    int err = 0;

    for (size_t at = 0; err == 0 && at < text.len;) {
        struct bytes line = line_next(&at, text);
        const char *ids = (const char *)line.data;
        git_oid old, now;
        if (line.len > IDS_LENGTH && git_oid_fromstrn(&old, ids, GIT_OID_HEXSZ) == 0 &&
            git_oid_fromstrn(&now, ids + GIT_OID_HEXSZ + 1, GIT_OID_HEXSZ) == 0)
            err = logs->visit(logs->context, &old, &now);
    }
    return err;
}

/* The whole of it, and the lines that stay. */
static int log_read(struct buf *text, struct buf *kept, const struct reflogs *logs, const char *ref)
{
    AUTO_BUF(path);

    int err = buf_printf(&path, "%s/" LOGS "/%s", logs->store->path, ref);
    if (err < 0 || (err = file_read_log(text, (const char *)path.data, LIMIT_TEXT)) < 0)
        return err;
    return lines_keep(kept, buf_bytes(text), logs->before);
}

/* What is being written, or was when a process ended. */
static bool is_temporary(const char *path)
{
    const char *name = path_name(path);
    size_t len = strlen(name);

    return name[0] == '.' || (len > 5 && strcmp(name + len - 5, ".lock") == 0);
}

static int log_visit(void *context, const struct tree_file *file)
{
    struct reflogs *logs = context;
    AUTO_BUF(text);
    AUTO_BUF(kept);

    if (file->is_directory || is_temporary(file->path))
        return 0;
    int err = log_read(&text, &kept, logs, file->path);
    if (err < 0)
        return err == E_NOTFOUND ? 0 : err;
    if (logs->visit)
        return lines_visit(logs, buf_bytes(&kept));
    return kept.len == text.len ? 0 : buf_append(&logs->old, file->path, strlen(file->path) + 1);
}

static int logs_walk(struct reflogs *logs)
{
    AUTO_FREE(char, folder);

    int err = path_join(&folder, logs->store->path, LOGS);
    if (err == 0)
        err = tree_each(folder, log_visit, logs);
    return err == E_NOTFOUND ? 0 : err;
}

int reflogs_each(
    struct store *store,
    int64_t before,
    int (*visit)(void *context, const git_oid *old, const git_oid *now),
    void *context
)
{
    struct reflogs logs = {.store = store, .before = before, .visit = visit, .context = context};

    return logs_walk(&logs);
}

/* Rewriting */

static int lock_claim(struct buf *path, struct store *store, const char *prefix, const char *ref)
{
    AUTO_FREE(char, folder);

    int err = buf_printf(path, "%s/%s%s.lock", store->path, prefix, ref);
    if (err < 0 || (err = file_claim((const char *)path->data)) != E_NOTFOUND)
        return err;
    /* A packed ref needs no folder, but its lock does. */
    if ((err = path_parent(&folder, (const char *)path->data)) < 0 || (err = dir_make(folder)) < 0)
        return err;
    return file_claim((const char *)path->data);
}

/* Both locks are held: git's for the ref, and for its reflog, which is where it is written. */
static int log_rewrite(const struct reflogs *logs, const char *ref)
{
    AUTO_BUF(path);
    AUTO_BUF(text);
    AUTO_BUF(kept);

    int err = log_read(&text, &kept, logs, ref);
    if (err < 0 || kept.len == text.len ||
        (err = buf_printf(&path, "%s/" LOGS "/%s", logs->store->path, ref)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    return file_write_locked((const char *)path.data, buf_bytes(&kept));
}

static int log_expire(const struct reflogs *logs, const char *ref)
{
    AUTO_BUF(ref_lock);
    AUTO_BUF(log_lock);
    int err, removed;

    if ((err = lock_claim(&ref_lock, logs->store, "", ref)) < 0)
        return err == E_EXISTS ? 0 : err;
    if ((err = lock_claim(&log_lock, logs->store, LOGS "/", ref)) == 0) {
        err = log_rewrite(logs, ref);
        if ((removed = path_remove((const char *)log_lock.data)) < 0 && err == 0)
            err = removed;
    }
    if ((removed = path_remove((const char *)ref_lock.data)) < 0 && err == 0)
        err = removed;
    return err == E_EXISTS ? 0 : err;
}

static int names_list(struct buf *out, struct bytes refs)
{
    int err = 0;

    for (size_t at = 0; err == 0 && at < refs.len;) {
        const char *ref = (const char *)refs.data + at;
        err = buf_printf(out, "%s\n" LOGS "/%s\n", ref, ref);
        at += strlen(ref) + 1;
    }
    return err;
}

static int logs_rewrite(const struct reflogs *logs)
{
    __attribute__((cleanup(refs_moving_end))) struct store_lock lock = {.fd = -1};
    AUTO_BUF(names);
    int err;

    if (!logs->old.len)
        return 0;
    if ((err = names_list(&names, buf_bytes(&logs->old))) < 0 ||
        (err = refs_moving_begin(&lock, logs->store, buf_bytes(&names))) < 0)
        return err;
    for (size_t at = 0; err == 0 && at < logs->old.len;) {
        const char *ref = (const char *)logs->old.data + at;
        at += strlen(ref) + 1;
        if ((err = log_expire(logs, ref)) == 0)
            err = interrupt_check();
    }
    if (err < 0)
        lock_release(&lock); /* a lock file may still be there: the names stay */
    return err;
}

int reflogs_expire(struct store *store, int64_t before)
{
    struct reflogs logs = {.store = store, .before = before};

    int err = logs_walk(&logs);
    if (err == 0)
        err = logs_rewrite(&logs);
    buf_release(&logs.old);
    return err;
}

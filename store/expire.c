#include "store/expire.h"

#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/refs.h"

#define LOGS       "logs"
#define IDS_LENGTH (2 * (GIT_OID_HEXSZ + 1)) /* each with the space behind it */

/* The trash */

struct old_refs {
    struct store *store;
    int64_t before;
};

static int old_visit(void *context, const char *name, const git_oid *target)
{
    const struct old_refs *old = context;
    struct ref_change change = {.name = name, .has_old = true, .old = *target};
    time_t time;

    if (!trash_parse(&time, name) || time >= old->before)
        return 0;
    return refs_move(old->store, &change, 1, "expired");
}

int trash_expire(struct store *store, int64_t before)
{
    struct old_refs old = {store, before};

    return refs_each(store, REF_TRASH, old_visit, &old);
}

/* Reflogs */

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

/* The lines that stay: those that are not older, what is no line, and the last one. */
static int lines_keep(struct buf *out, struct bytes text, int64_t before)
{
    int err = 0;

    for (size_t at = 0; err == 0 && at < text.len;) {
        const uint8_t *line = text.data + at, *end = memchr(line, '\n', text.len - at);
        size_t len = end ? (size_t)(end - line) + 1 : text.len - at;
        int64_t time;
        at += len;
        if (at == text.len || !line_time(&time, (struct bytes){line, len}) || time >= before)
            err = buf_append(out, line, len);
    }
    return err;
}

struct reflogs {
    struct store *store;
    int64_t before;
    int (*visit)(void *context, const git_oid *old, const git_oid *now); /* NULL: rewrite */
    void *context;
};

static int lines_visit(const struct reflogs *logs, struct bytes text)
{
    int err = 0;

    for (size_t at = 0; err == 0 && at < text.len;) {
        const uint8_t *line = text.data + at, *end = memchr(line, '\n', text.len - at);
        size_t len = end ? (size_t)(end - line) + 1 : text.len - at;
        git_oid old, now;
        if (len > IDS_LENGTH && git_oid_fromstrn(&old, (const char *)line, GIT_OID_HEXSZ) == 0 &&
            git_oid_fromstrn(&now, (const char *)line + GIT_OID_HEXSZ + 1, GIT_OID_HEXSZ) == 0)
            err = logs->visit(logs->context, &old, &now);
        at += len;
    }
    return err;
}

static int log_visit(void *context, const struct tree_file *file)
{
    const struct reflogs *logs = context;
    AUTO_BUF(path);
    AUTO_BUF(text);
    AUTO_BUF(kept);

    if (file->is_directory)
        return 0;
    int err = buf_printf(&path, "%s/" LOGS "/%s", logs->store->path, file->path);
    if (err < 0 || (err = file_read(&text, (const char *)path.data, LIMIT_TEXT)) < 0 ||
        (err = lines_keep(&kept, buf_bytes(&text), logs->before)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    if (logs->visit)
        return lines_visit(logs, buf_bytes(&kept));
    return kept.len == text.len ? 0 : file_write((const char *)path.data, buf_bytes(&kept));
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
    struct reflogs logs = {store, before, visit, context};

    return logs_walk(&logs);
}

int reflogs_expire(struct store *store, int64_t before)
{
    struct reflogs logs = {store, before, NULL, NULL};

    return logs_walk(&logs);
}

/*
 * One line for each move: "<old id> <new id> <who> <time> <zone>\t<why>\n". libgit2 skips lines
 * that it cannot read, in silence; fsck must not, so they are read here.
 */
#include "store/reflog.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/id_set.h"

#define IDS_LENGTH (2 * (GIT_OID_HEXSZ + 1)) /* each with the space behind it */

static int reflog_read(struct buf *out, struct store *store, const char *ref)
{
    AUTO_BUF(name);
    AUTO_FREE(char, path);

    int err = buf_printf(&name, "logs/%s", ref);
    if (err < 0 || (err = path_join(&path, store_path(store), (const char *)name.data)) < 0)
        return err;
    err = file_read_log(out, path, LIMIT_TEXT);
    /* A folder is there where refs below this name had logs. */
    return err == E_NOTFOUND || err == E_INVALID ? 0 : err;
}

static bool line_read(git_oid *old, git_oid *now, struct bytes line)
{
    const char *text = (const char *)line.data;

    return line.len > IDS_LENGTH && text[GIT_OID_HEXSZ] == ' ' && text[IDS_LENGTH - 1] == ' ' &&
           git_oid_fromstrn(old, text, GIT_OID_HEXSZ) == 0 &&
           git_oid_fromstrn(now, text + GIT_OID_HEXSZ + 1, GIT_OID_HEXSZ) == 0;
}

int reflog_each(
    struct store *store,
    const char *ref,
    int (*visit)(void *context, const git_oid *old, const git_oid *now),
    void *context
)
{
    AUTO_BUF(text);
    size_t number = 0, bad = 0;

    int err = reflog_read(&text, store, ref);
    for (size_t at = 0; err == 0 && at < text.len;) {
        const uint8_t *line = text.data + at, *end = memchr(line, '\n', text.len - at);
        git_oid old, now;
        if (!end)
            break; /* a line that a crash cut off */
        number++;
        if (line_read(&old, &now, (struct bytes){line, (size_t)(end - line)}))
            err = visit(context, &old, &now);
        else if (!bad)
            bad = number;
        at = (size_t)(end - text.data) + 1;
    }
    if (err == 0 && bad)
        err = error_set(E_CORRUPT, "reflog of %s: line %zu is none", ref, bad);
    return err;
}

struct moves {
    struct move {
        git_oid old, now;
    } * moves; /* the oldest first */
    size_t count, capacity;
};

static void moves_release(struct moves *moves)
{
    free(moves->moves);
}

static int move_visit(void *context, const git_oid *old, const git_oid *now)
{
    struct moves *moves = context;
    int err = array_grow(&moves->moves, &moves->capacity, moves->count + 1, sizeof(*moves->moves));

    if (err == 0)
        moves->moves[moves->count++] = (struct move){*old, *now};
    return err;
}

static int too_far(const char *ref, uint64_t n, size_t count)
{
    if (count == 0)
        return error_set(E_NOTFOUND, "%s has no reflog", ref);
    return error_set(
        E_NOTFOUND, "%s@{%" PRIu64 "}: the reflog has %zu %s only", ref, n, count,
        count == 1 ? "entry" : "entries"
    );
}

int reflog_find(git_oid *out, struct store *store, const char *ref, const git_oid *now, uint64_t n)
{
    __attribute__((cleanup(moves_release))) struct moves moves = {0};

    if (n == 0) {
        *out = *now;
        return 0;
    }
    int err = reflog_each(store, ref, move_visit, &moves);
    if (err < 0 && err != E_CORRUPT)
        return err;
    size_t count = moves.count;
    if (count && !git_oid_equal(&moves.moves[count - 1].now, now))
        count--;
    if (n > count)
        return too_far(ref, n, count);
    /* The value before the n-th newest move: the older line's new id, as git has it. */
    const git_oid *found = n < count ? &moves.moves[count - 1 - n].now : &moves.moves[0].old;
    if (git_oid_is_zero(found))
        return too_far(ref, n, count);
    *out = *found;
    return 0;
}

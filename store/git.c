/* What libgit2 says, in our words; and ids in its form and ours. See internal.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "store/internal.h"

void commit_hex(char out[COMMIT_HEX_SIZE], const struct commit_id *id)
{
    git_oid oid = git_id(id);

    git_oid_tostr(out, COMMIT_HEX_SIZE, &oid);
}

bool commit_equal(const struct commit_id *a, const struct commit_id *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

git_oid git_id(const struct commit_id *id)
{
    git_oid oid;

    memcpy(oid.id, id->bytes, sizeof(oid.id));
    return oid;
}

struct commit_id commit_id_of(const git_oid *id)
{
    struct commit_id commit;

    memcpy(commit.bytes, id->id, sizeof(commit.bytes));
    return commit;
}

/* By code where that says it, else by the part of libgit2 that failed. */
static int error_code(int code, const git_error *error)
{
    static const struct {
        int theirs, ours;
    } codes[] =
        {
            {GIT_ENOTFOUND, E_NOTFOUND},
            {GIT_EEXISTS, E_EXISTS},
            {GIT_EAMBIGUOUS, E_INVALID},
            {GIT_EINVALIDSPEC, E_INVALID},
            {GIT_EDIRECTORY, E_EXISTS},
            {GIT_EINVALID, E_INVALID},
            {GIT_EBUFS, E_NOMEM},
            {GIT_EBAREREPO, E_INVALID},
            {GIT_EUNBORNBRANCH, E_NOTFOUND},
            {GIT_EUNMERGED, E_CONFLICT},
            {GIT_ECONFLICT, E_CONFLICT},
            {GIT_ELOCKED, E_CONFLICT},
            {GIT_EMODIFIED, E_CONFLICT},
            {GIT_EPEEL, E_INVALID},
            {GIT_EMISMATCH, E_CORRUPT},
            {GIT_ENONFASTFORWARD, E_CONFLICT},
        },
      classes[] = {
          {GIT_ERROR_NOMEMORY, E_NOMEM}, {GIT_ERROR_REFERENCE, E_CORRUPT},
          {GIT_ERROR_ZLIB, E_CORRUPT},   {GIT_ERROR_ODB, E_CORRUPT},
          {GIT_ERROR_OBJECT, E_CORRUPT}, {GIT_ERROR_TREE, E_CORRUPT},
          {GIT_ERROR_TAG, E_CORRUPT},    {GIT_ERROR_INDEXER, E_CORRUPT},
          {GIT_ERROR_CONFIG, E_INVALID},
      };

    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        if (codes[i].theirs == code)
            return codes[i].ours;
    }
    for (size_t i = 0; error && i < sizeof(classes) / sizeof(classes[0]); i++) {
        if (classes[i].theirs == error->klass)
            return classes[i].ours;
    }
    int other = E_IO;
    return other;
}

int git_failed(int code, const char *fmt, ...)
{
    const git_error *error = git_error_last();
    char what[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    const char *why = error && error->message ? error->message : "libgit2 does not say why";
    int err = error_set(error_code(code, error), "%s: %s", what, why);
    if (strstr(why, strerror(ENOSPC)) || strstr(why, strerror(EDQUOT)))
        return error_hint(err, "free some space there");
    return err == E_CORRUPT ? error_hint(err, "'vera fsck' tells what is damaged") : err;
}

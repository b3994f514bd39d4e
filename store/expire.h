/* Lines of reflogs, which go when they are old. */
#ifndef STORE_EXPIRE_H
#define STORE_EXPIRE_H

#include "store/internal.h"

/* Visit both ids of every line of every reflog that is not older than this moment. */
MUST_CHECK int reflogs_each(
    struct store *store,
    int64_t before,
    int (*visit)(void *context, const git_oid *old, const git_oid *now),
    void *context
);

/* Remove the lines that are older, and let be what is no line. A reflog is replaced whole, under
   its ref's own lock; one whose ref a git is changing is left as it is. */
MUST_CHECK int reflogs_expire(struct store *store, int64_t before);

#endif

/* What leaves the trash and the reflogs when it is old. */
#ifndef STORE_EXPIRE_H
#define STORE_EXPIRE_H

#include "store/internal.h"

/* Remove the trash refs that are older than this moment. Needs a lock for writing. */
MUST_CHECK int trash_expire(struct store *store, int64_t before);

/* Visit both ids of every line of every reflog that is not older, and of each one's last line. */
MUST_CHECK int reflogs_each(
    struct store *store,
    int64_t before,
    int (*visit)(void *context, const git_oid *old, const git_oid *now),
    void *context
);

/* Remove all other lines; each reflog is replaced whole. */
MUST_CHECK int reflogs_expire(struct store *store, int64_t before);

#endif

/* What moved a ref, and when: git's reflog, read. */
#ifndef STORE_REFLOG_H
#define STORE_REFLOG_H

#include "store/internal.h"

/* Where the ref was `n` moves ago; it is at `now`. A last line that does not say so was written
   before a crash and does not count (docs/format.md, "What may exist after a crash"). E_NOTFOUND
   where the reflog does not go back so far, with what it has. */
MUST_CHECK int
reflog_find(git_oid *out, struct store *store, const char *ref, const git_oid *now, uint64_t n);

/* Read a reflog's text: `visit` is called for each line, the oldest first, with both ids (zero:
   the ref did not exist). E_CORRUPT for a line that is none, at the end of the walk: the others are
   visited all the same. Without a reflog: 0. */
MUST_CHECK int reflog_each(
    struct store *store,
    const char *ref,
    int (*visit)(void *context, const git_oid *old, const git_oid *now),
    void *context
);

#endif

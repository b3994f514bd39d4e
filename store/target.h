/*
 * A branch or a tag that is to be made, moved or deleted: its name, and where it is now.
 *
 * Nothing is lost in silence: what a ref leaves behind gets a ref in the trash first, and only then
 * the ref moves. A crash between the two leaves one trash ref too many.
 */
#ifndef STORE_TARGET_H
#define STORE_TARGET_H

#include "store/internal.h"

struct target {
    const char *what, *name; /* "branch" or "tag"; both borrowed */
    char *ref;               /* the whole name, owned */
    bool found;
    git_oid at; /* where found */
};

#define AUTO_TARGET(name) __attribute__((cleanup(target_release))) struct target name = {0}
void target_release(struct target *target);

/* For one that is to be made: E_INVALID for a name that git, or a revision, could not take;
   E_EXISTS. */
MUST_CHECK int
target_new(struct target *out, struct store *store, const char *what, const char *name);
/* For one that must be there: E_NOTFOUND, with the nearest name. What git made under a name that
   target_new() refuses is found all the same, so that it can be renamed or deleted. */
MUST_CHECK int
target_find(struct target *out, struct store *store, const char *what, const char *name);

/* Both need lock_write(); `why` is the reflog's line. */
MUST_CHECK int
target_create(const struct target *target, struct store *store, const git_oid *at, const char *why);
/* Move to `to`, or delete (NULL); what was there goes to the trash. */
MUST_CHECK int target_leave(
    const struct target *target, struct store *store, const struct commit_id *to, const char *why
);

#endif

/* What the files of fetching share: which refs of ours move for theirs. See fetch.h. */
#ifndef STORE_FETCH_REFS_H
#define STORE_FETCH_REFS_H

#include "store/ancestry.h"
#include "store/fetch.h"

/* A remote's, and after their sources "refs/tags/" and a star where tags come along. */
struct refspecs {
    git_refspec **list;
    const char **sources;
    size_t count, source_count;
};
#define AUTO_REFSPECS(name) __attribute__((cleanup(refspecs_release))) struct refspecs name = {0}
void refspecs_release(struct refspecs *specs);
/* E_INVALID for one that is none. */
MUST_CHECK int refspecs_make(struct refspecs *out, const struct remote *remote);

/* What is about to move, in this order, and what will be said of it. */
struct ref_plan {
    struct store *store;
    struct ancestry ancestry;
    struct ref_change *changes;
    char **names; /* theirs, owned */
    size_t count, capacity, name_capacity;
    struct transfer_result result;
};
#define AUTO_REF_PLAN(name) __attribute__((cleanup(ref_plan_release))) struct ref_plan name = {0}
MUST_CHECK int ref_plan_init(struct ref_plan *out, struct store *store);
void ref_plan_release(struct ref_plan *plan);

/* Delete what the refspecs bring here and is no longer there: before the others move, since a
   folder may have a ref's name now. */
MUST_CHECK int
ref_plan_prune(struct ref_plan *plan, const struct refspecs *specs, const struct arrival *arrival);
MUST_CHECK int
ref_plan_add(struct ref_plan *plan, const struct refspecs *specs, const struct arrival *arrival);

/* Needs lock_write(). `why` is the reflog's line. The counts of bytes are not set. */
MUST_CHECK int ref_plan_move(struct transfer_result *out, struct ref_plan *plan, const char *why);

#endif

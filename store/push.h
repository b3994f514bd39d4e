/*
 * Refs of ours, and what they lead to, to another repository.
 *
 * Nothing of theirs is lost unless that was asked for: a branch there moves only to what contains
 * it, and by compare-and-swap with where it was when we looked. To a path we write as its own vera
 * would: through a quarantine there that checks all of it.
 */
#ifndef STORE_PUSH_H
#define STORE_PUSH_H

#include "store/internal.h"

enum push_status {
    PUSH_UP_TO_DATE,
    PUSH_CREATED,
    PUSH_MOVED,  /* fast-forward */
    PUSH_FORCED, /* away from what was there */
    PUSH_DELETED,
    PUSH_REFUSED, /* `why` says so */
};
/* "up-to-date", "created", "fast-forward", "forced", "deleted", "refused". */
const char *push_status_name(enum push_status status);

struct push_ref {
    const char *name; /* whole, ours and theirs: "refs/heads/main" */
    bool is_deletion;
    bool force;
    /* out */
    enum push_status status;
    bool has_old, has_new; /* what is there: before, and after */
    git_oid old, new;
    char *why;
};

struct push_request {
    const char *url; /* as arrival_request's */
    struct push_ref *refs;
    size_t count;
    unsigned stall_seconds;
    struct progress *progress;
};

struct push_result {
    uint64_t bytes, objects; /* that were sent */
    bool has_digest;         /* a registry's: of the manifest of the last ref's version */
    struct digest digest;
};

/* Every ref, or none: E_CONFLICT where one is refused, each with its `why` (others may have moved
   where the server refused one in the middle); E_NOTFOUND where a ref that is to go is not there,
   or one of ours is not. Other errors as arrival_fetch(). */
MUST_CHECK int
push_send(struct push_result *out, struct store *store, const struct push_request *request);
void push_refs_release(struct push_ref *refs, size_t count);

#endif

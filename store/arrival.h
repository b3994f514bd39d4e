/*
 * Objects from another repository, checked before they are ours.
 *
 * A process of its own, with limits on memory and files, fetches into a quarantine and looks at
 * everything that is new as fsck would: git's hashes, manifests, frames, digests, bases, and that
 * whatever these lead to is there. Only then its packs are moved here. No ref moves: who called
 * does that, by compare-and-swap, and until then nothing leads to what has arrived. A connection
 * that was refused or lost is tried again, a little later each time.
 */
#ifndef STORE_ARRIVAL_H
#define STORE_ARRIVAL_H

#include "store/internal.h"

struct arrival_request {
    const char *url;          /* store/url.h; a path may hold .vera. No message has its secret */
    const char *const *specs; /* "refs/heads/main", "refs/tags/v*": which refs are wanted */
    size_t spec_count;        /* 0: all branches and tags */
    bool head_only;           /* only the branch that HEAD is on there; `specs` do not count */
    bool shallow;             /* only the newest version of each, into a store that has none yet */
    bool may_end;             /* a shallow clone may be fetched from, too */
    uint64_t max_bytes;       /* 0: LIMIT_ARRIVING */
    unsigned stall_seconds;   /* nothing comes for so long: given up; 0: vera.timeout, else 60 */
    unsigned pause_ms;        /* before the second try, doubled for each more; 0: 500 */
    struct progress *progress;
};

struct arrived_ref {
    char *name; /* whole, "refs/heads/main" */
    git_oid id; /* a commit, or of a tag an annotated one */
};

struct arrival {
    struct arrived_ref *refs; /* wanted ones that are there, in byte order of name */
    size_t count, capacity;
    char *head;              /* where the other one's HEAD is, "refs/heads/main", or NULL */
    uint64_t bytes, objects; /* that were received */
    uint64_t versions;       /* commits among them */
    bool is_whole;           /* shallow was asked for, and all came: over a network only git can */
};

#define AUTO_ARRIVAL(name) __attribute__((cleanup(arrival_release))) struct arrival name = {0}

/* Errors: E_NOTFOUND (no such repository), E_IO (network; nothing came for too long), E_CORRUPT
   (what came is damaged, or not what it says, or leads to what is missing), E_LIMIT, E_UNSUPPORTED,
   E_INTERRUPTED; E_INVALID and E_CONFLICT of store/credentials.h. Then nothing is left of it. */
MUST_CHECK int
arrival_fetch(struct arrival *out, struct store *store, const struct arrival_request *request);
void arrival_release(struct arrival *arrival);

#endif

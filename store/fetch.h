/*
 * Versions of another repository become ours: what is new arrives checked (arrival.h), then refs
 * move, each by compare-and-swap and with a line in its reflog. Whatever fails before that has
 * changed nothing.
 */
#ifndef STORE_FETCH_H
#define STORE_FETCH_H

#include "store/arrival.h"
#include "store/push.h"
#include "store/remote.h"

/* What a transfer did with one ref of ours. */
struct moved_ref {
    char *name; /* whole: "refs/remotes/origin/main" */
    enum push_status status;
    bool has_old, has_new;
    git_oid old, new;
    char *why; /* of one that was refused */
};
struct transfer_result {
    struct moved_ref *refs; /* that are new, moved, gone or were refused; by name */
    size_t count, capacity;
    uint64_t bytes, objects, versions; /* that came */
};
#define AUTO_TRANSFER(name)                                                                        \
    __attribute__((cleanup(transfer_release))) struct transfer_result name = {0}
void transfer_release(struct transfer_result *result);
/* `has`: is there an old one, a new one. */
MUST_CHECK int transfer_add(
    struct transfer_result *result,
    const struct ref_change *change,
    enum push_status status,
    const char *why
);

struct fetch_request {
    const char *remote;     /* a configured one's name */
    bool prune;             /* what is gone there goes from refs/remotes/, too */
    uint64_t max_bytes;     /* 0: LIMIT_ARRIVING */
    unsigned stall_seconds; /* 0: as arrival_request's */
    struct progress *progress;
};

/* Branches to where the remote's refspecs say; tags come along. A tag that is here and is another
   one there stays, PUSH_REFUSED. Errors: arrival_fetch()'s; E_NOTFOUND (no such remote); E_CONFLICT
   where a ref moved meanwhile. */
MUST_CHECK int
store_fetch(struct transfer_result *out, struct store *store, const struct fetch_request *request);

struct clone_request {
    const char *url;
    const char *dir; /* new or empty: E_EXISTS */
    bool shallow;    /* only the newest version of the branch that HEAD is on there */
    uint64_t max_bytes;
    unsigned stall_seconds;
    struct progress *progress;
};

/* What came of it besides. */
struct clone_result {
    struct transfer_result transfer;
    char *path;      /* of .vera, absolute */
    char *branch;    /* the current one; its upstream is the one there */
    bool is_shallow; /* false with `shallow`: the whole history came, since git is not there to do
                        it */
};
#define AUTO_CLONE(name) __attribute__((cleanup(clone_release))) struct clone_result name = {0}
void clone_release(struct clone_result *result);

/* A repository of its own in dir/.vera, whole or not at all, with `origin` for the one that it came
   from. */
MUST_CHECK int store_clone(struct clone_result *out, const struct clone_request *request);

/* The one version that `revision` names there (a branch, a tag, or anything that store_resolve()
   takes), loaded; of its history no more comes than is needed to find it. Nothing is kept. */
MUST_CHECK int store_load_from(
    struct snapshot *out,
    struct commit_id *commit,
    const char *url,
    const char *revision,
    struct progress *progress
);

#endif

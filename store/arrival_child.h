/* What the files of an arrival's own process share. See arrival.h. */
#ifndef STORE_ARRIVAL_CHILD_H
#define STORE_ARRIVAL_CHILD_H

#include "store/arrival.h"
#include "store/credentials.h"
#include "store/id_set.h"
#include "store/worker.h"

struct counts {
    uint64_t bytes, objects, versions;
};

struct child {
    struct credentials *credentials; /* first: credentials.h */
    const struct arrival_request *request;
    struct store *quarantined;
    git_remote *remote;
    struct worker *worker;
    uint64_t max_bytes;
    char *only; /* with head_only: the branch's ref, owned */
    int err;    /* ours, that a callback ended with */
    git_oid *tips;
    bool *is_branch; /* by index in tips */
    size_t tip_count, tip_capacity, branch_capacity;
    struct counts counts;
};

/* Is this ref among those that were asked for? */
bool child_wants(const struct child *child, const char *name);
/* A ref that is there: told to the other process, and a tip from now on, where it is wanted. */
MUST_CHECK int child_ref(struct child *child, const char *name, const git_oid *id);
/* Where HEAD is, "refs/heads/main". */
MUST_CHECK int child_head(struct child *child, const char *branch);
MUST_CHECK int child_progress(struct child *child, uint64_t bytes);

/* Histories there end at these commits, or are to end there here. E_UNSUPPORTED where that may not
   be. */
MUST_CHECK int child_ends(struct child *child, const struct id_set *ends);

/* arrival_path.c: is this a path, or file://? */
bool url_is_path(const char *url);
/* What messages call it, owned by the caller: without its secret. E_INVALID. */
MUST_CHECK int url_name(char **out, const char *url);
/* The repository at such a URL. E_NOTFOUND; store_open()'s errors. */
MUST_CHECK int path_open(struct store **out, const char *url);
/* Pack what is wanted and not here, from there into the quarantine. (libgit2's own transport of
   paths sends what every ref there leads to.) */
MUST_CHECK int path_fetch(struct child *child);

/* arrival_git.c: is git itself needed, which knows shallow clones? libgit2 1.5 does not. */
MUST_CHECK int git_is_needed(bool *out, struct child *child);
/* The same over a network, by the program git, into the quarantine. E_UNSUPPORTED where there is
   none. */
MUST_CHECK int git_fetch(struct child *child);

/* The refs that are wanted: `count` of them, which may hold stars. */
const char *const *child_specs(size_t *count, const struct child *child);

#endif

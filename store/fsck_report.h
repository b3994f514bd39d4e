/* What fsck has found, while it grows. */
#ifndef STORE_FSCK_REPORT_H
#define STORE_FSCK_REPORT_H

#include "store/graph.h"

/* A ref, or a reflog, and what it leads to. */
struct fsck_root {
    char *ref;  /* whole name, owned */
    char *name; /* as a person names it: "main", "origin/main", "trash/<time>/x"; owned */
    size_t node;
    bool is_reflog;
};

struct fsck {
    struct store *store; /* a handle of its own: what others have in their caches is no proof */
    struct graph graph;
    struct fsck_report *report;
    size_t bad_capacity;
    size_t *bad_nodes; /* by index in report->bad; SIZE_MAX for a ref */
    size_t bad_node_capacity;
    struct fsck_root *roots;
    size_t root_count, root_capacity;
    struct progress *progress;
    uint64_t done, total; /* bytes */
};

/* The current error, without `prefix`, becomes a line about `node`; or about a ref, or the index.
 * E_NOMEM and E_INTERRUPTED are returned, everything else is 0. */
MUST_CHECK int fsck_bad_node(struct fsck *fsck, size_t node, int err);
MUST_CHECK int fsck_bad_ref(struct fsck *fsck, const char *ref, int err);

/* Fill in which versions and branches each line touches, and which none does. */
MUST_CHECK int fsck_touched(struct fsck *fsck);

/* fsck.c: what arrived in a quarantine, every commit of it, as store_fsck() would look at it; what
   that leads to beyond must be there. E_CORRUPT naming the first thing that is wrong. */
MUST_CHECK int
fsck_arrived(uint64_t *out_versions, struct store *quarantined, const struct id_set *arrived);

/* fsck_refs.c: read every ref and reflog; what they lead to becomes a root. */
MUST_CHECK int fsck_refs(struct fsck *fsck);

#endif

/*
 * Commits and their parents, read as they are asked for and kept.
 *
 * libgit2 1.5's own walk fails at the boundary of a shallow clone, where a parent is named but not
 * there; so parents are read here. A commit that `shallow` lists has none. A parent that is missing
 * anywhere else is damage.
 */
#ifndef STORE_ANCESTRY_H
#define STORE_ANCESTRY_H

#include "store/id_set.h"

struct ancestor {
    git_oid tree;
    int64_t time;                      /* the committer's */
    size_t parents_begin, parents_end; /* in ancestry.parents */
    bool is_read, is_cut;              /* cut: a shallow clone has no more than this */
};

struct ancestry {
    struct store *store;
    struct id_set ids;
    struct ancestor *commits; /* by index in ids */
    size_t commit_capacity;
    git_oid *parents;
    size_t parent_count, parent_capacity;
    struct id_set shallow;
};

#define AUTO_ANCESTRY(name) __attribute__((cleanup(ancestry_release))) struct ancestry name = {0}
MUST_CHECK int ancestry_init(struct ancestry *out, struct store *store);
void ancestry_release(struct ancestry *ancestry);

/* The commit's index; it was read. E_CORRUPT where it is damaged or missing. */
MUST_CHECK int ancestry_read(size_t *out_index, struct ancestry *ancestry, const git_oid *id);

/* Is `old` among what any of `tips` reaches, the tips included? */
MUST_CHECK int ancestry_reaches(
    bool *out,
    struct ancestry *ancestry,
    const struct commit_id *tips,
    size_t tip_count,
    const struct commit_id *old
);

/* The ids that .vera/shallow lists; none in a whole repository. */
MUST_CHECK int shallow_read(struct id_set *out, struct store *store);

/* E_UNSUPPORTED, with a hint, in a shallow clone. */
MUST_CHECK int shallow_refuse(struct store *store);

#endif

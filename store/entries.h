/* The entries of a version's trees. What is read has each one that the format names, once, with its
   mode, and no other. */
#ifndef STORE_ENTRIES_H
#define STORE_ENTRIES_H

#include "store/internal.h"

/* An entry that a tree may have. */
struct entry {
    const char *name;
    bool is_tree, required;
    bool found;
    git_oid id;
};

/* Find them in the tree: exactly these, but for those that are not required. E_CORRUPT naming what
   does not belong there. */
MUST_CHECK int
entries_read(struct entry *entries, size_t count, struct store *store, const git_oid *id);

/* The blob of an entry that was found. */
MUST_CHECK int
entry_read(struct buf *out, struct store *store, const struct entry *entry, uint64_t limit);

/* E_CORRUPT: "tree <id>: '<name>' <why>". */
MUST_CHECK int entry_error(const git_oid *tree, const char *name, const char *why);

/* An entry of a tree that is written. */
struct tree_entry {
    const char *name;
    bool is_tree;
    git_oid id;
};

/* The tree of these, which are put into git's order. */
MUST_CHECK int tree_write(
    git_oid *out,
    struct objects *objects,
    struct store *store,
    struct tree_entry *entries,
    size_t count
);

#endif

/* What the files of store/ ask about refs: names, tips, HEAD. */
#ifndef STORE_REFS_H
#define STORE_REFS_H

#include "store/internal.h"

#define REF_REMOTES "refs/remotes/"

/* Every ref below `prefix`, in byte order of name, symbolic ones left out (a clone's
   refs/remotes/origin/HEAD). `target` is what is written in it: a commit, or an annotated tag.
   `visit` may stop the walk with an error. */
MUST_CHECK int refs_each(
    struct store *store,
    const char *prefix,
    int (*visit)(void *context, const char *name, const git_oid *target),
    void *context
);

/* Where a ref points. *found false where there is none; E_CORRUPT for one that cannot be read,
   E_UNSUPPORTED for a symbolic one. */
MUST_CHECK int ref_read(bool *found, git_oid *out, struct store *store, const char *name);

/* The commit that an object is, or that a tag leads to. E_INVALID where it is something else. */
MUST_CHECK int commit_peel(git_oid *out, struct store *store, const git_oid *id);

/* The commits that refs lead to, each once. Tags of something else are left out. */
enum {
    TIPS_REFS = 1,    /* branches, tags, remote branches */
    TIPS_HEAD = 2,    /* HEAD where it is detached */
    TIPS_DELETED = 4, /* the trash */
    TIPS_ALL = 7,
};
struct tips {
    struct commit_id *commits;
    size_t count, capacity;
};
#define AUTO_TIPS(name) __attribute__((cleanup(tips_release))) struct tips name = {0}
MUST_CHECK int tips_read(struct tips *out, struct store *store, unsigned which);
void tips_release(struct tips *tips);

/* What follows the time in refs/vera/trash/<time>/<name>, and the time; NULL where the ref is not
   named so. */
const char *trash_parse(time_t *out_time, const char *ref);

#endif

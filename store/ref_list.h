/* Every ref below a prefix, read from the repository's files at once: libgit2's own iteration looks
   at the file of each ref five times before it opens it. */
#ifndef STORE_REF_LIST_H
#define STORE_REF_LIST_H

#include "store/internal.h"

struct ref_list {
    struct ref_entry {
        char *name; /* "refs/heads/main" */
        git_oid target;
        bool is_symbolic; /* then it has no target */
        bool is_packed;   /* only in packed-refs */
    } * refs;
    size_t count, capacity;
};
#define AUTO_REF_LIST(name) __attribute__((cleanup(ref_list_release))) struct ref_list name = {0}
void ref_list_release(struct ref_list *list);

/* In byte order of name, each once. `prefix` ends with a slash. Files whose name or contents git
   does not take for a ref are left out. E_CORRUPT where packed-refs is damaged. */
MUST_CHECK int ref_list_read(struct ref_list *out, struct store *store, const char *prefix);

#endif

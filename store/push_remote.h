/* What `vera push` asks for: names of branches and tags, and a remote's name or a URL. */
#ifndef STORE_PUSH_REMOTE_H
#define STORE_PUSH_REMOTE_H

#include "store/push.h"

struct push_wish {
    const char *remote; /* a configured one's name, or a URL; NULL: that of the current branch's
                           upstream, else "origin" */
    const char *const *names; /* branches, else tags; none: the current branch, where neither
                                 `branches` nor `tags` says more */
    size_t name_count;
    bool branches, tags; /* all of them */
    bool force, is_deletion;
    struct progress *progress;
};

struct pushed {
    struct push_ref *refs; /* each with its status */
    size_t count, capacity;
    struct push_result sent;
    char *url; /* as it may be shown */
};

#define AUTO_PUSHED(name) __attribute__((cleanup(pushed_release))) struct pushed name = {0}
void pushed_release(struct pushed *pushed);

/* push_send(), and what is now there noted in refs/remotes/, and as the upstream of a branch that
   has none. `out` is filled also where E_CONFLICT is returned: each ref has its status then. Other
   errors: push_send()'s, remote_find()'s; E_NOTFOUND for a name that is neither branch nor tag;
   E_INVALID where HEAD is on no branch. */
MUST_CHECK int store_push(struct pushed *out, struct store *store, const struct push_wish *wish);

#endif

/* What a push will do with each ref, once it is known what is there. See push.h. */
#ifndef STORE_PUSH_PLAN_H
#define STORE_PUSH_PLAN_H

#include "store/ancestry.h"
#include "store/push.h"

/* Set each ref's `new` to what ours leads to. E_NOTFOUND. */
MUST_CHECK int push_ours(struct store *store, struct push_ref *refs, size_t count);

/* With has_old and old set: the status. *refused counts those that are not to be. */
MUST_CHECK int
push_judge(size_t *refused, struct store *store, struct push_ref *refs, size_t count);

/* The error of refused ones, each a line. */
MUST_CHECK int push_refused(const char *url, const struct push_ref *refs, size_t count);

MUST_CHECK int push_why(struct push_ref *ref, const char *why);

/* push_path.c: to a repository on this machine. */
MUST_CHECK int
push_to_path(struct push_result *out, struct store *store, const struct push_request *request);

#endif

/*
 * Remotes are git's own: `remote.NAME.url` and `remote.NAME.fetch` of the configuration, and what
 * was seen there in refs/remotes/NAME/. (git_remote_lookup() of libgit2 1.5 leaks, so the
 * configuration is read here.)
 */
#ifndef STORE_REMOTE_H
#define STORE_REMOTE_H

#include "store/internal.h"

#define REMOTE_DEFAULT "origin"

struct remote {
    char *name, *url;
    char **specs; /* "+refs/heads/main:refs/remotes/origin/main", with stars or without */
    size_t spec_count;
    bool no_tags; /* tagOpt = --no-tags */
};
struct remotes {
    struct remote *list; /* by name */
    size_t count, capacity;
};
#define AUTO_REMOTE(name)  __attribute__((cleanup(remote_release))) struct remote name = {0}
#define AUTO_REMOTES(name) __attribute__((cleanup(remotes_release))) struct remotes name = {0}
void remote_release(struct remote *remote);
void remotes_release(struct remotes *remotes);

/* Those that have a URL, wherever they are configured. */
MUST_CHECK int store_remotes(struct remotes *out, struct store *store);

/* E_NOTFOUND, with the nearest name or how to add one. `spec_count` may be 0. */
MUST_CHECK int remote_find(struct remote *out, struct store *store, const char *name);

/* A path becomes absolute: it means the same from everywhere. A secret in the URL is not stored.
   E_EXISTS; E_INVALID for a name that
   can be none of a folder below refs/remotes, or a URL of no kind that we know. */
MUST_CHECK int store_remote_add(struct store *store, const char *name, const char *url);
/* What is fetched from there from now on: this branch alone, and no tags. */
MUST_CHECK int remote_narrow(struct store *store, const char *name, const char *branch);
/* With what was seen there (refs/remotes/NAME/) and the upstreams of branches that are there.
   E_NOTFOUND. `url`: what it was, owned by the caller. */
MUST_CHECK int store_remote_remove(char **url, struct store *store, const char *name);

/* A URL as it is stored and used: paths absolute. E_INVALID, E_UNSUPPORTED (a scheme). */
MUST_CHECK int remote_url_make(char **out, const char *url);

/* Where a branch of ours comes from: names a remote ("origin") and a branch there ("main"), both
   owned by the caller, NULL where there is none. */
MUST_CHECK int upstream_find(char **remote, char **merge, struct store *store, const char *branch);
MUST_CHECK int
upstream_set(struct store *store, const char *branch, const char *remote, const char *merge);

#endif

/*
 * Who we are to a server, and whether the server is the right one, for libgit2.
 *
 * ssh: keys that the user named, the agent's, the usual files; the host's key must be in
 * known_hosts. http and https: the address, VERA_TOKEN, ~/.netrc, git's credential helpers; the
 * certificate must lead to one that the system, or http.sslCAInfo, GIT_SSL_CAINFO or SSL_CERT_FILE,
 * trusts. Each is tried once; nothing turns these checks off. libgit2 follows redirects on one host
 * only, so that nobody else is asked for, or given, a secret.
 *
 * Codes: E_INVALID: no credentials, or none that the server takes; trying again changes nothing.
 * E_CONFLICT: a host key or a certificate is not the one that it must be.
 */
#ifndef STORE_CREDENTIALS_H
#define STORE_CREDENTIALS_H

#include <git2.h>

#include "store/url.h"

struct credentials;

/* For one connection to `url` (a path will do, too: then there is nothing to decide), and, where
   `remote` is not NULL, what libgit2 opens it with, in `repo`: there url.X.insteadOf counts, as in
   git. Each is the caller's to free. */
MUST_CHECK int credentials_new(struct credentials **out, const char *url);
MUST_CHECK int credentials_remote(
    struct credentials **out, git_remote **remote, git_repository *repo, const char *url
);
void credentials_free(struct credentials *credentials);
#define AUTO_CREDENTIALS(name)                                                                     \
    __attribute__((cleanup(credentials_release))) struct credentials *name = NULL
void credentials_release(struct credentials **credentials);

/* What libgit2 connects to: without the secret, and for ssh where the user's configuration leads.
 */
const char *credentials_url(const struct credentials *credentials);
/* For messages. */
const char *credentials_shown(const struct credentials *credentials);

/* Sets callbacks, redirects, and, for https, the proxy of configuration and
   environment. The callbacks' payload
   must point to a struct that begins with the pointer to these credentials: libgit2 has one payload
   for all callbacks. */
void credentials_connect(git_remote_connect_options *options);
void credentials_fetch(git_fetch_options *options);
void credentials_push(git_push_options *options);

/* The connection stands: a helper may keep what it gave. */
void credentials_accepted(struct credentials *credentials);

/* A call of libgit2 failed with `code`: the error where it is one of these (or of a redirect), else
   0, and git_failed() has the words. */
MUST_CHECK int credentials_failed(struct credentials *credentials, int code);

/* The file of certificates that the user named, owned by the caller; NULL: the system's. Never a
   repository's configuration. */
MUST_CHECK int authority_find(char **out);

#endif

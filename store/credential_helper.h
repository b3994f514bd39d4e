/*
 * git's own credential helpers: stores of the desktop, caches, `git credential-store`. They are
 * asked through "git credential", which reads the user's and the system's configuration and here
 * never a repository's: that could name a program of somebody else's. Git asks on the terminal
 * where no helper knows; without one it does not (GIT_TERMINAL_PROMPT=0) and stays silent.
 */
#ifndef STORE_CREDENTIAL_HELPER_H
#define STORE_CREDENTIAL_HELPER_H

#include "store/login.h"

/* *found false where no helper knows. E_NOTFOUND where git is not installed. */
MUST_CHECK int credential_fill(bool *found, struct login *out, const struct url *url);

/* Tell the helpers that the server took it (they may keep it), or not (they forget it). What they
   make of it is theirs. */
void credential_approve(const struct url *url, const struct login *login);
void credential_reject(const struct url *url, const struct login *login);

#endif

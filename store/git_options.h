/*
 * What the program git is told, so that it is as strict as we are and uses what a connection of
 * ours found: the same credentials, through a helper that knows them for that one host,
 * certificates that are always checked, no host key that is not known, no question. No secret is on
 * its command line.
 */
#ifndef STORE_GIT_OPTIONS_H
#define STORE_GIT_OPTIONS_H

#include "store/credentials.h"

/* Append options for before git's command, each ended by a NUL, and count them. */
MUST_CHECK int git_options(struct buf *out, size_t *count, const struct credentials *credentials);

/* The address to give to git. */
const char *git_address(const struct credentials *credentials);

/* In the process that becomes git: its environment. */
void git_environment(const struct credentials *credentials);

#endif

/*
 * ~/.netrc, as curl and ftp read it: "machine HOST login USER password SECRET", over any number of
 * lines, "default" for every other host, "macdef" up to an empty line; "…" around what holds
 * spaces, with \" \\ \n \r \t; '#' begins a comment where a word could stand. Anything else is
 * refused, by its line, and so is a file that others may read.
 */
#ifndef STORE_NETRC_H
#define STORE_NETRC_H

#include "store/login.h"

/* The first entry for this host (and user, where that is not NULL). *found false where there is
   none, or no file. E_INVALID, E_IO. */
MUST_CHECK int netrc_find(bool *found, struct login *out, const char *host, const char *user);
/* The same in its text. */
MUST_CHECK int
netrc_parse(bool *found, struct login *out, struct bytes text, const char *host, const char *user);

#endif

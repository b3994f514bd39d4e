/* Finding versions by the digits that an id begins with. */
#ifndef STORE_FIND_H
#define STORE_FIND_H

#include "store/internal.h"

#define ID_DIGITS_MIN 6
#define SNAPSHOT_MARK "sha256:"

/* The object whose id these digits are or begin; where several begin so, the one commit or tag
   among them. *found false for fewer than ID_DIGITS_MIN digits, or other text. E_INVALID, with the
   candidates, where there are more. */
MUST_CHECK int id_find(bool *found, git_oid *out, struct store *store, const char *digits);

/* The newest commit whose snapshot's id these digits are or begin: among what refs reach, then
   among what was deleted. E_NOTFOUND; E_INVALID for other text, and, with the candidates, where
   several snapshots' ids begin so. */
MUST_CHECK int snapshot_find(git_oid *out, struct store *store, const char *digits);

/* Is the text hex digits only? */
bool is_hex(const char *text);

#endif

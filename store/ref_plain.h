/* Moving one branch that is a file of its own. Only for refs_move.c. */
#ifndef STORE_REF_PLAIN_H
#define STORE_REF_PLAIN_H

#include "store/internal.h"

/* One change under the refs lock, its name noted: compare, write the reflogs, move, all synced.
   *done false, and nothing is touched, where it is not so plain: anything but the new tip of a
   branch whose folders are there. */
MUST_CHECK int ref_move_plain(
    bool *done, struct store *store, const struct ref_change *change, const char *message
);

/* refs_move.c: E_CONFLICT where the ref is not at `old`. */
MUST_CHECK int change_compare(struct store *store, const struct ref_change *change);
/* A moment, since another holds the ref's lock file; E_CONFLICT where that took too long. */
MUST_CHECK int ref_wait(unsigned *waited_ms, struct store *store, const char *name);

#endif

/* All refs in one file, as git has it. */
#ifndef STORE_PACKED_REFS_H
#define STORE_PACKED_REFS_H

#include "store/internal.h"

/* Write packed-refs anew with every ref in it, and remove the files of refs that say the same. Time
   is n log n in the number of refs (libgit2's own compression is quadratic). E_CONFLICT where a git
   holds packed-refs. Killed anywhere, every ref is where it was. */
MUST_CHECK int refs_pack(struct store *store);

#endif

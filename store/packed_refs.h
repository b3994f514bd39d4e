/* All refs in one file, as git has it. */
#ifndef STORE_PACKED_REFS_H
#define STORE_PACKED_REFS_H

#include "store/internal.h"

/* Write packed-refs anew with every ref in it, and remove the files of refs that say the same; refs
   of the trash that are older than `before` go altogether. Time is n log n in the number of refs
   (libgit2 packs refs in quadratic time, and removes each by itself). E_CONFLICT where a git holds
   packed-refs. Killed anywhere, every ref is where it was, or gone if it was to go. */
MUST_CHECK int refs_pack(struct store *store, int64_t before);

#endif

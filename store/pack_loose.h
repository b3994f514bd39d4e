/*
 * Loose objects go into packs by themselves: after a commit that finds many. Those that refs reach
 * through loose ones, no others: what nothing reaches must keep its age, and what a git has packed
 * needs no walk. Packs are joined so that each is at least twice as large as all smaller ones
 * together; so their number grows with the logarithm of the versions', and a version is copied as
 * many times.
 */
#ifndef STORE_PACK_LOOSE_H
#define STORE_PACK_LOOSE_H

#include "store/internal.h"

#define LOOSE_MAX 512

/* Best effort, and nothing at once where another packs: what fails is tried again by the next
   commit. Beside writers and readers; killed anywhere, nothing is lost. */
void loose_pack(struct store *store);

#endif

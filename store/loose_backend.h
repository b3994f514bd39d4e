/*
 * Reading loose objects for libgit2. Its own code (1.5) trusts the size in an object's header:
 * where the contents are longer it writes behind the memory that it took, where they are shorter it
 * may read on for ever. So objects are read by store/loose.c, and the rest is left to libgit2.
 */
#ifndef STORE_LOOSE_BACKEND_H
#define STORE_LOOSE_BACKEND_H

#include "store/internal.h"

/* The objects of a repository, loose and packed, and of those that it borrows from
   (objects/info/alternates). `path`: of its folder `objects`. The caller frees it. */
MUST_CHECK int odb_open(git_odb **out, const char *path);

#endif

/*
 * Packs: many objects in one file, as git has them. A pack is written by libgit2, synced, and read
 * back object by object before anyone relies on it.
 */
#ifndef STORE_PACK_H
#define STORE_PACK_H

#include "store/id_set.h"

struct pack {
    char *name;   /* "pack-<40 hex>" */
    bool is_kept; /* a .keep lies beside it: not ours to remove */
    struct id_set ids;
};

struct packs {
    struct pack *packs;
    size_t count;
};

#define AUTO_PACKS(name) __attribute__((cleanup(packs_release))) struct packs name = {0}
/* Every pack that has an index, with the ids in it. */
MUST_CHECK int packs_read(struct packs *out, struct store *store);
void packs_release(struct packs *packs);

/* One pack of these objects; its name is owned by the caller. It is durable, and every object was
   read from it and has its id. A pack of the same objects that is there already is taken for it. */
MUST_CHECK int pack_write(char **out_name, struct store *store, const git_oid *ids, size_t count);

/* Remove a pack, its index first. */
MUST_CHECK int pack_remove(struct store *store, const char *name);

/* When it was written, in seconds since the epoch. */
MUST_CHECK int pack_time(int64_t *out, struct store *store, const char *name);

/* The ids of all loose objects. */
MUST_CHECK int loose_read(struct id_set *out, struct store *store);

#endif

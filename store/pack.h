/*
 * Packs: many objects in one file, as git has them. A pack is written beside the others, where
 * nobody looks for one, synced, and read back object by object; only then it gets its name and
 * others see it. So no pack that anyone sees is in the making, whatever happens.
 */
#ifndef STORE_PACK_H
#define STORE_PACK_H

#include "store/id_set.h"

struct pack {
    char *name;        /* "pack-<40 hex>" */
    bool is_kept;      /* not ours to change: a .keep or a .promisor lies beside it */
    bool is_cruft;     /* of what nothing reaches, each object with its own time */
    int64_t time;      /* when it was written, in seconds since the epoch */
    uint64_t bytes;    /* of the pack alone */
    struct id_set ids; /* in order of id */
    uint32_t *times;   /* of a cruft pack, by index in ids; else NULL */
};

struct packs {
    struct pack *packs;
    size_t count;
};

#define AUTO_PACKS(name) __attribute__((cleanup(packs_release))) struct packs name = {0}
/* Every pack that has an index and is whole, with the ids in it. */
MUST_CHECK int packs_read(struct packs *out, struct store *store);
void packs_release(struct packs *packs);

/* When an object of it was last of use. */
int64_t pack_object_time(const struct pack *pack, size_t index);

/* What goes into a pack. */
struct pack_objects {
    struct id_set ids;
    const char **names; /* a tree's, by which similar objects are found; NULL: none has one */
    uint32_t *times;    /* makes it a cruft pack; else NULL */
};

/* One pack of these objects, at least one; its name is owned by the caller. It is durable, and
   every object was read from it and has its id. Needs lock_pack(). E_CORRUPT where one is damaged
   or missing. */
MUST_CHECK int pack_write(
    char **out_name,
    struct store *store,
    const struct pack_objects *objects,
    struct progress *progress
);

/* These objects are in the pack, and have their ids: E_CORRUPT. */
MUST_CHECK int pack_check(struct store *store, const char *name, const struct id_set *ids);

/* One pack of all that these hold, which have no object in common, copied as it is there: their
   SHA-1s are compared. They stay. */
MUST_CHECK int
pack_join(char **out_name, struct store *store, const struct pack *const *packs, size_t count);

/* Remove a pack, its index first. */
MUST_CHECK int pack_remove(struct store *store, const char *name);

/* Remove what a process that was killed has left of a pack in the making. Needs lock_pack(). */
MUST_CHECK int pack_clean(struct store *store);

/* The ids of all loose objects. */
MUST_CHECK int loose_read(struct id_set *out, struct store *store);

#endif

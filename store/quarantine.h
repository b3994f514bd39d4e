/*
 * Where objects from elsewhere arrive: a bare repository inside ours that borrows our objects and
 * names our refs, so that a transfer brings only what we lack, and in which everything is looked at
 * before any of it is ours. What is left of it when its process has died goes the next time one is
 * made, or with git's own gc.
 */
#ifndef STORE_QUARANTINE_H
#define STORE_QUARANTINE_H

#include "store/id_set.h"

struct quarantine {
    char *path; /* absolute; NULL once it is gone */
    int lock;   /* tells others that its process lives */
};

#define AUTO_QUARANTINE(name)                                                                      \
    __attribute__((cleanup(quarantine_release))) struct quarantine name = {.lock = -1}

/* Remove what dead processes have left. */
MUST_CHECK int quarantine_clean(struct store *store);

/* E_IO where ours cannot be written. */
MUST_CHECK int quarantine_make(struct quarantine *out, struct store *store);

/* Removes it and all that is in it. */
void quarantine_release(struct quarantine *quarantine);

/* The ids of every object that arrived. */
MUST_CHECK int quarantine_objects(struct id_set *out, struct store *quarantined);

/* Its packs become ours, durably, index last, and where its histories end. Nothing leads to them
   yet. */
MUST_CHECK int quarantine_admit(struct quarantine *quarantine, struct store *store);

#endif
